//! A `redis-server` for one test, on a free port, under the users of `configs/redis-acl.conf`.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redis_link::{
    AppendOutcome, Appended, Appender, AppenderConfig, Frame, Redis, RedisConfig, RedisError,
    RelayKeys, SiteName,
};

const ACL: &str = include_str!("../../../../configs/redis-acl.conf");

/// A running server; killed when dropped.
pub(crate) struct Server {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) addr: SocketAddr,
    child: Option<Child>,
}

/// An address that was free a moment ago.
pub(crate) fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("an address")
}

impl Server {
    /// Starts a server that keeps a log of writes, so that it can be restarted.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server with further configuration lines.
    pub(crate) fn start_with(lines: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("users.acl"), users(ACL)).expect("written");
        for name in ["bridge", "site"] {
            fs::write(dir.path().join(name), format!("change-me-{name}\n")).expect("written");
        }
        fs::write(dir.path().join("wrong"), "wrong\n").expect("written");
        // Of lines with the same name the last one counts.
        let lines = format!("save \"\"\nappendonly yes\nappendfsync always\n{lines}");
        fs::write(dir.path().join("redis.conf"), lines).expect("written");
        let mut server = Self {
            dir,
            addr: free_addr(),
            child: None,
        };
        server.restart();
        server
    }

    /// Adds lines to its configuration file, for its next start.
    pub(crate) fn add_lines(&self, lines: &str) {
        let path = self.dir.path().join("redis.conf");
        let before = fs::read_to_string(&path).expect("it is there");
        fs::write(path, before + lines).expect("written");
    }

    /// Starts it (again) on its address and waits until it accepts connections.
    pub(crate) fn restart(&mut self) {
        self.restart_without_waiting();
        for _ in 0..500 {
            let info = redis::Client::open(format!("redis://{}", self.addr)).expect("a client");
            if info
                .get_connection()
                .is_ok_and(|mut c| redis::cmd("PING").query::<String>(&mut c).is_ok())
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("redis-server did not answer at {}", self.addr);
    }

    /// As [`Self::restart`], and returns at once.
    pub(crate) fn restart_without_waiting(&mut self) {
        let child = Command::new("redis-server")
            .args([&self.dir.path().join("redis.conf")])
            .args([
                "--port",
                &self.addr.port().to_string(),
                "--bind",
                "127.0.0.1",
            ])
            .args([
                "--aclfile",
                &self.dir.path().join("users.acl").display().to_string(),
            ])
            .args(["--dir", &self.dir.path().display().to_string()])
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
    }

    /// Stops it from answering without closing a connection.
    pub(crate) fn stall(&self) {
        self.signal("STOP");
    }

    /// A section of its `INFO`.
    pub(crate) fn info(&self, section: &str) -> String {
        text(self.admin(&[b"INFO", section.as_bytes()]))
    }

    /// The number in its head; 0 without one.
    pub(crate) fn head_number(&self) -> u64 {
        let head = keys().head();
        let number = text(self.admin(&[b"HGET", head.as_bytes(), b"number"]));
        number.parse().unwrap_or_default()
    }

    /// Lets it answer again.
    pub(crate) fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("runs").id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status();
        assert!(status.expect("kill runs").success());
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How the user of this role connects.
    pub(crate) fn config(&self, role: &str) -> RedisConfig {
        let mut config = RedisConfig::new(format!("redis://{}", self.addr));
        config.username = Some(format!("saltway-{role}"));
        config.password_file = Some(self.file(role));
        config
    }

    pub(crate) fn redis(&self, role: &str) -> Redis {
        open(&self.config(role))
    }

    /// Runs a command as the administrator.
    pub(crate) fn admin(&self, words: &[&[u8]]) -> redis::Value {
        let client = redis::Client::open(format!("redis://{}", self.addr)).expect("a client");
        let mut connection = client.get_connection().expect("connected");
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut connection).expect("done")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A reply as text; empty for none.
pub(crate) fn text(reply: redis::Value) -> String {
    redis::from_redis_value::<Option<String>>(reply)
        .expect("text")
        .unwrap_or_default()
}

/// Only the `user` lines: an aclfile takes no comments.
fn users(acl: &str) -> String {
    let mut lines: Vec<&str> = acl
        .lines()
        .filter(|line| line.starts_with("user "))
        .collect();
    lines.push("user default on nopass ~* &* +@all");
    lines.join("\n") + "\n"
}

pub(crate) fn open(config: &RedisConfig) -> Redis {
    Redis::new(config, Arc::new(|_| {})).expect("a valid configuration")
}

/// Counts reconnects.
pub(crate) fn counted(config: &RedisConfig) -> (Redis, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let hook = Arc::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    (
        Redis::new(config, hook).expect("a valid configuration"),
        count,
    )
}

pub(crate) fn keys() -> RelayKeys {
    RelayKeys::new("main").expect("a name")
}

pub(crate) fn site(name: &str) -> SiteName {
    SiteName::new(name).expect("a name")
}

pub(crate) fn appender(server: &Server, bridge: &str) -> Appender {
    Appender::new(
        &server.redis("bridge"),
        keys(),
        site(bridge),
        AppenderConfig::default(),
    )
}

/// Appends, and begins an epoch first where the server asks for it.
pub(crate) async fn append(
    appender: &Appender,
    frames: &[Frame],
) -> Result<Vec<Appended>, RedisError> {
    loop {
        match appender.append(frames).await? {
            AppendOutcome::Appended(appended) => return Ok(appended),
            AppendOutcome::Stale => drop(appender.begin_epoch(now_ms()).await?),
        }
    }
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    u64::try_from(now.as_millis()).expect("fits")
}

pub(crate) fn frame(text: impl Into<String>) -> Frame {
    Frame {
        received_at_ms: now_ms(),
        frame: Bytes::from(text.into()),
    }
}
