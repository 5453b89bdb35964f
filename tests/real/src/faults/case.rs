//! The faults by name.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Result, bail};
use testkit::Relay;

/// What stands around a fault; cases of one kind can use one [`Stand`](super::Stand) after the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Two sites of two minions, two bridges, a proxy in each link.
    Plain,
    /// As plain, with a second shim beside the first one of `site1`.
    TwoShims,
    /// As plain, with the state directory of `site1`'s shim on a small file system of its own.
    SmallDisk,
    /// As plain, with `job_ttl` shorter than the outage.
    ShortTtl,
    /// As plain, with Salt's own delays in its minions: up to 11 s until they look for their master again.
    SlowMinions,
    /// Redis is a primary and a replica, found through Sentinel.
    Sentinel,
}

macro_rules! cases {
    ($($case:ident $name:literal $kind:ident $scope:ident $text:literal)*) => {
        /// A fault.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Case {
            $(#[doc = $text] $case,)*
        }

        impl Case {
            /// Every case, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$case),*];

            /// Its name on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$case => $name),* }
            }

            /// Its line of the table.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$case => $text),* }
            }

            /// What it runs on.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Self::$case => Kind::$kind),* }
            }

            /// Whom it hits.
            fn scope(self) -> Scope {
                match self { $(Self::$case => Scope::$scope),* }
            }
        }
    };
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    /// `site1`; what happens at `site2` is the control.
    Site,
    /// Something that both sites use, and a syndic has as well.
    Both,
    /// Something that both sites use, and only Saltway has.
    Saltway,
    /// `site1`, in a way that only Saltway knows.
    SaltwaySite,
}

cases! {
    Silence10 "silence-10" Plain Site "link silent for 10 s"
    Silence60 "silence-60" Plain Site "link silent for 60 s"
    HalfOpen "half-open" Plain Site "link half-open: one end gone, the other not told"
    Resets "resets" Plain Site "link reset each 3 s for 30 s"
    CutUp "cut-up" Plain Site "link silent for 20 s in the direction up"
    CutDown "cut-down" Plain Site "link silent for 20 s in the direction down"
    Latency "latency" Plain Site "link with 200 ms more each way for 20 s"
    KillShim "kill-shim" Plain Site "kill -9 of the shim (syndic), started 3 s later"
    KillBridge "kill-bridge" Plain Saltway "kill -9 of one of two bridges, started 3 s later"
    KillRedis "kill-redis" Plain Saltway "kill -9 of Redis (AOF), started 3 s later"
    RedisEmpty "redis-empty" Plain Saltway "kill -9 of Redis, started empty 3 s later"
    KillLowerMaster "kill-lower-master" Plain Site "kill -9 of the lower master, started 3 s later"
    KillLowerMasterSlow "kill-lower-master-slow" SlowMinions Site "the same with Salt's own delays of up to 11 s in its minions"
    KillMom "kill-mom" Plain Both "kill -9 of the MoM, started 3 s later"
    StopShim "stop-shim" Plain Site "shim (syndic) stopped for 20 s"
    StopBridge "stop-bridge" Plain Saltway "one of two bridges stopped for 20 s"
    StopRedis "stop-redis" Plain Saltway "Redis stopped for 20 s"
    StopLowerMaster "stop-lower-master" Plain Site "lower master stopped for 20 s"
    StopMom "stop-mom" Plain Both "MoM stopped for 20 s"
    StopMinion "stop-minion" Plain Site "a minion stopped for 20 s"
    RollingRestart "rolling-restart" Plain Both "SIGTERM and start of every daemon of the relay, one after the other"
    MomRestartInOutage "mom-restart-in-outage" Plain Site "MoM restarted (new AES key) while the link is silent"
    DiskFull "disk-full" SmallDisk SaltwaySite "state directory of the shim full for 15 s"
    TwoShims "two-shims" TwoShims SaltwaySite "two shims at one site: kill -9 of the active one"
    Expiry "expiry" ShortTtl Site "link silent for 25 s at a job_ttl of 10 s"
    Sentinel "sentinel" Sentinel Saltway "kill -9 of the Redis primary; Sentinel fails over to a replica that lacks a second"
}

impl Case {
    /// Whether this relay can be hit so.
    #[must_use]
    pub fn applies_to(self, relay: Relay) -> bool {
        match self.scope() {
            Scope::Site | Scope::Both => relay != Relay::Nothing,
            Scope::Saltway | Scope::SaltwaySite => relay == Relay::Saltway,
        }
    }

    /// Whether `site2` is not hit.
    #[must_use]
    pub fn has_control(self) -> bool {
        // The restart of the MoM is in the middle of this one.
        matches!(self.scope(), Scope::Site | Scope::SaltwaySite) && self != Self::MomRestartInOutage
    }

    /// Time between two jobs. What has waited during an outage is run by minions on two processors at once, and Salt's minions take the longer
    /// for each job the more of them they run; with more jobs that, and not the relay, would be measured.
    #[must_use]
    pub fn pace(self) -> Duration {
        Duration::from_millis(match self {
            Self::Silence60 => 4_000,
            Self::Silence10 | Self::Expiry => 1_000,
            Self::CutUp
            | Self::CutDown
            | Self::MomRestartInOutage
            | Self::StopShim
            | Self::StopRedis
            | Self::StopLowerMaster
            | Self::StopMom
            | Self::StopMinion
            | Self::DiskFull => 1_500,
            _ => 500,
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.iter().find(|case| case.name() == text) {
            Some(case) => Ok(*case),
            None => {
                let names: Vec<_> = Self::ALL.iter().map(|case| case.name()).collect();
                bail!("there is no case {text}; there are {}", names.join(" "))
            }
        }
    }
}
