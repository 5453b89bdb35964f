//! Lines to standard error, `<level> <text>`; `SALTWAY_LOG` says from which level on (`info` unless it says so).

use std::fmt::Arguments;
use std::sync::OnceLock;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
        }
    }
}

/// Writes a line, if its level is wanted.
pub(crate) fn line(level: Level, text: Arguments<'_>) {
    static FROM: OnceLock<Level> = OnceLock::new();
    let from = *FROM.get_or_init(|| match std::env::var("SALTWAY_LOG").as_deref() {
        Ok("debug" | "trace") => Level::Debug,
        Ok("warn" | "error") => Level::Warn,
        _ => Level::Info,
    });
    if level >= from {
        eprintln!("{} {text}", level.as_str());
    }
}

macro_rules! debug { ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Debug, format_args!($($arg)*)) } }
macro_rules! info { ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Info, format_args!($($arg)*)) } }
macro_rules! warning { ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Warn, format_args!($($arg)*)) } }

pub(crate) use {debug, info, warning};
