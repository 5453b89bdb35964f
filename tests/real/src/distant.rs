//! A minion whose connections to its master go through proxies, so that a test can take its publications away.

use anyhow::Result;
use testkit::{Address, Master, Minion, Proxy, SaltVersion};

const PUBLISH_PORT: u16 = 4505;
const REQUEST_PORT: u16 = 4506;

/// The minion, and what lies between it and its master.
#[derive(Debug)]
pub struct DistantMinion {
    /// It sees its master at the proxies' address.
    pub minion: Minion,
    /// Before the master's publish port.
    pub publish: Proxy,
    /// Before the master's request port.
    pub request: Proxy,
    /// Keeps the proxies' address for this minion alone.
    _address: Address,
}

impl DistantMinion {
    /// Starts it, and waits until it answers its master. With `shim`, a minion-shim runs beside it.
    ///
    /// # Errors
    /// Names what did not start.
    pub fn start(version: SaltVersion, id: &str, master: &Master, shim: bool) -> Result<Self> {
        let address = Address::lease()?;
        let proxy = |port| Proxy::start(address.socket(port), master.socket(port));
        let (publish, request) = (proxy(PUBLISH_PORT)?, proxy(REQUEST_PORT)?);
        let mut minion = Minion::builder(version, id)
            .extra(&format!("master: {}", address.ip()))
            .start(&[master])?;
        minion.ready()?;
        if shim {
            minion.start_shim()?.joined(id)?;
        }
        master.wait_for_minions(&[id])?;
        Ok(Self {
            minion,
            publish,
            request,
            _address: address,
        })
    }

    /// These jids in the order in which the minion took them, by its own log; that it heard one again is left out.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn took(&self, jids: &[String]) -> Result<Vec<String>> {
        let log = self.minion.log()?;
        let mut took: Vec<String> = Vec::new();
        for line in log.lines() {
            let jid = line.split_once(" with jid ").map(|(_, jid)| jid.trim());
            let known = jids.iter().find(|known| Some(known.as_str()) == jid);
            took.extend(known.filter(|known| !took.contains(known)).cloned());
        }
        Ok(took)
    }
}
