//! Runs a daemon as its supervisor does: arguments, signals, exit code, what it prints.

#![expect(
    clippy::unwrap_used,
    reason = "a test's own helpers fail the test by panicking"
)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

/// The example `idle`, which `cargo test` builds when it is not told to build less.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let dir = test.parent().and_then(Path::parent).unwrap();
    let program = dir.join("examples/idle");
    assert!(
        program.exists(),
        "run `cargo test -p daemon-kit`, which builds the example `idle`"
    );
    program
}

struct Etc(tempfile::TempDir);

impl Etc {
    fn new(text: &str) -> Self {
        let etc = Self(tempfile::tempdir().unwrap());
        std::fs::write(etc.file(), text).unwrap();
        etc
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("saltway.yaml")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        command
            .arg("--config")
            .arg(self.file())
            .env_remove("SALTWAY_LOG");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn output(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command().args(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }
}

/// A daemon that runs; killed when a test fails before it has ended.
struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    fn start(etc: &Etc) -> Self {
        let mut child = etc.command().spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut running = Self { child, log };
        running.until("ready");
        running
    }

    /// Reads the log until a line holds `text`.
    fn until(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(
                self.log.read_line(&mut line).unwrap() > 0,
                "ended before it said {text}"
            );
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// The exit code and the rest of the log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already when the test went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const SOUND: &str = "mom: main\nhttp: {listen: '127.0.0.1:0'}\n";

#[test]
fn check_tells_a_valid_configuration() {
    let etc = Etc::new(SOUND);
    let (code, out, err) = etc.output(&["--check"]);
    let expected = format!("{}: configuration is valid\n", etc.file().display());
    assert_eq!((code, out, err), (Some(0), expected, String::new()));
}

#[test]
fn check_tells_every_mistake_and_fails() {
    let etc = Etc::new("htp: {}\nlog: {level: loud=x}\n");
    let (code, out, err) = etc.output(&["--check"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    for expected in [
        "mom: missing",
        ":1: htp: unknown key; did you mean `http`?",
        "log.level",
    ] {
        assert!(err.contains(expected), "{expected} is not in\n{err}");
    }
    assert_eq!(etc.output(&[]).0, Some(1), "it does not start either");
}

#[test]
fn the_first_signal_ends_it_in_order() {
    for signal in ["TERM", "INT"] {
        let running = Running::start(&Etc::new(SOUND));
        running.signal(signal);
        let (code, log) = running.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(
            log.contains(&format!("SIG{signal}")) && log.contains("ended"),
            "{log}"
        );
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut running = Running::start(&Etc::new(&format!("{SOUND}stubborn: true\n")));
    running.signal("TERM");
    running.until("ending");
    running.signal("TERM");
    let (code, log) = running.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("a second signal"), "{log}");
}

#[test]
fn a_task_that_panics_ends_it_with_the_name_of_the_task() {
    let (code, _, log) = Etc::new(&format!("{SOUND}shaky: true\n")).output(&[]);
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("task shaky panicked: the mom is main"),
        "{log}"
    );
}

#[test]
fn an_address_in_use_is_told_with_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let etc = Etc::new(&format!("mom: main\nhttp: {{listen: '{listen}'}}\n"));
    let (code, _, log) = etc.output(&[]);
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains(&listen.to_string()) && log.contains("http.listen"),
        "{log}"
    );
}

#[test]
fn logs_go_to_a_file_as_json() {
    let etc = Etc::new(SOUND);
    let file = etc.0.path().join("log");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let text = format!(
        "mom: main\nhttp: {{listen: '{listen}'}}\nlog: {{format: json, file: {}}}\n",
        file.display()
    );
    std::fs::write(etc.file(), text).unwrap();
    let (_, _, err) = etc.output(&[]);
    assert!(
        err.starts_with("failed to listen"),
        "the terminal hears why it ended: {err}"
    );
    let log = std::fs::read_to_string(file).unwrap();
    assert!(
        log.lines()
            .all(|line| line.starts_with('{') && line.ends_with('}')),
        "{log}"
    );
    assert!(log.contains(r#""level":"ERROR""#), "{log}");
}
