//! What a salt-minion or salt-proxy of this host would use.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use config_kit::config::{Mistake, Mistakes};
use config_kit::yaml::Value;

use crate::files::{self, Missing};
use crate::identity;
use crate::options::Options;
use crate::paths;

/// The two programs that read such a configuration; their defaults differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MinionKind {
    /// `salt-minion`.
    Minion,
    /// `salt-proxy`, one process for each id.
    Proxy,
}

impl MinionKind {
    /// The part of Salt's default paths that differs, which is the name of the configuration file, too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minion => "minion",
            Self::Proxy => "proxy",
        }
    }

    /// `append_minionid_config_dirs` where the file does not give it; only what is read here.
    const fn per_id(self) -> &'static [&'static str] {
        match self {
            Self::Minion => &[],
            Self::Proxy => &["cachedir"],
        }
    }
}

/// The options of one minion, as far as a program beside it needs them.
#[derive(Debug, Clone, PartialEq)]
pub struct MinionConfig {
    /// The file that was read; it may not exist.
    pub file: PathBuf,
    /// Whose options they are.
    pub kind: MinionKind,
    /// The minion's id.
    pub id: String,
    /// Where jobs that run, wait and were returned are kept: `proc`, `job_queue`, `minion_jobs`.
    pub cachedir: PathBuf,
    /// Where the sockets of its event bus are.
    pub sock_dir: PathBuf,
    /// The hash of the id in the sockets' names, in lower case.
    pub hash_type: String,
    /// Whether its event bus is on TCP ports instead of sockets (`ipc_mode: tcp`).
    pub ipc_tcp: bool,
    /// The port of its master that jobs come from.
    pub publish_port: u16,
    /// Whether it keeps a copy of each return.
    pub cache_jobs: bool,
    /// The names by which it knows its masters, without ports. None where only the running minion knows which one it uses.
    pub masters: Vec<String>,
}

impl MinionConfig {
    /// Reads the file of a salt-minion and its includes. Defaults stand in for a missing one.
    ///
    /// # Errors
    /// Every mistake in them, with its file and key.
    pub fn load(file: &Path) -> Result<Self, Mistakes> {
        Self::load_kind(file, MinionKind::Minion, None)
    }

    /// Reads the file of the salt-proxy that has this id. Defaults stand in for a missing one.
    ///
    /// # Errors
    /// Every mistake in them, with its file and key.
    pub fn load_proxy(file: &Path, id: &str) -> Result<Self, Mistakes> {
        Self::load_kind(file, MinionKind::Proxy, Some(id))
    }

    fn load_kind(file: &Path, kind: MinionKind, id: Option<&str>) -> Result<Self, Mistakes> {
        let mistakes: RefCell<Vec<Mistake>> = RefCell::default();
        let include = format!("{}.d/*.conf", kind.as_str());
        let given = files::read(file, &include, Missing::IsEmpty, &mistakes);
        let own = Options::new(vec![&given], &mistakes);
        let root = paths::root(&own.text("root_dir", "/"));
        let id = id.map_or_else(|| identity::id(&own, &root).0, str::to_owned);
        let dirs = MinionDirs::read(&own, &root, &id, kind);
        let config = Self {
            file: file.to_owned(),
            kind,
            id,
            cachedir: PathBuf::from(dirs.cachedir),
            sock_dir: PathBuf::from(dirs.sock_dir),
            hash_type: own.text("hash_type", "sha256").to_lowercase(),
            ipc_tcp: own.choice("ipc_mode", false, &[("ipc", false), ("tcp", true)]),
            publish_port: own.port("publish_port", 4505),
            cache_jobs: own.bool("cache_jobs", false),
            masters: masters(&own),
        };
        Mistakes::check(mistakes.into_inner())?;
        Ok(config)
    }

    /// The directory above the cache directories of all proxies of this file: its subdirectories are their ids.
    #[must_use]
    pub fn proxies_dir(&self) -> Option<&Path> {
        match self.kind {
            MinionKind::Minion => None,
            MinionKind::Proxy => self.cachedir.parent(),
        }
    }
}

/// A minion's directories, before anything else's options are laid over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinionDirs {
    /// Its keys.
    pub pki_dir: PathBuf,
    /// Its cache.
    pub cachedir: String,
    /// Its sockets.
    pub sock_dir: String,
}

impl MinionDirs {
    /// Reads them for the minion with this id.
    #[must_use]
    pub fn read(own: &Options<'_>, root: &str, id: &str, kind: MinionKind) -> Self {
        let per_id = per_id(own, kind);
        let dir = |key: &str, default: &str| {
            let dir = own.text(key, default);
            if per_id.contains(&key) {
                paths::join(&dir, id)
            } else {
                dir
            }
        };
        let word = kind.as_str();
        let cachedir = dir("cachedir", &format!("/var/cache/salt/{word}"));
        let sockets = own.text("sock_dir", &format!("/var/run/salt/{word}"));
        let sock_dir = paths::sock_dir(&sockets, &cachedir);
        let keys = dir("pki_dir", &format!("/etc/salt/pki/{word}"));
        Self {
            pki_dir: paths::prepend_root(root, &keys),
            cachedir: paths::text(&paths::prepend_root(root, &cachedir)),
            sock_dir: paths::text(&paths::prepend_root(root, &sock_dir)),
        }
    }
}

/// Option `master`, as the minion writes it into the tags of its requests.
fn masters(own: &Options<'_>) -> Vec<String> {
    if own.text("master_type", "str") != "str" || own.is_given("master_uri_format") {
        return Vec::new();
    }
    let Some(given) = own.given("master") else {
        return vec!["salt".to_owned()];
    };
    match &given.node.value {
        Value::Scalar(scalar) => vec![host(scalar.text())],
        Value::Sequence(items) => items.iter().filter_map(text).map(host).collect(),
        Value::Mapping(_) => Vec::new(),
    }
}

/// A host without its port: `salt:4506`, `[::1]:4506`; an IPv6 address without brackets has none.
fn host(text: &str) -> String {
    let text = text.trim();
    let bare = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside,
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => host,
            _ => text,
        },
    };
    bare.to_owned()
}

fn text(item: &config_kit::yaml::Node) -> Option<&str> {
    match &item.value {
        Value::Scalar(scalar) => Some(scalar.text()),
        Value::Sequence(_) | Value::Mapping(_) => None,
    }
}

/// The directories that have the id as their last part.
fn per_id<'a>(own: &Options<'a>, kind: MinionKind) -> Vec<&'a str> {
    let Some(given) = own.given("append_minionid_config_dirs") else {
        return kind.per_id().to_vec();
    };
    let Value::Sequence(items) = &given.node.value else {
        return Vec::new();
    };
    items.iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(text: &str) -> MinionConfig {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("minion");
        fs::write(&file, text).unwrap();
        MinionConfig::load(&file).unwrap()
    }

    #[test]
    fn a_standard_minion_has_the_standard_directories() {
        let config = load("id: web1\nmaster: salt\n");
        assert_eq!(config.cachedir, Path::new("/var/cache/salt/minion"));
        assert_eq!(config.sock_dir, Path::new("/var/run/salt/minion"));
        assert_eq!(
            (config.id.as_str(), config.hash_type.as_str()),
            ("web1", "sha256")
        );
        assert!(!config.cache_jobs && !config.ipc_tcp);
    }

    #[test]
    fn masters_are_named_without_their_ports() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(
                load(&format!("id: a\n{text}\n")).masters,
                expected,
                "{text}"
            );
        };
        check("", &["salt"]);
        check("master: m1:4506", &["m1"]);
        check("master: '[fe80::1]:4506'", &["fe80::1"]);
        check("master: fe80::1", &["fe80::1"]);
        check("master: [10.0.0.1, m2]", &["10.0.0.1", "m2"]);
        check("master: [m1, m2]\nmaster_type: failover", &[]);
    }

    #[test]
    fn directories_follow_root_dir_and_the_id() {
        let config = load(
            "id: web1\nroot_dir: /srv/m\ncachedir: /c\nappend_minionid_config_dirs: [cachedir]\nhash_type: SHA512\ncache_jobs: True\n",
        );
        assert_eq!(config.cachedir, Path::new("/srv/m/c/web1"));
        // Longer than the cache directory by more than ten characters: Salt moves it.
        assert_eq!(config.sock_dir, Path::new("/srv/m/c/web1/.salt-unix"));
        assert_eq!(
            (config.hash_type.as_str(), config.cache_jobs),
            ("sha512", true)
        );
    }

    #[test]
    fn a_proxy_has_a_cache_of_its_own_below_that_of_all() {
        let config = MinionConfig::load_proxy(Path::new("/nowhere/proxy"), "sw1").unwrap();
        assert_eq!(config.cachedir, Path::new("/var/cache/salt/proxy/sw1"));
        assert_eq!(config.sock_dir, Path::new("/var/run/salt/proxy"));
        assert_eq!(
            config.proxies_dir(),
            Some(Path::new("/var/cache/salt/proxy"))
        );
    }

    #[test]
    fn a_mistake_names_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("minion");
        fs::write(&file, "id: a\npublish_port: many\n").unwrap();
        let mistakes = MinionConfig::load(&file).unwrap_err().to_string();
        assert!(mistakes.contains("publish_port"), "{mistakes}");
    }
}
