//! Python's `re.match` by way of the `regex` crate, for patterns that both read alike.

use regex::{Regex, RegexBuilder};

use super::Match;

/// Longer patterns are not judged: building one takes time in proportion.
const PATTERN_BYTES_MAX: usize = 16 * 1024;
/// Bound of a built expression; `a{1000}{1000}` would otherwise take all memory.
const PROGRAM_BYTES_MAX: usize = 1 << 20;

/// A pattern made ready; nothing where Python and Rust may read it differently.
#[derive(Debug)]
pub(super) struct Pcre(Option<Regex>);

impl Pcre {
    pub(super) fn new(pattern: &str) -> Self {
        let build = |translated| {
            RegexBuilder::new(&format!(r"\A(?:{translated})"))
                .size_limit(PROGRAM_BYTES_MAX)
                .build()
                .ok()
        };
        Self(translate(pattern).and_then(build))
    }

    /// Whether `re.match(pattern, minion_id)` finds something: anchored at the start only.
    pub(super) fn matches(&self, minion_id: &str) -> Match {
        match &self.0 {
            // `$` matches before a line end in last place, for Python only.
            Some(regex) if !minion_id.ends_with('\n') => regex.is_match(minion_id).into(),
            _ => Match::Unknown,
        }
    }
}

/// The pattern in Rust's spelling, or `None` where the two might differ in meaning.
///
/// Only what is written here is let through; look-around, back references and the like are
/// refused by the `regex` crate itself.
fn translate(pattern: &str) -> Option<String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return None;
    }
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    // Whether the last element was a quantifier: `a++` and `a*+` are possessive in Python 3.11 and
    // nested repetition in Rust.
    let mut quantified = false;
    while let Some(c) = chars.next() {
        let quantifier = matches!(c, '*' | '+' | '?' | '}');
        if quantified && matches!(c, '*' | '+' | '{') {
            return None;
        }
        match c {
            '\\' => escape(chars.next()?, &mut out)?,
            '[' => class(&mut chars, &mut out)?,
            '(' => {
                out.push('(');
                if chars.next_if_eq(&'?').is_some() {
                    group(out.len() == 1, &mut chars, &mut out)?;
                }
            }
            // Python's verbose mode and line ends do not matter without flags, which `group` bars.
            other => out.push(other),
        }
        quantified = quantifier;
    }
    Some(out)
}

/// An escape outside of a class.
fn escape(c: char, out: &mut String) -> Option<()> {
    match c {
        'Z' => out.push_str(r"\z"),
        'd' | 'D' | 's' | 'S' | 'w' | 'W' | 'b' | 'B' | 'A' | 'n' | 't' | 'r' | 'f' | 'v' | 'a' => {
            out.push('\\');
            out.push(c);
        }
        // `\<` and `\>` are word boundaries in Rust, plain characters in Python.
        c if c.is_ascii_punctuation() && c != '<' && c != '>' => {
            out.push('\\');
            out.push(c);
        }
        _ => return None,
    }
    Some(())
}

/// What follows `(?`: groups that only group or name, and the flag `i`.
fn group(
    first: bool,
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    out: &mut String,
) -> Option<()> {
    out.push('?');
    match chars.next()? {
        ':' => out.push(':'),
        'P' => {
            chars.next_if_eq(&'<')?;
            out.push_str("P<");
        }
        // `(?i)` holds from here on in Rust and for everything in Python, which demands it first;
        // as `translate` wraps the pattern in a group, both come to the same.
        'i' if first || chars.peek() == Some(&':') => {
            out.push('i');
            let end = chars.next_if(|c| matches!(c, ')' | ':'))?;
            out.push(end);
        }
        _ => return None,
    }
    Some(())
}

/// A character class, without what Rust adds to it: nested classes, `&&`, `--`, `~~`.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Option<()> {
    out.push('[');
    if chars.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    // In first place `]` is a member, for Python and for Rust.
    if chars.next_if_eq(&']').is_some() {
        out.push_str(r"\]");
    }
    let mut previous = None;
    loop {
        let c = chars.next()?;
        match c {
            ']' => {
                out.push(']');
                return Some(());
            }
            '[' => return None,
            '&' | '~' | '-' | '|' if previous == Some(c) => return None,
            '\\' => match chars.next()? {
                'b' => return None,
                escaped => escape(escaped, out).filter(|()| !matches!(escaped, 'B' | 'A' | 'Z'))?,
            },
            other => out.push(other),
        }
        previous = Some(c);
    }
}
