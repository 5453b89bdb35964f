//! Typed readers over Salt's options. What a value means follows Python, as Salt takes it.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use config_kit::config::Mistake;
use config_kit::yaml::{Node, Resolved, Value};

use crate::files::{Given, Overrides};

/// Several layers of options, the first that gives one counts. A mistake is noted and the
/// default returned; whoever reads checks the notes in the end.
pub struct Options<'a> {
    layers: Vec<&'a Overrides>,
    mistakes: &'a RefCell<Vec<Mistake>>,
}

impl<'a> Options<'a> {
    /// Layers, the first counts most, and where mistakes are noted.
    pub fn new(layers: Vec<&'a Overrides>, mistakes: &'a RefCell<Vec<Mistake>>) -> Self {
        Self { layers, mistakes }
    }

    /// The value given, unless it is empty.
    pub fn given(&self, key: &str) -> Option<&'a Given> {
        let given = self.layers.iter().find_map(|layer| layer.values.get(key))?;
        if given.node.is_null() {
            return None;
        }
        if let Value::Scalar(scalar) = &given.node.value
            && scalar.text().starts_with("sdb://")
        {
            let told = "comes from a Salt SDB, which only Salt can read";
            self.note(given, key, told, "write the value itself");
            return None;
        }
        Some(given)
    }

    /// Whether there is a value that is not empty.
    pub fn is_given(&self, key: &str) -> bool {
        self.given(key).is_some()
    }

    /// Whether the option is the boolean true, and not only a value that counts as true.
    pub fn is_true(&self, key: &str) -> bool {
        let given = self.given(key).map(|given| &given.node.value);
        matches!(given, Some(Value::Scalar(scalar)) if scalar.resolve() == Resolved::Bool(true))
    }

    /// Text that is not empty; numbers as they are written.
    pub fn optional_text(&self, key: &str) -> Option<String> {
        let given = self.given(key)?;
        match &given.node.value {
            Value::Scalar(scalar) => Some(scalar.text().to_owned()).filter(|text| !text.is_empty()),
            Value::Sequence(_) | Value::Mapping(_) => {
                self.wrong(given, key, "text", "write one value");
                None
            }
        }
    }

    /// Text, or the default.
    pub fn text(&self, key: &str, default: &str) -> String {
        self.optional_text(key)
            .unwrap_or_else(|| default.to_owned())
    }

    /// Python's truth of the value: `'False'` in quotes is text and so counts as true.
    pub fn bool(&self, key: &str, default: bool) -> bool {
        self.given(key)
            .map_or(default, |given| match &given.node.value {
                Value::Scalar(scalar) => match scalar.resolve() {
                    Resolved::Null => false,
                    Resolved::Bool(value) => value,
                    Resolved::Int(value) => value != 0,
                    Resolved::Float(value) => value != 0.0,
                    Resolved::Text => !scalar.text().is_empty(),
                },
                Value::Sequence(items) => !items.is_empty(),
                Value::Mapping(entries) => !entries.is_empty(),
            })
    }

    /// A whole number up to `max`, also in quotes.
    pub fn number(&self, key: &str, default: u64, max: u64) -> u64 {
        let Some(given) = self.given(key) else {
            return default;
        };
        match integer(&given.node).and_then(|value| u64::try_from(value).ok()) {
            Some(value) if value <= max => value,
            _ => {
                let remedy = format!("write a number between 0 and {max}");
                self.wrong(given, key, "a whole number", &remedy);
                default
            }
        }
    }

    /// A port.
    pub fn port(&self, key: &str, default: u16) -> u16 {
        let value = self.number(key, default.into(), u16::MAX.into());
        u16::try_from(value).unwrap_or(default)
    }

    /// Seconds, whole or not; Salt states every time in seconds.
    pub fn seconds(&self, key: &str, default: Duration) -> Duration {
        let Some(given) = self.given(key) else {
            return default;
        };
        let seconds = match &given.node.value {
            Value::Scalar(scalar) => scalar.text().replace('_', "").parse::<f64>().ok(),
            Value::Sequence(_) | Value::Mapping(_) => None,
        };
        seconds
            .and_then(|value| Duration::try_from_secs_f64(value).ok())
            .unwrap_or_else(|| {
                self.wrong(given, key, "seconds", "write a number, without a unit");
                default
            })
    }

    /// One of `choices` by its word; another word is a mistake.
    pub fn choice<T: Copy>(&self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let Some(text) = self.optional_text(key) else {
            return default;
        };
        choices.iter().find(|(word, _)| *word == text).map_or_else(
            || {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                let remedy = format!("write one of {}", words.join(", "));
                self.mistake(key, &format!("has the unknown value \"{text}\""), &remedy);
                default
            },
            |(_, value)| *value,
        )
    }

    /// Notes that the value of `key`, or its absence, is a mistake.
    pub fn mistake(&self, key: &str, problem: &str, remedy: &str) {
        match self.layers.iter().find_map(|layer| layer.values.get(key)) {
            Some(given) => self.note(given, key, problem, remedy),
            None => {
                // The lowest layer: what no file gives belongs into the master's.
                let file: &Path = self
                    .layers
                    .last()
                    .map_or(Path::new(""), |layer| &layer.file);
                let mistake = Mistake::in_file(file, problem, remedy);
                self.mistakes.borrow_mut().push(Mistake {
                    key: key.to_owned(),
                    ..mistake
                });
            }
        }
    }

    fn wrong(&self, given: &Given, key: &str, expected: &str, remedy: &str) {
        let found = given.node.describe();
        self.note(
            given,
            key,
            &format!("expected {expected}, found {found}"),
            remedy,
        );
    }

    fn note(&self, given: &Given, key: &str, problem: &str, remedy: &str) {
        let file: &Rc<Path> = &given.file;
        let mistake = Mistake::in_file(&**file, problem, remedy);
        let mistake = Mistake {
            line: Some(given.line),
            key: key.to_owned(),
            ..mistake
        };
        let mut mistakes = self.mistakes.borrow_mut();
        // An option that two layers read (a port of the local master) is told once.
        if !mistakes.contains(&mistake) {
            mistakes.push(mistake);
        }
    }
}

/// The whole number that Python's `int()` makes of it.
pub fn integer(node: &Node) -> Option<i128> {
    let Value::Scalar(scalar) = &node.value else {
        return None;
    };
    match scalar.resolve() {
        Resolved::Int(value) => Some(value),
        Resolved::Text => scalar.text().trim().parse().ok(),
        Resolved::Null | Resolved::Bool(_) | Resolved::Float(_) => None,
    }
}
