//! What a master's configuration says, for the processes that stand beside it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon_kit::config::{Mistake, Mistakes};

use super::files::{self, Missing, Overrides};
use super::identity;
use super::options::Options;
use super::paths;
use super::upstream::endpoint;

/// Pattern of the files that a master reads unless `default_include` says otherwise.
const DEFAULT_INCLUDE: &str = "master.d/*.conf";

/// Longest `timeout` and the like that is taken: a day, in seconds.
pub(super) const SECONDS_MAX: u64 = 86_400;

/// A master's options as the master itself uses them (Salt's `master_config`).
#[derive(Debug, Clone, PartialEq)]
pub struct MasterConfig {
    /// The file that was read.
    pub config_file: PathBuf,
    /// Its id: as configured, or the host's with `_master` appended.
    pub id: String,
    /// The user it runs as.
    pub user: String,
    /// The address it binds. See [`Self::request_endpoint`] for connecting.
    pub interface: String,
    /// Its request port.
    pub ret_port: u16,
    /// Its publish port.
    pub publish_port: u16,
    /// Its keys.
    pub pki_dir: PathBuf,
    /// Its cache, with the `.root_key`.
    pub cachedir: PathBuf,
    /// The directory of its event bus.
    pub sock_dir: PathBuf,
    /// Whether the event bus is on unix sockets or on TCP ports of the loopback.
    pub ipc_mode: IpcMode,
    /// Whether other masters may be below it.
    pub order_masters: bool,
    /// Whether publications carry a topic per target.
    pub zmq_filtering: bool,
    /// Whether it signs its publications.
    pub sign_pub_messages: bool,
    /// How long its commands wait for answers.
    pub timeout: Duration,
    /// Bits of its RSA key.
    pub keysize: u32,
    /// Largest event in bytes before it is trimmed.
    pub max_event_size: u64,
    /// Hash of fingerprints, in lower case.
    pub hash_type: String,
    /// The returner that keeps its job cache.
    pub master_job_cache: String,
    /// The cluster it belongs to (3007 and newer).
    pub cluster_id: Option<String>,
    /// Where it keeps its minions' keys (3008); `localfs_key`, the files in `pki_dir`, is what older ones do.
    pub keys_cache_driver: String,
    /// Whether targets may mean hosts of salt-ssh, too.
    pub enable_ssh_minions: bool,
}

/// Where the event bus is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpcMode {
    /// `master_event_pub.ipc` and `master_event_pull.ipc` in `sock_dir`.
    Ipc,
    /// Ports of the loopback.
    Tcp {
        /// `tcp_master_pub_port`.
        pub_port: u16,
        /// `tcp_master_pull_port`.
        pull_port: u16,
        /// `tcp_master_publish_pull`, the publisher's.
        publish_pull: u16,
    },
}

impl MasterConfig {
    /// Reads a master's configuration file and its includes.
    ///
    /// # Errors
    /// Every mistake in them, with its file and key.
    pub fn load(file: &Path) -> Result<Self, Mistakes> {
        let mistakes = RefCell::default();
        let master = Self::from_overrides(&read_overrides(file, &mistakes), &mistakes);
        Mistakes::check(mistakes.into_inner())?;
        Ok(master)
    }

    pub(super) fn from_overrides(given: &Overrides, mistakes: &RefCell<Vec<Mistake>>) -> Self {
        let options = Options::new(vec![given], mistakes);
        check_transport(&options);
        let root = paths::root(&options.text("root_dir", "/"));
        let cachedir = options.text("cachedir", "/var/cache/salt/master");
        let sock_dir =
            paths::sock_dir(&options.text("sock_dir", "/var/run/salt/master"), &cachedir);
        let (id, source) = identity::id(&options, &root);
        let pub_port = options.port("tcp_master_pub_port", 4512);
        let pull_port = options.port("tcp_master_pull_port", 4513);
        let tcp = IpcMode::Tcp {
            pub_port,
            pull_port,
            publish_pull: options.port("tcp_master_publish_pull", 4514),
        };
        let ipc_modes = [("ipc", IpcMode::Ipc), ("tcp", tcp)];
        let max = u64::from(u32::MAX);
        Self {
            config_file: given.file.to_path_buf(),
            id: if source == identity::IdSource::Configured {
                id
            } else {
                id + "_master"
            },
            user: options.text("user", "root"),
            interface: options.text("interface", "0.0.0.0"),
            ret_port: options.port("ret_port", 4506),
            publish_port: options.port("publish_port", 4505),
            pki_dir: paths::prepend_root(&root, &options.text("pki_dir", "/etc/salt/pki/master")),
            cachedir: paths::prepend_root(&root, &cachedir),
            sock_dir: paths::prepend_root(&root, &sock_dir),
            ipc_mode: options.choice("ipc_mode", IpcMode::Ipc, &ipc_modes),
            order_masters: options.bool("order_masters", false),
            zmq_filtering: options.bool("zmq_filtering", false),
            sign_pub_messages: options.bool("sign_pub_messages", true),
            timeout: options.seconds("timeout", Duration::from_secs(5)),
            keysize: u32::try_from(options.number("keysize", 2048, max)).unwrap_or(2048),
            max_event_size: options.number("max_event_size", 1_048_576, max),
            hash_type: options.text("hash_type", "sha256").to_lowercase(),
            master_job_cache: options.text("master_job_cache", "local_cache"),
            cluster_id: options.optional_text("cluster_id"),
            keys_cache_driver: options.text("keys.cache_driver", "localfs_key"),
            enable_ssh_minions: options.bool("enable_ssh_minions", false),
        }
    }

    /// `tcp://host:port` to connect to its request port from its own host.
    pub fn request_endpoint(&self) -> String {
        endpoint(self.connect_host(), self.ret_port)
    }

    /// `tcp://host:port` to connect to its publish port from its own host.
    pub fn publish_endpoint(&self) -> String {
        endpoint(self.connect_host(), self.publish_port)
    }

    /// The address to connect to: the loopback where it binds every interface.
    pub fn connect_host(&self) -> &str {
        match self.interface.as_str() {
            "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            other => other,
        }
    }
}

pub(super) fn read_overrides(file: &Path, mistakes: &RefCell<Vec<Mistake>>) -> Overrides {
    files::read(file, DEFAULT_INCLUDE, Missing::IsMistake, mistakes)
}

pub(super) fn check_transport(options: &Options<'_>) {
    let transport = options.text("transport", "zeromq");
    if transport != "zeromq" {
        let told = format!("\"{transport}\" is not a transport that Saltway speaks");
        options.mistake("transport", &told, "use zeromq, Salt's default");
    }
}
