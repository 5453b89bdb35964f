//! Publishes one job on the lower master, once, for as long as it makes sense.
//!
//! A request whose reply does not come may have been carried out, or may be carried out yet: a master that stands still
//! takes it when it goes on. So there is one request at a time, and it is repeated only when the job cache does not know
//! the job and the request is lost for certain: the master has ended since, or answers others and not this one.

use std::{sync::Arc, time::Duration};

use daemon_kit::backoff::Backoff;
use salt_link::{
    DirectPublisher,
    local_master::{LocalMaster, LocalMasterError},
    requester::{Replies, RequestError},
};
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
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks at which the master answered others before a request counts as lost: a large site matches targets for seconds.
const LOOKS_MAX: u32 = 30;

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
    /// The lower master has it, and it means none of its minions.
    NoMatch,
    /// It will not take it; counted and logged.
    Refused {
        /// Why, by its own words.
        why: String,
    },
    /// The job has expired before the lower master took it.
    Expired,
}

/// Publications on their way to the lower master, each sent as soon as the one before was published.
pub(super) struct Burst {
    publisher: Publisher,
    replies: Replies,
}

impl Burst {
    /// What became of the next one, whose load is given.
    pub(super) async fn next(&mut self, load: &PublicationLoad) -> Next {
        let reply = async {
            match self.replies.next().await {
                Some(reply) => PublishReply::parse(&reply).map_err(LocalMasterError::Reply),
                None => Err(LocalMasterError::Request(RequestError::Closed)),
            }
        };
        match self.publisher.await_answer(load, reply).await {
            Answer::Reply(Ok(PublishReply::Published {
                minions, missing, ..
            })) => Next::Published { minions, missing },
            Answer::Reply(Ok(PublishReply::NoMatch { .. })) => Next::NoMatch,
            Answer::Reply(Ok(_) | Err(_)) => Next::Ended { maybe_sent: false },
            Answer::Lost | Answer::Published => Next::Ended { maybe_sent: true },
        }
    }
}

/// See [`Burst::next`].
pub(super) enum Next {
    /// As [`Outcome::Published`].
    Published {
        minions: Vec<MinionId>,
        missing: Vec<String>,
    },
    /// As [`Outcome::NoMatch`].
    NoMatch,
    /// This one and the following ones are to be published singly.
    Ended {
        /// Whether a request of this one may have been carried out.
        maybe_sent: bool,
    },
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
    pub(crate) direct: Arc<DirectPublisher>,
    pub(crate) master: LowerMaster,
    pub(crate) job_cache: JobCache,
    pub(crate) telemetry: Telemetry,
}

impl Publisher {
    /// Begins to publish these one after the other, for as long as `go_on` says so. `None` when they are to be
    /// published singly.
    pub(super) async fn begin_burst(
        &self,
        loads: &[&PublicationLoad],
        permit: Permit<'_>,
        go_on: impl Fn() -> bool + Send + 'static,
    ) -> Option<Burst> {
        self.master.up().await;
        permit.tenure.permitted(permit.fence).await;
        match self.local.publish_all(loads, go_on)? {
            Ok(replies) => Some(Burst {
                publisher: self.clone(),
                replies,
            }),
            // The single publish tells.
            Err(_) => None,
        }
    }

    /// Publishes until the lower master has answered, at most for `left`. `maybe_sent`: an earlier request may have been
    /// carried out.
    pub(super) async fn publish(
        &self,
        load: &PublicationLoad,
        left: Duration,
        permit: Permit<'_>,
        maybe_sent: bool,
    ) -> Outcome {
        let publishing = async {
            if maybe_sent && let Some(minions) = self.published_after_all(load).await {
                return Outcome::Published {
                    minions,
                    missing: Vec::new(),
                };
            }
            self.until_answered(load, left, permit).await
        };
        match tokio::time::timeout(left, publishing).await {
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
                Answer::Reply(Ok(PublishReply::NoMatch { .. })) => return Outcome::NoMatch,
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
        self.await_answer(load, self.local.publish(load, left))
            .await
    }

    /// Waits for the reply of a request that was sent, as long as there is hope.
    async fn await_answer(
        &self,
        load: &PublicationLoad,
        sent: impl Future<Output = Result<PublishReply, LocalMasterError>>,
    ) -> Answer {
        tokio::pin!(sent);
        let mut answered_others = 0;
        loop {
            tokio::select! {
                reply = &mut sent => return Answer::Reply(reply),
                () = self.master.away() => return Answer::Lost,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            if self.job_cache.is_quick()
                && self.job_cache.was_published(load.jid(), load.tgt()).await == Some(true)
                // A master that still works out the minions has written the jid alone.
                && !self.job_cache.minions(load.jid()).await.is_empty()
            {
                return Answer::Published;
            }
            answered_others = tokio::select! {
                reply = &mut sent => return Answer::Reply(reply),
                ping = self.local.ping() => match ping {
                    Ok(()) => answered_others + 1,
                    Err(_) => 0,
                },
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
        let why = format!("the lower master refused it: {why}");
        Outcome::Refused { why }
    }
}

/// The reason of an error after which nothing was published and nothing better is to be expected.
fn refusal_of(err: &LocalMasterError) -> Option<String> {
    (!err.is_transient()).then(|| daemon_kit::chain(err).to_string())
}
