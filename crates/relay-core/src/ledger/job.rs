//! One job: its cells, its sites, and when it is over.

use super::{
    cells::{Cell, Cells, EXPECTED, RECEIVED, UNMATCHED},
    report::verdict,
    sites::{Reach, Sites},
    times::Times,
    words::{State, Verdict},
};
use crate::{
    names::{MOM, MinionIndex, NOWHERE, Names, SiteIndex},
    target::Target,
};

/// What a site did with a job instead of publishing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Said {
    /// The site had it before: what it said then stands.
    Duplicate,
    /// Nobody on the site is meant.
    NoMatch,
    /// It could not be opened or read.
    Unusable,
    /// The lower master refused it.
    Refused,
    /// It came too late to be run.
    Expired,
}

impl Said {
    /// The word for the interface and for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Unusable => "unusable",
            Self::Duplicate => "duplicate",
            Self::NoMatch => "no_match",
        }
    }
}

/// A site's share of a job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Part {
    pub(super) site: SiteIndex,
    /// How often the job was published with a meaning for this site: the parts of a batch share a jid.
    pub(super) published: u16,
    /// How often the site answered.
    pub(super) acks: u16,
    /// Only the site can tell whom the job means.
    pub(super) ask: bool,
    pub(super) said: Option<Said>,
    /// When the site answered last.
    pub(super) acked_ms: u64,
    /// Whether the site could be reached when the job was closed, or later when it answered.
    pub(super) at_close: Reach,
    pub(super) reason: Box<str>,
}

impl Part {
    /// The site was asked and has not answered, or has let the job expire: who is meant there nobody knows.
    pub(super) const fn is_asked(&self) -> bool {
        self.ask && !self.has_answered()
    }

    /// The site has answered each part of the job.
    const fn has_answered(&self) -> bool {
        self.acks > 0 && self.acks >= self.published
    }

    /// Adds what was heard of it elsewhere.
    pub(super) fn add(&mut self, other: &Self) {
        self.published = self.published.max(other.published);
        self.acks = self.acks.max(other.acks);
        self.ask |= other.ask;
        if self
            .said
            .is_none_or(|said| other.said.is_some_and(|other| other > said))
        {
            self.said = other.said;
            self.reason.clone_from(&other.reason);
        }
        self.acked_ms = self.acked_ms.max(other.acked_ms);
        if other.acks > 0 && self.at_close == Reach::Down {
            self.at_close = Reach::Up;
        }
    }
}

/// A job; see the module's head.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) jid: Box<str>,
    pub(super) fun: Box<str>,
    pub(super) user: Box<str>,
    pub(super) tgt: Box<str>,
    pub(super) tgt_type: Box<str>,
    /// The target itself, as long as sites may turn up that it has not been asked for; a long one is not kept.
    pub(super) target: Option<Target>,
    /// The table of its minions' names.
    pub(super) table: u32,
    pub(super) at_ms: u64,
    pub(super) ttl_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) last_return_ms: u64,
    pub(super) ended_ms: u64,
    pub(super) state: State,
    pub(super) is_published: bool,
    pub(super) is_heard: bool,
    pub(super) cells: Cells,
    /// Since when minions have it.
    pub(super) times: Times,
    /// When an operator had it sent again.
    pub(super) again_ms: Option<u64>,
    /// Cells that are to return.
    pub(super) pending: u32,
    /// Cells that are expected and that no site has named.
    pub(super) unnamed: u32,
    pub(super) parts: Vec<Part>,
    /// Not on disk as it is.
    pub(super) is_dirty: bool,
    /// Among those that are to be written.
    pub(super) is_queued: bool,
    /// It was over, and something was heard since: how it ended may be another matter now.
    pub(super) is_changed: bool,
    /// When that is to be judged.
    pub(super) review_ms: Option<u64>,
    /// The disk may know more of it; until that is here it is not written.
    pub(super) is_loading: bool,
    /// Since when it is done.
    pub(super) done_ms: Option<u64>,
    /// What its owner was told last of its end.
    pub(super) told: Option<State>,
    /// When to look at it next.
    pub(super) due_ms: u64,
    /// Its share of the memory, as counted.
    pub(super) counted_bytes: usize,
    /// The same of its times.
    pub(super) counted_times: usize,
}

impl Job {
    pub(super) fn new(jid: &str, table: u32, at_ms: u64) -> Self {
        Self {
            jid: jid.into(),
            fun: Box::default(),
            user: Box::default(),
            tgt: Box::default(),
            tgt_type: Box::default(),
            target: None,
            table,
            at_ms,
            ttl_ms: 0,
            deadline_ms: 0,
            last_return_ms: 0,
            ended_ms: 0,
            state: State::Open,
            is_published: false,
            is_heard: true,
            cells: Cells::default(),
            times: Times::default(),
            again_ms: None,
            pending: 0,
            unnamed: 0,
            parts: Vec::new(),
            is_dirty: true,
            is_queued: false,
            is_changed: false,
            review_ms: None,
            is_loading: false,
            done_ms: None,
            told: None,
            due_ms: u64::MAX,
            counted_bytes: 0,
            counted_times: 0,
        }
    }

    pub(super) fn part(&self, site: SiteIndex) -> Option<&Part> {
        self.parts.iter().find(|part| part.site == site)
    }

    pub(super) fn part_mut(&mut self, site: SiteIndex) -> &mut Part {
        let at = self.parts.iter().position(|part| part.site == site);
        let at = at.unwrap_or_else(|| {
            self.parts.push(Part {
                site,
                ..Part::default()
            });
            self.parts.len() - 1
        });
        &mut self.parts[at]
    }

    /// Sets a cell; what it was.
    pub(super) fn set(&mut self, index: MinionIndex, cell: Cell) -> Cell {
        let before = self.cells.set(index, cell);
        self.pending += u32::from(cell.is_pending());
        self.pending -= u32::from(before.is_pending());
        self.unnamed += u32::from(is_unnamed(cell));
        self.unnamed -= u32::from(is_unnamed(before));
        if before != cell {
            self.change();
        }
        before
    }

    /// Notes that something of it is another thing now.
    pub(super) fn change(&mut self) {
        self.is_dirty = true;
        self.is_changed = true;
    }

    /// Adds what was heard of a minion to its cell; the cell before and after.
    pub(super) fn raise(&mut self, index: MinionIndex, heard: Cell) -> (Cell, Cell) {
        let before = self.cells.get(index);
        let after = before.and(heard);
        if after != before {
            self.set(index, after);
        }
        (before, after)
    }

    /// Adds what was heard of a minion where the name has its place in this job: one entry of a name has a cell. The
    /// site that named it goes before one that only expects it, a site before the top master, that before nowhere, and
    /// of two alike the one whose name comes first. So the order of hearing does not matter.
    pub(super) fn place(
        &mut self,
        names: &Names,
        index: MinionIndex,
        heard: Cell,
    ) -> (MinionIndex, Cell, Cell) {
        if !names.is_shared(index) {
            let (before, after) = self.raise(index, heard);
            return (index, before, after);
        }
        let name = names.name(index).unwrap_or_default();
        let holder = names
            .entries(name)
            .find(|twin| *twin != index && self.cells.get(*twin) != Cell::NONE);
        let Some(holder) = holder else {
            let (before, after) = self.raise(index, heard);
            return (index, before, after);
        };
        let held = self.cells.get(holder);
        let own = self.cells.get(index).and(heard);
        if rank(names, index, own) > rank(names, holder, held) {
            self.set(holder, Cell::NONE);
            self.times.carry(holder, index);
            let both = held.and(own);
            self.set(index, both);
            (index, held, both)
        } else {
            // Named by the other site, not by this one: its naming stays its own.
            let (before, after) = self.raise(holder, Cell::new(heard.step()));
            (holder, before, after)
        }
    }

    /// The place where a return or receipt of a name counts that no site is given for.
    pub(super) fn holder(&self, names: &Names, name: &str) -> Option<MinionIndex> {
        let mut best = None;
        for index in names.entries(name) {
            if self.cells.get(index) != Cell::NONE {
                return Some(index);
            }
            if names.is_live(index)
                && best.is_none_or(|other| {
                    rank(names, index, Cell::NONE) > rank(names, other, Cell::NONE)
                })
            {
                best = Some(index);
            }
        }
        best
    }

    /// Nobody is to return any more, and every site that was asked has answered.
    pub(super) fn is_done(&self) -> bool {
        self.is_published && self.pending == 0 && !self.parts.iter().any(Part::is_asked)
    }

    /// What its site did not name once it has answered is not there.
    pub(super) fn settle(&mut self, names: &Names, now_ms: u64, settle_ms: u64) {
        if self.unnamed == 0 || !self.is_heard {
            return;
        }
        let is_settled =
            |part: &Part| part.has_answered() && part.acked_ms.saturating_add(settle_ms) <= now_ms;
        let mut settled: Vec<SiteIndex> = Vec::new();
        settled.extend(
            self.parts
                .iter()
                .filter(|part| is_settled(part))
                .map(|part| part.site),
        );
        if settled.is_empty() {
            return;
        }
        // A minion that two sites have may be on the other one.
        let is_due = |(index, cell): &(MinionIndex, Cell)| {
            is_unnamed(*cell)
                && !names.is_shared(*index)
                && names
                    .site(*index)
                    .is_some_and(|site| settled.contains(&site))
        };
        let due: Vec<MinionIndex> = self
            .cells
            .iter()
            .filter(is_due)
            .map(|(index, _)| index)
            .collect();
        for index in due {
            self.set(index, Cell::new(UNMATCHED));
        }
    }

    /// When cells that their sites did not name are to be looked at.
    pub(super) fn settles_ms(&self, now_ms: u64, settle_ms: u64) -> Option<u64> {
        if self.unnamed == 0 || !self.is_heard {
            return None;
        }
        let is_due = |part: &&Part| part.has_answered();
        let due = self
            .parts
            .iter()
            .filter(is_due)
            .map(|part| part.acked_ms.saturating_add(settle_ms));
        // What lies behind has been looked at.
        due.filter(|due| *due > now_ms).min()
    }

    /// Notes which sites can be reached, now that the job is closed.
    pub(super) fn close(&mut self, state: State, names: &Names, sites: &Sites, now_ms: u64) {
        if self.state == State::Open {
            // Every site with a minion needs a place to note it.
            let mut seen = vec![false; names.sites()];
            for (index, _) in self.cells.iter() {
                if let Some(seen) = names.site(index).and_then(|site| seen.get_mut(site.at())) {
                    *seen = true;
                }
            }
            for (number, _) in (0_u32..).zip(seen).filter(|(_, seen)| *seen) {
                self.part_mut(SiteIndex(number));
            }
            for part in &mut self.parts {
                part.at_close = sites.of(names.site_name(part.site));
            }
            self.note_missed(names);
            self.ended_ms = now_ms;
        }
        if self.state != state {
            self.is_dirty = true;
        }
        self.state = state;
    }

    /// Whoever gives receipts and gave none has missed the job. It is noted now: what is learnt later of a minion is no word
    /// about this job.
    fn note_missed(&mut self, names: &Names) {
        if self.pending == 0 || !self.is_heard || is_question(&self.fun) {
            return;
        }
        let is_missed = |(index, cell): &(MinionIndex, Cell)| {
            cell.is_accepted()
                && cell.is_pending()
                && !cell.reached(RECEIVED)
                && names.gives(*index)
        };
        let missed: Vec<(MinionIndex, Cell)> = self.cells.iter().filter(is_missed).collect();
        for (index, cell) in missed {
            self.set(index, cell.missed());
        }
    }

    /// What a closed job that is not done is: expired, when that is what all of its missing ones are.
    pub(super) fn ending(&self, names: &Names) -> State {
        let expired = |site: SiteIndex| {
            self.part(site)
                .is_some_and(|part| part.said == Some(Said::Expired))
        };
        let mut missing = self
            .cells
            .iter()
            .filter(|(_, cell)| cell.is_pending())
            .peekable();
        let has_expired = missing.peek().is_some()
            || self
                .parts
                .iter()
                .any(|part| part.said == Some(Said::Expired));
        let all_minions = missing.all(|(index, cell)| {
            let site = names.site(index);
            let part = site.and_then(|site| self.part(site));
            site.is_some_and(expired) && verdict(self, cell, part, None) == Verdict::Expired
        });
        let mut asked = self.parts.iter().filter(|part| part.is_asked());
        let all_sites = asked.all(|part| part.said == Some(Said::Expired));
        if has_expired && all_minions && all_sites {
            State::Expired
        } else {
            State::Incomplete
        }
    }

    /// How long it took until its last return; an open one until now.
    pub(super) fn took_ms(&self, now_ms: u64) -> u64 {
        let until = match self.state {
            State::Open => now_ms,
            State::Complete => self.last_return_ms,
            State::Incomplete | State::Expired => self.ended_ms.max(self.last_return_ms),
        };
        until.saturating_sub(self.at_ms)
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let texts = [&self.jid, &self.fun, &self.user, &self.tgt, &self.tgt_type];
        let target = match &self.target {
            Some(Target::Text(text)) => text.len(),
            Some(Target::List(ids)) => ids.iter().map(|id| id.len() + size_of::<String>()).sum(),
            None => 0,
        };
        size_of::<Self>()
            + texts.iter().map(|text| text.len()).sum::<usize>()
            + target
            + self.cells.bytes()
            + self.parts.capacity() * size_of::<Part>()
            + self
                .parts
                .iter()
                .map(|part| part.reason.len())
                .sum::<usize>()
    }
}

/// Salt's own questions about jobs: they are never asked to be acknowledged.
fn is_question(fun: &str) -> bool {
    const QUESTIONS: [&str; 7] = [
        "find_job",
        "find_cached_job",
        "is_running",
        "kill_job",
        "running",
        "signal_job",
        "term_job",
    ];
    fun.strip_prefix("saltutil.")
        .is_some_and(|question| QUESTIONS.contains(&question))
}

/// The cell is expected, and its site has not named it.
pub(super) fn is_unnamed(cell: Cell) -> bool {
    cell == Cell::new(EXPECTED)
}

/// Which of two entries of a name has its cell: the greater one.
fn rank(names: &Names, index: MinionIndex, cell: Cell) -> (bool, u8, std::cmp::Reverse<&str>) {
    let site = names
        .site(index)
        .map_or(NOWHERE, |site| names.site_name(site));
    let kind = match site {
        NOWHERE => 0,
        MOM => 1,
        _ => 2,
    };
    (cell.is_accepted(), kind, std::cmp::Reverse(site))
}
