//! The way up to one MoM: a lane for returns and one for events, and the session that both use.
//!
//! ```text
//! site task ──► returns lane ──_syndic_return──┐
//!          └──► events lane ───_minion_event───┴──► Session ──► Tunnel ──► Redis ──► bridge ──► MoM 4506
//! ```
//! Both lanes keep their items in the spool until the MoM has replied; [`crate::lane`] does that.
//!
//! - A request is repeated until the MoM has replied; the MoM files a second copy of a return under the same jid and id.
//! - Events keep their order: one request at a time. Returns need none: several requests at a time.

use std::{sync::Arc, time::Duration};

use daemon_kit::backoff::Backoff;
use salt_link::session::Session;
use salt_wire::{
    commands::{MinionEvent, MinionEvents, SyndicReturn, SyndicReturnElement},
    ids::{Jid, MinionId},
    msgpack::Value,
    saltway::JobNotice,
};
use store::{Class, Jobs, Shed};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    disk::Disk,
    lane::{Item, LaneConfig, Observer, Sender},
    site::routing::Return,
    telemetry::{LaneName, Telemetry},
    unanswered::Unanswered,
};

/// Items between the site task and a lane; when full, because the disk is slow, the site task waits.
pub(crate) const LANE_CHANNEL: usize = 64;

/// Bounds of the returns: a request carries at most 1 MiB or 500 returns, so that the MoM's worker is never busy for long;
/// memory holds what four requests carry, and as much again to be ready.
pub(crate) const RETURNS: LaneConfig = LaneConfig {
    window_entries_max: 4_000,
    window_bytes_max: 8 << 20,
    batch_entries_max: 500,
    batch_bytes_max: 1 << 20,
    in_flight_max: 4,
};

/// Bounds of the events and acks, in their order.
pub(crate) const EVENTS: LaneConfig = LaneConfig {
    window_entries_max: 1_000,
    window_bytes_max: 4 << 20,
    batch_entries_max: 200,
    batch_bytes_max: 1 << 20,
    in_flight_max: 1,
};

/// Pauses between attempts to send a batch.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long the MoM may take for a request, in all: the tunnel repeats it in between.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that a request may take a second for, on top of [`REQUEST_TIMEOUT`].
const SLOWEST_BYTES_PER_SECOND: usize = 256 << 10;

/// An event for the MoM's bus.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ForwardedEvent {
    /// Its tag.
    pub(crate) tag: String,
    /// Its data, a map.
    pub(crate) data: Value,
    /// Bytes that it takes on the wire, more or less.
    pub(crate) bytes: usize,
    /// An ack is worth more than another event.
    pub(crate) is_ack: bool,
}

/// The ends of one upstream's lanes, for who fills them.
#[derive(Clone)]
pub(crate) struct Lanes {
    /// The MoM's address as `syndic_master` has it.
    address: String,
    session: Arc<Session>,
    returns: mpsc::Sender<Return>,
    events: mpsc::Sender<ForwardedEvent>,
}

impl Lanes {
    /// `address`: of the MoM, as `syndic_master` has it.
    pub(crate) fn new(
        address: String,
        session: Arc<Session>,
        returns: mpsc::Sender<Return>,
        events: mpsc::Sender<ForwardedEvent>,
    ) -> Self {
        Self {
            address,
            session,
            returns,
            events,
        }
    }

    /// Whether `syndic_master` calls this MoM so: salt-syndic compares the `master_id` of a job with the address.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.address == name
    }

    /// The session with this MoM.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Whether the MoM has let this site in.
    pub(crate) fn is_signed_in(&self) -> bool {
        self.session.current().is_some()
    }

    /// Hands a return to the lane, which writes it to the spool.
    pub(crate) async fn queue_return(&self, ret: Return) {
        // A lane that has ended did so because the daemon ends.
        drop(self.returns.send(ret).await);
    }

    /// Hands an event to the lane, which writes it to the spool.
    pub(crate) async fn queue_event(&self, event: ForwardedEvent) {
        drop(self.events.send(event).await);
    }
}

/// Sends batches in the site's name.
pub(crate) struct Uplink {
    /// The site's id.
    pub(crate) id: MinionId,
    /// The session with the MoM.
    pub(crate) session: Arc<Session>,
    /// Where returns are ticked off.
    pub(crate) jobs: Jobs,
    /// What is in the spool.
    pub(crate) unanswered: Unanswered,
    /// Hears of failures there.
    pub(crate) disk: Disk,
    /// Counts and logs.
    pub(crate) telemetry: Telemetry,
}

impl Uplink {
    async fn send_until_answered(&self, lane: LaneName, bytes: usize, load: Value) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let extra = u64::try_from(bytes / SLOWEST_BYTES_PER_SECOND).unwrap_or(u64::MAX);
        let timeout = REQUEST_TIMEOUT + Duration::from_secs(extra);
        loop {
            let sent_at = Instant::now();
            match self
                .session
                .authenticated_request(load.clone(), timeout)
                .await
            {
                Ok(_) => {
                    self.telemetry.mom_lives();
                    return self.telemetry.request_answered(sent_at.elapsed());
                }
                Err(err) => self.telemetry.send_failed(lane, &err),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

impl Sender<Return> for Uplink {
    async fn send(&self, batch: Vec<Return>) {
        let bytes = batch.iter().map(Item::wire_bytes).sum();
        let ids = |ret: &Return| (ret.event.jid.to_string(), ret.event.id.to_string());
        let returned: Vec<(String, String)> = batch.iter().map(ids).collect();
        let heard: Vec<u64> = batch.iter().map(|ret| ret.heard_ms).collect();
        let load = syndic_return(&self.id, batch).into_load();
        self.send_until_answered(LaneName::Returns, bytes, load)
            .await;
        for heard_ms in heard {
            self.telemetry.return_delivered(heard_ms);
        }
        // Ticked off before it leaves the spool: after a power cut the one may be gone and the other not.
        let ticked = self.jobs.returned(returned.clone()).await;
        self.disk.written("write job records", ticked);
        for (jid, minion) in &returned {
            self.unanswered.remove(jid, minion);
            Telemetry::return_answered(jid, minion);
        }
    }

    fn spooled(&self, returns: &[Return]) {
        for ret in returns {
            self.unanswered.insert(ret);
        }
    }
}

impl Sender<ForwardedEvent> for Uplink {
    async fn send(&self, batch: Vec<ForwardedEvent>) {
        let bytes = batch.iter().map(Item::wire_bytes).sum();
        let events = batch
            .into_iter()
            .map(|event| MinionEvent {
                tag: event.tag,
                data: event.data,
            })
            .collect();
        let load = MinionEvents::of_syndic(&self.id, events).into_load(self.session.identity());
        self.send_until_answered(LaneName::Events, bytes, load)
            .await;
    }

    fn spooled(&self, _events: &[ForwardedEvent]) {}
}

/// Groups returns by job: one element for each run of returns of one job, so that their order is kept.
///
/// A minion's second return of a job in the same batch begins a new element, as a map holds a minion once.
fn syndic_return(id: &MinionId, batch: Vec<Return>) -> SyndicReturn {
    let mut elements: Vec<SyndicReturnElement> = Vec::new();
    for ret in batch {
        let Return { event, load, .. } = ret;
        let fits = |element: &SyndicReturnElement| {
            element.jid == event.jid
                && element.fun == event.fun
                && element.master_id == event.master_id
                && element
                    .returns
                    .iter()
                    .all(|(minion, _)| *minion != event.id)
        };
        match elements
            .iter_mut()
            .rev()
            .find(|element| element.jid == event.jid)
        {
            Some(element) if fits(element) => {
                element.returns.push((event.id, event.fields));
                element.load = element.load.take().or(load);
            }
            Some(_) | None => elements.push(SyndicReturnElement {
                id: id.clone(),
                jid: event.jid,
                fun: event.fun,
                load,
                returns: vec![(event.id, event.fields)],
                master_id: event.master_id,
                out: None,
                fun_args: None,
            }),
        }
    }
    SyndicReturn { elements }
}

/// Tells telemetry what happens on a lane.
pub(crate) struct LaneObserver {
    /// Which lane.
    pub(crate) lane: LaneName,
    /// Counts and logs.
    pub(crate) telemetry: Telemetry,
}

impl Observer for LaneObserver {
    fn queued(&self, entries: usize, bytes: usize) {
        self.telemetry.lane_queue(self.lane, entries, bytes);
    }

    fn shed(&self, shed: &Shed) {
        self.telemetry.spool_shed(shed);
    }

    fn shed_from_memory(&self, entries: usize) {
        let class = match self.lane {
            LaneName::Returns => Class::Return,
            LaneName::Events => Class::Event,
        };
        self.telemetry.lane_shed(self.lane, class, entries);
    }

    fn undecodable(&self) {
        self.telemetry.spool_record_undecodable();
    }

    fn sent(&self, entries: usize) {
        self.telemetry.lane_sent(self.lane, entries);
    }
}

/// The ack *accepted* of a publication: the event by which the `salt` command and the MoM's job cache learn whom the lower
/// master targeted. Its tag is the bare jid, the one form that serves masters of every release.
pub(crate) fn ack(jid: &Jid, minions: &[MinionId], missing: &[String]) -> ForwardedEvent {
    let data = Value::map([
        ("jid", jid.into()),
        (
            "minions",
            Value::array(minions.iter().map(MinionId::as_str)),
        ),
        ("missing", Value::array(missing.iter().map(String::as_str))),
    ]);
    let names = minions
        .iter()
        .map(|minion| minion.as_str().len() + 3)
        .sum::<usize>();
    let bytes = 64 + names + missing.iter().map(|name| name.len() + 3).sum::<usize>();
    ForwardedEvent {
        tag: jid.as_str().to_owned(),
        data,
        bytes,
        is_ack: true,
    }
}

/// What became of a job that was not published here. It is worth as much as an ack: the MoM waits for the one or the other.
pub(crate) fn notice(notice: &JobNotice) -> ForwardedEvent {
    ForwardedEvent {
        tag: notice.tag(),
        bytes: 256 + notice.reason.len(),
        data: notice.data(),
        is_ack: true,
    }
}

#[cfg(test)]
mod tests {
    use salt_wire::commands::ReturnEvent;

    use super::*;

    fn ret(jid: &str, minion: &str) -> Return {
        let event = ReturnEvent {
            jid: jid.parse().expect("a jid"),
            id: minion.parse().expect("a minion id"),
            fun: "test.ping".into(),
            master_id: None,
            fields: Value::map([("return", Value::Bool(true))]),
        };
        Return {
            event,
            load: None,
            bytes: 10,
            heard_ms: 0,
        }
    }

    fn shape(batch: Vec<Return>) -> Vec<(String, Vec<String>)> {
        let id: MinionId = "site1".parse().expect("an id");
        let elements = syndic_return(&id, batch).elements.into_iter();
        let names = |element: &SyndicReturnElement| {
            element
                .returns
                .iter()
                .map(|(minion, _)| minion.to_string())
                .collect()
        };
        elements
            .map(|element| (element.jid.to_string(), names(&element)))
            .collect()
    }

    #[test]
    fn returns_are_grouped_by_job() {
        let batch = vec![ret("1", "a1"), ret("2", "a1"), ret("1", "a2")];
        let expected = [("1", vec!["a1", "a2"]), ("2", vec!["a1"])];
        let expected = expected.map(|(jid, minions)| {
            (
                jid.to_owned(),
                minions.into_iter().map(str::to_owned).collect::<Vec<_>>(),
            )
        });
        assert_eq!(shape(batch), expected);
    }

    #[test]
    fn second_return_of_a_minion_is_not_swallowed_by_the_first() {
        let batch = vec![ret("1", "a1"), ret("1", "a1"), ret("1", "a2")];
        let shapes = shape(batch);
        assert_eq!(
            shapes
                .iter()
                .map(|(_, minions)| minions.len())
                .sum::<usize>(),
            3
        );
        assert_eq!(shapes.len(), 2);
    }
}
