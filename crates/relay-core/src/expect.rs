//! Whom a job means, by the rosters, before any site has answered.
//!
//! - A minion that two rosters hold is expected once: on the site whose name comes first, until a site names it.
//! - What the ids alone do not tell is left to the sites: each such site has to be asked.
//! - A target that would take too long to work out is left to the sites, too.

use crate::{
    names::MinionIndex,
    roster::Rosters,
    target::{Match, Matcher, Target},
};

/// Most words looked at for one job, over all ids: some 0.3 s.
const WORDS_MAX: usize = 20_000_000;

/// What is expected of one site.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SiteExpected {
    /// The site.
    pub site: String,
    /// Its minions that the job means for certain.
    pub minions: Vec<MinionIndex>,
    /// Only the site can tell whom else the job means.
    pub ask: bool,
}

/// Whom a job means: every site that it concerns, sorted by name.
#[must_use]
pub fn expect(tgt_type: &str, target: &Target, rosters: &Rosters) -> Vec<SiteExpected> {
    let matcher = Matcher::new(tgt_type, target);
    let names = rosters.names();
    let is_too_much = matcher.words().saturating_mul(names.live()) > WORDS_MAX;
    let mut expected: Vec<SiteExpected> = Vec::new();
    expected.resize_with(names.sites(), SiteExpected::default);
    for site in rosters.sites() {
        let number = names.site_number(site);
        if let Some(expected) = number.and_then(|number| expected.get_mut(number.at())) {
            site.clone_into(&mut expected.site);
            // A site that may have minions which its roster does not hold.
            expected.ask = is_too_much || !rosters.is_complete(site);
        }
    }
    if !is_too_much {
        for (index, site, name) in names.live_entries() {
            let Some(of_site) = expected.get_mut(site.at()) else {
                continue;
            };
            match matcher.matches(name) {
                Match::Yes if is_first(rosters, index, name) => of_site.minions.push(index),
                Match::Yes | Match::No => {}
                Match::Unknown => of_site.ask = true,
            }
        }
    }
    expected.retain(|site| site.ask || !site.minions.is_empty());
    expected.sort_unstable_by(|one, other| one.site.cmp(&other.site));
    expected
}

/// Whether no site whose name comes before has this minion, too.
fn is_first(rosters: &Rosters, index: MinionIndex, name: &str) -> bool {
    let names = rosters.names();
    let site = |index| names.site(index).map(|site| names.site_name(site));
    !names.is_shared(index)
        || names
            .entries(name)
            .filter(|twin| names.is_live(*twin))
            .all(|twin| site(twin) >= site(index))
}
