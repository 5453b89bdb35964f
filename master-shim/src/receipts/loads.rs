//! The loads of jobs that may be sent again, bounded by their bytes: the oldest goes first.

use std::collections::{BTreeMap, HashMap};

use relay_core::redelivery::Policy;
use salt_wire::{msgpack::Value, publication::PublicationLoad};

/// Most bytes of all loads. A state run with a pillar of its own has some kilobytes.
const BYTES_MAX: usize = 64 << 20;

/// Most jobs, as many as are followed.
const JOBS_MAX: usize = 10_000;

/// What a job takes beside its frame.
const JOB_BYTES: usize = 512;

/// What the master puts into a publication for its own minions; the rest is between masters.
const FIELDS: [&str; 17] = [
    "fun",
    "arg",
    "tgt",
    "jid",
    "ret",
    "tgt_type",
    "user",
    "master_id",
    "to",
    "delimiter",
    "metadata",
    "ret_config",
    "ret_kwargs",
    "module_executors",
    "executor_opts",
    "start_event",
    "id",
];

/// A job that a delivery publishes, and what may be done about those who do not get it.
#[derive(Debug, Clone)]
pub(crate) struct Follow {
    /// As it is published on the lower master.
    pub(crate) load: PublicationLoad,
    /// What it took on the wire.
    pub(crate) bytes: usize,
    /// Index of the MoM that it came from.
    pub(crate) upstream: usize,
    /// Whether it may be sent again by itself.
    pub(crate) policy: Policy,
    /// Whether it asks for start events.
    pub(crate) asked_start_event: bool,
    /// Until when it may be sent again, by the steady clock.
    pub(crate) expires_ms: u64,
}

struct Kept {
    follow: Follow,
    /// Tells the order in which they came.
    number: u64,
    is_published: bool,
}

/// The loads by jid.
#[derive(Default)]
pub(super) struct Loads {
    by_jid: HashMap<String, Kept>,
    order: BTreeMap<u64, String>,
    next: u64,
    bytes: usize,
    /// Jobs that may be sent again by themselves.
    sendable: usize,
}

impl Kept {
    fn is_sendable(&self) -> bool {
        self.follow.policy == Policy::Safe
    }
}

impl Loads {
    /// Keeps the load of a job, in place of an earlier one of the same; the jobs that cannot be sent again for want of room.
    pub(super) fn insert(&mut self, jid: &str, follow: Follow) -> Vec<String> {
        self.remove(jid);
        let number = self.next;
        self.next += 1;
        self.bytes += follow.bytes + JOB_BYTES;
        self.order.insert(number, jid.to_owned());
        let kept = Kept {
            follow,
            number,
            is_published: false,
        };
        self.sendable += usize::from(kept.is_sendable());
        self.by_jid.insert(jid.to_owned(), kept);
        let mut dropped = Vec::new();
        while self.bytes > BYTES_MAX || self.by_jid.len() > JOBS_MAX {
            let Some((_, oldest)) = self.order.first_key_value() else {
                break;
            };
            let oldest = oldest.clone();
            if self.is_sendable(&oldest) {
                dropped.push(oldest.clone());
            }
            self.remove(&oldest);
        }
        dropped
    }

    /// The job is published: what is known of it.
    pub(super) fn published(&mut self, jid: &str) -> Option<&Follow> {
        let kept = self.by_jid.get_mut(jid)?;
        kept.is_published = true;
        Some(&kept.follow)
    }

    /// Whether the job is announced, and not known to be published.
    pub(super) fn awaits_publication(&self, jid: &str) -> bool {
        self.by_jid.get(jid).is_some_and(|kept| !kept.is_published)
    }

    /// Whether the job may be sent again by itself.
    pub(super) fn is_sendable(&self, jid: &str) -> bool {
        self.by_jid.get(jid).is_some_and(Kept::is_sendable)
    }

    /// Whether there is such a job.
    pub(super) fn are_sendable(&self) -> bool {
        self.sendable > 0
    }

    pub(super) fn get(&self, jid: &str) -> Option<&Follow> {
        self.by_jid.get(jid).map(|kept| &kept.follow)
    }

    pub(super) fn remove(&mut self, jid: &str) {
        if let Some(kept) = self.by_jid.remove(jid) {
            self.order.remove(&kept.number);
            self.bytes -= kept.follow.bytes + JOB_BYTES;
            self.sendable -= usize::from(kept.is_sendable());
        }
    }

    /// Forgets what has expired, as far as it is at the front: the rest follows when that has gone.
    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some((_, oldest)) = self.order.first_key_value() {
            let oldest = oldest.clone();
            if self
                .get(&oldest)
                .is_some_and(|follow| now_ms < follow.expires_ms)
            {
                return;
            }
            self.remove(&oldest);
        }
    }
}

/// The same job for these minions alone, as the lower master itself would publish it.
pub(crate) fn for_minions(load: &PublicationLoad, minions: &[String]) -> Option<PublicationLoad> {
    let known = FIELDS
        .iter()
        .filter_map(|name| Some((*name, load.fields().get(name)?.clone())));
    let mut fields = Value::map(known);
    let defaults: [(&str, Value); 3] = [
        ("arg", Value::Array(Vec::new())),
        ("ret", "".into()),
        ("user", "root".into()),
    ];
    for (name, default) in defaults {
        if fields.get(name).is_none() {
            fields.set(name, default);
        }
    }
    if let Some(to) = load.to() {
        fields.set("to", to.saturating_sub(1));
    }
    fields.set("tgt", Value::array(minions.iter().map(String::as_str)));
    fields.set("tgt_type", "list");
    PublicationLoad::new(fields).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(jid: &str, bytes: usize, expires_ms: u64) -> Follow {
        let fields = [("fun", "test.ping"), ("tgt", "*"), ("jid", jid)];
        let fields = Value::map(fields.map(|(name, text)| (name, Value::from(text))));
        Follow {
            load: PublicationLoad::new(fields).expect("a job"),
            bytes,
            upstream: 0,
            policy: Policy::Safe,
            asked_start_event: true,
            expires_ms,
        }
    }

    fn jid(number: usize) -> String {
        format!("2026112120{number:010}")
    }

    #[test]
    fn oldest_loads_go_when_the_bound_is_reached_and_are_told() {
        let mut loads = Loads::default();
        let third = BYTES_MAX / 3;
        for number in 0..2 {
            assert!(
                loads
                    .insert(&jid(number), follow(&jid(number), third, 1))
                    .is_empty()
            );
        }
        let dropped = loads.insert(&jid(2), follow(&jid(2), third, 1));
        assert_eq!(dropped, [jid(0)]);
        // The same job again takes the place of the one before.
        assert!(loads.insert(&jid(2), follow(&jid(2), third, 1)).is_empty());
        assert!(loads.get(&jid(1)).is_some() && loads.get(&jid(0)).is_none());
        loads.expire(1);
        assert!(loads.by_jid.is_empty());
        assert_eq!((loads.bytes, loads.order.len(), loads.sendable), (0, 0, 0));
    }

    #[test]
    fn load_for_single_minions_has_all_that_a_publication_needs_and_nothing_of_the_masters() {
        let mut fields = follow(&jid(1), 0, 0).load.fields().clone();
        fields.set("auth_list", Value::Array(Vec::new()));
        fields.set("serial", 7i64);
        fields.set("metadata", Value::map([("a", Value::Int(1))]));
        fields.set("to", 5i64);
        let load = PublicationLoad::new(fields).expect("a job");
        let again = for_minions(&load, &["a1".to_owned()]).expect("a job");
        assert_eq!(again.jid(), load.jid());
        assert_eq!(again.tgt(), &Value::array(["a1"]));
        assert_eq!((again.tgt_type(), again.to()), ("list", Some(4)));
        assert_eq!(again.metadata(), load.metadata());
        assert_eq!((again.serial(), again.auth_list()), (None, None));
        for field in ["arg", "ret", "user"] {
            assert!(again.fields().get(field).is_some(), "{field}");
        }
    }
}
