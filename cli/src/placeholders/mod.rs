//! `saltway placeholders`: keys on the MoM for the minions of the sites, with which nobody signs in.
//!
//! A 3008 `salt` asks only ids with an accepted key by `find_job`. A placeholder gives an id such a
//! key: one public key for all, whose private half is thrown away before it is first used.
//!
//! ```text
//! rosters (bridge) ──ids──► add ──► record (<state_dir>/placeholders.json)
//!                                └► keys   (<pki_dir>/minions/<id>)
//!                        remove ◄── both: a key goes only when its content is ours
//! ```
//! - No key that is there is overwritten, whatever it holds; an id that is pending, rejected or
//!   denied gets none.
//! - A key is taken away only when its content is the recorded key or bears our mark.
//! - The record is written before the first key: it may name keys that were never made, never
//!   the other way round.

mod key;
mod pki;
mod record;

use std::collections::BTreeMap;

use anyhow::Context;
use salt_link::salt_config::MasterConfig;
use serde_json::json;

use self::key::PublicKey;
use self::pki::{Holder, Pki};
use self::record::Record;
use crate::args::{Args, Placeholders, Scope, Verb};
use crate::commands;
use crate::field::Field;
use crate::output::Output;
use crate::paint::{Tone, counted};
use crate::settings::{self, Settings};
use crate::table::{Cell, Column, Table};

/// Does what is `wanted`; fine unless something could not be done.
pub(crate) fn run(args: &Args, wanted: &Placeholders, out: &mut Output) -> anyhow::Result<bool> {
    let settings = Settings::load(&args.config)?;
    let master = MasterConfig::load(&settings.salt_config)?;
    let place = Place {
        pki: Pki::open(&master.pki_dir)?,
        record: Record::load(&settings.state_dir)?,
    };
    match &wanted.verb {
        Verb::List(scope) => list(args, &place, scope, out),
        Verb::Add(scope) => add(args, place, scope, out),
        Verb::Remove(scope) => remove(place, scope, out),
    }
}

/// The MoM's keys, and what we know of ours among them.
struct Place {
    pki: Pki,
    record: Record,
}

impl Place {
    /// Whether `content` is a placeholder of ours.
    fn is_ours(&self, content: &[u8]) -> bool {
        PublicKey::from_pem(content).is_some_and(|key| key.is_marked() || self.record.is_key(&key))
    }

    /// The ids whose accepted key is ours, with their site as far as it is recorded.
    fn ours(&self, scope: &Scope) -> anyhow::Result<BTreeMap<String, String>> {
        let mut ours = BTreeMap::new();
        for (id, content) in self.pki.accepted()? {
            let site = self.record.site(&id).unwrap_or_default().to_owned();
            if scope.takes(&site) && self.is_ours(&content) {
                ours.insert(id, site);
            }
        }
        Ok(ours)
    }
}

impl Scope {
    fn takes(&self, site: &str) -> bool {
        self.site.as_ref().is_none_or(|wanted| wanted == site)
    }

    /// `would ` in front of a verb when nothing is to be done.
    fn would(&self, does: &str, would: &str) -> String {
        if self.dry_run {
            format!("would {would}")
        } else {
            does.to_owned()
        }
    }
}

fn list(args: &Args, place: &Place, scope: &Scope, out: &mut Output) -> anyhow::Result<bool> {
    let ours = place.ours(scope)?;
    if out.json {
        out.json(&json!({"placeholders": ours}))?;
        return Ok(true);
    }
    let mut table = Table::new(vec![Column::left("PLACEHOLDER"), Column::left("SITE")]);
    for (id, site) in &ours {
        table.row(vec![Cell::new(id), Cell::new(site)]);
    }
    if !table.is_empty() {
        out.table(&table)?;
    }
    let dir = place.pki.minions().display().to_string();
    out.line(&format!(
        "{} in {dir}",
        counted(ours.len() as u64, "placeholder key")
    ))?;
    // Without a bridge the keys can still be listed.
    if let Ok(ids) = roster(args, scope) {
        let without = ids
            .keys()
            .filter(|id| place.pki.holder(id).is_none())
            .count();
        if without > 0 {
            out.line(&format!(
                "{} of the rosters have no key here: `saltway placeholders add`",
                counted(without as u64, "minion")
            ))?;
        }
    }
    Ok(true)
}

fn add(args: &Args, mut place: Place, scope: &Scope, out: &mut Output) -> anyhow::Result<bool> {
    let mut wanted = Vec::new();
    let (mut there, mut refused) = (0, 0);
    for (id, site) in roster(args, scope)? {
        match place.pki.holder(&id) {
            None if pki::is_valid_id(&id) => wanted.push((id, site)),
            None => {
                refused += 1;
                tell(out, "left out", &id, "no id that Salt takes")?;
            }
            Some(Holder::Accepted(content)) if place.is_ours(&content) => there += 1,
            Some(holder) => {
                refused += 1;
                tell(out, "kept", &id, holder.describe())?;
            }
        }
    }
    let verb = scope.would("added", "add");
    if !scope.dry_run && !wanted.is_empty() {
        let key = match place.record.key() {
            Some(key) => key,
            None => PublicKey::generate().context("failed to make a key")?,
        };
        place.record.add(&key, &wanted)?;
        for (id, _) in &wanted {
            place.pki.add(id, &key.to_pem()?)?;
        }
    }
    for (id, site) in &wanted {
        tell(out, &verb, id, site)?;
    }
    summary(
        out,
        &verb,
        wanted.len(),
        &format!("{there} there already, {refused} left alone"),
    )?;
    Ok(true)
}

fn remove(mut place: Place, scope: &Scope, out: &mut Output) -> anyhow::Result<bool> {
    let ours = place.ours(scope)?;
    let verb = scope.would("removed", "remove");
    let mut kept = 0;
    for (id, site) in place.record.ids() {
        if !scope.takes(site) || ours.contains_key(id) {
            continue;
        }
        if let Some(holder) = place.pki.holder(id) {
            kept += 1;
            tell(out, "kept", id, holder.describe())?;
        }
    }
    for (id, site) in &ours {
        if !scope.dry_run {
            place.pki.remove(id)?;
        }
        tell(out, &verb, id, site)?;
    }
    if !scope.dry_run {
        place.record.forget(|site| scope.takes(site))?;
    }
    summary(
        out,
        &verb,
        ours.len(),
        &format!("{kept} kept that are another's now"),
    )?;
    Ok(true)
}

/// The ids of the rosters, each with its site. An id of two sites stands under the first.
fn roster(args: &Args, scope: &Scope) -> anyhow::Result<BTreeMap<String, String>> {
    let client = settings::client(args)?;
    let answer = commands::roster::ask(&client, scope.site.as_deref())?;
    let mut ids = BTreeMap::new();
    let sites = answer.list("sites").iter();
    for site in sites.filter(|site| scope.takes(site.text("id"))) {
        for minion in site.list("minions") {
            let id = minion.text("id").to_owned();
            ids.entry(id).or_insert_with(|| site.text("id").to_owned());
        }
    }
    Ok(ids)
}

fn tell(out: &mut Output, verb: &str, id: &str, why: &str) -> anyhow::Result<()> {
    if out.json {
        return Ok(out.line(&json!({"id": id, "did": verb, "note": why}).to_string())?);
    }
    let tone = if verb == "kept" {
        Tone::Watch
    } else {
        Tone::Plain
    };
    let text = crate::paint::clean(&format!("{verb} {id} ({why})"));
    Ok(out.line(&out.paint(&text, tone))?)
}

fn summary(out: &mut Output, verb: &str, count: usize, rest: &str) -> anyhow::Result<()> {
    if out.json {
        return Ok(());
    }
    let count = counted(count as u64, "placeholder key");
    Ok(out.line(&format!("{verb} {count}; {rest}"))?)
}
