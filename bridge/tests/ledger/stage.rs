//! A bridge with a ledger between a stand-in MoM with an event bus and a Redis in which the test itself plays the sites.

use std::{collections::BTreeSet, time::Duration};

use salt_wire::{
    ids::MinionId,
    msgpack::Value,
    saltway::{
        IdList, LostAt, Members, Presence, Roster, RosterDigest, RosterKind, SpoolFigures, Status,
    },
};
use serde_json::Value as Json;
use standin::{MomBus, StandinMom};
use testkit::{Daemon, RedisServer, Workspace, await_that};

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// See the module's head.
pub(crate) struct Stage {
    pub(crate) bridge: Daemon,
    pub(crate) bus: MomBus,
    pub(crate) redis: RedisServer,
    pub(crate) mom: StandinMom,
    pub(crate) workspace: Workspace,
}

impl Stage {
    pub(crate) fn new(extra: &str) -> Self {
        let workspace = Workspace::new().expect("a workspace");
        let mom = StandinMom::start(&workspace, "mom").expect("a stand-in");
        let bus = MomBus::listen(&mom).expect("a bus");
        let redis = RedisServer::builder("redis")
            .start(&workspace)
            .expect("a redis-server");
        let mut bridge = Daemon::bridge("bridge", mom.config_file())
            .redis(&redis.url())
            .log("info,bridge=debug")
            .extra(extra)
            .start(&workspace)
            .expect("started");
        bridge.ready().expect("ready");
        let stage = Self {
            bridge,
            bus,
            redis,
            mom,
            workspace,
        };
        stage.await_heard();
        stage
    }

    /// A bridge alone, which is ready.
    pub(crate) fn bare(extra: &str) -> (Daemon, RedisServer, StandinMom, Workspace) {
        let workspace = Workspace::new().expect("a workspace");
        let mom = StandinMom::start(&workspace, "mom").expect("a stand-in");
        let redis = RedisServer::builder("redis")
            .start(&workspace)
            .expect("a redis-server");
        let mut bridge = Daemon::bridge("bridge", mom.config_file())
            .redis(&redis.url())
            .extra(extra)
            .start(&workspace)
            .expect("started");
        bridge.ready().expect("ready");
        (bridge, redis, mom, workspace)
    }

    /// Waits until the bridge hears the bus, speaks, and can fire.
    pub(crate) fn await_heard(&self) {
        self.await_api("/api/v1/status", |status| {
            status["mom"]["bus"] == "up" && status["speaker"] == true
        });
        await_that("the way to the bus", SOON, || {
            let log = self.bridge.log().unwrap_or_default();
            let opens = log.matches("event bus takes events").count();
            let starts = log.matches("hears the MoM's event bus").count();
            if opens >= starts && opens > 0 {
                Ok(())
            } else {
                Err(log)
            }
        });
    }

    pub(crate) fn restart(&mut self) {
        self.bridge.start().expect("started");
        self.bridge.ready().expect("ready");
        self.await_heard();
    }

    fn redis_command(&self, words: &[&str]) {
        let output = self.redis.cli(words).expect("answered");
        assert_eq!(output.code, 0, "{words:?}");
    }

    /// A site whose shim renews its lease for ever and has announced its roster.
    pub(crate) fn site(&self, site: &str, minions: &[&str]) {
        self.lease(site);
        self.roster(site, minions, 1);
        self.status(site, "run", &[]);
        self.await_site(site, "up");
    }

    pub(crate) fn lease(&self, site: &str) {
        let key = format!("saltway:{{main}}:lease:{site}");
        self.redis_command(&["HSET", &key, "holder", "test", "fence", "1"]);
    }

    /// As if nobody had renewed the lease.
    pub(crate) fn drop_lease(&self, site: &str) {
        self.redis_command(&["DEL", &format!("saltway:{{main}}:lease:{site}")]);
    }

    pub(crate) fn site_goes(&self, site: &str) {
        self.drop_lease(site);
        self.await_site(site, "down");
    }

    pub(crate) fn roster(&self, site: &str, minions: &[&str], number: u64) {
        let sorted: BTreeSet<&str> = minions.iter().copied().collect();
        let members = sorted.iter().map(|id| (*id, Presence::Up));
        let roster = Roster {
            site: MinionId::parse(site).expect("an id"),
            run: "run".to_owned(),
            number,
            parts: 1,
            part: 0,
            kind: RosterKind::Full,
            digest: RosterDigest::of_sorted(sorted.iter().copied()),
            members: Members::new(members).expect("ids"),
            removed: IdList::default(),
            complete: true,
        };
        self.fire(&roster.tag(), &roster.data());
    }

    pub(crate) fn status(&self, site: &str, run: &str, lost: &[(LostAt, u64)]) {
        let status = self.a_status(site, run, lost);
        self.fire(&status.tag(), &status.data());
    }

    #[expect(clippy::unused_self, reason = "the stage's sites speak so")]
    pub(crate) fn a_status(&self, site: &str, run: &str, lost: &[(LostAt, u64)]) -> Status {
        Status {
            site: MinionId::parse(site).expect("an id"),
            run: run.to_owned(),
            version: "0.1.0".to_owned(),
            minions: 3,
            up: 3,
            roster: None,
            entry: None,
            lag_entries: 7,
            lag_seconds: 1.5,
            spool: SpoolFigures {
                entries: 2,
                bytes: 300,
            },
            lost: lost.to_vec(),
            expired: 1,
            active: true,
            last_hop: None,
        }
    }

    pub(crate) fn fire(&self, tag: &str, data: &Value) {
        self.bus.fire(tag, data).expect("fired");
    }

    /// A job appears on the MoM, which itself means `own`.
    pub(crate) fn publish(&self, jid: &str, tgt_type: &str, tgt: impl Into<Value>, own: &[&str]) {
        let data = Value::map([
            ("jid", jid.into()),
            ("tgt_type", tgt_type.into()),
            ("tgt", tgt.into()),
            ("user", "sudo_alice".into()),
            ("fun", "test.echo".into()),
            ("arg", Value::array(["hello", "password=secret"])),
            ("minions", Value::array(own.iter().copied())),
            ("missing", Value::Array(Vec::new())),
        ]);
        self.fire(&format!("salt/job/{jid}/new"), &data);
    }

    pub(crate) fn ack(&self, site: &str, jid: &str, minions: &[&str]) {
        let data = Value::map([
            ("jid", jid.into()),
            ("minions", Value::array(minions.iter().copied())),
            ("missing", Value::Array(Vec::new())),
        ]);
        self.fire(&format!("syndic/{site}/{jid}"), &data);
    }

    pub(crate) fn ret(&self, jid: &str, minion: &str, retcode: i64) {
        let mut data = standin::return_data(jid, minion, "test.echo", "hello".into());
        data.set("retcode", retcode);
        self.fire(&format!("salt/job/{jid}/ret/{minion}"), &data);
    }

    pub(crate) fn api(&self, path: &str) -> (u16, Json) {
        let (status, body) = self.bridge.get(path).expect("an answer");
        let json = serde_json::from_str(&body).unwrap_or(Json::Null);
        (status, json)
    }

    /// Asks until the answer holds.
    pub(crate) fn await_api(&self, path: &str, holds: impl Fn(&Json) -> bool) -> Json {
        await_that(path, SOON, || {
            let Ok((status, body)) = self.bridge.get(path) else {
                return Err("no answer".to_owned());
            };
            let json: Json = serde_json::from_str(&body).unwrap_or(Json::Null);
            if status == 200 && holds(&json) {
                return Ok(json);
            }
            Err(format!("{status} {json}\n{}", self.bridge.log_tail(15)))
        })
    }

    pub(crate) fn await_site(&self, site: &str, state: &str) {
        self.await_api("/api/v1/sites", |sites| {
            let sites = sites["sites"].as_array().expect("a list");
            sites
                .iter()
                .any(|one| one["id"] == site && one["state"] == state)
        });
    }

    pub(crate) fn await_job(&self, jid: &str, holds: impl Fn(&Json) -> bool) -> Json {
        self.await_api(&format!("/api/v1/jobs/{jid}"), holds)
    }
}

/// The ids in a list of an event.
pub(crate) fn ids(data: &Value, key: &str) -> Vec<String> {
    let list = data.get(key).and_then(Value::as_array).unwrap_or_default();
    list.iter()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect()
}

/// `id verdict` of the minions of a job.
pub(crate) fn verdicts(job: &Json) -> Vec<String> {
    let minions = job["minions"].as_array().expect("minions");
    let verdict = |minion: &Json| {
        let text = |key: &str| minion[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}", text("id"), text("verdict"))
    };
    let mut verdicts: Vec<String> = minions.iter().map(verdict).collect();
    verdicts.sort_unstable();
    verdicts
}
