//! The life of a daemon: arguments, configuration, logs, runtime, signals, exit code.
//!
//! ```text
//! arguments ─► configuration ─┬─► --check: "configuration is valid" (0) or every mistake (1)
//!                             └─► logs ─► runtime ─► the daemon ─► exit code
//!                                                       ▲
//!                          first SIGTERM or SIGINT: cancel the token; second: exit at once
//! ```
//! Memory: an idle daemon of this frame takes 5 MiB resident (0.4 MiB of it its own) and no
//! processor time, measured on `examples/idle.rs`. glibc gives each busy thread a malloc arena
//! that it seldom shrinks; `MALLOC_ARENA_MAX=2` in the unit's environment bounds that, and it has
//! to stand there, as setting it from within takes `unsafe`.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::chain::chain;
use crate::cli::{self, CommonArgs, Program};
use crate::config::{self, Section};
use crate::http::Readiness;
use crate::logging::LogConfig;
use crate::metrics::Metrics;

/// Threads for blocking file work. Few: their stacks and arenas stay resident for a while.
const BLOCKING_THREADS_MAX: usize = 4;

/// Time that blocking work left over at the end gets before the process goes.
const BLOCKING_GRACE: Duration = Duration::from_millis(500);

/// What a daemon gets besides its configuration.
#[derive(Debug)]
pub struct Context {
    /// The program.
    pub program: Program,
    /// The configuration file, for messages.
    pub config_file: PathBuf,
    /// Cancelled by the first SIGTERM or SIGINT; give it to [`crate::Tasks`].
    pub shutdown: CancellationToken,
    /// The metrics, with those of the process already in.
    pub metrics: Metrics,
    /// The conditions that `/readyz` shows.
    pub readiness: Readiness,
}

/// Runs a daemon from its arguments to its exit code. `main` returns what this returns.
///
/// `read` reads the configuration, except for section `log`, which is read here; `daemon` gets
/// the valid configuration and returns when it has ended, after the token was cancelled.
pub fn main<C, F>(
    program: Program,
    read: impl FnOnce(&Section<'_>) -> C,
    daemon: impl FnOnce(C, Context) -> F,
) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    main_with(program, cli::parse(program), read, daemon)
}

/// As [`main`], with arguments that the daemon parsed itself.
pub fn main_with<C, F>(
    program: Program,
    args: CommonArgs,
    read: impl FnOnce(&Section<'_>) -> C,
    daemon: impl FnOnce(C, Context) -> F,
) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let loaded = config::load(&args.config, |root| (LogConfig::read(root), read(root)));
    let (log, config) = match loaded {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            tell(&mut io::stderr(), &mistakes);
            return ExitCode::FAILURE;
        }
    };
    if args.check {
        tell(
            &mut io::stdout(),
            &format_args!("{}: configuration is valid", args.config.display()),
        );
        return ExitCode::SUCCESS;
    }
    if let Err(err) = log.init() {
        tell(&mut io::stderr(), &chain(&err));
        return ExitCode::FAILURE;
    }
    log_panics();
    let context = Context {
        program,
        config_file: args.config,
        shutdown: CancellationToken::new(),
        metrics: Metrics::new(program.name, program.version),
        readiness: Readiness::default(),
    };
    info!(
        program = program.name,
        version = program.version,
        "starting"
    );
    match live(context, config, daemon) {
        Ok(()) => {
            info!(program = program.name, "ended");
            ExitCode::SUCCESS
        }
        Err(err) => {
            error!(error = %chain(&*err), "ended by an error");
            // The log may go to a file; whoever started the process reads standard error.
            if log.file.is_some() {
                tell(&mut io::stderr(), &chain(&*err));
            }
            ExitCode::FAILURE
        }
    }
}

fn live<C, F>(
    context: Context,
    config: C,
    daemon: impl FnOnce(C, Context) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    // One thread: what a message costs here is waking threads, five times as much as the work itself. The longest piece
    // of work, sealing a return of 50 MiB, holds up heart-beats for a fraction of what a silence counts.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()?;
    let shutdown = context.shutdown.clone();
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut daemon = pin!(daemon(config, context));
        loop {
            tokio::select! {
                ended = &mut daemon => return ended,
                name = signals.next() => {
                    if shutdown.is_cancelled() {
                        warn!(signal = name, "ending at once");
                        anyhow::bail!("a second signal ended the process before it was done");
                    }
                    info!(signal = name, "ending");
                    shutdown.cancel();
                }
            }
        }
    });
    runtime.shutdown_timeout(BLOCKING_GRACE);
    ended
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Panics go to the log with the span of their task, as the release build aborts on them.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        error!(thread = thread.name().unwrap_or("unnamed"), error = %panic, "panicked");
    }));
}

/// Writes to the terminal; a closed one is nobody's loss.
fn tell(out: &mut impl Write, text: &impl Display) {
    drop(writeln!(out, "{text}"));
}
