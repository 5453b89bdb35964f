//! Python's `fnmatch.fnmatchcase`: `*`, `?`, `[seq]`, `[!seq]`; there is no escape character.

/// One element of a pattern.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Star,
    Any,
    Literal(char),
    Set {
        negated: bool,
        chars: Vec<char>,
        ranges: Vec<(char, char)>,
    },
}

impl Piece {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Star | Self::Any => true,
            Self::Literal(literal) => *literal == c,
            Self::Set {
                negated,
                chars,
                ranges,
            } => {
                let within = chars.contains(&c)
                    || ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                within != *negated
            }
        }
    }
}

/// A pattern made ready.
#[derive(Debug)]
pub(super) struct Glob {
    pieces: Vec<Piece>,
    /// It is `*`.
    is_all: bool,
}

impl Glob {
    pub(super) fn new(pattern: &str) -> Self {
        let mut pieces = parse(&pattern.chars().collect::<Vec<_>>());
        // Several stars in a row are one.
        pieces.dedup_by(|one, other| *one == Piece::Star && *other == Piece::Star);
        let is_all = pieces == [Piece::Star];
        Self { pieces, is_all }
    }

    /// What the pattern is made of: what a look at one text may cost.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Whether the whole of `text` matches. Takes at most `pattern * text` steps.
    pub(super) fn matches(&self, text: &str) -> bool {
        if self.is_all {
            return true;
        }
        if text.is_ascii() {
            let bytes = text.as_bytes();
            return self.scan(bytes.len(), |at| {
                bytes.get(at).map(|byte| char::from(*byte))
            });
        }
        let chars: Vec<char> = text.chars().collect();
        self.scan(chars.len(), |at| chars.get(at).copied())
    }

    fn scan(&self, length: usize, text: impl Fn(usize) -> Option<char>) -> bool {
        let (mut piece, mut at) = (0, 0);
        // The last star seen and how much text it has taken: the only place to come back to.
        let mut star: Option<(usize, usize)> = None;
        loop {
            match (self.pieces.get(piece), text(at)) {
                (None, None) => return true,
                (Some(Piece::Star), _) => {
                    star = Some((piece, at));
                    piece += 1;
                    continue;
                }
                (Some(expected), Some(c)) if expected.takes(c) => {
                    piece += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match star {
                // A star in last place takes all the rest.
                Some((star_piece, _)) if star_piece + 1 == self.pieces.len() => return true,
                Some((star_piece, taken)) if taken < length => {
                    star = Some((star_piece, taken + 1));
                    piece = star_piece + 1;
                    at = taken + 1;
                }
                _ => return false,
            }
        }
    }
}

fn parse(pattern: &[char]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(c) = pattern.get(at) {
        at += 1;
        pieces.push(match c {
            '*' => Piece::Star,
            '?' => Piece::Any,
            '[' => match set_end(pattern, at) {
                Some(end) => {
                    let piece = set(pattern.get(at..end).unwrap_or_default());
                    at = end + 1;
                    piece
                }
                None => Piece::Literal('['),
            },
            literal => Piece::Literal(*literal),
        });
    }
    pieces
}

/// The index of the `]` that closes a set begun before `start`; a `]` in first place is a member.
fn set_end(pattern: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    if pattern.get(at) == Some(&'!') {
        at += 1;
    }
    if pattern.get(at) == Some(&']') {
        at += 1;
    }
    (at..pattern.len()).find(|index| pattern.get(*index) == Some(&']'))
}

/// A set as `fnmatch.translate` reads it: split at the hyphens that make ranges, empty ranges
/// (`z-a`) taken out, the rest joined again.
fn set(content: &[char]) -> Piece {
    let mut chunks: Vec<Vec<char>> = Vec::new();
    let mut begin = 0;
    let mut search = if content.first() == Some(&'!') { 2 } else { 1 };
    while let Some(hyphen) = (search..content.len()).find(|i| content.get(*i) == Some(&'-')) {
        chunks.push(content.get(begin..hyphen).unwrap_or_default().to_vec());
        begin = hyphen + 1;
        search = hyphen + 3;
    }
    let rest = content.get(begin..).unwrap_or_default().to_vec();
    match chunks.last_mut() {
        // A hyphen in last place is a member.
        Some(last) if rest.is_empty() => last.push('-'),
        _ => chunks.push(rest),
    }
    for index in (1..chunks.len()).rev() {
        let empty = match (
            chunks.get(index - 1).and_then(|c| c.last()),
            chunks.get(index).and_then(|c| c.first()),
        ) {
            (Some(low), Some(high)) => low > high,
            _ => false,
        };
        if empty {
            let right = chunks.remove(index);
            if let Some(left) = chunks.get_mut(index - 1) {
                left.pop();
                left.extend(right.into_iter().skip(1));
            }
        }
    }
    let negated = chunks.first().and_then(|chunk| chunk.first()) == Some(&'!');
    if negated && let Some(first) = chunks.first_mut() {
        first.remove(0);
    }
    let ranges = chunks
        .windows(2)
        .filter_map(|pair| match pair {
            [left, right] => Some((*left.last()?, *right.first()?)),
            _ => None,
        })
        .collect();
    Piece::Set {
        negated,
        chars: chunks.concat(),
        ranges,
    }
}
