//! Everything that runs while something breaks, and how each part is stopped, killed and started again.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use testkit::{
    Daemon, DaemonBuilder, EventRecorder, MASTER as SENTINEL_MASTER, Master, Process, Proxy,
    RedisServer, Relay, SaltVersion, SentinelServer, Signal, Tree, wait_until,
};

use super::{
    case::Kind,
    inject::quiet,
    jobs::{JobStream, unix_now},
};

const MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/salt_modules");
/// `(site, minions)`; the first is hit, the second is the control.
const SITES: [(&str, [&str; 2]); 2] = [("site1", ["a1", "a2"]), ("site2", ["b1", "b2"])];
/// What the small file system holds: some times what a shim writes in a minute, and filled in an instant.
const SMALL_DISK: &str = "size=16m,mode=0700";
/// The defaults of Salt, which testkit shortens: a comparison with salt-syndic is fair with these.
const SALTS_DELAYS: &str = "recon_default: 1000\nrecon_max: 10000\nrecon_randomize: True\nrandom_reauth_delay: 10\n\
                            acceptance_wait_time: 10\nauth_timeout: 60\n";
const SHORT_TTL: Duration = Duration::from_secs(10);
/// `job_ttl`, unless it is set.
const TTL: Duration = Duration::from_secs(300);
/// How long the replica hears nothing before the primary dies.
const LACKING: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A process that a fault hits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Who {
    /// The relay's process at this site: the shim (of two the one with this number), or the syndic.
    Shim(usize, usize),
    /// One of two.
    Bridge(usize),
    Redis,
    LowerMaster,
    Mom,
    Minion,
}

/// A tree with the daemons of the relay beside it.
pub struct Stand {
    // Fields drop in this order: relays first.
    shims: [Vec<Daemon>; 2],
    bridges: Vec<Daemon>,
    disk: Option<SmallDisk>,
    recorder: Option<EventRecorder>,
    failover: Option<Failover>,
    /// The masters, minions, Redis and links.
    pub(super) tree: Tree,
    pub(super) relay: Relay,
    kind: Kind,
    /// Where each minion has a file.
    pub(super) runs: PathBuf,
    /// The number of the next job.
    pub(super) next: u64,
    /// How long the control's jobs took in the quiet phases so far.
    pub(super) quiet: Vec<f64>,
}

impl Stand {
    /// Starts everything and waits until a job of the MoM is answered by every minion. `tell` hears what happens.
    ///
    /// # Errors
    /// When something does not start; the error names it.
    pub fn start(
        kind: Kind,
        relay: Relay,
        version: SaltVersion,
        tell: impl Fn(&str) + 'static,
    ) -> Result<Self> {
        // The daemons of Saltway are started here: a tree has one bridge and one shim per site.
        let below = match relay {
            Relay::Saltway => Relay::Nothing,
            Relay::Syndic | Relay::Nothing => relay,
        };
        // Threads: two processors could not start the processes of four minions at this pace.
        let mut minion = format!("module_dirs: [{MODULES}]\nmultiprocessing: False\n");
        if kind == Kind::SlowMinions {
            minion.push_str(SALTS_DELAYS);
        }
        let mut tree = Tree::builder(version, below)
            .minion_extra(&minion)
            .syndic_extra(SALTS_DELAYS)
            .proxied(true)
            .on_progress(tell);
        for (site, minions) in SITES {
            tree = tree.site(site, version, &minions);
        }
        let tree = tree.start()?;
        let runs = tree.workspace().path().join("runs");
        fs::create_dir(&runs)?;
        let mut stand = Self {
            shims: [Vec::new(), Vec::new()],
            bridges: Vec::new(),
            disk: None,
            recorder: None,
            failover: None,
            tree,
            relay,
            kind,
            runs,
            next: 1,
            quiet: Vec::new(),
        };
        if relay == Relay::Saltway {
            stand.start_saltway()?;
        }
        stand.recorder = Some(stand.tree.mom.record()?);
        stand.warm_up()?;
        Ok(stand)
    }

    /// What it was started for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where logs and configuration are.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.tree.workspace().path().to_path_buf()
    }

    /// A bridge of Saltway's.
    pub(super) fn bridge(&self) -> Option<&Daemon> {
        self.bridges.first()
    }

    /// How old a job may get.
    pub(super) fn ttl(&self) -> Duration {
        match self.kind {
            Kind::ShortTtl => SHORT_TTL,
            _ => TTL,
        }
    }

    /// The ids of a site's minions.
    pub(super) fn minions(&self, site: usize) -> Vec<String> {
        let minions = self.tree.sites[site].minion_ids();
        minions.into_iter().map(str::to_owned).collect()
    }

    /// The ids of all minions.
    pub(super) fn all_minions(&self) -> Vec<String> {
        (0..SITES.len())
            .flat_map(|site| self.minions(site))
            .collect()
    }

    /// The recorder, for a stream of jobs; it is given back with [`Stand::put_back`].
    pub(super) fn take_recorder(&mut self) -> Result<EventRecorder> {
        self.recorder
            .take()
            .context("one stream of jobs at a time has the recorder")
    }

    pub(super) fn put_back(&mut self, recorder: EventRecorder) {
        self.recorder = Some(recorder);
    }

    /// The links of `site1` to what is above it.
    pub(super) fn links(&self) -> Result<Vec<&Proxy>> {
        let site = &self.tree.sites[0];
        match self.relay {
            Relay::Saltway => Ok(vec![site.redis_link.as_ref().context("proxied")?]),
            Relay::Syndic | Relay::Nothing => {
                let (publish, request) = site.mom_link.as_ref().context("proxied")?;
                Ok(vec![publish, request])
            }
        }
    }

    /// Says which daemons are not ready; a syndic cannot be asked.
    ///
    /// # Errors
    /// Names them.
    pub(super) fn all_ready(&self) -> Result<(), String> {
        let daemons = self.bridges.iter().chain(self.shims.iter().flatten());
        // What was killed for good is not asked.
        for daemon in daemons.filter(|daemon| daemon.process().is_ok()) {
            match daemon.get("/readyz") {
                Ok((200, _)) => {}
                Ok((status, body)) => {
                    return Err(format!("{}: {status} {}", daemon.http(), body.trim()));
                }
                Err(err) => return Err(format!("{err:#}")),
            }
        }
        Ok(())
    }

    /// The running process.
    fn process(&self, who: Who) -> Result<&Process> {
        let site = &self.tree.sites[0];
        match who {
            Who::Shim(site, _) if self.relay == Relay::Syndic => {
                let syndic = self.tree.sites[site].syndic.as_ref();
                Ok(syndic.context("the syndic runs")?.process())
            }
            Who::Shim(site, number) => self.shims[site][number].process(),
            Who::Bridge(number) => self.bridges[number].process(),
            Who::Redis => self.tree.redis.as_ref().context("Redis runs")?.process(),
            Who::LowerMaster => site.master.process(),
            Who::Mom => self.tree.mom.process(),
            Who::Minion => site.minions[0].process(),
        }
    }

    /// SIGSTOP to the whole process group.
    pub(super) fn pause(&self, who: Who) -> Result<()> {
        self.process(who)?.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub(super) fn resume(&self, who: Who) -> Result<()> {
        self.process(who)?.signal(Signal::CONT)
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, who: Who) -> Result<()> {
        match who {
            Who::Shim(site, _) if self.relay == Relay::Syndic => {
                self.tree.sites[site].syndic = None;
            }
            Who::Shim(site, number) => self.shims[site][number].kill(),
            Who::Bridge(number) => self.bridges[number].kill(),
            Who::Redis => self.tree.redis.as_mut().context("Redis runs")?.kill(),
            Who::LowerMaster => self.tree.sites[0].master.kill(),
            Who::Mom => self.tree.mom.kill(),
            Who::Minion => self.tree.sites[0].minions[0].kill(),
        }
        Ok(())
    }

    /// SIGTERM, and wait for the end.
    pub(super) fn terminate(&mut self, who: Who) -> Result<()> {
        let ended = match who {
            Who::Shim(site, _) if self.relay == Relay::Syndic => {
                let syndic = self.tree.sites[site].syndic.take();
                syndic.context("the syndic runs")?.terminate()?
            }
            Who::Shim(site, number) => self.shims[site][number].terminate()?,
            Who::Bridge(number) => self.bridges[number].terminate()?,
            Who::Redis => return self.tree.redis.as_mut().context("Redis runs")?.stop(),
            Who::LowerMaster => self.tree.sites[0].master.terminate()?,
            Who::Mom => self.tree.mom.terminate()?,
            Who::Minion => self.tree.sites[0].minions[0].terminate()?,
        };
        // Salt's own daemons may end with the signal's code.
        if !ended.success()
            && self.relay == Relay::Saltway
            && matches!(who, Who::Shim(..) | Who::Bridge(_))
        {
            bail!("{who:?} ended with {ended}");
        }
        Ok(())
    }

    /// Starts it again. A master or Redis is up when this returns, a daemon of the relay was just started.
    pub(super) fn begin(&mut self, who: Who) -> Result<()> {
        match who {
            Who::Shim(site, _) if self.relay == Relay::Syndic => self.tree.start_syndic(site),
            Who::Shim(site, number) => self.shims[site][number].start(),
            Who::Bridge(number) => self.bridges[number].start(),
            Who::Redis => self
                .tree
                .redis
                .as_mut()
                .context("Redis was started")?
                .start(),
            Who::LowerMaster => {
                self.tree.sites[0].master.start()?;
                self.tree.sites[0].master.ready()
            }
            Who::Mom => {
                self.tree.mom.start()?;
                self.tree.mom.ready()
            }
            Who::Minion => self.tree.sites[0].minions[0].start(),
        }
    }

    /// Waits until a daemon says that it is ready.
    pub(super) fn wait_ready(&mut self, who: Who) -> Result<()> {
        match who {
            Who::Shim(site, _) if self.relay == Relay::Syndic => {
                let syndic = self.tree.sites[site].syndic.as_mut();
                syndic.context("the syndic runs")?.ready()
            }
            Who::Shim(site, number) => self.shims[site][number].ready(),
            Who::Bridge(number) => self.bridges[number].ready(),
            Who::Redis | Who::LowerMaster | Who::Mom | Who::Minion => Ok(()),
        }
    }

    /// Removes what a killed Redis had written.
    pub(super) fn empty_redis(&self) -> Result<()> {
        fs::remove_dir_all(self.directory().join("redis/appendonlydir"))
            .context("Redis had written nothing")
    }

    /// Fills the small file system.
    pub(super) fn fill_disk(&self) -> Result<()> {
        self.disk.as_ref().context("there is a small disk")?.fill()
    }

    /// Makes room again.
    pub(super) fn empty_disk(&self) -> Result<()> {
        self.disk.as_ref().context("there is a small disk")?.empty()
    }

    /// The number of `site1`'s shim that holds the lease.
    pub(super) fn active_shim(&self) -> Result<usize> {
        for (number, shim) in self.shims[0].iter().enumerate() {
            if shim.metric("saltway_lease_active", &[])? == Some(1.0) {
                return Ok(number);
            }
        }
        bail!("none of site1's shims says that it is active")
    }

    /// Kills the primary after its replica has missed what was written for a second; back when the replica is the primary.
    pub(super) fn fail_over(&mut self) -> Result<()> {
        let failover = self.failover.as_ref().context("there is a sentinel")?;
        // Port 1 of the replica's own address: nobody.
        let nobody = failover.replica.address().ip().to_string();
        failover.replica.cli(&["REPLICAOF", &nobody, "1"])?;
        quiet(LACKING)?;
        self.tree.redis.as_mut().context("Redis runs")?.kill();
        failover.sentinel.wait_for_primary(&failover.replica)
    }

    fn start_failover(&mut self) -> Result<()> {
        let workspace = self.tree.workspace();
        let primary = self.tree.redis.as_ref().context("Redis runs")?;
        let replica = RedisServer::builder("replica")
            .replica_of(primary)
            .start(workspace)?;
        let sentinel = SentinelServer::builder("sentinel").start(workspace, primary)?;
        sentinel.wait_for_replicas(1)?;
        self.failover = Some(Failover { sentinel, replica });
        Ok(())
    }

    fn start_saltway(&mut self) -> Result<()> {
        self.tree.start_redis()?;
        if self.kind == Kind::Sentinel {
            self.start_failover()?;
        }
        let redis = self.tree.redis.as_ref().context("just started")?.url();
        let workspace = self.tree.workspace().clone();
        let mom = config_file(&self.tree.mom);
        for name in ["bridge-a", "bridge-b"] {
            let bridge = self.configured(Daemon::bridge(name, &mom).redis(&redis));
            self.bridges.push(bridge.start(&workspace)?);
        }
        for (number, site) in self.tree.sites.iter().enumerate() {
            let link = site.redis_link.as_ref().context("the tree is proxied")?;
            let names: &[&str] = match (self.kind, number) {
                (Kind::TwoShims, 0) => &["shim-a", "shim-b"],
                _ => &["shim"],
            };
            for name in names {
                let name = format!("{}-{name}", site.name());
                let shim = Daemon::master_shim(&name, &config_file(&site.master))
                    .redis(&format!("redis://{}", link.socket()));
                let mut shim = self.configured(shim).create(&workspace)?;
                if self.kind == Kind::SmallDisk && number == 0 {
                    self.disk = Some(SmallDisk::mount(shim.state_dir().to_path_buf())?);
                }
                shim.start()?;
                self.shims[number].push(shim);
            }
        }
        wait_until("every daemon to be ready", ANSWER_WITHIN, || {
            self.all_ready()
        })
    }

    fn configured(&self, daemon: DaemonBuilder) -> DaemonBuilder {
        if let Some(failover) = &self.failover {
            let url = failover.sentinel.url();
            return daemon.extra(&format!(
                "redis: {{sentinel: {{master: {SENTINEL_MASTER}, urls: [\"{url}\"]}}}}"
            ));
        }
        match self.kind {
            Kind::ShortTtl => daemon.extra(&format!("job_ttl: {}s", SHORT_TTL.as_secs())),
            _ => daemon,
        }
    }

    /// First imports, first sign-ins: jobs until one is answered by all.
    fn warm_up(&mut self) -> Result<()> {
        let stream = JobStream::start(
            self.take_recorder()?,
            &self.runs,
            self.next,
            Duration::from_secs(1),
        );
        let (began, minions) = (unix_now(), self.all_minions());
        wait_until("a job to be answered by all", ANSWER_WITHIN, || {
            stream
                .answered_since(began, &minions)
                .ok_or("not answered yet")
        })?;
        self.next = stream.jobs().last().map_or(self.next, |job| job.number + 1);
        let recorder = stream.finish()?;
        self.put_back(recorder);
        Ok(())
    }
}

fn config_file(master: &Master) -> PathBuf {
    master.conf_dir().join("master")
}

/// What takes over from the tree's Redis.
struct Failover {
    sentinel: SentinelServer,
    replica: RedisServer,
}

/// A file system of a few MiB, in memory; needs the right to mount.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(directory: PathBuf) -> Result<Self> {
        let path = directory.display().to_string();
        command("mount", &["-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", &path])?;
        Ok(Self(directory))
    }

    fn fill(&self) -> Result<()> {
        let filler = fs::File::create(self.0.join("filler"))?;
        let block = vec![0; 4096];
        loop {
            match std::io::Write::write(&mut &filler, &block) {
                Ok(_) => {}
                Err(err) if err.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(err) => return Err(err).context("the small disk is not full, but broken"),
            }
        }
    }

    fn empty(&self) -> Result<()> {
        fs::remove_file(self.0.join("filler")).context("the small disk was filled before")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = self.0.display().to_string();
        if let Err(err) = command("umount", &["-l", &path]) {
            eprintln!("{path} is still mounted: {err:#}");
        }
    }
}

fn command(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("failed to run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
