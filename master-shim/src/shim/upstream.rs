//! Builds the tasks of one MoM: tenure, link, delivery, session, lanes, announcements.

use std::sync::Arc;

use anyhow::Context as _;
use daemon_kit::{CancellationToken, Tasks};
use redis_link::{
    RequestsConfig, SiteLease, StreamReader, Subscription, SubscriptionConfig, Tunnel, TunnelConfig,
};
use salt_link::{
    salt_config::SyndicConfig,
    session::{Session, SessionConfig},
    sign_in::{SignIn, SignInConfig},
};
use tokio::sync::mpsc;

use super::{Shim, lane_numbers::lane_number};
use crate::{
    aes_keys::AesKeyFile,
    announcements::{AnnouncementsParts, AnnouncementsTask, Figures, News},
    config::{Config, Relay},
    cursor::Cursor,
    delivery::{DeliveryParts, DeliveryTask, Publisher, records::Records},
    lag::Lag,
    lane::{Item, LaneConfig, LaneDisk, LaneTask, Sender},
    link::{Begin, Due, LinkParts, LinkTask},
    session::{self, TunnelRequester},
    site::Message,
    skew::Skew,
    telemetry::{LaneName, Telemetry},
    tenure::{Holder, Tenure, TenureTask},
    upstream::{self, LANE_CHANNEL, LaneObserver, Lanes, Uplink},
};

/// Link events on their way to the link task; when full, publications are dropped and read from the stream.
const LINK_EVENTS: usize = 1024;

/// What the channel of replies tells besides replies; when full the rest is not counted.
const REPLY_EVENTS: usize = 1024;

/// Publications that wait for the delivery; when full the link task waits.
const DUE: usize = 256;

/// What the tasks of one MoM share.
struct Side<'a> {
    relay: &'a Relay,
    tenure: Tenure,
    skew: Arc<Skew>,
    lag: Arc<Lag>,
    news: News,
    telemetry: Telemetry,
}

impl Shim<'_> {
    /// Starts everything that belongs to one MoM.
    pub(crate) fn start_upstream(
        &mut self,
        index: usize,
        messages: mpsc::Sender<Message>,
        tasks: &mut Tasks,
    ) -> anyhow::Result<(Lanes, Arc<Figures>)> {
        let relay = self
            .config
            .relays
            .get(index)
            .context("an upstream has a relay")?;
        let upstream = self
            .config
            .syndic
            .upstreams
            .get(index)
            .context("a relay has an upstream")?;
        let session = self.start_session(relay, tasks)?;
        let returns = self.start_lane(relay, LaneName::Returns, upstream::RETURNS, &session, tasks);
        let events = self.start_lane(relay, LaneName::Events, upstream::EVENTS, &session, tasks);
        let lanes = Lanes::new(upstream.host.clone(), Arc::clone(&session), returns, events);

        let cursor = Cursor::open(&self.config.state_dir, &relay.mom)?;
        let finished = CancellationToken::new();
        let side = Side {
            relay,
            tenure: self.start_tenure(relay, finished.clone(), tasks)?,
            skew: Arc::default(),
            lag: Arc::default(),
            news: News::default(),
            telemetry: self.telemetry.of_upstream(),
        };
        let (due, from_link) = mpsc::channel(DUE);
        self.start_link(&side, &cursor, due, tasks);
        let figures = self.start_announcements(&side, &cursor, session, tasks);
        let delivery = DeliveryParts {
            upstream: index,
            id: self.config.id.clone(),
            master_id: self.config.syndic.master_id.clone(),
            signature_required: self.config.syndic.sign_pub_messages,
            answer_as_site: self.config.answer_as_site,
            job_ttl: self.config.job_ttl,
            due: from_link,
            site: messages,
            lanes: lanes.clone(),
            publisher: Publisher {
                local: Arc::clone(&self.local),
                direct: Arc::clone(&self.direct),
                master: self.master.clone(),
                job_cache: self.job_cache.clone(),
                telemetry: side.telemetry.clone(),
            },
            tenure: side.tenure,
            minion: Arc::clone(&self.minion),
            roster: self.roster.clone(),
            receipts: self.config.receipts.clone(),
            skew: side.skew,
            telemetry: side.telemetry,
        };
        let records = Records::new(self.jobs.clone(), self.disk.clone(), &self.config.id);
        let delivery = DeliveryTask::new(delivery, cursor, records);
        let delivery = delivery.run(tasks.shutdown().clone());
        // The lease is given back when nothing more is published.
        let guard = finished.drop_guard();
        tasks.spawn(format!("delivery-{}", relay.mom), async move {
            delivery.await;
            drop(guard);
        });
        Ok((lanes, figures))
    }

    fn start_announcements(
        &self,
        side: &Side<'_>,
        cursor: &Cursor,
        session: Arc<Session>,
        tasks: &mut Tasks,
    ) -> Arc<Figures> {
        let figures = Arc::new(Figures {
            lag: Arc::clone(&side.lag),
            cursor: cursor.entry_id(),
            tenure: side.tenure.clone(),
            spool: self.spool.clone(),
            last_hop: self.last_hop.clone(),
        });
        let parts = AnnouncementsParts {
            site: self.config.id.clone(),
            run: self.run.clone(),
            roster: self.roster.clone(),
            figures: Arc::clone(&figures),
            news: side.news.clone(),
            session,
            telemetry: side.telemetry.clone(),
        };
        let task = AnnouncementsTask::new(parts).run(tasks.shutdown().clone());
        tasks.spawn(format!("announcements-{}", side.relay.mom), task);
        figures
    }

    fn start_tenure(
        &self,
        relay: &Relay,
        finished: CancellationToken,
        tasks: &mut Tasks,
    ) -> anyhow::Result<Tenure> {
        let holder = Holder::open(&self.config.state_dir, &relay.mom)
            .context("failed to read the lease's file in state_dir")?;
        let tenure = Tenure::new(holder.in_company());
        let name = holder.name().to_owned();
        let lease = SiteLease::new(&self.redis, &relay.keys, &self.config.site, name);
        let task = TenureTask::new(tenure.clone(), lease, holder, self.telemetry.clone());
        tasks.spawn(format!("lease-{}", relay.mom), task.run(finished));
        Ok(tenure)
    }

    fn start_link(
        &self,
        side: &Side<'_>,
        cursor: &Cursor,
        due: mpsc::Sender<Due>,
        tasks: &mut Tasks,
    ) {
        let relay = side.relay;
        let (sender, events) = mpsc::channel(LINK_EVENTS);
        let subscription =
            Subscription::new(&self.redis, &relay.keys, SubscriptionConfig::default());
        tasks.spawn(
            format!("subscription-{}", relay.mom),
            subscription.run(sender),
        );
        let parts = LinkParts {
            events,
            reader: Arc::new(StreamReader::new(&self.redis, relay.keys.clone())),
            due,
            tenure: side.tenure.clone(),
            cursor: cursor.entry_id(),
            begin: if self.job_cache.is_quick() {
                Begin::WithUnexpired
            } else {
                Begin::FromNowOn
            },
            lag: Arc::clone(&side.lag),
            news: side.news.clone(),
            skew: Arc::clone(&side.skew),
            job_ttl: self.config.job_ttl,
            redis: self.readiness.condition(format!("bridge {}", relay.mom)),
            telemetry: side.telemetry.clone(),
        };
        tasks.spawn(
            format!("link-{}", relay.mom),
            LinkTask::new(parts).run(tasks.shutdown().clone()),
        );
    }

    fn start_session(&self, relay: &Relay, tasks: &mut Tasks) -> anyhow::Result<Arc<Session>> {
        let (tunnel, replies) = Tunnel::new(
            &self.redis,
            &relay.keys,
            &self.config.site,
            RequestsConfig::default(),
            TunnelConfig::default(),
        );
        let (events, heard) = mpsc::channel(REPLY_EVENTS);
        tasks.spawn(
            format!("reply-events-{}", relay.mom),
            session::watch_replies(heard, self.telemetry.clone()),
        );
        tasks.spawn(format!("replies-{}", relay.mom), replies.run(events));
        let requester = Arc::new(TunnelRequester(Arc::new(tunnel)));
        let sign_in = SignIn::new(sign_in_config(self.config)?, requester)?;
        let keys = AesKeyFile::open(&self.config.state_dir, &relay.mom, self.telemetry.clone())
            .context("failed to read the AES keys in state_dir")?;
        let session = Session::new(sign_in, SessionConfig::default())?.with_store(Arc::new(keys));
        let session = Arc::new(session);
        let run = session::run(
            Arc::clone(&session),
            self.config.syndic.enable_legacy_startup_events,
            self.readiness
                .condition(format!("signed in at {}", relay.mom)),
            self.telemetry.clone(),
            tasks.shutdown().clone(),
        );
        tasks.spawn(format!("session-{}", relay.mom), run);
        Ok(session)
    }

    fn start_lane<T: Item>(
        &self,
        relay: &Relay,
        name: LaneName,
        bounds: LaneConfig,
        session: &Arc<Session>,
        tasks: &mut Tasks,
    ) -> mpsc::Sender<T>
    where
        Uplink: Sender<T>,
    {
        let (sender, items) = mpsc::channel(LANE_CHANNEL);
        let uplink = Uplink {
            id: self.config.id.clone(),
            session: Arc::clone(session),
            jobs: self.jobs.clone(),
            unanswered: self.unanswered.clone(),
            disk: self.disk.clone(),
            telemetry: self.telemetry.clone(),
        };
        let on_disk = LaneDisk {
            spool: self.spool.clone(),
            lane: lane_number(&relay.mom, name),
            disk: self.disk.clone(),
        };
        let observer = LaneObserver {
            lane: name,
            telemetry: self.telemetry.clone(),
        };
        let lane = LaneTask::new(bounds, items, on_disk, uplink, observer);
        tasks.spawn(
            format!("{}-{}", name.as_str(), relay.mom),
            lane.run(tasks.shutdown().clone()),
        );
        sender
    }
}

fn sign_in_config(config: &Config) -> anyhow::Result<SignInConfig> {
    let syndic: &SyndicConfig = &config.syndic;
    let mut sign_in = SignInConfig::new(config.id.clone(), syndic.pki_dir.clone());
    sign_in.keysize = syndic.keysize;
    sign_in.master_key_file = syndic.upstream_key();
    sign_in.enc_algo = syndic.encryption_algorithm.parse()?;
    sign_in.sig_algo = syndic.signing_algorithm.parse()?;
    sign_in.finger = syndic
        .syndic_finger
        .clone()
        .or_else(|| syndic.master_finger.clone());
    sign_in.hash_type.clone_from(&syndic.hash_type);
    sign_in.signing_key_file = syndic.signing_key();
    sign_in.always_verify_signature = syndic.always_verify_signature;
    sign_in.auth_timeout = syndic.auth_timeout;
    sign_in.acceptance_wait = syndic.acceptance_wait_time;
    sign_in.acceptance_wait_max = syndic.acceptance_wait_time_max;
    Ok(sign_in)
}
