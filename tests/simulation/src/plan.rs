//! What a seed means: the topology, the times, the faults of one run.

use fastrand::Rng;

use crate::faults::{self, Fault};

/// A shim process.
#[derive(Debug, Clone)]
pub(crate) struct ShimPlan {
    pub(crate) site: usize,
    pub(crate) lower: usize,
    /// The server of its `read_url`.
    pub(crate) reads: usize,
    /// Another shim of its site.
    pub(crate) in_company: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct LowerPlan {
    pub(crate) site: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct MinionPlan {
    pub(crate) lowers: Vec<usize>,
}

/// What the second site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// One shim, one lower master, as the first.
    Single,
    /// Two shims on one lower master.
    TwoShims,
    /// Two lower masters of one set of minions, a shim on each.
    TwoLowers,
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) family: Family,
    pub(crate) bridges: usize,
    pub(crate) sites: usize,
    pub(crate) shims: Vec<ShimPlan>,
    pub(crate) lowers: Vec<LowerPlan>,
    pub(crate) minions: Vec<MinionPlan>,
    pub(crate) ttl_ms: u64,
    pub(crate) wan_ms: u64,
    pub(crate) loss_permille: u32,
    pub(crate) replica_lag_ms: u64,
    pub(crate) stream_max: usize,
    pub(crate) journal_max: usize,
    pub(crate) spool_max: usize,
    /// Bounds so small that they are reached: then only they are looked at, and what never may be.
    pub(crate) tight: bool,
    /// Whether the lower masters' job cache can be read.
    pub(crate) cache_readable: bool,
    pub(crate) publish_at: Vec<u64>,
    pub(crate) bus_events_at: Vec<u64>,
    pub(crate) faults: Vec<(u64, Fault)>,
    /// From here on nothing fails any more.
    pub(crate) healed_at: u64,
    pub(crate) end_at: u64,
}

/// How long a healthy world may take until nothing is left to do: a lease, a request that is sent
/// again, taken over, and a minion that returns again.
pub(crate) const SETTLE_MS: u64 = 30_000;

impl Plan {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let family = match rng.u8(0..3) {
            0 => Family::Single,
            1 => Family::TwoShims,
            _ => Family::TwoLowers,
        };
        let replica_reads = rng.bool();
        let shim = |site, lower, in_company| ShimPlan {
            site,
            lower,
            reads: usize::from(replica_reads && site == 1),
            in_company,
        };
        let mut shims = vec![shim(0, 0, false)];
        let mut lowers = vec![LowerPlan { site: 0 }, LowerPlan { site: 1 }];
        let mut minions = vec![MinionPlan { lowers: vec![0] }];
        let of_second = match family {
            Family::Single => {
                shims.push(shim(1, 1, false));
                vec![1]
            }
            Family::TwoShims => {
                shims.extend([shim(1, 1, true), shim(1, 1, true)]);
                vec![1]
            }
            Family::TwoLowers => {
                lowers.push(LowerPlan { site: 1 });
                shims.extend([shim(1, 1, true), shim(1, 2, true)]);
                vec![1, 2]
            }
        };
        for _ in 0..2 {
            minions.push(MinionPlan {
                lowers: of_second.clone(),
            });
        }
        let tight = rng.u8(0..8) == 0;
        let short_ttl = rng.u8(0..3) == 0;
        let mut plan = Self {
            family,
            bridges: if rng.u8(0..4) == 0 { 1 } else { 2 },
            sites: 2,
            shims,
            lowers,
            minions,
            ttl_ms: if short_ttl { 15_000 } else { 300_000 },
            wan_ms: if rng.u8(0..4) == 0 { 200 } else { 40 },
            loss_permille: if rng.bool() { 5 } else { 0 },
            replica_lag_ms: if rng.u8(0..4) == 0 { 400 } else { 0 },
            stream_max: if tight { 12 } else { 10_000 },
            journal_max: if tight { 10 } else { 10_000 },
            spool_max: if tight { 8 } else { 10_000 },
            tight,
            cache_readable: rng.u8(0..8) != 0,
            publish_at: Vec::new(),
            bus_events_at: Vec::new(),
            faults: Vec::new(),
            healed_at: 0,
            end_at: 0,
        };
        let span = rng.u64(20_000..60_000);
        plan.healed_at = 3_000 + span;
        plan.end_at = plan.healed_at + SETTLE_MS;
        for _ in 0..rng.u8(4..16) {
            let at = rng.u64(1_000..plan.healed_at + 2_000);
            let burst = if rng.u8(0..4) == 0 { rng.u64(2..10) } else { 1 };
            plan.publish_at
                .extend((0..burst).map(|_| at + rng.u64(0..40)));
        }
        let events = if tight { 30 } else { 3 };
        plan.bus_events_at
            .extend((0..events).map(|_| rng.u64(1_000..plan.healed_at)));
        faults::draw(rng, &mut plan);
        plan
    }
}
