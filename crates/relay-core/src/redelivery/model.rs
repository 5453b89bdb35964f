//! A modelled master and its minions, over random schedules of faults: nobody runs a jid twice, and whoever can be told
//! gets it.
//!
//! A minion passes over the last 100 jids that it took, forgets them when it starts, and is deaf, stalled or away for a
//! while; some jobs kill it. A shim's receipts are lost at random, its reports are not; start events are late.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// `minion_jid_queue_hwm`.
const REMEMBERED: usize = 100;
const EXPIRES_MS: u64 = 300_000;
const STEP_MS: u64 = 50;
const MINIONS: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Open,
    /// What is sent is lost.
    Deaf,
    /// What is sent comes later.
    Stalled,
    Away {
        until_ms: u64,
        is_restart: bool,
    },
}

struct ModelMinion {
    name: String,
    has_shim: bool,
    line: Line,
    stalled: VecDeque<String>,
    remembered: VecDeque<String>,
    runs: HashMap<String, usize>,
    taken: Vec<String>,
    shim_since_ms: u64,
    began_ms: u64,
}

#[derive(Debug, Clone)]
enum Heard {
    Receipt(usize, String),
    Return(usize, String),
    Report(usize, Report, Vec<String>, u64),
    Started(usize),
    Other(usize),
}

struct World {
    redelivery: Redelivery,
    minions: Vec<ModelMinion>,
    now_ms: u64,
    seed: u64,
    events: BTreeMap<u64, Vec<Heard>>,
    jobs: Vec<(String, Vec<usize>)>,
    killers: HashSet<String>,
    sent_again: HashMap<(String, usize), usize>,
    lossy: bool,
}

impl World {
    fn new(seed: u64, lossy: bool) -> Self {
        let mut redelivery = Redelivery::new(RedeliveryConfig::default());
        let minion = |n: usize| ModelMinion {
            name: format!("m{n}"),
            has_shim: n.is_multiple_of(2),
            line: Line::Open,
            stalled: VecDeque::new(),
            remembered: VecDeque::new(),
            runs: HashMap::new(),
            taken: Vec::new(),
            shim_since_ms: 0,
            began_ms: 0,
        };
        let minions: Vec<ModelMinion> = (0..MINIONS).map(minion).collect();
        for minion in &minions {
            let source = match minion.has_shim {
                true => Source::Shim,
                false => Source::StartEvent,
            };
            redelivery.gives_receipts(&minion.name, source);
        }
        Self {
            redelivery,
            minions,
            now_ms: 1_000_000,
            seed: seed | 1,
            events: BTreeMap::new(),
            jobs: Vec::new(),
            killers: HashSet::new(),
            sent_again: HashMap::new(),
            lossy,
        }
    }

    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % bound
    }

    fn later(&mut self, after_ms: u64, heard: Heard) {
        self.events
            .entry(self.now_ms + after_ms)
            .or_default()
            .push(heard);
    }

    /// A job for most of the minions.
    fn publish(&mut self, kills: bool) {
        let means: Vec<usize> = (0..MINIONS).filter(|_| self.below(4) > 0).collect();
        self.publish_to(means, kills);
    }

    fn publish_to(&mut self, means: Vec<usize>, kills: bool) {
        let jid = format!("{:06}", self.jobs.len());
        let names: Vec<String> = means
            .iter()
            .map(|n| self.minions[*n].name.clone())
            .collect();
        let sent = Sent {
            jid: &jid,
            policy: Policy::Safe,
            asked_start_event: true,
            now_ms: self.now_ms,
            expires_ms: self.now_ms + EXPIRES_MS,
        };
        self.redelivery
            .published(sent, names.iter().map(String::as_str));
        if kills {
            self.killers.insert(jid.clone());
        }
        for n in &means {
            self.deliver(*n, &jid);
        }
        self.jobs.push((jid, means));
    }

    /// A copy of a job goes to a minion.
    fn deliver(&mut self, n: usize, jid: &str) {
        match self.minions[n].line {
            Line::Open => self.take(n, jid),
            Line::Stalled => self.minions[n].stalled.push_back(jid.to_owned()),
            Line::Deaf | Line::Away { .. } => {}
        }
    }

    fn take(&mut self, n: usize, jid: &str) {
        let minion = &mut self.minions[n];
        if minion.remembered.iter().any(|known| known == jid) {
            return;
        }
        minion.remembered.push_back(jid.to_owned());
        if minion.remembered.len() > REMEMBERED {
            minion.remembered.pop_front();
        }
        *minion.runs.entry(jid.to_owned()).or_default() += 1;
        minion.taken.push(jid.to_owned());
        let is_lost = minion.has_shim && self.lossy && self.below(3) == 0;
        let after_ms = 20 + self.below(180);
        if !is_lost {
            self.later(after_ms, Heard::Receipt(n, jid.to_owned()));
        }
        if self.killers.contains(jid) {
            self.restart(n);
        } else if self.below(3) > 0 {
            let after_ms = after_ms + self.below(20_000);
            self.later(after_ms, Heard::Return(n, jid.to_owned()));
        }
    }

    fn restart(&mut self, n: usize) {
        let until_ms = self.now_ms + 1_500 + self.below(10_000);
        let minion = &mut self.minions[n];
        minion.line = Line::Away {
            until_ms,
            is_restart: true,
        };
        minion.stalled.clear();
    }

    /// The minion's connection is there again.
    fn connect(&mut self, n: usize, is_restart: bool) {
        let now_ms = self.now_ms;
        let minion = &mut self.minions[n];
        minion.line = Line::Open;
        minion.began_ms = now_ms;
        if is_restart {
            minion.remembered.clear();
        }
        self.redelivery.connection_opened(now_ms);
        if is_restart {
            let after_ms = self.below(1_000);
            self.later(after_ms, Heard::Started(n));
        }
        if !self.minions[n].has_shim {
            return;
        }
        let is_new_shim = is_restart && self.below(5) == 0;
        let minion = &mut self.minions[n];
        let report = match (is_restart, is_new_shim) {
            (_, true) => {
                minion.taken.clear();
                minion.shim_since_ms = now_ms;
                Report::Hello
            }
            (true, false) => Report::Started,
            (false, false) => Report::Reconnected,
        };
        let covers_ms = now_ms - minion.shim_since_ms;
        let taken = minion.taken.clone();
        let after_ms = self.below(1_000);
        self.later(after_ms, Heard::Report(n, report, taken, covers_ms));
    }

    fn fault(&mut self, busy: bool) {
        let n = usize::try_from(self.below(MINIONS as u64)).unwrap();
        let is_settled = self.minions[n].began_ms + 5_000 < self.now_ms;
        match (self.below(if busy { 12 } else { 40 }), self.minions[n].line) {
            (0, Line::Open) => self.minions[n].line = Line::Deaf,
            (1, Line::Open) => self.minions[n].line = Line::Stalled,
            (2, Line::Open | Line::Deaf | Line::Stalled) if is_settled => self.restart(n),
            (3, Line::Open | Line::Deaf | Line::Stalled) if is_settled => {
                let until_ms = self.now_ms + 200 + self.below(20_000);
                self.minions[n].stalled.clear();
                self.minions[n].line = Line::Away {
                    until_ms,
                    is_restart: false,
                };
            }
            (4, Line::Deaf | Line::Stalled) => self.open(n),
            (5, Line::Open | Line::Deaf) => self.later(10, Heard::Other(n)),
            // Somebody else connects.
            (6, _) if self.below(10) == 0 => self.redelivery.connection_opened(self.now_ms),
            _ => {}
        }
    }

    fn open(&mut self, n: usize) {
        self.minions[n].line = Line::Open;
        while let Some(jid) = self.minions[n].stalled.pop_front() {
            if self.minions[n].line == Line::Open {
                self.take(n, &jid);
            }
        }
    }

    fn step(&mut self) {
        self.now_ms += STEP_MS;
        for n in 0..MINIONS {
            if let Line::Away {
                until_ms,
                is_restart,
            } = self.minions[n].line
                && until_ms <= self.now_ms
            {
                self.connect(n, is_restart);
            }
        }
        let later = self.events.split_off(&(self.now_ms + 1));
        for heard in std::mem::replace(&mut self.events, later)
            .into_values()
            .flatten()
        {
            self.hear(heard);
        }
        for again in self.redelivery.tick(self.now_ms) {
            for name in again.minions {
                let n = self
                    .minions
                    .iter()
                    .position(|minion| minion.name == name)
                    .unwrap();
                *self.sent_again.entry((again.jid.clone(), n)).or_default() += 1;
                self.deliver(n, &again.jid);
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        let now_ms = self.now_ms;
        let name = |n: usize| self.minions[n].name.as_str();
        match heard {
            Heard::Receipt(n, jid) => {
                self.redelivery.received(name(n), &jid, now_ms);
            }
            Heard::Return(n, jid) => self.redelivery.returned(name(n), &jid, now_ms),
            Heard::Report(n, report, taken, covers_ms) => {
                let taken = taken.iter().map(String::as_str);
                self.redelivery
                    .reported(name(n), report, taken, covers_ms, now_ms);
            }
            Heard::Started(n) => self.redelivery.started(name(n), now_ms),
            Heard::Other(n) => self.redelivery.sign_of_life(name(n), now_ms),
        }
    }

    fn heal(&mut self) {
        for n in 0..MINIONS {
            match self.minions[n].line {
                Line::Deaf | Line::Stalled => self.open(n),
                Line::Open | Line::Away { .. } => {}
            }
        }
        self.pass(20_000);
        for _ in 0..3 {
            self.publish_to((0..MINIONS).collect(), false);
            self.pass(10_000);
        }
        self.pass(60_000);
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / STEP_MS {
            self.step();
        }
    }

    fn check_once(&self) -> Result<(), TestCaseError> {
        for minion in &self.minions {
            for (jid, runs) in &minion.runs {
                prop_assert!(*runs == 1, "{} ran {jid} {runs} times", minion.name);
            }
        }
        Ok(())
    }

    /// Who did not run a job was away for good reasons, all of which are told.
    fn check_delivered(&self) -> Result<(), TestCaseError> {
        let attempts_max = usize::from(self.redelivery.config().attempts_max);
        for (jid, means) in &self.jobs {
            for n in means {
                let minion = &self.minions[*n];
                let sent = self
                    .sent_again
                    .get(&(jid.clone(), *n))
                    .copied()
                    .unwrap_or(0);
                prop_assert!(sent <= attempts_max + 1);
                let excused = sent > attempts_max || self.redelivery.is_unsafe(jid, &minion.name);
                prop_assert!(
                    excused || minion.runs.contains_key(jid),
                    "{} never ran {jid}, sent again {sent} times",
                    minion.name
                );
            }
        }
        Ok(())
    }
}

fn run(seed: u64, jobs: u64, lossy: bool, busy: bool) -> World {
    let mut world = World::new(seed, lossy);
    let each = if busy { 3 } else { 20 };
    let mut published = 0;
    while published < jobs {
        if world.below(each) == 0 {
            let kills = world.below(25) == 0;
            world.publish(kills);
            published += 1;
        }
        world.fault(busy);
        world.step();
    }
    world.heal();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// With more jobs than a minion remembers, and receipts lost.
    #[test]
    fn no_minion_runs_a_jid_twice(seed in any::<u64>(), busy in any::<bool>()) {
        run(seed, 260, true, busy).check_once()?;
    }

    #[test]
    fn whoever_is_heard_before_the_expiry_has_every_job(seed in any::<u64>(), lossy in any::<bool>()) {
        let world = run(seed, 45, lossy, false);
        world.check_once()?;
        world.check_delivered()?;
    }
}
