//! Which minions of this host are watched, and where.
//!
//! A standard minion needs no configuration: its own file says all. Proxies share one file and have an id each, which only their
//! command lines state: every directory below their common cache directory counts as one, and is watched once its event bus is there.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use config_kit::config::{Mistake, Mistakes};
use salt_options::{MinionConfig, MinionKind};
use salt_wire::ids::MinionId;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// Most minions that one process watches. A host with more than a few hundred proxies is unusual.
pub const MINIONS_MAX: usize = 1_000;

/// Where packages put the configuration of a salt-minion.
const MINION_FILE: &str = "/etc/salt/minion";

/// Where packages put the configuration of salt-proxies.
const PROXY_FILE: &str = "/etc/salt/proxy";

/// Longest path of a socket that Linux takes.
const SOCKET_PATH_MAX: usize = 107;

/// One minion to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its id.
    pub id: MinionId,
    /// Where its jobs are: `proc`, `job_queue`, `minion_jobs`.
    pub cachedir: PathBuf,
    /// Where the sockets of its event bus are.
    pub sock_dir: PathBuf,
    /// The socket on which it tells events.
    pub events: PathBuf,
    /// The socket that takes events.
    pub inbox: PathBuf,
    /// The port of its master that jobs come from.
    pub publish_port: u16,
    /// Whether it keeps a copy of each return.
    pub cache_jobs: bool,
    /// The names by which it knows its masters, where its file tells.
    pub masters: Vec<String>,
}

/// The configuration files that were named.
#[derive(Debug, Clone)]
pub struct Plan {
    sources: Vec<(PathBuf, MinionKind)>,
}

impl Plan {
    /// Reads the files, or Salt's own where none is named.
    ///
    /// # Errors
    /// Every mistake in them.
    pub fn read(files: &[PathBuf]) -> Result<Self, Mistakes> {
        let plan = Self {
            sources: sources(files),
        };
        plan.places().map(|_| plan)
    }

    /// The minions as they are now: proxies come and go.
    ///
    /// # Errors
    /// Every mistake in the files.
    pub fn places(&self) -> Result<Vec<Place>, Mistakes> {
        let mut places: Vec<Place> = Vec::new();
        let mut mistakes = Vec::new();
        for (file, kind) in &self.sources {
            let configs = match kind {
                MinionKind::Minion => MinionConfig::load(file).map(|config| vec![config]),
                MinionKind::Proxy => proxies(file),
            };
            match configs {
                Ok(configs) => configs.iter().for_each(|config| match place(config) {
                    Ok(place) if places.iter().any(|known| known.cachedir == place.cachedir) => {}
                    Ok(place) if places.len() < MINIONS_MAX => places.push(place),
                    Ok(_) => {}
                    Err(found) => mistakes.extend(found.into_list()),
                }),
                Err(found) => mistakes.extend(found.into_list()),
            }
        }
        Mistakes::check(mistakes)?;
        Ok(places)
    }

    /// The directory whose subdirectories are proxies, for each file of proxies.
    pub fn proxy_dirs(&self) -> Vec<PathBuf> {
        let proxies = self
            .sources
            .iter()
            .filter(|(_, kind)| *kind == MinionKind::Proxy);
        let dirs = proxies.filter_map(|(file, _)| {
            let any = MinionConfig::load_proxy(file, "x").ok()?;
            any.proxies_dir().map(Path::to_owned)
        });
        dirs.collect()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.places().unwrap_or_default();
        if places.is_empty() {
            return f.write_str("no minion and no proxy on this host yet");
        }
        for (index, place) in places.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let (id, jobs) = (&place.id, place.cachedir.display());
            let there = if place.events.exists() {
                ""
            } else {
                " (not there)"
            };
            write!(
                f,
                "{id}: jobs in {jobs}/proc, event bus {}{there}",
                place.events.display()
            )?;
        }
        Ok(())
    }
}

fn sources(files: &[PathBuf]) -> Vec<(PathBuf, MinionKind)> {
    if !files.is_empty() {
        let kind = |file: &Path| match file.file_name() {
            Some(name) if name == "proxy" => MinionKind::Proxy,
            _ => MinionKind::Minion,
        };
        return files
            .iter()
            .map(|file| (file.clone(), kind(file)))
            .collect();
    }
    let standard = [
        (MINION_FILE, MinionKind::Minion),
        (PROXY_FILE, MinionKind::Proxy),
    ];
    let there = standard.iter().filter(|(file, _)| Path::new(file).exists());
    let mut found: Vec<_> = there
        .map(|(file, kind)| (PathBuf::from(file), *kind))
        .collect();
    if found.is_empty() {
        // A minion that was not configured yet: Salt's defaults say where it will be.
        found.push((PathBuf::from(MINION_FILE), MinionKind::Minion));
    }
    found
}

fn proxies(file: &Path) -> Result<Vec<MinionConfig>, Mistakes> {
    let any = MinionConfig::load_proxy(file, "x")?;
    let Some(dir) = any.proxies_dir() else {
        return Ok(Vec::new());
    };
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(Vec::new());
    };
    let ids = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        // A link is not followed: whoever may write here could point anywhere.
        let own = entry.file_type().ok()?.is_dir();
        (own && MinionId::parse(&name).is_ok()).then_some(name)
    });
    let mut ids: Vec<String> = ids.take(MINIONS_MAX).collect();
    ids.sort();
    ids.iter()
        .map(|id| MinionConfig::load_proxy(file, id))
        .collect()
}

fn place(config: &MinionConfig) -> Result<Place, Mistakes> {
    let mistake = |problem: String, remedy: &str| {
        Mistakes::from(Mistake::in_file(&config.file, problem, remedy))
    };
    if config.ipc_tcp {
        let remedy = "remove `ipc_mode: tcp`, which is meant for Windows";
        return Err(mistake(
            "the minion's event bus is on TCP ports".to_owned(),
            remedy,
        ));
    }
    let id = MinionId::parse(&config.id)
        .map_err(|err| mistake(format!("the id {:?}: {err}", config.id), "state `id`"))?;
    let Some(hash) = socket_hash(&config.hash_type, &config.id) else {
        let problem = format!(
            "hash_type {} names the sockets of the event bus",
            config.hash_type
        );
        return Err(mistake(problem, "use sha256, sha224, sha384 or sha512"));
    };
    let socket = |end: &str| {
        config
            .sock_dir
            .join(format!("minion_event_{hash}_{end}.ipc"))
    };
    let events = socket("pub");
    if socket("pull").as_os_str().len() > SOCKET_PATH_MAX {
        let problem = format!("the path {} is too long for a socket", events.display());
        return Err(mistake(problem, "choose a shorter sock_dir"));
    }
    Ok(Place {
        id,
        cachedir: config.cachedir.clone(),
        sock_dir: config.sock_dir.clone(),
        inbox: socket("pull"),
        events,
        publish_port: config.publish_port,
        cache_jobs: config.cache_jobs,
        masters: config.masters.clone(),
    })
}

/// The part of a socket's name by which minions of one directory are told apart: 10 hex digits of the id's hash.
fn socket_hash(hash_type: &str, id: &str) -> Option<String> {
    let start = match hash_type {
        "sha256" => Sha256::digest(id)[..5].to_vec(),
        "sha224" => Sha224::digest(id)[..5].to_vec(),
        "sha384" => Sha384::digest(id)[..5].to_vec(),
        "sha512" => Sha512::digest(id)[..5].to_vec(),
        _ => return None,
    };
    Some(start.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dir: &Path, name: &str, text: &str) -> Plan {
        let file = dir.join(name);
        fs::write(&file, text).unwrap();
        Plan {
            sources: sources(&[file]),
        }
    }

    #[test]
    fn the_sockets_carry_the_hash_of_the_id() {
        // python3 -c 'import hashlib; print(hashlib.sha256(b"web1").hexdigest()[:10])'
        assert_eq!(socket_hash("sha256", "web1").as_deref(), Some("659a7fb2af"));
        assert_eq!(socket_hash("md5", "web1"), None);
    }

    #[test]
    fn each_directory_of_the_proxies_cache_is_a_proxy_and_links_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        for id in ["sw2", "sw1"] {
            fs::create_dir_all(cache.join(id)).unwrap();
        }
        std::os::unix::fs::symlink("/", cache.join("sw3")).unwrap();
        fs::write(cache.join("file"), "").unwrap();
        let text = format!("cachedir: {}\nsock_dir: /s\n", cache.display());
        let plan = plan(dir.path(), "proxy", &text);
        let places = plan.places().unwrap();
        let ids: Vec<&str> = places.iter().map(|place| place.id.as_str()).collect();
        assert_eq!(ids, ["sw1", "sw2"]);
        assert_eq!(plan.proxy_dirs(), [cache]);
    }

    #[test]
    fn what_cannot_be_watched_is_told_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("id: a\ncachedir: /{0}\nsock_dir: /{0}\n", "x".repeat(100));
        for (text, part) in [
            ("id: a\nhash_type: md5\n", "hash_type md5"),
            ("id: a/b\n", "id \"a/b\""),
            ("id: a\nipc_mode: tcp\n", "TCP"),
            (long.as_str(), "too long"),
        ] {
            let told = plan(dir.path(), "minion", text)
                .places()
                .unwrap_err()
                .to_string();
            assert!(told.contains(part) && told.contains("/minion"), "{told}");
        }
    }
}
