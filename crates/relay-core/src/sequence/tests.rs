//! A model of Redis and of the link, driven by random interleavings, and broken variants of the
//! sequencer that the same check has to catch.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

fn id(epoch: u64, number: u64) -> EntryId {
    EntryId::new(epoch, number)
}

fn publication(entry_id: EntryId) -> Publication {
    let frame = Bytes::from(entry_id.to_string());
    Publication {
        entry_id,
        received_at_ms: entry_id.number,
        clock: None,
        frame,
    }
}

/// What may happen next; the numbers choose among what is there.
#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Trim(u8),
    BeginAnew,
    Beat,
    /// Deliver the n-th message that is on its way, so out of order; keep it when `again`.
    Hear {
        which: u8,
        again: bool,
    },
    LoseMessage(u8),
    /// The server carries out the outstanding read now, the answer arrives later.
    ServeRead(u8),
    AnswerRead,
    FailRead,
    Reconnect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..4_u8).prop_map(Step::Append),
        1 => (0..6_u8).prop_map(Step::Trim),
        1 => Just(Step::BeginAnew),
        3 => Just(Step::Beat),
        8 => (any::<u8>(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Step::Hear { which, again }),
        2 => any::<u8>().prop_map(Step::LoseMessage),
        4 => (1..5_u8).prop_map(Step::ServeRead),
        4 => Just(Step::AnswerRead),
        1 => Just(Step::FailRead),
        1 => Just(Step::Reconnect),
    ];
    prop::collection::vec(step, 1..120)
}

type Subject = Box<dyn FnMut(Event) -> Vec<Action>>;

/// The stream, the messages on their way, and what the sequencer did.
struct World {
    subject: Subject,
    stream: BTreeMap<EntryId, Publication>,
    appended: Vec<EntryId>,
    newest: EntryId,
    on_the_way: Vec<Event>,
    read: Option<EntryId>,
    served: Option<Page>,
    /// The greatest number of each epoch that the sequencer was told of.
    told: BTreeMap<u64, u64>,
    start: Option<EntryId>,
    delivered: Vec<EntryId>,
    lost: Vec<(EntryId, EntryId)>,
}

impl World {
    fn new(subject: Subject, start: EntryId) -> Self {
        Self {
            subject,
            stream: BTreeMap::new(),
            appended: Vec::new(),
            newest: EntryId::ZERO,
            on_the_way: Vec::new(),
            read: None,
            served: None,
            told: BTreeMap::new(),
            start: Some(start),
            delivered: Vec::new(),
            lost: Vec::new(),
        }
    }

    fn tell(&mut self, known: EntryId) {
        let number = self.told.entry(known.epoch).or_default();
        *number = known.number.max(*number);
    }

    fn send(&mut self, event: Event) -> Result<(), String> {
        match &event {
            Event::Published(publication) => self.tell(publication.entry_id),
            Event::Beat { newest } => self.tell(*newest),
            Event::Page(page) => {
                self.tell(page.newest);
                for entry in page.entries.clone() {
                    self.tell(entry.entry_id);
                }
            }
            Event::Connected | Event::ReadFailed { .. } => {}
        }
        for action in (self.subject)(event) {
            match action {
                Action::Deliver(entry) => {
                    if entry != publication(entry.entry_id) {
                        return Err(format!("{} has other content", entry.entry_id));
                    }
                    if self.delivered.last() >= Some(&entry.entry_id) {
                        return Err(format!(
                            "{} after {:?}",
                            entry.entry_id,
                            self.delivered.last()
                        ));
                    }
                    self.delivered.push(entry.entry_id);
                }
                Action::ReadFrom { after } => {
                    if self.read.replace(after).is_some() {
                        return Err("two reads at a time".to_owned());
                    }
                    self.served = None;
                }
                Action::Lost { from, to } | Action::Ended { from, to } => {
                    if from > to || from.epoch != to.epoch {
                        return Err(format!("lost range {from}..{to}"));
                    }
                    self.lost.push((from, to));
                }
                Action::Duplicate(_) | Action::NewEpoch { .. } | Action::Behind { .. } => {}
            }
        }
        Ok(())
    }

    fn serve(&mut self, count: usize) {
        let Some(after) = self.read else { return };
        let entries: Vec<_> = self
            .stream
            .range(after.next()..)
            .take(count)
            .map(|(_, entry)| entry.clone())
            .collect();
        let mut through = entries.last().map_or(after, |entry| entry.entry_id);
        if entries.len() < count {
            through = through.max(self.newest);
        }
        self.served = Some(Page {
            after,
            through,
            entries,
            newest: self.newest,
        });
    }

    fn answer(&mut self) -> Result<(), String> {
        let Some(page) = self.served.take() else {
            return Ok(());
        };
        self.read = None;
        self.send(Event::Page(page))
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Append(count) => {
                for _ in 0..*count {
                    if self.newest == EntryId::ZERO {
                        self.newest = id(100, 0);
                    }
                    self.newest = self.newest.next();
                    self.appended.push(self.newest);
                    self.stream.insert(self.newest, publication(self.newest));
                    self.on_the_way
                        .push(Event::Published(publication(self.newest)));
                }
            }
            Step::Trim(count) => {
                for _ in 0..*count {
                    self.stream.pop_first();
                }
            }
            Step::BeginAnew if self.newest != EntryId::ZERO && self.newest.epoch < 110 => {
                self.stream.clear();
                self.newest = id(self.newest.epoch + 1, 0);
                // The next append makes it number 1.
                return self.step(&Step::Append(1));
            }
            Step::BeginAnew => {}
            Step::Beat => self.on_the_way.push(Event::Beat {
                newest: self.newest,
            }),
            Step::Hear { which, again } if !self.on_the_way.is_empty() => {
                let which = usize::from(*which) % self.on_the_way.len().min(6);
                let event = self.on_the_way[which].clone();
                if !again {
                    self.on_the_way.remove(which);
                }
                return self.send(event);
            }
            Step::LoseMessage(which) if !self.on_the_way.is_empty() => {
                let which = usize::from(*which) % self.on_the_way.len();
                self.on_the_way.remove(which);
            }
            Step::Hear { .. } | Step::LoseMessage(_) => {}
            Step::ServeRead(count) => self.serve(usize::from(*count)),
            Step::AnswerRead => return self.answer(),
            Step::FailRead => {
                if let Some(after) = self.read.take() {
                    self.served = None;
                    return self.send(Event::ReadFailed { after });
                }
            }
            Step::Reconnect => {
                self.on_the_way.clear();
                return self.send(Event::Connected);
            }
        }
        Ok(())
    }

    /// The link heals: everything that can be had has to come.
    fn settle(&mut self) -> Result<(), String> {
        self.on_the_way.clear();
        self.send(Event::Connected)?;
        for _ in 0..2 * self.appended.len() + 10 {
            self.send(Event::Beat {
                newest: self.newest,
            })?;
            if self.served.is_none() {
                self.serve(3);
            }
            self.answer()?;
        }
        Ok(())
    }

    fn verdict(&self) -> Result<(), String> {
        let start = self.start.unwrap_or_default();
        for entry in self.appended.iter().filter(|entry| **entry > start) {
            let delivered = self.delivered.contains(entry);
            let lost = self
                .lost
                .iter()
                .filter(|(from, to)| from <= entry && entry <= to)
                .count();
            let told = self
                .told
                .get(&entry.epoch)
                .is_some_and(|number| entry.number <= *number);
            match (delivered, lost) {
                (true, 0) => {}
                (false, 1) if !self.stream.contains_key(entry) => {}
                // Nobody can name what he has never heard of.
                (false, 0) if !told && !self.stream.contains_key(entry) => {}
                (delivered, lost) => {
                    return Err(format!(
                        "{entry}: delivered {delivered}, lost {lost} times, told {told}, in the stream {}",
                        self.stream.contains_key(entry)
                    ));
                }
            }
        }
        match self
            .delivered
            .iter()
            .find(|entry| !self.appended.contains(entry))
        {
            Some(entry) => Err(format!("{entry} was never appended")),
            None => Ok(()),
        }
    }
}

fn check(subject: Subject, steps: &[Step]) -> Result<(), String> {
    let mut world = World::new(subject, id(100, 0));
    for step in steps {
        world.step(step)?;
    }
    world.settle()?;
    world.verdict()
}

fn sequencer(config: SequencerConfig) -> Sequencer {
    Sequencer::new(Some(id(100, 0)), config)
}

const SMALL: SequencerConfig = SequencerConfig {
    early_entries_max: 3,
    early_bytes_max: 20,
};

proptest! {
    #![proptest_config(Config::with_cases(2000))]

    #[test]
    fn every_interleaving_is_delivered_once_and_in_order(steps in steps(), small in any::<bool>()) {
        let mut sequencer = sequencer(if small { SMALL } else { SequencerConfig::default() });
        let subject = Box::new(move |event| sequencer.apply(event));
        if let Err(error) = check(subject, &steps) {
            prop_assert!(false, "{error}");
        }
    }
}

/// Whether the check finds fault with a subject within some thousand interleavings.
fn caught(make: impl Fn() -> Subject) -> bool {
    let mut runner = TestRunner::new_with_rng(
        Config {
            cases: 3000,
            failure_persistence: None,
            ..Config::default()
        },
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let property = |steps: Vec<Step>| check(make(), &steps).map_err(TestCaseError::fail);
    runner.run(&steps(), property).is_err()
}

#[test]
fn the_check_passes_the_real_one() {
    assert!(!caught(|| {
        let mut real = sequencer(SMALL);
        Box::new(move |event| real.apply(event))
    }));
}

#[test]
fn the_check_catches_one_that_believes_pub_sub() {
    assert!(caught(|| {
        let mut last = id(100, 0);
        Box::new(move |event| match event {
            Event::Published(publication) if publication.entry_id > last => {
                last = publication.entry_id;
                vec![Action::Deliver(publication)]
            }
            _ => Vec::new(),
        })
    }));
}

#[test]
fn the_check_catches_one_that_delivers_duplicates() {
    assert!(caught(|| {
        let mut real = sequencer(SMALL);
        Box::new(move |event| {
            let mut actions = real.apply(event.clone());
            if let Event::Published(publication) = event
                && actions
                    .iter()
                    .any(|action| matches!(action, Action::Duplicate(_)))
            {
                actions.push(Action::Deliver(publication));
            }
            actions
        })
    }));
}

#[test]
fn the_check_catches_one_that_keeps_losses_to_itself() {
    assert!(caught(|| {
        let mut real = sequencer(SMALL);
        Box::new(move |event| {
            let mut actions = real.apply(event);
            actions.retain(|action| !matches!(action, Action::Lost { .. } | Action::Ended { .. }));
            actions
        })
    }));
}

#[test]
fn the_check_catches_one_that_ignores_heart_beats() {
    assert!(caught(|| {
        let mut real = sequencer(SMALL);
        Box::new(move |event| match event {
            Event::Beat { .. } | Event::Connected => Vec::new(),
            other => real.apply(other),
        })
    }));
}

#[test]
fn the_check_catches_one_that_takes_a_page_for_all() {
    assert!(caught(|| {
        let mut real = sequencer(SMALL);
        Box::new(move |event| match event {
            // Everything behind the page's newest is believed to be looked at.
            Event::Page(page) => {
                let through = page.through.max(page.newest);
                real.apply(Event::Page(Page { through, ..page }))
            }
            other => real.apply(other),
        })
    }));
}

#[test]
fn without_a_cursor_the_delivery_begins_behind_the_first_beat() {
    let mut sequencer = Sequencer::new(None, SequencerConfig::default());
    assert_eq!(sequencer.apply(Event::Connected), []);
    assert_eq!(
        sequencer.apply(Event::Beat { newest: id(5, 7) }),
        [Action::ReadFrom { after: id(5, 7) }]
    );
    assert_eq!(sequencer.position(), Some(id(5, 7)));
    assert_eq!(
        sequencer.apply(Event::Published(publication(id(5, 8)))),
        [Action::Deliver(publication(id(5, 8)))]
    );
}

#[test]
fn without_a_cursor_a_publication_before_the_first_beat_is_delivered() {
    let mut sequencer = Sequencer::new(None, SequencerConfig::default());
    assert_eq!(
        sequencer.apply(Event::Published(publication(id(5, 8)))),
        [Action::Deliver(publication(id(5, 8)))]
    );
}

#[test]
fn a_new_epoch_is_wanted_from_its_first_number() {
    let mut sequencer = Sequencer::new(Some(id(5, 7)), SequencerConfig::default());
    assert_eq!(
        sequencer.apply(Event::Beat { newest: id(5, 9) }),
        [Action::ReadFrom { after: id(5, 7) }]
    );
    assert_eq!(sequencer.apply(Event::Published(publication(id(6, 2)))), []);
    let page = Page {
        after: id(5, 7),
        through: id(6, 2),
        entries: vec![publication(id(6, 1)), publication(id(6, 2))],
        newest: id(6, 2),
    };
    assert_eq!(
        sequencer.apply(Event::Page(page)),
        [
            Action::Ended {
                from: id(5, 8),
                to: id(5, 9)
            },
            Action::NewEpoch {
                from: id(5, 7),
                epoch: 6
            },
            Action::Deliver(publication(id(6, 1))),
            Action::Deliver(publication(id(6, 2))),
        ]
    );
    assert_eq!(sequencer.early(), (0, 0));
    assert_eq!(sequencer.lag_entries(), 0);
}

#[test]
fn early_arrivals_of_an_ended_epoch_are_delivered_and_their_gaps_ended_not_lost() {
    let mut sequencer = Sequencer::new(Some(id(5, 7)), SequencerConfig::default());
    assert_eq!(
        sequencer.apply(Event::Published(publication(id(5, 9)))),
        [Action::ReadFrom { after: id(5, 7) }]
    );
    let page = Page {
        after: id(5, 7),
        through: id(6, 1),
        entries: vec![publication(id(6, 1))],
        newest: id(6, 1),
    };
    assert_eq!(
        sequencer.apply(Event::Page(page)),
        [
            Action::Ended {
                from: id(5, 8),
                to: id(5, 8)
            },
            Action::Deliver(publication(id(5, 9))),
            Action::NewEpoch {
                from: id(5, 9),
                epoch: 6
            },
            Action::Deliver(publication(id(6, 1))),
        ]
    );
}

#[test]
fn a_server_that_knows_less_is_reported() {
    let mut sequencer = Sequencer::new(Some(id(5, 7)), SequencerConfig::default());
    assert_eq!(
        sequencer.apply(Event::Connected),
        [Action::ReadFrom { after: id(5, 7) }]
    );
    assert_eq!(sequencer.apply(Event::Beat { newest: id(5, 3) }), []);
    let page = Page {
        after: id(5, 7),
        through: id(5, 7),
        entries: Vec::new(),
        newest: id(5, 3),
    };
    let behind = Action::Behind {
        position: id(5, 7),
        newest: id(5, 3),
    };
    assert_eq!(sequencer.apply(Event::Page(page)), [behind]);
}

#[test]
fn early_arrivals_are_bounded_by_entries_and_bytes() {
    let mut sequencer = Sequencer::new(Some(id(5, 0)), SMALL);
    for number in 2..50 {
        drop(sequencer.apply(Event::Published(publication(id(5, number)))));
    }
    let (entries, bytes) = sequencer.early();
    assert!(entries <= SMALL.early_entries_max && bytes <= SMALL.early_bytes_max);
    assert!(entries > 0);
}
