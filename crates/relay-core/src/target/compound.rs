//! Compound targets: Salt's word scan, then Python's `and`, `or`, `not` and parentheses over
//! three-valued results.

use super::{Glob, List, Match, Pcre};

/// Deeper nesting is not judged; Python's own parser gives up at 200.
const DEPTH_MAX: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    And,
    Or,
    Not,
    Open,
    Close,
    Value(Match),
}

/// Why an expression has no value of its own.
enum Invalid {
    /// Python refuses it: Salt's matcher logs that and says False.
    Syntax,
    /// Python gives it a meaning that nobody intends, such as a call; not judged here.
    Odd,
}

/// A compound target made ready.
#[derive(Debug)]
pub(super) struct Compound {
    /// `None` where Salt's scan of the words says False.
    tokens: Option<Vec<Word>>,
}

#[derive(Debug)]
enum Word {
    /// An operator, or a word that says the same of every id.
    Fixed(Token),
    Glob(Glob),
    List(List),
    Pcre(Pcre),
}

impl Compound {
    /// Reads the words. `by_data` judges those that ask for more than the id.
    pub(super) fn new<'a>(
        words: impl Iterator<Item = &'a str>,
        by_data: fn(char) -> Match,
    ) -> Self {
        Self {
            tokens: scan(words, by_data),
        }
    }

    /// How many words there are.
    pub(super) fn words(&self) -> usize {
        self.tokens.as_ref().map_or(1, Vec::len)
    }

    /// Whether the target means `minion_id`.
    pub(super) fn matches(&self, minion_id: &str) -> Match {
        let Some(words) = &self.tokens else {
            return Match::No;
        };
        let tokens: Vec<Token> = words.iter().map(|word| word.judge(minion_id)).collect();
        let mut parser = Parser {
            tokens: &tokens,
            at: 0,
        };
        match parser.or(0) {
            Ok(result) if parser.at == tokens.len() => result,
            Ok(_) if parser.peek() == Some(Token::Open) => Match::Unknown,
            Ok(_) | Err(Invalid::Syntax) => Match::No,
            Err(Invalid::Odd) => Match::Unknown,
        }
    }
}

impl Word {
    /// A word that is no operator.
    fn new(word: &str, by_data: fn(char) -> Match) -> Self {
        match engine(word) {
            None => Self::Glob(Glob::new(word)),
            Some(('L', list)) => Self::List(List::of_text(list)),
            Some(('E', pattern)) => Self::Pcre(Pcre::new(pattern)),
            // Grains, pillar, addresses, node groups, ranges; `T@` and `M@` are known to 3008 only.
            Some((engine, _)) => Self::Fixed(Token::Value(by_data(engine))),
        }
    }

    fn judge(&self, minion_id: &str) -> Token {
        match self {
            Self::Fixed(token) => *token,
            Self::Glob(glob) => Token::Value(glob.matches(minion_id).into()),
            Self::List(list) => Token::Value(list.holds(minion_id).into()),
            Self::Pcre(pcre) => Token::Value(pcre.matches(minion_id)),
        }
    }
}

/// The words with Salt's own corrections; `None` where Salt's scan says False.
fn scan<'a>(words: impl Iterator<Item = &'a str>, by_data: fn(char) -> Match) -> Option<Vec<Word>> {
    let mut scanned: Vec<Word> = Vec::new();
    for word in words {
        let token = match word {
            "and" => Token::And,
            "or" => Token::Or,
            "not" => Token::Not,
            "(" => Token::Open,
            ")" => Token::Close,
            other => {
                scanned.push(Word::new(other, by_data));
                continue;
            }
        };
        match (scanned.last(), token) {
            (None, Token::And | Token::Or | Token::Close) => return None,
            (Some(Word::Fixed(Token::Open)), Token::And | Token::Or) => return None,
            // `a not b` means `a and not b`.
            (Some(last), Token::Not) if !is_before_not(last) => {
                scanned.push(Word::Fixed(Token::And));
            }
            _ => {}
        }
        scanned.push(Word::Fixed(token));
    }
    Some(scanned)
}

/// Whether `not` may follow as it is.
fn is_before_not(word: &Word) -> bool {
    matches!(word, Word::Fixed(Token::And | Token::Or | Token::Open))
}

/// The prefix of a word such as `L@`, or `G:@` with a delimiter, and the pattern behind it. A
/// prefix without a pattern is none: Salt reads the word as a glob.
fn engine(word: &str) -> Option<(char, &str)> {
    let mut chars = word.chars();
    let engine = chars.next()?;
    let pattern = if let Some(pattern) = chars.as_str().strip_prefix('@') {
        pattern
    } else if matches!(engine, 'G' | 'P' | 'I' | 'J') {
        chars.next()?;
        chars.as_str().strip_prefix('@')?
    } else {
        return None;
    };
    let known = matches!(
        engine,
        'G' | 'P' | 'I' | 'J' | 'L' | 'N' | 'S' | 'E' | 'R' | 'T' | 'M'
    );
    (known && !pattern.is_empty()).then_some((engine, pattern))
}

/// Recursive descent over Python's grammar; its depth is bounded by `DEPTH_MAX`.
struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<Token> {
        self.tokens.get(self.at).copied()
    }

    fn take(&mut self, token: Token) -> bool {
        let taken = self.peek() == Some(token);
        self.at += usize::from(taken);
        taken
    }

    fn or(&mut self, depth: usize) -> Result<Match, Invalid> {
        let mut result = self.and(depth)?;
        while self.take(Token::Or) {
            result = result.or(self.and(depth)?);
        }
        Ok(result)
    }

    fn and(&mut self, depth: usize) -> Result<Match, Invalid> {
        let mut result = self.not(depth)?;
        while self.take(Token::And) {
            result = result.and(self.not(depth)?);
        }
        Ok(result)
    }

    fn not(&mut self, depth: usize) -> Result<Match, Invalid> {
        let mut negated = false;
        while self.take(Token::Not) {
            negated = !negated;
        }
        let result = self.atom(depth)?;
        Ok(if negated { !result } else { result })
    }

    fn atom(&mut self, depth: usize) -> Result<Match, Invalid> {
        if depth > DEPTH_MAX {
            return Err(Invalid::Odd);
        }
        let result = match self.peek() {
            Some(Token::Value(value)) => {
                self.at += 1;
                value
            }
            Some(Token::Open) => {
                self.at += 1;
                if self.peek() == Some(Token::Close) {
                    // An empty tuple.
                    return Err(Invalid::Odd);
                }
                let result = self.or(depth + 1)?;
                if !self.take(Token::Close) {
                    return Err(match self.peek() {
                        Some(Token::Open) => Invalid::Odd,
                        _ => Invalid::Syntax,
                    });
                }
                result
            }
            _ => return Err(Invalid::Syntax),
        };
        if self.peek() == Some(Token::Open) {
            // Python reads a value before a parenthesis as a call.
            return Err(Invalid::Odd);
        }
        Ok(result)
    }
}
