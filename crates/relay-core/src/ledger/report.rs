//! What the ledger tells of a job: steps, verdicts, figures.

use super::{
    cells::{Cell, EXPECTED, FAILED, RECEIVED, RETURNED, RUNNING, STOPPED, UNMATCHED},
    job::{Job, Part, Said},
    sites::{Reach, Sites},
    words::{State, Step, Verdict},
};
use crate::names::{MOM, MinionIndex, NOWHERE, Names, SiteIndex};

/// How many minions reached each step; those that got further count in each step before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// The job means them.
    pub expected: usize,
    /// Their lower master published the job for them, or they were heard of.
    pub accepted: usize,
    /// They took the job.
    pub received: usize,
    /// They returned, failures included.
    pub returned: usize,
    /// They returned a failure.
    pub failed: usize,
    /// They have not returned.
    pub missing: usize,
    /// Their lower master published the job for them, and they give no receipts: their silence tells nothing.
    pub no_receipts: usize,
}

impl Figures {
    fn add(&mut self, cell: Cell, gives_receipts: bool) {
        if cell.is_unmatched() || cell == Cell::NONE {
            return;
        }
        let is_received = cell.reached(RECEIVED);
        let is_returned = cell.reached(RETURNED);
        self.expected += 1;
        self.accepted += usize::from(cell.is_accepted() || is_received);
        self.received += usize::from(is_received);
        self.returned += usize::from(is_returned);
        self.failed += usize::from(cell.step() == FAILED);
        self.missing += usize::from(!is_returned);
        self.no_receipts += usize::from(cell.is_accepted() && !is_received && !gives_receipts);
    }
}

/// What a job came to on one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteSummary {
    /// The site; [`MOM`] for minions of the top master itself, [`NOWHERE`] for minions that no site has named.
    pub site: String,
    /// Its minions.
    pub figures: Figures,
    /// How many minions have each verdict, in the order of [`Verdict::ALL`].
    pub verdicts: [usize; Verdict::ALL.len()],
    /// Only the site can tell whom the job means, and it has not.
    pub ask: bool,
    /// What the site did instead of publishing the job, and why.
    pub said: Option<(Said, String)>,
}

impl SiteSummary {
    /// How many minions have this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.verdicts.get(verdict.at()).copied().unwrap_or(0)
    }
}

/// A job in figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The job.
    pub jid: String,
    /// Its function; empty where it is not known.
    pub fun: String,
    /// Who ran it; empty where it is not known.
    pub user: String,
    /// Its target, cut where it is long; empty where it is not known.
    pub tgt: String,
    /// The type of its target.
    pub tgt_type: String,
    /// When it was published, or first heard of, in unix milliseconds.
    pub at_ms: u64,
    /// How long it took until the last return; for an open one, until now.
    pub took_ms: u64,
    /// How it stands.
    pub state: State,
    /// Its publication was seen here: whom it means is known.
    pub is_published: bool,
    /// Nothing of it can have passed unheard.
    pub is_heard: bool,
    /// All of its minions.
    pub figures: Figures,
    /// Its sites, sorted by name.
    pub sites: Vec<SiteSummary>,
}

/// A minion of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinionReport<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its site.
    pub site: &'a str,
    /// The furthest step.
    pub step: Step,
    /// How it ended, or stands.
    pub verdict: Verdict,
    /// It tells when it takes a job, or told of this one: that it says nothing means something.
    pub gives_receipts: bool,
    /// How long after the job appeared it was first known to have it, in milliseconds.
    pub received_ms: Option<u64>,
}

/// A job, to be told about.
#[derive(Debug, Clone, Copy)]
pub struct JobView<'a> {
    pub(super) job: &'a Job,
    pub(super) names: &'a Names,
    /// Which sites can be reached now; of an open job only.
    pub(super) reach: &'a Sites,
    pub(super) now_ms: u64,
}

impl<'a> JobView<'a> {
    /// The job's id.
    #[must_use]
    pub fn jid(&self) -> &'a str {
        &self.job.jid
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.job.state
    }

    /// All in figures.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let sites = self.sites();
        let mut figures = Figures::default();
        for (index, cell) in self.job.cells.iter() {
            figures.add(cell, self.gives_receipts(index, cell));
        }
        let job = self.job;
        Summary {
            jid: job.jid.to_string(),
            fun: job.fun.to_string(),
            user: job.user.to_string(),
            tgt: job.tgt.to_string(),
            tgt_type: job.tgt_type.to_string(),
            at_ms: job.at_ms,
            took_ms: job.took_ms(self.now_ms),
            state: job.state,
            is_published: job.is_published,
            is_heard: job.is_heard,
            figures,
            sites,
        }
    }

    fn sites(&self) -> Vec<SiteSummary> {
        let reach = self.reaches();
        let mut by_site: Vec<Option<SiteSummary>> = Vec::new();
        by_site.resize_with(self.names.sites(), || None);
        for part in &self.job.parts {
            if let Some(place) = by_site.get_mut(part.site.at()) {
                let mut summary = empty(self.names.site_name(part.site));
                summary.ask = part.is_asked();
                summary.said = part.said.map(|said| (said, part.reason.to_string()));
                *place = Some(summary);
            }
        }
        for (index, cell) in self.job.cells.iter() {
            let Some(site) = self.names.site(index) else {
                continue;
            };
            if let Some(place) = by_site.get_mut(site.at()) {
                let name = self.names.site_name(site);
                let summary = place.get_or_insert_with(|| empty(name));
                let gives_receipts = self.gives_receipts(index, cell);
                summary.figures.add(cell, gives_receipts);
                let verdict = self.verdict(cell, site, &reach);
                if let Some(count) = summary.verdicts.get_mut(verdict.at()) {
                    *count += 1;
                }
            }
        }
        let mut sites: Vec<SiteSummary> = by_site.into_iter().flatten().collect();
        sites.sort_unstable_by(|one, other| one.site.cmp(&other.site));
        sites
    }

    /// Every minion that the job means, in the order of the names' table.
    pub fn minions(&self) -> impl Iterator<Item = MinionReport<'a>> {
        let view = *self;
        let reach = self.reaches();
        self.job
            .cells
            .iter()
            .filter_map(move |(index, cell)| view.report(index, cell, &reach))
    }

    fn report(&self, index: MinionIndex, cell: Cell, reach: &[Reach]) -> Option<MinionReport<'a>> {
        let site = self.names.site(index)?;
        let is_received = cell.reached(RECEIVED);
        Some(MinionReport {
            id: self.names.name(index)?,
            site: self.names.site_name(site),
            step: step(cell),
            verdict: self.verdict(cell, site, reach),
            gives_receipts: self.gives_receipts(index, cell),
            received_ms: self.job.times.get(index).filter(|_| is_received),
        })
    }

    fn gives_receipts(&self, index: MinionIndex, cell: Cell) -> bool {
        cell.is_missed() || self.names.gives(index)
    }

    /// The minions that are to return and have not.
    pub fn missing(&self) -> impl Iterator<Item = MinionReport<'a>> {
        self.minions().filter(|minion| minion.verdict.is_missing())
    }

    /// The sites of which an answer is missing: they can name minions that nobody expects yet.
    pub fn asked(&self) -> impl Iterator<Item = &'a str> {
        let names = self.names;
        let parts = self.job.parts.iter().filter(|part| part.is_asked());
        parts.map(move |part| names.site_name(part.site))
    }

    /// How far a job got with one minion; `None` when it does not mean it.
    #[must_use]
    pub fn minion(&self, id: &str) -> Option<MinionReport<'a>> {
        let reach = self.reaches();
        let found = |index: MinionIndex| {
            let cell = self.job.cells.get(index);
            let is_meant = cell != Cell::NONE;
            is_meant.then(|| self.report(index, cell, &reach)).flatten()
        };
        self.names.entries(id).find_map(found)
    }

    /// Which sites can be reached, by their numbers.
    fn reaches(&self) -> Vec<Reach> {
        let sites = (0_u32..).map(SiteIndex).take(self.names.sites());
        if self.job.state == State::Open {
            return sites
                .map(|site| self.reach.of(self.names.site_name(site)))
                .collect();
        }
        let mut reaches = vec![Reach::Unknown; self.names.sites()];
        for part in &self.job.parts {
            if let Some(reach) = reaches.get_mut(part.site.at()) {
                *reach = part.at_close;
            }
        }
        reaches
    }

    fn verdict(&self, cell: Cell, site: SiteIndex, reach: &[Reach]) -> Verdict {
        let part = self.job.part(site);
        let reach = reach.get(site.at()).copied().unwrap_or_default();
        let is_of_site = !matches!(self.names.site_name(site), MOM | NOWHERE);
        verdict(self.job, cell, part, is_of_site.then_some(reach))
    }
}

fn empty(site: &str) -> SiteSummary {
    SiteSummary {
        site: site.to_owned(),
        figures: Figures::default(),
        verdicts: [0; Verdict::ALL.len()],
        ask: false,
        said: None,
    }
}

fn step(cell: Cell) -> Step {
    match cell.step() {
        UNMATCHED if !cell.is_accepted() => Step::Unmatched,
        EXPECTED if !cell.is_accepted() => Step::Expected,
        RECEIVED | STOPPED => Step::Received,
        RUNNING => Step::Running,
        RETURNED => Step::Returned,
        FAILED => Step::Failed,
        _ => Step::Accepted,
    }
}

/// How a job stands with a minion. `reach` is that of its site, if it has one.
pub(super) fn verdict(job: &Job, cell: Cell, part: Option<&Part>, reach: Option<Reach>) -> Verdict {
    let said = part.and_then(|part| part.said);
    let is_open = job.state == State::Open;
    match cell.step() {
        RETURNED => Verdict::Returned,
        FAILED => Verdict::Failed,
        RUNNING => Verdict::Running,
        UNMATCHED if !cell.is_accepted() => Verdict::Unmatched,
        EXPECTED if !cell.is_accepted() && said == Some(Said::Expired) => Verdict::Expired,
        _ if reach == Some(Reach::Down) => Verdict::Unreachable,
        RECEIVED => Verdict::Running,
        _ if is_open => Verdict::Waiting,
        STOPPED => Verdict::Silent,
        _ if cell.is_missed() => Verdict::NotReceived,
        _ if cell.is_accepted() => Verdict::Silent,
        _ if matches!(said, Some(Said::Refused | Said::Unusable)) => Verdict::NotReceived,
        // No ack was heard: that tells something only where it would have been heard.
        _ if job.is_heard && reach == Some(Reach::Up) => Verdict::NotReceived,
        _ => Verdict::Unknown,
    }
}
