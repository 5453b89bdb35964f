//! Signs in to a master with this host's key pair, as salt-syndic does.
//!
//! ```text
//! pki_dir/minion.pem ──► SignIn::attempt ──_auth──► master 4506
//!                             │  ◄── accepted | pending | refused
//! pki_dir/syndic_master.pub ◄─┘      (the master's key is trusted on first use, then compared)
//! ```
//! - A master whose key is another than the stored one is never signed in to; the message names the
//!   file and what to do.
//! - [`SignIn::until_accepted`] never gives up: an operator's `salt-key -a` heals without a restart.
//! - Requests are always complete: a malformed `_auth` leaves a worker of a 3006 or 3007 master
//!   stuck for good.

mod keys;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use salt_wire::auth::{
    AuthBeginError, AuthError, AuthExchange, AuthOutcome, Credentials, MasterCheck, RefusedReason,
    SignIn as WireSignIn,
};
use salt_wire::ids::MinionId;
use salt_wire::keys::{EncAlgo, PrivateKey, PublicKey, SigAlgo};
use salt_wire::msgpack::Value;
use tracing::{debug, info, warn};

pub use keys::KeyFileError;

use crate::requester::{RequestError, Requester};

/// Who signs in, with which files, and how patiently.
#[derive(Debug, Clone)]
pub struct SignInConfig {
    /// Own id.
    pub id: MinionId,
    /// The directory of `minion.pem` and `minion.pub`; created with them when missing.
    pub pki_dir: PathBuf,
    /// Bits of a key that must be created (`keysize`).
    pub keysize: u32,
    /// Where the master's key is stored: `syndic_master.pub` in `pki_dir`.
    pub master_key_file: PathBuf,
    /// `encryption_algorithm`.
    pub enc_algo: EncAlgo,
    /// `signing_algorithm`.
    pub sig_algo: SigAlgo,
    /// Values of the grains that `autosign_grains` names, as a map.
    pub autosign_grains: Option<Value>,
    /// `syndic_finger`, else `master_finger`.
    pub finger: Option<String>,
    /// `hash_type`, the hash of `finger`.
    pub hash_type: String,
    /// The file of the key that vouches for the master's key, if `verify_master_pubkey_sign` is on.
    pub signing_key_file: Option<PathBuf>,
    /// `always_verify_signature`.
    pub always_verify_signature: bool,
    /// How long one `_auth` may take (`auth_timeout`).
    pub auth_timeout: Duration,
    /// Pause while the own key is pending (`acceptance_wait_time`).
    pub acceptance_wait: Duration,
    /// The pause grows by itself up to this (`acceptance_wait_time_max`); 0 = it stays.
    pub acceptance_wait_max: Duration,
    /// Pause after a refusal that only an operator can remove.
    pub refused_wait: Duration,
}

impl SignInConfig {
    /// Salt's defaults for an id and a `pki_dir`: keys of 2048 bits, 5 s for an answer, 10 s
    /// between questions while pending; a refusal is asked about again every 60 s.
    #[must_use]
    pub fn new(id: MinionId, pki_dir: PathBuf) -> Self {
        Self {
            id,
            master_key_file: pki_dir.join("syndic_master.pub"),
            pki_dir,
            keysize: 2048,
            enc_algo: EncAlgo::default(),
            sig_algo: SigAlgo::default(),
            autosign_grains: None,
            finger: None,
            hash_type: "sha256".to_owned(),
            signing_key_file: None,
            always_verify_signature: false,
            auth_timeout: Duration::from_secs(5),
            acceptance_wait: Duration::from_secs(10),
            acceptance_wait_max: Duration::ZERO,
            refused_wait: Duration::from_secs(60),
        }
    }
}

/// What a believable master said.
#[derive(Debug, Clone)]
pub enum SignInOutcome {
    /// Signed in; a new master key is already on disk.
    Accepted(Box<Credentials>),
    /// The own key waits for `salt-key -a` on the master.
    Pending,
    /// An operator must act first.
    Refused(RefusedReason),
}

/// Why an attempt has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// A key file cannot be read or written.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// No request could be made of these keys.
    #[error("failed to make the sign-in request")]
    Begin(#[source] AuthBeginError),
    /// The master did not answer.
    #[error("no answer to the sign-in of {id}")]
    Request {
        /// Own id.
        id: MinionId,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// The answer is not believed.
    #[error(
        "the answer to the sign-in of {id} is not accepted; the master's key is in {master_key_file}"
    )]
    Reply {
        /// Own id.
        id: MinionId,
        /// The stored key that the answer was compared with.
        master_key_file: PathBuf,
        /// Why.
        #[source]
        source: AuthError,
    },
}

impl SignInError {
    /// Whether the next attempt may succeed without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::KeyFile(_) | Self::Begin(_) => false,
            Self::Request { source, .. } => source.is_transient(),
            Self::Reply { source, .. } => source.is_transient(),
        }
    }
}

/// How attempts ended since the start, for `saltway_sign_ins_total{result}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SignInCounts {
    /// Accepted.
    pub accepted: u64,
    /// The own key is pending.
    pub pending: u64,
    /// Refused by the master.
    pub refused: u64,
    /// Not answered.
    pub unanswered: u64,
    /// Answered, but not believed, or failed on this side.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    pending: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
    failed: AtomicU64,
}

/// Where signing in stands, for readiness and for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignInStatus {
    /// Nothing was asked yet.
    NotYet,
    /// Signed in.
    Accepted,
    /// The own key waits for `salt-key -a` on the master.
    Pending,
    /// Refused, or not possible: the sentence says what to do.
    Refused(String),
    /// The master does not answer, or nonsense.
    Failing(String),
}

/// Signs in to one master.
pub struct SignIn {
    config: SignInConfig,
    key: PrivateKey,
    requester: Arc<dyn Requester>,
    counters: Counters,
    status: tokio::sync::watch::Sender<SignInStatus>,
}

impl std::fmt::Debug for SignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignIn")
            .field("id", &self.config.id)
            .finish_non_exhaustive()
    }
}

impl SignIn {
    /// Loads the own key, or creates it as Salt does.
    ///
    /// # Errors
    /// When the key files can be neither read nor created.
    pub fn new(config: SignInConfig, requester: Arc<dyn Requester>) -> Result<Self, KeyFileError> {
        let key = keys::load_or_create(&config.pki_dir, config.keysize)?;
        let (status, _) = tokio::sync::watch::channel(SignInStatus::NotYet);
        Ok(Self {
            config,
            key,
            requester,
            counters: Counters::default(),
            status,
        })
    }

    /// Own id.
    #[must_use]
    pub fn id(&self) -> &MinionId {
        &self.config.id
    }

    pub(crate) fn config(&self) -> &SignInConfig {
        &self.config
    }

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }

    pub(crate) fn requester(&self) -> &dyn Requester {
        &*self.requester
    }

    /// How attempts ended since the start.
    #[must_use]
    pub fn counts(&self) -> SignInCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SignInCounts {
            accepted: load(&self.counters.accepted),
            pending: load(&self.counters.pending),
            refused: load(&self.counters.refused),
            unanswered: load(&self.counters.unanswered),
            failed: load(&self.counters.failed),
        }
    }

    /// Where signing in stands, now and from now on; receivers are woken at the end of each attempt, also
    /// when it ended as the one before.
    #[must_use]
    pub fn status(&self) -> tokio::sync::watch::Receiver<SignInStatus> {
        self.status.subscribe()
    }

    /// Asks the master once.
    ///
    /// # Errors
    /// When there is no believable answer.
    pub async fn attempt(&self) -> Result<SignInOutcome, SignInError> {
        let result = self.ask().await;
        let (counter, status) = match &result {
            Ok(SignInOutcome::Accepted(_)) => (&self.counters.accepted, SignInStatus::Accepted),
            Ok(SignInOutcome::Pending) => (&self.counters.pending, SignInStatus::Pending),
            Ok(SignInOutcome::Refused(reason)) => (
                &self.counters.refused,
                SignInStatus::Refused(reason.to_string()),
            ),
            Err(error) => {
                let counter = match error {
                    SignInError::Request { .. } => &self.counters.unanswered,
                    SignInError::KeyFile(_) | SignInError::Begin(_) | SignInError::Reply { .. } => {
                        &self.counters.failed
                    }
                };
                let text = crate::chain(error);
                let status = if error.is_transient() {
                    SignInStatus::Failing(text)
                } else {
                    SignInStatus::Refused(text)
                };
                (counter, status)
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.tell(status);
        result
    }

    /// Asks until the master accepts, for ever. May be dropped at any time.
    pub async fn until_accepted(&self) -> Credentials {
        let mut acceptance_wait = self.config.acceptance_wait;
        loop {
            let wait = match self.attempt().await {
                Ok(SignInOutcome::Accepted(credentials)) => return *credentials,
                Ok(SignInOutcome::Pending) => {
                    let wait = acceptance_wait;
                    if wait < self.config.acceptance_wait_max {
                        acceptance_wait = (wait + self.config.acceptance_wait)
                            .min(self.config.acceptance_wait_max);
                    }
                    wait
                }
                // As long as before a key is accepted: neither passes without an operator.
                Ok(SignInOutcome::Refused(RefusedReason::Full)) => self.config.acceptance_wait,
                Ok(SignInOutcome::Refused(_)) => self.config.refused_wait,
                Err(SignInError::Request {
                    source: RequestError::TimedOut { .. },
                    ..
                }) => {
                    // The waiting for the answer was the pause.
                    Duration::from_millis(100)
                }
                Err(error) if error.is_transient() => Duration::from_secs(1),
                Err(_) => self.config.acceptance_wait,
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn ask(&self) -> Result<SignInOutcome, SignInError> {
        let config = &self.config;
        let master_key = keys::read_public(&config.master_key_file)?;
        let signing_key = match &config.signing_key_file {
            Some(file) => Some(keys::require_public(file)?),
            None => None,
        };
        let exchange = AuthExchange::begin(&WireSignIn {
            id: &config.id,
            key: &self.key,
            master_key: master_key.as_ref(),
            enc_algo: config.enc_algo,
            sig_algo: config.sig_algo,
            autosign_grains: config.autosign_grains.clone(),
        })
        .map_err(SignInError::Begin)?;
        let sent = self
            .requester
            .request(exchange.request().encode(), config.auth_timeout);
        let reply = sent.await.map_err(|source| SignInError::Request {
            id: config.id.clone(),
            source,
        })?;
        let check = MasterCheck {
            finger: config.finger.as_deref(),
            hash_type: &config.hash_type,
            signing_key: signing_key.as_ref(),
            always_verify_signature: config.always_verify_signature,
        };
        let outcome = exchange
            .verify(&reply, &check)
            .map_err(|source| SignInError::Reply {
                id: config.id.clone(),
                master_key_file: config.master_key_file.clone(),
                source,
            })?;
        Ok(match outcome {
            AuthOutcome::Accepted(credentials) => {
                if credentials.store_master_key {
                    self.store_master_key(&credentials.master_key)?;
                }
                SignInOutcome::Accepted(credentials)
            }
            AuthOutcome::Pending => SignInOutcome::Pending,
            AuthOutcome::Refused(reason) => SignInOutcome::Refused(reason),
        })
    }

    fn store_master_key(&self, key: &PublicKey) -> Result<(), KeyFileError> {
        let file = &self.config.master_key_file;
        keys::store_public(file, key)?;
        let finger = key.fingerprint("sha256").unwrap_or_default();
        info!(file = %file.display(), finger, "the master's key is trusted from now on");
        Ok(())
    }

    /// Publishes where signing in stands, and logs it once for each change.
    fn tell(&self, status: SignInStatus) {
        let id = &self.config.id;
        // Receivers are woken for each attempt: the counts have changed, though the status may not have.
        if self.status.send_replace(status.clone()) == status {
            debug!(%id, ?status, "sign-in attempted");
            return;
        }
        match status {
            SignInStatus::NotYet => {}
            SignInStatus::Accepted => info!(%id, "signed in to the master"),
            SignInStatus::Pending => warn!(
                %id,
                "the master has not accepted this key yet: run `salt-key -a {id}` on the master",
            ),
            SignInStatus::Refused(reason) => {
                tracing::error!(%id, reason, "the master does not let us in");
            }
            SignInStatus::Failing(reason) => warn!(%id, reason, "sign-in failed, trying again"),
        }
    }
}
