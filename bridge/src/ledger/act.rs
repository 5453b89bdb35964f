//! What the ledger's decisions lead to: events, the audit, figures. Only the speaker fires and writes.

use relay_core::ledger::{Action, Published, State, Summary, Verdict};
use relay_core::target::Target;
use salt_wire::{ids::MinionId, msgpack::Value};

use super::{
    arguments, liveness,
    task::LedgerTask,
    tell::{self, AuditJob},
};

impl LedgerTask {
    pub(super) fn act(&mut self, actions: Vec<Action>, now_ms: u64) {
        for action in actions {
            self.act_one(action, now_ms);
        }
    }

    fn act_one(&mut self, action: Action, now_ms: u64) {
        let event = match action {
            Action::Load { jid } => return self.keeping.load(jid),
            Action::Shed { jid } => return self.telemetry.job_shed(&jid),
            Action::Expect {
                jid,
                site,
                minions,
                missing,
            } => tell::expected(&self.bridge, &jid, &site, minions, missing),
            Action::SiteMissing(missing) => tell::site_missing(&self.bridge, &missing),
            Action::SiteUp {
                site,
                since_ms,
                minions,
            } => {
                self.telemetry.site_up(&site);
                tell::site(&site, true, since_ms, "", minions)
            }
            Action::SiteDown {
                site,
                since_ms,
                reason,
                minions,
            } => {
                self.telemetry.site_down(&site, &reason);
                tell::site(&site, false, since_ms, &reason, minions)
            }
            Action::Ended {
                state,
                summary,
                missing,
                asked,
            } => {
                self.count_missing(state, &summary);
                self.audit_end(state, &summary, &asked, now_ms);
                tell::ended(state, &summary, &missing)
            }
        };
        if self.speaker.speaks() {
            self.firing.fire(event.0, event.1);
        }
    }

    fn count_missing(&self, state: State, summary: &Summary) {
        if state == State::Complete {
            return;
        }
        for site in &summary.sites {
            for verdict in Verdict::ALL.into_iter().filter(|one| one.is_missing()) {
                let count = site.count(verdict) as u64;
                if count > 0 {
                    self.telemetry.missing(&site.site, verdict.as_str(), count);
                }
            }
        }
    }

    /// One line for each job that appears, but for the `salt` command's own questions.
    pub(super) fn audit_job(
        &self,
        published: &Published,
        arg: &Value,
        actions: &[Action],
        now_ms: u64,
    ) {
        let Some((audit, how)) = &self.audit else {
            return;
        };
        if !self.speaker.speaks() || published.fun == relay_core::ledger::FIND_JOB {
            return;
        }
        let told = actions.iter().map(|action| match action {
            Action::Expect {
                minions, missing, ..
            } => minions.len() + missing.len(),
            _ => 0,
        });
        let own = published.mom_minions.iter();
        let own = own.filter(|id| self.ledger.site(id).is_none()).count();
        let tgt = match &published.tgt {
            Target::Text(text) => arguments::json(&text.as_str().into(), 0),
            Target::List(ids) => {
                let ids = ids.iter().map(String::as_str);
                arguments::json(&Value::array(ids), 0)
            }
        };
        let arg = (*how != arguments::Arguments::Left).then(|| how.told(arg));
        let line = tell::audit_job(
            now_ms,
            &AuditJob {
                jid: &published.jid,
                user: &published.user,
                fun: &published.fun,
                tgt,
                tgt_type: &published.tgt_type,
                arg,
                expected: own + told.sum::<usize>(),
            },
        );
        audit.write(line.to_string().into_bytes());
    }

    /// One line for each job that an operator has sent again.
    pub(super) fn audit_again(&self, jid: &str, minions: &[MinionId], user: &str, now_ms: u64) {
        if let Some((audit, _)) = &self.audit
            && self.speaker.speaks()
        {
            let line = tell::audit_again(now_ms, jid, user, minions);
            audit.write(line.to_string().into_bytes());
        }
    }

    fn audit_end(&self, state: State, summary: &Summary, asked: &[String], now_ms: u64) {
        let Some((audit, _)) = &self.audit else {
            return;
        };
        if !self.speaker.speaks() {
            return;
        }
        let is_down = |site: &str| {
            let site = self.liveness.get(site);
            site.is_some_and(|site| site.state == liveness::State::Down)
        };
        let asked = asked.iter().map(String::as_str);
        let without = summary.sites.iter();
        let without = without.filter(|site| site.count(Verdict::Unreachable) > 0);
        let mut unreachable: Vec<&str> = asked.filter(|site| is_down(site)).collect();
        unreachable.extend(without.map(|site| site.site.as_str()));
        unreachable.sort_unstable();
        unreachable.dedup();
        let line = tell::audit_end(now_ms, state, summary, &unreachable);
        audit.write(line.to_string().into_bytes());
    }
}
