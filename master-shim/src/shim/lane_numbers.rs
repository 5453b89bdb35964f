//! The numbers of the lanes in the spool, made from the names of the relays.

use crate::{config::Relay, telemetry::LaneName};

/// Numbers for relays in the spool, which has room for 10,922 lanes.
const RELAYS_MAX: u32 = 5_000;

/// A lane's number in the spool: of the relay's name, so that it stays when `syndic_master` is put into another order.
pub(super) fn lane_number(mom: &str, name: LaneName) -> u32 {
    let digest = openssl::sha::sha256(mom.as_bytes());
    let relay = u32::from(u16::from_be_bytes([digest[0], digest[1]])) % RELAYS_MAX;
    match name {
        LaneName::Returns => 2 * relay,
        LaneName::Events => 2 * relay + 1,
    }
}

/// Two relays must not share lanes: one MoM would get the other's returns.
pub(crate) fn check_lanes(relays: &[Relay]) -> anyhow::Result<()> {
    for (place, relay) in relays.iter().enumerate() {
        let lane = lane_number(&relay.mom, LaneName::Returns);
        let same = |other: &&Relay| lane_number(&other.mom, LaneName::Returns) == lane;
        if let Some(other) = relays.iter().take(place).find(same) {
            anyhow::bail!(
                "the relays {} and {} would share a place in the spool: give one of them another name, at its bridge too",
                other.mom,
                relay.mom
            );
        }
    }
    Ok(())
}
