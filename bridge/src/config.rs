//! The bridge's configuration: the file as written, and what it means.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use daemon_kit::{config::Section, http::HttpConfig};
use redis_link::{ManagedRedisConfig, Persistence, RedisConfig, RelayKeys, SiteName};
use relay_core::backlog::BacklogConfig;
use salt_link::salt_config::MasterConfig;

use crate::ledger::{Arguments, AuditBounds};

/// Keys that only a master-shim reads; the two daemons may share a file.
const OTHERS_KEYS: &[&str] = &["answer_as_site", "minion_config", "receipts", "spool"];

/// Keys of the section `redis` that only count for a server of the bridge's own.
const MANAGED_KEYS: &[&str] = &["listen", "persistence", "maxmemory", "program"];

/// What makes a name fit for a key.
const NAME: &str = "choose a short name of letters and digits, such as main";

/// The name of the only bridge of a MoM. A second one needs a name of its own.
const DEFAULT_BRIDGE: &str = "bridge";

/// When a publication is too old for a site that has no other word on it; the sites' default, too.
const JOB_TTL_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// Frames are kept at least so long: a job's own expiry may be longer than `job_ttl`.
const JOURNAL_AGE_MIN: Duration = Duration::from_secs(15 * 60);

/// Room for a few of the largest frames, and up to what a disk may have.
const JOURNAL_BYTES: RangeInclusive<u64> = (16 << 20)..=(1 << 40);

/// Some 30 bytes of memory for each.
const JOURNAL_ENTRIES: RangeInclusive<u64> = 1_000..=10_000_000;

/// From a MoM of a few minions up to what a disk may have.
const LEDGER_BYTES: RangeInclusive<u64> = (1 << 20)..=(1 << 40);

/// A week: from one Monday's question to the next.
const LEDGER_KEEP_FOR: Duration = Duration::from_secs(7 * 86_400);

/// An hour is longer than any job stays open; ten years is for ever.
const LEDGER_KEEP_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(3_600)..=Duration::from_secs(3_650 * 86_400);

/// A file holds some hundred lines at least.
const AUDIT_BYTES: RangeInclusive<u64> = (64 << 10)..=(1 << 40);

/// The bridge's configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// The relay's keys in Redis, from `mom`.
    pub(crate) keys: RelayKeys,
    /// This bridge's name among the bridges of its MoM.
    pub(crate) bridge: SiteName,
    /// The MoM's own configuration, from `salt_config`.
    pub(crate) mom: MasterConfig,
    /// Where Redis is, or how to run one.
    pub(crate) redis: RedisServer,
    /// Entries that the publications stream keeps.
    pub(crate) publications_max: u64,
    /// Requests to the MoM at the same time.
    pub(crate) mom_requests: usize,
    /// Bounds of the journal.
    pub(crate) journal: BacklogConfig,
    /// Where the bridge keeps its files.
    pub(crate) state_dir: PathBuf,
    /// Where metrics, health, the page and the interface of the ledger are served, and to whom.
    pub(crate) http: HttpConfig,
    /// The name of the relay, as written.
    pub(crate) relay: String,
    /// When a publication is too old for the sites, as far as this file tells.
    pub(crate) job_ttl: Duration,
    /// Whether the ledger is kept, and how much of it.
    pub(crate) ledger: LedgerConfig,
    /// Whether and how the audit is written.
    pub(crate) audit: Option<AuditConfig>,
}

/// The section `ledger`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LedgerConfig {
    /// Whether it is kept.
    pub(crate) enabled: Enabled,
    /// Most jobs on disk.
    pub(crate) jobs_max: u64,
    /// Most bytes on disk.
    pub(crate) bytes_max: u64,
    /// How long a job is kept.
    pub(crate) keep_for: Duration,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enabled {
    /// If it can be.
    Auto,
    /// It has to be: what is in the way is an error.
    Yes,
    /// No.
    No,
}

/// The section `audit`, when it is enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AuditConfig {
    /// What it tells of a job's arguments.
    pub(crate) arguments: Arguments,
    /// When its files are rotated.
    pub(crate) bounds: AuditBounds,
}

/// Which Redis serves the relay.
#[derive(Debug)]
pub(crate) enum RedisServer {
    /// One that the operator runs.
    External(RedisConfig),
    /// One that the bridge starts and looks after.
    Managed(ManagedRedisConfig),
}

impl Config {
    /// Reads the file's root; nothing comes of it when there is a mistake, which is then noted there.
    pub fn read(root: &Section<'_>) -> Option<Self> {
        root.ignore(OTHERS_KEYS);
        let state_dir = root.path_or("state_dir", "/var/lib/saltway");
        let mom_file = root.path_or("salt_config", "/etc/salt/master");
        let mom = MasterConfig::load(&mom_file).map_err(|mistakes| root.add(mistakes.into_list()));
        let relay = root.string("mom");
        let keys = RelayKeys::new(&relay).map_err(|err| root.mistake("mom", err.to_string(), NAME));
        let bridge = root
            .optional_string("bridge")
            .unwrap_or_else(|| DEFAULT_BRIDGE.to_owned());
        let bridge =
            SiteName::new(&bridge).map_err(|err| root.mistake("bridge", err.to_string(), NAME));
        let redis = read_redis(&root.section("redis"), &state_dir);
        let publications_max = root.u64("publications_max", 100_000, 1..=100_000_000);
        let mom_requests = root.u64("mom_requests", 16, 1..=256);
        let job_ttl = root.duration("job_ttl", JOB_TTL_DEFAULT);
        let journal = read_journal(root, job_ttl)?;
        let http = HttpConfig::read(root);
        let ledger = read_ledger(&root.section("ledger"));
        let audit = read_audit(&root.section("audit"));
        Some(Self {
            keys: keys.ok()?,
            bridge: bridge.ok()?,
            mom: mom.ok()?,
            redis,
            publications_max,
            mom_requests: usize::try_from(mom_requests).ok()?,
            journal,
            state_dir,
            http,
            relay,
            job_ttl,
            ledger,
            audit,
        })
    }
}

fn read_ledger(section: &Section<'_>) -> LedgerConfig {
    let choices = [
        ("auto", Enabled::Auto),
        ("true", Enabled::Yes),
        ("false", Enabled::No),
    ];
    LedgerConfig {
        enabled: section.enumeration("enabled", Enabled::Auto, &choices),
        jobs_max: section.u64("max_jobs", 100_000, 100..=10_000_000),
        bytes_max: section.bytes("max_bytes", 512 << 20, LEDGER_BYTES),
        keep_for: section.duration_in("keep_for", LEDGER_KEEP_FOR, LEDGER_KEEP_RANGE),
    }
}

fn read_audit(section: &Section<'_>) -> Option<AuditConfig> {
    let choices = [
        ("on", Arguments::Whole),
        ("off", Arguments::Left),
        ("redacted", Arguments::Redacted),
    ];
    let config = AuditConfig {
        arguments: section.enumeration("arguments", Arguments::Whole, &choices),
        bounds: AuditBounds {
            bytes_max: section.bytes("max_bytes", 64 << 20, AUDIT_BYTES),
            files_max: section.u64("files", 10, 1..=1_000),
        },
    };
    section.bool("enabled", true).then_some(config)
}

fn read_journal(root: &Section<'_>, job_ttl: Duration) -> Option<BacklogConfig> {
    let section = root.section("journal");
    let age_max = job_ttl.max(JOURNAL_AGE_MIN);
    let entries_max = section.u64("max_entries", 500_000, JOURNAL_ENTRIES);
    Some(BacklogConfig {
        bytes_max: section.bytes("max_bytes", 512 << 20, JOURNAL_BYTES),
        entries_max: usize::try_from(entries_max).ok()?,
        age_max_ms: u64::try_from(age_max.as_millis()).ok()?,
    })
}

fn read_redis(section: &Section<'_>, state_dir: &Path) -> RedisServer {
    if section.has("url") || section.has("sentinel") {
        section.ignore(MANAGED_KEYS);
        return RedisServer::External(RedisConfig::read(section));
    }
    let default = ManagedRedisConfig::new(state_dir);
    let persistences = [
        ("none", Persistence::None),
        ("snapshot", Persistence::Snapshot),
        ("append", Persistence::Append),
    ];
    RedisServer::Managed(ManagedRedisConfig {
        listen: section.socket_addr("listen", default.listen),
        password_file: section.optional_path("password_file"),
        persistence: section.enumeration("persistence", default.persistence, &persistences),
        maxmemory_bytes: section.bytes("maxmemory", default.maxmemory_bytes, 0..=u64::MAX),
        program: section.string_or("program", "redis-server").into(),
        ..default
    })
}
