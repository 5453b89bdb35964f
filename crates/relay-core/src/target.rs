//! Whether a job's target means one given minion id, judged as a minion judges it.
//!
//! Follows Salt's `matchers/{glob,list,pcre,compound}_match.py`. Only the id is known here: what
//! asks for grains, pillar, addresses, node groups or ranges is [`Match::Unknown`], unless the
//! rest of a compound target settles the result. `Unknown` is also the answer to a regular
//! expression that Python and Rust may read differently: a wrong Yes or No is never worth it.

mod compound;
mod glob;
mod pcre;

use std::{collections::HashSet, ops::Not};

use self::{compound::Compound, glob::Glob, pcre::Pcre};

/// What can be said about a target and a minion id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The target means this minion.
    Yes,
    /// The target does not mean this minion.
    No,
    /// The id alone does not tell.
    Unknown,
}

impl Match {
    /// Both, in three-valued logic: a certain No outweighs what is unknown.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Unknown,
        }
    }

    /// Either, in three-valued logic: a certain Yes outweighs what is unknown.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::No, Self::No) => Self::No,
            _ => Self::Unknown,
        }
    }
}

impl Not for Match {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }
}

impl From<bool> for Match {
    fn from(matched: bool) -> Self {
        if matched { Self::Yes } else { Self::No }
    }
}

/// The value of a load's `tgt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One text, whatever the type of the target.
    Text(String),
    /// An array of texts: ids of a list, or the words of a compound target.
    List(Vec<String>),
}

/// Whether `target`, of the type that the load's `tgt_type` names, means `minion_id`.
#[must_use]
pub fn matches(tgt_type: &str, target: &Target, minion_id: &str) -> Match {
    Matcher::new(tgt_type, target).matches(minion_id)
}

/// Whether a top master that has accepted the key of `minion_id` but holds no data of it, as of a
/// site, waits for it to answer.
///
/// `CkMinions` of Salt 3006.27 and 3008.3: grains and pillar that are not cached match nothing, but
/// a subnet keeps every id that it has no addresses of (`_check_ipcidr_minions`).
#[must_use]
pub fn is_expected_without_data(tgt_type: &str, target: &Target, minion_id: &str) -> Match {
    let by_data = |engine| match engine {
        'G' | 'P' | 'I' | 'J' => Match::No,
        'S' => Match::Yes,
        _ => Match::Unknown,
    };
    Matcher::with_data(tgt_type, target, by_data).matches(minion_id)
}

/// A target made ready to be asked about many ids.
#[derive(Debug)]
pub struct Matcher(Kind);

#[derive(Debug)]
enum Kind {
    /// The same for every id.
    All(Match),
    Glob(Glob),
    List(List),
    Pcre(Pcre),
    Compound(Compound),
}

impl Matcher {
    /// Reads a target of the type that the load's `tgt_type` names.
    #[must_use]
    pub fn new(tgt_type: &str, target: &Target) -> Self {
        Self::with_data(tgt_type, target, |_| Match::Unknown)
    }

    /// `by_data` says what becomes of targets by data, by the letter of their engine.
    fn with_data(tgt_type: &str, target: &Target, by_data: fn(char) -> Match) -> Self {
        Self(match (tgt_type, target) {
            ("glob", Target::Text(pattern)) => Kind::Glob(Glob::new(pattern)),
            // Salt's own matcher: `if not isinstance(tgt, str): return False`.
            ("glob", Target::List(_)) => Kind::All(Match::No),
            ("list", Target::Text(list)) => Kind::List(List::of_text(list)),
            ("list", Target::List(ids)) => Kind::List(List::of_ids(ids)),
            ("pcre", Target::Text(pattern)) => Kind::Pcre(Pcre::new(pattern)),
            ("compound", Target::Text(text)) => {
                Kind::Compound(Compound::new(text.split_whitespace(), by_data))
            }
            ("compound", Target::List(words)) => {
                Kind::Compound(Compound::new(words.iter().map(String::as_str), by_data))
            }
            ("grain", _) => Kind::All(by_data('G')),
            ("grain_pcre", _) => Kind::All(by_data('P')),
            ("pillar" | "pillar_exact", _) => Kind::All(by_data('I')),
            ("pillar_pcre", _) => Kind::All(by_data('J')),
            ("ipcidr", _) => Kind::All(by_data('S')),
            _ => Kind::All(Match::Unknown),
        })
    }

    /// Whether the target means `minion_id`.
    #[must_use]
    pub fn matches(&self, minion_id: &str) -> Match {
        match &self.0 {
            Kind::All(same) => *same,
            Kind::Glob(glob) => glob.matches(minion_id).into(),
            Kind::List(list) => list.holds(minion_id).into(),
            Kind::Pcre(pcre) => pcre.matches(minion_id),
            Kind::Compound(compound) => compound.matches(minion_id),
        }
    }

    /// How many words are looked at for one id: what an answer costs.
    #[must_use]
    pub fn words(&self) -> usize {
        match &self.0 {
            Kind::Compound(compound) => compound.words(),
            Kind::Glob(glob) => glob.pieces() / 16 + 1,
            Kind::All(_) | Kind::List(_) | Kind::Pcre(_) => 1,
        }
    }
}

/// The ids of a list.
#[derive(Debug)]
struct List {
    ids: HashSet<String>,
    /// The list as one text, if it came so.
    text: Option<String>,
}

impl List {
    fn of_text(list: &str) -> Self {
        Self {
            ids: list.split(',').map(str::to_owned).collect(),
            text: Some(list.to_owned()),
        }
    }

    fn of_ids(ids: &[String]) -> Self {
        Self {
            ids: ids.iter().cloned().collect(),
            text: None,
        }
    }

    /// Membership, with Salt's own idea of it: blanks are part of the ids.
    fn holds(&self, minion_id: &str) -> bool {
        self.ids.contains(minion_id)
            // An id that itself holds commas is found as Salt finds it.
            || (minion_id.contains(',')
                && self.text.as_ref().is_some_and(|list| {
                    list == minion_id
                        || list.contains(&format!(",{minion_id},"))
                        || list.starts_with(&format!("{minion_id},"))
                        || list.ends_with(&format!(",{minion_id}"))
                }))
    }
}

#[cfg(test)]
mod tests;
