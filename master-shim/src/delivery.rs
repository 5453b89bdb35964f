//! Publishes one MoM's publications on the lower master: opened, checked, one after the other.
//!
//! One task per upstream. It owns the cursor; it is the only one that publishes jobs from above.
//!
//! ```text
//! link task ──Due──► DeliveryTask ──► open (AES, signature) ──► checks ──► lower master 4506 ──► ack, cursor
//! ```
//! - One publication at a time: the lower master gets them in the MoM's order.
//! - The cursor moves only when a publication is published, or will never be: expired, a loop, known here, unusable.
//! - A lower master that is away is waited for until the publication expires.
//! - What does not open is tried with the keys of a new sign-in, then with earlier keys, then counted as lost.

use std::{sync::Arc, time::Duration};

use daemon_kit::{CancellationToken, backoff::Backoff};
use relay_core::{
    entry::{EntryId, Publication as Entry},
    target::{self, Match, Target},
};
use salt_link::{
    local_master::LocalMaster,
    salt_config::MasterId,
    session::{Session, SessionKeys},
};
use salt_wire::{
    commands::PublishReply,
    crypticle::AesKey,
    ids::{Jid, MinionId},
    msgpack::Value,
    publication::{Publication, PublicationError, PublicationLoad, Signature},
};
use tokio::sync::mpsc;

use crate::{
    config::AnswerAsSite,
    cursor::Cursor,
    job_cache::JobCache,
    link::Due,
    probe::MinionWatch,
    serials::Serials,
    site::Message,
    skew::Skew,
    telemetry::{LostAt, Telemetry, age_since},
    upstream::{self, Lanes},
};

/// Pauses between attempts to publish.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Refusals by the lower master before a job is given up, so that one bad job does not hold up the others.
const REFUSALS_MAX: u32 = 3;

/// The function by which the `salt` command asks whether a job still runs.
const FIND_JOB: &str = "saltutil.find_job";

/// What the task is made of.
pub(crate) struct DeliveryParts {
    /// Index of the MoM in `syndic_master`.
    pub(crate) upstream: usize,
    /// The site's own id.
    pub(crate) id: MinionId,
    /// The lower master's `master_id`, by which loops are seen.
    pub(crate) master_id: Option<MasterId>,
    /// Whether an unsigned publication is refused (`sign_pub_messages` of the syndic).
    pub(crate) signature_required: bool,
    /// Whether to answer for the site's own id.
    pub(crate) answer_as_site: AnswerAsSite,
    /// A publication older than this is not run.
    pub(crate) job_ttl: Duration,
    /// From the link task.
    pub(crate) due: mpsc::Receiver<Due>,
    /// To the site task.
    pub(crate) site: mpsc::Sender<Message>,
    /// For acks.
    pub(crate) lanes: Lanes,
    /// The session with the MoM, for its keys.
    pub(crate) session: Arc<Session>,
    /// Where to publish.
    pub(crate) local: Arc<LocalMaster>,
    /// What the lower master knows already.
    pub(crate) job_cache: JobCache,
    /// Whether a salt-minion of the site's id runs on this host.
    pub(crate) minion: Arc<MinionWatch>,
    /// The clocks' difference.
    pub(crate) skew: Arc<Skew>,
    /// Counts and logs.
    pub(crate) telemetry: Telemetry,
}

/// The task; see the module's head.
pub(crate) struct DeliveryTask {
    parts: DeliveryParts,
    cursor: Cursor,
    serials: Serials,
}

/// Why a publication will never be published here.
enum Unusable {
    Frame(PublicationError),
    Unsigned,
}

impl DeliveryTask {
    /// A task that goes on behind `cursor`.
    pub(crate) fn new(parts: DeliveryParts, cursor: Cursor) -> Self {
        Self {
            parts,
            cursor,
            serials: Serials::default(),
        }
    }

    /// Runs until `shutdown`; a publication that waits then for the lower master or the MoM stays for the next start.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let due = tokio::select! {
                biased;
                () = shutdown.cancelled() => None,
                due = self.parts.due.recv() => due,
            };
            let entry_id = match due {
                Some(Due::Publication(entry)) => {
                    let entry_id = entry.entry_id;
                    tokio::select! {
                        biased;
                        () = self.deliver(&entry) => entry_id,
                        () = shutdown.cancelled() => break,
                    }
                }
                Some(Due::PassOver(entry_id)) => entry_id,
                None => break,
            };
            self.advance(entry_id);
            self.parts.telemetry.deliveries_queue(self.parts.due.len());
        }
        if let Err(err) = self.cursor.sync() {
            self.parts.telemetry.cursor_not_written(&err);
        }
    }

    fn advance(&mut self, entry_id: EntryId) {
        if let Err(err) = self.cursor.advance(entry_id) {
            self.parts.telemetry.cursor_not_written(&err);
        }
    }

    async fn deliver(&mut self, entry: &Entry) {
        self.parts
            .telemetry
            .publication_received(entry.entry_id, self.age(entry));
        let load = match self.open(entry).await {
            Ok(load) => load,
            Err(Unusable::Frame(err)) => {
                let what = daemon_kit::chain(&err).to_string();
                return self.parts.telemetry.lost(LostAt::Site, 1, &what);
            }
            Err(Unusable::Unsigned) => {
                let what = "the MoM has not signed it, and sign_pub_messages is on at this site";
                return self.parts.telemetry.lost(LostAt::Site, 1, what);
            }
        };
        let jid = load.jid().clone();
        self.parts
            .telemetry
            .publication_opened(entry.entry_id, &jid);
        if is_loop(&load, self.parts.master_id.as_ref()) {
            return self
                .parts
                .telemetry
                .publication_passed_over(&jid, "master_id is our own");
        }
        if self.parts.job_cache.was_published(&jid, load.tgt()).await == Some(true) {
            return self.parts.telemetry.duplicate_jid(&jid);
        }
        let unknown = load.unknown_fields();
        if !unknown.is_empty() {
            self.parts.telemetry.unknown_fields(&jid, &unknown);
        }
        self.publish(entry, &load).await;
    }

    /// Decrypts and verifies; waits for a sign-in when the key is not known.
    async fn open(&mut self, entry: &Entry) -> Result<PublicationLoad, Unusable> {
        let publication = Publication::parse(&entry.frame).map_err(Unusable::Frame)?;
        let keys = self.parts.session.signed_in().await;
        let (load, aes) = match self.decrypt(&publication) {
            Err(err) if err.is_wrong_key() => {
                self.parts
                    .session
                    .sign_in_again(&keys, "a publication does not open")
                    .await;
                self.decrypt(&publication)
            }
            opened => opened,
        }
        .map_err(Unusable::Frame)?;
        self.verify(&publication).await?;
        if let Some(serial) = load.serial() {
            let missing = self.serials.missing_before(&aes, serial, entry.entry_id);
            if missing > 0 {
                let what = format!("before serial {serial}, entry {}", entry.entry_id);
                self.parts.telemetry.lost(LostAt::Mom, missing, &what);
            }
        }
        Ok(load)
    }

    fn decrypt(
        &self,
        publication: &Publication,
    ) -> Result<(PublicationLoad, AesKey), PublicationError> {
        let mut result = None;
        for aes in self.parts.session.aes_keys() {
            match publication.decrypt(&aes) {
                Ok(load) => return Ok((load, aes)),
                // The current key's error tells most.
                Err(err) => result = result.or(Some(err)),
            }
        }
        Err(result.expect("a session that is signed in has a key"))
    }

    async fn verify(&self, publication: &Publication) -> Result<(), Unusable> {
        let keys: Arc<SessionKeys> = self.parts.session.signed_in().await;
        match publication.verify(&keys.credentials.master_key) {
            Ok(Signature::Absent) if self.parts.signature_required => Err(Unusable::Unsigned),
            Ok(Signature::Valid | Signature::Absent) => Ok(()),
            Err(err) => Err(Unusable::Frame(err)),
        }
    }

    /// Publishes until the lower master has answered, or the publication has expired.
    async fn publish(&self, entry: &Entry, load: &PublicationLoad) {
        let jid = load.jid();
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut refusals = 0;
        self.tell(Message::Publishing {
            jid: jid.clone(),
            upstream: self.parts.upstream,
        })
        .await;
        loop {
            let age = self.age(entry);
            if age > self.parts.job_ttl {
                return self.parts.telemetry.expired(jid, age);
            }
            match self.parts.local.publish(load, crate::PUBLISH_TIMEOUT).await {
                Ok(PublishReply::Published {
                    minions, missing, ..
                }) => {
                    self.parts
                        .telemetry
                        .publication_published(jid, minions.len(), self.age(entry));
                    return self.published(load, minions, missing).await;
                }
                Ok(PublishReply::NoMatch { .. }) => {
                    self.parts
                        .telemetry
                        .publication_published(jid, 0, self.age(entry));
                    return self.published(load, Vec::new(), Vec::new()).await;
                }
                Ok(PublishReply::AuthorizationError) => {
                    let what = format!(
                        "the lower master does not allow job {jid}: publisher_acl or auth_list"
                    );
                    return self.parts.telemetry.lost(LostAt::LowerMaster, 1, &what);
                }
                Ok(PublishReply::Error(text)) if refusals + 1 >= REFUSALS_MAX => {
                    let what = format!("the lower master refused job {jid}: {text}");
                    return self.parts.telemetry.lost(LostAt::LowerMaster, 1, &what);
                }
                // A master that is starting refuses for a moment what it takes later.
                Ok(PublishReply::Error(_) | PublishReply::AuthenticationError) => refusals += 1,
                Err(err) if !err.is_transient() && refusals + 1 >= REFUSALS_MAX => {
                    let why = daemon_kit::chain(&err);
                    let what = format!("the lower master did not take job {jid}: {why}");
                    return self.parts.telemetry.lost(LostAt::LowerMaster, 1, &what);
                }
                Err(err) => {
                    refusals += u32::from(!err.is_transient());
                    self.parts.telemetry.publish_retried(jid, &err);
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Tells the MoM whom the lower master targeted, and the site task what to wait for.
    async fn published(
        &self,
        load: &PublicationLoad,
        minions: Vec<MinionId>,
        mut missing: Vec<String>,
    ) {
        let jid = load.jid();
        let id = self.parts.id.as_str();
        missing.retain(|name| name != id);
        if !minions.is_empty() {
            self.parts
                .lanes
                .queue_event(upstream::ack(jid, &minions, &missing))
                .await;
        }
        let means_site = means_site(load, id);
        let answers = means_site && self.answers_for_site(&minions).await;
        let about = asked_about(load).filter(|_| answers);
        let message = Message::Published {
            jid: jid.clone(),
            fun: load.functions().join(","),
            minions: minions.iter().map(ToString::to_string).collect(),
            answers_for_site: answers && about.is_none(),
        };
        self.tell(message).await;
        if let Some(about) = about {
            self.tell(Message::Asked {
                about,
                query: jid.clone(),
            })
            .await;
        }
    }

    async fn answers_for_site(&self, minions: &[MinionId]) -> bool {
        match self.parts.answer_as_site {
            AnswerAsSite::Always => true,
            AnswerAsSite::Never => false,
            AnswerAsSite::Auto => {
                !minions.contains(&self.parts.id) && !self.parts.minion.runs().await
            }
        }
    }

    async fn tell(&self, message: Message) {
        // A site task that has ended did so because the daemon ends.
        drop(self.parts.site.send(message).await);
    }

    fn age(&self, entry: &Entry) -> Duration {
        age_since(entry.received_at_ms, self.parts.skew.millis())
    }
}

/// Salt's rule (`Syndic._handle_decoded_payload`): a missing `master_id` is 0 in the job and 1 in the configuration.
fn is_loop(load: &PublicationLoad, own: Option<&MasterId>) -> bool {
    let theirs = load.fields().get("master_id").unwrap_or(&Value::Int(0));
    match own {
        Some(MasterId::Text(own)) => theirs.as_str() == Some(own.as_str()),
        Some(MasterId::Int(own)) => theirs.as_i64() == Some(*own),
        None => theirs.as_i64() == Some(1),
    }
}

/// Whether the MoM waits for the site's own id to answer.
fn means_site(load: &PublicationLoad, id: &str) -> bool {
    let target = match load.tgt() {
        Value::Array(items) => Target::List(
            items
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        ),
        other => Target::Text(other.as_str().unwrap_or_default().to_owned()),
    };
    target::is_expected_without_data(load.tgt_type(), &target, id) == Match::Yes
}

/// The job that a `saltutil.find_job` asks about.
fn asked_about(load: &PublicationLoad) -> Option<Jid> {
    if load.functions() != [FIND_JOB] {
        return None;
    }
    let argument = load.arg().as_array()?.first()?.as_str()?;
    Jid::parse(argument).ok()
}
