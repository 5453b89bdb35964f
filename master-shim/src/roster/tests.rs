use std::fs;

use daemon_kit::metrics::Metrics;
use salt_wire::msgpack::{Dialect, encode};

use super::*;

/// A lower master's directories, and a roster over them.
struct Rig {
    directory: tempfile::TempDir,
    roster: Roster,
}

impl Rig {
    fn new(minions: &[&str]) -> Self {
        Self::with(minions, "")
    }

    fn with(minions: &[&str], extra: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let file = path.join("master");
        let lines = [
            format!("root_dir: {}", path.display()),
            format!("pki_dir: {}/pki", path.display()),
            format!("cachedir: {}/cache", path.display()),
        ];
        fs::write(&file, lines.join("\n") + "\n" + extra).expect("written");
        fs::create_dir_all(path.join("pki/minions")).expect("made");
        fs::create_dir_all(path.join("cache")).expect("made");
        let master = MasterConfig::load(&file).expect("a configuration");
        let telemetry = Telemetry::new(&Metrics::new("test", "0"), "site1");
        let site = "site1".parse().expect("an id");
        let rig = Self {
            roster: Roster::new(site, &master, telemetry),
            directory,
        };
        for minion in minions {
            rig.accept(minion);
        }
        rig.look();
        rig
    }

    fn accept(&self, minion: &str) {
        let file = self.directory.path().join("pki/minions").join(minion);
        fs::write(file, "a key").expect("written");
    }

    fn look(&self) {
        self.roster.take(self.roster.0.keys.look());
    }

    /// As if nothing had changed for long: a look is trusted.
    fn age(&self) {
        let keys = fs::File::open(self.directory.path().join("pki/minions")).expect("opened");
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
        keys.set_modified(long_ago).expect("set");
        self.look();
    }

    async fn is_nobodys(&self, tgt_type: &str, tgt: impl Into<Value>) -> bool {
        let fields = Value::map([
            ("fun", "test.ping".into()),
            ("tgt", tgt.into()),
            ("tgt_type", tgt_type.into()),
            ("jid", "20261121175418824928".into()),
        ]);
        let load = PublicationLoad::new(fields).expect("a job");
        self.roster.knows_that_nobody_is_meant_by(&load).await
    }

    fn hears(&self, tag: &str, data: &Value) {
        self.roster.hears(&Event {
            tag: tag.to_owned(),
            data: encode(data, Dialect::New),
        });
    }

    fn presences(&self) -> String {
        let snapshot = self.roster.snapshot();
        let each = snapshot.minions.iter();
        each.map(|(id, presence)| format!("{id}{} ", presence.as_char()))
            .collect()
    }
}

#[tokio::test]
async fn jobs_for_nobody_here_are_told_from_all_others() {
    let rig = Rig::new(&["a1", "a2", "web-3"]);
    rig.age();
    let check = async |tgt_type: &str, tgt: Value, expected: bool| {
        let found = rig.is_nobodys(tgt_type, tgt.clone()).await;
        assert_eq!(found, expected, "{tgt_type} {tgt:?}");
    };
    let list = |names: &[&str]| Value::array(names.iter().copied());
    for (tgt_type, tgt) in [
        ("glob", "b*"),
        ("glob", "b1"),
        // Salt tells capitals from small letters.
        ("glob", "A1"),
        ("glob", "WEB*"),
        ("list", "b1,b2"),
        ("list", " a1"),
        ("pcre", "b.*"),
        ("pcre", "^.$"),
        ("compound", "b* or E@c.*"),
        ("compound", "G@os:Debian and b*"),
        ("compound", "a* and not a*"),
    ] {
        check(tgt_type, tgt.into(), true).await;
    }
    check("list", list(&["b1", "b2"]), true).await;
    check("list", list(&[]), true).await;
    for (tgt_type, tgt) in [
        ("glob", "*"),
        ("glob", "a?"),
        ("glob", "a1"),
        // The site itself.
        ("glob", "site1"),
        ("glob", "s*"),
        ("list", "b1,site1"),
        ("list", "b1,a2"),
        ("pcre", "(?i)A.*"),
        ("compound", "b* or a1"),
        // Who knows?
        ("compound", "G@os:Debian"),
        ("compound", "not b*"),
        ("compound", "N@group"),
        ("compound", "b* or I@role:web"),
        ("grain", "os:Debian"),
        ("pillar", "role:web"),
        ("ipcidr", "10.0.0.0/8"),
        ("nodegroup", "group"),
        ("range", "%x"),
        ("of a later Salt", "b*"),
        // Rust and Python may read it differently.
        ("pcre", "b(?=1)"),
    ] {
        check(tgt_type, tgt.into(), false).await;
    }
    check("list", list(&["b1", "a2"]), false).await;
    check(
        "list",
        Value::Array(vec!["b1".into(), Value::Int(5)]),
        false,
    )
    .await;
    check("glob", list(&["b1"]), false).await;
}

#[tokio::test]
async fn key_accepted_a_moment_before_the_job_counts() {
    let rig = Rig::new(&["a1"]);
    rig.age();
    assert!(rig.is_nobodys("glob", "b1").await);
    rig.accept("b1");
    assert!(!rig.is_nobodys("glob", "b1").await, "nobody has told of it");
    // Also when the file system tells no difference, as within one step of its clock.
    let keys = rig.directory.path().join("pki/minions");
    let now = fs::metadata(&keys)
        .expect("there")
        .modified()
        .expect("a time");
    rig.look();
    rig.accept("b2");
    fs::File::open(&keys)
        .expect("opened")
        .set_modified(now)
        .expect("set");
    assert!(!rig.is_nobodys("glob", "b2").await);
}

#[tokio::test]
async fn in_doubt_a_job_is_somebodys() {
    let unlooked = {
        let rig = Rig::new(&["a1"]);
        let master = MasterConfig::load(&rig.directory.path().join("master")).expect("read");
        let telemetry = Telemetry::new(&Metrics::new("test", "0"), "site1");
        let roster = Roster::new("site1".parse().expect("an id"), &master, telemetry);
        Rig { roster, ..rig }
    };
    assert!(!unlooked.is_nobodys("glob", "b1").await, "not looked yet");
    for extra in [
        "order_masters: True\n",
        "enable_ssh_minions: True\n",
        "cluster_id: c1\n",
        "keys.cache_driver: mmap_key\n",
    ] {
        let rig = Rig::with(&["a1"], extra);
        assert!(!rig.is_nobodys("glob", "b1").await, "{extra}");
        assert!(!rig.roster.snapshot().complete, "{extra}");
    }
    let strange = Rig::new(&["a1", "b\\1"]);
    assert!(
        !strange.is_nobodys("glob", "c1").await,
        "a file whose name is no id"
    );
    let resources = Rig::new(&["a1"]);
    let index = resources.directory.path().join("cache/resources");
    fs::create_dir_all(&index).expect("made");
    fs::write(index.join("resource_index.by_id.mmap"), "").expect("written");
    assert!(
        !resources.is_nobodys("glob", "b1").await,
        "it may be a resource"
    );
    let gone = Rig::new(&["a1"]);
    gone.age();
    let keys = gone.directory.path().join("pki/minions");
    fs::rename(&keys, keys.with_extension("away")).expect("moved");
    assert!(
        !gone.is_nobodys("glob", "b1").await,
        "the directory cannot be read"
    );
    gone.look();
    assert!(!gone.is_nobodys("glob", "b1").await);
    let snapshot = gone.roster.snapshot();
    assert!(
        !snapshot.complete && snapshot.minions.len() == 1,
        "who is known stays"
    );
}

#[tokio::test]
async fn bus_tells_who_is_up() {
    let rig = Rig::new(&["a1", "a2", "a3"]);
    assert_eq!(rig.presences(), "a1? a2? a3? ");
    let versions = rig.roster.versions();
    let version = || *versions.borrow();
    let before = version();
    let empty = Value::map::<&str>([]);
    rig.hears("salt/minion/a1/start", &empty);
    rig.hears("salt/job/20261121175418824928/ret/a2", &empty);
    assert_eq!(rig.presences(), "a11 a21 a3? ");
    assert_eq!(version().presence, before.presence + 2);
    rig.hears("salt/job/20261121175418824928/ret/a2", &empty);
    rig.hears("salt/job/20261121175418824928/ret/stranger", &empty);
    assert_eq!(version().presence, before.presence + 2, "that is no news");
    let change = [
        ("new", Value::array(["a3", "stranger"])),
        ("lost", Value::array(["a1"])),
    ];
    rig.hears("salt/presence/change", &Value::map(change));
    assert_eq!(rig.presences(), "a10 a21 a31 ");
    let present = Value::map([("present", Value::array(["a1"]))]);
    rig.hears("salt/presence/present", &present);
    assert_eq!(rig.presences(), "a11 a20 a30 ");
    // Cut off by Salt, or nonsense.
    let cut = Value::map([("present", "VALUE_TRIMMED".into())]);
    rig.hears("salt/presence/present", &cut);
    rig.hears("salt/presence/change", &Value::Nil);
    assert_eq!(rig.presences(), "a11 a20 a30 ");
    let census = rig.roster.census();
    assert_eq!((census.up, census.down, census.unknown), (1, 2, 0));
    // A look keeps what is known of who stays.
    rig.accept("a4");
    rig.look();
    assert_eq!(rig.presences(), "a11 a20 a30 a4? ");
    assert_eq!(version().members, before.members + 1);
    rig.look();
    assert_eq!(version().members, before.members + 1, "nothing has changed");
}

#[tokio::test]
async fn task_looks_again_when_the_bus_tells_of_a_key_and_not_more_often_than_it_may() {
    let rig = Rig::new(&["a1"]);
    let shutdown = CancellationToken::new();
    let task = RosterTask::new(rig.roster.clone()).run(shutdown.clone());
    let checks = async {
        rig.accept("a2");
        tokio::time::sleep(Duration::from_millis(50)).await;
        rig.hears("salt/key", &Value::Nil);
        let mut versions = rig.roster.versions();
        let found = versions.wait_for(|version| version.members == 2);
        let found = tokio::time::timeout(Duration::from_secs(5), found).await;
        assert!(found.is_ok_and(|found| found.is_ok()));
        assert_eq!(rig.roster.census().minions(), 2);
        shutdown.cancel();
    };
    tokio::join!(task, checks);
}

#[test]
fn fifty_thousand_minions_are_judged_in_milliseconds() {
    let mut register = Register::default();
    let ids = (0..50_000).map(|number| Arc::from(format!("minion-{number:06}.example.net")));
    let directory = tempfile::tempdir().expect("a directory");
    let look = KeyDirectory::new(directory.path().to_owned()).look();
    let look = Look {
        ids: ids.collect(),
        ..look.expect("read")
    };
    register.take(look, false);
    let many: Vec<String> = (0..1_000).map(|number| format!("other-{number}")).collect();
    for (tgt_type, tgt) in [
        ("glob", "b*".into()),
        ("list", Value::array(many.iter().map(String::as_str))),
        ("pcre", "b[0-9]+".into()),
        ("compound", "b* or E@c.* or L@d1,d2".into()),
    ] {
        let fields = Value::map([
            ("fun", "test.ping".into()),
            ("tgt", tgt),
            ("tgt_type", tgt_type.into()),
            ("jid", "20261121175418824928".into()),
        ]);
        let load = PublicationLoad::new(fields).expect("a job");
        let target = nobody::settled_by_ids(&load).expect("by ids");
        let began = Instant::now();
        assert!(target.surely_none_of(&register));
        let took = began.elapsed();
        println!("{tgt_type}: {took:?}");
        assert!(took < Duration::from_millis(200), "{tgt_type}: {took:?}");
    }
}
