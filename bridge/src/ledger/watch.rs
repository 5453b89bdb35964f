//! Looks at the sites' leases in Redis and tells the ledger what it saw.
//!
//! One thin task: it decides nothing. The ledger tells it which sites there are.
//!
//! - A look that fails is told, too: that Redis does not answer is a sign by itself.
//! - The queue is short: when the ledger is behind, the watch waits.

use std::{sync::Arc, time::Duration};

use daemon_kit::{CancellationToken, chain};
use redis_link::{LeaseWatch, SiteName};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use crate::telemetry::Telemetry;

/// With the heart-beat's pace: a site that is gone is known as gone two to three seconds later.
const INTERVAL: Duration = Duration::from_millis(500);

/// What one look has seen: the sites whose lease somebody holds, or what kept Redis from telling.
pub(super) type Look = Result<Vec<SiteName>, String>;

/// The task's parts.
pub(super) struct Watch {
    pub(super) leases: LeaseWatch,
    pub(super) sites: watch::Receiver<Arc<[SiteName]>>,
    pub(super) seen: mpsc::Sender<Look>,
    pub(super) telemetry: Telemetry,
}

/// Looks until `shutdown`.
pub(super) async fn run(watch: Watch, shutdown: CancellationToken) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let sites = watch.sites.borrow().clone();
        let look = match watch.leases.look(&sites).await {
            Ok(held) => {
                let held = sites.iter().zip(held).filter(|(_, held)| *held);
                Ok(held.map(|(site, _)| site.clone()).collect())
            }
            Err(err) => {
                watch.telemetry.redis_failed(err.reason());
                Err(chain(&err).to_string())
            }
        };
        tokio::select! {
            sent = watch.seen.send(look) => if sent.is_err() {
                return shutdown.cancelled().await;
            },
            () = shutdown.cancelled() => return,
        }
    }
}
