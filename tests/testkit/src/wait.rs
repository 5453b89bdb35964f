//! Waiting for conditions: the only way in which this crate lets time pass.
//!
//! A condition is polled until it holds or the deadline passes; an expired wait tells what it saw last. An interrupt
//! ([`end_waits_on_signals`]) ends every wait at once, so that a program with Ctrl-C handling can stop its servers in order.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Short against what Salt and Redis need for anything, long against the cost of one look.
const POLL: Duration = Duration::from_millis(20);

/// The wall clock of this crate: it measures real servers, so paused time has no meaning here.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "real servers run in real time; there is no tokio runtime here"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The flag that ends every wait of this process with an error.
fn interrupt_flag() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    Arc::clone(FLAG.get_or_init(Arc::default))
}

/// Whether a signal has ended the waits, see [`end_waits_on_signals`].
#[must_use]
pub fn interrupted() -> bool {
    interrupt_flag().load(Ordering::Relaxed)
}

/// From now on the first SIGINT or SIGTERM ends every wait; the second one ends the process with exit code 130.
///
/// # Errors
/// When the system takes no handler.
pub fn end_waits_on_signals() -> Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let flag = interrupt_flag();
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, flag))
            .context("signals cannot be handled")?;
    }
    Ok(())
}

/// Polls `look` until it answers `Ok`, for at most `within`; `Err` carries the state seen, for the message.
///
/// ```
/// # use std::time::Duration;
/// let mut seen = 0;
/// let answer = testkit::wait_until("three looks", Duration::from_secs(5), || {
///     seen += 1;
///     if seen == 3 { Ok("found") } else { Err(format!("{seen} looks")) }
/// });
/// assert_eq!(answer.expect("three polls take less than 5 s"), "found");
/// ```
///
/// # Errors
/// When the time is over: `what`, how long it waited, and the last state seen; or on an interrupt.
pub fn wait_until<T, S: Display>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> Result<T> {
    let began = now();
    loop {
        let state = match look() {
            Ok(found) => return Ok(found),
            Err(state) => state,
        };
        if interrupted() {
            bail!("interrupted while waiting for {what}");
        }
        if began.elapsed() >= within {
            bail!(
                "waited {:.1} s in vain for {what}; last seen: {state}",
                within.as_secs_f64()
            );
        }
        thread::sleep(POLL);
    }
}

/// As [`wait_until`], for tests: an expired wait is a panic.
///
/// # Panics
/// When the time is over, with `what` and the last state seen.
pub fn await_that<T, S: Display>(
    what: &str,
    within: Duration,
    look: impl FnMut() -> Result<T, S>,
) -> T {
    match wait_until(what, within, look) {
        Ok(found) => found,
        Err(error) => panic!("{error:#}"),
    }
}
