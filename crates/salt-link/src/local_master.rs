//! Commands the master on this host: publishes jobs with the key that the master leaves on its
//! own disk.
//!
//! - The key is read when first needed, and again when the master no longer accepts it: 3006 writes
//!   a new one at each start.
//! - Requests are sent as they are asked for; whoever needs publications in order asks for the next
//!   one only after the reply to the last.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use salt_wire::commands::{
    Publish, PublishReply, PublishReplyError, RootKey, RootKeyError, Runner, RunnerReply,
};
use salt_wire::ids::Jid;
use salt_wire::msgpack::Value;
use salt_wire::publication::PublicationLoad;
use tracing::info;

use crate::requester::{Replies, RequestError, Requester, alive};

/// Longest key file that is read; Salt writes 76 characters.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// Where the master on this host is and how to command it.
#[derive(Debug, Clone)]
pub struct LocalMasterConfig {
    /// The master's `cachedir`, where it keeps its key files.
    pub cachedir: PathBuf,
    /// The master's `user`, whose key is used and who publishes.
    pub user: String,
    /// How long the master may take to answer a ping.
    pub timeout: Duration,
}

/// Why a job was not published, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum LocalMasterError {
    /// The key file cannot be read: the master never ran, or this user may not.
    #[error("failed to read the master's key {path}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no key; a master that is just starting writes it anew.
    #[error("{path} holds no key")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: RootKeyError,
    },
    /// No reply: the job may or may not have been published.
    #[error("no answer to publish from the local master")]
    Request(#[source] RequestError),
    /// A reply that no master gives.
    #[error("the local master answered publish with something else")]
    Reply(#[source] PublishReplyError),
    /// The master did not start the runner function.
    #[error("the local master did not run {fun}: {text}")]
    Runner {
        /// The function.
        fun: String,
        /// The master's words.
        text: String,
    },
    /// The master does not accept the key although it was just read.
    #[error(
        "the local master does not accept the key in {path}: is this the cachedir and user of the \
         master at this address?"
    )]
    Authentication {
        /// The file.
        path: PathBuf,
    },
}

impl LocalMasterError {
    /// Whether the same job may be published a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Request(error) => error.is_transient(),
            // All of these pass when the master has finished starting.
            Self::KeyFile { .. } | Self::Key { .. } | Self::Authentication { .. } => true,
            Self::Reply(_) | Self::Runner { .. } => false,
        }
    }
}

/// The master on this host.
pub struct LocalMaster {
    config: LocalMasterConfig,
    requester: Arc<dyn Requester>,
    key: Mutex<Option<RootKey>>,
}

impl std::fmt::Debug for LocalMaster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalMaster")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl LocalMaster {
    /// A master whose request port is reached through `requester`.
    #[must_use]
    pub fn new(config: LocalMasterConfig, requester: Arc<dyn Requester>) -> Self {
        Self {
            config,
            requester,
            key: Mutex::new(None),
        }
    }

    /// The file that the key is read from: `.root_key`, or `.<user>_key`.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        key_file(&self.config.cachedir, &self.config.user)
    }

    /// Publishes the job of a publication from above, whole. `timeout` is the caller's: a request that was given up may
    /// be carried out all the same, so that only the caller knows how long it makes sense to wait.
    ///
    /// # Errors
    /// See [`LocalMasterError`]; every other answer of the master is a [`PublishReply`].
    pub async fn publish(
        &self,
        load: &PublicationLoad,
        timeout: Duration,
    ) -> Result<PublishReply, LocalMasterError> {
        self.publish_with(
            |key| Publish::from_load(load, key, &self.config.user),
            timeout,
        )
        .await
    }

    /// Publishes jobs one after the other, each as soon as the one before was published and `go_on` says so; the
    /// replies come in this order. Whatever is no [`PublishReply::Published`] or [`PublishReply::NoMatch`] is the last.
    /// `None` where the way to the master has no such form.
    ///
    /// # Errors
    /// As [`LocalMaster::publish`]; after an error nothing was sent.
    pub fn publish_all(
        &self,
        loads: &[&PublicationLoad],
        go_on: impl Fn() -> bool + Send + 'static,
    ) -> Option<Result<Replies, LocalMasterError>> {
        let key = match self.key() {
            Ok((key, _)) => key,
            Err(err) => return Some(Err(err)),
        };
        let frames = loads
            .iter()
            .map(|load| Publish::from_load(load, key.clone(), &self.config.user).encode());
        let go_on = move |reply: &Bytes| {
            let published = matches!(
                PublishReply::parse(reply),
                Ok(PublishReply::Published { .. } | PublishReply::NoMatch { .. })
            );
            published && go_on()
        };
        let replies = self
            .requester
            .request_all(frames.collect(), Box::new(go_on))?;
        Some(replies.map_err(LocalMasterError::Request))
    }

    /// Publishes a job that `build` makes with the key it is given. It is called twice when the key
    /// has changed.
    ///
    /// # Errors
    /// As [`LocalMaster::publish`].
    pub async fn publish_with(
        &self,
        build: impl Fn(RootKey) -> Publish + Send + Sync,
        timeout: Duration,
    ) -> Result<PublishReply, LocalMasterError> {
        let (key, fresh) = self.key()?;
        let reply = self.send(&build(key), timeout).await?;
        if !matches!(reply, PublishReply::AuthenticationError) {
            return Ok(reply);
        }
        self.forget_key();
        let refused = || LocalMasterError::Authentication {
            path: self.key_file(),
        };
        if fresh {
            return Err(refused());
        }
        info!(key_file = %self.key_file().display(), "the local master has a new key");
        let (key, _) = self.key()?;
        match self.send(&build(key), timeout).await? {
            PublishReply::AuthenticationError => {
                self.forget_key();
                Err(refused())
            }
            reply => Ok(reply),
        }
    }

    /// Starts a runner function; its result is the event `salt/run/<jid>/ret` of the master's bus.
    ///
    /// # Errors
    /// See [`LocalMasterError`].
    pub async fn run(
        &self,
        fun: &str,
        kwarg: Value,
        timeout: Duration,
    ) -> Result<Jid, LocalMasterError> {
        for _ in 0..2 {
            let (key, fresh) = self.key()?;
            let runner = Runner {
                fun: fun.to_owned(),
                kwarg: kwarg.clone(),
                key,
                user: self.config.user.clone(),
            };
            let sent = self.requester.request(runner.encode(), timeout);
            let reply = sent.await.map_err(LocalMasterError::Request)?;
            match RunnerReply::parse(&reply) {
                RunnerReply::Running { jid } => return Ok(jid),
                RunnerReply::AuthenticationError if !fresh => self.forget_key(),
                RunnerReply::AuthenticationError => break,
                RunnerReply::Error(text) => {
                    return Err(LocalMasterError::Runner {
                        fun: fun.to_owned(),
                        text,
                    });
                }
            }
        }
        self.forget_key();
        Err(LocalMasterError::Authentication {
            path: self.key_file(),
        })
    }

    /// Asks whether the master answers at all.
    ///
    /// # Errors
    /// When it does not within the configured time.
    pub async fn ping(&self) -> Result<(), RequestError> {
        alive(&*self.requester, self.config.timeout).await
    }

    async fn send(
        &self,
        job: &Publish,
        timeout: Duration,
    ) -> Result<PublishReply, LocalMasterError> {
        let sent = self.requester.request(job.encode(), timeout);
        let reply = sent.await.map_err(LocalMasterError::Request)?;
        PublishReply::parse(&reply).map_err(LocalMasterError::Reply)
    }

    /// The key, and whether it was read just now.
    fn key(&self) -> Result<(RootKey, bool), LocalMasterError> {
        let mut cached = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &*cached {
            return Ok((key.clone(), false));
        }
        let path = self.key_file();
        let text = match read_key_file(&path) {
            Ok(text) => text,
            Err(source) => return Err(LocalMasterError::KeyFile { path, source }),
        };
        let key = RootKey::parse(&text).map_err(|source| LocalMasterError::Key { path, source })?;
        *cached = Some(key.clone());
        Ok((key, true))
    }

    fn forget_key(&self) {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Salt's own naming: a backslash, which a Windows domain user has, becomes an underscore.
fn key_file(cachedir: &Path, user: &str) -> PathBuf {
    cachedir.join(format!(".{}_key", user.replace(['\\', '/'], "_")))
}

fn read_key_file(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(KEY_FILE_BYTES_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}
