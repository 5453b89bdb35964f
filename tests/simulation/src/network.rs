//! The wires: messages take their time, are lost, held up by cuts, and overtake each other.
//!
//! Redis' own wires are here, too: from the primary to the replica and to subscribers.

use crate::message::{Answer, Command, Message, Node, Push};
use crate::redis::Effect;
use crate::world::{Event, World};

impl World {
    pub(crate) fn send(&mut self, from: Node, to: Node, message: Message) {
        if self.now < self.plan.healed_at && self.rng.u32(..1000) < self.plan.loss_permille {
            return;
        }
        let latency = match message {
            // One connection, in order.
            Message::Frame(_) => 2,
            _ => self.latency(from, to),
        };
        let sender = self.life(from).incarnation;
        self.after(
            latency,
            Event::Arrive {
                from,
                to,
                sender,
                message,
            },
        );
    }

    fn latency(&mut self, from: Node, to: Node) -> u64 {
        let wan = matches!(
            (from, to),
            (Node::Shim(_), Node::Redis(_)) | (Node::Redis(_), Node::Shim(_))
        );
        let max = if wan { self.plan.wan_ms } else { 4 };
        let spike = if self.rng.u8(..) < 3 { 10 } else { 1 };
        self.rng.u64(1..=max.max(1)) * spike
    }

    pub(crate) fn arrive(&mut self, from: Node, to: Node, sender: u32, message: Message) {
        let life = *self.life(to);
        let again = |message| Event::Arrive {
            from,
            to,
            sender,
            message,
        };
        if life.up && self.now < life.paused_until {
            return self.after(life.paused_until - self.now, again(message));
        }
        if self
            .cuts
            .get(&(from, to))
            .is_some_and(|until| self.now < *until)
        {
            // A TCP connection repeats until it is given up.
            if !matches!(message, Message::Frame(_)) && self.rng.bool() {
                let wait = self.rng.u64(100..3_000);
                self.after(wait, again(message));
            }
            return;
        }
        if !life.up {
            return;
        }
        match to {
            Node::Mom => self.mom_hears(from, message),
            Node::Bridge(bridge) => self.bridge_hears(bridge, message),
            Node::Redis(server) => self.redis_hears(server, from, message),
            Node::Shim(shim) => {
                let flushed = self.life(from).incarnation == sender || self.rng.bool();
                if flushed {
                    self.shim_hears(shim, message);
                }
            }
            Node::Lower(lower) => self.lower_hears(lower, message),
            Node::Minion(minion) => self.minion_hears(minion, message),
        }
    }

    // Redis.

    fn redis_hears(&mut self, server: usize, from: Node, message: Message) {
        let Message::ToRedis { op, command } = message else {
            return;
        };
        let read_only = server != self.primary && !command.only_reads();
        let site = match command {
            Command::Position { site, .. } => Some(site),
            _ => None,
        };
        let position = |world: &Self| {
            site.and_then(|site| world.servers[server].data.positions.get(&site).copied())
        };
        let before = position(self);
        let answer = if read_only {
            Answer::Refused
        } else {
            self.servers[server].execute(command, self.now, self.mutation)
        };
        if let Some(site) = site {
            let after = position(self);
            self.book.position(site, before, after, self.now);
        }
        let effects = std::mem::take(&mut self.servers[server].effects);
        for effect in &effects {
            self.book
                .written(effect, &self.servers[server].data, self.now);
            self.push(server, effect);
        }
        self.replicate(server, effects);
        self.send(Node::Redis(server), from, Message::FromRedis { op, answer });
    }

    /// A command reaches the replica as a whole: a script is replicated as a transaction.
    fn replicate(&mut self, server: usize, effects: Vec<Effect>) {
        let replica = 1 - server;
        if server != self.primary || !self.servers[replica].up {
            return;
        }
        let lag = self.rng.u64(1..10) + self.plan.replica_lag_ms;
        let at = (self.now + lag).max(self.servers[replica].last_apply_at);
        self.servers[replica].last_apply_at = at;
        let generation = self.servers[replica].generation;
        for effect in effects {
            self.after(
                at - self.now,
                Event::Apply {
                    server: replica,
                    generation,
                    effect,
                },
            );
        }
    }

    pub(crate) fn push(&mut self, server: usize, effect: &Effect) {
        let Effect::Publish(push) = effect else {
            return;
        };
        for shim in self.servers[server].subscribers.clone() {
            if matches!(push, Push::Reply { shim: to, .. } if *to != shim) {
                continue;
            }
            let twice = self.rng.u8(..) == 0;
            for _ in 0..=usize::from(twice) {
                let message = Message::Pushed(push.clone());
                self.send(Node::Redis(server), Node::Shim(shim), message);
            }
        }
    }
}
