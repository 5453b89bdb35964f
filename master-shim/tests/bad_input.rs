//! What an operator may get wrong at a site: each mistake is told with its file, key and remedy, and ends the process with an error.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use standin::{Door, Framing, Relay, StandinLowerMaster};
use testkit::{RedisServer, Workspace, await_that};

const SOON: Duration = Duration::from_secs(20);

/// A site whose files are in order, and a Redis; each test breaks one thing.
struct Etc {
    workspace: Workspace,
    lower: StandinLowerMaster,
    redis: RedisServer,
}

impl Etc {
    fn new() -> Self {
        let workspace = Workspace::new().expect("a workspace");
        let upstreams = ["127.0.0.1".to_owned()];
        let lower = StandinLowerMaster::start(
            &workspace,
            "site1",
            &upstreams,
            &["a1"],
            Framing::Streaming,
            "",
            "",
        );
        let redis = RedisServer::builder("redis").start(&workspace);
        Self {
            lower: lower.expect("a stand-in"),
            redis: redis.expect("a redis-server"),
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
            format!("salt_config: {}", self.lower.config_file().display()),
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
        run(&file, args)
    }

    /// Expects the daemon to end by itself with code 1 after telling all of `texts`.
    #[track_caller]
    fn refused(&self, changes: &str, texts: &[&str]) -> String {
        let told = told(&self.run(&self.yaml(changes), &[]));
        for text in texts {
            assert!(told.contains(text), "{text:?} is not in:\n{told}");
        }
        told
    }
}

/// Runs the shim; one that has not ended after 20 s has accepted what it should have refused.
fn run(file: &Path, args: &[&str]) -> Output {
    Command::new("timeout")
        .args([
            "-s",
            "KILL",
            "20",
            env!("CARGO_BIN_EXE_saltway-master-shim"),
        ])
        .arg("--config")
        .arg(file)
        .args(args)
        .env_remove("SALTWAY_LOG")
        .output()
        .expect("started")
}

#[track_caller]
fn told(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    told
}

#[test]
fn real_configuration_that_is_in_order_is_valid() {
    let etc = Etc::new();
    let output = etc.run(&etc.yaml(""), &["--check"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && told.contains("configuration is valid"),
        "{output:?}"
    );
}

#[test]
fn real_files_that_cannot_be_read_are_named() {
    let etc = Etc::new();
    let missing = etc.path("missing.yaml");
    let said = told(&run(&missing, &["--check"]));
    assert!(
        said.contains("missing.yaml") && said.contains("No such file"),
        "{said}"
    );
    let said = told(&run(etc.workspace.path(), &["--check"]));
    assert!(said.contains("directory"), "{said}");
    let binary = etc.path("binary.yaml");
    fs::write(&binary, b"\xff\xfe\x00mom: main").expect("written");
    let said = told(&run(&binary, &["--check"]));
    assert!(said.contains("binary.yaml"), "{said}");
    etc.refused("salt_config: /nonexistent/master", &["/nonexistent/master"]);
}

#[test]
fn real_syntax_error_is_told_with_its_line() {
    let etc = Etc::new();
    etc.refused("redis: {url: \"redis://127.0.0.1:1\"", &["saltway.yaml:5"]);
    fs::write(
        etc.lower.config_file(),
        "interface: [127.0.0.1\nuser: root\n",
    )
    .expect("written");
    etc.refused("", &["site1/master:"]);
}

#[test]
fn real_every_mistake_is_told_at_once_with_and_without_check() {
    let etc = Etc::new();
    let changes = "mom: \"not a name\"\njob_tll: 5m\njob_ttl: soon\nanswer_as_site: perhaps\n\
                   http: {listen: nowhere}\nredis: {url: \"http://127.0.0.1\", op_timeout: 1ms}";
    let texts = [
        "saltway.yaml",
        "job_tll",
        "job_ttl",
        "answer_as_site",
        "http.listen",
        "redis.url",
        "redis.op_timeout",
        "mom",
    ];
    for args in [&["--check"][..], &[]] {
        let said = told(&etc.run(&etc.yaml(changes), args));
        for text in texts {
            assert!(said.contains(text), "{text:?} is not in:\n{said}");
        }
    }
}

#[test]
fn real_unknown_key_is_refused_with_a_suggestion() {
    let etc = Etc::new();
    etc.refused("job_tll: 5m", &["job_tll", "did you mean `job_ttl`"]);
    etc.refused("http: {lisen: x}", &["http.lisen", "did you mean `listen`"]);
    // Keys of the other daemon are no mistake: the two may share a file.
    let output = etc.run(&etc.yaml("publications_max: 5"), &["--check"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn real_relays_have_to_match_the_masters_above() {
    let etc = Etc::new();
    etc.refused(
        "mom: [main, second]",
        &[
            "mom",
            "2 relays",
            "syndic_master",
            "1 masters",
            "site1/master",
        ],
    );
    etc.refused("mom: []", &["mom"]);
    let without = fs::read_to_string(etc.lower.config_file())
        .expect("read")
        .lines()
        .filter(|line| !line.starts_with("syndic_master"))
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    fs::write(etc.lower.config_file(), without).expect("written");
    etc.refused("", &["syndic_master", "site1/master"]);
}

#[test]
fn real_key_files_that_are_none_are_named_and_left_alone() {
    let etc = Etc::new();
    let pki = etc.lower.minion_pki_dir();
    fs::create_dir_all(&pki).expect("made");
    fs::write(pki.join("minion.pem"), "garbage").expect("written");
    etc.refused("", &["minion.pem"]);
    assert_eq!(fs::read(pki.join("minion.pem")).expect("read"), b"garbage");
    fs::remove_file(pki.join("minion.pem")).expect("removed");
    // A key of the master's that is none would let any master in if it were ignored.
    fs::write(pki.join("syndic_master.pub"), "garbage").expect("written");
    let yaml = etc.yaml("");
    let said = run_for(&etc, &yaml, "syndic_master.pub");
    assert!(said.contains("syndic_master.pub"), "{said}");
}

/// Runs the shim until its log holds `text`, or it ends.
fn run_for(etc: &Etc, yaml: &str, text: &str) -> String {
    let file = etc.path("saltway.yaml");
    fs::write(&file, yaml).expect("written");
    let log = etc.path("log");
    let mut child = Command::new(env!("CARGO_BIN_EXE_saltway-master-shim"))
        .arg("--config")
        .arg(&file)
        .env_remove("SALTWAY_LOG")
        .stderr(fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("started");
    let read = || fs::read_to_string(&log).unwrap_or_default();
    await_that(text, SOON, || {
        let ended = child.try_wait().expect("asked").is_some();
        if ended || read().contains(text) {
            Ok(())
        } else {
            Err(read())
        }
    });
    // It may have ended by itself.
    child.kill().ok();
    child.wait().expect("ended");
    read()
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
        &["does not permit", "xadd", "xrange", "redis-acl.conf"],
    );
    let secret = "redis: {url: \"redis://user:geheim@127.0.0.1:6379\"}";
    let said = etc.refused(secret, &["redis.url", "password_file"]);
    assert!(!said.contains("geheim"), "the secret is told: {said}");
    let missing = format!("redis: {{url: \"{url}\", password_file: /nonexistent/password}}");
    etc.refused(&missing, &["redis.password_file", "/nonexistent/password"]);
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
    // A cursor that is none must not be guessed at.
    fs::create_dir(etc.path("kept")).expect("made");
    fs::write(etc.path("kept/cursor-main"), "yesterday").expect("written");
    etc.refused(&below("kept"), &["cursor-main", "yesterday", "remove it"]);
    assert_eq!(
        fs::read(etc.path("kept/cursor-main")).expect("read"),
        b"yesterday"
    );
}

#[test]
fn real_state_dir_and_port_of_a_running_shim_are_refused_to_a_second() {
    let relay = Relay::builder()
        .site("site1", &["a1"])
        .start()
        .expect("a relay");
    let site = relay.site(0).expect("a site");
    let said = told(&run(site.shim.config_file(), &[]));
    assert!(said.contains("is in use by another master-shim"), "{said}");
    let yaml = fs::read_to_string(site.shim.config_file()).expect("read");
    let other = relay.workspace.path().join("other");
    let state_dir = site.shim.state_dir().display().to_string();
    let yaml = yaml.replace(&state_dir, &other.display().to_string());
    let file = relay.workspace.path().join("second.yaml");
    fs::write(&file, yaml).expect("written");
    let said = told(&run(&file, &[]));
    assert!(
        said.contains("failed to listen") && said.contains("http.listen"),
        "{said}"
    );
    assert_eq!(site.shim.get("/readyz").expect("an answer").0, 200);
}

#[test]
fn real_mom_that_rejects_the_key_is_told_once_and_asked_again() {
    let relay = Relay::builder().site("site1", &["a1"]);
    let relay = relay
        .minion_extra("acceptance_wait_time: 1\n")
        .launch()
        .expect("a relay");
    let mut relay = relay;
    relay.mom.set_door(Door::Pending);
    let site = relay.sites.first_mut().expect("a site");
    // It may have been let in before the door was closed.
    site.shim.kill();
    fs::remove_dir_all(site.lower.minion_pki_dir()).ok();
    site.shim.start().expect("started");
    let readyz = |text: &str| {
        await_that(text, SOON, || match site.shim.get("/readyz") {
            Ok((503, body)) if body.contains(text) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    readyz("salt-key -a site1");
    let before = relay.mom.seen(|seen| seen.sign_ins);
    await_that("five more sign-ins", SOON, || {
        match relay.mom.seen(|seen| seen.sign_ins) {
            now if now >= before + 5 => Ok(()),
            now => Err(now),
        }
    });
    let log = site.shim.log().expect("a log");
    assert_eq!(log.matches("salt-key -a").count(), 1, "{log}");
    assert_eq!(site.shim.get("/healthz").expect("an answer").0, 200);
    relay.mom.set_door(Door::Rejected);
    readyz("salt-key -L");
    let log = site.shim.log().expect("a log");
    assert_eq!(log.matches("salt-key -L").count(), 1, "{log}");
}
