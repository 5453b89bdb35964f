//! A job as bytes for the disk. Sites stand in it by name: their numbers are those of a table in memory.

use super::{
    State,
    cells::Cells,
    job::{Job, Part, Said},
    saved::SavedJob,
    sites::Reach,
    times::Times,
};
use crate::{
    codec::{Reader, Writer},
    names::Names,
};

/// The version of the bytes.
pub(super) const VERSION: u64 = 2;

/// The version without times.
const WITHOUT_TIMES: u64 = 1;

/// A job as it is kept.
pub(super) fn to_saved(job: &Job, names: &Names) -> SavedJob {
    let mut writer = Writer::default();
    writer
        .number(VERSION)
        .number(job.table.into())
        .text(&job.jid);
    writer
        .text(&job.fun)
        .text(&job.user)
        .text(&job.tgt)
        .text(&job.tgt_type);
    for number in [
        job.at_ms,
        job.ttl_ms,
        job.deadline_ms,
        job.last_return_ms,
        job.ended_ms,
    ] {
        writer.number(number);
    }
    writer
        .number(of_state(job.state))
        .number(job.told.map_or(0, |told| of_state(told) + 1));
    writer
        .number(job.is_published.into())
        .number(job.is_heard.into());
    writer.number(job.parts.len() as u64);
    for part in &job.parts {
        writer.text(names.site_name(part.site));
        writer
            .number(part.published.into())
            .number(part.acks.into())
            .number(part.ask.into());
        writer
            .number(part.said.map_or(0, of_said))
            .number(part.acked_ms);
        writer.number(of_reach(part.at_close)).text(&part.reason);
    }
    job.cells.write(&mut writer);
    job.times.write(&mut writer);
    SavedJob {
        jid: job.jid.to_string(),
        at_ms: job.at_ms,
        table: job.table,
        is_open: job.state == State::Open,
        bytes: writer.finish(),
    }
}

/// The table of names that a kept job refers to.
pub(super) fn table(bytes: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(bytes);
    matches!(reader.number()?, WITHOUT_TIMES | VERSION).then_some(())?;
    reader.small()
}

/// The job that was kept; `None` when the bytes are none.
pub(super) fn read(bytes: &[u8], names: &mut Names) -> Option<Job> {
    let mut reader = Reader::new(bytes);
    let version = reader.number()?;
    matches!(version, WITHOUT_TIMES | VERSION).then_some(())?;
    let table = reader.small()?;
    let mut job = Job::new(reader.text()?, table, 0);
    job.fun = reader.text()?.into();
    job.user = reader.text()?.into();
    job.tgt = reader.text()?.into();
    job.tgt_type = reader.text()?.into();
    job.at_ms = reader.number()?;
    job.ttl_ms = reader.number()?;
    job.deadline_ms = reader.number()?;
    job.last_return_ms = reader.number()?;
    job.ended_ms = reader.number()?;
    job.state = state(reader.number()?)?;
    job.told = match reader.number()?.checked_sub(1) {
        Some(told) => Some(state(told)?),
        None => None,
    };
    job.is_published = reader.number()? != 0;
    job.is_heard = reader.number()? != 0;
    let mut parts = Vec::new();
    for _ in 0..reader.number()? {
        parts.push(read_part(&mut reader)?);
    }
    let cells = Cells::read(&mut reader)?;
    if version == VERSION {
        job.times = Times::read(&mut reader)?;
    }
    let is_whole = reader.is_empty() && cells.iter().all(|(index, _)| index.at() < names.len());
    is_whole.then_some(())?;
    for (index, cell) in cells.iter() {
        job.set(index, cell);
    }
    for (site, part) in parts {
        let site = names.number_site(site);
        *job.part_mut(site) = Part { site, ..part };
    }
    job.cells.squeeze();
    job.is_dirty = false;
    Some(job)
}

fn read_part<'a>(reader: &mut Reader<'a>) -> Option<(&'a str, Part)> {
    let site = reader.text()?;
    let part = Part {
        published: reader.small()?,
        acks: reader.small()?,
        ask: reader.number()? != 0,
        said: said(reader.number()?)?,
        acked_ms: reader.number()?,
        at_close: reach(reader.number()?)?,
        reason: reader.text()?.into(),
        ..Part::default()
    };
    Some((site, part))
}

const STATES: [State; 4] = [
    State::Open,
    State::Complete,
    State::Incomplete,
    State::Expired,
];

fn of_state(state: State) -> u64 {
    STATES.iter().position(|known| *known == state).unwrap_or(0) as u64
}

fn state(number: u64) -> Option<State> {
    STATES.get(usize::try_from(number).ok()?).copied()
}

const SAID: [Said; 5] = [
    Said::Duplicate,
    Said::NoMatch,
    Said::Unusable,
    Said::Refused,
    Said::Expired,
];

fn of_said(said: Said) -> u64 {
    SAID.iter()
        .position(|known| *known == said)
        .map_or(0, |at| at as u64 + 1)
}

/// `Some(None)`: it said nothing.
fn said(number: u64) -> Option<Option<Said>> {
    match number.checked_sub(1) {
        None => Some(None),
        Some(at) => SAID.get(usize::try_from(at).ok()?).copied().map(Some),
    }
}

const REACHES: [Reach; 3] = [Reach::Unknown, Reach::Up, Reach::Down];

fn of_reach(reach: Reach) -> u64 {
    REACHES
        .iter()
        .position(|known| *known == reach)
        .unwrap_or(0) as u64
}

fn reach(number: u64) -> Option<Reach> {
    REACHES.get(usize::try_from(number).ok()?).copied()
}
