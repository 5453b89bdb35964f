//! `saltway/site/<id>/receipts`: which minions of a site got which jobs, and which minions tell so at all.

use crate::{
    ids::{Jid, MinionId},
    msgpack::Value,
};

use super::{
    IdList, SaltwayError, VERSION,
    fields::{Fields, key},
    tag,
};

/// Most jobs in one event; a site sends several events instead.
pub const JOBS_MAX: usize = 1_000;

/// Stands for a delay that nobody knows.
const UNKNOWN: i64 = -1;

/// Receipts of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobReceipts {
    /// The job.
    pub jid: Jid,
    /// Minions that got it.
    pub minions: IdList,
    /// Milliseconds from the lower master's publication to the receipt, one for each of `minions`; `None` when unknown.
    pub after_ms: Vec<Option<u32>>,
}

/// Receipts that a site heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipts {
    /// Whose.
    pub site: MinionId,
    /// Minions from now on known to give receipts: the silence of these means something.
    pub gives: IdList,
    /// By job.
    pub jobs: Vec<JobReceipts>,
}

impl Receipts {
    /// Its tag.
    #[must_use]
    pub fn tag(&self) -> String {
        tag(&self.site, "receipts")
    }

    /// Its data.
    #[must_use]
    pub fn data(&self) -> Value {
        let jobs = self.jobs.iter().map(|job| {
            let after = job.after_ms.iter();
            let after = after.map(|after| Value::Int(after.map_or(UNKNOWN, i64::from)));
            Value::map([
                ("jid", (&job.jid).into()),
                ("minions", job.minions.as_text().into()),
                ("after_ms", Value::array(after)),
            ])
        });
        Value::map([
            ("v", Value::Int(VERSION)),
            ("site", (&self.site).into()),
            ("gives", self.gives.as_text().into()),
            ("jobs", Value::array(jobs)),
        ])
    }

    pub(super) fn read(site: MinionId, fields: &Fields<'_>) -> Result<Self, SaltwayError> {
        let gives = IdList::parse(fields.text("gives")?);
        let jobs = fields.get("jobs").and_then(Value::as_array);
        let jobs = jobs.ok_or_else(|| key("jobs", "no list"))?;
        if jobs.len() > JOBS_MAX {
            return Err(key("jobs", "too many"));
        }
        Ok(Self {
            site,
            gives: gives.map_err(|_| key("gives", "holds what is no minion id"))?,
            jobs: jobs.iter().map(read_job).collect::<Result<_, _>>()?,
        })
    }
}

fn read_job(job: &Value) -> Result<JobReceipts, SaltwayError> {
    let jid = job.get_str("jid").and_then(|jid| Jid::parse(jid).ok());
    let minions = job.get_str("minions").map(IdList::parse);
    let Some(Ok(minions)) = minions else {
        return Err(key("jobs", "one without minions"));
    };
    let after = job.get("after_ms").and_then(Value::as_array);
    let after = after.filter(|after| after.len() == minions.len());
    let after = after.ok_or_else(|| key("jobs", "one without a delay for each minion"))?;
    Ok(JobReceipts {
        jid: jid.ok_or_else(|| key("jobs", "one without a jid"))?,
        minions,
        after_ms: after.iter().map(read_delay).collect::<Result<_, _>>()?,
    })
}

fn read_delay(delay: &Value) -> Result<Option<u32>, SaltwayError> {
    match delay {
        Value::Int(UNKNOWN) => Ok(None),
        Value::Int(ms) => u32::try_from(*ms)
            .map(Some)
            .map_err(|_| key("jobs", "a delay that is none")),
        _ => Err(key("jobs", "a delay that is none")),
    }
}
