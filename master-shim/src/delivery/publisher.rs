//! Publishes one job on the lower master, once, for as long as it makes sense.
//!
//! A request whose reply does not come may have been carried out, or may be carried out yet: a master that stands still
//! takes it when it goes on. So there is one request at a time, and it is repeated only when the job cache does not know
//! the job and the request is lost for certain: the master has ended since, or answers others and not this one.

use std::{sync::Arc, time::Duration};

use daemon_kit::backoff::Backoff;
use salt_link::local_master::{LocalMaster, LocalMasterError};
use salt_wire::{commands::PublishReply, ids::MinionId, publication::PublicationLoad};

use crate::{
    job_cache::JobCache,
    lower_master::LowerMaster,
    telemetry::{LostAt, Telemetry},
    tenure::Tenure,
};

/// Pauses between attempts to publish.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Refusals by the lower master before a job is given up, so that one bad job does not hold up the others.
const REFUSALS_MAX: u32 = 3;

/// How often the job cache is asked about a request that is not answered.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Looks at which the master answered others before a request counts as lost: a large site matches targets for seconds.
const LOOKS_MAX: u32 = 6;

/// What became of a job.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The lower master has it and named the minions.
    Published {
        /// Whom it targeted.
        minions: Vec<MinionId>,
        /// Names of a list target that it does not know.
        missing: Vec<String>,
    },
    /// It will not take it; counted and logged.
    Refused,
    /// The job has expired before the lower master took it.
    Expired,
}

/// In which tenure a job is published: looked at right before each request.
#[derive(Clone, Copy)]
pub(super) struct Permit<'a> {
    pub(super) tenure: &'a Tenure,
    pub(super) fence: u64,
}

/// What came of one request.
enum Answer {
    Reply(Result<PublishReply, LocalMasterError>),
    /// No reply will come.
    Lost,
    /// No reply yet, but the job cache has the job.
    Published,
}

/// The lower master, as a place to publish on.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) local: Arc<LocalMaster>,
    pub(crate) master: LowerMaster,
    pub(crate) job_cache: JobCache,
    pub(crate) telemetry: Telemetry,
}

impl Publisher {
    /// Publishes until the lower master has answered, at most for `left`.
    pub(super) async fn publish(
        &self,
        load: &PublicationLoad,
        left: Duration,
        permit: Permit<'_>,
    ) -> Outcome {
        match tokio::time::timeout(left, self.until_answered(load, left, permit)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Outcome::Expired,
        }
    }

    async fn until_answered(
        &self,
        load: &PublicationLoad,
        left: Duration,
        permit: Permit<'_>,
    ) -> Outcome {
        let jid = load.jid();
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut refusals = 0;
        loop {
            self.master.up().await;
            permit.tenure.permitted(permit.fence).await;
            let refusal = match self.request(load, left).await {
                Answer::Reply(Ok(PublishReply::Published {
                    minions, missing, ..
                })) => return Outcome::Published { minions, missing },
                Answer::Reply(Ok(PublishReply::NoMatch { .. })) => {
                    return Outcome::Published {
                        minions: Vec::new(),
                        missing: Vec::new(),
                    };
                }
                Answer::Reply(Ok(PublishReply::AuthorizationError)) => {
                    return self.refused(load, "it does not allow it: publisher_acl or auth_list");
                }
                // A master that is starting refuses for a moment what it takes later.
                Answer::Reply(Ok(PublishReply::AuthenticationError)) => {
                    Some("authentication".to_owned())
                }
                Answer::Reply(Ok(PublishReply::Error(text))) => Some(text),
                Answer::Reply(Err(err)) => {
                    self.telemetry.publish_retried(jid, &err);
                    refusal_of(&err)
                }
                Answer::Lost => {
                    self.telemetry.publish_interrupted(jid);
                    None
                }
                Answer::Published => None,
            };
            if let Some(refusal) = refusal {
                refusals += 1;
                if refusals >= REFUSALS_MAX {
                    return self.refused(load, &refusal);
                }
            } else if let Some(minions) = self.published_after_all(load).await {
                return Outcome::Published {
                    minions,
                    missing: Vec::new(),
                };
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Sends one request and waits until it is answered, or will not be.
    async fn request(&self, load: &PublicationLoad, left: Duration) -> Answer {
        let sent = self.local.publish(load, left);
        tokio::pin!(sent);
        let mut answered_others = 0;
        loop {
            tokio::select! {
                reply = &mut sent => return Answer::Reply(reply),
                () = self.master.away() => return Answer::Lost,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            if self.job_cache.was_published(load.jid(), load.tgt()).await == Some(true) {
                return Answer::Published;
            }
            answered_others = match self.local.ping().await {
                Ok(()) => answered_others + 1,
                Err(_) => 0,
            };
            if answered_others >= LOOKS_MAX {
                return Answer::Lost;
            }
        }
    }

    /// Whether the request without a reply was carried out: the minions that the master's job cache names.
    async fn published_after_all(&self, load: &PublicationLoad) -> Option<Vec<MinionId>> {
        self.master.up().await;
        match self.job_cache.was_published(load.jid(), load.tgt()).await {
            Some(true) => Some(self.job_cache.minions(load.jid()).await),
            Some(false) | None => None,
        }
    }

    fn refused(&self, load: &PublicationLoad, why: &str) -> Outcome {
        let what = format!("the lower master refused job {}: {why}", load.jid());
        self.telemetry.lost(LostAt::LowerMaster, 1, &what);
        Outcome::Refused
    }
}

/// The reason of an error after which nothing was published and nothing better is to be expected.
fn refusal_of(err: &LocalMasterError) -> Option<String> {
    (!err.is_transient()).then(|| daemon_kit::chain(err).to_string())
}
