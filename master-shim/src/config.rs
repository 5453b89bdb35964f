//! The master-shim's configuration: the file as written, and what it means.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use daemon_kit::{config::Section, http};
use redis_link::{RedisConfig, RelayKeys, SiteName};
use salt_link::salt_config::SyndicConfig;
pub(crate) use salt_link::salt_config::{SyndicFailover, SyndicMode};
use salt_wire::ids::MinionId;
use store::SpoolConfig;

pub(crate) use self::receipts::ReceiptsConfig;

mod receipts;

/// Keys that only a bridge reads; the two daemons may share a file.
const OTHERS_KEYS: &[&str] = &[
    "bridge",
    "publications_max",
    "mom_requests",
    "journal",
    "ledger",
    "audit",
];

/// Keys of the section `redis` that only count for a server of the bridge's own.
const MANAGED_REDIS_KEYS: &[&str] = &["listen", "persistence", "maxmemory", "program"];

/// What makes a name fit for a key.
const NAME: &str =
    "choose a short name of letters and digits, such as main; the bridge must have the same";

/// From what one burst of a small site needs to a large disk.
const SPOOL_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 40;
const SPOOL_ENTRIES: RangeInclusive<u64> = 1_000..=100_000_000;
const SPOOL_AGE: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(30 * 24 * 60 * 60);

const JOB_TTL_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// The master-shim's configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// One relay for each MoM, in the order of `syndic_master`.
    pub(crate) relays: Vec<Relay>,
    /// The site's name: the id that its syndic used.
    pub(crate) id: MinionId,
    /// The same, fit for Redis.
    pub(crate) site: SiteName,
    /// Salt's own configuration of the syndic.
    pub(crate) syndic: SyndicConfig,
    /// Where Redis is.
    pub(crate) redis: RedisConfig,
    /// A publication older than this is not run.
    pub(crate) job_ttl: Duration,
    /// Whether to answer for the site's own id.
    pub(crate) answer_as_site: AnswerAsSite,
    /// Bounds of the spool.
    pub(crate) spool: SpoolConfig,
    /// What is done about minions that do not get their jobs.
    pub(crate) receipts: ReceiptsConfig,
    /// Where the shim keeps its files.
    pub(crate) state_dir: PathBuf,
    /// Where metrics and health are served.
    pub(crate) listen: SocketAddr,
}

/// One MoM's relay.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    /// Its name: the bridge's `mom`.
    pub(crate) mom: String,
    /// Its keys in Redis.
    pub(crate) keys: RelayKeys,
}

/// Whether the shim answers for the site's own id, which `*` matches on the MoM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerAsSite {
    /// Unless a salt-minion with that id runs on the host or under the lower master.
    Auto,
    /// Always.
    Always,
    /// Never: `salt '*'` on the MoM then runs into its time-outs, as with salt-syndic.
    Never,
}

impl Config {
    /// Reads the file's root; nothing comes of it when there is a mistake, which is then noted there.
    pub fn read(root: &Section<'_>) -> Option<Self> {
        root.ignore(OTHERS_KEYS);
        let master_file = root.path_or("salt_config", "/etc/salt/master");
        let syndic = match root.optional_path("minion_config") {
            Some(minion_file) => SyndicConfig::load_with(&master_file, &minion_file),
            None => SyndicConfig::load(&master_file),
        };
        let syndic = syndic
            .map_err(|mistakes| root.add(mistakes.into_list()))
            .ok();
        let relays = read_relays(root, syndic.as_ref());
        let section = root.section("redis");
        section.ignore(MANAGED_REDIS_KEYS);
        let redis = RedisConfig::read(&section);
        let answers = [
            ("auto", AnswerAsSite::Auto),
            ("always", AnswerAsSite::Always),
            ("never", AnswerAsSite::Never),
        ];
        let answer_as_site = root.enumeration("answer_as_site", AnswerAsSite::Auto, &answers);
        let job_ttl = root.duration("job_ttl", JOB_TTL_DEFAULT);
        let spool = read_spool(root);
        let receipts = ReceiptsConfig::read(&root.section("receipts"));
        let state_dir = root.path_or("state_dir", "/var/lib/saltway");
        let listen = http::read_listen(root);
        let syndic = syndic?;
        let (id, site) = read_id(root, &syndic)?;
        Some(Self {
            relays,
            id,
            site,
            syndic,
            redis,
            job_ttl,
            answer_as_site,
            spool,
            receipts,
            state_dir,
            listen,
        })
    }
}

/// Section `spool`: `max_bytes`, `max_entries`, `max_age`.
fn read_spool(root: &Section<'_>) -> SpoolConfig {
    let section = root.section("spool");
    let default = SpoolConfig::default();
    SpoolConfig {
        bytes_max: section.bytes("max_bytes", default.bytes_max, SPOOL_BYTES),
        entries_max: section.u64("max_entries", default.entries_max, SPOOL_ENTRIES),
        age_max: section.duration_in("max_age", default.age_max, SPOOL_AGE),
    }
}

/// `mom`: a name, or a list of names in the order of `syndic_master`.
fn read_relays(root: &Section<'_>, syndic: Option<&SyndicConfig>) -> Vec<Relay> {
    let names = root.string_or_list("mom");
    if names.is_empty() {
        root.mistake("mom", "the name of the relay is missing", NAME);
    }
    if let Some(syndic) = syndic
        && !names.is_empty()
        && names.len() != syndic.upstreams.len()
    {
        let problem = format!(
            "{} relays are named, but syndic_master in {} names {} masters",
            names.len(),
            syndic.local.config_file.display(),
            syndic.upstreams.len()
        );
        root.mistake(
            "mom",
            problem,
            "name one relay for each master, in the same order",
        );
    }
    let mut relays = Vec::new();
    for mom in names {
        match RelayKeys::new(&mom) {
            Ok(keys) => relays.push(Relay { mom, keys }),
            Err(err) => root.mistake("mom", err.to_string(), NAME),
        }
    }
    relays
}

fn read_id(root: &Section<'_>, syndic: &SyndicConfig) -> Option<(MinionId, SiteName)> {
    let unfit = |problem: String| {
        let remedy = format!("set a plain id in {}", syndic.minion_config_file.display());
        root.mistake(
            "salt_config",
            format!("the syndic's id cannot be used: {problem}"),
            remedy,
        );
    };
    let id = MinionId::parse(&syndic.id)
        .map_err(|err| unfit(err.to_string()))
        .ok()?;
    let site = SiteName::new(&syndic.id)
        .map_err(|err| unfit(err.to_string()))
        .ok()?;
    Some((id, site))
}
