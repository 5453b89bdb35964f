//! Keeps one upstream's session standing: signs in at the start, tells how it goes, announces the site.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use daemon_kit::{CancellationToken, http::Condition, unix_millis};
use jiff::Timestamp;
use redis_link::{ReplyEvent, Tunnel, TunnelError};
use salt_link::{
    requester::{RequestError, RequestFuture, Requester},
    session::Session,
    sign_in::{SignInCounts, SignInStatus},
};
use salt_wire::commands::MinionEvents;
use tokio::sync::mpsc;
use tracing::debug;

use crate::telemetry::Telemetry;

/// How long the MoM may take for the start events.
const START_EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The tunnel as a way to the MoM's request port.
pub(crate) struct TunnelRequester(pub(crate) Arc<Tunnel>);

impl Requester for TunnelRequester {
    fn request(&self, frame: Bytes, timeout: Duration) -> RequestFuture<'_> {
        Box::pin(async move {
            let sent = self.0.request(frame, unix_millis(), timeout).await;
            sent.map_err(|err| {
                debug!(error = %daemon_kit::chain(&err), "no reply through the tunnel");
                match err {
                    TunnelError::Refused { reason, .. } => RequestError::Refused { reason },
                    TunnelError::Send { source, .. } if !source.is_transient() => {
                        let reason = daemon_kit::chain(&source).to_string();
                        RequestError::Refused { reason }
                    }
                    TunnelError::Closed => RequestError::Closed,
                    TunnelError::MasterTimedOut { .. }
                    | TunnelError::DeadlineExceeded { .. }
                    | TunnelError::Send { .. } => RequestError::TimedOut { after: timeout },
                }
            })
        })
    }
}

/// Counts what came by the channel of replies and is none, until the tunnel ends.
pub(crate) async fn watch_replies(mut events: mpsc::Receiver<ReplyEvent>, telemetry: Telemetry) {
    while let Some(event) = events.recv().await {
        match event {
            ReplyEvent::Malformed { reason } => telemetry.link_malformed("replies", &reason),
            ReplyEvent::Down { reason, .. } => debug!(reason, "replies are not heard"),
            // Replies go to the requests that wait for them; what they miss shows in their errors.
            ReplyEvent::Up
            | ReplyEvent::Reply { .. }
            | ReplyEvent::Refused { .. }
            | ReplyEvent::TimedOut { .. } => {}
        }
    }
}

/// Signs in, and tells `condition` and the metrics how it stands, until `shutdown`.
pub(crate) async fn run(
    session: Arc<Session>,
    legacy_start_event: bool,
    condition: Condition,
    telemetry: Telemetry,
    shutdown: CancellationToken,
) {
    let announce = async {
        session.signed_in().await;
        announce(&session, legacy_start_event, &telemetry).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = announce => {}
        () = watch(&session, &condition, &telemetry) => {}
    }
}

async fn watch(session: &Session, condition: &Condition, telemetry: &Telemetry) {
    let mut status = session.sign_in().status();
    let mut before = SignInCounts::default();
    loop {
        match &*status.borrow_and_update() {
            SignInStatus::Accepted => {
                condition.holds();
            }
            SignInStatus::NotYet => {
                condition.fails("not yet");
            }
            SignInStatus::Pending => {
                condition.fails(format_args!(
                    "the key waits for acceptance: run `salt-key -a {}` on the MoM",
                    session.id()
                ));
            }
            SignInStatus::Refused(reason) | SignInStatus::Failing(reason) => {
                condition.fails(reason);
            }
        }
        let counts = session.sign_in().counts();
        telemetry.sign_ins(&counts, &before);
        before = counts;
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Fires what salt-syndic fires when it has connected (`Syndic.fire_master_syndic_start`), for reactors.
async fn announce(session: &Session, legacy: bool, telemetry: &Telemetry) {
    let id = session.id();
    let time = Timestamp::now().strftime("%a %b %e %H:%M:%S %Y");
    let text = format!("Syndic {id} started at {time}");
    let tag = format!("salt/syndic/{id}/start");
    let tags = legacy
        .then(|| "syndic_start".to_owned())
        .into_iter()
        .chain([tag]);
    for tag in tags {
        let event = MinionEvents::Single {
            tag,
            data: text.as_str().into(),
        };
        let load = event.into_load(session.identity());
        if let Err(err) = session
            .authenticated_request(load, START_EVENT_TIMEOUT)
            .await
        {
            telemetry.start_event_failed(&err);
        }
    }
}
