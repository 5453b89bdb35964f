//! An id's standing session with a master: the keys of now and before, and requests under them.
//!
//! ```text
//! request(load) ──► sealed with the session key ──► Requester ──► master 4506
//!       ▲                                                            │
//!       └── opened ◄── reply ── `bad load`? sign in again, repeat once ◄┘
//! ```
//! - Many tasks may find at once that the keys are old: one signs in, the others wait for it.
//! - Signing in again is limited to once in [`SessionConfig::sign_in_interval`], so that a master
//!   that refuses everything is not flooded.
//! - AES keys of earlier sign-ins are kept, newest first, up to [`SessionConfig::aes_keys_max`]:
//!   publications that were under way when the master changed its key can still be opened. An
//!   [`AesKeyStore`] carries them across a restart.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use salt_wire::auth::Credentials;
use salt_wire::crypticle::{AesKey, CrypticleError};
use salt_wire::ids::MinionId;
use salt_wire::keys::KeyError;
use salt_wire::msgpack::Value;
use salt_wire::request::{Identity, Nonce, ReplyError, encode_aes, open_reply};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::requester::RequestError;
use crate::sign_in::SignIn;

/// Bounds of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionConfig {
    /// Earlier AES keys kept. A 3006 master changes its key once a day or at a restart, so 16 reach
    /// back for days.
    pub aes_keys_max: usize,
    /// Shortest time between two sign-ins.
    pub sign_in_interval: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            aes_keys_max: 16,
            sign_in_interval: Duration::from_secs(1),
        }
    }
}

/// The keys of one sign-in. Compare `generation` to see whether keys are newer.
#[derive(Debug)]
pub struct SessionKeys {
    /// Counts the sign-ins of this session from 1.
    pub generation: u64,
    /// What the master gave.
    pub credentials: Credentials,
}

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The request could not be sealed.
    #[error("failed to seal a request to the master")]
    Seal(#[source] CrypticleError),
    /// The random number generator failed.
    #[error("failed to make a nonce")]
    Random,
    /// No reply; whether the request was processed is not known.
    #[error("no reply from the master")]
    Request(#[source] RequestError),
    /// The reply is no answer to the request, also after signing in again.
    #[error("the master's reply cannot be used")]
    Reply(#[source] ReplyError),
}

impl SessionError {
    /// Whether the same request may succeed later. A reply that does not suit the session may be
    /// followed by a good one after the next sign-in.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Request(error) => error.is_transient(),
            Self::Reply(error) => error.needs_sign_in(),
            Self::Seal(_) | Self::Random => false,
        }
    }
}

/// Where AES keys outlive the process.
pub trait AesKeyStore: Send + Sync {
    /// The keys of earlier sign-ins, newest first.
    fn load(&self) -> Vec<AesKey>;
    /// The key of the sign-in just made. A store that fails tells it by itself: the session goes on with the keys in
    /// memory.
    fn save(&self, current: &AesKey);
}

#[derive(Default)]
struct State {
    current: Option<Arc<SessionKeys>>,
    /// Of earlier sign-ins, newest first, none twice.
    earlier: VecDeque<AesKey>,
}

/// One id's session with one master. Share it by `Arc`.
pub struct Session {
    sign_in: SignIn,
    identity: Identity,
    config: SessionConfig,
    state: Mutex<State>,
    store: Option<Arc<dyn AesKeyStore>>,
    /// Held by the one that signs in; holds when the last sign-in was begun.
    turn: tokio::sync::Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", self.id())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session that signs in when first needed.
    ///
    /// # Errors
    /// When the own key cannot make the proof of ownership that each request carries.
    pub fn new(sign_in: SignIn, config: SessionConfig) -> Result<Self, KeyError> {
        let own = sign_in.config();
        let identity = Identity::new(own.id.clone(), sign_in.key(), own.enc_algo, own.sig_algo)?;
        Ok(Self {
            sign_in,
            identity,
            config,
            state: Mutex::new(State::default()),
            store: None,
            turn: tokio::sync::Mutex::new(None),
        })
    }

    /// The same session, which knows the keys of `store` and keeps its own there.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn AesKeyStore>) -> Self {
        let mut earlier = VecDeque::from(store.load());
        earlier.truncate(self.config.aes_keys_max);
        self.lock().earlier = earlier;
        self.store = Some(store);
        self
    }

    /// Own id.
    #[must_use]
    pub fn id(&self) -> &MinionId {
        self.sign_in.id()
    }

    /// Own id and proof, for loads that carry them a second time.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How signing in stands and went.
    #[must_use]
    pub fn sign_in(&self) -> &SignIn {
        &self.sign_in
    }

    /// The keys of the last sign-in, if there was one.
    #[must_use]
    pub fn current(&self) -> Option<Arc<SessionKeys>> {
        self.lock().current.clone()
    }

    /// Keys that may open a publication: the current one, then earlier ones, newest first.
    #[must_use]
    pub fn aes_keys(&self) -> Vec<AesKey> {
        let state = self.lock();
        let current = state
            .current
            .iter()
            .map(|keys| keys.credentials.aes.clone());
        current.chain(state.earlier.iter().cloned()).collect()
    }

    /// The current keys, after signing in if that was not done yet. Waits for as long as the master
    /// needs to accept us. May be dropped at any time.
    pub async fn signed_in(&self) -> Arc<SessionKeys> {
        match self.current() {
            Some(keys) => keys,
            None => self.renew(0, "start").await,
        }
    }

    /// Signs in again because `stale` no longer work; returns at once when that has happened since.
    /// Waits for as long as the master needs to accept us. May be dropped at any time.
    pub async fn sign_in_again(
        &self,
        stale: &SessionKeys,
        reason: &'static str,
    ) -> Arc<SessionKeys> {
        self.renew(stale.generation, reason).await
    }

    async fn renew(&self, stale: u64, reason: &'static str) -> Arc<SessionKeys> {
        let mut begun = self.turn.lock().await;
        if let Some(keys) = self.current()
            && keys.generation > stale
        {
            return keys;
        }
        if let Some(last) = *begun {
            tokio::time::sleep_until(last + self.config.sign_in_interval).await;
        }
        *begun = Some(Instant::now());
        info!(id = %self.id(), reason, "signing in");
        let credentials = self.sign_in.until_accepted().await;
        self.take(credentials)
    }

    fn take(&self, credentials: Credentials) -> Arc<SessionKeys> {
        let keys = self.change_keys(credentials);
        if let Some(store) = &self.store {
            store.save(&keys.credentials.aes);
        }
        keys
    }

    fn change_keys(&self, credentials: Credentials) -> Arc<SessionKeys> {
        let mut state = self.lock();
        let last = state.current.take();
        let generation = last.as_ref().map_or(0, |keys| keys.generation) + 1;
        // Not twice, and the current one not among the earlier ones: a master gives the same key at
        // each sign-in until it changes it.
        if let Some(last) = last {
            let last = &last.credentials.aes;
            state.earlier.retain(|key| !same(key, last));
            state.earlier.push_front(last.clone());
        }
        state.earlier.retain(|key| !same(key, &credentials.aes));
        state.earlier.truncate(self.config.aes_keys_max);
        let keys = Arc::new(SessionKeys {
            generation,
            credentials,
        });
        state.current = Some(Arc::clone(&keys));
        keys
    }

    /// Sends a command's map under the session key and returns what the master answers; `_return`
    /// and its like answer nil. `id`, `tok`, `nonce` and `ts` are set in the map.
    ///
    /// `timeout` is for each of at most two tries; a sign-in in between takes its own time.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn authenticated_request(
        &self,
        load: Value,
        timeout: Duration,
    ) -> Result<Value, SessionError> {
        let keys = self.signed_in().await;
        match self.request_with(&keys, load.clone(), timeout).await {
            Err(SessionError::Reply(error)) if error.needs_sign_in() => {
                debug!(id = %self.id(), %error, "the session is no longer good");
                let keys = self
                    .sign_in_again(&keys, "the master did not accept the session")
                    .await;
                self.request_with(&keys, load, timeout).await
            }
            result => result,
        }
    }

    async fn request_with(
        &self,
        keys: &SessionKeys,
        load: Value,
        timeout: Duration,
    ) -> Result<Value, SessionError> {
        let nonce = Nonce::random().map_err(|_| SessionError::Random)?;
        let session = &keys.credentials.session;
        let frame = encode_aes(session, &self.identity, &nonce, unix_seconds(), load)
            .map_err(SessionError::Seal)?;
        let sent = self.sign_in.requester().request(frame, timeout);
        let reply = sent.await.map_err(SessionError::Request)?;
        open_reply(session, &nonce, &reply).map_err(SessionError::Reply)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn same(one: &AesKey, other: &AesKey) -> bool {
    one.to_text() == other.to_text()
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    since.as_secs()
}
