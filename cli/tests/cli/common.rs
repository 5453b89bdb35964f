//! A bridge of answers from files, and the command run against it.
//!
//! The answers are `tests/data/*.json`, which the tests of the Salt extension and of the status page
//! use, too: one picture of the API for everybody who reads it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use openssl::ssl::{SslAcceptor, SslStream};

/// What the fake bridge answers, by path without its query; the last answer of a list stays.
pub(crate) type Answers = HashMap<String, Vec<(u16, String)>>;

/// A fake bridge on a port of its own, until the test ends.
pub(crate) struct Bridge {
    pub(crate) url: String,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

impl Bridge {
    /// The bridge of the files.
    pub(crate) fn of_files() -> Self {
        let mut answers = Answers::new();
        for (path, file) in [
            ("/api/v1/status", "status"),
            ("/api/v1/sites", "sites"),
            ("/api/v1/jobs", "jobs"),
            ("/api/v1/jobs/20261121173800110002", "job"),
            ("/api/v1/jobs/20261121174030110001", "job-open"),
            ("/api/v1/jobs/20261121172000110004", "job-complete"),
            ("/api/v1/jobs/20261121173800110002/missing", "missing"),
            ("/api/v1/jobs/20261121172000110004/missing", "missing-none"),
            ("/api/v1/roster", "roster"),
        ] {
            answers.insert(path.to_owned(), vec![(200, data(file))]);
        }
        let ready = "started: ok\nevent bus: ok\nmom: no: publish port not connected\n";
        answers.insert("/readyz".to_owned(), vec![(503, ready.to_owned())]);
        Self::new(answers, None)
    }

    /// A bridge of `answers`, which wants `token` if there is one.
    pub(crate) fn new(answers: Answers, token: Option<&'static str>) -> Self {
        Self::start(answers, token, None)
    }

    /// A bridge of the files behind TLS.
    pub(crate) fn secured(acceptor: SslAcceptor) -> Self {
        let answers = Answers::from([("/api/v1/status".to_owned(), vec![(200, data("status"))])]);
        Self::start(answers, None, Some(acceptor))
    }

    fn start(answers: Answers, token: Option<&'static str>, tls: Option<SslAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let mut answers = answers;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                match &tls {
                    None => serve(&stream, &stream, &mut answers, token, &log),
                    Some(acceptor) => {
                        // A client that trusts nobody ends the handshake.
                        if let Ok(mut stream) = acceptor.accept(stream) {
                            serve_secured(&mut stream, &mut answers, token, &log);
                        }
                    }
                }
            }
        });
        Self { url, asked }
    }

    /// Runs `saltway --url <this> <args>`.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let mut all = vec!["--url", &self.url, "--config", "/nonexistent"];
        all.extend(args);
        run(&all)
    }
}

fn serve_secured(
    stream: &mut SslStream<TcpStream>,
    answers: &mut Answers,
    token: Option<&str>,
    log: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    serve(head.as_slice(), stream, answers, token, log);
}

fn serve(
    input: impl Read,
    mut output: impl Write,
    answers: &mut Answers,
    token: Option<&str>,
    log: &Mutex<Vec<String>>,
) {
    let mut lines = BufReader::new(input).lines();
    let Some(Ok(first)) = lines.next() else {
        return;
    };
    let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let wanted = token.map(|token| format!("authorization: Bearer {token}").to_lowercase());
    let permitted =
        wanted.is_none_or(|wanted| headers.iter().any(|header| header.to_lowercase() == wanted));
    let path = target.split('?').next().unwrap_or_default();
    let (status, body) = match answers.get_mut(path) {
        _ if !permitted => (401, data("unauthorized")),
        None => (404, data("not-found")),
        Some(list) if list.len() > 1 => list.remove(0),
        Some(list) => list[0].clone(),
    };
    log.lock().expect("no panic").push(target);
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // A client that hangs up early is its test's business.
    drop(
        output
            .write_all(head.as_bytes())
            .and_then(|()| output.write_all(body.as_bytes())),
    );
}

/// What a run of the command printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs `saltway <args>` in a width of 80 columns, without a terminal.
pub(crate) fn run(args: &[&str]) -> Ran {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_saltway"))
        .args(args)
        .env_remove("SALTWAY_URL")
        .env("COLUMNS", "80")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()
        .expect("started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ran {
        code: output.status.code().expect("an exit code"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// The answer in `tests/data/<name>.json`.
pub(crate) fn data(name: &str) -> String {
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(format!("{name}.json"));
    std::fs::read_to_string(file).expect("there")
}
