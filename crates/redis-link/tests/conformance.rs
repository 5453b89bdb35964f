//! The scripts and a model of them take the same random steps, and agree on every answer.
//!
//! The model has the rules of `tests/simulation`'s modelled Redis: what the simulation proves holds
//! for the real server as far as these two agree.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::{Server, appender, frame, keys, now_ms, text};
use redis_link::{AppendOutcome, Appended, Appender, Beaten, EpochBegun, Frame};
use relay_core::EntryId;

/// What a server holds.
#[derive(Debug, Clone, Default)]
struct Data {
    /// Newest id, run, and the epoch before it.
    head: Option<(EntryId, u64, u64)>,
    seen: HashMap<usize, EntryId>,
    stream: BTreeMap<EntryId, usize>,
}

/// One server, and what its bridges know.
#[derive(Debug, Default)]
struct Model {
    data: Data,
    saved: Data,
    run: u64,
    known: Vec<EntryId>,
}

impl Model {
    fn stale(&self, bridge: usize) -> bool {
        let known = self.known[bridge];
        self.data.head.is_none_or(|(newest, run, _)| {
            run != self.run || newest.epoch != known.epoch || newest.number < known.number
        })
    }

    fn append(&mut self, bridge: usize, frames: &[usize]) -> AppendOutcome {
        let mut appended = Vec::new();
        for frame in frames {
            if self.stale(bridge) {
                return AppendOutcome::Stale;
            }
            let (newest, run, previous) = self.data.head.expect("not stale");
            let seen = self.data.seen.get(frame).filter(|id| id.epoch >= previous);
            let (entry_id, duplicate) = match seen {
                Some(id) => (*id, true),
                None => (newest.next(), false),
            };
            if !duplicate {
                self.data.head = Some((entry_id, run, previous));
                self.data.seen.insert(*frame, entry_id);
                self.data.stream.insert(entry_id, *frame);
            }
            appended.push(Appended {
                entry_id,
                duplicate,
            });
        }
        for each in &appended {
            self.known[bridge] = self.known[bridge].max(each.entry_id);
        }
        AppendOutcome::Appended(appended)
    }

    fn beat(&mut self, bridge: usize) -> Beaten {
        if self.stale(bridge) {
            return Beaten::Stale;
        }
        let (newest, _, _) = self.data.head.expect("not stale");
        self.known[bridge] = newest;
        Beaten::Newest(newest)
    }

    fn begin(&mut self, bridge: usize, now: u64) -> EpochBegun {
        let known = self.known[bridge];
        if let Some((newest, run, previous)) = self.data.head
            && run == self.run
            && newest >= known
            && (newest.epoch == known.epoch || previous >= known.epoch)
        {
            self.known[bridge] = newest;
            return EpochBegun {
                epoch: newest.epoch,
                joined: true,
            };
        }
        let here = self.data.head.map_or(0, |(newest, _, _)| newest.epoch);
        let last = self.data.stream.keys().last().map_or(0, |id| id.epoch);
        let epoch = [now, here + 1, known.epoch + 1, last + 1].into_iter().max();
        let epoch = epoch.expect("four");
        let begun = EntryId::new(epoch, 0);
        self.data.head = Some((begun, self.run, here.max(known.epoch)));
        self.known[bridge] = begun;
        EpochBegun {
            epoch,
            joined: false,
        }
    }
}

fn frames(numbers: &[usize]) -> Vec<Frame> {
    numbers.iter().map(|n| frame(format!("job {n}"))).collect()
}

/// The real stream: id and frame of every entry.
fn stream(server: &Server) -> BTreeMap<EntryId, usize> {
    let reply = server.admin(&[b"XRANGE", keys().publications().as_bytes(), b"-", b"+"]);
    let redis::Value::Array(entries) = reply else {
        panic!("{reply:?}")
    };
    let entry = |value| {
        let redis::Value::Array(parts) = value else {
            panic!("{value:?}")
        };
        let [id, fields] = <[redis::Value; 2]>::try_from(parts).expect("id and fields");
        let redis::Value::Array(mut fields) = fields else {
            panic!("{fields:?}")
        };
        let job = text(fields.pop().expect("a frame"));
        let job = job.strip_prefix("job ").and_then(|n| n.parse().ok());
        (text(id).parse().expect("an id"), job.expect("a job"))
    };
    entries.into_iter().map(entry).collect()
}

async fn surely<T, E: std::fmt::Display>(mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let mut last = String::new();
    for _ in 0..20 {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => last = error.to_string(),
        }
    }
    panic!("{last}")
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Append,
    Beat,
    Begin,
    Restart,
    Flush,
    Save,
    /// Back to what was saved last.
    Restore,
    /// A new process in place of one of the bridges.
    NewBridge,
}

/// One run of a seed. Restarts of the server are seldom: they take most of the time.
async fn agree(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut server = Server::start_with("appendonly no\n");
    let mut bridges: Vec<Appender> = (0..2)
        .map(|n| appender(&server, &format!("b{n}")))
        .collect();
    let mut model = Model {
        known: vec![EntryId::ZERO; 2],
        run: 1,
        ..Model::default()
    };
    let mut jobs = 0;
    for number in 0..120 {
        let step = match rng.u32(0..100) {
            0..50 => Step::Append,
            50..62 => Step::Beat,
            62..85 => Step::Begin,
            85..88 => Step::Flush,
            88..91 => Step::Save,
            91..94 => Step::NewBridge,
            94..97 => Step::Restart,
            _ => Step::Restore,
        };
        let at = rng.usize(0..2);
        let context = format!("seed {seed}, step {number}: {step:?} by {at}; {model:?}");
        match step {
            Step::Append => {
                // New ones, and some of the last again, as after a new epoch.
                let first = jobs - rng.usize(0..=jobs.min(40));
                jobs += rng.usize(0..4);
                let batch: Vec<usize> = (first..jobs).collect();
                let real = surely(async || bridges[at].append(&frames(&batch)).await).await;
                assert_eq!(real, model.append(at, &batch), "{context}");
            }
            Step::Beat => {
                let real = surely(async || bridges[at].beat(now_ms()).await).await;
                assert_eq!(real, model.beat(at), "{context}");
            }
            Step::Begin => {
                // Clocks of bridges differ, and step back.
                let now = 1_795_000_000_000 + rng.u64(0..100);
                let real = surely(async || bridges[at].begin_epoch(now).await).await;
                assert_eq!(real, model.begin(at, now), "{context}");
            }
            Step::Flush => {
                server.admin(&[b"FLUSHALL"]);
                model.data = Data::default();
            }
            Step::Save => {
                server.admin(&[b"SAVE"]);
                model.saved = model.data.clone();
            }
            Step::Restart | Step::Restore => {
                if matches!(step, Step::Restart) {
                    server.admin(&[b"SAVE"]);
                    model.saved = model.data.clone();
                }
                server.kill();
                server.restart();
                model.data = model.saved.clone();
                model.run += 1;
            }
            Step::NewBridge => {
                bridges[at] = appender(&server, &format!("b{at}"));
                model.known[at] = EntryId::ZERO;
            }
        }
        for (bridge, known) in bridges.iter().zip(&model.known) {
            assert_eq!(bridge.newest(), *known, "{context}");
        }
    }
    assert_eq!(stream(&server), model.data.stream, "seed {seed}");
}

#[tokio::test]
async fn the_scripts_do_what_the_model_does() {
    for seed in 0..8 {
        agree(seed).await;
    }
}
