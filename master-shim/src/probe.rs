//! Asks the site's minions by `saltutil.find_job`, under jids of the shim's own, whether they run a job.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use salt_link::local_master::{LocalMaster, LocalMasterError};
use salt_wire::{
    commands::{Publish, PublishReply},
    ids::{Jid, MinionId},
    msgpack::Value,
};
use tokio::time::Instant;

/// How long the lower master may take for the question: on a large site it matches targets for seconds.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(15);

/// Why the minions were not asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// The lower master did not take the job.
    #[error("failed to publish saltutil.find_job on the lower master")]
    Publish(#[source] LocalMasterError),
    /// The lower master refused it.
    #[error("the lower master refused saltutil.find_job: {0}")]
    Refused(String),
}

/// Publishes find_jobs on the lower master.
pub(crate) struct Prober {
    local: Arc<LocalMaster>,
    user: String,
    /// Unix microseconds of the latest jid.
    latest: AtomicI64,
}

impl Prober {
    /// `user` is the user of the lower master.
    pub(crate) fn new(local: Arc<LocalMaster>, user: String) -> Self {
        Self {
            local,
            user,
            latest: AtomicI64::new(0),
        }
    }

    /// A jid in Salt's form, the present time in UTC to the microsecond; never the same twice.
    pub(crate) fn next_jid(&self) -> Jid {
        let now = Timestamp::now().as_microsecond();
        let later = |latest| Some(now.max(latest + 1));
        let micros = match self
            .latest
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later)
        {
            Ok(before) | Err(before) => now.max(before + 1),
        };
        let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
        let text = time.strftime("%Y%m%d%H%M%S%6f").to_string();
        Jid::parse(&text).expect("twenty digits are a jid")
    }

    /// Publishes the question; the answers come by the event bus as returns of `jid`.
    ///
    /// # Errors
    /// When the lower master does not take it. Minions that it does not know are not an error.
    pub(crate) async fn find_job(
        &self,
        jid: &Jid,
        about: &Jid,
        minions: &[String],
    ) -> Result<(), ProbeError> {
        let build = |key| Publish {
            tgt: Value::array(minions.iter().map(String::as_str)),
            fun: "saltutil.find_job".into(),
            arg: Value::array([about.as_str()]),
            key,
            tgt_type: "list".into(),
            ret: "".into(),
            jid: jid.into(),
            kwargs: Value::map::<&str>([]),
            user: self.user.clone(),
            to: None,
        };
        match self
            .local
            .publish_with(build, PUBLISH_TIMEOUT)
            .await
            .map_err(ProbeError::Publish)?
        {
            PublishReply::Published { .. } | PublishReply::NoMatch { .. } => Ok(()),
            PublishReply::AuthenticationError => Err(ProbeError::Refused("authentication".into())),
            PublishReply::AuthorizationError => Err(ProbeError::Refused("authorization".into())),
            PublishReply::Error(text) => Err(ProbeError::Refused(text)),
        }
    }
}

/// Whether a salt-minion with the site's id runs on this host: its event bus, below the minion's `sock_dir`, takes connections.
///
/// The name is `minion_event_<first 10 hex digits of hash_type(id)>_pub.ipc` (`salt/utils/event.py`).
pub(crate) struct MinionWatch {
    socket: Option<std::path::PathBuf>,
    /// When it was looked last, and what was seen.
    seen: std::sync::Mutex<Option<(Instant, bool)>>,
}

/// How long what was seen holds: a minion starts in seconds, and a burst of jobs needs no look for each.
const SEEN_HOLDS: Duration = Duration::from_millis(500);

impl MinionWatch {
    /// Watches for the minion `id`.
    pub(crate) fn new(sock_dir: &std::path::Path, id: &MinionId, hash_type: &str) -> Self {
        let digest = openssl::hash::MessageDigest::from_name(hash_type)
            .and_then(|digest| openssl::hash::hash(digest, id.as_str().as_bytes()).ok());
        let socket = digest.map(|digest| {
            let hex: String = digest
                .iter()
                .take(5)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            sock_dir.join(format!("minion_event_{hex}_pub.ipc"))
        });
        Self {
            socket,
            seen: std::sync::Mutex::default(),
        }
    }

    /// Whether it runs now.
    pub(crate) async fn runs(&self) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        let seen = || {
            self.seen
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        if let Some((at, runs)) = *seen()
            && at.elapsed() < SEEN_HOLDS
        {
            return runs;
        }
        let runs = tokio::net::UnixStream::connect(socket).await.is_ok();
        *seen() = Some((Instant::now(), runs));
        runs
    }
}
