//! What was promised and what happened, by the world's own time: where every invariant is checked.

use std::collections::{BTreeMap, BTreeSet};

use relay_core::EntryId;

use crate::message::Item;
use crate::mom::Mom;
use crate::plan::Plan;
use crate::redis::{Data, Effect};
use crate::stats::Stats;

/// How far an age may be wrong: the transit of the fastest beat heard, drift, and the way of the
/// request itself.
pub const CLOCK_ERROR_MS: u64 = 5_000;
const VIOLATIONS_MAX: usize = 8;

/// What never may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// In a journal, and neither run nor reported by a living site.
    Undelivered,
    /// A minion ran a job twice.
    RunTwice,
    /// A lower master was given a job again that its job cache knew.
    PublishedTwice,
    /// A request for an expired job was sent.
    LateRun,
    /// A job was reported expired that was not.
    FalseExpiry,
    /// A return in a job cache that the top master never got.
    ReturnLost,
    /// A return left the spool before the top master had it.
    LeftSpoolEarly,
    /// Something is left in a spool of a healthy world.
    NoProgress,
    /// A queue beyond its bound.
    OutOfBounds,
    /// A return was shed although events were there.
    ShedWrongClass,
    /// The cursor passed what was neither published nor will never be.
    CursorAhead,
    /// The master's order was changed though every bridge knew it.
    OutOfOrder,
    /// Two shims of a site believed to be the active one.
    TwoActive,
    /// A frame entered one epoch twice.
    AppendedTwice,
    /// A site's position went back.
    PositionBack,
    /// A shim took up behind what its site had told Redis, and Redis had not forgotten.
    TakeoverBehind,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    lower: usize,
    judged_at: u64,
    at: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) violations: Vec<(Invariant, String)>,
    pub(crate) stats: Stats,
    pub(crate) gaps: u64,
    received: BTreeMap<(usize, u32), u64>,
    /// By frame the bridges whose journal holds it, with the order of their journals.
    pub(crate) journaled: BTreeMap<u32, BTreeMap<usize, u64>>,
    /// The same, with what a power cut has taken.
    pub(crate) ever_journaled: BTreeMap<u32, BTreeMap<usize, u64>>,
    journal_order: u64,
    pub(crate) let_go: BTreeSet<u32>,
    pub(crate) runs: BTreeMap<(usize, u32), Vec<Run>>,
    sent: BTreeSet<(usize, u32)>,
    /// First requests of jobs, by site.
    pub(crate) run_order: BTreeMap<usize, Vec<u32>>,
    executed: BTreeMap<(usize, u32), Vec<u64>>,
    restarts: BTreeMap<usize, Vec<u64>>,
    pub(crate) expired: BTreeSet<(usize, u32)>,
    pub(crate) unopenable: BTreeSet<(usize, u32)>,
    pub(crate) shed: BTreeSet<Item>,
    minions_site: Vec<usize>,
    cache_readable: bool,
    held: BTreeMap<usize, (EntryId, u64)>,
    forgot_at: u64,
    split_brain_until: u64,
    entries: BTreeMap<EntryId, u32>,
    pub(crate) ended: BTreeSet<(usize, u32)>,
    /// The age at hand was guessed: its clock was never heard.
    pub(crate) guesses: bool,
}

impl Book {
    pub(crate) fn new(plan: &Plan) -> Self {
        let site = |minion: &crate::plan::MinionPlan| plan.lowers[minion.lowers[0]].site;
        Self {
            violations: Vec::new(),
            stats: Stats::default(),
            gaps: 0,
            received: BTreeMap::new(),
            journaled: BTreeMap::new(),
            ever_journaled: BTreeMap::new(),
            journal_order: 0,
            let_go: BTreeSet::new(),
            runs: BTreeMap::new(),
            sent: BTreeSet::new(),
            run_order: BTreeMap::new(),
            executed: BTreeMap::new(),
            restarts: BTreeMap::new(),
            expired: BTreeSet::new(),
            unopenable: BTreeSet::new(),
            shed: BTreeSet::new(),
            minions_site: plan.minions.iter().map(site).collect(),
            cache_readable: plan.cache_readable,
            held: BTreeMap::new(),
            forgot_at: 0,
            split_brain_until: 0,
            entries: BTreeMap::new(),
            ended: BTreeSet::new(),
            guesses: false,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.violations.len() >= VIOLATIONS_MAX
    }

    pub(crate) fn violation(&mut self, invariant: Invariant, text: String, now: u64) {
        if !self.is_full() {
            let text = format!("{}.{:03} {text}", now / 1000, now % 1000);
            self.violations.push((invariant, text));
        }
    }

    // Publications on their way down.

    pub(crate) fn received(&mut self, bridge: usize, frame: u32, now: u64) {
        self.received.insert((bridge, frame), now);
    }

    pub(crate) fn received_at(&self, bridge: usize, frame: u32) -> u64 {
        self.received
            .get(&(bridge, frame))
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn journaled(&mut self, bridge: usize, frame: u32) {
        self.journal_order += 1;
        let order = self.journal_order;
        for holders in [&mut self.journaled, &mut self.ever_journaled] {
            holders.entry(frame).or_default().insert(bridge, order);
        }
    }

    pub(crate) fn journal_lost(&mut self, bridge: usize, left: &[u32]) {
        for (frame, holders) in &mut self.journaled {
            if !left.contains(frame) {
                holders.remove(&bridge);
            }
        }
    }

    pub(crate) fn shed_by_bridge(&mut self, frames: impl Iterator<Item = u32>) {
        self.let_go.extend(frames);
    }

    /// A server has taken a write.
    pub(crate) fn written(&mut self, effect: &Effect, data: &Data, now: u64) {
        if let Effect::Add(id, stamped) = effect {
            self.entries.insert(*id, stamped.frame);
            let epoch = EntryId::new(id.epoch, 0)..;
            let same = data
                .stream
                .range(epoch)
                .filter(|(_, other)| other.frame == stamped.frame);
            if same.count() > 1 {
                let text = format!("frame {} again as {id}", stamped.frame);
                self.violation(Invariant::AppendedTwice, text, now);
            }
        }
    }

    pub(crate) fn position(
        &mut self,
        site: usize,
        before: Option<(u64, EntryId)>,
        after: Option<(u64, EntryId)>,
        now: u64,
    ) {
        if before > after {
            let text = format!("site {site}: {before:?} became {after:?}");
            self.violation(Invariant::PositionBack, text, now);
        }
    }

    /// Two primaries one after the other that know nothing of each other: for the time of a lease
    /// both holders may believe.
    pub(crate) fn split_brain(&mut self, now: u64) {
        self.split_brain_until = now + 4_000;
    }

    /// Redis has told a shim that it holds this position.
    pub(crate) fn position_held(&mut self, site: usize, id: EntryId, now: u64) {
        self.held.insert(site, (id, now));
    }

    /// Redis may have forgotten what it said.
    pub(crate) const fn forgot(&mut self, now: u64) {
        self.forgot_at = now;
    }

    /// A shim begins to work behind this id.
    pub(crate) fn took_up(&mut self, site: usize, from: EntryId, now: u64) {
        if let Some((id, since)) = self.held.get(&site).copied()
            && since > self.forgot_at
            && now >= self.split_brain_until
            && from < id
        {
            let text = format!("site {site}: from {from}, though {id} was held since {since}");
            self.violation(Invariant::TakeoverBehind, text, now);
        }
    }

    pub(crate) fn two_active(&mut self, one: usize, other: usize, now: u64) {
        if now < self.split_brain_until {
            self.stats.two_active_excused += 1;
            return;
        }
        let text = format!("shims {one} and {other}");
        self.violation(Invariant::TwoActive, text, now);
    }

    fn misjudged(&mut self, invariant: Invariant, text: String, now: u64) {
        if self.guesses {
            self.stats.misjudged_excused += 1;
        } else {
            self.violation(invariant, text, now);
        }
    }

    /// A publish request is sent.
    pub(crate) fn sent(
        &mut self,
        site: usize,
        frame: (u32, u32),
        age_ms: u64,
        plan: &Plan,
        now: u64,
    ) {
        let (job, frame) = frame;
        if self.sent.insert((site, job)) {
            self.run_order.entry(site).or_default().push(frame);
        }
        if age_ms > plan.ttl_ms + CLOCK_ERROR_MS {
            let text = format!("job {job} at the age of {age_ms} ms");
            self.misjudged(Invariant::LateRun, text, now);
        }
    }

    pub(crate) fn expired(&mut self, site: usize, job: u32, age_ms: u64, plan: &Plan, now: u64) {
        if age_ms + CLOCK_ERROR_MS < plan.ttl_ms {
            let text = format!("job {job} at site {site}, {age_ms} ms old");
            self.misjudged(Invariant::FalseExpiry, text, now);
        }
        if self.expired.insert((site, job)) {
            self.stats.expired += 1;
        }
    }

    pub(crate) fn unopenable(&mut self, site: usize, job: u32) {
        if self.unopenable.insert((site, job)) {
            self.stats.unopenable += 1;
        }
    }

    /// The cursor of a site is about to pass a job.
    pub(crate) fn passed(&mut self, site: usize, job: u32, now: u64) {
        let key = (site, job);
        if !self.runs.contains_key(&key)
            && !self.expired.contains(&key)
            && !self.unopenable.contains(&key)
        {
            let text = format!("site {site} has not published job {job}");
            self.violation(Invariant::CursorAhead, text, now);
        }
    }

    /// A lower master has carried out a publish request.
    pub(crate) fn ran(&mut self, site: usize, lower: usize, job: u32, judged_at: u64, now: u64) {
        let runs = self.runs.entry((site, job)).or_default();
        let before = runs.iter().find(|run| run.lower == lower).copied();
        if runs.is_empty() {
            self.stats.delivered += 1;
            self.stats.ran_late += u64::from(self.expired.contains(&(site, job)));
        }
        runs.push(Run {
            lower,
            judged_at,
            at: now,
        });
        if let Some(before) = before
            && self.cache_readable
            && judged_at > before.at
        {
            let text = format!("job {job} at lower master {lower}, first at {}", before.at);
            self.violation(Invariant::PublishedTwice, text, now);
        }
    }

    /// A minion begins a job.
    pub(crate) fn executed(&mut self, minion: usize, job: u32, now: u64) {
        let times = self.executed.entry((minion, job)).or_default();
        times.push(now);
        if times.len() < 2 {
            return;
        }
        let runs = self.runs.get(&(self.minions_site[minion], job));
        let runs = runs.map_or(&[][..], Vec::as_slice);
        let pairs = || runs.windows(2);
        let two_lowers = pairs().any(|pair| pair[0].lower != pair[1].lower);
        let on_the_way = pairs().any(|pair| pair[1].judged_at <= pair[0].at);
        // Only a minion that forgot, and a master that could not be asked in time.
        let forgot = self
            .restarts
            .get(&minion)
            .is_some_and(|restarts| !restarts.is_empty());
        let excused = match (self.cache_readable, two_lowers, on_the_way) {
            _ if !forgot => None,
            (_, true, _) => Some(&mut self.stats.twice_two_lowers),
            (_, _, true) => Some(&mut self.stats.twice_on_the_way),
            (false, false, false) => Some(&mut self.stats.twice_unreadable),
            (true, false, false) => None,
        };
        if let Some(count) = excused {
            *count += 1;
            return;
        }
        let text = format!("minion {minion}, job {job}: {runs:?}");
        self.violation(Invariant::RunTwice, text, now);
    }

    pub(crate) fn restarted(&mut self, minion: usize, now: u64) {
        self.restarts.entry(minion).or_default().push(now);
    }

    /// The rest of an epoch that a site leaves: it comes again, behind what the site has already.
    pub(crate) fn ended(&mut self, site: usize, from: EntryId, to: EntryId) {
        let frames = self
            .entries
            .range(from..=to)
            .map(|(_, frame)| (site, *frame));
        self.ended.extend(frames);
    }

    // What goes up.

    pub(crate) fn left_spool(&mut self, items: &[Item], mom: &Mom, now: u64) {
        for item in items {
            if !mom.filed.contains_key(item) {
                self.violation(Invariant::LeftSpoolEarly, format!("{item:?}"), now);
            }
        }
    }

    pub(crate) fn shed(&mut self, item: Item, spared_events: bool, now: u64) {
        if matches!(item, Item::Return(..)) && spared_events {
            self.violation(Invariant::ShedWrongClass, format!("{item:?}"), now);
        }
        self.shed.insert(item);
    }

    pub(crate) fn bound(&mut self, what: &str, is: usize, max: usize, now: u64) {
        if is > max {
            let text = format!("{what}: {is} of at most {max}");
            self.violation(Invariant::OutOfBounds, text, now);
        }
    }
}
