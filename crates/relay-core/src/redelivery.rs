//! Which minions are sent a job again, and when.
//!
//! ```text
//! published ──► silent ──receipt, return, taken──► done
//!                 │ ▲
//!   time-out, life│ │ still nothing heard
//!                 ▼ │
//!               ready ──paced, in the order of the jids──► Again
//! ```
//! The master's publish port keeps nothing: a minion that is reconnecting misses a job. Salt's minion passes over a jid
//! that is among the last 100 it saw, but forgets these when it starts; the rules below keep a job from running twice.
//!
//! - A jid is sent again only to a minion that gives receipts for this job, has given none, has not returned, and is not
//!   said to have taken it; only before the job expires, and only a bounded number of times.
//! - By time alone a minion is sent one job: the oldest that it is silent about. The rest waits until it is heard again.
//! - A jid is not sent again when so many newer ones were published to the minion that its own memory of the old one may
//!   be gone, unless something shows that the first copy is not on its way any more.
//! - After a restart of a minion with a shim, what was published before goes only when the shim's report, which has to
//!   reach back that far, does not list it. Without such a report it is unsafe and never goes by itself.
//! - Everything is bounded; what a bound drops is counted by its reason and not sent again.

mod figures;

pub use self::figures::{Dropped, Figures};

/// The bounds and times of a [`Redelivery`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedeliveryConfig {
    /// How long after its publication a minion is silent about a job, and how long after a first repetition the second
    /// follows; each further one waits twice as long.
    pub receipt_timeout_ms: u64,
    /// How often a job is sent again to a minion that has given no sign of itself. One more is kept for the moment at
    /// which the minion itself shows that it hears again.
    pub attempts_max: u8,
    /// Most publications in a second, on average; twice as many go at once after a pause.
    pub publications_per_s: u32,
    /// Most minions in one publication.
    pub minions_per_publication_max: usize,
    /// A job is not sent again by time when more jobs than these were published to the minion after it: half of what a
    /// minion remembers (`minion_jid_queue_hwm`).
    pub newer_max: u32,
    /// Most jobs that are followed.
    pub jobs_max: usize,
    /// Most minions over all jobs that have not been heard yet.
    pub cells_max: usize,
    /// Most minions that are known by name.
    pub minions_max: usize,
    /// Most receipts and returns that are kept for jobs which are not known yet.
    pub early_max: usize,
}

impl Default for RedeliveryConfig {
    fn default() -> Self {
        Self {
            receipt_timeout_ms: 5_000,
            attempts_max: 3,
            publications_per_s: 20,
            minions_per_publication_max: 1_000,
            newer_max: 50,
            jobs_max: 10_000,
            cells_max: 2_000_000,
            minions_max: 200_000,
            early_max: 100_000,
        }
    }
}

/// Whether a job may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// While it is safe.
    Safe,
    /// Never by itself: the job is followed, and what was missed is counted.
    Never,
}

/// How a minion tells that it took a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// By a minion-shim beside it: for each job.
    Shim,
    /// By Salt's start event: for jobs that ask for it.
    StartEvent,
}

/// Why a minion's shim reported what the minion has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The shim itself began; the minion may have been started, too.
    Hello,
    /// The minion's process began.
    Started,
    /// The minion's connection to its master is a new one.
    Reconnected,
    /// Something else: the minion goes on as before.
    Other,
}

/// What a receipt was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// The first proof that this minion took the job, so long after its first publication.
    First {
        /// Milliseconds since [`Redelivery::published`].
        after_ms: u64,
    },
    /// The first one of a job that is not known here, or not known for this minion.
    Unknown,
    /// It tells nothing new.
    Again,
}

/// A job to be sent again to these minions, as a list target under the same jid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Again {
    /// The job.
    pub jid: String,
    /// The minions; at most `minions_per_publication_max`.
    pub minions: Vec<String>,
}

/// A job as the lower master published it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent<'a> {
    /// Its id.
    pub jid: &'a str,
    /// Whether it may be sent again.
    pub policy: Policy,
    /// It asked the minions for Salt's start event.
    pub asked_start_event: bool,
    /// When.
    pub now_ms: u64,
    /// Until when it may be sent again.
    pub expires_ms: u64,
}

/// What was published, who is silent, and what goes again; see the module's head.
///
/// All times are milliseconds of one clock that does not step back.
#[derive(Debug)]
pub struct Redelivery {
    config: RedeliveryConfig,
}

impl Redelivery {
    /// Nothing was published yet.
    #[must_use]
    pub const fn new(config: RedeliveryConfig) -> Self {
        Self { config }
    }

    /// The bounds and times.
    #[must_use]
    pub const fn config(&self) -> &RedeliveryConfig {
        &self.config
    }

    /// The lower master published a job to these minions. Every publication of the lower master belongs here, those of
    /// others and find_jobs as [`Policy::Never`]: a minion's memory of jids is filled by all of them. A further part of
    /// a batch comes under the same jid.
    pub fn published<'a>(&mut self, sent: Sent<'_>, minions: impl IntoIterator<Item = &'a str>) {
        let _ = (sent, minions.into_iter().count());
    }

    /// A minion gives receipts; whether that is new.
    pub fn gives_receipts(&mut self, minion: &str, source: Source) -> bool {
        let _ = (minion, source);
        false
    }

    /// A minion told that it took a job: by its shim's receipt or by a start event. Call [`Self::gives_receipts`], too.
    pub fn received(&mut self, minion: &str, jid: &str, now_ms: u64) -> Receipt {
        let _ = (minion, jid, now_ms);
        Receipt::Again
    }

    /// A minion returned.
    pub fn returned(&mut self, minion: &str, jid: &str, now_ms: u64) {
        let _ = (minion, jid, now_ms);
    }

    /// A minion sent something else: it lives, although that does not prove that it hears.
    pub fn sign_of_life(&mut self, minion: &str, now_ms: u64) {
        let _ = (minion, now_ms);
    }

    /// A minion's own start event: `salt/minion/<id>/start`.
    pub fn started(&mut self, minion: &str, now_ms: u64) {
        let _ = (minion, now_ms);
    }

    /// A minion's shim reported all that the minion took in the last `covers_ms`; those of `taken` whose receipt is news,
    /// in its order. [`Self::gives_receipts`] is implied.
    pub fn reported<'a>(
        &mut self,
        minion: &str,
        report: Report,
        taken: impl IntoIterator<Item = &'a str>,
        covers_ms: u64,
        now_ms: u64,
    ) -> Vec<(&'a str, Receipt)> {
        let _ = (minion, report, covers_ms, now_ms, taken.into_iter().count());
        Vec::new()
    }

    /// Somebody connected to the publish port: whoever is silent may have missed what was published before.
    pub fn connection_opened(&mut self, now_ms: u64) {
        let _ = now_ms;
    }

    /// An operator wants these minions to have the job again: those that may be sent it, in the same order. Only the
    /// ones that are known to have it are left out. The caller sends it; the job lives on until `expires_ms`.
    pub fn by_hand<'a>(
        &mut self,
        jid: &str,
        minions: &[&'a str],
        now_ms: u64,
        expires_ms: u64,
    ) -> Vec<&'a str> {
        let _ = (jid, now_ms, expires_ms);
        minions.to_vec()
    }

    /// What goes again now. Each of these is one publication.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Again> {
        let _ = now_ms;
        Vec::new()
    }

    /// When [`Self::tick`] has something to do.
    #[must_use]
    pub const fn next_due_ms(&self) -> Option<u64> {
        None
    }

    /// Jobs that will not be sent again since the last call: their loads may be dropped. A further part of such a job
    /// begins it anew.
    pub fn forgotten(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// The load of a job was dropped: it will not be sent again by itself.
    pub fn load_dropped(&mut self, jid: &str) {
        let _ = jid;
    }

    /// All in figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures::default()
    }
}
