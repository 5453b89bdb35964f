//! How each fault is made and ended.

use std::{thread, time::Duration};

use anyhow::{Context, Result, bail};
use testkit::{Direction, Proxy, Relay, interrupted, now};

use super::{
    case::Case,
    jobs::unix_now,
    stand::{Stand, Who},
};

/// How long a killed process is away before it is started again.
const AWAY: Duration = Duration::from_secs(3);
const STOPPED: Duration = Duration::from_secs(20);
/// Between two restarts of a rolling restart.
const BETWEEN: Duration = Duration::from_secs(2);

/// When a fault was there, seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) began: f64,
    /// From here on the time until all is well is counted.
    pub(super) ended: f64,
}

/// Breaks, waits, and mends.
pub(super) fn inject(case: Case, stand: &mut Stand) -> Result<Fault> {
    let began = unix_now();
    let seconds = Duration::from_secs;
    match case {
        Case::Silence10 => stalled(stand, Direction::Both, seconds(10))?,
        Case::Silence60 => stalled(stand, Direction::Both, seconds(60))?,
        Case::Expiry => stalled(stand, Direction::Both, seconds(25))?,
        Case::CutUp => stalled(stand, Direction::Up, seconds(20))?,
        Case::CutDown => stalled(stand, Direction::Down, seconds(20))?,
        Case::HalfOpen => each_link(stand, Proxy::half_open)?,
        Case::Resets => {
            for _ in 0..10 {
                each_link(stand, Proxy::reset_all)?;
                hold(seconds(3))?;
            }
        }
        Case::Latency => {
            each_link(stand, |link| link.latency(Duration::from_millis(200)))?;
            hold(seconds(20))?;
            each_link(stand, |link| link.latency(Duration::ZERO))?;
        }
        Case::KillShim => killed(stand, Who::Shim(0, 0))?,
        Case::KillBridge => killed(stand, Who::Bridge(0))?,
        Case::KillRedis => killed(stand, Who::Redis)?,
        Case::KillLowerMaster | Case::KillLowerMasterSlow => killed(stand, Who::LowerMaster)?,
        Case::KillMom => killed(stand, Who::Mom)?,
        Case::RedisEmpty => {
            stand.kill(Who::Redis)?;
            hold(AWAY)?;
            stand.empty_redis()?;
            stand.begin(Who::Redis)?;
        }
        Case::StopShim => stopped(stand, Who::Shim(0, 0))?,
        Case::StopBridge => stopped(stand, Who::Bridge(0))?,
        Case::StopRedis => stopped(stand, Who::Redis)?,
        Case::StopLowerMaster => stopped(stand, Who::LowerMaster)?,
        Case::StopMom => stopped(stand, Who::Mom)?,
        Case::StopMinion => stopped(stand, Who::Minion)?,
        Case::RollingRestart => rolling_restart(stand)?,
        Case::MomRestartInOutage => {
            each_link(stand, |link| link.stall(Direction::Both))?;
            hold(seconds(8))?;
            // A master that is busy may have to be killed, which is as good here.
            stand.terminate(Who::Mom).ok();
            stand.begin(Who::Mom)?;
            hold(seconds(8))?;
            heal(stand)?;
        }
        Case::DiskFull => {
            stand.fill_disk()?;
            hold(seconds(15))?;
            stand.empty_disk()?;
        }
        Case::TwoShims => {
            let active = stand.active_shim()?;
            stand.kill(Who::Shim(0, active))?;
            // From here the other one has 5 s.
        }
        Case::Sentinel => stand.fail_over()?,
    }
    Ok(Fault {
        began,
        ended: unix_now(),
    })
}

/// The fault's length; an interrupt ends it.
fn hold(length: Duration) -> Result<()> {
    let began = now();
    while began.elapsed() < length {
        if interrupted() {
            bail!("interrupted");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Quiet time around a fault.
pub(super) fn quiet(length: Duration) -> Result<()> {
    hold(length)
}

fn each_link(stand: &Stand, act: impl Fn(&Proxy)) -> Result<()> {
    stand.links()?.into_iter().for_each(act);
    Ok(())
}

fn heal(stand: &Stand) -> Result<()> {
    stand.links()?.into_iter().try_for_each(Proxy::heal)
}

/// Nothing passes; what was sent meanwhile arrives late where somebody still waits for it, as TCP does.
fn stalled(stand: &Stand, direction: Direction, length: Duration) -> Result<()> {
    each_link(stand, |link| link.stall(direction))?;
    hold(length)?;
    heal(stand)
}

fn killed(stand: &mut Stand, who: Who) -> Result<()> {
    stand.kill(who)?;
    hold(AWAY)?;
    stand.begin(who)
}

fn stopped(stand: &Stand, who: Who) -> Result<()> {
    stand.pause(who)?;
    let held = hold(STOPPED);
    stand.resume(who)?;
    held
}

fn rolling_restart(stand: &mut Stand) -> Result<()> {
    let every: &[Who] = match stand.relay {
        Relay::Saltway => &[
            Who::Shim(0, 0),
            Who::Shim(1, 0),
            Who::Bridge(0),
            Who::Bridge(1),
            Who::Redis,
        ],
        Relay::Syndic | Relay::Nothing => &[Who::Shim(0, 0), Who::Shim(1, 0)],
    };
    let (last, before) = every.split_last().context("there are daemons")?;
    for who in before {
        stand.terminate(*who)?;
        stand.begin(*who)?;
        stand.wait_ready(*who)?;
        hold(BETWEEN)?;
    }
    stand.terminate(*last)?;
    stand.begin(*last)
}
