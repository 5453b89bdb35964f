//! What salt-syndic would use beside a lower master (Salt's `syndic_config`).
//!
//! Three layers: the master's options, over them the minion's, over them the syndic's own. The
//! minion's layer has all of the minion's defaults in it, so that an option which a minion knows
//! counts only where the *minion's* file gives it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon_kit::config::{Mistake, Mistakes};
use daemon_kit::yaml::Value;
use salt_options::{MinionDirs, MinionKind};

use super::files::{self, Missing, Overrides};
use super::identity::{self, IdSource};
use super::master::{self, MasterConfig, SECONDS_MAX};
use super::options::{self, Options};
use super::paths;
use super::upstream::{self, Upstream};

/// Pattern of the files that a minion reads unless `default_include` says otherwise.
const DEFAULT_INCLUDE: &str = "minion.d/*.conf";

/// The options of the process that stands in place of salt-syndic.
#[derive(Debug, Clone, PartialEq)]
pub struct SyndicConfig {
    /// The lower master, which publishes the jobs and whose event bus is watched.
    pub local: MasterConfig,
    /// The minion's configuration file; it may not exist.
    pub minion_config_file: PathBuf,
    /// The id, which is the minion's and the site's name.
    pub id: String,
    /// Where the id comes from.
    pub id_source: IdSource,
    /// The directory of the minion's keys; see [`Self::private_key`].
    pub pki_dir: PathBuf,
    /// The syndic's own sockets; below the minion's.
    pub sock_dir: PathBuf,
    /// The user it runs as: `syndic_user`, else the master's.
    pub user: String,
    /// The masters above, at least one.
    pub upstreams: Vec<Upstream>,
    /// Option `master_id`, by which loops are seen. Salt takes 1 where it is missing.
    pub master_id: Option<MasterId>,
    /// How several masters above are treated.
    pub mode: SyndicMode,
    /// The order in which masters above are tried in cluster mode.
    pub failover: SyndicFailover,
    /// Fingerprint that the key of the master above must have. Salt itself reads it from the
    /// minion's file only; here the master's file, where it is documented, counts too.
    pub syndic_finger: Option<String>,
    /// The same for minions; only where `syndic_finger` is missing.
    pub master_finger: Option<String>,
    /// Hash of fingerprints, in lower case.
    pub hash_type: String,
    /// Whether a publication without a signature is refused.
    pub sign_pub_messages: bool,
    /// Whether the master's key must be signed by its signing key.
    pub verify_master_pubkey_sign: bool,
    /// Whether the stored key of the master must be signed, too.
    pub always_verify_signature: bool,
    /// Name of the signing key's file, without `.pub`; see [`Self::signing_key`].
    pub master_sign_key_name: String,
    /// `OAEP-SHA1` or `OAEP-SHA224`, as Salt writes it.
    pub encryption_algorithm: String,
    /// `PKCS1v15-SHA1` or `PKCS1v15-SHA224`, as Salt writes it.
    pub signing_algorithm: String,
    /// Whether publications are filtered by topic.
    pub zmq_filtering: bool,
    /// Whether requests are signed with the minion's key.
    pub minion_sign_messages: bool,
    /// Bits of a new key.
    pub keysize: u32,
    /// Pause between sign-ins while the key is pending.
    pub acceptance_wait_time: Duration,
    /// Longest such pause when it grows; zero keeps it as it is.
    pub acceptance_wait_time_max: Duration,
    /// Whether to go on signing in after the key was rejected.
    pub rejected_retry: bool,
    /// How long one sign-in request may take.
    pub auth_timeout: Duration,
    /// Attempts of one sign-in.
    pub auth_tries: u64,
    /// How long any other request may take.
    pub request_channel_timeout: Duration,
    /// `timeout`, the base of field `to` of a forwarded job.
    pub timeout: Duration,
    /// How long the stock syndic lets returns wait for company.
    pub event_forward_timeout: Duration,
    /// Largest event in bytes before it is trimmed.
    pub max_event_size: u64,
    /// Whether `syndic_start` is sent beside `salt/syndic/<id>/start`.
    pub enable_legacy_startup_events: bool,
    /// Whether to connect by IPv6; `None` leaves it to the addresses.
    pub ipv6: Option<bool>,
}

/// Option `master_id`; Salt compares it with its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterId {
    /// A whole number.
    Int(i64),
    /// Text.
    Text(String),
}

/// Option `syndic_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyndicMode {
    /// Everything goes to every master above.
    Sync,
    /// Events and returns go to one master above that can be reached.
    Cluster,
}

/// Option `syndic_failover`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyndicFailover {
    /// A random order each time.
    Random,
    /// The order of `syndic_master`.
    Ordered,
}

impl SyndicConfig {
    /// Reads the lower master's file, the file `minion` beside it, and their includes.
    ///
    /// # Errors
    /// Every mistake in them, with its file and key.
    pub fn load(master_file: &Path) -> Result<Self, Mistakes> {
        Self::load_with(master_file, &master_file.with_file_name("minion"))
    }

    /// As [`Self::load`] with the minion's file elsewhere. Defaults stand in for a missing one.
    ///
    /// # Errors
    /// Every mistake in them, with its file and key.
    pub fn load_with(master_file: &Path, minion_file: &Path) -> Result<Self, Mistakes> {
        let mistakes = RefCell::default();
        let master = master::read_overrides(master_file, &mistakes);
        let minion = files::read(minion_file, DEFAULT_INCLUDE, Missing::IsEmpty, &mistakes);
        let syndic = Self::from_overrides(&master, &minion, &mistakes);
        Mistakes::check(mistakes.into_inner())?;
        Ok(syndic)
    }

    fn from_overrides(
        master: &Overrides,
        minion: &Overrides,
        mistakes: &RefCell<Vec<Mistake>>,
    ) -> Self {
        let local = MasterConfig::from_overrides(master, mistakes);
        let own = Options::new(vec![minion], mistakes);
        let merged = Options::new(vec![minion, master], mistakes);
        master::check_transport(&own);

        let root = paths::root(&own.text("root_dir", "/"));
        let (id, id_source) = identity::id(&own, &root);
        let dirs = MinionDirs::read(&own, &root, &id, MinionKind::Minion);
        let sockets = merged
            .optional_text("syndic_sock_dir")
            .unwrap_or(dirs.sock_dir);
        let sockets = paths::join(&dirs.cachedir, &sockets);
        let master_port = own.port("master_port", 4506);
        let ret_port = merged.port("syndic_master_port", master_port);
        let publish_port = merged.port("publish_port", 4505);
        let user = merged
            .optional_text("syndic_user")
            .unwrap_or_else(|| local.user.clone());
        let max = u64::from(u32::MAX);
        let seconds = |key, default| own.seconds(key, Duration::from_secs(default));
        Self {
            minion_config_file: minion.file.to_path_buf(),
            id,
            id_source,
            pki_dir: dirs.pki_dir,
            sock_dir: paths::prepend_root(&root, &sockets),
            user,
            upstreams: upstream::read(&merged, ret_port, publish_port),
            master_id: master_id(&merged),
            mode: merged.choice(
                "syndic_mode",
                SyndicMode::Sync,
                &[("sync", SyndicMode::Sync), ("cluster", SyndicMode::Cluster)],
            ),
            failover: merged.choice(
                "syndic_failover",
                SyndicFailover::Random,
                &[
                    ("random", SyndicFailover::Random),
                    ("ordered", SyndicFailover::Ordered),
                ],
            ),
            syndic_finger: merged.optional_text("syndic_finger"),
            master_finger: own.optional_text("master_finger"),
            hash_type: own.text("hash_type", "sha256").to_lowercase(),
            sign_pub_messages: own.bool("sign_pub_messages", false),
            verify_master_pubkey_sign: own.bool("verify_master_pubkey_sign", false),
            always_verify_signature: own.bool("always_verify_signature", false),
            master_sign_key_name: own.text("master_sign_key_name", "master_sign"),
            encryption_algorithm: own
                .choice(
                    "encryption_algorithm",
                    "OAEP-SHA1",
                    &ENCRYPTIONS.map(|name| (name, name)),
                )
                .to_owned(),
            signing_algorithm: own
                .choice(
                    "signing_algorithm",
                    "PKCS1v15-SHA1",
                    &SIGNATURES.map(|name| (name, name)),
                )
                .to_owned(),
            zmq_filtering: own.bool("zmq_filtering", false),
            minion_sign_messages: own.bool("minion_sign_messages", false),
            keysize: u32::try_from(own.number("keysize", 2048, max)).unwrap_or(2048),
            acceptance_wait_time: seconds("acceptance_wait_time", 10),
            acceptance_wait_time_max: seconds("acceptance_wait_time_max", 0),
            rejected_retry: own.bool("rejected_retry", false),
            auth_timeout: seconds("auth_timeout", 5),
            auth_tries: own.number("auth_tries", 7, max),
            request_channel_timeout: seconds("request_channel_timeout", 60),
            timeout: Duration::from_secs(merged.number("timeout", 5, SECONDS_MAX)),
            event_forward_timeout: merged
                .seconds("syndic_event_forward_timeout", Duration::from_millis(500)),
            max_event_size: own.number("max_event_size", 1_048_576, max),
            enable_legacy_startup_events: own.bool("enable_legacy_startup_events", true),
            ipv6: own.is_given("ipv6").then(|| own.bool("ipv6", false)),
            local,
        }
    }

    /// The private key, which is the minion's: `minion.pem`.
    pub fn private_key(&self) -> PathBuf {
        self.pki_dir.join("minion.pem")
    }

    /// The public key, which is the minion's: `minion.pub`.
    pub fn public_key(&self) -> PathBuf {
        self.pki_dir.join("minion.pub")
    }

    /// The key that vouches for the master's key, where `verify_master_pubkey_sign` asks for it: `master_sign.pub`.
    pub fn signing_key(&self) -> Option<PathBuf> {
        let file = || {
            self.pki_dir
                .join(format!("{}.pub", self.master_sign_key_name))
        };
        self.verify_master_pubkey_sign.then(file)
    }

    /// The key of the master above, kept at the first sign-in: `syndic_master.pub`.
    pub fn upstream_key(&self) -> PathBuf {
        self.pki_dir.join("syndic_master.pub")
    }
}

/// What both versions take (`salt.crypt.VALID_ENCRYPTION_ALGORITHMS`).
const ENCRYPTIONS: [&str; 2] = ["OAEP-SHA1", "OAEP-SHA224"];

/// What both versions take (`salt.crypt.VALID_SIGNING_ALGORITHMS`).
const SIGNATURES: [&str; 2] = ["PKCS1v15-SHA1", "PKCS1v15-SHA224"];

fn master_id(merged: &Options<'_>) -> Option<MasterId> {
    let given = merged.given("master_id")?;
    let quoted = matches!(&given.node.value, Value::Scalar(scalar) if !scalar.is_plain());
    let number = options::integer(&given.node).filter(|_| !quoted);
    match number.and_then(|number| i64::try_from(number).ok()) {
        Some(number) => Some(MasterId::Int(number)),
        None => merged.optional_text("master_id").map(MasterId::Text),
    }
}
