//! A lower master: takes jobs at its request port, and has an event bus.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use salt_wire::bus::Framing;
use salt_wire::msgpack::{Dialect, Limits, Value, decode, encode};
use testkit::{Address, Workspace, wait_until};

use crate::bus::EventBus;
use crate::port::RequestPort;
use crate::publisher::PublishPull;

/// What Salt writes into `.root_key`.
const ROOT_KEY: &str = "c3RhbmQtaW4gcm9vdCBrZXksIDU3IGJ5dGVzIG9mIHJhbmRvbSBvbmVzIGluIFNhbHQ=";

/// Where it keeps the keys that it has accepted, and what stands for one.
const ACCEPTED_KEYS: &str = "pki/master/minions";
const A_KEY: &str = "-----BEGIN PUBLIC KEY-----\n";

/// What `publish` is answered with.
#[derive(Clone, Debug)]
pub enum PublishAnswer {
    /// The jid and all minions, as if every job matched all of them.
    Minions,
    /// That no minion matches.
    NoMatch,
    /// These bytes.
    Frame(Bytes),
    /// Nothing.
    Silence,
}

struct State {
    minions: Vec<String>,
    answer: PublishAnswer,
    returning: bool,
    /// `<cachedir>/jobs`, when it keeps a job cache.
    job_cache: Option<PathBuf>,
    requests: usize,
    pings: usize,
    jobs: Vec<Value>,
}

/// A lower master on an address of its own, with the files that a master-shim reads.
pub struct StandinLowerMaster {
    /// Its event bus.
    pub bus: Arc<EventBus>,
    /// Its publisher process.
    pub publisher: PublishPull,
    dir: PathBuf,
    state: Arc<Mutex<State>>,
    _port: RequestPort,
}

impl StandinLowerMaster {
    /// Starts it for the site `id` below the masters `upstreams` (`syndic_master`), with these minions, whose keys it has accepted.
    /// `extra` is added to the file of the minion, where salt-syndic reads most of its options, `master_extra` to its own.
    ///
    /// # Errors
    /// When no address is free or a file cannot be written.
    pub fn start(
        workspace: &Workspace,
        id: &str,
        upstreams: &[String],
        minions: &[&str],
        framing: Framing,
        extra: &str,
        master_extra: &str,
    ) -> Result<Self> {
        let address = Address::lease()?;
        let dir = workspace.path().join(id);
        fs::create_dir_all(dir.join("cache"))?;
        fs::write(dir.join("cache/.root_key"), ROOT_KEY)?;
        fs::create_dir_all(dir.join(ACCEPTED_KEYS))?;
        for minion in minions {
            fs::write(dir.join(ACCEPTED_KEYS).join(minion), A_KEY)?;
        }
        let path = dir.display();
        let master = [
            format!("interface: {}", address.ip()),
            "user: root".to_owned(),
            format!("root_dir: {path}"),
            format!("cachedir: {path}/cache"),
            format!("sock_dir: {path}/run"),
            format!("pki_dir: {path}/pki/master"),
            format!("syndic_master: [{}]", upstreams.join(", ")),
        ];
        fs::write(dir.join("master"), master.join("\n") + "\n" + master_extra)?;
        let minion = [
            format!("id: {id}"),
            format!("root_dir: {path}"),
            format!("cachedir: {path}/cache/minion"),
            format!("sock_dir: {path}/run/minion"),
            format!("pki_dir: {path}/pki/minion"),
        ];
        fs::write(dir.join("minion"), minion.join("\n") + "\n" + extra)?;
        let bus = Arc::new(EventBus::listen(&dir.join("run"), framing)?);
        let publisher = PublishPull::listen(&dir.join("run"))?;
        let state = Arc::new(Mutex::new(State {
            minions: minions.iter().map(|name| (*name).to_owned()).collect(),
            answer: PublishAnswer::Minions,
            returning: false,
            job_cache: None,
            requests: 0,
            pings: 0,
            jobs: Vec::new(),
        }));
        let (answering, returns) = (Arc::clone(&state), Arc::clone(&bus));
        let port = RequestPort::bind(address.socket(4506), move |frame| {
            let mut state = answering.lock().unwrap_or_else(PoisonError::into_inner);
            state.answer(&frame, &returns)
        })?;
        Ok(Self {
            bus,
            publisher,
            dir,
            state,
            _port: port,
        })
    }

    /// Its configuration file, for a master-shim's `salt_config`.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("master")
    }

    /// The directory of the syndic's keys.
    #[must_use]
    pub fn minion_pki_dir(&self) -> PathBuf {
        self.dir.join("pki/minion")
    }

    /// Everything of it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `publish` is answered with from now on.
    pub fn set_answer(&self, answer: PublishAnswer) {
        self.lock().answer = answer;
    }

    /// Whether every minion returns `True` as soon as a job is published.
    pub fn set_returning(&self, returning: bool) {
        self.lock().returning = returning;
    }

    /// Writes each job into a job cache from now on, as Salt's `local_cache` does before it publishes.
    pub fn keep_job_cache(&self) {
        self.lock().job_cache = Some(self.dir.join("cache/jobs"));
    }

    /// The jids of the jobs that were published here, in their order. A job that is not answered counts.
    #[must_use]
    pub fn jids(&self) -> Vec<String> {
        let state = self.lock();
        let jid = |load: &Value| load.get_str("jid").unwrap_or_default().to_owned();
        state.jobs.iter().map(jid).collect()
    }

    /// The directory of the keys that it has accepted.
    #[must_use]
    pub fn accepted_keys(&self) -> PathBuf {
        self.dir.join(ACCEPTED_KEYS)
    }

    /// Accepts the key of a minion, which its jobs mean from now on. Whoever wants the event fires it: [`fire_key`](Self::fire_key).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn accept_key(&self, minion: &str) -> Result<()> {
        fs::write(self.accepted_keys().join(minion), A_KEY)?;
        self.lock().minions.push(minion.to_owned());
        Ok(())
    }

    /// Deletes the key of a minion.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete_key(&self, minion: &str) -> Result<()> {
        fs::remove_file(self.accepted_keys().join(minion))?;
        self.lock().minions.retain(|name| name != minion);
        Ok(())
    }

    /// Tells of a key as `salt-key` does: `act` is `accept` or `delete`.
    ///
    /// # Errors
    /// When a listener has hung.
    pub fn fire_key(&self, minion: &str, act: &str) -> Result<()> {
        let data = [
            ("result", true.into()),
            ("act", act.into()),
            ("id", minion.into()),
        ];
        self.bus.fire("salt/key", &Value::map(data))
    }

    /// The loads of `publish`, in their order.
    #[must_use]
    pub fn jobs(&self) -> Vec<Value> {
        self.lock().jobs.clone()
    }

    /// Every request of any kind, but pings.
    #[must_use]
    pub fn requests(&self) -> usize {
        let state = self.lock();
        state.requests - state.pings
    }

    /// Waits until at least `count` jobs were published here.
    ///
    /// # Errors
    /// When they were not in time.
    pub fn await_jobs(&self, count: usize, within: Duration) -> Result<()> {
        wait_until(&format!("{count} jobs"), within, || {
            match self.lock().jobs.len() {
                jobs if jobs >= count => Ok(()),
                jobs => Err(format!("{jobs} jobs")),
            }
        })
        .with_context(|| format!("at {}", self.dir.display()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn answer(&mut self, frame: &Bytes, bus: &EventBus) -> Option<Bytes> {
        self.requests += 1;
        let envelope = decode(frame, Limits::CONTENT).ok()?;
        let job = envelope.get("load")?;
        if job.get_str("cmd") != Some("publish") {
            self.pings += usize::from(job.get_str("cmd") == Some("ping"));
            return Some(encode(job, Dialect::Old));
        }
        if let Some(jobs) = &self.job_cache {
            write_job(jobs, job, &self.minions).ok()?;
        }
        self.jobs.push(job.clone());
        let jid = job.get_str("jid").unwrap_or_default();
        let load = match &self.answer {
            PublishAnswer::Frame(frame) => return Some(frame.clone()),
            PublishAnswer::Silence => return None,
            PublishAnswer::NoMatch => Value::map([
                ("jid", Value::Nil),
                ("minions", Value::Nil),
                (
                    "error",
                    "Master could not resolve minions for target *".into(),
                ),
            ]),
            PublishAnswer::Minions => Value::map([
                ("jid", jid.into()),
                (
                    "minions",
                    Value::array(self.minions.iter().map(String::as_str)),
                ),
                ("missing", Value::Array(Vec::new())),
            ]),
        };
        if self.returning {
            let fun = job.get_str("fun").unwrap_or_default();
            for minion in &self.minions {
                // A listener that hangs shows in what is missing at the top.
                bus.fire_return(jid, minion, fun, true.into()).ok();
            }
        }
        let reply = Value::map([("enc", "clear".into()), ("load", load)]);
        Some(encode(&reply, Dialect::Old))
    }
}

/// `salt/returners/local_cache.py`: `<first 2>/<rest>` of the hex SHA-256 of the jid, with the files `jid`, `.load.p` and
/// `.minions.p`.
fn write_job(jobs: &Path, job: &Value, minions: &[String]) -> Result<()> {
    let jid = job.get_str("jid").unwrap_or_default();
    let digest = openssl::sha::sha256(jid.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let (first, rest) = hex.split_at(2);
    let directory = jobs.join(first).join(rest);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("jid"), jid)?;
    fs::write(directory.join(".load.p"), encode(job, Dialect::New))?;
    let minions = Value::array(minions.iter().map(String::as_str));
    fs::write(directory.join(".minions.p"), encode(&minions, Dialect::New))?;
    Ok(())
}
