//! `saltway redeliver`: sends a job again, under its own jid, to minions that did not get it.
//!
//! ```text
//! bridge ──who is missing──► choose ──ids──► load ◄── job cache of the MoM
//!                              ▲              │ a list of minions, the same jid
//!                       asks, if in doubt     ├──► the MoM's publisher
//!                                             └──► its event bus: saltway/job/<jid>/redeliver
//! ```
//! - Nobody is sent it who has returned or acknowledged it, whatever was asked for.
//! - Past the MoM's workers: its job cache keeps the job's target and minions as they were.
//! - When somebody may have run it, or when it has expired, a person decides: on the terminal or by `--yes`.

mod choose;
mod load;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use salt_link::direct::DirectPublisher;
use salt_link::event_bus::{EventWriter, EventWriterConfig};
use salt_link::job_cache::LocalCache;
use salt_link::salt_config::MasterConfig;
use salt_wire::ids::Jid;
use salt_wire::msgpack::Value as Salt;
use serde_json::{Value, json};

use self::choose::Choice;
use self::load::SavedJob;
use crate::args::{Args, Redeliver};
use crate::client::{AskError, Client, escaped};
use crate::output::Output;
use crate::paint::{Tone, counted, span};
use crate::settings::{self, Settings};
use crate::table::{Cell, Column, Table};

/// Time since the epoch.
type UnixTime = Duration;

/// One publication and one event name at most so many: Salt cuts an event above 1 MiB.
const MINIONS_PER_PUBLICATION_MAX: usize = 5_000;

/// As many minions as the bridge tells of one job.
const MINIONS_MAX: u32 = 1_000_000;

/// Does it; fine when everybody who was meant was sent it.
pub(crate) fn run(args: &Args, wanted: &Redeliver, out: &mut Output) -> anyhow::Result<bool> {
    let settings = Settings::load(&args.config)?;
    let master = MasterConfig::load(&settings.salt_config)?;
    let jid = Jid::parse(&wanted.jid).context("no jid")?;
    let saved = saved(&master, &jid)?;
    let job = ask(&settings::client(args)?, wanted)?;
    let mut choice = Choice::of(job.as_ref(), wanted.minions.as_deref());
    let sent = if may_send(&saved, job.as_ref(), &settings, &mut choice, wanted)? {
        send(&master, &saved, &choice.send)?
    } else {
        Vec::new()
    };
    show(&saved, &choice, &sent, out)?;
    Ok(choice.refused.is_empty() && sent.len() == choice.send.len())
}

fn saved(master: &MasterConfig, jid: &Jid) -> anyhow::Result<SavedJob> {
    anyhow::ensure!(
        master.master_job_cache == "local_cache",
        "the MoM keeps its jobs in {}, which this command cannot read; use: salt-run saltway.redeliver {jid}",
        master.master_job_cache
    );
    let cache = LocalCache::new(&master.cachedir, &master.hash_type)
        .with_context(|| format!("hash_type {} is not known", master.hash_type))?;
    let job = cache.read_job(jid, |_, _, _| ()).with_context(|| {
        format!(
            "the job cache in {} does not know job {jid}; is {} the MoM's configuration, and may this user read it?",
            master.cachedir.display(),
            master.config_file.display()
        )
    })?;
    let load = job.load.with_context(|| {
        format!("the job cache has job {jid} without a legible load; run the job anew")
    })?;
    Ok(SavedJob::new(jid.clone(), load))
}

/// The job as the bridge has it; `None` when it does not know it and the minions are named.
fn ask(client: &Client, wanted: &Redeliver) -> anyhow::Result<Option<Value>> {
    let path = format!("jobs/{}?limit={MINIONS_MAX}", escaped(&wanted.jid));
    match client.get(&path) {
        Ok(job) => Ok(Some(job)),
        Err(AskError::NotFound { .. }) if wanted.minions.is_some() => Ok(None),
        Err(AskError::NotFound { said }) => {
            anyhow::bail!("{said}; name the minions by --minions to send it without the ledger")
        }
        Err(other) => Err(other.into()),
    }
}

/// Settles what is in doubt; whether anything is to be sent.
fn may_send(
    saved: &SavedJob,
    job: Option<&Value>,
    settings: &Settings,
    choice: &mut Choice,
    wanted: &Redeliver,
) -> anyhow::Result<bool> {
    if choice.send.is_empty() && choice.doubtful.is_empty() {
        return Ok(false);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    if let Some(ago) = saved.expired_for(job, settings.job_ttl, now)
        && !wanted.yes
    {
        let question = format!(
            "job {} expired {} ago",
            saved.jid(),
            span(ago.as_secs_f64())
        );
        if !confirm(&question)? {
            return Ok(false);
        }
    }
    if !choice.doubtful.is_empty() {
        let question = format!(
            "{} may have run it: no receipts, nobody knows",
            counted(choice.doubtful.len() as u64, "minion")
        );
        let yes = wanted.yes || confirm(&question)?;
        choice.settle(yes);
    }
    Ok(!choice.send.is_empty())
}

/// What a person says; without one, no.
fn confirm(question: &str) -> anyhow::Result<bool> {
    let mut to = io::stderr();
    if !io::stdin().is_terminal() {
        writeln!(to, "saltway: {question}; --yes sends it anyway")?;
        return Ok(false);
    }
    write!(to, "{question}. Send it again? [y/N] ")?;
    to.flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Publishes the job to `minions`, and tells the bridges; who was sent it.
fn send(
    master: &MasterConfig,
    saved: &SavedJob,
    minions: &[String],
) -> anyhow::Result<Vec<String>> {
    let publisher = DirectPublisher::of_master(master);
    let bus = EventWriter::new(EventWriterConfig::new(&master.sock_dir));
    // The bus is for tokio; one event needs one thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut sent = Vec::new();
    for part in minions.chunks(MINIONS_PER_PUBLICATION_MAX) {
        publisher.publish_blocking(&saved.publication(master, part)?)?;
        sent.extend_from_slice(part);
        let tag = format!("saltway/job/{}/redeliver", saved.jid());
        let fired = runtime.block_on(bus.fire(&tag, event(saved.jid(), part)));
        fired.with_context(|| {
            format!("job {} was sent again to {}, but the bridges could not be told: they count it by its returns alone", saved.jid(), counted(part.len() as u64, "minion"))
        })?;
    }
    Ok(sent)
}

fn event(jid: &Jid, minions: &[String]) -> Salt {
    Salt::map([
        ("v", Salt::Int(1)),
        ("jid", jid.as_str().into()),
        (
            "minions",
            Salt::array(minions.iter().map(|id| Salt::from(id.as_str()))),
        ),
        ("user", user().as_str().into()),
    ])
}

/// Who does this, as Salt's own commands say it.
fn user() -> String {
    let of = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let own = || of("USER").unwrap_or_else(|| rustix::process::geteuid().as_raw().to_string());
    match of("SUDO_USER").filter(|name| name != "root") {
        Some(name) if rustix::process::geteuid().is_root() => format!("sudo_{name}"),
        _ if rustix::process::geteuid().is_root() => "root".to_owned(),
        _ => own(),
    }
}

fn show(
    saved: &SavedJob,
    choice: &Choice,
    sent: &[String],
    out: &mut Output,
) -> anyhow::Result<()> {
    if out.json {
        let refused: serde_json::Map<String, Value> = choice
            .refused
            .iter()
            .map(|(id, why)| (id.clone(), (*why).into()))
            .collect();
        return Ok(
            out.json(&json!({"jid": saved.jid().as_str(), "sent": sent, "refused": refused}))?
        );
    }
    let mut table = Table::new(vec![
        Column::left("MINION"),
        Column::left("JOB").shrinks(12),
    ]);
    for id in sent {
        table.row(vec![Cell::new(id), Cell::toned("sent again", Tone::Good)]);
    }
    for id in choice.send.iter().filter(|id| !sent.contains(id)) {
        table.row(vec![Cell::new(id), Cell::toned("not sent", Tone::Watch)]);
    }
    for (id, why) in &choice.refused {
        table.row(vec![Cell::new(id), Cell::toned(why, Tone::Watch)]);
    }
    if table.is_empty() {
        return Ok(out.line("nobody is missing")?);
    }
    out.table(&table)?;
    out.line(&format!(
        "sent again to {}",
        counted(sent.len() as u64, "minion")
    ))?;
    Ok(())
}
