use super::*;

fn jid(number: usize) -> Jid {
    Jid::parse(&format!("{number:020}")).unwrap()
}

fn numbers(receipt: Option<Vec<(Jid, u32)>>) -> Vec<usize> {
    let jids = receipt.unwrap_or_default();
    jids.iter()
        .map(|(jid, _)| jid.as_str().parse().unwrap())
        .collect()
}

#[test]
fn a_job_that_runs_has_its_receipt_after_20_ms() {
    let mut jobs = Jobs::new(0);
    assert!(jobs.take(jid(1), 1000) && !jobs.take(jid(1), 1001));
    assert_eq!(jobs.next_due(), Some(1020));
    assert_eq!(jobs.receipt(1019), None);
    assert_eq!(jobs.receipt(1023), Some(vec![(jid(1), 23)]));
    assert_eq!(jobs.next_due(), None);
}

#[test]
fn a_job_whose_return_was_taken_by_then_needs_none() {
    let mut jobs = Jobs::new(0);
    jobs.take(jid(1), 1000);
    jobs.finished(&jid(1), 1005);
    jobs.returning(&jid(1), 1006);
    jobs.returned(&jid(1), 1010);
    assert_eq!((jobs.next_due(), jobs.receipt(2000)), (None, None));
}

#[test]
fn a_return_is_waited_for_as_long_as_it_may_be_on_its_way() {
    let mut jobs = Jobs::new(0);
    jobs.take(jid(1), 1000);
    jobs.take(jid(2), 1000);
    jobs.finished(&jid(1), 1005);
    jobs.finished(&jid(2), 1005);
    jobs.returning(&jid(1), 1010);
    assert_eq!(jobs.receipt(1504), None);
    assert_eq!(numbers(jobs.receipt(1505)), [2], "it is not seen to return");
    jobs.returned(&jid(2), 2000);
    assert_eq!(jobs.receipt(11_009), None);
    assert_eq!(numbers(jobs.receipt(11_010)), [1]);
}

/// Receipts in two seconds in which a job begins each ten milliseconds.
fn receipts_of_a_stream(jobs: &mut Jobs) -> usize {
    let mut sent = 0;
    for now in 10_000..12_000 {
        if now % 10 == 0 {
            jobs.take(jid(usize::try_from(now).unwrap()), now);
        }
        sent += usize::from(jobs.receipt(now).is_some());
    }
    sent
}

#[test]
fn one_burst_is_one_receipt_and_a_master_that_answers_at_once_is_told_at_once() {
    let mut jobs = Jobs::new(0);
    for number in 0..10 {
        jobs.take(jid(number), 1000 + number as u64);
    }
    assert_eq!(jobs.receipt(1020).map(|receipt| receipt.len()), Some(10));
    assert_eq!(receipts_of_a_stream(&mut jobs), 40);
}

#[test]
fn a_master_that_is_slow_with_returns_is_told_less_often() {
    let mut jobs = Jobs::new(0);
    jobs.take(jid(1), 1000);
    jobs.returning(&jid(1), 1010);
    jobs.returned(&jid(1), 3010);
    assert_eq!(receipts_of_a_stream(&mut jobs), 2);
    // It has recovered.
    assert!(jobs.receipt(19_000).is_some());
    for number in 2..30 {
        jobs.take(jid(number), 20_000);
        jobs.returning(&jid(number), 20_000);
        jobs.returned(&jid(number), 20_005);
    }
    jobs.take(jid(30), 30_000);
    assert_eq!(jobs.next_due(), Some(30_020));
}

#[test]
fn a_master_that_has_not_answered_yet_is_slow_for_as_long() {
    let mut jobs = Jobs::new(0);
    jobs.take(jid(1), 1000);
    jobs.returning(&jid(1), 1000);
    jobs.take(jid(2), 1300);
    assert_eq!(jobs.next_due(), Some(1375));
    assert_eq!(numbers(jobs.receipt(1600)), [2]);
    jobs.take(jid(3), 1610);
    assert_eq!(jobs.next_due(), Some(2500));
}

#[test]
fn each_receipt_repeats_the_newest_that_are_not_returned() {
    let mut jobs = Jobs::new(0);
    for number in 0..30 {
        jobs.take(jid(number), 1000);
    }
    assert_eq!(numbers(jobs.receipt(1020)).len(), 30);
    jobs.returned(&jid(29), 1500);
    jobs.take(jid(30), 5000);
    let second = numbers(jobs.receipt(5020));
    assert_eq!(second.len(), 1 + REPEATED_MAX);
    assert!(second.contains(&30) && second.contains(&28) && !second.contains(&29));
}

#[test]
fn the_list_says_since_when_it_is_whole() {
    let mut jobs = Jobs::new(100);
    assert_eq!(jobs.taken(600), (Vec::new(), 500));
    for number in 0..JOBS_MAX + 2 {
        jobs.take(jid(number), 1000 + number as u64);
    }
    let (taken, covers) = jobs.taken(2000);
    assert_eq!((taken.len(), taken.first()), (JOBS_MAX, Some(&jid(2))));
    assert_eq!(covers, 2000 - 1002);
    let late = 2000 + KEPT_MS * 2;
    assert_eq!(jobs.taken(late), (Vec::new(), KEPT_MS));
    jobs.missed_until(late);
    assert_eq!(jobs.taken(late + 1), (Vec::new(), 1));
}

#[test]
fn what_the_minion_schedules_itself_is_forgotten() {
    let mut jobs = Jobs::new(0);
    jobs.take(jid(1), 10);
    jobs.not_the_masters(&jid(1));
    assert_eq!((jobs.receipt(1000), jobs.taken(1000).0), (None, Vec::new()));
}
