//! What fails, when, and for how long. Everything is healed when the plan says so.

use fastrand::Rng;

use crate::message::Node;
use crate::plan::{Family, Plan};

/// One thing that goes wrong, or right again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// The process dies.
    Kill(Node),
    /// The host loses its power: the process dies, and what was not synced is gone.
    PowerCut(Node),
    /// The disk takes no write for so long.
    DiskStalls(Node, u64),
    /// SIGTERM.
    Drain(Node),
    Start(Node),
    /// SIGSTOP, and SIGCONT after so many milliseconds.
    Pause(Node, u64),
    /// One direction of a connection, for so long.
    Cut(Node, Node, u64),
    Step {
        host: usize,
        by_ms: i64,
    },
    /// The minion starts again.
    MinionRestarts(usize),
    /// The top master starts again, with a new key.
    MomRestarts,
    Redis(RedisFault, usize),
}

/// What happens to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RedisFault {
    /// It dies and comes back with everything (append-only file).
    Die,
    /// What it comes back with.
    BackWhole,
    BackEmpty,
    BackOld,
    /// It is saved: what an old snapshot is.
    Save,
    Flush,
    OutOfMemory(u64),
    /// The primary dies or is cut off, and Sentinel makes the other one the primary.
    FailOver,
    /// The old primary follows the new one.
    Follow,
    /// The old primary takes over again with the data that it had.
    FailBack,
    CutSubscribers,
}

/// Draws the faults of a plan.
pub(crate) fn draw(rng: &mut Rng, plan: &mut Plan) {
    // One run in sixteen is quiet.
    if rng.u8(0..16) == 0 {
        return;
    }
    let mut rotated = false;
    let mut failed_over = false;
    for _ in 0..rng.u8(1..8) {
        let at = rng.u64(2_000..plan.healed_at - 1_000);
        let left = plan.healed_at - at;
        let span = match rng.u8(0..4) {
            0 => rng.u64(200..3_000),
            1 | 2 => rng.u64(1_000..12_000),
            _ => rng.u64(5_000..40_000),
        };
        let span = span.min(left);
        let mut add = |at: u64, fault: Fault| plan.faults.push((at, fault));
        let shims = plan.shims.len();
        let daemon = if rng.u8(0..3) == 0 {
            Node::Bridge(rng.usize(0..plan.bridges))
        } else {
            Node::Shim(rng.usize(0..shims))
        };
        match rng.u8(0..21) {
            0..4 => {
                add(at, Fault::Kill(daemon));
                add(at + span, Fault::Start(daemon));
            }
            4 => {
                add(at, Fault::PowerCut(daemon));
                add(at + span, Fault::Start(daemon));
            }
            5 => {
                add(at, Fault::Drain(daemon));
                add(at + span, Fault::Start(daemon));
            }
            6 | 7 => add(at, Fault::Pause(daemon, span)),
            8 | 9 => {
                // Both directions or one, to one server or both.
                for server in 0..2 {
                    if server == 1 && rng.bool() {
                        continue;
                    }
                    let redis = Node::Redis(server);
                    let which = rng.u8(0..3);
                    if which != 1 {
                        add(at, Fault::Cut(daemon, redis, span));
                    }
                    if which != 2 {
                        add(at, Fault::Cut(redis, daemon, span));
                    }
                }
            }
            10 => {
                let host = rng.usize(0..plan.bridges + shims);
                let by_ms = rng.i64(-3_600_000..=3_600_000);
                add(at, Fault::Step { host, by_ms });
            }
            11 => {
                let lower = Node::Lower(rng.usize(0..plan.lowers.len()));
                if rng.bool() {
                    add(at, Fault::Pause(lower, span));
                } else {
                    add(at, Fault::Kill(lower));
                    add(at + span, Fault::Start(lower));
                }
            }
            12 => {
                for _ in 0..3 {
                    let minion = rng.usize(0..plan.minions.len());
                    add(at + rng.u64(0..=span), Fault::MinionRestarts(minion));
                }
            }
            13 if !rotated => {
                rotated = true;
                add(at, Fault::Kill(Node::Mom));
                add(at + span.min(5_000), Fault::MomRestarts);
            }
            14 => {
                let bridge = Node::Bridge(rng.usize(0..plan.bridges));
                add(at, Fault::Cut(Node::Mom, bridge, span));
                if rng.bool() {
                    add(at, Fault::Cut(bridge, Node::Mom, span));
                }
            }
            15 => add(at, Fault::DiskStalls(daemon, span)),
            _ => redis(rng, at, span, &mut failed_over, &mut add),
        }
    }
    if rng.u8(0..32) == 0 {
        back_in_time(rng, plan);
    }
    if rng.u8(0..32) == 0 {
        every_bridge_dies(rng, plan);
    }
    // Two faults at the same place, close to each other, are what is rarely thought of.
    if plan.family != Family::Single && rng.u8(0..4) == 0 {
        let at = rng.u64(2_000..plan.healed_at - 1_000);
        plan.faults.push((at, Fault::Kill(Node::Shim(1))));
        plan.faults
            .push((plan.healed_at, Fault::Start(Node::Shim(1))));
        plan.faults.push((at + 200, Fault::MinionRestarts(1)));
    }
}

/// Redis is away, jobs come, and then no bridge is left: only the journals know of them.
fn every_bridge_dies(rng: &mut Rng, plan: &mut Plan) {
    let at = rng.u64(2_000..plan.healed_at - 9_000);
    plan.publish_at.extend((1..4).map(|step| at + step * 300));
    plan.faults.push((at, Fault::Redis(RedisFault::Die, 0)));
    for bridge in (0..plan.bridges).map(Node::Bridge) {
        plan.faults.push((at + 3_500, Fault::Kill(bridge)));
        plan.faults.push((at + 5_000, Fault::Start(bridge)));
    }
    plan.faults
        .push((at + 7_000, Fault::Redis(RedisFault::BackWhole, 0)));
}

/// Sites follow into a second epoch, then Redis goes back to the first: what a site has not had is
/// marked there as appended, in an epoch that it will never read again.
fn back_in_time(rng: &mut Rng, plan: &mut Plan) {
    let at = rng.u64(2_000..plan.healed_at - 14_500);
    let site = rng.usize(0..2);
    let redis = |fault| Fault::Redis(fault, 0);
    plan.publish_at.extend((1..6).map(|step| at + step * 500));
    let shim = Node::Shim(site);
    for server in 0..2 {
        // It hears of them in the second epoch only, and they wait for the lower master there.
        plan.faults
            .push((at, Fault::Cut(Node::Redis(server), shim, 4_500)));
    }
    plan.faults.extend([
        (at + 2_000, Fault::Pause(Node::Lower(site), 12_000)),
        (at + 3_000, redis(RedisFault::Save)),
        (at + 4_000, redis(RedisFault::Flush)),
        (at + 7_500, Fault::Kill(shim)),
        (at + 8_000, redis(RedisFault::Die)),
        (at + 9_000, redis(RedisFault::BackOld)),
        (at + 10_000, Fault::Start(shim)),
    ]);
}

fn redis(
    rng: &mut Rng,
    at: u64,
    span: u64,
    failed_over: &mut bool,
    add: &mut dyn FnMut(u64, Fault),
) {
    let mut redis = |at, fault, server| add(at, Fault::Redis(fault, server));
    let server = usize::from(rng.u8(0..4) == 0);
    match rng.u8(0..9) {
        0 => redis(at, RedisFault::Flush, server),
        1 => redis(at, RedisFault::OutOfMemory(span), server),
        2 => add(at, Fault::Pause(Node::Redis(server), span)),
        3 => redis(at, RedisFault::CutSubscribers, server),
        4 | 5 if !*failed_over => {
            *failed_over = true;
            redis(at, RedisFault::FailOver, 0);
            let back = if rng.u8(0..3) == 0 {
                RedisFault::FailBack
            } else {
                RedisFault::Follow
            };
            redis(at + span, back, 0);
        }
        _ => {
            redis(
                at.saturating_sub(rng.u64(500..15_000)),
                RedisFault::Save,
                server,
            );
            redis(at, RedisFault::Die, server);
            let back = match rng.u8(0..3) {
                0 => RedisFault::BackWhole,
                1 => RedisFault::BackEmpty,
                _ => RedisFault::BackOld,
            };
            redis(at + span, back, server);
        }
    }
}
