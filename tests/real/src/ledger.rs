//! What a bridge says about sites and jobs, asked at its HTTP port.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use testkit::{Daemon, Tree, wait_until};

/// The answer of a path below `/api/v1/`.
///
/// # Errors
/// When the bridge does not answer, or with an error.
pub fn ask(bridge: &Daemon, path: &str) -> Result<Value> {
    match bridge.get(&format!("/api/v1/{path}"))? {
        (200, body) => Ok(serde_json::from_str(&body)?),
        (status, body) => bail!("/api/v1/{path} answers {status}: {body}"),
    }
}

/// Id and state of each site, sorted.
///
/// # Errors
/// When the bridge does not answer.
pub fn site_states(tree: &Tree) -> Result<Vec<(String, String)>> {
    let text = |site: &Value, key: &str| site[key].as_str().unwrap_or_default().to_owned();
    let mut states: Vec<_> = sites(tree)?
        .iter()
        .map(|site| (text(site, "id"), text(site, "state")))
        .collect();
    states.sort();
    Ok(states)
}

/// Waits until the bridge knows a site in this state, with so many minions.
///
/// # Errors
/// When it does not `within` this time.
pub fn wait_for_site(
    tree: &Tree,
    id: &str,
    state: &str,
    minions: u64,
    within: Duration,
) -> Result<()> {
    wait_until(&format!("{id} to be {state}"), within, || {
        let sites = sites(tree).map_err(|err| format!("{err:#}"))?;
        let site = sites.iter().find(|site| site["id"] == id);
        match site {
            Some(site) if site["state"] == state && site["minions"] == minions => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

fn sites(tree: &Tree) -> Result<Vec<Value>> {
    let bridge = tree.bridge.as_ref().context("the tree has a bridge")?;
    let answer = ask(bridge, "sites")?;
    let sites = answer["sites"].as_array().context("sites is a list")?;
    Ok(sites.clone())
}
