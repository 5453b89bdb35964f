//! The frame of every daemon: configuration, signals, tasks, tracing, metrics and health.
//!
//! Knows neither Salt nor Redis. A daemon's `main` calls [`run::main`] with a function that
//! reads its configuration from a [`config::Section`] and an async function that builds its
//! tasks; everything that the daemons share stands here, so that they behave alike.
//!
//! ```text
//! run::main ──► cli ──► config (yaml) ──► logging ──► runtime, signals ──► the daemon's run
//!                                                                           │  Tasks
//!                                                                           │  Metrics, Readiness
//!                                                                           └► http: /metrics /healthz /readyz
//! ```

pub mod backoff;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod run;
pub mod state_dir;
pub mod tasks;
pub mod throttle;

pub use chain::chain;
pub use clock::{steady_millis, unix_millis};
pub use config_kit::{config, yaml};
pub use run::Context;
pub use tasks::{ExitReason, Tasks};
pub use tokio_util::sync::CancellationToken;
