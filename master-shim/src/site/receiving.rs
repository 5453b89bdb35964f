//! What the site task tells [`Receipts`](crate::receipts::Receipts), and what it does for it.

use daemon_kit::steady_millis;
use salt_wire::{
    bus::{Event, EventTag},
    ids::{Jid, MinionId},
    msgpack::Value,
    saltway::{MinionEvent, SiteEvent},
};

use super::{SiteTask, company::Company, origins::Origins};
use crate::{
    lower_master::LowerMaster,
    receipts::{Follow, Handed},
    upstream::ForwardedEvent,
};

impl SiteTask {
    /// A decoded event of the lower master's bus that is no return, before it is routed. True when it goes no further.
    pub(super) fn receive(&mut self, event: &Event, data: &Value) -> bool {
        let now_ms = steady_millis();
        match event.parsed_tag() {
            EventTag::JobNew { jid } => self.receive_new(jid, data, now_ms),
            EventTag::JobStart { jid, minion } if is_from(data, minion) => {
                return self.receive_start_event(jid, minion, now_ms);
            }
            EventTag::MinionStart { minion } if is_from(data, minion) => {
                self.parts.receipts.started(minion, now_ms);
            }
            EventTag::Other if MinionEvent::is_tag(&event.tag) => {
                self.receive_minion_event(&event.tag, data, now_ms);
            }
            EventTag::Other => {
                if let Some(minion) = speaker(data) {
                    self.parts.receipts.sign_of_life(minion, now_ms);
                }
            }
            _ => {}
        }
        false
    }

    /// The lower master is about to publish a job. What another shim of this site publishes is that one's affair.
    fn receive_new(&mut self, jid: &str, data: &Value, now_ms: u64) {
        let minions = data.get("minions").and_then(Value::as_array);
        if let Some(minions) = minions
            && !self.parts.company.is_standby()
        {
            let minions = minions.iter().filter_map(Value::as_str);
            self.parts.receipts.published(jid, minions, now_ms);
        }
    }

    /// True when the event was asked for by this shim alone.
    fn receive_start_event(&mut self, jid: &str, minion: &str, now_ms: u64) -> bool {
        let (Ok(jid), Ok(minion)) = (Jid::parse(jid), MinionId::parse(minion)) else {
            return false;
        };
        let origins = &self.parts.router.origins;
        let (upstream, is_ours) = match origins.upstream_of(&jid) {
            Some((index, hides_start)) => (Some(index), hides_start),
            None => (None, false),
        };
        self.parts
            .receipts
            .start_event(&minion, &jid, upstream, now_ms);
        is_ours
    }

    fn receive_minion_event(&mut self, tag: &str, data: &Value, now_ms: u64) {
        match MinionEvent::parse(tag, data) {
            Ok(Some(event)) => {
                let origins = &self.parts.router.origins;
                let upstream_of = |jid: &Jid| origins.upstream_of(jid).map(|(index, _)| index);
                self.parts
                    .receipts
                    .minion_event(&event, upstream_of, now_ms);
            }
            Ok(None) => {}
            Err(err) => self.parts.telemetry.minion_event_malformed(tag, &err),
        }
    }

    /// The answer to a publish: tells whom it meant, if the bus did not.
    pub(super) fn receive_answer(&mut self, jid: &Jid, minions: &[String]) {
        let minions = minions.iter().map(String::as_str);
        let receipts = &mut self.parts.receipts;
        receipts.answered(jid.as_str(), minions, steady_millis());
    }

    /// An operator wants these minions to have the job again.
    pub(super) async fn by_hand(&mut self, follow: Follow, minions: &[String]) {
        let now_ms = steady_millis();
        self.parts.receipts.by_hand(follow, minions, now_ms);
        self.tick_receipts().await;
    }

    /// A publication was handed over, or was not.
    pub(super) fn handed(&mut self, handed: &Handed) {
        let (master, company) = (&self.parts.master, &self.parts.company);
        let may_send = |index| may_send(master, company, index);
        self.parts.receipts.after(handed, steady_millis(), may_send);
    }

    /// Does what is due of receipts and redeliveries.
    pub(super) async fn tick_receipts(&mut self) {
        let (master, company) = (&self.parts.master, &self.parts.company);
        let may_send = |index| may_send(master, company, index);
        self.parts.receipts.tick(steady_millis(), may_send);
        master.watch_closely(self.parts.receipts.is_waiting());
        let is_standby = company.is_standby();
        for (index, receipts) in self.parts.receipts.take_up() {
            if is_standby {
                continue;
            }
            let bytes = receipts.gives.as_text().len()
                + receipts
                    .jobs
                    .iter()
                    .map(|job| 64 + job.minions.as_text().len() + 5 * job.minions.len())
                    .sum::<usize>();
            let event = SiteEvent::Receipts(receipts);
            let event = ForwardedEvent {
                tag: event.tag(),
                data: event.data(),
                bytes,
                is_ack: false,
            };
            if let Some(lanes) = self.parts.upstreams.get(index) {
                lanes.queue_event(event).await;
            }
        }
    }
}

fn may_send(master: &LowerMaster, company: &Company, index: usize) -> bool {
    master.is_up() && company.may_publish(index)
}

/// Whether the minion itself sent the event: a master puts the load of a minion's event on its bus whole.
fn is_from(data: &Value, minion: &str) -> bool {
    data.get_str("id") == Some(minion)
}

/// The minion that sent an event of its own.
fn speaker(data: &Value) -> Option<&str> {
    let is_minions = data.get_str("cmd") == Some("_minion_event");
    data.get_str("id").filter(|_| is_minions)
}

impl Origins {
    /// The index of the MoM that the job came from, and whether its start events are for this shim alone.
    fn upstream_of(&self, jid: &Jid) -> Option<(usize, bool)> {
        match self.get(jid) {
            Some(super::origins::Origin::Upstream {
                index, hides_start, ..
            }) => Some((*index, *hides_start)),
            Some(_) | None => None,
        }
    }
}
