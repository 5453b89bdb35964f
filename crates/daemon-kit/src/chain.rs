//! Writes an error with all its causes on one line.

use std::error::Error;
use std::fmt;

/// Shows `err` and its causes as `a: b: c`.
///
/// A cause whose text the error above it already ends with is not written twice, as some
/// libraries both embed their source in the text and return it.
pub fn chain<'a>(err: &'a (dyn Error + 'static)) -> Chain<'a> {
    Chain(err)
}

/// The text made by [`chain`].
#[derive(Clone, Copy)]
pub struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = self.0.to_string();
        f.write_str(&written)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !written.ends_with(&text) {
                write!(f, ": {text}")?;
                written = text;
            }
            next = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Step {
        text: &'static str,
        #[source]
        cause: Option<Box<Self>>,
    }

    fn step(text: &'static str, cause: Option<Step>) -> Step {
        Step {
            text,
            cause: cause.map(Box::new),
        }
    }

    #[test]
    fn every_cause_is_written_in_order() {
        let err = step("a", Some(step("b", Some(step("c", None)))));
        assert_eq!(chain(&err).to_string(), "a: b: c");
    }

    #[test]
    fn a_cause_that_the_text_above_embeds_is_written_once() {
        let err = step(
            "sending failed: broken pipe",
            Some(step("broken pipe", None)),
        );
        assert_eq!(chain(&err).to_string(), "sending failed: broken pipe");
    }
}
