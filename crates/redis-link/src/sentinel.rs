//! Asks Redis Sentinel where the primary is.
//!
//! All sentinels are asked at the same time, and the address that more than half of them name is
//! taken at once, so that a dead one costs nothing while the others agree. Without such a majority
//! the address named most often is taken when all have answered or had their time: a sentinel that
//! was cut off from the others still names the old primary.
//!
//! The `redis` crate's own support asks one after the other, takes the first answer, needs the right
//! to list every primary (`SENTINEL MASTERS`), and does not say which sentinel said what; one
//! command per sentinel is all that is needed. See docs/decisions/0011-epochs-and-lease.md.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::aio::ConnectionLike as _;
use redis::{AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo as _, Value};
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::config::{ConfigError, RedisConfig, SentinelConfig, Server, server};
use crate::error::{RedisError, chain};
use crate::sign_in::SignIn;
use crate::value;

/// How often the sentinels are asked while a connection stands.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(2);

/// A primary's address, by the word of the sentinels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

/// The sentinels of one primary.
pub(crate) struct Sentinels {
    master: String,
    sentinels: Vec<(String, Server)>,
    sign_in: SignIn,
    tls: bool,
    /// How long one of them may take.
    limit: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the last connection was to go.
    taken: Option<Address>,
    /// How often that changed.
    moves: u64,
    asked_at: Option<Instant>,
    /// What turned out to be a replica: not taken again while the sentinels disagree.
    refused: Option<Address>,
    /// The complaints that the log has already.
    told: String,
}

/// What the sentinels said, one after the other.
#[derive(Default)]
struct Answers {
    votes: Vec<(Address, usize)>,
    complaints: Vec<String>,
    /// How many know no primary of this name.
    unknown: usize,
}

impl Sentinels {
    pub(crate) fn new(
        sentinel: &SentinelConfig,
        config: &RedisConfig,
    ) -> Result<Self, ConfigError> {
        let open = |url: &String| Ok((url.clone(), server("redis.sentinel.urls", url)?));
        Ok(Self {
            master: sentinel.master.clone(),
            sentinels: sentinel.urls.iter().map(open).collect::<Result<_, _>>()?,
            sign_in: SignIn::at_sentinels(sentinel, config)?,
            tls: sentinel.tls(),
            // The other half is for the primary.
            limit: config.op_timeout / 2,
            state: Mutex::default(),
        })
    }

    /// Where the primary was when it was last looked for, for people.
    pub(crate) fn text(&self) -> String {
        match &self.state().taken {
            Some(Address { host, port }) => format!("{host}:{port} (`{}`)", self.master),
            None => format!("`{}` of redis.sentinel", self.master),
        }
    }

    /// The primary as a server to connect to, and how often it has moved so far.
    pub(crate) async fn primary(&self) -> Result<(Server, u64), RedisError> {
        let address = self.find().await?;
        let moves = self.take(address.clone());
        let Address { host, port } = address;
        let addr = if self.tls {
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let info = addr.into_connection_info();
        let info = info.map_err(|error| RedisError::sort_connect(&self.text(), error))?;
        let tls = self.tls;
        Ok((Server { info, tls }, moves))
    }

    /// How often the primary has moved, as far as is known: older connections are of no use.
    pub(crate) fn moves(&self) -> u64 {
        self.state().moves
    }

    /// Asks whether the primary is still where it was, unless that was asked just now: the old one
    /// may live on, cut off from the others, and take writes that nobody will see.
    pub(crate) async fn confirm(&self) {
        let recent = |at: Instant| at.elapsed() < CONFIRM_INTERVAL;
        if self.state().asked_at.is_some_and(recent) {
            return;
        }
        // Without an answer the connection that stands is as good as any.
        if let Ok(address) = self.find().await {
            self.take(address);
        }
    }

    fn take(&self, address: Address) -> u64 {
        let mut state = self.state();
        if state.taken.as_ref().is_some_and(|taken| *taken != address) {
            state.moves += 1;
        }
        state.taken = Some(address);
        state.moves
    }

    /// What was taken for the primary is a replica.
    pub(crate) fn refused(&self) {
        let mut state = self.state();
        state.refused = state.taken.clone();
    }

    async fn find(&self) -> Result<Address, RedisError> {
        self.state().asked_at = Some(Instant::now());
        let mut asking: FuturesUnordered<_> =
            self.sentinels.iter().map(|each| self.ask(each)).collect();
        let mut answers = Answers::default();
        while let Some(answer) = asking.next().await {
            match answer {
                Ok(Some(address)) => {
                    if answers.vote(address) * 2 > self.sentinels.len() {
                        break;
                    }
                }
                Ok(None) => answers.unknown += 1,
                Err(complaint) => answers.complaints.push(complaint),
            }
        }
        self.tell(&answers);
        let refused = self.state().refused.clone();
        answers.choose(refused.as_ref()).ok_or_else(|| {
            let (master, text) = (self.master.clone(), answers.complaints.join("; "));
            if answers.complaints.is_empty() {
                let sentinels: Vec<&str> =
                    self.sentinels.iter().map(|(url, _)| url.as_str()).collect();
                let sentinels = sentinels.join(", ");
                RedisError::UnknownMaster { master, sentinels }
            } else {
                RedisError::NoSentinel { master, text }
            }
        })
    }

    /// One sentinel's answer: an address, none, or what is wrong with it.
    async fn ask(&self, (url, server): &(String, Server)) -> Result<Option<Address>, String> {
        const OPERATION: &str = "ask for the primary";
        let asking = async {
            let client = self.sign_in.client(server, url)?;
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(None)
                .set_response_timeout(None);
            let connecting = client.get_multiplexed_async_connection_with_config(&config);
            let mut connection = Box::pin(connecting)
                .await
                .map_err(|error| RedisError::sort_connect(url, error))?;
            let mut command = redis::cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
            connection
                .req_packed_command(&command)
                .await
                .and_then(Value::extract_error)
                .map_err(|error| RedisError::sort(OPERATION, url, error))
        };
        let reply = match timeout(self.limit, Box::pin(asking)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return Err(complaint(url, &error)),
            Err(_elapsed) => return Err(format!("{url} did not answer within {:?}", self.limit)),
        };
        if reply == Value::Nil {
            return Ok(None);
        }
        address(reply)
            .map(Some)
            .ok_or_else(|| format!("{url} did not answer with a host and a port"))
    }

    /// Sentinels that are of no use are named in the log, once.
    fn tell(&self, answers: &Answers) {
        let text = answers.complaints.join("; ");
        let mut state = self.state();
        if !text.is_empty() && state.told != text && !answers.votes.is_empty() {
            warn!(error = %text, "a sentinel is of no use; the others are relied on");
        }
        state.told = text;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    /// Counts a vote; returns how many the address has.
    fn vote(&mut self, address: Address) -> usize {
        if let Some((_, votes)) = self.votes.iter_mut().find(|(other, _)| *other == address) {
            *votes += 1;
            return *votes;
        }
        self.votes.push((address, 1));
        1
    }

    /// The address that is named most often; of several not the one that was refused.
    fn choose(&self, refused: Option<&Address>) -> Option<Address> {
        self.votes
            .iter()
            .max_by_key(|(address, votes)| (*votes, Some(address) != refused))
            .map(|(address, _)| address.clone())
    }
}

fn complaint(url: &str, error: &RedisError) -> String {
    match error {
        RedisError::NoStreams { .. } => {
            format!("{url} is no sentinel: its port is mostly 26379, not that of a server")
        }
        RedisError::WrongPassword { text, .. } => format!(
            "{url} refused the sign-in ({text}): check redis.sentinel.username and redis.sentinel.password_file"
        ),
        RedisError::NotPermitted { text, .. } => {
            format!("{url}: {text}: grant +sentinel|get-master-addr-by-name")
        }
        other => chain(other),
    }
}

fn address(reply: Value) -> Option<Address> {
    let mut parts = value::array(reply)?.into_iter();
    let host = value::text(parts.next()?)?;
    let port = u16::try_from(value::number(parts.next()?)?).ok()?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
    (!host.is_empty() && host.len() <= 253 && host.bytes().all(fits) && port > 0)
        .then_some(Address { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(host: &str) -> Address {
        let (host, port) = (host.to_owned(), 6379);
        Address { host, port }
    }

    #[test]
    fn most_votes_win_and_among_equals_not_the_one_that_was_refused() {
        let mut answers = Answers::default();
        assert_eq!(answers.choose(None), None);
        answers.vote(named("a"));
        answers.vote(named("b"));
        assert_eq!(answers.choose(Some(&named("b"))), Some(named("a")));
        assert_eq!(answers.choose(Some(&named("a"))), Some(named("b")));
        assert_eq!(answers.vote(named("a")), 2);
        assert_eq!(answers.choose(Some(&named("a"))), Some(named("a")));
    }

    #[test]
    fn only_a_host_and_a_port_are_an_address() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let reply = |host, port| Value::Array(vec![text(host), text(port)]);
        assert_eq!(address(reply("a", "6379")), Some(named("a")));
        for (host, port) in [
            ("", "1"),
            ("a b", "1"),
            ("a", "0"),
            ("a", "65536"),
            ("a", "x"),
        ] {
            assert_eq!(address(reply(host, port)), None, "{host:?} {port:?}");
        }
        assert_eq!(address(Value::Array(vec![text("a")])), None);
        assert_eq!(address(Value::Int(7)), None);
    }
}
