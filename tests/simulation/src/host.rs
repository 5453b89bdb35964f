//! The clock of one host: a wall clock that is wrong and steps, a boot clock that only drifts.
//!
//! A process' own clock is anchored to the wall clock once per boot and then follows the boot
//! clock, so that it outlives processes and knows no steps (`daemon_kit`'s host clock).

use fastrand::Rng;

/// True time at which every run begins, in unix milliseconds.
pub(crate) const BEGIN_MS: i64 = 1_800_000_000_000;

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    /// How wrong the wall clock is.
    wall_offset_ms: i64,
    drift_ppm: i64,
    booted_at: u64,
    /// What the wall clock said then.
    anchor_ms: i64,
    /// Which boot this is: the name of the clock.
    pub(crate) boot: u32,
}

impl Host {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let minutes = if rng.bool() { rng.i64(-90..=90) } else { 0 };
        let wall_offset_ms = minutes * 60_000 + rng.i64(-500..=500);
        Self {
            wall_offset_ms,
            drift_ppm: rng.i64(-200..=200),
            booted_at: 0,
            anchor_ms: BEGIN_MS + wall_offset_ms,
            boot: 1,
        }
    }

    /// What the wall clock says.
    pub(crate) fn wall_ms(&self, now: u64) -> u64 {
        unsigned(BEGIN_MS + signed(now) + self.wall_offset_ms)
    }

    /// What a process takes for the time.
    pub(crate) fn clock_ms(&self, now: u64) -> u64 {
        let since = signed(now - self.booted_at);
        unsigned(self.anchor_ms + since + since * self.drift_ppm / 1_000_000)
    }

    /// What to add to the process' clock to get the wall clock.
    pub(crate) fn to_wall_ms(&self, now: u64) -> i64 {
        signed(self.wall_ms(now)) - signed(self.clock_ms(now))
    }

    /// Somebody, or NTP, sets the wall clock.
    pub(crate) fn step(&mut self, by_ms: i64) {
        self.wall_offset_ms += by_ms;
    }

    /// The host starts again.
    pub(crate) fn reboot(&mut self, now: u64) {
        self.boot += 1;
        self.booted_at = now;
        self.anchor_ms = BEGIN_MS + signed(now) + self.wall_offset_ms;
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn unsigned(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}
