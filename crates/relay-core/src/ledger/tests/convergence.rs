//! Two ledgers that hear the same in another order say the same.

use proptest::prelude::*;

use super::*;

/// What may be heard of one job.
#[derive(Debug, Clone)]
enum Heard {
    Published(&'static str),
    Accepted(&'static str, Vec<&'static str>),
    Received(&'static str),
    Returned(&'static str, bool),
    Said(&'static str, Said),
}

const SITES: [&str; 3] = ["s1", "s2", "s3"];
const MINIONS: [&str; 8] = ["a1", "a2", "b1", "b2", "both", "own", "stranger", "c1"];

fn heard() -> impl Strategy<Value = Heard> {
    let minion = || proptest::sample::select(&MINIONS);
    let site = || proptest::sample::select(&SITES);
    prop_oneof![
        Just(Heard::Published("*")),
        (site(), prop::collection::vec(minion(), 0..4))
            .prop_map(|(site, minions)| Heard::Accepted(site, minions)),
        minion().prop_map(Heard::Received),
        (minion(), any::<bool>()).prop_map(|(minion, failed)| Heard::Returned(minion, failed)),
        (
            site(),
            proptest::sample::select(&[Said::Expired, Said::Refused, Said::Duplicate])
        )
            .prop_map(|(site, said)| Heard::Said(site, said)),
    ]
}

fn tell(ledger: &mut Ledger, heard: &Heard) {
    let _ = match heard {
        Heard::Published(tgt) => ledger.published(&Published {
            mom_minions: vec!["own".to_owned(), "s1".to_owned(), "a1".to_owned()],
            ..job("j", "glob", tgt)
        }),
        Heard::Accepted(site, minions) => {
            ledger.accepted("j", site, minions.iter().copied(), [], T + 100)
        }
        Heard::Received(minion) => ledger.received("j", [*minion], T + 100),
        Heard::Returned(minion, is_failed) => ledger.returned(&Returned {
            is_failed: *is_failed,
            ..ret(minion)
        }),
        Heard::Said(site, said) => ledger.site_said("j", site, *said, "why", T + 100),
    };
}

/// A ledger that has heard all of it in this order, with what it says of each minion at the end.
fn outcome(all: &[Heard], order: &[usize], restarts: Option<usize>) -> (State, Vec<String>, bool) {
    let mut ledger = Ledger::new(LedgerConfig::default());
    announce(&mut ledger, "s1", 1, &["a1", "a2", "both"]);
    announce(&mut ledger, "s2", 1, &["b1", "b2", "both"]);
    for site in SITES {
        let _ = ledger.site_up(site, 1);
    }
    for (at, index) in order.iter().enumerate() {
        tell(&mut ledger, &all[*index]);
        if restarts == Some(at) {
            ledger = disk::Disk::default().restart(ledger, true);
            for site in SITES {
                let _ = ledger.site_up(site, 1);
            }
            ledger.caught_up("j");
        }
    }
    for at_ms in [T + 200, T + 5_000, T + 10_000, DEADLINE, DEADLINE + 5_000] {
        let _ = ledger.tick(at_ms);
    }
    (
        state(&ledger),
        told(&ledger),
        ledger.job("j").unwrap().summary().is_published,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_order_of_events_does_not_matter(
        all in prop::collection::vec(heard(), 1..14),
        seed in any::<u64>(),
        twice in any::<bool>(),
        restarts in prop::option::of(0_usize..14),
    ) {
        let order: Vec<usize> = (0..all.len()).collect();
        let mut other = order.clone();
        if twice {
            other.extend(order.iter().copied().filter(|index| !matches!(all[*index], Heard::Accepted(..))));
        }
        let mut random = seed;
        for at in (1..other.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            other.swap(at, usize::try_from(random >> 33).unwrap() % (at + 1));
        }
        prop_assert_eq!(outcome(&all, &order, None), outcome(&all, &other, restarts), "{:?}", all);
    }
}
