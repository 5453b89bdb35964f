//! Receipts on their way up to one MoM: put together, so that a burst costs few events, and sent soon.
//!
//! Bounded: what is collected goes when it has [`EVENT_BYTES`], so that the events lane, which waits for the disk, holds it back.

use std::collections::{BTreeSet, HashMap};

use salt_wire::{
    ids::{Jid, MinionId},
    saltway::{IdList, JobReceipts, Receipts},
};
use tokio::time::{Duration, Instant};

/// The first receipt after a silence waits this long for others.
const SOON: Duration = Duration::from_millis(2);

/// Between two events to one MoM: half of it is what a receipt waits in a burst. While the MoM is busy the events lane puts several into
/// one request.
const INTERVAL: Duration = Duration::from_millis(20);

/// Bytes of ids in one event: a quarter of what may go, since a jid comes along with each.
const EVENT_BYTES: usize = 128 << 10;

/// Jobs in one event.
const JOBS_MAX: usize = 1_000;

/// How often all minions that give receipts are told: a bridge may have lost its state directory.
const TELL_ALL: Duration = Duration::from_secs(10 * 60);

/// Minions that are known to give receipts; further ones are told once.
const GIVERS_MAX: usize = 200_000;

/// Bytes of a jid and a delay.
const ENTRY_BYTES: usize = 32;

/// See the module's head.
pub(crate) struct Collected {
    site: MinionId,
    /// Minions of which the MoM has not been told.
    gives: Vec<String>,
    givers: BTreeSet<String>,
    all_told_at: Instant,
    jobs: Vec<Job>,
    by_jid: HashMap<Jid, usize>,
    bytes: usize,
    since: Option<Instant>,
    sent_at: Option<Instant>,
}

struct Job {
    jid: Jid,
    minions: Vec<String>,
    after_ms: Vec<Option<u32>>,
}

impl Collected {
    /// Nothing was heard yet.
    pub(crate) fn new(site: MinionId) -> Self {
        Self {
            site,
            gives: Vec::new(),
            givers: BTreeSet::new(),
            all_told_at: Instant::now(),
            jobs: Vec::new(),
            by_jid: HashMap::new(),
            bytes: 0,
            since: None,
            sent_at: None,
        }
    }

    /// A minion is known to give receipts from now on.
    pub(super) fn gives(&mut self, minion: &MinionId) {
        self.gives.push(minion.to_string());
        if self.givers.len() < GIVERS_MAX {
            self.givers.insert(minion.to_string());
        }
        self.grown(minion.as_str().len());
    }

    /// A minion got a job, so long after its publication.
    pub(super) fn add(&mut self, jid: &Jid, minion: &MinionId, after_ms: Option<u32>) {
        let jobs = &mut self.jobs;
        let index = *self.by_jid.entry(jid.clone()).or_insert_with(|| {
            jobs.push(Job {
                jid: jid.clone(),
                minions: Vec::new(),
                after_ms: Vec::new(),
            });
            jobs.len() - 1
        });
        if let Some(job) = self.jobs.get_mut(index) {
            job.minions.push(minion.to_string());
            job.after_ms.push(after_ms);
        }
        self.grown(minion.as_str().len() + ENTRY_BYTES);
    }

    fn grown(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.since = self.since.or_else(|| Some(Instant::now()));
    }

    /// Whether any minion is known to give receipts.
    pub(super) fn knows_givers(&self) -> bool {
        !self.givers.is_empty()
    }

    /// When it is to be sent.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let all = (!self.givers.is_empty()).then(|| self.all_told_at + TELL_ALL);
        let due = self.since.map(|since| {
            if self.bytes >= EVENT_BYTES {
                return since;
            }
            let soon = since + SOON;
            self.sent_at.map_or(soon, |sent| soon.max(sent + INTERVAL))
        });
        [all, due].into_iter().flatten().min()
    }

    /// What is to be sent by now.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Receipts> {
        if self.due_at().is_none_or(|due| now < due) {
            return Vec::new();
        }
        if now >= self.all_told_at + TELL_ALL {
            self.all_told_at = now;
            self.gives = self.givers.iter().cloned().collect();
        }
        self.since = None;
        self.sent_at = Some(now);
        self.bytes = 0;
        self.by_jid.clear();
        let mut events = Events::new(&self.site);
        for minion in std::mem::take(&mut self.gives) {
            events.gives(minion);
        }
        for job in std::mem::take(&mut self.jobs) {
            events.job(job);
        }
        events.finish()
    }
}

/// Cuts what is sent into events of a bounded size.
struct Events<'a> {
    site: &'a MinionId,
    done: Vec<Receipts>,
    gives: Vec<String>,
    jobs: Vec<JobReceipts>,
    bytes: usize,
}

impl<'a> Events<'a> {
    fn new(site: &'a MinionId) -> Self {
        Self {
            site,
            done: Vec::new(),
            gives: Vec::new(),
            jobs: Vec::new(),
            bytes: 0,
        }
    }

    fn gives(&mut self, minion: String) {
        self.make_room(minion.len());
        self.gives.push(minion);
    }

    fn job(&mut self, job: Job) {
        let mut minions: Vec<String> = Vec::new();
        let mut delays = Vec::new();
        for (minion, after_ms) in job.minions.into_iter().zip(job.after_ms) {
            let bytes = minion.len() + ENTRY_BYTES;
            if self.bytes + bytes > EVENT_BYTES && !minions.is_empty() {
                self.push(&job.jid, &mut minions, &mut delays);
            }
            self.make_room(bytes);
            minions.push(minion);
            delays.push(after_ms);
        }
        self.push(&job.jid, &mut minions, &mut delays);
    }

    fn push(&mut self, jid: &Jid, minions: &mut Vec<String>, delays: &mut Vec<Option<u32>>) {
        let names = std::mem::take(minions);
        let after_ms = std::mem::take(delays);
        // The names are of minions whose ids were checked.
        if let Ok(minions) = IdList::new(names.iter().map(String::as_str)) {
            self.jobs.push(JobReceipts {
                jid: jid.clone(),
                minions,
                after_ms,
            });
        }
        if self.jobs.len() >= JOBS_MAX {
            self.cut();
        }
    }

    fn make_room(&mut self, bytes: usize) {
        if self.bytes + bytes > EVENT_BYTES {
            self.cut();
        }
        self.bytes += bytes;
    }

    fn cut(&mut self) {
        self.bytes = 0;
        let gives = std::mem::take(&mut self.gives);
        let jobs = std::mem::take(&mut self.jobs);
        if gives.is_empty() && jobs.is_empty() {
            return;
        }
        if let Ok(gives) = IdList::new(gives.iter().map(String::as_str)) {
            self.done.push(Receipts {
                site: self.site.clone(),
                gives,
                jobs,
            });
        }
    }

    fn finish(mut self) -> Vec<Receipts> {
        self.cut();
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected() -> Collected {
        Collected::new("site1".parse().expect("an id"))
    }

    fn minion(number: usize) -> MinionId {
        format!("minion-{number:06}.example.com")
            .parse()
            .expect("an id")
    }

    fn jid(number: usize) -> Jid {
        format!("2026112120{number:010}").parse().expect("a jid")
    }

    #[tokio::test(start_paused = true)]
    async fn first_receipt_goes_at_once_and_a_burst_together() {
        let mut collected = collected();
        collected.add(&jid(1), &minion(1), Some(3));
        tokio::time::advance(SOON).await;
        assert_eq!(collected.take(Instant::now()).len(), 1);
        for number in 0..100 {
            collected.add(&jid(number % 2), &minion(number), Some(3));
        }
        tokio::time::advance(SOON).await;
        assert!(
            collected.take(Instant::now()).is_empty(),
            "not so soon again"
        );
        tokio::time::advance(INTERVAL).await;
        let events = collected.take(Instant::now());
        let shape: Vec<usize> = events
            .iter()
            .flat_map(|event| event.jobs.iter().map(|job| job.minions.len()))
            .collect();
        assert_eq!((events.len(), shape), (1, vec![50, 50]));
        assert_eq!(collected.due_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn huge_jobs_are_cut_and_nobody_is_forgotten() {
        let mut collected = collected();
        for number in 0..20_000 {
            collected.gives(&minion(number));
            collected.add(&jid(1), &minion(number), None);
        }
        for number in 0..3_000 {
            collected.add(&jid(number + 2), &minion(1), Some(1));
        }
        let events = collected.take(Instant::now());
        let gives: usize = events.iter().map(|event| event.gives.len()).sum();
        let jobs =
            |event: &Receipts| -> usize { event.jobs.iter().map(|job| job.minions.len()).sum() };
        let cells: usize = events.iter().map(jobs).sum();
        assert_eq!((gives, cells), (20_000, 23_000));
        for event in &events {
            let bytes = salt_wire::msgpack::encode(&event.data(), salt_wire::msgpack::Dialect::New);
            assert!(bytes.len() <= 256 << 10, "{}", bytes.len());
            assert!(event.jobs.len() <= JOBS_MAX);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_give_receipts_are_told_again_each_ten_minutes() {
        let mut collected = collected();
        collected.gives(&minion(1));
        tokio::time::advance(SOON).await;
        assert_eq!(collected.take(Instant::now()).len(), 1);
        tokio::time::advance(TELL_ALL).await;
        let events = collected.take(Instant::now());
        assert_eq!(
            events.iter().map(|event| event.gives.len()).sum::<usize>(),
            1
        );
    }
}
