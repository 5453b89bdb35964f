//! The heart-beat: tells every site, through the whole path, which entry is the newest.
//!
//! One task per bridge. A site that hears a number which it does not have knows that it missed something; a site that
//! hears nothing knows that its link is dead, although its TCP connection may look alive.

use std::{sync::Arc, time::Duration};

use daemon_kit::{CancellationToken, http::Condition, steady_millis};
use redis_link::{Appender, Beaten};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};

use crate::telemetry::Telemetry;

/// Twice a second: a lost tail is noticed within a second.
const INTERVAL: Duration = Duration::from_millis(500);

/// Soon after an epoch was asked for: a site hears nothing before.
const STALE_RETRY: Duration = Duration::from_millis(50);

/// Beats until `shutdown`; `redis` tells whether Redis takes the beats, `stale` is told when an epoch has to be begun.
pub(crate) async fn run(
    appender: Arc<Appender>,
    redis: Condition,
    telemetry: Telemetry,
    stale: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        match appender.beat(steady_millis()).await {
            Ok(Beaten::Stale) => {
                stale.notify_one();
                ticks.reset_after(STALE_RETRY);
            }
            Ok(Beaten::Newest(_)) => {
                telemetry.beat();
                if redis.holds() {
                    telemetry.redis_up();
                }
            }
            Err(err) => {
                telemetry.redis_failed(err.reason());
                if redis.fails(daemon_kit::chain(&err)) {
                    telemetry.redis_down(&err);
                }
            }
        }
    }
}
