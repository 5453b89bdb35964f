//! What becomes of publications before they are published: opened, looked up in the records, judged by their age.
//!
//! What is not published is counted, and where its jid is known the MoM is told.

use std::time::Duration;

use relay_core::{
    entry::Publication as Entry,
    intake::{self, AtMaster, Remembered, Verdict},
};
use salt_wire::{
    ids::Jid,
    saltway::{JobNotice, NotPublished},
};

use super::{
    DeliveryTask,
    job::{Job, asking_for_start_events, is_loop, take_mark},
    millis,
    records::Part,
    ttl,
};
use crate::{
    link::{Due, What},
    site::Message,
    telemetry::LostAt,
    upstream,
};

impl DeliveryTask {
    /// Opens what this site does not have yet and decides about each.
    pub(super) async fn open_all(&mut self, batch: Vec<Due>) -> Vec<Job> {
        let mut entries: Vec<Entry> = Vec::with_capacity(batch.len());
        for due in batch {
            match due.what {
                What::Publication(entry) => entries.push(entry),
                What::PassOver(entry_id) => self.opener.passed(entry_id),
            }
        }
        let seen = self
            .records
            .seen(entries.iter().map(|entry| entry.frame.as_ref()))
            .await;
        let mut jobs: Vec<Job> = Vec::new();
        for (entry, seen) in entries.into_iter().zip(seen) {
            if seen {
                self.opener.passed(entry.entry_id);
                self.parts.telemetry.duplicate_frame(entry.entry_id);
                continue;
            }
            self.parts
                .telemetry
                .publication_received(entry.entry_id, self.age(&entry));
            if let Some(job) = self.open(entry).await {
                jobs.push(job);
            }
        }
        let remembered = self
            .records
            .remembered(jobs.iter().map(|job| &job.part))
            .await;
        let mut due: Vec<Job> = Vec::with_capacity(jobs.len());
        for (job, remembered) in jobs.into_iter().zip(remembered) {
            if job.by_hand && self.publish_by_hand(&job, remembered).await {
                continue;
            }
            let twice = due.iter().any(|other| other.part.is_same_job(&job.part));
            if twice || !self.is_due(&job, remembered).await {
                if twice {
                    self.parts.telemetry.duplicate_jid(job.load.jid());
                }
                continue;
            }
            due.push(job);
        }
        due
    }

    async fn open(&mut self, entry: Entry) -> Option<Job> {
        let load = match self.opener.open(&entry).await {
            Ok(load) => load,
            Err(err) => {
                let what = daemon_kit::chain(&err).to_string();
                self.opener.passed(entry.entry_id);
                self.parts.telemetry.lost(LostAt::Site, 1, &what);
                if let Some(jid) = err.jid() {
                    let unusable = NotPublished::Unusable;
                    self.tell_not_published(jid, unusable, self.age(&entry), what)
                        .await;
                }
                return None;
            }
        };
        self.parts
            .telemetry
            .publication_opened(entry.entry_id, load.jid());
        if is_loop(&load, self.parts.master_id.as_ref()) {
            self.parts
                .telemetry
                .publication_passed_over(load.jid(), "master_id is our own");
            return None;
        }
        let (load, by_hand) = take_mark(load);
        let (load, hides_start) = if self.parts.receipts.asks(&load) {
            asking_for_start_events(load)
        } else {
            (load, false)
        };
        let jid = load.jid();
        let unknown = load.unknown_fields();
        if !unknown.is_empty() {
            self.parts.telemetry.unknown_fields(jid, &unknown);
        }
        let ttl = ttl::of(&load).unwrap_or_else(|unusable| {
            if let Some(unusable) = unusable {
                self.parts.telemetry.ttl_unusable(jid, &unusable);
            }
            self.parts.job_ttl
        });
        Some(Job {
            part: Part::new(&entry.frame, &load, by_hand),
            entry,
            load,
            ttl,
            hides_start,
            by_hand,
        })
    }

    /// Whether the job is still to be published here; what is not is counted.
    async fn is_due(&mut self, job: &Job, remembered: Remembered) -> bool {
        let mut at_master = None;
        // The MoM, or another shim of this site, may have had it published without a record here.
        if self.parts.publisher.job_cache.is_quick() {
            at_master = Some(self.at_master(job).await);
        }
        loop {
            let age = self.parts.skew.age(&job.entry).map(millis);
            match intake::judge(remembered, at_master, age, millis(job.ttl)) {
                Verdict::Publish => return true,
                Verdict::Wait => self.parts.skew.heard().await,
                Verdict::AskMaster => at_master = Some(self.at_master(job).await),
                Verdict::Duplicate => {
                    self.parts.telemetry.duplicate_jid(job.load.jid());
                    let unrecorded =
                        remembered == Remembered::Nothing && self.parts.tenure.is_in_company();
                    if remembered == Remembered::Begun || unrecorded {
                        self.recover(job).await;
                    }
                    return false;
                }
                Verdict::Expired { age_ms } => {
                    self.expired(job, Duration::from_millis(age_ms)).await;
                    return false;
                }
            }
        }
    }

    async fn at_master(&self, job: &Job) -> AtMaster {
        let (jid, tgt) = (job.load.jid(), job.load.tgt());
        match self.parts.publisher.job_cache.was_published(jid, tgt).await {
            Some(true) => AtMaster::Published,
            Some(false) => AtMaster::NotPublished,
            None => AtMaster::Unknown,
        }
    }

    /// Takes out what certainly means nobody here: the site is done with it, and its lower master is not asked.
    pub(super) async fn without_nobodys(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        let mut meant = Vec::with_capacity(jobs.len());
        for job in jobs {
            let roster = &self.parts.roster;
            if !roster.knows_that_nobody_is_meant_by(&job.load).await {
                meant.push(job);
                continue;
            }
            self.parts.telemetry.publication_unmatched(job.load.jid());
            let nobody = Message::Published {
                jid: job.load.jid().clone(),
                fun: job.load.functions().join(","),
                minions: Vec::new(),
                answers_for_site: false,
            };
            self.records.done(&job.part, &nobody);
        }
        meant
    }

    /// The job is older than it may become.
    pub(super) async fn expired(&self, job: &Job, age: Duration) {
        let jid = job.load.jid();
        self.parts.telemetry.expired(jid, age);
        let why = format!("not run: older than {} s", job.ttl.as_secs());
        self.tell_not_published(jid, NotPublished::Expired, age, why)
            .await;
    }

    /// Tells the MoM what became of a job that is not published here.
    pub(super) async fn tell_not_published(
        &self,
        jid: &Jid,
        what: NotPublished,
        age: Duration,
        reason: String,
    ) {
        self.parts.telemetry.notice(jid, what);
        let notice = JobNotice {
            site: self.parts.id.clone(),
            jid: jid.clone(),
            what,
            age_seconds: age.as_secs_f64(),
            reason,
        };
        let event = upstream::notice(&notice);
        self.parts.lanes.queue_event(event).await;
    }
}
