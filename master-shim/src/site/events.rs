//! What the site task makes of the lower master's event bus: each event is routed, and what came unheard is fetched.

use daemon_kit::{steady_millis, unix_millis};
use salt_link::event_bus::BusEvent;
use salt_wire::{
    bus::{Event, EventTag},
    msgpack::Value,
};

use super::{
    SiteTask,
    catch_up::Fetch,
    routing::{Return, Route, SkipReason, decode},
};

/// Returns being read from the job cache at once; further ones go up as the bus showed them.
const FETCHES_MAX: usize = 64;

impl SiteTask {
    pub(super) async fn bus_event(&mut self, event: BusEvent) {
        match event {
            BusEvent::Connected => {
                self.parts.event_bus.holds();
                let first = !std::mem::replace(&mut self.connected_before, true);
                self.parts.master.bus_connected(first);
                self.parts.roster.look_again();
                if !first {
                    self.parts.receipts.unheard(steady_millis());
                }
                self.fetch_missing();
                self.parts.telemetry.event_bus_connected();
            }
            BusEvent::Disconnected { reason } => {
                self.parts.event_bus.fails(&reason);
                self.parts.master.bus_disconnected();
                self.parts.telemetry.event_bus_disconnected(&reason);
            }
            BusEvent::Malformed { reason } => self.parts.telemetry.event_malformed(reason),
            BusEvent::Event(event) => self.event(event).await,
        }
    }

    async fn event(&mut self, event: Event) {
        self.parts.telemetry.lower_master_lives();
        self.parts.roster.hears(&event);
        self.parts.job_cache.hears(&event.tag, &event.data);
        if let EventTag::MinionStart { minion } = event.parsed_tag() {
            self.parts.master.minion_started(minion);
        }
        let Some(data) = decode(&event) else {
            return self
                .parts
                .telemetry
                .event_skipped(&event.tag, SkipReason::Malformed);
        };
        if self.receive(&event, &data) {
            let ours = SkipReason::OwnStartEvent;
            return self.parts.telemetry.event_skipped(&event.tag, ours);
        }
        match self.parts.router.route(&event, data) {
            Route::Return {
                mut ret,
                upstream,
                trimmed,
            } => {
                ret.heard_ms = unix_millis();
                let (minion, jid) = (&ret.event.id, &ret.event.jid);
                self.parts.receipts.returned(minion, jid, steady_millis());
                if !self.catch_up.is_new(&ret) {
                    return;
                }
                if upstream.is_none() && self.parts.company.is_standby() {
                    return self.parts.company.keep(ret);
                }
                self.parts.telemetry.return_seen(&ret);
                if trimmed && self.fetches.len() < FETCHES_MAX {
                    self.fetch(ret, upstream);
                } else {
                    self.send_return(*ret, upstream).await;
                }
            }
            Route::Event { .. } if self.parts.company.is_standby() => {
                self.parts
                    .telemetry
                    .event_skipped(&event.tag, SkipReason::Standby);
            }
            Route::Event { data } => self.forward_event(event.tag, data, event.data.len()).await,
            Route::Probe {
                probe,
                minion,
                running,
            } => {
                let now_ms = steady_millis();
                self.parts.receipts.returned(&minion, &probe, now_ms);
                if let Some(found) = self.probes.answered(&probe, &minion, running) {
                    self.probed(found).await;
                }
            }
            Route::Skip(reason) => self.parts.telemetry.event_skipped(&event.tag, reason),
        }
    }

    /// Begins to fetch what came unheard; a fetch under way begins anew.
    pub(super) fn fetch_missing(&mut self) {
        self.fetching.abort_all();
        let parts = &self.parts;
        let fetch = self.catch_up.begin(Fetch {
            jobs: parts.jobs.clone(),
            disk: parts.disk.clone(),
            job_cache: parts.job_cache.clone(),
            unanswered: parts.unanswered.clone(),
        });
        self.fetching.spawn(fetch);
    }

    /// Reads what the minion really returned: on the bus large values are cut off.
    fn fetch(&mut self, mut ret: Box<Return>, upstream: Option<usize>) {
        let job_cache = self.parts.job_cache.clone();
        let telemetry = self.parts.telemetry.clone();
        self.fetches.spawn(async move {
            match job_cache.read_return(&ret.event.jid, &ret.event.id).await {
                Ok((whole, bytes)) => {
                    ret.bytes += bytes;
                    if let Value::Map(entries) = whole {
                        for (key, value) in entries {
                            if let Some(key) = key.as_str() {
                                ret.event.fields.set(key, value);
                            }
                        }
                    }
                }
                Err(err) => telemetry.return_trimmed(&ret.event.jid, &ret.event.id, &err),
            }
            (ret, upstream)
        });
    }
}
