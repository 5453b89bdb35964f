//! Looks at a server before a daemon relies on it.
//!
//! Every command that the role will need is tried with arguments that it refuses: the server checks
//! rights before arguments, so that nothing is changed and a missing right is told by name, all of
//! them at once.

use redis::{Cmd, Value};
use tracing::warn;

use crate::connection::{Purpose, Redis};
use crate::error::RedisError;
use crate::info::Info;
use crate::keys::{RelayKeys, SiteName};
use crate::lane::Lane;
use crate::value;

/// Who asks: each role needs other rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A bridge: appends publications, takes requests, publishes replies.
    Bridge,
    /// A site: reads publications, sends requests. Whether it may listen is told by listening.
    Site,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// `redis_version`, such as `7.0.15`; Valkey names the Redis it is compatible with.
    pub version: String,
    /// `role`: `master` or `slave`, empty when the user may not see it.
    pub role: String,
    /// What an operator should change although it works: also in the log.
    pub warnings: Vec<String>,
}

impl Redis {
    /// Checks version, streams, role and rights at the primary, and at the server that is read at.
    ///
    /// # Errors
    /// The first server that cannot be used and why: unreachable, sign-in refused, no streams, a
    /// replica where the primary is needed, or all missing rights.
    pub async fn check(&self, keys: &RelayKeys, role: Role) -> Result<ServerInfo, RedisError> {
        let primary = self.write_lane(Purpose::Check);
        let info = server_info(&primary).await?;
        if info.role == "slave" {
            let url = primary.endpoint.url();
            return Err(RedisError::ReadOnly {
                operation: "check",
                url,
            });
        }
        let (mut writes, mut reads) = match role {
            Role::Bridge => (bridge_writes(keys), Vec::new()),
            Role::Site => (site_writes(keys), site_reads(keys)),
        };
        let nearest = self.read_lane(Purpose::Check);
        if std::sync::Arc::ptr_eq(&nearest.endpoint, &primary.endpoint) {
            writes.append(&mut reads);
        }
        try_rights(&primary, &writes).await?;
        if !reads.is_empty() {
            server_info(&nearest).await?;
            try_rights(&nearest, &reads).await?;
        }
        Ok(info)
    }
}

async fn server_info(lane: &Lane) -> Result<ServerInfo, RedisError> {
    let limit = lane.endpoint.op_timeout;
    lane.command("PING", &redis::cmd("PING"), limit).await?;
    let info = lane.command("INFO", &redis::cmd("INFO"), limit).await?;
    let info = Info::new(info);
    let info = ServerInfo {
        version: info.field("redis_version").to_owned(),
        role: info.field("role").to_owned(),
        warnings: warnings(&info, &lane.endpoint.url()),
    };
    for warning in &info.warnings {
        warn!("{warning}");
    }
    let major = info.version.split('.').next().and_then(value::digits);
    if major.is_some_and(|major| major < 5) {
        let url = lane.endpoint.url();
        return Err(RedisError::NoStreams {
            url,
            text: format!("version {}", info.version),
        });
    }
    Ok(info)
}

/// Settings under which Redis throws away what it took.
fn warnings(info: &Info, url: &str) -> Vec<String> {
    let policy = info.field("maxmemory_policy");
    if policy.is_empty() || policy == "noeviction" {
        return Vec::new();
    }
    vec![format!(
        "Redis at {url} has maxmemory-policy {policy}: when its memory is full it throws away publications, requests or the marks by which doubles are known; set noeviction"
    )]
}

/// A command to be tried.
pub(crate) struct Try {
    command: Cmd,
    /// Its name and its first argument, mostly the key: Redis names only one of the two.
    text: String,
}

fn words(words: &[&str]) -> Try {
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    let text = words.get(..words.len().min(2)).unwrap_or_default();
    Try {
        command,
        text: text.join(" "),
    }
}

/// Stands where an id or a number has to be.
const BAD: &str = "not-valid";

fn bridge_writes(keys: &RelayKeys) -> Vec<Try> {
    let (stream, head, requests) = (keys.publications(), keys.head(), keys.requests());
    let seen = keys.seen("check");
    let replies = keys.replies_pattern().replace('*', "check");
    vec![
        words(&["EVALSHA", &"0".repeat(40), "1", &head]),
        words(&["SCRIPT", "LOAD", "return 0"]),
        words(&["GET", &seen]),
        words(&["SET", &seen, "1", BAD]),
        words(&["HMGET", &head, "epoch", "number", "run"]),
        words(&["HSET", &head, "epoch", "1", "number"]),
        words(&["XADD", &stream, BAD, "v", "1"]),
        words(&["XINFO", "STREAM", &stream]),
        words(&["PUBLISH", &replies, "v=1\n"]),
        words(&["XGROUP", "CREATE", &requests, "bridges", BAD]),
        words(&[
            "XREADGROUP",
            "GROUP",
            "bridges",
            "check",
            "STREAMS",
            &requests,
            BAD,
        ]),
        words(&["XACK", &requests, "bridges", BAD]),
        words(&["XDEL", &requests, BAD]),
        words(&["XCLAIM", &requests, "bridges", "check", "0", BAD]),
    ]
}

fn site_writes(keys: &RelayKeys) -> Vec<Try> {
    vec![
        words(&["XADD", &keys.requests(), BAD, "v", "1"]),
        words(&["EVALSHA", &"0".repeat(40), "0"]),
        words(&["SCRIPT", "LOAD", "return 0"]),
        words(&["TIME"]),
    ]
}

/// What [`crate::SiteLease`] does, with the keys of its site: a user may be allowed those only.
pub(crate) fn lease_writes(keys: &RelayKeys, site: &SiteName) -> Vec<Try> {
    let (lease, fence, position) = (keys.lease(site), keys.fence(site), keys.position(site));
    let mut commands = vec![
        words(&["HGET", &lease, "holder"]),
        words(&["HGET", &fence, "fence"]),
        words(&["PTTL", &lease]),
        words(&["PEXPIRE", &lease, BAD]),
    ];
    for key in [&lease, &fence, &position] {
        commands.push(words(&["HMGET", key, "fence", "id"]));
        commands.push(words(&["HSET", key, "fence", "1", "id"]));
    }
    commands
}

fn site_reads(keys: &RelayKeys) -> Vec<Try> {
    vec![
        words(&["HMGET", &keys.head(), "epoch", "number"]),
        words(&["XRANGE", &keys.publications(), BAD, "+"]),
        words(&["MULTI"]),
        words(&["EXEC"]),
    ]
}

/// Tries the commands; refused arguments are as good as success, refused rights are collected.
pub(crate) async fn try_rights(lane: &Lane, tries: &[Try]) -> Result<(), RedisError> {
    let mut pipeline = redis::Pipeline::with_capacity(tries.len());
    for each in tries {
        pipeline.add_command(each.command.clone());
    }
    let mut missing = Vec::new();
    let values = lane
        .pipeline("check rights", &pipeline, lane.endpoint.op_timeout)
        .await?;
    for (each, value) in tries.iter().zip(values) {
        let Value::ServerError(_) = value else {
            continue;
        };
        match lane.endpoint.value("check rights", value) {
            Err(RedisError::NotPermitted { text, .. }) => {
                missing.push(format!("{}: {text}", each.text));
            }
            Err(error @ (RedisError::NoStreams { .. } | RedisError::WrongPassword { .. })) => {
                return Err(error);
            }
            Ok(_) | Err(_) => {}
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(RedisError::NotPermitted {
        url: lane.endpoint.url(),
        text: missing.join("; "),
    })
}
