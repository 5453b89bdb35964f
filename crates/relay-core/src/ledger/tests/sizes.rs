//! How large a job is, and how long folding takes. Prints both.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::expect::expect;

const MINIONS: usize = 100_000;
const SITES: usize = 20;
/// What issue 4 promises.
const JOB_BYTES_MAX: usize = 64 * 1024;

/// Since when each of them has it: apart from the rest.
const TIMES_BYTES_MAX: usize = 320 << 10;
const FOLD_MAX: Duration = Duration::from_millis(50);

fn id(minion: usize) -> String {
    let letters = ["a", "b", "c", "d"];
    let letter = letters[minion % 4];
    format!(
        "{letter}{minion:06}.site{:02}.example.com",
        minion / (MINIONS / SITES)
    )
}

/// 20 sites with 5,000 minions each. With `former` an eighth as many are of former minions, scattered among them.
fn large(former: bool) -> Ledger {
    let mut ledger = Ledger::new(LedgerConfig::default());
    for site in 0..SITES {
        let first = site * MINIONS / SITES;
        let present: Vec<String> = (first..first + MINIONS / SITES).map(id).collect();
        let with_former: Vec<String> = present
            .iter()
            .enumerate()
            .flat_map(|(at, id)| {
                [
                    (former && at % 8 == 7).then(|| format!("former-{id}")),
                    Some(id.clone()),
                ]
            })
            .flatten()
            .collect();
        let name = format!("site{site:02}");
        let ids = |ids: &[String]| ids.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        for (number, all) in [(1, ids(&with_former)), (2, ids(&present))] {
            let all: Vec<&str> = all.split(' ').collect();
            announce(&mut ledger, &name, number, &all);
        }
        let _ = ledger.site_up(&name, 1);
    }
    assert_eq!(ledger.rosters().names().live(), MINIONS);
    ledger
}

/// Numbers in an order without a pattern.
fn shuffled(mut seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..MINIONS).collect();
    for at in (1..order.len()).rev() {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        order.swap(at, usize::try_from(seed >> 33).unwrap() % (at + 1));
    }
    order
}

/// The time that this thread has worked: what other programs do meanwhile is not measured.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}

/// The shortest of some runs: what it takes, and not what else the machine does.
fn shortest(mut run: impl FnMut() -> Duration) -> Duration {
    (0..9).map(|_| run()).min().unwrap_or_default()
}

fn sizes(ledger: &mut Ledger) -> (usize, usize) {
    let _ = ledger.loaded("j", None);
    assert!(
        ledger.jobs["j"].bytes() <= JOB_BYTES_MAX,
        "also before it is squeezed"
    );
    let unsaved = ledger
        .take_unsaved(usize::MAX)
        .expect("the job has changed");
    let times = &ledger.jobs["j"].times;
    let mut writer = crate::codec::Writer::default();
    times.write(&mut writer);
    let on_disk = writer.finish().len();
    assert!(times.bytes() <= TIMES_BYTES_MAX && on_disk <= TIMES_BYTES_MAX);
    let whole = unsaved.jobs[0].bytes.len();
    (ledger.jobs["j"].bytes(), whole - on_disk)
}

#[test]
fn a_job_over_100_000_minions_takes_at_most_64_kib() {
    let mut ledger = large(true);
    let entries = ledger.rosters().names().len();
    assert!(entries >= MINIONS + MINIONS / 9, "{entries}");
    let tell = |what: &str, (memory, disk): (usize, usize)| {
        println!(
            "a job over {MINIONS} minions of {entries} names, {what}: {memory} bytes in memory, {disk} on disk"
        );
        assert!(
            memory <= JOB_BYTES_MAX && disk <= JOB_BYTES_MAX,
            "{what}: {memory}, {disk}"
        );
    };
    let _ = publish(&mut ledger, "glob", "*");
    tell("all expected", sizes(&mut ledger));
    // Each minion at another step than its neighbours.
    for minion in shuffled(1) {
        let id = id(minion);
        let site = format!("site{:02}", minion / (MINIONS / SITES));
        match minion * 7 % 11 {
            0..2 => drop(ledger.returned(&ret(&id))),
            2..4 => drop(ledger.returned(&Returned {
                is_failed: true,
                ..ret(&id)
            })),
            4..6 => drop(ledger.received("j", [id.as_str()], T)),
            6..8 => drop(ledger.accepted("j", &site, [id.as_str()], [], T)),
            _ => {}
        }
    }
    tell("all mixed", sizes(&mut ledger));
    for minion in shuffled(2) {
        drop(ledger.returned(&ret(&id(minion))));
    }
    tell("all returned, some failed", sizes(&mut ledger));
    println!("the names take {} bytes", ledger.rosters().names().bytes());
    // Nearly all jobs end like this.
    let mut ledger = large(false);
    let _ = publish(&mut ledger, "glob", "*");
    for minion in shuffled(3) {
        drop(ledger.returned(&ret(&id(minion))));
    }
    let (memory, disk) = sizes(&mut ledger);
    println!(
        "a job over {MINIONS} minions, all returned: {memory} bytes in memory, {disk} on disk"
    );
    assert!(memory < 5_000 && disk < 1_000);
}

#[test]
fn folding_100_000_receipts_takes_less_than_50_ms() {
    let mut ledger = large(false);
    let order: Vec<String> = shuffled(1).into_iter().map(id).collect();
    let mut jid = 0;
    let mut fold = |what: &str, run: &dyn Fn(&mut Ledger, &str)| {
        let took = shortest(|| {
            jid += 1;
            let jid = jid.to_string();
            let _ = ledger.published(&job(&jid, "glob", "*"));
            let begin = worked();
            run(&mut ledger, &jid);
            let took = worked() - begin;
            let missing = ledger.job(&jid).unwrap().summary().figures.missing;
            assert!(missing == 0 || what.contains("receipts"), "{missing}");
            took
        });
        println!("folding {MINIONS} {what}: {took:?}");
        // One by one, finding the job again each time takes as long as the rest.
        let most = if what.ends_with("together") {
            FOLD_MAX
        } else {
            2 * FOLD_MAX
        };
        assert!(took < most, "{what}: {took:?}");
    };
    fold("receipts, together", &|ledger, jid| {
        drop(ledger.received(jid, order.iter().map(String::as_str), T));
    });
    fold("receipts, one by one", &|ledger, jid| {
        for id in &order {
            drop(ledger.received(jid, [id.as_str()], T));
        }
    });
    fold("returns, one by one", &|ledger, jid| {
        for id in &order {
            drop(ledger.returned(&Returned { jid, ..ret(id) }));
        }
    });
}

#[test]
fn expecting_100_000_minions_takes_less_than_50_ms() {
    let ledger = large(false);
    let check = |tgt_type: &str, tgt: &str, expected: usize| {
        let target = Target::Text(tgt.to_owned());
        let took = shortest(|| {
            let begin = worked();
            let all = expect(tgt_type, &target, ledger.rosters());
            let took = worked() - begin;
            let count: usize = all.iter().map(|of_site| of_site.minions.len()).sum();
            assert_eq!(count, expected, "{tgt_type} {tgt}");
            took
        });
        println!("expecting {tgt_type} {tgt:.60} among {MINIONS}: {took:?}");
        assert!(took < FOLD_MAX, "{tgt_type} {tgt}: {took:?}");
    };
    check("glob", "*", MINIONS);
    check("glob", "a*", MINIONS / 4);
    check("glob", "*[05].site1?.example.com", MINIONS / 10);
    check("pcre", r"[ab]\d+\.site0[0-4]\..*", MINIONS / 8);
    check(
        "compound",
        r"E@[ab]\d+\.site0[0-4]\. or c*.site1* and not *7.*",
        MINIONS / 4 - 1_250,
    ); // without site17
    check("compound", "a* or G@os:Debian and b*", MINIONS / 4);
    let list: Vec<String> = (0..MINIONS).step_by(2).map(id).collect();
    check("list", &list.join(","), MINIONS / 2);
    let begin = worked();
    let words = vec!["x*"; 10_000].join(" or ");
    let all = expect("compound", &Target::Text(words), ledger.rosters());
    println!(
        "leaving a target of 10,000 words to {} sites: {:?}",
        all.len(),
        worked() - begin
    );
    assert!(all.len() == SITES && all.iter().all(|of_site| of_site.ask));
}
