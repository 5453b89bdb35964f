//! Which of several shims of this site is the active one, for one MoM.
//!
//! One task per upstream. It asks Redis for the site's lease, keeps it, and writes there how far the site has got, so that
//! another shim goes on from there. [`Tenure`] is what the other tasks see.
//!
//! ```text
//!  TenureTask ──ask, each second──► lease in Redis          Tenure ──permitted?── DeliveryTask
//!        └─────── position ───────►                               └── current() ── LinkTask
//! ```
//! - A tenure is named by the fence that Redis gave with it. A lease that has lapsed and is got back with the same
//!   fence is the same tenure: nobody was active in between.
//! - While the lease has lapsed (Redis is away) nothing is published, but nothing is forgotten either.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use daemon_kit::{CancellationToken, steady_millis};
use redis_link::{LeaseAnswer, RedisError, SiteLease};
use relay_core::{
    entry::EntryId,
    lease::{Asked, Lease, LeaseConfig, Standing},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::telemetry::Telemetry;

pub(crate) use self::holder::Holder;

mod holder;

/// How long giving the lease back may take at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the position is written while publications come: another shim of this site repeats at most that much, and
/// minions remember 100 jids.
const POSITION_INTERVAL: Duration = Duration::from_millis(50);

/// How often a lease that does not hold yet is looked at.
const RECHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A tenure that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granted {
    /// Its name.
    pub(crate) fence: u64,
    /// How far the site had got, by what Redis knows.
    pub(crate) position: Option<EntryId>,
}

/// What the other tasks see of the lease; cheap to clone.
#[derive(Clone)]
pub(crate) struct Tenure {
    lease: Arc<Mutex<Lease>>,
    granted: watch::Sender<Option<Granted>>,
    position: watch::Sender<Option<EntryId>>,
    ask_now: Arc<Notify>,
}

impl Tenure {
    /// Nobody is active yet. `in_company`: another shim of this site may have been active.
    pub(crate) fn new(in_company: bool) -> Self {
        Self {
            lease: Arc::new(Mutex::new(Lease::new(LeaseConfig::default(), in_company))),
            granted: watch::Sender::new(None),
            position: watch::Sender::new(None),
            ask_now: Arc::new(Notify::new()),
        }
    }

    /// The tenure, as it is granted and taken away.
    pub(crate) fn granted(&self) -> watch::Receiver<Option<Granted>> {
        self.granted.subscribe()
    }

    /// The tenure at this moment.
    pub(crate) fn current(&self) -> Option<Granted> {
        *self.granted.borrow()
    }

    /// Whether another shim of this site is the active one, by what Redis said lately.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.granted.borrow().is_none()
            && self.lock().standing(steady_millis()) == Standing::Standby
    }

    /// Whether another shim of this site has been met, or may have been.
    pub(crate) fn is_in_company(&self) -> bool {
        self.lock().in_company()
    }

    /// Whether this moment lies in the tenure of that name.
    pub(crate) fn is_permitted(&self, fence: u64) -> bool {
        self.lock().standing(steady_millis()) == (Standing::Active { fence })
    }

    /// Waits until this moment lies in the tenure of that name; for ever when it is over.
    pub(crate) async fn permitted(&self, fence: u64) {
        let mut granted = self.granted.subscribe();
        loop {
            if self.is_permitted(fence) {
                return;
            }
            // An answer sends anew, be it with the same fence. A lease that begins to hold later has no event.
            drop(timeout(RECHECK_INTERVAL, granted.changed()).await);
        }
    }

    /// Waits until the tenure of that name is over.
    pub(crate) async fn ended(&self, fence: u64) {
        let mut granted = self.granted.subscribe();
        let over = |granted: &Option<Granted>| granted.is_none_or(|granted| granted.fence != fence);
        if granted.wait_for(over).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The site is done with everything up to here.
    pub(crate) fn done(&self, entry_id: EntryId) {
        self.position.send_replace(Some(entry_id));
    }

    /// How far the site has got in this process.
    pub(crate) fn position(&self) -> Option<EntryId> {
        *self.position.borrow()
    }

    /// Redis is heard again: asks for the lease at once.
    pub(crate) fn link_is_back(&self) {
        self.ask_now.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lease> {
        // No code that can panic runs under this lock.
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task; see the module's head.
pub(crate) struct TenureTask {
    tenure: Tenure,
    lease: Arc<SiteLease>,
    holder: Holder,
    telemetry: Telemetry,
    fence: u64,
}

impl TenureTask {
    pub(crate) fn new(
        tenure: Tenure,
        lease: SiteLease,
        holder: Holder,
        telemetry: Telemetry,
    ) -> Self {
        Self {
            tenure,
            lease: Arc::new(lease),
            holder,
            telemetry,
            fence: 0,
        }
    }

    /// Keeps the lease until `finished`, when the delivery has ended, and gives it back.
    pub(crate) async fn run(mut self, finished: CancellationToken) {
        let (tenure, lease) = (self.tenure.clone(), Arc::clone(&self.lease));
        tokio::select! {
            () = finished.cancelled() => {}
            () = self.keep() => {}
            () = write_positions(&tenure, &lease) => {}
        }
        if self.tenure.current().is_some() {
            let position = *self.tenure.position.borrow();
            let give_back = async {
                if let Some(position) = position {
                    self.lease.write_position(self.fence, position).await?;
                }
                self.lease.release().await
            };
            match timeout(RELEASE_TIMEOUT, give_back).await {
                Ok(Ok(())) => {}
                Ok(Err(err)) => self.telemetry.lease_not_released(&err),
                Err(_elapsed) => self.telemetry.lease_not_released(&ReleaseTimedOut),
            }
        }
    }

    /// Asks whenever it is time, for ever.
    async fn keep(&mut self) {
        loop {
            let due = self.tenure.lock().next_ask_ms();
            let wait = Duration::from_millis(due.saturating_sub(steady_millis()));
            tokio::select! {
                () = sleep_until(Instant::now() + wait) => {}
                () = self.tenure.ask_now.notified() => {}
            }
            let sent_at = steady_millis();
            let answer = self.lease.ask(self.fence).await;
            self.answered(sent_at, answer);
        }
    }

    fn answered(&mut self, sent_at: u64, answer: Result<LeaseAnswer, RedisError>) {
        let (asked, position) = match answer {
            Ok(answer) if answer.granted => {
                let granted = Asked::Granted {
                    fence: answer.fence,
                    known_for_ms: answer.known_for_ms,
                };
                (granted, answer.position)
            }
            Ok(answer) => {
                let asked = Asked::HeldByOther {
                    fence: answer.fence,
                    expires_in_ms: answer.expires_in_ms,
                };
                (asked, answer.position)
            }
            Err(err) => {
                self.telemetry.lease_not_asked(&err);
                (Asked::Failed, None)
            }
        };
        self.tenure.lock().asked(sent_at, asked, steady_millis());
        match asked {
            // Others may still believe in theirs; it is asked once more then, and only that answer's position is final.
            Asked::Granted { fence, .. } if !self.tenure.is_permitted(fence) => {
                self.fence = fence;
                self.telemetry.lease_waits(fence);
            }
            Asked::Granted { fence, .. } => {
                let before = self.tenure.granted.borrow().map(|granted| granted.fence);
                if before != Some(fence) {
                    self.telemetry.lease_granted(fence);
                }
                self.fence = fence;
                let granted = Granted { fence, position };
                self.tenure.granted.send_replace(Some(granted));
            }
            Asked::HeldByOther { fence, .. } => {
                if self.tenure.granted.send_replace(None).is_some() || self.fence == 0 {
                    self.telemetry.lease_held_by_other(fence);
                }
                self.fence = self.fence.max(fence);
                if let Err(err) = self.holder.note_company() {
                    self.telemetry.lease_file_not_written(&err);
                }
            }
            Asked::Failed => {}
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no answer in time")]
struct ReleaseTimedOut;

/// Writes each new position, at most each [`POSITION_INTERVAL`].
async fn write_positions(tenure: &Tenure, lease: &SiteLease) {
    let mut position = tenure.position.subscribe();
    while position.changed().await.is_ok() {
        let newest = *position.borrow_and_update();
        let granted = *tenure.granted.borrow();
        if let (Some(newest), Some(granted)) = (newest, granted) {
            match lease.write_position(granted.fence, newest).await {
                Ok(true) => {}
                Ok(false) => tenure.ask_now.notify_one(),
                // The next one, or the last one at the end, says all that this one says.
                Err(_) => {}
            }
        }
        sleep(POSITION_INTERVAL).await;
    }
}
