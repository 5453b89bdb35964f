//! Against a plain list.

use proptest::prelude::*;

use super::*;

const CONFIG: BacklogConfig = BacklogConfig {
    entries_max: 8,
    bytes_max: 100,
    age_max_ms: 1_000,
};

fn backlog(frames: impl IntoIterator<Item = (u64, u64, u64)>) -> Backlog {
    let mut backlog = Backlog::new(CONFIG);
    for (seq, bytes, at) in frames {
        backlog.received(seq, bytes, at);
    }
    backlog
}

#[test]
fn batches_follow_each_other_and_are_bounded() {
    let mut backlog = backlog([(3, 10, 0), (4, 10, 0), (7, 30, 0), (8, 10, 0)]);
    assert_eq!(backlog.next_batch(2, 100), Some(3..=4));
    assert_eq!(backlog.next_batch(100, 20), Some(3..=4));
    assert_eq!(backlog.next_batch(100, 5), Some(3..=3), "at least one");
    backlog.appended(4);
    assert_eq!(backlog.next_batch(100, 5), Some(7..=7));
    backlog.appended(8);
    assert_eq!(backlog.next_batch(100, 100), None);
    assert_eq!((backlog.waiting(), backlog.kept()), ((0, 0), (4, 60)));
}

#[test]
fn new_epoch_appends_all_of_it_again() {
    let mut backlog = backlog([(1, 10, 0), (2, 10, 0), (3, 10, 0)]);
    backlog.appended(2);
    backlog.rewind();
    assert_eq!((backlog.waiting(), backlog.kept()), ((3, 30), (0, 0)));
    assert_eq!(backlog.next_batch(100, 100), Some(1..=3));
}

#[test]
fn old_frames_go_and_those_that_redis_never_had_are_told() {
    let mut backlog = backlog([(1, 10, 0), (2, 10, 500), (3, 10, 900)]);
    backlog.appended(1);
    let gone = |through, unappended| Gone {
        through,
        unappended,
    };
    assert_eq!(backlog.expire(1_000), gone(None, 0));
    assert_eq!(backlog.expire(1_501), gone(Some(2), 1));
    assert_eq!(backlog.waiting(), (1, 10));
}

#[test]
fn time_ahead_counts_as_now() {
    let mut backlog = backlog([(1, 10, u64::MAX), (2, 10, 0)]);
    assert_eq!(backlog.expire(5_000).through, None);
    assert_eq!(backlog.expire(6_001).through, Some(2));
}

#[test]
fn bounds_take_from_what_redis_has_first() {
    let mut backlog = backlog((1..=8).map(|seq| (seq, 1, 0)));
    backlog.appended(2);
    for seq in 9..=12 {
        backlog.received(seq, 1, 0);
    }
    let gone = Gone {
        through: Some(4),
        unappended: 2,
    };
    assert_eq!(backlog.shed(), gone);
    backlog.received(13, 1_000, 0);
    assert_eq!(backlog.shed().unappended, 8);
    assert_eq!(backlog.waiting(), (1, 1_000), "the newest stays");
}

#[derive(Debug, Clone)]
enum Step {
    Receive(u64, u64),
    Append(usize, u64),
    Rewind,
    Expire,
    Shed,
}

proptest! {
    #[test]
    fn every_frame_is_waiting_kept_or_gone(steps in prop::collection::vec(prop_oneof![
        4 => (1..60_u64, 1..400_u64).prop_map(|(bytes, later)| Step::Receive(bytes, later)),
        3 => (1..4_usize, 1..80_u64).prop_map(|(frames, bytes)| Step::Append(frames, bytes)),
        1 => Just(Step::Rewind),
        1 => Just(Step::Expire),
        2 => Just(Step::Shed),
    ], 1..60)) {
        let mut backlog = Backlog::new(CONFIG);
        // seq, bytes, time, whether Redis has it
        let mut list: Vec<(u64, u64, u64, bool)> = Vec::new();
        let (mut seq, mut now) = (0, 0);
        for step in steps {
            let mut gone = Gone::default();
            match step {
                Step::Receive(bytes, later) => {
                    seq += 1;
                    now += later;
                    backlog.received(seq, bytes, now);
                    list.push((seq, bytes, now, false));
                }
                Step::Append(frames, bytes) => {
                    let first = list.iter().find(|record| !record.3).map(|record| record.0);
                    let batch = backlog.next_batch(frames, bytes);
                    prop_assert_eq!(batch.as_ref().map(|batch| *batch.start()), first);
                    if let Some(batch) = batch {
                        backlog.appended(*batch.end());
                        for record in list.iter_mut().filter(|record| batch.contains(&record.0)) {
                            record.3 = true;
                        }
                    }
                }
                Step::Rewind => {
                    backlog.rewind();
                    list.iter_mut().for_each(|record| record.3 = false);
                }
                Step::Expire => {
                    gone = backlog.expire(now);
                    let right = list.iter().all(|record| {
                        (now - record.2 > CONFIG.age_max_ms) == (Some(record.0) <= gone.through)
                    });
                    prop_assert!(right, "gone through {:?}", gone.through);
                }
                Step::Shed => {
                    gone = backlog.shed();
                    let bytes: u64 = list.iter().filter(|record| Some(record.0) > gone.through).map(|record| record.1).sum();
                    prop_assert!(bytes <= CONFIG.bytes_max);
                }
            }
            let lost = list.iter().filter(|record| Some(record.0) <= gone.through && !record.3);
            prop_assert_eq!(lost.count() as u64, gone.unappended);
            list.retain(|record| Some(record.0) > gone.through);
            let sum = |has| {
                let those = list.iter().filter(|record| record.3 == has);
                those.fold((0, 0), |(count, bytes), record| (count + 1, bytes + record.1))
            };
            prop_assert_eq!(backlog.waiting(), sum(false));
            prop_assert_eq!(backlog.kept(), sum(true));
        }
    }
}
