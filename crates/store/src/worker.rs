//! The thread of a store: takes commands, does all that wait in one transaction, answers after the commit.
//!
//! ```text
//! Handle::call ──bounded channel──► group ──BEGIN, all of them, COMMIT──► answers ──► checkpoint, if due
//!                                     └─ failed ─► each in a transaction of its own
//! ```
//! - A command that fails harms no other: a failed group is rolled back and each of its commands is done alone.
//! - When the disk is full the log is written into the file and the command is tried once more. When the file turns out
//!   damaged it is opened again, which sets it aside, and the command is tried once more.
//! - Commands are bounded by number and by bytes; when full the caller waits.

use std::{path::PathBuf, sync::Arc, thread::JoinHandle};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{
    db::{self, Db, State},
    error::{self, Cause, Kind, StoreError},
};

/// Commands that wait. When full the caller waits.
const COMMANDS_MAX: usize = 256;

/// KiB that waiting commands hold together; a larger one goes alone.
const KIB_MAX: u32 = 16 << 10;

/// A command of a store with state `S`.
trait Command<S>: Send {
    /// Does it; may be called again after a rollback.
    fn apply(&mut self, state: &mut S, db: &Connection) -> rusqlite::Result<()>;
    /// Answers its caller, who may be gone.
    fn finish(self: Box<Self>, failure: Option<StoreError>);
}

struct Call<T, F> {
    run: F,
    made: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
    _room: OwnedSemaphorePermit,
}

impl<S, T, F> Command<S> for Call<T, F>
where
    T: Send,
    F: FnMut(&mut S, &Connection) -> rusqlite::Result<T> + Send,
{
    fn apply(&mut self, state: &mut S, db: &Connection) -> rusqlite::Result<()> {
        self.made = Some((self.run)(state, db)?);
        Ok(())
    }

    fn finish(self: Box<Self>, failure: Option<StoreError>) {
        let made = self.made;
        let result = match failure {
            Some(err) => Err(err),
            None => Ok(made.expect("a command that did not fail has made its answer")),
        };
        // A caller that was cancelled is not there any more.
        drop(self.reply.send(result));
    }
}

type Commands<S> = mpsc::Sender<Box<dyn Command<S>>>;

/// What callers hold; the last clone that is dropped ends the thread and waits for it.
pub(crate) struct Handle<S>(Arc<Inner<S>>);

struct Inner<S> {
    path: PathBuf,
    commands: Option<Commands<S>>,
    room: Arc<Semaphore>,
    thread: Option<JoinHandle<()>>,
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> std::fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Handle").field(&self.0.path).finish()
    }
}

impl<S: State> Handle<S> {
    /// Starts the thread of a file that was opened with `state`.
    pub(crate) fn start(name: &str, db: Db, state: S) -> Result<Self, StoreError> {
        let path = db.path().to_owned();
        let (commands, waiting) = mpsc::channel(COMMANDS_MAX);
        let worker = Worker {
            path: path.clone(),
            db: Some(db),
            state,
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || worker.run(waiting))
            .map_err(|err| StoreError::Open {
                path: path.clone(),
                source: Cause::from(&err),
            })?;
        let inner = Inner {
            path,
            commands: Some(commands),
            room: Arc::new(Semaphore::new(KIB_MAX as usize)),
            thread: Some(thread),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Does `run` in a transaction and returns what it made, once that is committed.
    ///
    /// `run` is called again where the transaction has to be. `bytes` is what it carries. When the call is cancelled
    /// the command may be done nevertheless.
    pub(crate) async fn call<T, F>(&self, bytes: usize, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut S, &Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let inner = &self.0;
        let closed = || StoreError::Closed {
            path: inner.path.clone(),
        };
        let kib = u32::try_from(bytes >> 10).unwrap_or(KIB_MAX);
        let room = Arc::clone(&inner.room).acquire_many_owned((kib + 1).min(KIB_MAX));
        let (reply, answer) = oneshot::channel();
        let command = Box::new(Call {
            run,
            made: None,
            reply,
            _room: room.await.map_err(|_| closed())?,
        });
        let commands = inner.commands.as_ref().expect("taken only when dropped");
        commands.send(command).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

impl<S> Drop for Inner<S> {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the thread of a store panicked");
        }
    }
}

struct Worker<S> {
    path: PathBuf,
    /// Missing after the file was damaged and could not be opened again.
    db: Option<Db>,
    state: S,
}

impl<S: State> Worker<S> {
    fn run(mut self, mut commands: mpsc::Receiver<Box<dyn Command<S>>>) {
        let mut group = Vec::new();
        while let Some(first) = commands.blocking_recv() {
            group.push(first);
            while let Ok(next) = commands.try_recv() {
                group.push(next);
            }
            self.serve(&mut group);
            if let Some(db) = &self.db {
                db.checkpoint_if_due(commands.is_empty());
            }
        }
    }

    fn serve(&mut self, group: &mut Vec<Box<dyn Command<S>>>) {
        let is_done = group.len() > 1 && self.db.is_some() && self.attempt(group).is_ok();
        for mut command in group.drain(..) {
            let done = if is_done {
                Ok(())
            } else {
                self.alone(&mut command)
            };
            command.finish(done.err());
        }
    }

    /// Does one command, with what remedies there are.
    fn alone(&mut self, command: &mut Box<dyn Command<S>>) -> Result<(), StoreError> {
        if self.db.is_none() {
            self.reopen()?;
        }
        let one = std::slice::from_mut(command);
        let Err(err) = self.attempt(one) else {
            return Ok(());
        };
        match error::kind(&err) {
            Kind::Full => self.db.iter().for_each(Db::checkpoint),
            Kind::Damaged => self.reopen()?,
            Kind::Other => return Err(self.told(&err)),
        }
        self.attempt(one).map_err(|err| self.told(&err))
    }

    fn told(&self, err: &rusqlite::Error) -> StoreError {
        let path = self.path.clone();
        match error::kind(err) {
            Kind::Full => StoreError::Full { path },
            Kind::Damaged | Kind::Other => StoreError::Io {
                path,
                source: Cause::from(err),
            },
        }
    }

    /// Does all of `group` in one transaction, or nothing of it.
    fn attempt(&mut self, group: &mut [Box<dyn Command<S>>]) -> rusqlite::Result<()> {
        let db = self.db.as_ref().expect("opened before").connection();
        let state = &mut self.state;
        let mut transaction = || {
            db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            for command in group.iter_mut() {
                command.apply(state, db)?;
            }
            db.prepare_cached("COMMIT")?.execute([])
        };
        let done = transaction();
        if done.is_ok() {
            self.state.committed();
        } else {
            self.state.rolled_back();
            // SQLite itself has rolled back after some failures.
            if !db.is_autocommit()
                && let Err(err) = db.execute_batch("ROLLBACK")
            {
                tracing::warn!(error = %err, "rollback failed");
            }
        }
        done.map(|_| ())
    }

    /// Opens the file again, which looks through it and sets it aside if it is damaged.
    fn reopen(&mut self) -> Result<(), StoreError> {
        self.db.take().into_iter().for_each(Db::leave_as_it_is);
        let (db, _) = db::open(&self.path, &mut self.state)?;
        self.db = Some(db);
        Ok(())
    }
}
