//! The files of a minion's cache directory. Whoever writes there is not trusted: what is read is bounded, links are not followed.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use salt_wire::bus::{Field, MapSkim, is_jid};
use salt_wire::ids::{Jid, MinionId};

use crate::frames;
use crate::jobs::JOBS_MAX;

/// Of the file of a job that runs only its beginning is read, which holds what is looked for unless the arguments are long.
const JOB_BYTES_MAX: u64 = 64 << 10;

/// Largest kept return that is sent again: Salt's own bound for an event (`max_event_size`).
const RETURN_BYTES_MAX: u64 = 1 << 20;

/// Most masters whose queues are watched.
const QUEUES_MAX: usize = 16;

/// The job that a file of `proc` is about.
pub(crate) fn job_of(name: &str) -> Option<Jid> {
    if is_jid(name) {
        Jid::parse(name).ok()
    } else {
        None
    }
}

/// The job that a file of a queue is about: `queued_<microseconds>_<jid>.p`. What is taken from the queue gets another name.
pub(crate) fn queued_job_of(name: &str) -> Option<Jid> {
    let rest = name.strip_prefix("queued_")?.strip_suffix(".p")?;
    let (_, jid) = rest.split_once('_')?;
    job_of(jid)
}

/// The jobs that files of this directory are about, with the age of each in milliseconds.
pub(crate) fn jobs_in(dir: &Path, job: fn(&str) -> Option<Jid>) -> Vec<(Jid, u64)> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let now = SystemTime::now();
    let mut jobs: Vec<(Jid, u64)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let jid = job(entry.file_name().to_str()?)?;
            let changed = entry.metadata().ok()?.modified().ok()?;
            let age = now.duration_since(changed).unwrap_or_default();
            Some((jid, u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
        })
        .take(JOBS_MAX)
        .collect();
    jobs.sort_by_key(|(_, age)| std::cmp::Reverse(*age));
    jobs
}

/// Whether the file of a job that runs says that the minion or somebody on its host began it, not a master.
pub(crate) fn is_own_job(proc_dir: &Path, jid: &Jid) -> bool {
    let Some(bytes) = read(&proc_dir.join(jid.as_str()), JOB_BYTES_MAX, true) else {
        return false;
    };
    let mut map = MapSkim::new(&["schedule", "tgt"]);
    map.feed(&bytes);
    let fields = map.so_far();
    matches!(fields.first(), Some(Some(_)))
        || matches!(fields.get(1), Some(Some(Field::Text(target))) if target == "salt-call")
}

/// The load of the return that the minion keeps of a job (`cache_jobs`).
pub(crate) fn kept_return(cachedir: &Path, jid: &Jid, id: &MinionId) -> Option<Vec<u8>> {
    let file = cachedir
        .join("minion_jobs")
        .join(jid.as_str())
        .join("return.p");
    frames::kept_return(&read(&file, RETURN_BYTES_MAX, false)?, id)
}

/// The directories in which the jobs of this cache directory wait, and those in which they would be made.
pub(crate) fn queues(cachedir: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let all = cachedir.join("queues");
    let mut jobs = vec![cachedir.join("job_queue")];
    let mut parents = vec![all.clone()];
    let masters = fs::read_dir(&all)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    for master in masters.take(QUEUES_MAX) {
        jobs.push(master.path().join("job_queue"));
        parents.push(master.path());
    }
    (jobs, parents)
}

/// Up to `max` bytes of a regular file; nothing when it has more and may not be cut.
fn read(path: &Path, max: u64, cut: bool) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > max {
        if !cut {
            return None;
        }
        bytes.truncate(usize::try_from(max).ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use salt_wire::msgpack::{Dialect, Value, encode};

    use super::*;

    const JID: &str = "20261121201500000001";

    #[test]
    fn names_of_files_tell_jobs() {
        assert_eq!(job_of(JID).unwrap().as_str(), JID);
        assert_eq!(
            queued_job_of(&format!("queued_1763755200000000_{JID}.p"))
                .unwrap()
                .as_str(),
            JID
        );
        for wrong in ["", "1", "..", "running", &format!("{JID}.tmp")] {
            assert!(job_of(wrong).is_none(), "{wrong}");
        }
        for wrong in [
            format!("running_1_{JID}.p"),
            format!("queued_1_{JID}.p.tmp"),
            format!("queued_{JID}.p"),
        ] {
            assert!(queued_job_of(&wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn jobs_of_the_schedule_and_of_salt_call_are_told_from_the_masters() {
        let dir = tempfile::tempdir().unwrap();
        let jid = Jid::parse(JID).unwrap();
        let file = dir.path().join(JID);
        let check = |entries: &[(&str, &str)], cut: usize, own: bool| {
            let map = Value::map(
                entries
                    .iter()
                    .map(|(key, value)| (*key, Value::from(*value))),
            );
            let mut bytes = encode(&map, Dialect::Old).to_vec();
            bytes.truncate(bytes.len() - cut);
            fs::write(&file, bytes).unwrap();
            assert_eq!(is_own_job(dir.path(), &jid), own, "{entries:?}");
        };
        check(
            &[("fun", "test.ping"), ("tgt", "*"), ("jid", JID)],
            0,
            false,
        );
        check(&[("fun", "test.ping"), ("schedule", "daily")], 0, true);
        check(
            &[("fun", "test.ping"), ("tgt", "salt-call"), ("arg", "x")],
            2,
            true,
        );
        check(&[("fun", "test.ping"), ("tgt", "*")], 3, false);
        fs::write(&file, b"\xff\xff garbage").unwrap();
        assert!(!is_own_job(dir.path(), &jid));
        fs::remove_file(&file).unwrap();
        assert!(!is_own_job(dir.path(), &jid));
    }

    #[test]
    fn links_pipes_and_large_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let (id, jid) = (MinionId::parse("web1").unwrap(), Jid::parse(JID).unwrap());
        let job = dir.path().join("minion_jobs").join(JID);
        fs::create_dir_all(&job).unwrap();
        let file = job.join("return.p");
        fs::write(&file, b"\x81\xa3jid\xa11").unwrap();
        assert!(kept_return(dir.path(), &jid, &id).is_some());
        fs::write(&file, vec![0x80; (1 << 20) + 1]).unwrap();
        assert_eq!(kept_return(dir.path(), &jid, &id), None);
        fs::remove_file(&file).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, b"\x81\xa3jid\xa11").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert_eq!(kept_return(dir.path(), &jid, &id), None);
        fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &file,
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        assert_eq!(kept_return(dir.path(), &jid, &id), None);
    }
}
