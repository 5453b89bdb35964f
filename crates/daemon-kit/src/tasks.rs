//! Every task and thread of a daemon, by name; none ends unseen.
//!
//! ```text
//!  spawn, spawn_thread ──► running ──► Finished ─────────────► nothing more
//!                            │ ├─────► Shutdown, when asked ──► nothing more
//!                            │ └─────► anything else ─────────► cancel the rest, exit non-zero
//!                            └── still running after the grace period: named and aborted
//! ```
//! - The token given to [`Tasks::new`] is cancelled by the operator's signal or by the first
//!   unexpected end; tasks wait for it and for nothing else to know that they must end.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, info_span};

use crate::chain::chain;

/// Why a task ended.
#[derive(Debug)]
pub enum ExitReason {
    /// It was asked to by the token. Unexpected while the token is not cancelled.
    Shutdown,
    /// Its work is done; the others go on.
    Finished,
    /// It cannot go on, nor can the process.
    Failed(anyhow::Error),
}

/// `Ok` is [`ExitReason::Shutdown`]: most tasks run until they are asked to end.
impl<E: Into<anyhow::Error>> From<Result<(), E>> for ExitReason {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::Shutdown,
            Err(err) => Self::Failed(err.into()),
        }
    }
}

impl From<()> for ExitReason {
    fn from((): ()) -> Self {
        Self::Shutdown
    }
}

/// Why a daemon could not go on, or did not end in time.
#[derive(Debug, thiserror::Error)]
pub enum TasksError {
    /// A task failed.
    #[error("task {name} failed")]
    Failed {
        /// The task.
        name: String,
        /// Its reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A task ended although nobody asked it to.
    #[error("task {name} ended although it was not asked to")]
    Ended {
        /// The task.
        name: String,
    },
    /// A task panicked.
    #[error("task {name} panicked: {message}")]
    Panicked {
        /// The task.
        name: String,
        /// What the panic said.
        message: String,
    },
    /// Tasks were still running when the grace period ended.
    #[error("still running {} after the request to end: {}", humantime::format_duration(*.grace), .names.join(", "))]
    Late {
        /// Their names.
        names: Vec<String>,
        /// How long they had.
        grace: Duration,
    },
}

/// The tasks of a process. Dropping it aborts them.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<ExitReason>,
    names: HashMap<Id, String>,
    shutdown: CancellationToken,
}

impl Tasks {
    /// No tasks yet; `shutdown` asks all of them to end, and is cancelled when one cannot go on.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            set: JoinSet::new(),
            names: HashMap::new(),
            shutdown,
        }
    }

    /// The token that asks every task to end.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Runs `task` under `name`, in a span of that name.
    pub fn spawn<F>(&mut self, name: impl Into<String>, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Into<ExitReason>,
    {
        let name = name.into();
        let span = info_span!("task", name = %name);
        self.spawn_in(name, span, task);
    }

    /// As [`Self::spawn`], in a span of the caller's with more fields.
    pub fn spawn_in<F>(&mut self, name: impl Into<String>, span: Span, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Into<ExitReason>,
    {
        let handle = self
            .set
            .spawn(async move { task.await.into() }.instrument(span));
        self.names.insert(handle.id(), name.into());
    }

    /// Runs `work` on a thread of its own, for libraries that block (ZeroMQ).
    ///
    /// It gets the token; a thread that is late cannot be aborted and dies with the process.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn_thread<W, R>(&mut self, name: impl Into<String>, work: W) -> std::io::Result<()>
    where
        W: FnOnce(CancellationToken) -> R + Send + 'static,
        R: Into<ExitReason>,
    {
        let name = name.into();
        let (told, ended) = oneshot::channel();
        let token = self.shutdown.clone();
        let span = info_span!("task", name = %name);
        std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                let reason =
                    span.in_scope(|| catch_unwind(AssertUnwindSafe(|| work(token).into())));
                // Nobody listens when the tasks were dropped, which ends the process.
                drop(told.send(reason));
            })?;
        self.spawn(name, async move {
            match ended.await {
                Ok(Ok(reason)) => reason,
                // Panicking again on this side reports it like any task's.
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(_) => ExitReason::Failed(anyhow::anyhow!("its thread vanished")),
            }
        });
        Ok(())
    }

    /// Waits until every task has ended, at most `grace` from the moment they were asked to.
    ///
    /// # Errors
    /// The first unexpected end, or else the tasks that were late.
    pub async fn join(mut self, grace: Duration) -> Result<(), TasksError> {
        let mut first = None;
        while !self.shutdown.is_cancelled() {
            let ended = tokio::select! {
                () = self.shutdown.cancelled() => break,
                ended = self.set.join_next_with_id() => ended,
            };
            let Some(ended) = ended else { return Ok(()) };
            if let Err(err) = self.judge(ended) {
                first = Some(err);
                self.shutdown.cancel();
            }
        }
        let deadline = tokio::time::Instant::now() + grace;
        loop {
            match tokio::time::timeout_at(deadline, self.set.join_next_with_id()).await {
                Ok(None) => return first.map_or(Ok(()), Err),
                Ok(Some(ended)) => {
                    if let Err(err) = self.judge(ended) {
                        first.get_or_insert(err);
                    }
                }
                Err(_) => {
                    let mut names: Vec<String> = self.names.into_values().collect();
                    names.sort();
                    let late = TasksError::Late { names, grace };
                    // The cause is what must be told; that others were late comes from it.
                    if let Some(first) = first {
                        error!(error = %chain(&late), "tasks ended late");
                        return Err(first);
                    }
                    return Err(late);
                }
            }
        }
    }

    /// Tells an expected end from one that the process cannot live with.
    fn judge(&mut self, ended: Result<(Id, ExitReason), JoinError>) -> Result<(), TasksError> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let name = self
            .names
            .remove(&id)
            .unwrap_or_else(|| "unnamed".to_owned());
        let err = match ended {
            Ok((_, ExitReason::Finished)) => {
                debug!(task = name, "task finished");
                return Ok(());
            }
            Ok((_, ExitReason::Shutdown)) if self.shutdown.is_cancelled() => {
                debug!(task = name, "task ended");
                return Ok(());
            }
            Ok((_, ExitReason::Shutdown)) => TasksError::Ended { name },
            Ok((_, ExitReason::Failed(err))) => TasksError::Failed {
                name,
                source: err.into(),
            },
            Err(err) => match err.try_into_panic() {
                Ok(panic) => TasksError::Panicked {
                    name,
                    message: message_of(&*panic),
                },
                Err(_) => TasksError::Ended { name },
            },
        };
        error!(error = %chain(&err), "task lost");
        Err(err)
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    fn tasks() -> (Tasks, CancellationToken) {
        let token = CancellationToken::new();
        (Tasks::new(token.clone()), token)
    }

    async fn until(token: CancellationToken) {
        token.cancelled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn all_end_when_asked() {
        let (mut tasks, token) = tasks();
        tasks.spawn("one", until(token.clone()));
        tasks.spawn("once", async { ExitReason::Finished });
        tasks.spawn("asker", {
            let token = token.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(60)).await;
                token.cancel();
            }
        });
        tasks.join(GRACE).await.unwrap();
        assert!(token.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_ends_the_rest_and_is_told_with_its_cause() {
        let (mut tasks, token) = tasks();
        tasks.spawn("steady", until(token.clone()));
        tasks.spawn("broken", async {
            Err::<(), _>(anyhow::anyhow!("no luck").context("trying"))
        });
        let err = tasks.join(GRACE).await.unwrap_err();
        assert_eq!(
            chain(&err).to_string(),
            "task broken failed: trying: no luck"
        );
        assert!(token.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_nobody_asked_for_is_a_failure() {
        let (mut tasks, token) = tasks();
        tasks.spawn("steady", until(token));
        tasks.spawn("quitter", async {});
        let err = tasks.join(GRACE).await.unwrap_err();
        assert!(
            matches!(&err, TasksError::Ended { name } if name == "quitter"),
            "{err}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_told_with_the_name_of_its_task() {
        let (mut tasks, _token) = tasks();
        tasks.spawn("shaky", async {
            if tokio::time::Instant::now().elapsed() < GRACE {
                panic!("the sky fell");
            }
        });
        let err = tasks.join(GRACE).await.unwrap_err();
        assert_eq!(err.to_string(), "task shaky panicked: the sky fell");
    }

    #[tokio::test(start_paused = true)]
    async fn late_tasks_are_named() {
        let (mut tasks, token) = tasks();
        tasks.spawn("prompt", until(token.clone()));
        tasks.spawn("stuck", std::future::pending::<()>());
        token.cancel();
        let err = tasks.join(GRACE).await.unwrap_err();
        assert_eq!(
            err.to_string(),
            "still running 5s after the request to end: stuck"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_during_the_end_is_told_too() {
        let (mut tasks, token) = tasks();
        tasks.spawn("drain", {
            let token = token.clone();
            async move {
                token.cancelled().await;
                Err::<(), _>(anyhow::anyhow!("last ack refused"))
            }
        });
        token.cancel();
        let err = tasks.join(GRACE).await.unwrap_err();
        assert_eq!(
            chain(&err).to_string(),
            "task drain failed: last ack refused"
        );
    }

    #[tokio::test]
    async fn a_thread_gets_the_token_and_reports_its_end() {
        let (mut tasks, token) = tasks();
        let (seen, told) = oneshot::channel();
        tasks
            .spawn_thread("poller", move |token| {
                drop(seen.send(std::thread::current().name().map(str::to_owned)));
                while !token.is_cancelled() {
                    std::thread::yield_now();
                }
            })
            .unwrap();
        assert_eq!(told.await.unwrap().as_deref(), Some("poller"));
        token.cancel();
        tasks.join(GRACE).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_of_a_thread_is_told_with_its_name() {
        let (mut tasks, _token) = tasks();
        tasks
            .spawn_thread("poller", |token| {
                assert!(token.is_cancelled(), "not yet cancelled")
            })
            .unwrap();
        let err = tasks.join(GRACE).await.unwrap_err();
        assert_eq!(err.to_string(), "task poller panicked: not yet cancelled");
    }
}
