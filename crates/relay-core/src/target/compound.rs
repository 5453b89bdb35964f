//! Compound targets: Salt's word scan, then Python's `and`, `or`, `not` and parentheses over
//! three-valued results.

use super::{Match, glob, pcre, text_lists};

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

/// Whether the compound target of these words means `minion_id`.
///
/// `by_data` judges the words that ask for more than the id.
pub(super) fn matches<'a>(
    words: impl Iterator<Item = &'a str>,
    minion_id: &str,
    by_data: fn(char) -> Match,
) -> Match {
    let Some(tokens) = scan(words, minion_id, by_data) else {
        return Match::No;
    };
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

/// The words as tokens, with Salt's own corrections; `None` where Salt's scan says False.
fn scan<'a>(
    words: impl Iterator<Item = &'a str>,
    minion_id: &str,
    by_data: fn(char) -> Match,
) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    for word in words {
        let token = match word {
            "and" => Token::And,
            "or" => Token::Or,
            "not" => Token::Not,
            "(" => Token::Open,
            ")" => Token::Close,
            other => {
                tokens.push(Token::Value(value(other, minion_id, by_data)));
                continue;
            }
        };
        match (tokens.last(), token) {
            (None, Token::And | Token::Or | Token::Close) => return None,
            (Some(Token::Open), Token::And | Token::Or) => return None,
            // `a not b` means `a and not b`.
            (Some(last), Token::Not) if !matches!(last, Token::And | Token::Or | Token::Open) => {
                tokens.push(Token::And);
            }
            _ => {}
        }
        tokens.push(token);
    }
    Some(tokens)
}

/// The result of one word that is no operator.
fn value(word: &str, minion_id: &str, by_data: fn(char) -> Match) -> Match {
    match engine(word) {
        None => glob::matches(word, minion_id).into(),
        Some(('L', list)) => text_lists(list, minion_id).into(),
        Some(('E', pattern)) => pcre::matches(pattern, minion_id),
        // Grains, pillar, addresses, node groups, ranges; `T@` and `M@` are known to 3008 only.
        Some((engine, _)) => by_data(engine),
    }
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
