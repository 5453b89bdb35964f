//! Where log lines go and which are written: section `log`, overridden by `SALTWAY_LOG`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::Section;

/// Environment variable that overrides `log.level`, in the syntax of `RUST_LOG`.
pub const LEVEL_VARIABLE: &str = "SALTWAY_LOG";

/// Section `log` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives as in `RUST_LOG`: `info`, `info,bridge=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// The file that lines are appended to; standard error without one.
    pub file: Option<PathBuf>,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `SALTWAY_LOG` holds no directives.
    #[error("{LEVEL_VARIABLE}={value} is not a log level; write one as in `info,bridge=debug`")]
    Level {
        /// What it holds.
        value: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The file cannot be written.
    #[error("failed to open {path}, named by `log.file`; make it writable or name another", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl LogConfig {
    /// Reads section `log` of the file's root.
    pub fn read(root: &Section<'_>) -> Self {
        let log = root.section("log");
        let remedy =
            "write `error`, `warn`, `info`, `debug` or `trace`, also as `info,bridge=debug`";
        let checked = |text: &str| filter(text).map(|_| text.to_owned());
        Self {
            level: log
                .parsed("level", checked, remedy)
                .unwrap_or_else(|| "info".to_owned()),
            format: log.enumeration(
                "format",
                LogFormat::Text,
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            ),
            file: log.optional_path("file"),
        }
    }

    /// Begins logging, for the whole process and once.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn init(&self) -> Result<(), LogError> {
        let directives = std::env::var(LEVEL_VARIABLE)
            .ok()
            .filter(|value| !value.is_empty());
        let level = match directives {
            Some(value) => filter(&value).map_err(|source| LogError::Level { value, source })?,
            None => EnvFilter::new(&self.level),
        };
        let (writer, colours) = match &self.file {
            None => {
                let terminal = io::IsTerminal::is_terminal(&io::stderr());
                (BoxMakeWriter::new(io::stderr), terminal)
            }
            Some(path) => {
                let opened = open(path);
                let file = opened.map_err(|source| LogError::Open {
                    path: path.clone(),
                    source,
                })?;
                (BoxMakeWriter::new(Mutex::new(file)), false)
            }
        };
        let logs = tracing_subscriber::fmt()
            .with_env_filter(level)
            .with_writer(writer);
        let begun = match self.format {
            LogFormat::Text => logs.with_ansi(colours).try_init(),
            LogFormat::Json => logs.json().flatten_event(true).try_init(),
        };
        // A second call, as in tests, keeps the first logger.
        begun.or(Ok(()))
    }
}

fn filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(text)
}

fn open(path: &PathBuf) -> io::Result<File> {
    // Appending, so that logrotate's copytruncate works and two lines never overwrite each other.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}
