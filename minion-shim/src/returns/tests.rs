use super::*;

fn jid(number: usize) -> Jid {
    Jid::parse(&format!("{number:020}")).unwrap()
}

fn send(returns: &mut Returns, number: usize, bytes: usize, now: u64) {
    let data = vec![1; bytes];
    returns.sent(&format!("r{number}"), "m", jid(number), Some(data), now);
}

#[test]
fn an_answered_return_is_done_and_its_copy_is_gone() {
    let room = Room::default();
    let mut returns = Returns::new(room.clone());
    send(&mut returns, 1, 1000, 0);
    assert_eq!(room.left(), COPIES_BYTES_MAX - 1000);
    assert_eq!(returns.answered("other", true, 5), None);
    assert_eq!(
        returns.answered("r1", true, 5),
        Some(Answered::Delivered(jid(1)))
    );
    assert_eq!((room.left(), returns.next_due()), (COPIES_BYTES_MAX, None));
}

#[test]
fn one_that_was_not_taken_is_sent_again_until_it_is() {
    let mut returns = Returns::new(Room::default());
    send(&mut returns, 1, 10, 0);
    assert_eq!(
        returns.answered("r1", false, 100),
        Some(Answered::Undelivered(jid(1)))
    );
    assert_eq!(returns.undelivered(), [jid(1)]);
    assert_eq!(returns.next_again(100 + PAUSE_MS - 1), None);
    let mut now = 100;
    for pause in [PAUSE_MS, 2 * PAUSE_MS, 4 * PAUSE_MS] {
        now += pause;
        assert_eq!(returns.next_due(), Some(now));
        let again = returns.next_again(now).unwrap();
        assert_eq!(
            (again.jid, again.master, again.data),
            (&jid(1), "m", Some(&[1; 10][..]))
        );
        returns.sent_again("s".to_owned(), now);
        assert_eq!(returns.next_again(now), None);
        assert_eq!(
            returns.answered("s", false, now),
            Some(Answered::StillUndelivered)
        );
    }
    returns.master_is_there(now);
    returns.next_again(now).unwrap();
    returns.sent_again("t".to_owned(), now);
    assert_eq!(
        returns.answered("t", true, now),
        Some(Answered::Delivered(jid(1)))
    );
    assert_eq!(
        (returns.undelivered(), returns.next_due()),
        (Vec::new(), None)
    );
}

#[test]
fn silence_and_the_end_of_the_minion_are_no_delivery() {
    let mut returns = Returns::new(Room::default());
    send(&mut returns, 1, 10, 0);
    send(&mut returns, 2, 10, 1000);
    assert_eq!(returns.tick(ANSWER_MS - 1), []);
    assert_eq!(returns.tick(ANSWER_MS), [jid(1)]);
    assert_eq!(returns.undelivered(), [jid(1)]);
    assert_eq!(returns.minion_ended(ANSWER_MS), [jid(2)]);
    assert_eq!(returns.minion_ended(ANSWER_MS), []);
    assert_eq!(returns.undelivered(), [jid(1), jid(2)]);
    // An attempt without an answer counts as a failed one.
    let now = 2 * ANSWER_MS;
    returns.next_again(now).unwrap();
    returns.sent_again("s".to_owned(), now);
    returns.tick(now + ANSWER_MS);
    assert!(returns.next_due().unwrap() > now + ANSWER_MS);
}

#[test]
fn copies_and_lists_are_bounded() {
    let room = Room::default();
    let mut returns = Returns::new(room.clone());
    for number in 0..ON_WAY_MAX + 10 {
        send(&mut returns, number, 1000, 0);
    }
    assert!(room.left() < 1000 && returns.on_way.len() == ON_WAY_MAX);
    returns.minion_ended(1);
    assert_eq!(returns.undelivered().len(), UNDELIVERED_MAX);
    returns.cannot_send(2);
    assert_eq!(returns.undelivered().len(), UNDELIVERED_MAX - 1);
    returns.tick(1 + KEPT_MS);
    assert_eq!(
        (returns.undelivered(), room.left()),
        (Vec::new(), COPIES_BYTES_MAX)
    );
}
