//! What does the ledger cost for 100,000 minions in 20 sites and 10 jobs a second?
//!
//! A stand-in MoM's event bus carries 20 rosters of 5,000 minions and the sites' statuses, then 10 jobs a second, each to one
//! site, with its ack and all 5,000 returns; then one job to everybody. Prints processor time and memory of the bridge, how
//! far it was behind, and how long the bridge and the command `saltway job JID` took to answer for the job to everybody.
#![expect(
    clippy::print_stdout,
    reason = "the figures go to the terminal, and from there into docs/measurements.md"
)]

use std::{
    env,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use real_tests::ledger::ask;
use salt_wire::{
    ids::MinionId,
    msgpack::Value,
    saltway::{IdList, Members, Presence, Roster, RosterDigest, RosterKind, SpoolFigures, Status},
};
use standin::{MomBus, StandinMom, jid, return_data};
use testkit::{Daemon, RedisServer, Workspace, now, run, wait_until};

const SITES: usize = 20;
const MINIONS: usize = 5_000;
const JOBS_PER_SECOND: u32 = 10;

/// What the design allows.
const RSS_MAX: u64 = 200 << 20;
const CORES_MAX: f64 = 1.0;
const ANSWERED_WITHIN: Duration = Duration::from_millis(100);

const PATIENCE: Duration = Duration::from_secs(60);

struct Stage {
    // Fields drop in this order.
    bridge: Daemon,
    redis: RedisServer,
    bus: MomBus,
    _mom: StandinMom,
    workspace: Workspace,
    /// The minions of each site.
    sites: Vec<(String, Vec<String>)>,
}

fn main() -> Result<()> {
    let seconds: u32 = match env::args().nth(1) {
        Some(text) => text
            .parse()
            .context("the argument is a number of seconds")?,
        None => 20,
    };
    let stage = Stage::start()?;
    let announced = stage.bridge.process()?.usage()?;
    let jobs = stage.steady(seconds)?;
    let after = stage.bridge.process()?.usage()?;
    let cores = (after.cpu - announced.cpu).as_secs_f64() / jobs.took.as_secs_f64();
    println!("{} minions in {SITES} sites", SITES * MINIONS);
    println!(
        "{} jobs in {:.1} s, {} returns: the bridge took {cores:.2} of a core, {} MiB, and was done {:.2} s after the last return",
        jobs.count,
        jobs.took.as_secs_f64(),
        jobs.count * MINIONS,
        after.rss >> 20,
        jobs.behind.as_secs_f64()
    );
    let (folded, whole) = stage.everybody()?;
    let rss = stage.bridge.process()?.usage()?.rss;
    println!(
        "one job to everybody: its returns folded in {:.2} s, {} MiB",
        folded.as_secs_f64(),
        rss >> 20
    );
    let mut walls: Vec<Duration> = (0..10)
        .map(|_| stage.command(&whole))
        .collect::<Result<_>>()?;
    walls.sort_unstable();
    let median = walls[walls.len() / 2];
    println!(
        "saltway job JID for it: {:.0} ms (median of 10)",
        median.as_secs_f64() * 1000.0
    );
    ensure!(rss < RSS_MAX, "{} MiB, not below 200 MiB", rss >> 20);
    ensure!(cores < CORES_MAX, "{cores:.2} cores");
    ensure!(median < ANSWERED_WITHIN, "saltway job takes {median:?}");
    Ok(())
}

struct Jobs {
    count: usize,
    took: Duration,
    behind: Duration,
}

impl Stage {
    fn start() -> Result<Self> {
        let workspace = Workspace::new()?;
        let mom = StandinMom::start(&workspace, "mom")?;
        let bus = MomBus::listen(&mom)?;
        let redis = RedisServer::builder("redis").start(&workspace)?;
        let mut bridge = Daemon::bridge("bridge", mom.config_file())
            .redis(&redis.url())
            .log("warn")
            .start(&workspace)?;
        bridge.ready()?;
        let site = |number: usize| {
            let minions = 0..MINIONS;
            let minions = minions.map(|minion| format!("web{minion:05}.dc{number:02}.example.com"));
            (format!("dc{number:02}"), minions.collect())
        };
        let stage = Self {
            bridge,
            redis,
            bus,
            _mom: mom,
            workspace,
            sites: (0..SITES).map(site).collect(),
        };
        stage.bus.bus().await_listener(PATIENCE)?;
        for (site, minions) in &stage.sites {
            let key = format!("saltway:{{main}}:lease:{site}");
            stage
                .redis
                .cli(&["HSET", &key, "holder", "bench", "fence", "1"])?;
            stage.announce(site, minions)?;
        }
        stage.say_status()?;
        wait_until("all sites to be up", PATIENCE, || {
            match ask(&stage.bridge, "status") {
                Ok(status) if status["sites"]["up"] == SITES => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        Ok(stage)
    }

    fn announce(&self, site: &str, minions: &[String]) -> Result<()> {
        let ids = || minions.iter().map(String::as_str);
        let roster = Roster {
            site: MinionId::parse(site)?,
            run: "bench".to_owned(),
            number: 1,
            parts: 1,
            part: 0,
            kind: RosterKind::Full,
            digest: RosterDigest::of_sorted(ids()),
            members: Members::new(ids().map(|id| (id, Presence::Up)))?,
            removed: IdList::default(),
            complete: true,
        };
        self.bus.fire(&roster.tag(), &roster.data())
    }

    fn say_status(&self) -> Result<()> {
        for (site, _) in &self.sites {
            let status = Status {
                site: MinionId::parse(site)?,
                run: "bench".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                minions: MINIONS as u64,
                up: MINIONS as u64,
                roster: None,
                entry: None,
                lag_entries: 0,
                lag_seconds: 0.0,
                spool: SpoolFigures {
                    entries: 0,
                    bytes: 0,
                },
                lost: Vec::new(),
                expired: 0,
                active: true,
                last_hop: None,
            };
            self.bus.fire(&status.tag(), &status.data())?;
        }
        Ok(())
    }

    fn publish(&self, jid: &str, tgt: &str) -> Result<()> {
        let data = Value::map([
            ("jid", jid.into()),
            ("tgt_type", "glob".into()),
            ("tgt", tgt.into()),
            ("user", "root".into()),
            ("fun", "test.ping".into()),
            ("arg", Value::Array(Vec::new())),
            ("minions", Value::Array(Vec::new())),
            ("missing", Value::Array(Vec::new())),
        ]);
        self.bus.fire(&format!("salt/job/{jid}/new"), &data)
    }

    /// A site takes the job and all its minions return.
    fn answer(&self, jid: &str, site: &str, minions: &[String]) -> Result<()> {
        let ack = Value::map([
            ("jid", jid.into()),
            ("minions", Value::array(minions.iter().map(String::as_str))),
            ("missing", Value::Array(Vec::new())),
        ]);
        self.bus.fire(&format!("syndic/{site}/{jid}"), &ack)?;
        let mut frames = Vec::new();
        for minion in minions {
            let data = return_data(jid, minion, "test.ping", true.into());
            let tag = format!("salt/job/{jid}/ret/{minion}");
            frames.extend(self.bus.bus().frame(&tag, &data)?);
        }
        self.bus.bus().fire_raw(&frames)
    }

    fn await_returned(&self, jid: &str, count: usize) -> Result<()> {
        wait_until(
            "the last return to be in the ledger",
            PATIENCE,
            || match ask(&self.bridge, &format!("jobs/{jid}?limit=1")) {
                Ok(job) if job["returned"] == count => Ok(()),
                Ok(job) => Err(job["returned"].to_string()),
                Err(err) => Err(format!("{err:#}")),
            },
        )
    }

    /// So many jobs each second, whatever the bridge does.
    fn steady(&self, seconds: u32) -> Result<Jobs> {
        let (began, count) = (now(), seconds * JOBS_PER_SECOND);
        let mut told = began;
        for number in 0..count {
            let due = began + Duration::from_secs(1) * number / JOBS_PER_SECOND;
            thread::sleep(due.saturating_duration_since(now()));
            let (site, minions) = &self.sites[number as usize % SITES];
            let jid = jid(number.into());
            self.publish(&jid, &format!("*.{site}.example.com"))?;
            self.answer(&jid, site, minions)?;
            if told.elapsed() > Duration::from_secs(5) {
                self.say_status()?;
                told = now();
            }
        }
        let fired: Instant = now();
        self.await_returned(&jid((count - 1).into()), MINIONS)?;
        Ok(Jobs {
            count: count as usize,
            took: began.elapsed(),
            behind: fired.elapsed(),
        })
    }

    fn everybody(&self) -> Result<(Duration, String)> {
        let jid = jid(999_999);
        self.publish(&jid, "*")?;
        let began = now();
        for (site, minions) in &self.sites {
            self.answer(&jid, site, minions)?;
        }
        self.await_returned(&jid, SITES * MINIONS)?;
        Ok((began.elapsed(), jid))
    }

    /// From the start of the command to its end.
    fn command(&self, jid: &str) -> Result<Duration> {
        let program = env::current_exe()?.with_file_name("saltway");
        let mut command = Command::new(program);
        command.args([
            "--url",
            &format!("http://{}", self.bridge.http()),
            "job",
            jid,
        ]);
        let output = run(&self.workspace, command, PATIENCE)?;
        ensure!(output.code == 0, "{output:?}");
        Ok(output.wall)
    }
}
