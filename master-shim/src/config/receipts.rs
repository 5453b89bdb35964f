//! Section `receipts`: whether minions are asked for start events, and what is sent again to those that got nothing.

use std::{ops::RangeInclusive, time::Duration};

use daemon_kit::config::Section;
use relay_core::redelivery::{Policy, RedeliveryConfig};
use salt_wire::{msgpack::Value, publication::PublicationLoad};

/// Sending these again by themselves would surprise: the minion's answer is that it goes away.
const NEVER_FUNCTIONS: &[&str] = &[
    "system.reboot",
    "system.shutdown",
    "system.halt",
    "system.poweroff",
    "system.init",
];

/// Questions and orders about jobs. They make sense now or not at all, and there is one for each job that somebody waits
/// for: no start event is asked for, and they are never sent again.
const QUESTIONS: &[&str] = &[
    "saltutil.find_job",
    "saltutil.find_cached_job",
    "saltutil.is_running",
    "saltutil.running",
    "saltutil.kill_job",
    "saltutil.kill_all_jobs",
    "saltutil.term_job",
    "saltutil.term_all_jobs",
    "saltutil.signal_job",
];

/// The metadata key by which a job forbids that it is sent again by itself.
const KEY: &str = "saltway_redeliver";

/// From what a quick network needs to half an hour.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(1_800);
const ATTEMPTS: RangeInclusive<u64> = 1..=20;

/// What is done about minions that do not get their jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReceiptsConfig {
    /// Whether jobs ask minions for Salt's start event (3008).
    pub(crate) start_event: bool,
    /// Whether jobs are sent again by themselves.
    pub(crate) redeliver: bool,
    /// How long after its publication a minion is silent about a job.
    pub(crate) receipt_timeout: Duration,
    /// How often a job is sent again to a minion that shows no life.
    pub(crate) attempts: u8,
    /// Functions of jobs that are never sent again by themselves.
    pub(crate) never_functions: Vec<String>,
}

impl Default for ReceiptsConfig {
    fn default() -> Self {
        let default = RedeliveryConfig::default();
        Self {
            // A minion of 3008 waits for its master's answer to a start event before it begins the job: up to a minute, where the master
            // has just died.
            start_event: false,
            redeliver: true,
            receipt_timeout: Duration::from_millis(default.receipt_timeout_ms),
            attempts: default.attempts_max,
            never_functions: NEVER_FUNCTIONS
                .iter()
                .map(|fun| (*fun).to_owned())
                .collect(),
        }
    }
}

impl ReceiptsConfig {
    /// Reads the section.
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let attempts = section.u64("attempts", u64::from(default.attempts), ATTEMPTS);
        let words = [("safe", true), ("never", false)];
        Self {
            start_event: section.bool("start_event", default.start_event),
            redeliver: section.enumeration("redeliver", default.redeliver, &words),
            receipt_timeout: section.duration_in(
                "receipt_timeout",
                default.receipt_timeout,
                TIMEOUT,
            ),
            attempts: u8::try_from(attempts).unwrap_or(default.attempts),
            never_functions: if section.has("never_functions") {
                section.string_or_list("never_functions")
            } else {
                default.never_functions
            },
        }
    }

    /// The bounds and times of the decisions.
    pub(crate) fn redelivery(&self) -> RedeliveryConfig {
        RedeliveryConfig {
            receipt_timeout_ms: u64::try_from(self.receipt_timeout.as_millis()).unwrap_or(u64::MAX),
            attempts_max: self.attempts,
            ..RedeliveryConfig::default()
        }
    }

    /// Whether the job is to ask its minions for start events.
    pub(crate) fn asks(&self, load: &PublicationLoad) -> bool {
        self.start_event && !is_question(load)
    }

    /// Whether the job may be sent again by itself.
    pub(crate) fn policy(&self, load: &PublicationLoad) -> Policy {
        let forbidden = load.metadata().and_then(|metadata| metadata.get(KEY));
        let never = !self.redeliver
            || forbidden.and_then(Value::as_bool) == Some(false)
            || is_question(load)
            || load
                .functions()
                .iter()
                .any(|fun| self.never_functions.iter().any(|never| never == fun));
        if never { Policy::Never } else { Policy::Safe }
    }
}

fn is_question(load: &PublicationLoad) -> bool {
    let functions = load.functions();
    functions.iter().any(|fun| QUESTIONS.contains(fun))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(fun: Value, metadata: Value) -> PublicationLoad {
        let fields = Value::map([
            ("fun", fun),
            ("tgt", "*".into()),
            ("jid", "20261121200000000001".into()),
            ("metadata", metadata),
        ]);
        PublicationLoad::new(fields).expect("a job")
    }

    #[test]
    fn what_must_not_run_late_is_never_sent_again() {
        let config = ReceiptsConfig::default();
        let check = |fun: Value, metadata: Value, expected: Policy| {
            let told = format!("{fun:?} {metadata:?}");
            assert_eq!(config.policy(&load(fun, metadata)), expected, "{told}");
        };
        let forbids = |value: Value| Value::map([(KEY, value)]);
        check("state.apply".into(), Value::Nil, Policy::Safe);
        check("state.apply".into(), forbids(false.into()), Policy::Never);
        check("state.apply".into(), forbids(true.into()), Policy::Safe);
        check("state.apply".into(), "nonsense".into(), Policy::Safe);
        check("system.reboot".into(), Value::Nil, Policy::Never);
        check("saltutil.find_job".into(), Value::Nil, Policy::Never);
        let several = Value::array(["test.ping", "system.reboot"]);
        check(several, Value::Nil, Policy::Never);
        let off = ReceiptsConfig {
            redeliver: false,
            ..ReceiptsConfig::default()
        };
        let ping = load("test.ping".into(), Value::Nil);
        assert_eq!(off.policy(&ping), Policy::Never);
    }

    #[test]
    fn questions_ask_for_no_start_event_although_no_list_names_them() {
        let config = ReceiptsConfig {
            start_event: true,
            never_functions: Vec::new(),
            ..ReceiptsConfig::default()
        };
        let question = load("saltutil.find_job".into(), Value::Nil);
        assert!(!config.asks(&question));
        assert_eq!(config.policy(&question), Policy::Never);
        assert!(config.asks(&load("system.reboot".into(), Value::Nil)));
    }
}
