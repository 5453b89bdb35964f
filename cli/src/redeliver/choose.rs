//! Who is sent a job again, of whom nobody knows, and who is not, with the reason. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::field::Field;

const DOUBTFUL: &str = "gives no receipts: nobody knows whether it ran the job";
const RETURNED: &str = "has returned";

/// The three.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Who surely did not get it.
    pub(super) send: Vec<String>,
    /// Of whom nobody knows.
    pub(super) doubtful: Vec<String>,
    /// Who is not sent it, and why.
    pub(super) refused: BTreeMap<String, &'static str>,
}

impl Choice {
    /// Chooses among `wanted`, or among all minions of `job`; `job` is `None` when the ledger does not know it.
    pub(super) fn of(job: Option<&Value>, wanted: Option<&[String]>) -> Self {
        let mut choice = Self::default();
        let Some(job) = job else {
            choice.doubtful = sorted(wanted.unwrap_or_default().iter().cloned());
            return choice;
        };
        let known: BTreeMap<&str, &Value> = job
            .list("minions")
            .iter()
            .map(|minion| (minion.text("id"), minion))
            .collect();
        let asked = match wanted {
            Some(ids) => sorted(ids.iter().cloned()),
            None => known.keys().map(|id| (*id).to_owned()).collect(),
        };
        for id in asked {
            let minion = known.get(id.as_str()).copied();
            match minion.map_or(Some("the job did not mean it"), why_not) {
                // Most of a job has returned; that is told of those who were named.
                Some(RETURNED) if wanted.is_none() => {}
                Some(why) => {
                    choice.refused.insert(id, why);
                }
                None if minion.is_some_and(is_sure) => choice.send.push(id),
                None => choice.doubtful.push(id),
            }
        }
        choice
    }

    /// What a person said about those of whom nobody knows.
    pub(super) fn settle(&mut self, yes: bool) {
        let doubtful = std::mem::take(&mut self.doubtful);
        if yes {
            self.send = sorted(std::mem::take(&mut self.send).into_iter().chain(doubtful));
        } else {
            let refused = doubtful.into_iter().map(|id| (id, DOUBTFUL));
            self.refused.extend(refused);
        }
    }
}

fn sorted(ids: impl Iterator<Item = String>) -> Vec<String> {
    let mut ids: Vec<String> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Why the job does not go to this minion in any case.
fn why_not(minion: &Value) -> Option<&'static str> {
    let (step, verdict) = (minion.text("step"), minion.text("verdict"));
    match (step, verdict) {
        ("returned" | "failed", _) | (_, "returned" | "failed") => Some(RETURNED),
        (_, "unmatched") => Some("its lower master does not have it any more"),
        ("received" | "running", _) | (_, "running") => {
            Some("has got the job, and has not returned yet")
        }
        _ if !minion.part("received_ms").is_null() => {
            Some("has got the job, and has not returned yet")
        }
        _ => None,
    }
}

/// Whether it is known that it did not get the job: its site did not publish it, or it gives receipts.
fn is_sure(minion: &Value) -> bool {
    minion.text("verdict") != "unknown"
        && (minion.text("step") == "expected" || minion.flag("receipts"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job() -> Value {
        let minion = |id: &str, step: &str, verdict: &str, receipts: bool, at: Value| json!({"id": id, "step": step, "verdict": verdict, "receipts": receipts, "received_ms": at});
        json!({"minions": [
            minion("back", "returned", "returned", true, json!(4)),
            minion("failed", "failed", "failed", true, json!(4)),
            minion("runs", "running", "running", true, json!(4)),
            minion("has", "received", "silent", true, json!(4)),
            minion("got", "accepted", "silent", true, json!(0)),
            minion("gone", "unmatched", "unmatched", true, Value::Null),
            minion("missed", "accepted", "not_received", true, Value::Null),
            minion("cut", "expected", "unreachable", false, Value::Null),
            minion("mute", "accepted", "silent", false, Value::Null),
            minion("unheard", "accepted", "unknown", true, Value::Null),
        ]})
    }

    fn refused(choice: &Choice) -> Vec<&str> {
        choice.refused.keys().map(String::as_str).collect()
    }

    #[test]
    fn all_that_surely_did_not_get_it_are_sent_it_and_nobody_who_has_it() {
        let mut choice = Choice::of(Some(&job()), None);
        assert_eq!(choice.send, ["cut", "missed"]);
        assert_eq!(choice.doubtful, ["mute", "unheard"]);
        assert_eq!(refused(&choice), ["gone", "got", "has", "runs"]);
        choice.settle(true);
        assert_eq!(choice.send, ["cut", "missed", "mute", "unheard"]);
    }

    #[test]
    fn who_is_in_doubt_is_left_out_unless_a_person_says_otherwise() {
        let mut choice = Choice::of(Some(&job()), None);
        choice.settle(false);
        assert_eq!(choice.send, ["cut", "missed"]);
        assert_eq!(choice.refused["mute"], DOUBTFUL);
    }

    #[test]
    fn whoever_is_named_and_not_sent_it_is_told_why() {
        let named = ["missed", "back", "stranger", "missed"].map(str::to_owned);
        let choice = Choice::of(Some(&job()), Some(&named));
        assert_eq!(choice.send, ["missed"]);
        assert_eq!(refused(&choice), ["back", "stranger"]);
        assert_eq!(choice.refused["back"], RETURNED);
    }

    #[test]
    fn without_the_ledger_everybody_is_in_doubt() {
        let named = ["b", "a"].map(str::to_owned);
        let choice = Choice::of(None, Some(&named));
        assert_eq!(
            (choice.send.len(), choice.doubtful),
            (0, vec!["a".to_owned(), "b".to_owned()])
        );
    }
}
