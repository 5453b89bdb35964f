//! The whole topology on loopback: a top master, Redis, a bridge, and sites with their lower masters, minions and relays.
//!
//! ```text
//!             ┌── Redis ◄─(redis link)── master-shim ─┐
//! MoM ◄─ bridge ┘                                     ├─ lower master ◄── minions       one Site; both relays' files are in place,
//!  ▲                                                  │                                 so a test switches over and back
//!  └──────────────(mom link)─────────── salt-syndic ──┘
//! ```
//! The links go through [`Proxy`]s when the tree is built with [`TreeBuilder::proxied`].

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::address::Address;
use crate::daemon::Daemon;
use crate::proxy::Proxy;
use crate::redis::RedisServer;
use crate::salt::{Master, Minion, SaltVersion, Syndic};
use crate::wait::now;
use crate::workspace::Workspace;

const PUBLISH_PORT: u16 = 4505;
const REQUEST_PORT: u16 = 4506;
const REDIS_PORT: u16 = 6379;

/// What stands between the top master and its sites.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Relay {
    /// Redis, a bridge, and a master-shim per site.
    Saltway,
    /// A salt-syndic per site.
    Syndic,
    /// Nothing: the sites' masters on their own.
    Nothing,
}

/// A site as it shall be.
#[derive(Clone, Debug)]
struct SitePlan {
    name: String,
    version: SaltVersion,
    minions: Vec<String>,
}

type Progress = Box<dyn Fn(&str)>;

/// How a [`Tree`] shall be.
pub struct TreeBuilder {
    mom: SaltVersion,
    relay: Relay,
    sites: Vec<SitePlan>,
    syndic_wait: u64,
    proxied: bool,
    mom_extra: String,
    site_extra: String,
    minion_extra: String,
    syndic_extra: String,
    bridge_extra: String,
    shim_extra: String,
    minion_shims: bool,
    daemon_log: String,
    progress: Progress,
}

impl TreeBuilder {
    /// Adds a site. Without any, the tree has `site1` with `a1 a2 a3` and `site2` with `b1 b2 b3`, of the MoM's version.
    #[must_use]
    pub fn site(mut self, name: &str, version: SaltVersion, minions: &[&str]) -> Self {
        let minions = minions.iter().map(|&id| id.to_owned()).collect();
        self.sites.push(SitePlan {
            name: name.to_owned(),
            version,
            minions,
        });
        self
    }

    /// The MoM's `syndic_wait`, seconds; default 1 (Salt's own is 5).
    #[must_use]
    pub fn syndic_wait(mut self, seconds: u64) -> Self {
        self.syndic_wait = seconds;
        self
    }

    /// Puts a proxy into every link. Off by default: a proxy costs time.
    #[must_use]
    pub fn proxied(mut self, proxied: bool) -> Self {
        self.proxied = proxied;
        self
    }

    /// YAML for the MoM's configuration.
    #[must_use]
    pub fn mom_extra(mut self, yaml: &str) -> Self {
        self.mom_extra = yaml.to_owned();
        self
    }

    /// YAML for each lower master's configuration.
    #[must_use]
    pub fn site_extra(mut self, yaml: &str) -> Self {
        self.site_extra = yaml.to_owned();
        self
    }

    /// YAML for each minion's configuration.
    #[must_use]
    pub fn minion_extra(mut self, yaml: &str) -> Self {
        self.minion_extra = yaml.to_owned();
        self
    }

    /// YAML for the minion file of each lower master's host, which its syndic reads.
    #[must_use]
    pub fn syndic_extra(mut self, yaml: &str) -> Self {
        self.syndic_extra = yaml.to_owned();
        self
    }

    /// YAML for the bridge's configuration.
    #[must_use]
    pub fn bridge_extra(mut self, yaml: &str) -> Self {
        self.bridge_extra = yaml.to_owned();
        self
    }

    /// YAML for each master-shim's configuration.
    #[must_use]
    pub fn shim_extra(mut self, yaml: &str) -> Self {
        self.shim_extra = yaml.to_owned();
        self
    }

    /// Puts a minion-shim beside each minion. Off by default.
    #[must_use]
    pub fn minion_shims(mut self, minion_shims: bool) -> Self {
        self.minion_shims = minion_shims;
        self
    }

    /// How much Saltway's daemons log (`SALTWAY_LOG`); default `debug`, benches want `info`.
    #[must_use]
    pub fn daemon_log(mut self, filter: &str) -> Self {
        self.daemon_log = filter.to_owned();
        self
    }

    /// Is told what happens, one line at a time.
    #[must_use]
    pub fn on_progress(mut self, tell: impl Fn(&str) + 'static) -> Self {
        self.progress = Box::new(tell);
        self
    }

    /// Starts everything and waits until a job can run everywhere. All daemons start at the same time; each minion has answered its own
    /// master, and each relay is ready, when this returns.
    ///
    /// # Errors
    /// Names the process that failed and shows the end of its log; what was started is stopped.
    pub fn start(mut self) -> Result<Tree> {
        if self.sites.is_empty() {
            let version = self.mom;
            self = self.site("site1", version, &["a1", "a2", "a3"]).site(
                "site2",
                version,
                &["b1", "b2", "b3"],
            );
        }
        let workspace = Workspace::new()?;
        (self.progress)(&format!(
            "configuration and logs: {}",
            workspace.path().display()
        ));
        let mom = Master::builder(self.mom, "mom")
            .order_masters(self.syndic_wait)
            .extra(&self.mom_extra)
            .create(&workspace)?;
        let redis_address = Address::lease()?;
        let mut tree = Tree {
            sites: Vec::new(),
            bridge: None,
            bridge_redis_link: None,
            redis: None,
            mom,
            redis_address,
            plan: self,
            workspace,
        };
        tree.start_masters()?;
        tree.start_minions_and_relays()?;
        tree.wait_ready()?;
        Ok(tree)
    }
}

/// A lower master with everything beside and below it.
#[derive(Debug)]
pub struct Site {
    /// The master-shim, once it was started.
    pub shim: Option<Daemon>,
    /// The salt-syndic, once it was started.
    pub syndic: Option<Syndic>,
    /// Its minions, in the order they were named.
    pub minions: Vec<Minion>,
    /// Its lower master; the id is the site's name.
    pub master: Master,
    /// Between the shim and Redis, in a proxied tree.
    pub redis_link: Option<Proxy>,
    /// Between the syndic and the MoM (publish port, request port), in a proxied tree.
    pub mom_link: Option<(Proxy, Proxy)>,
    /// Keeps the proxies' address for this tree alone.
    _link_address: Address,
}

impl Site {
    /// Its name, which is its lower master's and its relay's id.
    #[must_use]
    pub fn name(&self) -> &str {
        self.master.id()
    }

    /// The ids of its minions.
    #[must_use]
    pub fn minion_ids(&self) -> Vec<&str> {
        self.minions.iter().map(Minion::id).collect()
    }
}

/// A running topology; dropping it stops everything.
pub struct Tree {
    // Fields drop in this order: relays first, so that nobody logs the end of its peers.
    /// The bridge, once it was started.
    pub bridge: Option<Daemon>,
    /// The sites, in the order they were named.
    pub sites: Vec<Site>,
    /// Between the bridge and Redis, in a proxied tree.
    pub bridge_redis_link: Option<Proxy>,
    /// The Redis server, once it was started.
    pub redis: Option<RedisServer>,
    /// The top master.
    pub mom: Master,
    redis_address: Address,
    plan: TreeBuilder,
    workspace: Workspace,
}

impl Tree {
    /// A tree whose MoM has this version.
    #[must_use]
    pub fn builder(mom: SaltVersion, relay: Relay) -> TreeBuilder {
        TreeBuilder {
            mom,
            relay,
            sites: Vec::new(),
            syndic_wait: 1,
            proxied: false,
            mom_extra: String::new(),
            site_extra: String::new(),
            minion_extra: String::new(),
            syndic_extra: String::new(),
            bridge_extra: String::new(),
            shim_extra: String::new(),
            minion_shims: false,
            daemon_log: "debug".to_owned(),
            progress: Box::new(|_| {}),
        }
    }

    /// The tree with Saltway in it.
    #[must_use]
    pub fn with_saltway(mom: SaltVersion) -> TreeBuilder {
        Self::builder(mom, Relay::Saltway)
    }

    /// The same tree with a real salt-syndic in each shim's place.
    #[must_use]
    pub fn with_syndics(mom: SaltVersion) -> TreeBuilder {
        Self::builder(mom, Relay::Syndic)
    }

    /// Where its configuration and logs are.
    #[must_use]
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The ids of all minions of all sites.
    #[must_use]
    pub fn minion_ids(&self) -> Vec<&str> {
        self.sites.iter().flat_map(Site::minion_ids).collect()
    }

    /// Starts Redis on the tree's address. A [`Relay::Saltway`] tree has it already.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_redis(&mut self) -> Result<()> {
        if self.redis.is_none() {
            let builder = RedisServer::builder("redis")
                .address(self.redis_address.clone())
                .port(REDIS_PORT);
            self.redis = Some(builder.start(&self.workspace)?);
        }
        Ok(())
    }

    /// Starts the bridge, without waiting. A [`Relay::Saltway`] tree has it already.
    ///
    /// # Errors
    /// When its program is not built.
    pub fn start_bridge(&mut self) -> Result<()> {
        let bridge = match self.bridge.take() {
            Some(mut bridge) => {
                bridge.start()?;
                bridge
            }
            None => Daemon::bridge("bridge", &config_file(&self.mom))
                .redis(&redis_url(
                    &self.redis_address,
                    self.bridge_redis_link.as_ref(),
                ))
                .log(&self.plan.daemon_log)
                .extra(&self.plan.bridge_extra)
                .start(&self.workspace)?,
        };
        self.bridge = Some(bridge);
        Ok(())
    }

    /// Starts the master-shim of a site, without waiting.
    ///
    /// # Errors
    /// When its program is not built, or there is no such site.
    pub fn start_shim(&mut self, site: usize) -> Result<()> {
        let (workspace, redis, plan) = (&self.workspace, &self.redis_address, &self.plan);
        let site = self.sites.get_mut(site).context("there is no such site")?;
        if let Some(shim) = &mut site.shim {
            return shim.start();
        }
        let shim =
            Daemon::master_shim(&format!("{}-shim", site.name()), &config_file(&site.master))
                .redis(&redis_url(redis, site.redis_link.as_ref()))
                .log(&plan.daemon_log)
                .extra(&plan.shim_extra)
                .start(workspace)?;
        site.shim = Some(shim);
        Ok(())
    }

    /// Starts the salt-syndic of a site, without waiting.
    ///
    /// # Errors
    /// When its program is missing, or there is no such site.
    pub fn start_syndic(&mut self, site: usize) -> Result<()> {
        let site = self.sites.get_mut(site).context("there is no such site")?;
        // One at a time has this id.
        site.syndic = None;
        site.syndic = Some(Syndic::start(site.master.version(), &site.master)?);
        Ok(())
    }

    fn start_masters(&mut self) -> Result<()> {
        self.tell(&format!(
            "starting salt-master {} (the top master)",
            self.plan.mom
        ));
        self.mom.start()?;
        let (mom, redis) = (self.mom.address().clone(), self.redis_address.clone());
        for plan in &self.plan.sites {
            let link = Address::lease()?;
            let (mut redis_link, mut mom_link, mut above) = (None, None, mom.ip());
            if self.plan.proxied {
                above = link.ip();
                redis_link = Some(Proxy::start(
                    link.socket(REDIS_PORT),
                    redis.socket(REDIS_PORT),
                )?);
                let publish = Proxy::start(link.socket(PUBLISH_PORT), mom.socket(PUBLISH_PORT))?;
                let request = Proxy::start(link.socket(REQUEST_PORT), mom.socket(REQUEST_PORT))?;
                mom_link = Some((publish, request));
            }
            self.tell(&format!(
                "starting salt-master {} of {}",
                plan.version, plan.name
            ));
            let master = Master::builder(plan.version, &plan.name)
                .below(&[&above.to_string()], &self.plan.syndic_extra)
                .extra(&self.plan.site_extra)
                .start(&self.workspace)?;
            self.mom.accept(&plan.name, master.syndic_key()?)?;
            self.sites.push(Site {
                shim: None,
                syndic: None,
                minions: Vec::new(),
                master,
                redis_link,
                mom_link,
                _link_address: link,
            });
        }
        Ok(())
    }

    fn start_minions_and_relays(&mut self) -> Result<()> {
        for (plan, site) in self.plan.sites.iter().zip(&mut self.sites) {
            (self.plan.progress)(&format!(
                "starting salt-minion {} of {}",
                plan.minions.join(" "),
                plan.name
            ));
            for id in &plan.minions {
                let builder = Minion::builder(plan.version, id).extra(&self.plan.minion_extra);
                let mut minion = builder.start(&[&site.master])?;
                if self.plan.minion_shims {
                    minion.start_shim()?;
                }
                site.minions.push(minion);
            }
        }
        if self.plan.relay == Relay::Saltway {
            self.tell("starting redis-server");
            self.start_redis()?;
            if self.plan.proxied {
                let link = Address::lease()?;
                self.bridge_redis_link = Some(Proxy::start(
                    link.socket(REDIS_PORT),
                    self.redis_address.socket(REDIS_PORT),
                )?);
            }
        }
        self.mom.ready().context("the top master failed")?;
        self.tell("the top master is ready");
        for site in &mut self.sites {
            site.master
                .ready()
                .with_context(|| format!("the master of {} failed", site.master.id()))?;
        }
        self.tell("the lower masters are ready");
        match self.plan.relay {
            Relay::Saltway => {
                self.tell("starting saltway-bridge and the sites' saltway-master-shim");
                self.start_bridge()?;
                (0..self.sites.len()).try_for_each(|site| self.start_shim(site))
            }
            Relay::Syndic => {
                self.tell("starting the sites' salt-syndic");
                (0..self.sites.len()).try_for_each(|site| self.start_syndic(site))
            }
            Relay::Nothing => Ok(()),
        }
    }

    fn wait_ready(&mut self) -> Result<()> {
        let began = now();
        for site in &mut self.sites {
            for minion in &mut site.minions {
                minion.ready()?;
            }
            for minion in &mut site.minions {
                let id = minion.id().to_owned();
                if let Some(shim) = &mut minion.shim {
                    shim.joined(&id)?;
                }
            }
            let ids: Vec<&str> = site.minions.iter().map(Minion::id).collect();
            site.master.wait_for_minions(&ids)?;
            (self.plan.progress)(&format!(
                "{} answer their master {}",
                ids.join(" "),
                site.master.id()
            ));
        }
        if let Some(bridge) = &mut self.bridge {
            bridge.ready().context("saltway-bridge failed")?;
            (self.plan.progress)("saltway-bridge is ready");
        }
        for site in &mut self.sites {
            if let Some(shim) = &mut site.shim {
                shim.ready().with_context(|| {
                    format!("saltway-master-shim of {} failed", site.master.id())
                })?;
            }
            if let Some(syndic) = &mut site.syndic {
                syndic
                    .ready()
                    .with_context(|| format!("salt-syndic of {} failed", site.master.id()))?;
            }
            (self.plan.progress)(&format!("{} is connected to the top", site.master.id()));
        }
        let waited: Duration = began.elapsed();
        self.tell(&format!(
            "everything is ready ({:.1} s after the masters)",
            waited.as_secs_f64()
        ));
        Ok(())
    }

    fn tell(&self, line: &str) {
        (self.plan.progress)(line);
    }
}

fn config_file(master: &Master) -> PathBuf {
    master.conf_dir().join("master")
}

fn redis_url(redis: &Address, link: Option<&Proxy>) -> String {
    let socket = link.map_or_else(|| redis.socket(REDIS_PORT), Proxy::socket);
    format!("redis://{socket}")
}
