//! What the site task sends up, and to which MoM: returns to the one that asked, events to all.

use daemon_kit::unix_millis;
use salt_wire::msgpack::Value;

use super::{SiteTask, routing::Return};
use crate::{
    config::SyndicFailover,
    upstream::{ForwardedEvent, Lanes},
};

impl SiteTask {
    pub(super) async fn send_return(&mut self, ret: Return, upstream: Option<usize>) {
        let ok = ret
            .event
            .fields
            .get("retcode")
            .and_then(Value::as_i64)
            .unwrap_or(0)
            == 0;
        let (jid, minion) = (ret.event.jid.clone(), ret.event.id.clone());
        self.queue_return(ret, upstream).await;
        // The summary is queued behind the return that completes the job.
        let actions = self.jobs.returned(jid.as_str(), minion.as_str(), ok);
        self.act(actions).await;
    }

    pub(super) async fn queue_return(&mut self, ret: Return, upstream: Option<usize>) {
        let index =
            upstream.unwrap_or_else(|| self.upstream_for_local(ret.event.master_id.as_deref()));
        if let Some(lanes) = self.parts.upstreams.get(index) {
            lanes.queue_return(ret).await;
        }
    }

    /// The MoM that the job's `master_id` names by its address, as in salt-syndic, else one that is signed in.
    fn upstream_for_local(&self, master_id: Option<&str>) -> usize {
        let upstreams = &self.parts.upstreams;
        let named =
            master_id.and_then(|name| upstreams.iter().position(|lanes| lanes.is_called(name)));
        let signed_in: Vec<usize> = (0..upstreams.len())
            .filter(|index| upstreams.get(*index).is_some_and(Lanes::is_signed_in))
            .collect();
        let any = match self.parts.failover {
            SyndicFailover::Ordered => signed_in.first(),
            SyndicFailover::Random => {
                let seconds = usize::try_from(unix_millis() / 1000).unwrap_or(0);
                signed_in.get(seconds % signed_in.len().max(1))
            }
        };
        named.or(any.copied()).unwrap_or(0)
    }

    pub(super) async fn forward_event(&self, tag: String, data: Value, bytes: usize) {
        self.parts.telemetry.event_forwarded(&tag);
        for lanes in &self.parts.upstreams {
            let event = ForwardedEvent {
                tag: tag.clone(),
                data: data.clone(),
                bytes,
                is_ack: false,
            };
            lanes.queue_event(event).await;
        }
    }
}
