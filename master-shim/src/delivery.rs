//! Publishes one MoM's publications on the lower master: opened, checked, one after the other.
//!
//! One task per upstream. It owns the cursor; it is the only one that publishes jobs from above.
//!
//! ```text
//! link task ──Due──► DeliveryTask ──► frames, open, job records ──► begun ──► lower master 4506 ──► ack, done, cursor
//! ```
//! - One publication at a time: the lower master gets them in the MoM's order. What has queued up is looked at and
//!   recorded together, so that a burst costs few writes.
//! - On disk stands `begun` before a job is published and `done` after it; the cursor moves behind that. What was begun
//!   and not done when the process died is looked for in the lower master's job cache.
//! - The cursor moves only when a publication is published, or will never be: expired, a loop, known here, unusable.
//! - Nothing is published without the lease of this site.

use std::{sync::Arc, time::Duration};

use daemon_kit::{CancellationToken, steady_millis};
use relay_core::{
    entry::{EntryId, Publication as Entry},
    redelivery::Policy,
};
use salt_link::salt_config::MasterId;
use salt_wire::{ids::MinionId, publication::PublicationLoad, saltway::NotPublished};
use tokio::sync::mpsc;

use self::{
    job::{Job, asked_about, means_site},
    latest::Latest,
    opener::Opener,
    publisher::{Next, Outcome, Permit},
    records::Records,
};
use crate::{
    config::{AnswerAsSite, ReceiptsConfig},
    cursor::Cursor,
    link::Due,
    probe::MinionWatch,
    receipts::{Follow, for_minions},
    roster::Roster,
    site::Message,
    skew::Skew,
    telemetry::Telemetry,
    tenure::Tenure,
    upstream::{self, Lanes},
};

pub(crate) use self::publisher::Publisher;

mod by_hand;
mod intake;
mod job;
mod latest;
mod opener;
mod publisher;
pub(crate) mod records;
mod ttl;

/// Publications looked at and recorded together.
const BATCH_MAX: usize = 64;

/// How often a gap in the MoM's serials is looked at that may still close.
const GAP_INTERVAL: Duration = Duration::from_secs(1);

/// Job records looked at for what a lower master took before it died, and came back within.
const LATEST_WITHIN_MS: u64 = 60 * 60 * 1000;

/// Publications handed to the request socket at once; it still sends one at a time.
const BURST_MAX: usize = 32;

/// What has less to live is not begun: its answer would come too late, and nobody could say whether it ran.
const LEAST_LEFT: Duration = Duration::from_millis(100);

/// What expires sooner is published singly, with a look at its age right before.
const SHORTEST_LIFE: Duration = Duration::from_secs(2);

/// How long the publish under way may take at the end. After that the job cache tells whether it was carried out.
const LAST_PUBLISH_MAX: Duration = Duration::from_secs(2);

/// What the task is made of.
pub(crate) struct DeliveryParts {
    /// Index of the MoM in `syndic_master`.
    pub(crate) upstream: usize,
    /// The site's own id.
    pub(crate) id: MinionId,
    /// The lower master's `master_id`, by which loops are seen.
    pub(crate) master_id: Option<MasterId>,
    /// Whether an unsigned publication is refused (`sign_pub_messages` of the syndic).
    pub(crate) signature_required: bool,
    /// Whether to answer for the site's own id.
    pub(crate) answer_as_site: AnswerAsSite,
    /// A publication older than this is not run.
    pub(crate) job_ttl: Duration,
    /// From the link task.
    pub(crate) due: mpsc::Receiver<Due>,
    /// To the site task.
    pub(crate) site: mpsc::Sender<Message>,
    /// For acks.
    pub(crate) lanes: Lanes,
    /// Where to publish.
    pub(crate) publisher: Publisher,
    /// Whether this shim may publish.
    pub(crate) tenure: Tenure,
    /// Whether a salt-minion of the site's id runs on this host.
    pub(crate) minion: Arc<MinionWatch>,
    /// The lower master's minions.
    pub(crate) roster: Roster,
    /// What is done about minions that do not get their jobs.
    pub(crate) receipts: ReceiptsConfig,
    /// The clocks' difference.
    pub(crate) skew: Arc<Skew>,
    /// Counts and logs.
    pub(crate) telemetry: Telemetry,
}

/// The task; see the module's head.
pub(crate) struct DeliveryTask {
    parts: DeliveryParts,
    cursor: Cursor,
    opener: Opener,
    records: Records,
    latest: Latest,
}

impl DeliveryTask {
    /// A task that goes on behind `cursor`.
    pub(crate) fn new(parts: DeliveryParts, cursor: Cursor, records: Records) -> Self {
        let opener = Opener::new(
            Arc::clone(parts.lanes.session()),
            parts.signature_required,
            parts.telemetry.clone(),
        );
        Self {
            parts,
            cursor,
            opener,
            records,
            latest: Latest::default(),
        }
    }

    /// Runs until `shutdown`; a publication that waits then for the lower master or the MoM stays for the next start.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut restarts = self.parts.publisher.master.restarts();
        loop {
            batch.clear();
            let awaits_late_ones = self.opener.awaits_late_ones();
            let received = tokio::select! {
                biased;
                () = shutdown.cancelled() => 0,
                received = self.parts.due.recv_many(&mut batch, BATCH_MAX) => received,
                Ok(()) = restarts.changed() => {
                    let died_at = *restarts.borrow_and_update();
                    if let Some(died_at) = died_at {
                        self.publish_latest_again(died_at, &shutdown).await;
                    }
                    continue;
                }
                () = tokio::time::sleep(GAP_INTERVAL), if awaits_late_ones => {
                    self.opener.count_lost();
                    continue;
                }
            };
            if received == 0 {
                break;
            }
            self.deliver(std::mem::take(&mut batch), &shutdown).await;
            self.parts.telemetry.deliveries_queue(self.parts.due.len());
        }
        self.records.flush().await;
        if let Err(err) = self.cursor.sync() {
            self.parts.telemetry.cursor_not_written(&err);
        }
    }

    /// Delivers a batch. What `shutdown` interrupts keeps the cursor before it; the publication at hand gets a moment.
    async fn deliver(&mut self, batch: Vec<Due>, shutdown: &CancellationToken) {
        let Some(fence) = batch.last().map(|due| due.fence) else {
            return;
        };
        let tenure = self.parts.tenure.clone();
        let ends = async {
            shutdown.cancelled().await;
            tokio::time::sleep(LAST_PUBLISH_MAX).await;
        };
        let batch: Vec<Due> = batch.into_iter().filter(|due| due.fence == fence).collect();
        let last = batch.iter().map(Due::entry_id).max();
        tokio::select! {
            biased;
            whole = self.deliver_within(batch, fence, shutdown) => if !whole { return },
            () = ends => return,
            // Another shim of this site goes on from its position; ours is read again from there when it is our turn.
            () = tenure.ended(fence) => return,
        }
        self.records.flush().await;
        if let Some(last) = last {
            self.advance(last);
        }
    }

    fn advance(&mut self, entry_id: EntryId) {
        // A link that began anew in a new tenure may go over entries that are done.
        if self.cursor.entry_id() >= Some(entry_id) {
            return;
        }
        if let Err(err) = self.cursor.advance(entry_id) {
            self.parts.telemetry.cursor_not_written(&err);
        }
        self.parts.tenure.done(entry_id);
    }

    /// False when `shutdown` came before the last one.
    async fn deliver_within(
        &mut self,
        batch: Vec<Due>,
        fence: u64,
        shutdown: &CancellationToken,
    ) -> bool {
        let jobs = self.open_all(batch).await;
        self.records
            .begin(
                self.parts.upstream,
                jobs.iter().map(|job| (&job.part, job.entry.entry_id)),
            )
            .await;
        let jobs = self.without_nobodys(jobs).await;
        let mut rest = jobs.as_slice();
        while !rest.is_empty() {
            if shutdown.is_cancelled() {
                return false;
            }
            let (done, maybe_sent) = self.publish_burst(rest, fence, shutdown).await;
            rest = rest.get(done..).unwrap_or_default();
            // What ended the burst is published by itself.
            if let Some((job, behind)) = rest.split_first() {
                if shutdown.is_cancelled() && !maybe_sent {
                    return false;
                }
                self.publish(job, fence, maybe_sent).await;
                self.parts.tenure.done(job.entry.entry_id);
                rest = behind;
            }
        }
        true
    }

    /// Publishes as many as go without anything unusual, one after the other. Returns how many those were, and whether a
    /// request of the next one may have been carried out.
    async fn publish_burst(
        &mut self,
        jobs: &[Job],
        fence: u64,
        shutdown: &CancellationToken,
    ) -> (usize, bool) {
        let left = |job: &Job| job.ttl.saturating_sub(self.age(&job.entry));
        let live = jobs.iter().take_while(|job| left(job) > SHORTEST_LIFE);
        let live = live.take(BURST_MAX).count();
        let Some(jobs) = jobs.get(..live).filter(|jobs| jobs.len() > 1) else {
            return (0, false);
        };
        let until = steady_millis() + millis(jobs.iter().map(left).min().unwrap_or_default());
        for job in jobs {
            self.announce(job).await;
        }
        let (tenure, ends) = (self.parts.tenure.clone(), shutdown.clone());
        let go_on =
            move || tenure.is_permitted(fence) && steady_millis() < until && !ends.is_cancelled();
        let permit = Permit {
            tenure: &self.parts.tenure,
            fence,
        };
        let loads: Vec<&PublicationLoad> = jobs.iter().map(|job| &job.load).collect();
        let burst = self.parts.publisher.begin_burst(&loads, permit, go_on);
        let Some(mut burst) = burst.await else {
            return (0, false);
        };
        for (done, job) in jobs.iter().enumerate() {
            match burst.next(&job.load).await {
                Next::Published { minions, missing } => {
                    self.took(job, minions, missing).await;
                    self.parts.tenure.done(job.entry.entry_id);
                }
                Next::NoMatch => {
                    self.no_match(job).await;
                    self.parts.tenure.done(job.entry.entry_id);
                }
                Next::Ended { maybe_sent } => return (done, maybe_sent),
            }
        }
        (jobs.len(), false)
    }

    /// The lower master has taken the job.
    async fn took(&mut self, job: &Job, minions: Vec<MinionId>, missing: Vec<String>) {
        self.parts.telemetry.publication_published(
            job.load.jid(),
            minions.len(),
            self.age(&job.entry),
        );
        self.latest.published(job.load.clone());
        self.published(job, minions, missing).await;
    }

    /// The process died between the lower master's publish and the ack, or another shim did: the MoM learns only now whom
    /// it targeted, and returns may have passed unheard.
    async fn recover(&mut self, job: &Job) {
        let minions = self.parts.publisher.job_cache.minions(job.load.jid()).await;
        // Receipts have passed unheard, too: it is not sent again by itself.
        let follow = Follow {
            policy: Policy::Never,
            ..self.follow(job)
        };
        self.announce_as(job, follow).await;
        self.published(job, minions, Vec::new()).await;
        self.records.flush().await;
        self.tell(Message::Recovered).await;
    }

    /// The lower master has taken the job and says that it means none of its minions.
    async fn no_match(&mut self, job: &Job) {
        self.took(job, Vec::new(), Vec::new()).await;
        // An answer to a question about another job is of no use to anybody.
        if asked_about(&job.load).is_none() {
            let why = "it means none of this site's minions".to_owned();
            let age = self.age(&job.entry);
            self.tell_not_published(job.load.jid(), NotPublished::NoMatch, age, why)
                .await;
        }
    }

    async fn publish(&mut self, job: &Job, fence: u64, maybe_sent: bool) {
        let jid = job.load.jid();
        let left = job.ttl.saturating_sub(self.age(&job.entry));
        self.announce(job).await;
        let permit = Permit {
            tenure: &self.parts.tenure,
            fence,
        };
        let outcome = if left < LEAST_LEFT {
            Outcome::Expired
        } else {
            let publisher = &self.parts.publisher;
            publisher.publish(&job.load, left, permit, maybe_sent).await
        };
        match outcome {
            Outcome::Published { minions, missing } => self.took(job, minions, missing).await,
            Outcome::NoMatch => self.no_match(job).await,
            Outcome::Expired => self.expired(job, self.age(&job.entry)).await,
            Outcome::Refused { why } => {
                let age = self.age(&job.entry);
                self.tell_not_published(jid, NotPublished::Refused, age, why)
                    .await;
            }
        }
    }

    /// After a restart of the lower master: what it took just before may not have reached all of its minions.
    async fn publish_latest_again(
        &mut self,
        died_at: tokio::time::Instant,
        shutdown: &CancellationToken,
    ) {
        let since_ms = daemon_kit::unix_millis().saturating_sub(LATEST_WITHIN_MS);
        let latest = self.latest.before(died_at);
        let open = self.records.missing(since_ms).await;
        for load in latest {
            let jid = load.jid().clone();
            let mut missing = open.get(jid.as_str()).cloned().unwrap_or_default();
            missing.retain(|minion| !self.parts.publisher.master.has_started(minion));
            let Some(again) = for_minions(&load, &missing).filter(|_| !missing.is_empty()) else {
                continue;
            };
            let Some(granted) = self.parts.tenure.current() else {
                return;
            };
            if !self.parts.tenure.is_permitted(granted.fence) {
                return;
            }
            // Past its job cache, which keeps the job's own target.
            tokio::select! {
                handed = self.parts.publisher.direct.publish(&again) => match handed {
                    Ok(()) => self.parts.telemetry.published_again(&jid, &missing),
                    Err(err) => self.parts.telemetry.not_published_again(&jid, &err),
                },
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// From now on the lower master's bus may tell of the job.
    async fn announce(&self, job: &Job) {
        self.announce_as(job, self.follow(job)).await;
    }

    async fn announce_as(&self, job: &Job, follow: Follow) {
        self.tell(Message::Publishing {
            jid: job.load.jid().clone(),
            upstream: self.parts.upstream,
            hides_start: job.hides_start,
            follow: Box::new(follow),
        })
        .await;
    }

    /// What may be done about minions that do not get the job.
    fn follow(&self, job: &Job) -> Follow {
        let left = job.ttl.saturating_sub(self.age(&job.entry));
        Follow {
            load: job.load.clone(),
            bytes: job.entry.frame.len(),
            upstream: self.parts.upstream,
            policy: self.parts.receipts.policy(&job.load),
            asked_start_event: self.parts.receipts.asks(&job.load),
            expires_ms: steady_millis().saturating_add(millis(left)),
        }
    }

    /// Tells the MoM whom the lower master targeted, and the site task what to wait for.
    async fn published(&mut self, job: &Job, minions: Vec<MinionId>, mut missing: Vec<String>) {
        let jid = job.load.jid();
        let id = self.parts.id.as_str();
        missing.retain(|name| name != id);
        let means_site = means_site(&job.load, id);
        let answers = means_site && self.answers_for_site(&minions).await;
        let about = asked_about(&job.load).filter(|_| answers);
        let message = Message::Published {
            jid: jid.clone(),
            fun: job.load.functions().join(","),
            minions: minions.iter().map(ToString::to_string).collect(),
            answers_for_site: answers && about.is_none(),
        };
        self.records.done(&job.part, &message);
        if !minions.is_empty() {
            self.parts
                .lanes
                .queue_event(upstream::ack(jid, &minions, &missing))
                .await;
        }
        self.tell(message).await;
        if let Some(about) = about {
            self.tell(Message::Asked {
                about,
                query: jid.clone(),
            })
            .await;
        }
    }

    async fn answers_for_site(&self, minions: &[MinionId]) -> bool {
        match self.parts.answer_as_site {
            AnswerAsSite::Always => true,
            AnswerAsSite::Never => false,
            AnswerAsSite::Auto => {
                !minions.contains(&self.parts.id) && !self.parts.minion.runs().await
            }
        }
    }

    async fn tell(&self, message: Message) {
        // A site task that has ended did so because the daemon ends.
        drop(self.parts.site.send(message).await);
    }

    /// For what has been judged by its age, or is only measured.
    fn age(&self, entry: &Entry) -> Duration {
        self.parts.skew.age(entry).unwrap_or_default()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
