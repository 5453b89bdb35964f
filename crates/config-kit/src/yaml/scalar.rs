//! Reads scalars as PyYAML's resolver does (YAML 1.1), with the two exceptions of Salt's loader:
//! a leading zero does not mean octal, and time stamps stay text.

/// A scalar as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    text: String,
    plain: bool,
}

/// What a scalar means.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolved {
    /// Empty, `~` or `null`.
    Null,
    /// `true`, `no`, `on` and their like.
    Bool(bool),
    /// A whole number. One beyond 128 bits saturates, which no option accepts.
    Int(i128),
    /// A number with a point.
    Float(f64),
    /// Anything else, and everything quoted.
    Text,
}

/// Words that a message may repeat; a longer value is cut.
const SHOWN_CHARS: usize = 40;

impl Scalar {
    /// A scalar of `text`; `plain` when it stands without quotes and without a `!!str` tag.
    pub fn new(text: impl Into<String>, plain: bool) -> Self {
        Self {
            text: text.into(),
            plain,
        }
    }

    /// The text, without quotes and with escapes read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it stood without quotes.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// What it means to PyYAML and Salt.
    pub fn resolve(&self) -> Resolved {
        if !self.plain {
            return Resolved::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => return Resolved::Null,
            "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Resolved::Bool(true);
            }
            "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
                return Resolved::Bool(false);
            }
            _ => {}
        }
        if let Some(int) = int(&self.text) {
            return Resolved::Int(int);
        }
        float(&self.text).map_or(Resolved::Text, Resolved::Float)
    }

    pub(super) fn describe(&self) -> String {
        let mut shown: String = self.text.chars().take(SHOWN_CHARS).collect();
        if shown.len() < self.text.len() {
            shown.push('…');
        }
        match self.resolve() {
            Resolved::Null => "empty".to_owned(),
            Resolved::Bool(_) => format!("the boolean {shown}"),
            Resolved::Int(_) | Resolved::Float(_) => format!("the number {shown}"),
            Resolved::Text => format!("\"{}\"", shown.escape_debug()),
        }
    }
}

fn int(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = if let Some(binary) = digits.strip_prefix("0b") {
        radix(binary, 2)
    } else if let Some(hex) = digits.strip_prefix("0x") {
        radix(hex, 16)
    } else if digits.contains(':') {
        sexagesimal(digits)
    } else {
        decimal(digits)
    }?;
    Some(if negative {
        magnitude.saturating_neg()
    } else {
        magnitude
    })
}

/// `[1-9][0-9_]*`, `0`, and `0[0-7_]+`, which Salt's loader reads as decimal.
fn decimal(digits: &str) -> Option<i128> {
    let first = digits.bytes().next().filter(u8::is_ascii_digit)?;
    if first == b'0' && !digits.bytes().all(|b| matches!(b, b'0'..=b'7' | b'_')) {
        return None;
    }
    radix(digits, 10)
}

fn radix(digits: &str, radix: u32) -> Option<i128> {
    if digits.is_empty() || !digits.chars().all(|c| c == '_' || c.is_digit(radix)) {
        return None;
    }
    let value = digits
        .chars()
        .filter_map(|c| c.to_digit(radix))
        .fold(0_i128, |sum, digit| {
            sum.saturating_mul(i128::from(radix))
                .saturating_add(i128::from(digit))
        });
    Some(value)
}

/// `[1-9][0-9_]*(:[0-5]?[0-9])+`: YAML 1.1 reads `1:30` as ninety.
fn sexagesimal(digits: &str) -> Option<i128> {
    let mut parts = digits.split(':');
    let first = parts.next()?;
    let mut sum = if first.starts_with('0') {
        return None;
    } else {
        decimal(first)?
    };
    for part in parts {
        let short = matches!(part.len(), 1 | 2) && part.bytes().all(|b| b.is_ascii_digit());
        let value = part
            .parse::<i128>()
            .ok()
            .filter(|value| short && *value < 60)?;
        sum = sum.saturating_mul(60).saturating_add(value);
    }
    Some(sum)
}

fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    match unsigned {
        ".inf" | ".Inf" | ".INF" => return Some(sign * f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" if text.starts_with('.') => return Some(f64::NAN),
        _ => {}
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        // PyYAML wants a sign in the exponent: `1.5e3` is text to it.
        Some((mantissa, exponent)) => {
            let digits = exponent.strip_prefix(['+', '-'])?;
            let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            (mantissa, Some(exponent).filter(|_| all)?)
        }
        None => (unsigned, "+0"),
    };
    let (whole, part) = mantissa.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let starts = |text: &str| text.bytes().next().is_some_and(|b| b.is_ascii_digit());
    let shaped = digits(whole)
        && digits(part)
        && (starts(whole) || (whole.is_empty() && starts(part) && unsigned.len() == text.len()));
    let plain: String = format!("{whole}.{part}e{exponent}").replace('_', "");
    shaped
        .then(|| plain.parse::<f64>().ok())
        .flatten()
        .map(|value| sign * value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_they_mean_to_salt() {
        let check = |text: &str, expected: Resolved| {
            assert_eq!(Scalar::new(text, true).resolve(), expected, "{text:?}");
        };
        check("", Resolved::Null);
        check("~", Resolved::Null);
        check("Yes", Resolved::Bool(true));
        check("off", Resolved::Bool(false));
        check("y", Resolved::Text);
        check("tRue", Resolved::Text);
        check("4506", Resolved::Int(4506));
        check("+7", Resolved::Int(7));
        check("-7", Resolved::Int(-7));
        check("0755", Resolved::Int(755));
        check("0899", Resolved::Text);
        check("0x1F", Resolved::Int(31));
        check("0b101", Resolved::Int(5));
        check("1_000", Resolved::Int(1000));
        check("_1", Resolved::Text);
        check("1:30", Resolved::Int(90));
        check("10:4506", Resolved::Text);
        check("1.5", Resolved::Float(1.5));
        check("-.inf", Resolved::Float(f64::NEG_INFINITY));
        check(".5", Resolved::Float(0.5));
        check("1.", Resolved::Float(1.0));
        check("1.5e+3", Resolved::Float(1500.0));
        check("1.5e3", Resolved::Text);
        check("1e3", Resolved::Text);
        check("127.0.0.1", Resolved::Text);
        check("2026-11-20", Resolved::Text);
        check("-", Resolved::Text);
        check(".", Resolved::Text);
        check("é", Resolved::Text);
    }

    #[test]
    fn quoted_scalars_are_text() {
        for text in ["", "yes", "4506", "null"] {
            assert_eq!(
                Scalar::new(text, false).resolve(),
                Resolved::Text,
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_number_beyond_any_option_saturates() {
        let text = "9".repeat(500);
        assert_eq!(Scalar::new(text, true).resolve(), Resolved::Int(i128::MAX));
    }
}
