//! What an operator publishes again for single minions under the same jid: `saltway redeliver`.
//!
//! - A job that was published here goes past the lower master's request port, to those alone that had it here and have given no receipt: the
//!   job cache keeps its target and its minions.
//! - A job that never came here is published as any other.

use relay_core::intake::Remembered;
use salt_wire::ids::MinionId;

use super::{
    DeliveryTask,
    job::{Job, named},
};
use crate::{site::Message, upstream};

impl DeliveryTask {
    /// Publishes the job again if it was published here before; whether that is so.
    pub(super) async fn publish_by_hand(&mut self, job: &Job, remembered: Remembered) -> bool {
        let jid = job.load.jid();
        let had = self.parts.publisher.job_cache.minions(jid).await;
        let again = again(&named(&job.load), &had);
        if again.is_empty() {
            return false;
        }
        if remembered == Remembered::Done {
            self.parts.telemetry.duplicate_jid(jid);
            return true;
        }
        let age = self.age(&job.entry);
        if age >= job.ttl {
            self.expired(job, age).await;
            return true;
        }
        let begun = [(&job.part, job.entry.entry_id)];
        self.records
            .begin(self.parts.upstream, begun.into_iter())
            .await;
        self.announce(job).await;
        // The MoM keeps the latest ack: it names everybody, as the first one did.
        self.parts
            .lanes
            .queue_event(upstream::ack(jid, &had, &[]))
            .await;
        self.tell(Message::ByHand {
            follow: Box::new(self.follow(job)),
            minions: again.clone(),
        })
        .await;
        let published = Message::Published {
            jid: jid.clone(),
            fun: job.load.functions().join(","),
            minions: again,
            answers_for_site: false,
        };
        self.records.done(&job.part, &published);
        true
    }
}

/// Of those that are named, the ones that had the job, once each.
fn again(named: &[&str], had: &[MinionId]) -> Vec<String> {
    let meant = had.iter().filter(|minion| named.contains(&minion.as_str()));
    meant.map(ToString::to_string).collect()
}
