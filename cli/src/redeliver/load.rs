//! A job as the MoM's job cache has it, and the publication that sends it again.
//!
//! What the cache keeps is the request to publish it; the master made the publication of that and of its own options.

use std::time::Duration;

use anyhow::Context;
use daemon_kit::config::parse_duration;
use salt_link::salt_config::MasterConfig;
use salt_wire::ids::Jid;
use salt_wire::msgpack::Value;
use salt_wire::publication::PublicationLoad;
use serde_json::Value as Json;

use super::UnixTime;
use crate::field::Field;

/// What stands in the request itself.
const OWN: [&str; 5] = ["fun", "arg", "ret", "user", "to"];

/// What stands among its `kwargs`.
const OPTIONS: [&str; 8] = [
    "metadata",
    "ret_config",
    "ret_kwargs",
    "module_executors",
    "executor_opts",
    "start_event",
    "id",
    "master_id",
];

/// By this a shim tells a redelivery from a repeated frame of a job with a list of minions; it takes the field away.
const MARK: &str = "saltway_redelivery";

/// The request to publish a job.
#[derive(Debug)]
pub(super) struct SavedJob {
    jid: Jid,
    load: Value,
}

impl SavedJob {
    pub(super) fn new(jid: Jid, load: Value) -> Self {
        Self { jid, load }
    }

    pub(super) fn jid(&self) -> &Jid {
        &self.jid
    }

    /// The same job for a list of minions.
    pub(super) fn publication(
        &self,
        master: &MasterConfig,
        minions: &[String],
    ) -> anyhow::Result<PublicationLoad> {
        let told = || {
            format!(
                "the job cache has job {} in a form that cannot be published; run the job anew",
                self.jid
            )
        };
        let mut fields = Value::map([("jid", Value::from(self.jid.as_str()))]);
        for key in OWN {
            if let Some(value) = self.load.get(key).filter(|value| !value.is_nil()) {
                fields.set(key, value.clone());
            }
        }
        for key in OPTIONS {
            if let Some(value) = self.option(key) {
                fields.set(key, value.clone());
            }
        }
        fields.set(
            "tgt",
            Value::array(minions.iter().map(|id| Value::from(id.as_str()))),
        );
        fields.set("tgt_type", "list");
        fields.set(MARK, Value::Bool(true));
        if master.order_masters {
            // Who may run it where was decided when it was published first.
            fields.set("auth_list", Value::Array(Vec::new()));
        }
        PublicationLoad::new(fields).with_context(told)
    }

    /// How long ago it expired; `None` when it has not.
    pub(super) fn expired_for(
        &self,
        job: Option<&Json>,
        job_ttl: Duration,
        now: UnixTime,
    ) -> Option<Duration> {
        let own = self
            .option("metadata")
            .and_then(|data| data.get("saltway_ttl"));
        let ttl = own.and_then(seconds).unwrap_or(job_ttl);
        let began = job.and_then(|job| job.number("at")).filter(|at| *at > 0.0);
        let began = match began {
            Some(at) => Duration::try_from_secs_f64(at).ok()?,
            None => made_at(&self.jid)?,
        };
        now.checked_sub(began)?
            .checked_sub(ttl)
            .filter(|ago| !ago.is_zero())
    }

    fn option(&self, key: &str) -> Option<&Value> {
        let value = self.load.get("kwargs")?.get(key)?;
        (!value.is_nil()).then_some(value)
    }
}

/// `saltway_ttl` as a shim reads it.
fn seconds(value: &Value) -> Option<Duration> {
    match value {
        Value::Float64(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        value => value.as_u64().map(Duration::from_secs).or_else(|| {
            let text = value.as_str()?;
            let plain = text.parse().ok().map(Duration::from_secs);
            plain.or_else(|| parse_duration(text).ok())
        }),
    }
}

/// When a jid was made: it is the time in UTC.
fn made_at(jid: &Jid) -> Option<UnixTime> {
    let digits = jid.as_str().get(..14)?;
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", digits).ok()?;
    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Duration::try_from(zoned.timestamp().as_duration()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const JID: &str = "20261121173800110002";

    fn saved(metadata: Value) -> SavedJob {
        let load = Value::map([
            ("cmd", Value::from("publish")),
            ("fun", "cmd.run".into()),
            ("arg", Value::array(["true"])),
            ("tgt", "*".into()),
            ("tgt_type", "glob".into()),
            ("ret", "".into()),
            ("user", "sudo_anna".into()),
            ("jid", JID.into()),
            ("to", Value::Int(5)),
            (
                "kwargs",
                Value::map([("metadata", metadata), ("show_jid", Value::Bool(false))]),
            ),
        ]);
        SavedJob::new(Jid::parse(JID).expect("a jid"), load)
    }

    fn master(text: &str) -> MasterConfig {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("master");
        std::fs::write(&file, text).expect("written");
        MasterConfig::load(&file).expect("valid")
    }

    #[test]
    fn it_is_the_same_job_for_a_list_of_minions() {
        let metadata = Value::map([("ticket", Value::Int(1))]);
        let load = saved(metadata.clone())
            .publication(
                &master("order_masters: True\n"),
                &["a".to_owned(), "b".to_owned()],
            )
            .expect("a load");
        let expected = [
            ("jid", JID.into()),
            ("fun", "cmd.run".into()),
            ("arg", Value::array(["true"])),
            ("ret", "".into()),
            ("user", "sudo_anna".into()),
            ("to", Value::Int(5)),
            ("metadata", metadata),
            ("tgt", Value::array(["a", "b"])),
            ("tgt_type", "list".into()),
            (MARK, Value::Bool(true)),
            ("auth_list", Value::Array(Vec::new())),
        ];
        assert_eq!(load.fields(), &Value::map(expected));
    }

    #[test]
    fn a_job_expires_by_its_own_time_before_the_relay_s() {
        let at = 1_795_282_680.0;
        let job = json!({"at": at});
        let now = |after: f64| Duration::from_secs_f64(at + after);
        let ttl = |value: Value| saved(Value::map([("saltway_ttl", value)]));
        let minutes = Duration::from_secs(300);
        for (saved, after, expired) in [
            (saved(Value::Nil), 299.0, false),
            (saved(Value::Nil), 301.0, true),
            (ttl(Value::Int(30)), 31.0, true),
            (ttl("10m".into()), 301.0, false),
            (ttl("soon".into()), 301.0, true),
        ] {
            let ago = saved.expired_for(Some(&job), minutes, now(after));
            assert_eq!(ago.is_some(), expired, "{saved:?} after {after}");
        }
        // Without the ledger the jid tells when it was made.
        let made = saved(Value::Nil).expired_for(None, minutes, now(1000.0));
        assert!(made.is_some_and(|ago| ago.as_secs() > 300), "{made:?}");
    }
}
