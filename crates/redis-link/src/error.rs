//! What can go wrong with Redis, in words that say what to do.

use std::fmt;
use std::time::Duration;

/// The cause as the client library reports it.
#[derive(Debug, Clone)]
pub struct Cause(pub(crate) redis::RedisError);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Cause {}

/// Every word of [`RedisError::reason`] and of a link's `Down`.
pub const REASONS: &[&str] = &[
    "connect",
    "disconnected",
    "moved",
    "no_streams",
    "not_permitted",
    "not_ready",
    "out_of_memory",
    "password_file",
    "primary_lost",
    "read_only",
    "refused",
    "sentinel",
    "silent",
    "timeout",
    "too_large",
    "unexpected_reply",
    "wrong_password",
];

/// Why nothing comes: a word out of [`REASONS`], and the same for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Downfall {
    pub(crate) class: &'static str,
    pub(crate) text: String,
}

impl Downfall {
    pub(crate) fn new(class: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { class, text }
    }
}

impl From<&RedisError> for Downfall {
    fn from(error: &RedisError) -> Self {
        Self::new(error.reason(), chain(error))
    }
}

/// A failed operation on Redis. `url` never holds a password.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RedisError {
    /// No connection came about.
    #[error("failed to connect to Redis at {url}")]
    Connect {
        /// The server.
        url: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The file that the password is read from cannot be read.
    #[error("failed to read {key} {path}: make it readable to this process")]
    PasswordFile {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::sync::Arc<std::io::Error>,
    },
    /// No sentinel tells where the primary is.
    #[error("no sentinel tells where the primary `{master}` is ({text}): check redis.sentinel")]
    NoSentinel {
        /// The primary's name.
        master: String,
        /// What is wrong with each of them.
        text: String,
    },
    /// The sentinels answer, but know no such primary.
    #[error(
        "no sentinel knows a primary called `{master}` ({sentinels}): redis.sentinel.master has to be the name that `sentinel monitor` gives it"
    )]
    UnknownMaster {
        /// The primary's name.
        master: String,
        /// The sentinels that were asked.
        sentinels: String,
    },
    /// The server did not answer in time. Whether it carried out the operation is unknown.
    #[error("{operation}: Redis at {url} did not answer within {after:?}")]
    TimedOut {
        /// What was tried.
        operation: &'static str,
        /// The server.
        url: String,
        /// The time-out that ran out.
        after: Duration,
    },
    /// The connection broke. Whether the server carried out the operation is unknown.
    #[error("{operation}: lost the connection to Redis at {url}")]
    Disconnected {
        /// What was tried.
        operation: &'static str,
        /// The server.
        url: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// WRONGPASS, NOAUTH, or a password that the server does not know of.
    #[error(
        "Redis at {url} refused the sign-in ({text}): check redis.username and redis.password_file against the server's ACL"
    )]
    WrongPassword {
        /// The server.
        url: String,
        /// The server's words.
        text: String,
    },
    /// The ACL user lacks a right.
    #[error(
        "Redis at {url} does not permit what is needed ({text}): grant it as configs/redis-acl.conf does"
    )]
    NotPermitted {
        /// The server.
        url: String,
        /// The server's words: they name the command, key or channel.
        text: String,
    },
    /// The server knows no streams.
    #[error("Redis at {url} has no streams ({text}): use Redis 5 or later, or Valkey")]
    NoStreams {
        /// The server.
        url: String,
        /// The server's words, or its version.
        text: String,
    },
    /// The server is a replica and takes no writes.
    #[error(
        "{operation}: Redis at {url} is a read-only replica: redis.url has to name the primary (redis.read_url may name a replica); with sentinels this passes when they have failed over"
    )]
    ReadOnly {
        /// What was tried.
        operation: &'static str,
        /// The server.
        url: String,
    },
    /// `maxmemory` is reached.
    #[error(
        "{operation}: Redis at {url} is out of memory: raise its maxmemory, or lower publications_max"
    )]
    OutOfMemory {
        /// What was tried.
        operation: &'static str,
        /// The server.
        url: String,
    },
    /// The server is busy for now: it loads its data, has lost its primary or cannot persist.
    #[error("{operation}: Redis at {url} is not ready ({text})")]
    NotReady {
        /// What was tried.
        operation: &'static str,
        /// The server.
        url: String,
        /// The server's words.
        text: String,
    },
    /// The server refused for another reason.
    #[error("{operation}: Redis at {url} refused ({text})")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// The server.
        url: String,
        /// The server's words.
        text: String,
    },
    /// The answer is not of the form that the command has.
    #[error("{operation}: Redis at {url} answered in an unknown form: expected {expected}")]
    UnexpectedReply {
        /// What was tried.
        operation: &'static str,
        /// The server.
        url: String,
        /// What should have come.
        expected: &'static str,
    },
    /// A frame is larger than allowed; nothing was sent.
    #[error("{operation}: a frame of {bytes} bytes is larger than the {max} allowed")]
    FrameTooLarge {
        /// What was tried.
        operation: &'static str,
        /// The frame's size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
}

impl RedisError {
    /// Whether the same may work later without anybody doing something about it.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::NoSentinel { .. }
            | Self::TimedOut { .. }
            | Self::Disconnected { .. }
            | Self::ReadOnly { .. }
            | Self::OutOfMemory { .. }
            | Self::NotReady { .. } => true,
            Self::PasswordFile { .. }
            | Self::UnknownMaster { .. }
            | Self::WrongPassword { .. }
            | Self::NotPermitted { .. }
            | Self::NoStreams { .. }
            | Self::Refused { .. }
            | Self::UnexpectedReply { .. }
            | Self::FrameTooLarge { .. } => false,
        }
    }

    /// The class of the error in one word out of [`REASONS`], for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::PasswordFile { .. } => "password_file",
            Self::NoSentinel { .. } | Self::UnknownMaster { .. } => "sentinel",
            Self::TimedOut { .. } => "timeout",
            Self::Disconnected { .. } => "disconnected",
            Self::WrongPassword { .. } => "wrong_password",
            Self::NotPermitted { .. } => "not_permitted",
            Self::NoStreams { .. } => "no_streams",
            Self::ReadOnly { .. } => "read_only",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::NotReady { .. } => "not_ready",
            Self::Refused { .. } => "refused",
            Self::UnexpectedReply { .. } => "unexpected_reply",
            Self::FrameTooLarge { .. } => "too_large",
        }
    }

    /// Whether the connection is of no use any more.
    pub(crate) const fn breaks_connection(&self) -> bool {
        matches!(
            self,
            // After a failover the name may lead to another server.
            Self::TimedOut { .. } | Self::Disconnected { .. } | Self::ReadOnly { .. }
        )
    }

    /// Sorts an error that came while a connection was made.
    pub(crate) fn sort_connect(url: &str, error: redis::RedisError) -> Self {
        match Self::sort("connect", url, error) {
            Self::Disconnected { url, source, .. } => Self::Connect { url, source },
            other => other,
        }
    }

    /// Sorts an error of the client library.
    pub(crate) fn sort(operation: &'static str, url: &str, error: redis::RedisError) -> Self {
        use redis::{ErrorKind, ServerErrorKind as Server};
        let url = url.to_owned();
        let text = words(&error);
        match (error.kind(), error.code().unwrap_or_default()) {
            (ErrorKind::AuthenticationFailed, _) | (_, "WRONGPASS" | "NOAUTH") => {
                Self::WrongPassword { url, text }
            }
            (ErrorKind::Server(Server::NoPerm), _) | (_, "NOPERM") => {
                Self::NotPermitted { url, text }
            }
            (ErrorKind::Server(Server::ReadOnly), _) => Self::ReadOnly { operation, url },
            (_, "OOM") => Self::OutOfMemory { operation, url },
            (
                ErrorKind::Server(
                    Server::BusyLoading
                    | Server::TryAgain
                    | Server::MasterDown
                    | Server::ClusterDown,
                ),
                _,
            )
            | (_, "MISCONF" | "NOREPLICAS" | "BUSY" | "UNKILLABLE") => Self::NotReady {
                operation,
                url,
                text,
            },
            (ErrorKind::Server(_) | ErrorKind::Extension, _) => {
                let lower = text.to_ascii_lowercase();
                // Redis reports the ACL's refusal inside a script as a plain script error.
                if lower.contains("noperm")
                    || lower.contains("acl failure")
                    || lower.contains("the user executing the script")
                {
                    Self::NotPermitted { url, text }
                } else if lower.contains("-oom") || lower.contains("oom command") {
                    Self::OutOfMemory { operation, url }
                } else if lower.contains("readonly") || lower.contains("read only replica") {
                    Self::ReadOnly { operation, url }
                } else if lower.contains("wrongpass") || lower.contains("without any password") {
                    Self::WrongPassword { url, text }
                } else if lower.contains("unknown command")
                    || lower.contains("unknown redis command")
                {
                    Self::NoStreams { url, text }
                } else if lower.contains("max number of clients") {
                    Self::NotReady {
                        operation,
                        url,
                        text,
                    }
                } else {
                    Self::Refused {
                        operation,
                        url,
                        text,
                    }
                }
            }
            _ => Self::Disconnected {
                operation,
                url,
                source: Cause(error),
            },
        }
    }
}

/// The server's own words: code and detail.
fn words(error: &redis::RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (_, Some(detail)) => detail.to_owned(),
        _ => error.to_string(),
    }
}

/// The chain of causes in one line, for reasons that are told as text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
