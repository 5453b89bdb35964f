//! Whether a job's target means one given minion id, judged as a minion judges it.
//!
//! Follows Salt's `matchers/{glob,list,pcre,compound}_match.py`. Only the id is known here: what
//! asks for grains, pillar, addresses, node groups or ranges is [`Match::Unknown`], unless the
//! rest of a compound target settles the result. `Unknown` is also the answer to a regular
//! expression that Python and Rust may read differently: a wrong Yes or No is never worth it.

mod compound;
mod glob;
mod pcre;

use std::ops::Not;

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
    judge(tgt_type, target, minion_id, |_| Match::Unknown)
}

/// Whether a top master that has accepted the key of `minion_id` but holds no data of it, as of a
/// site, waits for it to answer.
///
/// `CkMinions` of Salt 3006.27 and 3008.3: grains and pillar that are not cached match nothing, but
/// a subnet keeps every id that it has no addresses of (`_check_ipcidr_minions`).
#[must_use]
pub fn is_expected_without_data(tgt_type: &str, target: &Target, minion_id: &str) -> Match {
    judge(tgt_type, target, minion_id, |engine| match engine {
        'G' | 'P' | 'I' | 'J' => Match::No,
        'S' => Match::Yes,
        _ => Match::Unknown,
    })
}

/// `by_data` says what becomes of targets by data, by the letter of their engine.
fn judge(tgt_type: &str, target: &Target, minion_id: &str, by_data: fn(char) -> Match) -> Match {
    match (tgt_type, target) {
        ("glob", Target::Text(pattern)) => glob::matches(pattern, minion_id).into(),
        // Salt's own matcher: `if not isinstance(tgt, str): return False`.
        ("glob", Target::List(_)) => Match::No,
        ("list", Target::Text(list)) => text_lists(list, minion_id).into(),
        ("list", Target::List(ids)) => ids.iter().any(|id| id == minion_id).into(),
        ("pcre", Target::Text(pattern)) => pcre::matches(pattern, minion_id),
        ("compound", Target::Text(text)) => {
            compound::matches(text.split_whitespace(), minion_id, by_data)
        }
        ("compound", Target::List(words)) => {
            compound::matches(words.iter().map(String::as_str), minion_id, by_data)
        }
        ("grain", _) => by_data('G'),
        ("grain_pcre", _) => by_data('P'),
        ("pillar" | "pillar_exact", _) => by_data('I'),
        ("pillar_pcre", _) => by_data('J'),
        ("ipcidr", _) => by_data('S'),
        _ => Match::Unknown,
    }
}

/// Membership in a comma text, with Salt's own idea of it: blanks are part of the ids.
fn text_lists(list: &str, minion_id: &str) -> bool {
    list.split(',').any(|id| id == minion_id)
        // An id that itself holds commas is found as Salt finds it.
        || (minion_id.contains(',')
            && (list == minion_id
                || list.contains(&format!(",{minion_id},"))
                || list.starts_with(&format!("{minion_id},"))
                || list.ends_with(&format!(",{minion_id}"))))
}

#[cfg(test)]
mod tests;
