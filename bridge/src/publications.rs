//! Carries the journal's frames into Redis, unopened and in their order, and again when Redis has forgotten them.
//!
//! One task per bridge; the only one that appends, and the only one that lets the journal forget.
//!
//! ```text
//! IntakeTask ──numbered frames──► PublicationsTask ──append (Lua)──► stream + pub/sub
//!                                  │  ▲      ▲
//!                        Backlog ◄─┘  │      └─ stale ── heart-beats
//!                                     └─ journal: what is not in memory any more
//! ```
//! - Frames are appended in the order of their numbers, one call at a time. A call of unknown outcome is repeated, and
//!   Redis drops what it has already.
//! - After `Stale` an epoch is begun; unless it is the one that we appended to before, all that the journal holds
//!   unexpired is appended again, before anything new.
//! - While Redis is away frames wait on disk, until they expire or the journal's bound is reached; both are counted.
//! - At the end, once the intake has ended, what waits is appended; what Redis does not take stays in the journal.

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc, time::Duration};

use daemon_kit::{CancellationToken, backoff::Backoff, steady_millis};
use redis_link::Appender;
use relay_core::{
    EntryId,
    backlog::{Backlog, BacklogConfig, Gone},
};
use store::{Journal, JournalOpened, StoreError};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{intake::Numbered, telemetry::Telemetry};

mod attempt;

use self::attempt::{Attempt, Outcome};

/// Most frames in one call of [`Appender::append`].
const BATCH_FRAMES_MAX: usize = 256;

/// Most bytes in one call, but for a single larger frame.
const BATCH_BYTES_MAX: u64 = 8 << 20;

/// Frames on disk that are kept in memory as well, so that they need not be read: what comes while one call is made.
const RECENT_BYTES_MAX: usize = 4 << 20;

/// Frames that are in memory only. When full nothing is taken from the intake.
const UNJOURNALED_BYTES_MAX: usize = 16 << 20;

/// Pauses between attempts to append.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How often ages are looked at, and the journal is told how far Redis is: what is not told is only appended again.
const TICK: Duration = Duration::from_secs(1);

/// How long the drain may take: less than the daemon's grace.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// The task; see the module's head.
pub(crate) struct PublicationsTask {
    intake: mpsc::Receiver<Vec<Numbered>>,
    appender: Arc<Appender>,
    journal: Journal,
    clock: Arc<str>,
    backlog: Backlog,
    /// Frames still in memory, by ascending number.
    recent: VecDeque<Numbered>,
    recent_bytes: usize,
    unjournaled_bytes: usize,
    /// Told when a heart-beat finds that an epoch has to be begun.
    stale: Arc<Notify>,
    must_begin: bool,
    /// The epoch that the frames up to `appended_through` are in.
    epoch: u64,
    appended_through: u64,
    noted_through: u64,
    newest: EntryId,
    under_way: JoinSet<Outcome>,
    /// What the journal has to do; one thing at a time.
    keeping: JoinSet<Result<(), StoreError>>,
    forget_through: Option<u64>,
    damaged: u64,
    backoff: Backoff,
    retry_at: Option<Instant>,
    has_intake_ended: bool,
    /// Set once the daemon shall end.
    deadline: Option<Instant>,
    telemetry: Telemetry,
}

/// What the task is built from.
pub(crate) struct PublicationsParts {
    pub(crate) intake: mpsc::Receiver<Vec<Numbered>>,
    pub(crate) appender: Arc<Appender>,
    pub(crate) journal: Journal,
    pub(crate) opened: JournalOpened,
    /// The name of this process's clock.
    pub(crate) clock: String,
    pub(crate) bounds: BacklogConfig,
    pub(crate) stale: Arc<Notify>,
    pub(crate) telemetry: Telemetry,
}

/// What the task waits for.
enum Event {
    Received(Vec<Numbered>),
    IntakeEnded,
    Attempted(Outcome),
    Kept(Result<(), StoreError>),
    Stale,
    Tick,
    RetryDue,
    Ending,
    DrainOver,
}

impl PublicationsTask {
    pub(crate) fn new(parts: PublicationsParts) -> Self {
        let mut backlog = Backlog::new(parts.bounds);
        let now_ms = steady_millis();
        for frame in &parts.opened.frames {
            // Stamped by the clock of another life: their age counts from now.
            backlog.received(frame.seq, frame.bytes.into(), now_ms);
        }
        backlog.appended(parts.opened.appended_through);
        let (epoch, number) = parts.opened.newest_entry;
        let newest = EntryId { epoch, number };
        parts.appender.note(newest);
        parts
            .telemetry
            .journal_opened(backlog.kept().0, backlog.waiting().0);
        Self {
            intake: parts.intake,
            appender: parts.appender,
            journal: parts.journal,
            clock: parts.clock.into(),
            backlog,
            recent: VecDeque::new(),
            recent_bytes: 0,
            unjournaled_bytes: 0,
            stale: parts.stale,
            must_begin: false,
            epoch,
            appended_through: parts.opened.appended_through,
            noted_through: parts.opened.appended_through,
            newest,
            under_way: JoinSet::new(),
            keeping: JoinSet::new(),
            forget_through: None,
            damaged: 0,
            backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
            retry_at: None,
            has_intake_ended: false,
            deadline: None,
            telemetry: parts.telemetry,
        }
    }

    /// Runs until the intake has ended and what it had given is in Redis, or cannot be.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start();
            self.report();
            if self.has_intake_ended && self.is_idle() {
                break;
            }
            let event = tokio::select! {
                frames = self.intake.recv(), if self.has_room() => {
                    frames.map_or(Event::IntakeEnded, Event::Received)
                }
                Some(done) = self.under_way.join_next() => {
                    Event::Attempted(done.expect("an attempt does not panic"))
                }
                Some(done) = self.keeping.join_next() => {
                    Event::Kept(done.expect("the journal's handle does not panic"))
                }
                () = self.stale.notified() => Event::Stale,
                _ = ticks.tick() => Event::Tick,
                () = until(self.retry_at) => Event::RetryDue,
                () = shutdown.cancelled(), if self.deadline.is_none() => Event::Ending,
                () = until(self.deadline) => Event::DrainOver,
            };
            if matches!(event, Event::DrainOver) {
                break;
            }
            self.apply(event);
        }
        self.finish().await;
    }

    /// Starts what is due: the next append, the next thing for the journal to do.
    fn start(&mut self) {
        if self.under_way.is_empty() {
            // Not while a call is under way: what it appends is not lost.
            self.shed();
        }
        if self.under_way.is_empty() && self.retry_at.is_none() {
            let batch = self.backlog.next_batch(BATCH_FRAMES_MAX, BATCH_BYTES_MAX);
            if batch.is_some() || self.must_begin {
                let attempt = self.attempt(batch);
                self.under_way.spawn(attempt.run());
            }
        }
        if self.keeping.is_empty()
            && let Some(through) = self.forget_through.take()
        {
            let journal = self.journal.clone();
            self.keeping
                .spawn(async move { journal.forget(through).await });
        }
    }

    fn attempt(&self, batch: Option<RangeInclusive<u64>>) -> Attempt {
        let held = batch.as_ref().map_or_else(Vec::new, |batch| {
            let begin = self
                .recent
                .partition_point(|held| held.seq < *batch.start());
            let held = self.recent.range(begin..);
            let held = held.take_while(|held| batch.contains(&held.seq));
            held.cloned().collect()
        });
        Attempt {
            appender: Arc::clone(&self.appender),
            journal: self.journal.clone(),
            clock: Arc::clone(&self.clock),
            must_begin: self.must_begin,
            batch,
            held,
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Received(frames) => self.receive(frames),
            Event::IntakeEnded => self.has_intake_ended = true,
            Event::Ending => self.deadline = Some(Instant::now() + DRAIN_MAX),
            Event::Attempted(outcome) => self.attempted(outcome),
            Event::Kept(Ok(())) | Event::DrainOver => {}
            // Tried again with the next tick; what is not forgotten is only there longer.
            Event::Kept(Err(err)) => self.telemetry.journal_not_kept(&err),
            Event::Stale => self.must_begin = true,
            Event::Tick => self.tick(),
            Event::RetryDue => self.retry_at = None,
        }
    }

    fn receive(&mut self, frames: Vec<Numbered>) {
        for frame in frames {
            let bytes = frame.frame.len();
            self.backlog
                .received(frame.seq, bytes as u64, frame.received_at_ms);
            if !frame.on_disk {
                self.unjournaled_bytes += bytes;
            } else if self.recent_bytes + bytes > RECENT_BYTES_MAX {
                continue;
            }
            self.recent_bytes += bytes;
            self.recent.push_back(frame);
        }
    }

    fn attempted(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Appended { through, entries } => {
                for (entry, seq, latency) in entries {
                    let again = seq <= self.appended_through;
                    self.telemetry.publication_appended(&entry, latency, again);
                    self.newest = self.newest.max(entry.entry_id);
                }
                self.backlog.appended(through);
                self.appended_through = self.appended_through.max(through);
                self.forget_recent(through);
                self.backoff.reset();
            }
            Outcome::Begun { epoch, joined } => {
                self.must_begin = false;
                if epoch != self.epoch {
                    self.epoch = epoch;
                    self.newest = self.newest.max(EntryId { epoch, number: 0 });
                    self.telemetry
                        .epoch_begun(epoch, joined, self.backlog.kept().0);
                    self.backlog.rewind();
                }
                self.backoff.reset();
            }
            Outcome::Failed(err) => {
                self.telemetry.append_failed(&err, self.backlog.waiting().0);
                self.failed();
            }
            Outcome::Unreadable(err) => {
                self.telemetry.journal_unreadable(&err);
                self.failed();
            }
        }
    }

    fn failed(&mut self) {
        if self.has_intake_ended {
            // The grace is short, and the journal has what Redis does not take.
            self.deadline = Some(Instant::now());
        }
        self.retry_at = Some(Instant::now() + self.backoff.next_delay());
    }

    fn tick(&mut self) {
        if self.under_way.is_empty() {
            let gone = self.backlog.expire(steady_millis());
            if gone.unappended > 0 {
                self.telemetry.publications_expired(gone.unappended);
            }
            self.let_go(gone);
        }
        let damaged = self.journal.state().damaged;
        if damaged > self.damaged {
            self.telemetry.publications_damaged(damaged - self.damaged);
            self.damaged = damaged;
        }
        if self.keeping.is_empty() && self.noted_through < self.appended_through {
            let noting = self.note();
            self.keeping.spawn(noting);
        }
    }

    /// Tells the journal how far Redis is.
    fn note(&mut self) -> impl Future<Output = Result<(), StoreError>> + use<> {
        self.noted_through = self.appended_through;
        let (journal, through) = (self.journal.clone(), self.appended_through);
        let newest = (self.newest.epoch, self.newest.number);
        async move { journal.appended(through, newest).await }
    }

    fn shed(&mut self) {
        let gone = self.backlog.shed();
        if gone.unappended > 0 {
            self.telemetry.publications_shed(gone.unappended);
        }
        self.let_go(gone);
    }

    fn let_go(&mut self, gone: Gone) {
        if let Some(through) = gone.through {
            self.forget_recent(through);
            self.forget_through = Some(through);
        }
    }

    fn forget_recent(&mut self, through: u64) {
        while let Some(front) = self.recent.front()
            && front.seq <= through
        {
            let bytes = front.frame.len();
            self.recent_bytes -= bytes;
            if !front.on_disk {
                self.unjournaled_bytes -= bytes;
            }
            self.recent.pop_front();
        }
    }

    fn has_room(&self) -> bool {
        !self.has_intake_ended && self.unjournaled_bytes < UNJOURNALED_BYTES_MAX
    }

    fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.backlog.waiting().0 == 0
    }

    fn report(&self) {
        let (waiting, bytes) = self.backlog.waiting();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.telemetry.queue("unappended", waiting, bytes);
        let state = self.journal.state();
        let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        self.telemetry
            .queue("journal", size(state.entries), size(state.bytes));
    }

    /// What Redis has not taken stays in the journal; what is not there either is lost.
    async fn finish(mut self) {
        let lost = self.recent.iter().filter(|held| !held.on_disk).count();
        self.telemetry.publications_lost_at_the_end(lost);
        while self.keeping.join_next().await.is_some() {}
        let noted = self.note().await;
        if let Err(err) = noted {
            self.telemetry.journal_not_kept(&err);
        }
        self.telemetry.drained(self.backlog.waiting().0);
    }
}

/// Sleeps until `at`, if that is set.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
