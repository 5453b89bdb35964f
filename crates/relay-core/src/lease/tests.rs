//! Answers one by one, and two holders over a modelled server that forgets.

use proptest::prelude::*;

use super::*;

const CONFIG: LeaseConfig = LeaseConfig {
    lease_ms: 4_000,
    renew_ms: 1_000,
    margin_ms: 500,
    retry_ms: 250,
};

const fn granted(fence: u64) -> Asked {
    Asked::Granted {
        fence,
        known_for_ms: u64::MAX,
    }
}

const FRESH: Asked = Asked::Granted {
    fence: 1,
    known_for_ms: 0,
};

#[test]
fn a_lease_counts_from_the_question_and_ends_before_redis_ends_it() {
    let mut lease = Lease::new(CONFIG, true);
    assert_eq!(lease.standing(0), Standing::Unknown);
    lease.asked(100, granted(7), 900);
    assert_eq!(lease.standing(900), Standing::Active { fence: 7 });
    assert_eq!(lease.next_ask_ms(), 1_100);
    assert_eq!(lease.standing(3_599), Standing::Active { fence: 7 });
    assert_eq!(lease.standing(3_600), Standing::Standby);
    assert_eq!(lease.standing(4_100), Standing::Unknown);
}

#[test]
fn a_standby_asks_the_moment_the_lease_ends() {
    let mut lease = Lease::new(CONFIG, true);
    let held = |expires_in_ms| Asked::HeldByOther {
        fence: 3,
        expires_in_ms,
    };
    lease.asked(0, held(3_000), 10);
    assert_eq!(lease.standing(10), Standing::Standby);
    assert_eq!(lease.next_ask_ms(), 1_000);
    lease.asked(1_000, held(300), 1_010);
    assert_eq!(lease.next_ask_ms(), 1_310);
    lease.asked(1_310, granted(4), 1_320);
    assert_eq!(lease.standing(1_320), Standing::Active { fence: 4 });
}

#[test]
fn who_lost_it_stops_at_once_and_an_old_answer_does_not_revive_it() {
    let mut lease = Lease::new(CONFIG, true);
    lease.asked(0, granted(1), 10);
    let held = Asked::HeldByOther {
        fence: 2,
        expires_in_ms: 4_000,
    };
    lease.asked(1_000, held, 1_010);
    assert_eq!(lease.standing(1_010), Standing::Standby);
    lease.asked(500, granted(1), 1_020);
    assert_eq!(lease.standing(1_020), Standing::Standby);
}

#[test]
fn a_forgetful_server_is_believed_only_after_the_beliefs_of_before() {
    let mut lease = Lease::new(CONFIG, true);
    lease.asked(0, FRESH, 10);
    assert_eq!(lease.standing(10), Standing::Standby);
    for sent in [1_000, 2_000, 3_000] {
        let answer = Asked::Granted {
            fence: 1,
            known_for_ms: sent,
        };
        lease.asked(sent, answer, sent + 10);
    }
    assert_eq!(
        lease.next_ask_ms(),
        3_510,
        "when the others' beliefs have ended"
    );
    assert_eq!(lease.standing(3_510), Standing::Standby, "not asked yet");
    lease.asked(3_510, granted(1), 3_520);
    assert_eq!(lease.standing(3_520), Standing::Active { fence: 1 });
}

#[test]
fn who_never_heard_of_another_does_not_wait() {
    let mut lease = Lease::new(CONFIG, false);
    lease.asked(0, FRESH, 10);
    assert_eq!(lease.standing(10), Standing::Active { fence: 1 });
    let held = Asked::HeldByOther {
        fence: 2,
        expires_in_ms: 4_000,
    };
    lease.asked(1_000, held, 1_010);
    assert!(lease.in_company());
    lease.asked(6_000, FRESH, 6_010);
    assert_eq!(lease.standing(6_010), Standing::Standby);
}

#[test]
fn who_is_active_stays_so_when_the_server_forgets() {
    let mut lease = Lease::new(CONFIG, true);
    lease.asked(0, granted(1), 10);
    lease.asked(1_000, FRESH, 1_010);
    assert_eq!(lease.standing(1_010), Standing::Active { fence: 1 });
}

#[test]
fn who_is_fenced_off_stops_and_asks_for_a_greater_number() {
    let mut lease = Lease::new(CONFIG, true);
    lease.asked(0, granted(2), 10);
    lease.fenced_off(3);
    assert_eq!(lease.standing(20), Standing::Standby);
    assert_eq!((lease.fence(), lease.next_ask_ms()), (3, 0));
    lease.asked(20, granted(4), 30);
    assert_eq!(lease.standing(30), Standing::Active { fence: 4 });
}

#[test]
fn failures_are_retried_soon_and_end_nothing_early() {
    let mut lease = Lease::new(CONFIG, true);
    lease.asked(0, granted(1), 10);
    lease.asked(1_000, Asked::Failed, 3_000);
    assert_eq!(lease.next_ask_ms(), 3_250);
    assert_eq!(lease.standing(3_250), Standing::Active { fence: 1 });
    assert_eq!(lease.standing(3_500), Standing::Standby);
}

/// Redis' side, as `lease.lua` has it.
#[derive(Default)]
struct Server {
    holder: Option<usize>,
    expires_ms: u64,
    fence: u64,
    /// Since when this server knows the lease.
    since_ms: Option<u64>,
}

impl Server {
    fn ask(&mut self, who: usize, known_fence: u64, now_ms: u64) -> Asked {
        let held = self.holder.filter(|_| now_ms < self.expires_ms);
        if held.is_some_and(|other| other != who) {
            return Asked::HeldByOther {
                fence: self.fence,
                expires_in_ms: self.expires_ms - now_ms,
            };
        }
        if held.is_none() {
            self.fence = self.fence.max(known_fence) + 1;
        }
        self.holder = Some(who);
        self.expires_ms = now_ms + CONFIG.lease_ms;
        Asked::Granted {
            fence: self.fence,
            known_for_ms: now_ms - *self.since_ms.get_or_insert(now_ms),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// The n-th asks; the question takes so long to the server, the answer so long back.
    Ask(usize, u64, u64, bool),
    Pass(u64),
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3_usize, 0..1_500_u64, 0..1_500_u64, any::<bool>())
            .prop_map(|(who, there, back, heard)| Step::Ask(who, there, back, heard)),
        3 => (1..2_000_u64).prop_map(Step::Pass),
        1 => Just(Step::Forget),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn two_never_believe_at_the_same_time(steps in steps()) {
        let mut server = Server::default();
        let mut leases = [const { Lease::new(CONFIG, true) }; 3];
        let mut now = 1_000;
        for step in steps {
            match step {
                Step::Ask(who, there, back, heard) => {
                    let sent = now;
                    now += there;
                    let answer = server.ask(who, leases[who].fence(), now);
                    now += back;
                    leases[who].asked(sent, if heard { answer } else { Asked::Failed }, now);
                }
                Step::Pass(ms) => now += ms,
                Step::Forget => server = Server::default(),
            }
            let active = leases.iter().filter(|lease| matches!(lease.standing(now), Standing::Active { .. }));
            prop_assert!(active.count() <= 1, "at {now}: {leases:?}");
        }
    }
}
