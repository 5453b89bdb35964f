//! Numbered jobs at a steady pace through everything, and what the MoM's event bus shows of them.
//!
//! One thread owns the recorder: it publishes through Salt's own client, and files the events away.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow};
use serde_json::json;
use testkit::{EventRecorder, now};

/// How often the thread looks for events between two jobs.
const POLL: Duration = Duration::from_millis(10);

/// Seconds since 1970, the clock of minions and recorder.
pub(super) fn unix_now() -> f64 {
    SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
        .as_secs_f64()
}

/// A job that Salt's client was asked to publish.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    /// Its jid, when the MoM has accepted it.
    pub(super) jid: Option<String>,
    /// When the client was asked.
    pub(super) began: f64,
    /// When it said that the MoM has the job, or gave up.
    pub(super) ended: f64,
}

/// When the MoM's bus had a return: by jid and minion, one entry per copy.
pub(super) type Returns = BTreeMap<(String, String), Vec<f64>>;

/// When a minion ran a job: by jid and minion, one entry per run.
pub(super) type Runs = BTreeMap<(String, String), Vec<f64>>;

#[derive(Default)]
struct Seen {
    jobs: Vec<Job>,
    returns: Returns,
}

#[derive(Default)]
struct Flags {
    publish: AtomicBool,
    at_once: AtomicBool,
    end: AtomicBool,
}

/// A stream of jobs.
pub(super) struct JobStream {
    seen: Arc<Mutex<Seen>>,
    flags: Arc<Flags>,
    thread: Option<JoinHandle<Result<EventRecorder>>>,
}

impl JobStream {
    /// Publishes to every minion, a job each `pace`, numbered from `first`; minions write into `directory`.
    pub(super) fn start(
        mut recorder: EventRecorder,
        directory: &Path,
        first: u64,
        pace: Duration,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let flags = Arc::new(Flags::default());
        flags.publish.store(true, Ordering::SeqCst);
        let (theirs, directory) = (
            (Arc::clone(&seen), Arc::clone(&flags)),
            directory.to_path_buf(),
        );
        let thread = thread::spawn(move || {
            let (seen, flags) = theirs;
            let (mut due, mut number) = (now(), first);
            while !flags.end.load(Ordering::SeqCst) {
                file_returns(&mut recorder, &seen)?;
                let is_due = now() >= due || flags.at_once.swap(false, Ordering::SeqCst);
                if !(is_due && flags.publish.load(Ordering::SeqCst)) {
                    thread::sleep(POLL);
                    continue;
                }
                due = now() + pace;
                let job = publish(&mut recorder, &directory, number)?;
                lock(&seen).jobs.push(job);
                number += 1;
            }
            Ok(recorder)
        });
        Self {
            seen,
            flags,
            thread: Some(thread),
        }
    }

    /// The next job comes now, not when its time has come.
    pub(super) fn publish_at_once(&self) {
        self.flags.at_once.store(true, Ordering::SeqCst);
    }

    /// Publishes no more, but listens on.
    pub(super) fn pause(&self) {
        self.flags.publish.store(false, Ordering::SeqCst);
    }

    pub(super) fn jobs(&self) -> Vec<Job> {
        lock(&self.seen).jobs.clone()
    }

    pub(super) fn returns(&self) -> Returns {
        lock(&self.seen).returns.clone()
    }

    /// The first moment at which a job that was published after `since` was answered by all of `minions`.
    pub(super) fn answered_since(&self, since: f64, minions: &[String]) -> Option<f64> {
        let seen = lock(&self.seen);
        seen.jobs
            .iter()
            .filter(|job| job.began >= since)
            .filter_map(|job| answered(job, minions, &seen.returns))
            .min_by(f64::total_cmp)
    }

    /// Ends the thread.
    ///
    /// # Errors
    /// When the recorder has failed on the way.
    pub(super) fn finish(mut self) -> Result<EventRecorder> {
        self.flags.end.store(true, Ordering::SeqCst);
        let thread = self.thread.take().context("a stream is finished once")?;
        thread
            .join()
            .map_err(|_| anyhow!("the publishing thread panicked"))?
    }
}

impl Drop for JobStream {
    fn drop(&mut self) {
        self.flags.end.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// When the last of these minions' returns was on the MoM's bus.
pub(super) fn answered(job: &Job, minions: &[String], returns: &Returns) -> Option<f64> {
    let jid = job.jid.as_ref()?;
    let first = |minion: &String| {
        returns
            .get(&(jid.clone(), minion.clone()))?
            .first()
            .copied()
    };
    let times: Option<Vec<f64>> = minions.iter().map(first).collect();
    times?.into_iter().max_by(f64::total_cmp)
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn publish(recorder: &mut EventRecorder, directory: &Path, number: u64) -> Result<Job> {
    let directory = directory.display().to_string();
    let published = recorder.publish("*", "glob", "numbered.note", json!([number, directory]))?;
    Ok(Job {
        number,
        jid: published.jid,
        began: published.began,
        ended: published.ended,
    })
}

fn file_returns(recorder: &mut EventRecorder, seen: &Mutex<Seen>) -> Result<()> {
    let mut seen = lock(seen);
    for event in recorder.events()? {
        let parts: Vec<&str> = event.tag.split('/').collect();
        if let ["salt", "job", jid, "ret", minion] = parts.as_slice() {
            let key = ((*jid).to_owned(), (*minion).to_owned());
            seen.returns.entry(key).or_default().push(event.at);
        }
    }
    recorder.clear();
    Ok(())
}

/// What ran, from the minions' own files; with the number of each jid.
///
/// # Errors
/// When a line is not of `numbered.py`'s form.
pub(super) fn runs(directory: &Path) -> Result<(Runs, BTreeMap<String, u64>)> {
    let (mut runs, mut numbers) = (Runs::new(), BTreeMap::new());
    for entry in fs::read_dir(directory)? {
        let path: PathBuf = entry?.path();
        let minion = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for line in fs::read_to_string(&path)?.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [number, jid, at] = words.as_slice() else {
                return Err(anyhow!("not a run: {line:?}"));
            };
            numbers.insert((*jid).to_owned(), number.parse()?);
            runs.entry(((*jid).to_owned(), minion.clone()))
                .or_default()
                .push(at.parse()?);
        }
    }
    Ok((runs, numbers))
}
