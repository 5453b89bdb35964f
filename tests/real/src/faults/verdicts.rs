//! What the ledger says of each job and minion, beside what the minions themselves wrote.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use serde_json::Value;
use testkit::{Daemon, wait_until};

use crate::ledger::ask;

/// The ledger hears of the last returns over the same bus as `salt`, but of expired jobs only from their site.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);

/// By jid and minion, what became of a job.
pub(super) type Truth = BTreeMap<(String, String), &'static str>;

/// Waits until the ledger says the same as `truth`, and returns what it says otherwise, as sentences.
///
/// # Errors
/// When the bridge does not answer.
pub(super) fn misjudged(bridge: &Daemon, truth: &Truth) -> Result<Vec<String>> {
    let mut last: Result<Vec<String>> = Ok(Vec::new());
    let same = wait_until("the ledger's verdicts", SETTLED_WITHIN, || {
        last = look(bridge, truth);
        match &last {
            Ok(wrong) if wrong.is_empty() => Ok(()),
            Ok(wrong) => Err(wrong.join(", ")),
            Err(err) => Err(format!("{err:#}")),
        }
    });
    match same {
        Ok(()) => Ok(Vec::new()),
        Err(_) => last,
    }
}

fn look(bridge: &Daemon, truth: &Truth) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut told: Option<(&str, Value)> = None;
    for ((jid, minion), truth) in truth {
        let job = match &told {
            Some((known, job)) if *known == jid => job,
            _ => &told.insert((jid, ask(bridge, &format!("jobs/{jid}"))?)).1,
        };
        let minions = job["minions"].as_array().into_iter().flatten();
        let verdict = minions
            .filter(|told| told["id"] == minion.as_str())
            .find_map(|told| told["verdict"].as_str())
            .unwrap_or("unknown to it");
        if verdict != *truth {
            wrong.push(format!("{jid} {minion}: {truth}, says {verdict}"));
        }
    }
    Ok(wrong)
}
