//! Saltway's daemons and a real Redis between stand-ins.

use std::time::Duration;

use anyhow::{Context as _, Result};
use salt_wire::bus::Framing;
use testkit::{Daemon, RedisServer, Workspace};

use crate::lower::StandinLowerMaster;
use crate::mom::StandinMom;

const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(20);

/// How a [`Relay`] shall be.
pub struct RelayBuilder {
    sites: Vec<(String, Vec<String>)>,
    framing: Framing,
    log: String,
    bridge_extra: String,
    shim_extra: String,
    minion_extra: String,
    master_extra: String,
}

impl RelayBuilder {
    /// Adds a site with these minions; the first one is `site(0)`.
    #[must_use]
    pub fn site(mut self, id: &str, minions: &[&str]) -> Self {
        let minions = minions.iter().map(|name| (*name).to_owned()).collect();
        self.sites.push((id.to_owned(), minions));
        self
    }

    /// The framing of the event buses; default that of 3007 and 3008.
    #[must_use]
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// `SALTWAY_LOG` of the daemons; default `info`.
    #[must_use]
    pub fn log(mut self, filter: &str) -> Self {
        filter.clone_into(&mut self.log);
        self
    }

    /// YAML for the bridge's configuration.
    #[must_use]
    pub fn bridge_extra(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.bridge_extra);
        self
    }

    /// YAML for every master-shim's configuration.
    #[must_use]
    pub fn shim_extra(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.shim_extra);
        self
    }

    /// YAML for the `minion` file beside every lower master's configuration.
    #[must_use]
    pub fn minion_extra(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.minion_extra);
        self
    }

    /// YAML for every lower master's own configuration.
    #[must_use]
    pub fn master_extra(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.master_extra);
        self
    }

    /// Starts everything and waits until every daemon is ready.
    ///
    /// # Errors
    /// With the end of the log of what did not come up.
    pub fn start(self) -> Result<Relay> {
        let mut relay = self.launch()?;
        relay.bridge.ready()?;
        relay.mom.await_subscriber(SUBSCRIBED_WITHIN)?;
        for site in &mut relay.sites {
            site.shim.ready()?;
        }
        Ok(relay)
    }

    /// As [`start`](Self::start), without waiting for anybody.
    ///
    /// # Errors
    /// When something cannot be started at all.
    pub fn launch(self) -> Result<Relay> {
        let workspace = Workspace::new()?;
        let redis = RedisServer::builder("redis").start(&workspace)?;
        let mom = StandinMom::start(&workspace, "mom")?;
        let bridge = Daemon::bridge("bridge", mom.config_file())
            .redis(&redis.url())
            .log(&self.log)
            .extra(&self.bridge_extra)
            .start(&workspace)?;
        let mut sites = Vec::new();
        for (id, minions) in &self.sites {
            let minions: Vec<&str> = minions.iter().map(String::as_str).collect();
            let upstreams = [mom.address().ip().to_string()];
            let lower = StandinLowerMaster::start(
                &workspace,
                id,
                &upstreams,
                &minions,
                self.framing,
                &self.minion_extra,
                &self.master_extra,
            )?;
            let shim = Daemon::master_shim(&format!("{id}-shim"), &lower.config_file())
                .redis(&redis.url())
                .log(&self.log)
                .extra(&self.shim_extra)
                .start(&workspace)?;
            sites.push(Site { lower, shim });
        }
        Ok(Relay {
            bridge,
            sites,
            mom,
            redis,
            workspace,
        })
    }
}

/// One site.
pub struct Site {
    /// The daemon under test.
    pub shim: Daemon,
    /// What it serves.
    pub lower: StandinLowerMaster,
}

/// A whole relay between stand-ins; everything ends when it is dropped.
pub struct Relay {
    /// The daemon beside the top master.
    pub bridge: Daemon,
    /// The sites in the order in which they were added.
    pub sites: Vec<Site>,
    /// The top master.
    pub mom: StandinMom,
    /// The engine between them.
    pub redis: RedisServer,
    /// Their directory.
    pub workspace: Workspace,
}

impl Relay {
    /// A relay without sites, the event buses framed as those of 3008.
    #[must_use]
    pub fn builder() -> RelayBuilder {
        RelayBuilder {
            sites: Vec::new(),
            framing: Framing::Streaming,
            log: "info".to_owned(),
            bridge_extra: String::new(),
            shim_extra: String::new(),
            minion_extra: String::new(),
            master_extra: String::new(),
        }
    }

    /// One of its sites.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn site(&self, index: usize) -> Result<&Site> {
        self.sites.get(index).context("the relay has fewer sites")
    }
}
