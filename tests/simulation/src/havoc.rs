//! The faults as they happen, and the healing.

use crate::faults::{Fault, RedisFault};
use crate::message::Node;
use crate::redis::Data;
use crate::trace::Note;
use crate::world::{Event, TICK_MS, World};

impl World {
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.note(Note::Fault(fault));
        match fault {
            Fault::Kill(node) => self.kill(node, false),
            Fault::PowerCut(node) => self.kill(node, true),
            Fault::DiskStalls(node, span) => {
                let until = self.now + span;
                self.life(node).disk_stalls_until = until;
            }
            Fault::Drain(node) => {
                if let (Node::Shim(shim), true) = (node, self.life(node).up) {
                    self.shim_drains(shim);
                }
                self.kill(node, false);
            }
            Fault::Start(node) => self.start(node),
            Fault::Pause(node, span) => {
                let until = self.now + span;
                let life = self.life(node);
                life.paused_until = life.paused_until.max(until);
            }
            Fault::Cut(from, to, span) => {
                let until = self.now + span;
                let cut = self.cuts.entry((from, to)).or_default();
                *cut = until.max(*cut);
            }
            Fault::Step { host, by_ms } => self.hosts[host].step(by_ms),
            Fault::MinionRestarts(minion) => self.minion_restarts(minion),
            Fault::MomRestarts => {
                self.mom_rotates();
                self.start(Node::Mom);
            }
            Fault::Redis(fault, server) => self.redis_fault(fault, server),
        }
    }

    /// Everything runs and is connected.
    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.redis_returns(RedisFault::BackWhole);
        for server in &mut self.servers {
            server.oom_until = 0;
        }
        let bridges = (0..self.bridges.len()).map(Node::Bridge);
        let shims = (0..self.shims.len()).map(Node::Shim);
        let lowers = (0..self.lowers.len()).map(Node::Lower);
        let nodes: Vec<Node> = bridges
            .chain(shims)
            .chain(lowers)
            .chain([Node::Mom])
            .collect();
        for node in nodes {
            self.start(node);
        }
    }

    fn kill(&mut self, node: Node, power: bool) {
        if !self.life(node).up {
            return;
        }
        self.life(node).up = false;
        self.life(node).paused_until = 0;
        self.note(Note::Stopped(node));
        let now = self.now;
        match node {
            Node::Bridge(bridge) => {
                self.bridges[bridge].process = None;
                if power {
                    self.bridge_loses_power(bridge);
                    self.hosts[bridge].reboot(now);
                } else {
                    self.bridges[bridge].journal.killed(&mut self.rng, now);
                }
            }
            Node::Shim(shim) => {
                let host = self.shims[shim].host;
                let this = &mut self.shims[shim];
                this.process = None;
                if power {
                    this.jobs.power_cut(&mut self.rng, now);
                    this.spool.power_cut(&mut self.rng, now);
                    self.hosts[host].reboot(now);
                } else {
                    this.jobs.killed(&mut self.rng, now);
                    this.spool.killed(&mut self.rng, now);
                }
                for server in &mut self.servers {
                    server.subscribers.remove(&shim);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn start(&mut self, node: Node) {
        let life = self.life(node);
        if life.up {
            return;
        }
        life.up = true;
        life.incarnation += 1;
        let incarnation = life.incarnation;
        self.note(Note::Started(node));
        match node {
            Node::Bridge(bridge) => self.bridge_starts(bridge),
            Node::Shim(shim) => self.shim_starts(shim),
            _ => return,
        }
        let first = self.rng.u64(1..TICK_MS);
        self.after(first, Event::Tick(node, incarnation));
    }

    fn redis_fault(&mut self, fault: RedisFault, server: usize) {
        // `server` 0 is whoever is the primary, 1 the replica.
        let at = if server == 0 {
            self.primary
        } else {
            1 - self.primary
        };
        let forgets = !matches!(
            fault,
            RedisFault::Save | RedisFault::OutOfMemory(_) | RedisFault::CutSubscribers
        );
        if forgets {
            self.book.forgot(self.now);
        }
        match fault {
            RedisFault::Die => self.redis_dies(at),
            RedisFault::BackWhole | RedisFault::BackEmpty | RedisFault::BackOld => {
                self.redis_returns(fault);
            }
            RedisFault::Save => self.servers[at].snapshot = self.servers[at].data.clone(),
            RedisFault::Flush => {
                if self.servers[self.primary].up {
                    self.servers[self.primary].data = Data::default();
                    self.resync();
                }
            }
            RedisFault::OutOfMemory(span) => self.servers[at].oom_until = self.now + span,
            RedisFault::FailOver => {
                let old = self.primary;
                if self.servers[1 - old].up {
                    self.redis_dies(old);
                    self.primary = 1 - old;
                    // What was on its way to it never comes.
                    self.servers[1 - old].generation += 1;
                }
            }
            RedisFault::Follow => {
                let old = 1 - self.primary;
                if !self.servers[old].up {
                    self.redis_starts(old);
                }
                self.resync();
            }
            RedisFault::FailBack => {
                let old = 1 - self.primary;
                // It was only cut off: same process, same data. The other one dies before they have spoken.
                if !self.servers[old].up {
                    self.servers[old].up = true;
                    self.life(Node::Redis(old)).up = true;
                    self.book.split_brain(self.now);
                    self.redis_dies(self.primary);
                    self.primary = old;
                    self.redis_starts(1 - old);
                    self.resync();
                }
            }
            RedisFault::CutSubscribers => self.servers[at].subscribers.clear(),
        }
    }

    fn redis_dies(&mut self, server: usize) {
        let this = &mut self.servers[server];
        this.up = false;
        this.subscribers.clear();
        this.generation += 1;
        self.life(Node::Redis(server)).up = false;
    }

    fn redis_starts(&mut self, server: usize) {
        let run = self.rng.u64(..);
        let this = &mut self.servers[server];
        this.run = run;
        this.up = true;
        this.generation += 1;
        self.life(Node::Redis(server)).up = true;
        self.life(Node::Redis(server)).incarnation += 1;
    }

    /// Every server that is down comes back.
    fn redis_returns(&mut self, how: RedisFault) {
        for server in 0..2 {
            if self.servers[server].up {
                continue;
            }
            self.redis_starts(server);
            if server == self.primary {
                match how {
                    RedisFault::BackEmpty => self.servers[server].data = Data::default(),
                    RedisFault::BackOld => {
                        self.servers[server].data = self.servers[server].snapshot.clone();
                    }
                    _ => {}
                }
            }
        }
        self.resync();
    }

    /// The replica takes everything from the primary.
    fn resync(&mut self) {
        let replica = 1 - self.primary;
        if self.servers[replica].up && self.servers[self.primary].up {
            self.servers[replica].data = self.servers[self.primary].data.clone();
            self.servers[replica].generation += 1;
        }
    }
}
