//! Colours and units for people.

/// What a word means to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Under way, or worth a look.
    Watch,
    /// Missing or down.
    Bad,
    /// Beside the point.
    Faint,
    /// A heading.
    Strong,
    /// Nothing in particular.
    Plain,
}

impl Tone {
    /// The terminal's code, of the sixteen colours that every terminal has.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Good => Some("32"),
            Self::Watch => Some("33"),
            Self::Bad => Some("31"),
            Self::Faint => Some("2"),
            Self::Strong => Some("1"),
            Self::Plain => None,
        }
    }

    /// The tone of a state, step or verdict of the bridge's.
    pub(crate) fn of(word: &str) -> Self {
        match word {
            "up" | "complete" | "returned" | "ok" => Self::Good,
            "open" | "waiting" | "running" | "unknown" | "silent" | "received" | "accepted"
            | "no_receipts" => Self::Watch,
            "down" | "incomplete" | "expired" | "failed" | "unreachable" | "not_received"
            | "unmatched" => Self::Bad,
            _ => Self::Plain,
        }
    }
}

/// `text` in its tone, where colours are wanted.
pub(crate) fn paint(text: &str, tone: Tone, colours: bool) -> String {
    match tone.code() {
        Some(code) if colours => format!("\x1b[{code}m{text}\x1b[0m"),
        _ => text.to_owned(),
    }
}

/// `text` without control characters: a target is whatever somebody typed.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            // Marks that turn the direction of writing, or take no room, could hide what follows.
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '?',
            letter if letter.is_control() => '?',
            letter => letter,
        })
        .collect()
}

/// A span of time in one unit: `12 s`, `3 min`, `4 h`, `9 d`.
pub(crate) fn span(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s < 0.0 => "0 s".to_owned(),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// A span that may be short: `8 ms`, else as [`span`].
#[expect(
    clippy::cast_precision_loss,
    reason = "shown with one digit after the point"
)]
pub(crate) fn millis(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        ms => span(ms as f64 / 1000.0),
    }
}

/// A size in one unit.
#[expect(
    clippy::cast_precision_loss,
    reason = "shown with one digit after the point"
)]
pub(crate) fn size(bytes: u64) -> String {
    const STEPS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    STEPS.iter().find(|(step, _)| bytes >= *step).map_or_else(
        || format!("{bytes} B"),
        |(step, unit)| format!("{:.1} {unit}", bytes as f64 / *step as f64),
    )
}

/// `pieces` with commas between them, on as many lines as `width` asks for.
pub(crate) fn flow(pieces: &[(String, Tone)], width: usize, colours: bool) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for (at, (text, tone)) in pieces.iter().enumerate() {
        let comma = if at + 1 < pieces.len() { "," } else { "" };
        let wanted = text.chars().count() + comma.len();
        if used > 0 && used + 1 + wanted > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            let gap = if used > 0 { " " } else { "" };
            line.push_str(&format!("{gap}{}{comma}", paint(text, *tone, colours)));
            used += gap.len() + wanted;
        }
    }
    lines
}

/// `1 minion`, `2 minions`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_one_unit() {
        for (seconds, shown) in [
            (0.44, "0.4 s"),
            (9.96, "10 s"),
            (119.0, "119 s"),
            (180.0, "3 min"),
            (93_784.0, "26 h"),
            (864_000.0, "10 d"),
            (f64::NAN, "0 s"),
        ] {
            assert_eq!(span(seconds), shown);
        }
    }

    #[test]
    fn short_spans_are_told_in_milliseconds() {
        for (ms, shown) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_240, "1.2 s"),
            (180_000, "3 min"),
        ] {
            assert_eq!(millis(ms), shown);
        }
    }

    #[test]
    fn what_somebody_typed_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\nc\u{202e}d"), "a?[2Jb?c?d");
    }

    #[test]
    fn figures_flow_over_as_many_lines_as_it_takes() {
        let pieces =
            ["expected 6", "returned 3", "missing 3"].map(|text| (text.to_owned(), Tone::Good));
        assert_eq!(
            flow(&pieces, 80, false),
            ["expected 6, returned 3, missing 3"]
        );
        assert_eq!(flow(&pieces, 24, true).len(), 2);
        assert_eq!(
            flow(&pieces, 24, false),
            ["expected 6, returned 3,", "missing 3"]
        );
    }

    #[test]
    fn plain_text_has_no_codes() {
        assert_eq!(paint("up", Tone::Good, false), "up");
        assert_eq!(paint("up", Tone::Good, true), "\x1b[32mup\x1b[0m");
    }
}
