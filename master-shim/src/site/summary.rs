//! The site's own returns: its summary of a job, and its answer to the MoM's find_job.

use relay_core::jobs::Answer;
use salt_wire::{
    commands::ReturnEvent,
    ids::{Jid, MinionId},
    msgpack::Value,
};

use super::routing::Return;

/// Bytes that a small return takes on the wire, more or less.
const SMALL_BYTES: usize = 512;

/// The summary that the site returns under its own id when a job is over: one line of text, which every outputter of
/// Salt prints, `highstate` and `txt` included.
///
/// `sys.doc` alone is given an empty map: the `salt` command looks functions up in what it gets.
pub(super) fn summary(id: &MinionId, jid: Jid, answer: &Answer) -> Return {
    let text = summary_text(answer);
    let ret = if answer.fun == "sys.doc" {
        Value::map::<&str>([])
    } else {
        text.as_str().into()
    };
    own_return(id, jid, &answer.fun, ret, answer.retcode)
}

fn summary_text(answer: &Answer) -> String {
    let mut text = format!("expected {}, returned {}", answer.expected, answer.returned);
    if answer.missing_count == 0 {
        text.push_str(", missing 0");
        return text;
    }
    text.push_str(&format!(
        ", missing {}: {}",
        answer.missing_count,
        answer.missing.join(", ")
    ));
    if answer.missing_count > answer.missing.len() {
        text.push_str(", ...");
    }
    text
}

/// The answer to a find_job: a map that is empty when nobody runs the job, as the minions' own answer is.
pub(super) fn find_job_answer(id: &MinionId, query: Jid, about: &str, running: usize) -> Return {
    let ret = if running == 0 {
        Value::map::<&str>([])
    } else {
        let running = i64::try_from(running).unwrap_or(i64::MAX);
        Value::map([("jid", about.into()), ("running", Value::Int(running))])
    };
    own_return(id, query, "saltutil.find_job", ret, 0)
}

fn own_return(id: &MinionId, jid: Jid, fun: &str, ret: Value, retcode: u8) -> Return {
    let fields = Value::map([
        ("return", ret),
        ("retcode", Value::Int(retcode.into())),
        ("success", Value::Bool(retcode == 0)),
        ("fun_args", Value::Array(Vec::new())),
    ]);
    let event = ReturnEvent {
        jid,
        id: id.clone(),
        fun: fun.into(),
        master_id: None,
        fields,
    };
    Return {
        event,
        load: None,
        bytes: SMALL_BYTES,
        heard_ms: daemon_kit::unix_millis(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(missing: &[&str], missing_count: usize) -> Answer {
        Answer {
            jid: "1".to_owned(),
            fun: "test.ping".to_owned(),
            expected: 3,
            returned: 3 - missing_count,
            failed: 0,
            missing: missing.iter().map(|name| (*name).to_owned()).collect(),
            missing_count,
            retcode: u8::from(missing_count > 0),
        }
    }

    #[test]
    fn summary_counts_and_names_the_missing() {
        let check = |answer: &Answer, expected: &str| assert_eq!(summary_text(answer), expected);
        check(&answer(&[], 0), "expected 3, returned 3, missing 0");
        check(
            &answer(&["a2", "a3"], 2),
            "expected 3, returned 1, missing 2: a2, a3",
        );
        check(
            &answer(&["a2"], 2),
            "expected 3, returned 1, missing 2: a2, ...",
        );
    }

    #[test]
    fn incomplete_summary_fails_the_salt_command() {
        let id: MinionId = "site1".parse().expect("a minion id");
        let jid: Jid = "20261120200000000001".parse().expect("a jid");
        let ret = summary(&id, jid, &answer(&["a2"], 1));
        assert_eq!(ret.event.fields.get("retcode"), Some(&Value::Int(1)));
        assert_eq!(ret.event.fields.get("success"), Some(&Value::Bool(false)));
    }
}
