//! A minion that goes away and comes back, beside one that stays: who got which job meanwhile.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::{EventRecorder, SaltVersion, Tree};

use crate::{
    distant::DistantMinion,
    ledger::{ask, wait_for_site},
    stream::{self, Job, publish_number},
};

const WITHIN: Duration = Duration::from_secs(60);
const SITE: &str = "site1";

/// The minion that stays.
pub const STAYS: &str = "a1";
/// The minion that goes away.
pub const AWAY: &str = "a9";

/// The whole relay with one site, its two minions, and numbered jobs for both.
pub struct Stand {
    /// What one publishes with.
    pub recorder: EventRecorder,
    /// The minion that goes away.
    pub away: DistantMinion,
    /// All the rest.
    pub tree: Tree,
    /// Where each run leaves a line.
    pub file: PathBuf,
}

impl Stand {
    /// Starts everything; job 1 has run on both. With `shims`, a minion-shim is beside each minion. `receipts` is YAML for the shim.
    ///
    /// # Errors
    /// Names what did not start.
    pub fn start(version: SaltVersion, shims: bool, receipts: &str) -> Result<Self> {
        let tree = Tree::with_saltway(version)
            .site(SITE, version, &[STAYS])
            .minion_shims(shims)
            .shim_extra(receipts)
            .start()?;
        let away = DistantMinion::start(version, AWAY, &tree.sites[0].master, shims)?;
        wait_for_site(&tree, SITE, "up", 2, WITHIN)?;
        let mut stand = Self {
            recorder: tree.mom.record()?,
            away,
            file: tree.workspace().path().join("runs"),
            tree,
        };
        // From its first receipt on the silence of a minion means something.
        stand.publish(1, 1)?;
        stand.await_runs(1, 1, &[STAYS, AWAY], WITHIN)?;
        Ok(stand)
    }

    /// Publishes these numbers to everybody.
    ///
    /// # Errors
    /// When Salt's client does not take one.
    pub fn publish(&mut self, first: u32, last: u32) -> Result<Vec<Job>> {
        let publish = |number| publish_number(&mut self.recorder, "*", &self.file, number);
        (first..=last).map(publish).collect()
    }

    /// Waits until these minions have run these numbers.
    ///
    /// # Errors
    /// Names what has not run.
    pub fn await_runs(
        &self,
        first: u32,
        last: u32,
        minions: &[&str],
        within: Duration,
    ) -> Result<()> {
        stream::wait_for_runs(&self.file, first, last, minions, within)
    }

    /// What the ledger says of a job.
    ///
    /// # Errors
    /// When the bridge does not answer.
    pub fn job(&self, jid: &str) -> Result<Value> {
        let bridge = self.tree.bridge.as_ref().context("the tree has a bridge")?;
        ask(bridge, &format!("jobs/{jid}"))
    }
}
