//! A steady stream of numbered jobs, and the ground truth of what ran where: each minion appends the number to a file.
//!
//! One thread publishes through Salt's own client on the MoM, one job after the other, while the test breaks and mends things.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;
use testkit::{EventRecorder, MARK, Master, wait_until};

/// One job of a stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Job {
    /// Its number, from 1.
    pub number: u32,
    /// Its jid on the MoM.
    pub jid: String,
}

/// What ran: how often each minion ran each number.
pub type Runs = BTreeMap<(u32, String), usize>;

/// A stream that is being published.
pub struct JobStream {
    file: PathBuf,
    stop: Arc<AtomicBool>,
    jobs: Arc<Mutex<Vec<Job>>>,
    thread: Option<JoinHandle<Result<EventRecorder>>>,
}

impl JobStream {
    /// Publishes to `tgt` (a glob) with a pause of `pace` after each job. `recorder` is one of the MoM's; `file` is written by the minions.
    #[must_use]
    pub fn start(recorder: EventRecorder, tgt: &str, file: &Path, pace: Duration) -> Self {
        Self::resume(recorder, tgt, file, pace, Vec::new())
    }

    /// As [`start`](Self::start), going on behind the jobs of an earlier stream: a MoM that was restarted wants a new recorder.
    #[must_use]
    pub fn resume(
        recorder: EventRecorder,
        tgt: &str,
        file: &Path,
        pace: Duration,
        jobs: Vec<Job>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let jobs = Arc::new(Mutex::new(jobs));
        let (stopped, published) = (Arc::clone(&stop), Arc::clone(&jobs));
        let (tgt, path) = (tgt.to_owned(), file.to_path_buf());
        let thread = thread::spawn(move || {
            let mut recorder = recorder;
            while !stopped.load(Ordering::Relaxed) {
                let number = u32::try_from(lock(&published).len()).context("too many jobs")? + 1;
                let job = publish_number(&mut recorder, &tgt, &path, number)?;
                lock(&published).push(job);
                thread::sleep(pace);
            }
            Ok(recorder)
        });
        Self {
            file: file.to_path_buf(),
            stop,
            jobs,
            thread: Some(thread),
        }
    }

    /// Every job so far.
    #[must_use]
    pub fn jobs(&self) -> Vec<Job> {
        lock(&self.jobs).clone()
    }

    /// The number of the newest job; 0 before the first.
    #[must_use]
    pub fn newest(&self) -> u32 {
        lock(&self.jobs).last().map_or(0, |job| job.number)
    }

    /// Waits until `more` further jobs are published, and returns the number of the newest then.
    ///
    /// # Errors
    /// When the stream does not get on for a minute.
    pub fn wait_for_more(&self, more: u32) -> Result<u32> {
        let wanted = self.newest() + more;
        wait_until(
            &format!("job {wanted} to be published"),
            Duration::from_secs(60),
            || match self.newest() {
                newest if newest >= wanted => Ok(newest),
                newest => Err(format!("{newest} is the newest")),
            },
        )
    }

    /// Waits until each of `minions` has run each number from `first` to `last`.
    ///
    /// # Errors
    /// Names what has not run, when it has not `within` this time.
    pub fn wait_for_runs(
        &self,
        first: u32,
        last: u32,
        minions: &[&str],
        within: Duration,
    ) -> Result<()> {
        wait_for_runs(&self.file, first, last, minions, within)
    }

    /// Stops publishing; every job so far, and the recorder.
    ///
    /// # Errors
    /// When publishing has failed on the way.
    pub fn finish(mut self) -> Result<(Vec<Job>, EventRecorder)> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a stream is finished once")?;
        let recorder = thread
            .join()
            .map_err(|_| anyhow!("the publishing thread panicked"))??;
        Ok((lock(&self.jobs).clone(), recorder))
    }
}

impl Drop for JobStream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn lock(jobs: &Mutex<Vec<Job>>) -> std::sync::MutexGuard<'_, Vec<Job>> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes the job that appends `number` to `file` on each minion of `tgt`.
///
/// # Errors
/// When Salt's client does not take it.
pub fn publish_number(
    recorder: &mut EventRecorder,
    tgt: &str,
    file: &Path,
    number: u32,
) -> Result<Job> {
    // The mark that the testkit puts into each process's environment tells which minion it is.
    let command = format!("echo \"{number} ${MARK}\" >> {}", file.display());
    let published = recorder.publish(tgt, "glob", "cmd.run", json!([command]))?;
    let jid = published.jid.context("a MoM publishes whoever matches")?;
    Ok(Job { number, jid })
}

/// Reads what ran.
///
/// # Errors
/// When a line is not of a stream's form.
pub fn runs(file: &Path) -> Result<Runs> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(err) => return Err(err).context("the minions' file cannot be read"),
    };
    let mut runs = Runs::new();
    for line in text.lines() {
        let (number, mark) = line
            .split_once(' ')
            .with_context(|| format!("not a run: {line:?}"))?;
        let process = mark
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default();
        let Some(minion) = process.strip_suffix(".minion") else {
            bail!("{process} is not a minion: {line:?}");
        };
        *runs
            .entry((number.parse()?, minion.to_owned()))
            .or_default() += 1;
    }
    Ok(runs)
}

/// Waits until each of `minions` has run each number from `first` to `last`.
///
/// # Errors
/// Names what has not run, when it has not `within` this time.
pub fn wait_for_runs(
    file: &Path,
    first: u32,
    last: u32,
    minions: &[&str],
    within: Duration,
) -> Result<()> {
    wait_until(
        &format!("jobs {first} to {last} to run on {minions:?}"),
        within,
        || {
            let runs = runs(file).map_err(|err| format!("{err:#}"))?;
            let wanted = (first..=last).flat_map(|number| {
                minions
                    .iter()
                    .map(move |minion| (number, (*minion).to_owned()))
            });
            let missing: Vec<_> = wanted.filter(|run| !runs.contains_key(run)).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("not run: {missing:?}"))
            }
        },
    )
}

/// The runs that happened more than once.
///
/// # Errors
/// As [`runs`].
pub fn doubled(file: &Path) -> Result<Runs> {
    Ok(runs(file)?
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .collect())
}

/// Which minions' returns a master's job cache holds, by jid.
///
/// # Errors
/// When the directory cannot be read.
pub fn recorded_returns(master: &Master) -> Result<BTreeMap<String, Vec<String>>> {
    let mut recorded = BTreeMap::new();
    for job in job_directories(master)? {
        // The file `jid` comes a moment after its directory.
        let Ok(jid) = fs::read_to_string(job.join("jid")) else {
            continue;
        };
        let mut minions = Vec::new();
        for minion in fs::read_dir(&job)?.flatten() {
            if minion.path().join("return.p").exists() {
                minions.push(minion.file_name().to_string_lossy().into_owned());
            }
        }
        recorded.insert(jid, minions);
    }
    Ok(recorded)
}

/// When a master published each job of its job cache, by jid.
///
/// # Errors
/// When the directory cannot be read.
pub fn published_times(master: &Master) -> Result<BTreeMap<String, SystemTime>> {
    let mut times = BTreeMap::new();
    for job in job_directories(master)? {
        // A job cache is cleaned while it is read; the file `jid` is written anew with each return.
        let (jid, load) = (
            fs::read_to_string(job.join("jid")),
            fs::metadata(job.join(".load.p")),
        );
        let (Ok(jid), Ok(meta)) = (jid, load) else {
            continue;
        };
        times.insert(jid, meta.modified()?);
    }
    Ok(times)
}

/// The directory of a job in a master's job cache, `local_cache`.
///
/// # Errors
/// When there is none.
pub fn job_directory(master: &Master, jid: &str) -> Result<PathBuf> {
    let is_job =
        |path: &PathBuf| fs::read_to_string(path.join("jid")).is_ok_and(|text| text == jid);
    let found = job_directories(master)?.into_iter().find(is_job);
    found.with_context(|| format!("job {jid} is not in the job cache of {}", master.id()))
}

/// `<cachedir>/jobs/<first 2>/<rest>`.
fn job_directories(master: &Master) -> Result<Vec<PathBuf>> {
    let mut directories = Vec::new();
    for first in fs::read_dir(master.dir().join("cache/master/jobs"))?.flatten() {
        // A job cache is cleaned while it is read.
        let Ok(rest) = fs::read_dir(first.path()) else {
            continue;
        };
        directories.extend(rest.flatten().map(|entry| entry.path()));
    }
    Ok(directories)
}

/// Waits until the master's job cache holds a return of each minion for each job.
///
/// # Errors
/// Names what is missing, when it is not there `within` this time.
pub fn wait_for_recorded(
    master: &Master,
    jobs: &[Job],
    minions: &[&str],
    within: Duration,
) -> Result<()> {
    wait_until(
        &format!(
            "{} jobs' returns to be recorded at {}",
            jobs.len(),
            master.id()
        ),
        within,
        || {
            let recorded = recorded_returns(master).map_err(|err| format!("{err:#}"))?;
            let is_recorded = |job: &Job, minion: &str| {
                recorded
                    .get(&job.jid)
                    .is_some_and(|minions| minions.iter().any(|id| id == minion))
            };
            let missing: Vec<_> = jobs
                .iter()
                .flat_map(|job| minions.iter().map(move |minion| (job, *minion)))
                .filter(|(job, minion)| !is_recorded(job, minion))
                .map(|(job, minion)| format!("{} {} {minion}", job.number, job.jid))
                .collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("not recorded: {missing:?}"))
            }
        },
    )
}
