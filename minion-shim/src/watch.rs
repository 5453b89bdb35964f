//! Directories whose changes the kernel tells: jobs that begin and end, sockets that appear.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// What a directory of a minion holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dir {
    /// A file for each job that runs.
    Jobs,
    /// A file for each job that waits for others to end.
    Queue,
    /// The directories of jobs, which a minion makes when it needs them.
    Cache,
    /// The sockets of the event bus.
    Sockets,
    /// A directory for each proxy of the host.
    Proxies,
}

/// What changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Came(&'a str),
    Went(&'a str),
    /// The directory itself.
    Vanished,
}

/// A change in a directory of the minion with this number.
pub(crate) type Told<'a> = (usize, Dir, Change<'a>);

/// The kernel's queue of changes holds 16,384 (`fs.inotify.max_queued_events`); when it overflows everything is looked at again.
#[derive(Debug)]
pub(crate) struct Watches {
    fd: OwnedFd,
    /// Minions may share a directory of sockets.
    dirs: HashMap<i32, Vec<(usize, Dir)>>,
}

impl Watches {
    pub(crate) fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            fd: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            dirs: HashMap::new(),
        })
    }

    /// Watches a directory. True when it was not watched before, so that what it holds is to be looked at.
    pub(crate) fn add(&mut self, path: &Path, minion: usize, dir: Dir) -> Result<bool, Errno> {
        let moves = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM;
        let files = WatchFlags::CREATE | WatchFlags::DELETE | moves;
        let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        // A link in place of a directory is not followed: its owner could point it anywhere.
        let how = WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW | WatchFlags::EXCL_UNLINK;
        let flags = match dir {
            Dir::Jobs | Dir::Queue => files | itself | how,
            Dir::Cache | Dir::Proxies => WatchFlags::CREATE | WatchFlags::MOVED_TO | itself | how,
            // Salt's own default goes through /var/run, which is a link.
            Dir::Sockets => {
                WatchFlags::CREATE | WatchFlags::MOVED_TO | itself | WatchFlags::ONLYDIR
            }
        };
        let wd = inotify::add_watch(&self.fd, path, flags)?;
        let users = self.dirs.entry(wd).or_default();
        let new = !users.contains(&(minion, dir));
        if new {
            users.push((minion, dir));
        }
        Ok(new)
    }

    /// Reads what changed. True when changes were lost.
    pub(crate) fn read(&mut self, mut tell: impl FnMut(Told<'_>)) -> rustix::io::Result<bool> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = Reader::new(self.fd.as_fd(), &mut buffer);
        let mut lost = false;
        let mut gone = Vec::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(err) => return Err(err),
            };
            let what = event.events();
            lost |= what.contains(ReadFlags::QUEUE_OVERFLOW);
            let name = event.file_name().and_then(|name| name.to_str().ok());
            let came = what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
            let ended = what.intersects(ReadFlags::IGNORED | ReadFlags::MOVE_SELF);
            if ended {
                gone.push(event.wd());
            }
            for &(minion, dir) in self.dirs.get(&event.wd()).into_iter().flatten() {
                match name {
                    Some(name) if came => tell((minion, dir, Change::Came(name))),
                    Some(name) => tell((minion, dir, Change::Went(name))),
                    None if ended => tell((minion, dir, Change::Vanished)),
                    None => {}
                }
            }
        }
        for wd in gone {
            self.dirs.remove(&wd);
        }
        Ok(lost)
    }
}

impl AsFd for Watches {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(watches: &mut Watches) -> Vec<String> {
        let mut told = Vec::new();
        watches
            .read(|(minion, dir, change)| told.push(format!("{minion} {dir:?} {change:?}")))
            .unwrap();
        told
    }

    #[test]
    fn files_that_come_and_go_are_told_and_so_is_the_end_of_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("proc");
        fs::create_dir(&dir).unwrap();
        let mut watches = Watches::new().unwrap();
        assert!(watches.add(&dir, 7, Dir::Jobs).unwrap());
        assert!(!watches.add(&dir, 7, Dir::Jobs).unwrap());
        fs::write(dir.join("1"), "x").unwrap();
        fs::remove_file(dir.join("1")).unwrap();
        assert_eq!(
            read(&mut watches),
            ["7 Jobs Came(\"1\")", "7 Jobs Went(\"1\")"]
        );
        fs::remove_dir(&dir).unwrap();
        assert_eq!(read(&mut watches), ["7 Jobs Vanished"]);
        fs::create_dir(&dir).unwrap();
        assert!(watches.add(&dir, 7, Dir::Jobs).unwrap());
    }

    #[test]
    fn a_link_is_no_directory_of_jobs() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("proc");
        std::os::unix::fs::symlink("/", &link).unwrap();
        Watches::new()
            .unwrap()
            .add(&link, 0, Dir::Jobs)
            .unwrap_err();
    }
}
