//! One connection for one purpose, that comes back by itself.
//!
//! It is made when first used. An operation on it either answers within its time-out or throws the
//! connection away; the next operation makes a new one, not before the backoff allows it. Nothing
//! is repeated here: only the caller knows what may be.
//!
//! A lane for writes looks at the server before it uses a connection: a replica is refused, and the
//! server's run is noted, see [`Session::run`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{Cmd, Pipeline, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use crate::backoff::Backoff;
use crate::connection::{Purpose, ReconnectHook};
use crate::endpoint::{Connected, Endpoint};
use crate::error::{RedisError, chain};

/// Bytes a second of a link at its best: 8 MiB, the largest pipeline of frames, get a second.
const FAST_LINK: u64 = 8 << 20;
/// Most doublings: 64 KiB a second.
const PATIENCE_MAX: u32 = 7;

/// What a lane is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// Only the primary will do.
    Writes,
    /// Any server will do.
    Reads,
}

/// See the module's head. Operations on a clone share the connection.
#[derive(Clone)]
pub(crate) struct Lane {
    pub(crate) endpoint: Arc<Endpoint>,
    purpose: Purpose,
    serves: Serves,
    hook: ReconnectHook,
    state: Arc<Mutex<LaneState>>,
    /// Doublings of the time that large frames get, see [`Lane::limit_for`].
    patience: Arc<AtomicU32>,
}

#[derive(Default)]
struct LaneState {
    session: Option<Session>,
    /// Counts connections, so that a late error does not throw away the next one.
    generation: u64,
    backoff: Backoff,
    not_before: Option<Instant>,
}

/// One connection of a lane.
#[derive(Clone)]
pub(crate) struct Session {
    connection: MultiplexedConnection,
    generation: u64,
    /// See [`Endpoint::moves`].
    moves: u64,
    /// See [`Endpoint::losses`].
    losses: u64,
    /// Names the run of the server, see [`crate::info::Info::run`]; empty on a lane for reads.
    pub(crate) run: Arc<str>,
}

impl Lane {
    pub(crate) fn new(
        endpoint: Arc<Endpoint>,
        purpose: Purpose,
        serves: Serves,
        hook: ReconnectHook,
    ) -> Self {
        Self {
            endpoint,
            purpose,
            serves,
            hook,
            state: Arc::default(),
            patience: Arc::default(),
        }
    }

    /// The time-out of an operation that sends this much: at first as on a fast link, so that a
    /// link that is dead is noticed within seconds; doubled after each time-out, so that a slow
    /// link gets it done at last.
    pub(crate) fn limit_for(&self, bytes: usize) -> Duration {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let millis = (bytes.saturating_mul(1000) / FAST_LINK) << self.patience();
        self.endpoint.op_timeout + Duration::from_millis(millis)
    }

    /// How often the time was doubled.
    pub(crate) fn patience(&self) -> u32 {
        self.patience.load(Ordering::Relaxed)
    }

    /// Learns from an operation that took `took` of the `limit` that it had.
    fn learn(&self, took: Duration, limit: Duration) {
        let patience = self.patience();
        if took >= limit {
            let more = (patience + 1).min(PATIENCE_MAX);
            self.patience.store(more, Ordering::Relaxed);
        } else if took < limit / 4 {
            self.patience
                .store(patience.saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// Sends one command.
    pub(crate) async fn command(
        &self,
        operation: &'static str,
        command: &Cmd,
        limit: Duration,
    ) -> Result<Value, RedisError> {
        let session = self.session(operation).await?;
        self.run(&session, operation, limit, async |mut connection| {
            connection.req_packed_command(command).await
        })
        .await
        .and_then(|value| self.endpoint.value(operation, value))
    }

    /// Sends the commands of a pipeline and returns a value for each; a value may be an error of
    /// the server, see [`Endpoint::value`].
    pub(crate) async fn pipeline(
        &self,
        operation: &'static str,
        pipeline: &Pipeline,
        limit: Duration,
    ) -> Result<Vec<Value>, RedisError> {
        let session = self.session(operation).await?;
        self.pipeline_on(&session, operation, pipeline, limit).await
    }

    /// As [`Self::pipeline`], on a connection that [`Self::session`] gave.
    pub(crate) async fn pipeline_on(
        &self,
        session: &Session,
        operation: &'static str,
        pipeline: &Pipeline,
        limit: Duration,
    ) -> Result<Vec<Value>, RedisError> {
        let count = pipeline.len();
        self.run(session, operation, limit, async |mut connection| {
            connection.req_packed_commands(pipeline, 0, count).await
        })
        .await
    }

    async fn run<T>(
        &self,
        session: &Session,
        operation: &'static str,
        limit: Duration,
        send: impl AsyncFnOnce(MultiplexedConnection) -> redis::RedisResult<T>,
    ) -> Result<T, RedisError> {
        let (connection, began) = (session.connection.clone(), Instant::now());
        let result = timeout(limit, Box::pin(send(connection))).await;
        self.learn(began.elapsed(), limit);
        let result = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => RedisError::sort(operation, &self.endpoint.url(), error),
            Err(_elapsed) => self.endpoint.timed_out(operation, limit),
        };
        self.discard(session, &result).await;
        Err(result)
    }

    /// The connection, made anew if there is none. Waits for its turn at most `op_timeout`.
    pub(crate) async fn session(&self, operation: &'static str) -> Result<Session, RedisError> {
        let limit = self.endpoint.op_timeout;
        let mut state = timeout(limit, self.state.lock())
            .await
            .map_err(|_elapsed| self.endpoint.timed_out(operation, limit))?;
        let moves = self.endpoint.moves();
        if state
            .session
            .as_ref()
            .is_some_and(|session| session.moves != moves)
        {
            warn!(purpose = self.purpose.as_str(), url = %self.endpoint.url(), "the sentinels name another primary");
            state.session = None;
        }
        let losses = self.endpoint.losses();
        if let Some(session) = &state.session
            && session.losses == losses
        {
            return Ok(session.clone());
        }
        state.session = None;
        if let Some(not_before) = state.not_before {
            sleep_until(not_before).await;
        }
        match Box::pin(self.endpoint.connect(self.serves)).await {
            Ok(Connected {
                connection,
                moves,
                run,
            }) => {
                state.generation += 1;
                state.backoff.reset();
                state.not_before = None;
                let generation = state.generation;
                let session = Session {
                    connection,
                    generation,
                    moves,
                    losses,
                    run,
                };
                state.session = Some(session.clone());
                if generation > 1 {
                    debug!(purpose = self.purpose.as_str(), url = %self.endpoint.url(), "reconnected to Redis");
                    (self.hook)(self.purpose);
                }
                Ok(session)
            }
            Err(error) => {
                state.not_before = Some(Instant::now() + state.backoff.next());
                Err(error)
            }
        }
    }

    /// The connection of a lane for writes, after another look at what server it leads to.
    pub(crate) async fn looked_at_again(
        &self,
        operation: &'static str,
    ) -> Result<Session, RedisError> {
        let mut session = self.session(operation).await?;
        let looking = Box::pin(self.endpoint.look(&mut session.connection));
        let limit = self.endpoint.op_timeout;
        let looked = match timeout(limit, looking).await {
            Ok(looked) => looked,
            Err(_elapsed) => Err(self.endpoint.timed_out(operation, limit)),
        };
        match looked {
            Ok(run) => {
                session.run = run;
                let mut state = self.state.lock().await;
                if state.generation == session.generation && state.session.is_some() {
                    state.session = Some(session.clone());
                }
                Ok(session)
            }
            Err(error) => {
                self.discard(&session, &error).await;
                Err(error)
            }
        }
    }

    /// Throws the connection away: another one of the same way to Redis turned out to be dead.
    pub(crate) async fn reset(&self) {
        self.state.lock().await.session = None;
    }

    /// Throws the connection away if the error says that it is of no use any more.
    async fn discard(&self, session: &Session, error: &RedisError) {
        if !error.breaks_connection() {
            return;
        }
        let mut state = self.state.lock().await;
        if state.generation == session.generation && state.session.take().is_some() {
            state.not_before = Some(Instant::now() + state.backoff.next());
            self.endpoint.lost();
            warn!(error = %chain(error), purpose = self.purpose.as_str(), "connection to Redis given up");
        }
    }
}
