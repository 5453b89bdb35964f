//! The smallest daemon: it waits to be asked to end. The tests of the frame run it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use daemon_kit::cli::Program;
use daemon_kit::config::Section;
use daemon_kit::http::{self, HttpServer, axum};
use daemon_kit::{CancellationToken, Context, Tasks};

const PROGRAM: Program = Program {
    name: "idle",
    about: "Waits to be asked to end",
    version: "0.0.1",
};

struct Config {
    mom: String,
    listen: SocketAddr,
    /// Ignores the request to end, so that a second signal is needed.
    stubborn: bool,
    /// Panics once it runs.
    shaky: bool,
}

fn read(root: &Section<'_>) -> Config {
    Config {
        mom: root.string("mom"),
        listen: http::read_listen(root),
        stubborn: root.bool("stubborn", false),
        shaky: root.bool("shaky", false),
    }
}

async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    let Context {
        shutdown,
        metrics,
        readiness,
        ..
    } = context;
    let pages = axum::Router::new();
    let http = HttpServer::bind(
        config.listen,
        metrics,
        readiness.clone(),
        shutdown.clone(),
        pages,
    )
    .await?;
    let condition = readiness.condition("mom");
    let mut tasks = Tasks::new(shutdown.clone());
    tasks.spawn("http", http.serve(shutdown.clone()));
    tasks.spawn("waiting", wait(config.stubborn, shutdown));
    if config.shaky {
        tasks.spawn("shaky", async move {
            assert!(config.mom.is_empty(), "the mom is {}", config.mom)
        });
    }
    tracing::info!("ready");
    condition.holds();
    tasks.join(Duration::from_secs(20)).await?;
    Ok(())
}

async fn wait(stubborn: bool, shutdown: CancellationToken) {
    shutdown.cancelled().await;
    if stubborn {
        std::future::pending::<()>().await;
    }
}

fn main() -> ExitCode {
    daemon_kit::run::main(PROGRAM, read, run)
}
