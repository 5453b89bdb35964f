//! Does what [`SiteJobs`](relay_core::jobs::SiteJobs) has decided: answers for the site's own id, and asks minions.

use std::sync::Arc;

use daemon_kit::{chain, unix_millis};
use relay_core::jobs::Action;
use salt_wire::ids::Jid;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{SiteTask, origins::Origin, probes::Found, routing::Return, summary};

impl SiteTask {
    pub(super) async fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Answer(answer) => {
                    debug!(jid = %answer.jid, expected = answer.expected, returned = answer.returned,
                        missing = answer.missing_count, "job over at this site");
                    if let Ok(jid) = Jid::parse(&answer.jid) {
                        self.answer(summary::summary(&self.parts.id, jid, &answer))
                            .await;
                    }
                }
                Action::Probe { jid, minions } => self.probe(&jid, minions),
                Action::StillRunning {
                    jid,
                    query,
                    running,
                } => {
                    self.answer_query(&query, &jid, running).await;
                }
                Action::NotRunning { jid, query } => self.answer_query(&query, &jid, 0).await,
                Action::Shed { jid } => self.parts.telemetry.job_shed(&jid),
            }
        }
    }

    pub(super) async fn probed(&mut self, found: Found) {
        let running = found.running.iter().map(String::as_str);
        let actions = self
            .jobs
            .probed(found.about.as_str(), running, unix_millis());
        self.act(actions).await;
    }

    async fn answer_query(&mut self, query: &str, about: &str, running: usize) {
        if let Ok(query) = Jid::parse(query) {
            let ret = summary::find_job_answer(&self.parts.id, query, about, running);
            self.answer(ret).await;
        }
    }

    async fn answer(&mut self, ret: Return) {
        let upstream = match self.parts.router.origins.get(&ret.event.jid) {
            Some(Origin::Upstream { index, .. }) => Some(*index),
            Some(Origin::Local { .. } | Origin::Probe) | None => None,
        };
        self.queue_return(ret, upstream).await;
    }

    /// Asks `minions` whether they run `about`, under a jid of the shim's own that stays at this site.
    fn probe(&mut self, about: &str, minions: Vec<String>) {
        let Ok(about) = Jid::parse(about) else { return };
        let jid = self.parts.prober.next_jid();
        self.parts.router.origins.note(&jid, Origin::Probe);
        self.probes
            .start(jid.clone(), about.clone(), &minions, Instant::now());
        let prober = Arc::clone(&self.parts.prober);
        self.publishes.spawn(async move {
            match prober.find_job(&jid, &about, &minions).await {
                Ok(()) => None,
                Err(err) => {
                    warn!(error = %chain(&err), %about, "failed to ask the minions about a job");
                    Some(jid)
                }
            }
        });
    }
}
