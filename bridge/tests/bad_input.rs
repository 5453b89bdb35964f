//! What an operator may get wrong beside the top master: each mistake is told with its file, key and remedy, and ends the
//! process with an error.

use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use standin::StandinMom;
use testkit::{Address, Daemon, RedisServer, Workspace};

/// A MoM whose files are in order, and a Redis; each test breaks one thing.
struct Etc {
    workspace: Workspace,
    mom: StandinMom,
    redis: RedisServer,
}

impl Etc {
    fn new() -> Self {
        let workspace = Workspace::new().expect("a workspace");
        Self {
            mom: StandinMom::start(&workspace, "mom").expect("a stand-in"),
            redis: RedisServer::builder("redis")
                .start(&workspace)
                .expect("a redis-server"),
            workspace,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.workspace.path().join(name)
    }

    /// Lines of a configuration that is in order; a line of `changes` replaces the one with the same key.
    fn yaml(&self, changes: &str) -> String {
        let lines = [
            "mom: main".to_owned(),
            format!("salt_config: {}", self.mom.config_file().display()),
            format!("redis: {{url: \"{}\"}}", self.redis.url()),
            format!("state_dir: {}", self.path("state").display()),
            "http: {listen: \"127.0.0.1:0\"}".to_owned(),
        ];
        let key = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        let changed: Vec<String> = changes.lines().map(key).collect();
        let kept = lines
            .into_iter()
            .filter(|line| !changed.contains(&key(line)));
        kept.chain([changes.to_owned()])
            .collect::<Vec<_>>()
            .join("\n")
            + "\n"
    }

    fn run(&self, yaml: &str, args: &[&str]) -> Output {
        let file = self.path("saltway.yaml");
        fs::write(&file, yaml).expect("written");
        run(&file, args, None)
    }

    /// Expects the daemon to end by itself with code 1 after telling all of `texts`.
    #[track_caller]
    fn refused(&self, changes: &str, texts: &[&str]) {
        assert_told(&self.run(&self.yaml(changes), &[]), texts);
    }
}

/// Runs the bridge; one that has not ended after 20 s has accepted what it should have refused.
fn run(file: &Path, args: &[&str], path: Option<&Path>) -> Output {
    let mut command = Command::new("/usr/bin/timeout");
    command
        .args(["-s", "KILL", "20", env!("CARGO_BIN_EXE_saltway-bridge")])
        .arg("--config")
        .arg(file)
        .args(args)
        .env_remove("SALTWAY_LOG");
    if let Some(path) = path {
        command.env("PATH", path);
    }
    command.output().expect("started")
}

#[track_caller]
fn assert_told(output: &Output, texts: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    for text in texts {
        assert!(told.contains(text), "{text:?} is not in:\n{told}");
    }
}

#[test]
fn real_files_that_cannot_be_read_are_named() {
    let etc = Etc::new();
    let output = etc.run(&etc.yaml(""), &["--check"]);
    assert!(output.status.success(), "{output:?}");
    assert_told(
        &run(&etc.path("missing.yaml"), &[], None),
        &["missing.yaml", "No such file"],
    );
    etc.refused("salt_config: /nonexistent/master", &["/nonexistent/master"]);
    etc.refused("redis: {url: \"redis://127.0.0.1:1\"", &["saltway.yaml:5"]);
}

#[test]
fn real_every_mistake_is_told_at_once_with_and_without_check() {
    let etc = Etc::new();
    fs::write(etc.mom.config_file(), "publish_port: many\n").expect("written");
    let changes = "mom: \"not a name\"\npublication_max: 5\nmom_requests: 0\nbridge: a/b\n\
                   redis: {listen: nowhere, persistence: perhaps}";
    let texts = [
        "publication_max",
        "did you mean `publications_max`",
        "mom_requests",
        "bridge",
        "redis.listen",
        "redis.persistence",
        "mom/master",
        "publish_port",
    ];
    for args in [&["--check"][..], &[]] {
        assert_told(&etc.run(&etc.yaml(changes), args), &texts);
    }
}

#[test]
fn real_redis_that_will_not_do_is_told_with_the_remedy() {
    let etc = Etc::new();
    let url = etc.redis.url();
    fs::write(etc.path("password"), "wrong\n").expect("written");
    let password = format!("password_file: {}", etc.path("password").display());
    let wrong = format!("redis: {{url: \"{url}\", username: nobody, {password}}}");
    etc.refused(&wrong, &["refused the sign-in", "redis.password_file"]);
    let rules = [
        "ACL", "SETUSER", "weak", "on", ">wrong", "+ping", "+info", "+select",
    ];
    assert_eq!(etc.redis.cli(&rules).expect("set").code, 0);
    let weak = format!("redis: {{url: \"{url}\", username: weak, {password}}}");
    etc.refused(
        &weak,
        &["does not permit", "xadd", "xreadgroup", "redis-acl.conf"],
    );
}

/// A server that speaks Redis' protocol and has none of its newer commands.
fn old_redis(version: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve_old(stream, version));
        }
    });
    address
}

/// Answers until the client goes; a client that goes is no error.
fn serve_old(mut stream: std::net::TcpStream, version: &str) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let count = read_number(&mut reader, '*')?;
        let mut words = Vec::new();
        for _ in 0..count {
            let mut word = vec![0; read_number(&mut reader, '$')? + 2];
            reader.read_exact(&mut word).ok()?;
            let word = String::from_utf8_lossy(&word);
            words.push(word.trim_end_matches("\r\n").to_uppercase());
        }
        let command = words.first()?.as_str();
        let info = format!("redis_version:{version}\r\nrun_id:ab\r\nrole:master\r\n");
        let answer = match command {
            "PING" => "+PONG\r\n".to_owned(),
            "INFO" => format!("${}\r\n{info}\r\n", info.len()),
            "SELECT" | "CLIENT" => "+OK\r\n".to_owned(),
            "XADD" | "XINFO" | "XGROUP" | "XREADGROUP" | "XACK" | "XDEL" | "XCLAIM" => {
                format!("-ERR unknown command '{}'\r\n", command.to_lowercase())
            }
            _ => "-ERR wrong number of arguments\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

fn read_number(reader: &mut impl BufRead, mark: char) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    line.trim_end().strip_prefix(mark)?.parse().ok()
}

#[test]
fn real_redis_without_streams_is_refused() {
    let etc = Etc::new();
    let redis = |address| format!("redis: {{url: \"redis://{address}\"}}");
    let texts = ["has no streams", "version 4.0.9", "Redis 5 or later"];
    etc.refused(&redis(old_redis("4.0.9")), &texts);
    // One that claims a newer version, or hides it behind an ACL, is found out by its commands.
    etc.refused(
        &redis(old_redis("7.0.0")),
        &["has no streams", "unknown command", "Redis 5 or later"],
    );
}

#[test]
fn real_state_dir_has_to_be_ours_alone() {
    let etc = Etc::new();
    fs::write(etc.path("file"), "").expect("written");
    let below = |name: &str| format!("state_dir: {}", etc.path(name).display());
    etc.refused(&below("file"), &["is not a directory", "state_dir"]);
    etc.refused(&below("file/below"), &["failed to create", "state_dir"]);
    fs::create_dir(etc.path("open")).expect("made");
    fs::set_permissions(etc.path("open"), fs::Permissions::from_mode(0o777)).expect("set");
    etc.refused(&below("open"), &["writable by everybody", "chmod"]);
    // Even root cannot write below /proc.
    etc.refused("state_dir: /proc/saltway", &["/proc/saltway", "state_dir"]);
}

#[test]
fn real_state_dir_and_port_of_a_running_bridge_are_refused_to_a_second() {
    let etc = Etc::new();
    let mut bridge = Daemon::bridge("bridge", etc.mom.config_file())
        .redis(&etc.redis.url())
        .start(&etc.workspace)
        .expect("started");
    bridge.ready().expect("ready");
    let second = run(bridge.config_file(), &[], None);
    assert_told(&second, &["is in use by another bridge", "state_dir"]);
    let taken = format!("http: {{listen: \"{}\"}}", bridge.http());
    etc.refused(&taken, &["failed to listen", "http.listen"]);
    assert_eq!(bridge.get("/readyz").expect("an answer").0, 200);
}

#[test]
fn real_managed_redis_that_cannot_start_is_told_with_the_remedy() {
    let etc = Etc::new();
    let taken = format!("redis: {{listen: \"{}\"}}", etc.redis.socket());
    etc.refused(&taken, &["the address is in use", "redis.url"]);
    let free = Address::lease().expect("an address").socket(6379);
    let file = etc.path("saltway.yaml");
    let empty = etc.path("empty");
    fs::create_dir(&empty).expect("made");
    let managed = format!("redis: {{listen: \"{free}\"}}");
    fs::write(&file, etc.yaml(&managed)).expect("written");
    let texts = [
        "failed to run redis-server",
        "install redis-server",
        "redis.url",
    ];
    assert_told(&run(&file, &[], Some(&empty)), &texts);
    let other = format!("redis: {{listen: \"{free}\", program: /nonexistent/redis}}");
    etc.refused(&other, &["/nonexistent/redis"]);
}
