//! A dictionary of the configuration file and the readers of its keys.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mistakes::Mistake;
use super::units::{parse_bytes, parse_duration};
use crate::yaml::{Entry, Node, Resolved, Value};

/// Largest secret file that is read. Passwords are short; anything else was named by mistake.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A dictionary of the file, under its dotted path.
///
/// Readers return a value at once and note a mistake where there is none that fits; see the
/// [module](super). Keys that nobody read are noted when the section is dropped.
pub struct Section<'a> {
    notes: &'a Notes<'a>,
    path: String,
    entries: &'a [Entry],
    /// Where the section stands; `None` when the file does not have it.
    line: Option<usize>,
    /// A section that was written as something else: what it lacks is no further mistake.
    broken: bool,
    read: RefCell<BTreeSet<String>>,
}

struct Notes<'a> {
    file: &'a Path,
    mistakes: RefCell<Vec<Mistake>>,
}

/// Reads `root` with `read` and returns its result and the mistakes noted on the way.
pub(super) fn read_root<C>(
    file: &Path,
    root: Option<&Node>,
    read: impl FnOnce(&Section<'_>) -> C,
) -> (C, Vec<Mistake>) {
    let notes = Notes {
        file,
        mistakes: RefCell::default(),
    };
    let section = Section::over(&notes, String::new(), root);
    let config = read(&section);
    drop(section);
    (config, notes.mistakes.into_inner())
}

impl<'a> Section<'a> {
    fn over(notes: &'a Notes<'a>, path: String, node: Option<&'a Node>) -> Self {
        let given = node.filter(|node| !node.is_null());
        let (entries, broken) = match given.map(|node| &node.value) {
            None => (&[][..], false),
            Some(Value::Mapping(entries)) => (entries.as_slice(), false),
            Some(_) => (&[][..], true),
        };
        let line = given.map(|node| node.line);
        let section = Self {
            notes,
            path,
            entries,
            line,
            broken,
            read: RefCell::new(BTreeSet::new()),
        };
        if let Some(node) = given.filter(|_| broken) {
            section.note(
                section.line,
                section.path.clone(),
                format!("expected a dictionary, found {}", node.describe()),
                "write `key: value` lines".to_owned(),
            );
        }
        section
    }

    /// The file being read; relative paths in it are the daemon's business.
    pub fn file(&self) -> &Path {
        self.notes.file
    }

    /// Whether the file gives `key` a value.
    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Takes keys as known that another daemon sharing the file reads.
    pub fn ignore(&self, keys: &[&str]) {
        self.read
            .borrow_mut()
            .extend(keys.iter().map(|key| (*key).to_owned()));
    }

    /// The dictionary under `key`; an empty one where the file has none.
    pub fn section(&self, key: &str) -> Self {
        let node = self.entry(key).map(|entry| &entry.value);
        let mut section = Self::over(self.notes, self.path_of(key), node);
        section.broken |= self.broken;
        section
    }

    /// Notes a mistake about `key` that only the daemon can see.
    pub fn mistake(&self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        let line = self
            .entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| entry.line);
        self.note(
            line.or(self.line),
            self.path_of(key),
            problem.into(),
            remedy.into(),
        );
    }

    /// Notes a mistake of another file, which this configuration names.
    pub fn add(&self, mistakes: impl IntoIterator<Item = Mistake>) {
        self.notes.mistakes.borrow_mut().extend(mistakes);
    }

    /// Required text, not empty. Numbers are taken as they are written. Placeholder: empty.
    pub fn string(&self, key: &str) -> String {
        self.required(key, text)
    }

    /// Text, or `default`.
    pub fn string_or(&self, key: &str, default: &str) -> String {
        self.optional_string(key)
            .unwrap_or_else(|| default.to_owned())
    }

    /// Text, if given.
    pub fn optional_string(&self, key: &str) -> Option<String> {
        self.optional(key, text)
    }

    /// Required absolute path. Placeholder: empty.
    pub fn path(&self, key: &str) -> PathBuf {
        self.required(key, absolute)
    }

    /// Absolute path, or `default`.
    pub fn path_or(&self, key: &str, default: &str) -> PathBuf {
        self.optional_path(key)
            .unwrap_or_else(|| PathBuf::from(default))
    }

    /// Absolute path, if given.
    pub fn optional_path(&self, key: &str) -> Option<PathBuf> {
        self.optional(key, absolute)
    }

    /// The contents of the file named by `key`, without line ends at its end, if given.
    ///
    /// An unreadable, empty or overlong file is a mistake.
    pub fn secret_file(&self, key: &str) -> Option<Secret> {
        self.optional(key, |node| {
            absolute(node).and_then(|path| Secret::read(&path))
        })
    }

    /// Duration, or `default`.
    pub fn duration(&self, key: &str, default: Duration) -> Duration {
        self.optional(key, duration).unwrap_or(default)
    }

    /// Duration within `range`, or `default`.
    pub fn duration_in(
        &self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let shown = |value: &Duration| humantime::format_duration(*value).to_string();
        self.optional(key, |node| within(duration(node)?, &range, shown))
            .unwrap_or(default)
    }

    /// Size in bytes within `range`, or `default`.
    pub fn bytes(&self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.optional(key, |node| {
            let value = parse_bytes(&text(node)?).map_err(Wrong::from)?;
            within(value, &range, |value| format!("{value}B"))
        })
        .unwrap_or(default)
    }

    /// Whole number within `range`, or `default`.
    pub fn u64(&self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.optional(key, |node| whole(node, &range))
            .unwrap_or(default)
    }

    /// `true` or `false` (also `yes`, `no`, `on`, `off`), or `default`.
    pub fn bool(&self, key: &str, default: bool) -> bool {
        self.optional(key, boolean).unwrap_or(default)
    }

    /// `address:port`, or `default`.
    pub fn socket_addr(&self, key: &str, default: SocketAddr) -> SocketAddr {
        self.optional(key, socket_addr).unwrap_or(default)
    }

    /// Required `address:port`. Placeholder: `0.0.0.0:0`.
    pub fn required_socket_addr(&self, key: &str) -> SocketAddr {
        const NONE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        self.required_or(key, NONE, socket_addr)
    }

    /// One of the `choices` by its word, or `default`.
    pub fn enumeration<T: Clone>(&self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        self.optional(key, |node| {
            // `off` and `no` are words here, although YAML reads them as booleans.
            let word = written(node)?;
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            choices
                .iter()
                .find(|(name, _)| *name == word)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| {
                    let remedy = suggestion(&word, words.iter().copied())
                        .unwrap_or_else(|| format!("write one of {}", words.join(", ")));
                    Wrong::new(format!("unknown value {}", node.describe()), remedy)
                })
        })
        .unwrap_or(default)
    }

    /// A text or a list of texts; empty when not given.
    pub fn string_or_list(&self, key: &str) -> Vec<String> {
        self.optional(key, |node| match &node.value {
            Value::Sequence(items) => items.iter().map(text).collect(),
            Value::Scalar(_) | Value::Mapping(_) => text(node).map(|one| vec![one]),
        })
        .unwrap_or_default()
    }

    /// The value that `parse` makes of the text under `key`, if given.
    pub fn parsed<T, E: Display>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
        remedy: &str,
    ) -> Option<T> {
        self.optional(key, |node| {
            parse(&text(node)?).map_err(|err| Wrong::new(err.to_string(), remedy))
        })
    }

    fn required<T: Default>(&self, key: &str, read: impl FnOnce(&'a Node) -> Read<T>) -> T {
        self.required_or(key, T::default(), read)
    }

    fn required_or<T>(&self, key: &str, none: T, read: impl FnOnce(&'a Node) -> Read<T>) -> T {
        if self.entry(key).is_none() && !self.broken {
            let remedy = format!("add `{key}:`");
            self.note(self.line, self.path_of(key), "missing".to_owned(), remedy);
        }
        self.optional(key, read).unwrap_or(none)
    }

    fn optional<T>(&self, key: &str, read: impl FnOnce(&'a Node) -> Read<T>) -> Option<T> {
        let entry = self.entry(key)?;
        match read(&entry.value) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.note(
                    Some(entry.line),
                    self.path_of(key),
                    wrong.problem,
                    wrong.remedy,
                );
                None
            }
        }
    }

    /// The entry of `key`, which counts as read; an empty value is as good as none.
    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.read.borrow_mut().insert(key.to_owned());
        self.entries
            .iter()
            .find(|entry| entry.key == key && !entry.value.is_null())
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn note(&self, line: Option<usize>, key: String, problem: String, remedy: String) {
        let file = self.notes.file.to_owned();
        let mistake = Mistake {
            file,
            line,
            column: None,
            key,
            problem,
            remedy,
        };
        self.notes.mistakes.borrow_mut().push(mistake);
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let read = self.read.borrow();
        for entry in self
            .entries
            .iter()
            .filter(|entry| !read.contains(&entry.key))
        {
            let absent = read
                .iter()
                .filter(|key| !self.entries.iter().any(|e| e.key == **key));
            let remedy = suggestion(&entry.key, absent.map(String::as_str)).unwrap_or_else(|| {
                let known: Vec<&str> = read.iter().map(String::as_str).collect();
                format!("remove it; known here: {}", known.join(", "))
            });
            self.note(
                Some(entry.line),
                self.path_of(&entry.key),
                "unknown key".to_owned(),
                remedy,
            );
        }
    }
}

/// A secret read from a file. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn read(path: &Path) -> Read<Self> {
        use std::io::Read as _;
        let shown = path.display();
        let remedy = "write the secret into it, readable for the daemon's user only";
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(|err| Wrong::new(format!("{shown} cannot be read: {err}"), remedy))?;
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(Wrong::new(format!("{shown} is empty"), remedy));
        }
        if text.len() as u64 > SECRET_BYTES_MAX {
            return Err(Wrong::new(format!("{shown} is larger than 64 KiB"), remedy));
        }
        Ok(Self(secret.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

struct Wrong {
    problem: String,
    remedy: String,
}

type Read<T> = Result<T, Wrong>;

impl Wrong {
    fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

impl From<(String, String)> for Wrong {
    fn from((problem, remedy): (String, String)) -> Self {
        Self { problem, remedy }
    }
}

/// The scalar as it is written.
fn written(node: &Node) -> Read<String> {
    match &node.value {
        Value::Scalar(scalar) => Ok(scalar.text().to_owned()),
        Value::Sequence(_) | Value::Mapping(_) => Err(Wrong::new(
            format!("expected one value, found {}", node.describe()),
            "",
        )),
    }
}

fn text(node: &Node) -> Read<String> {
    let text = written(node)?;
    if text.is_empty() {
        return Err(Wrong::new("empty", "give it a value or remove the key"));
    }
    match &node.value {
        Value::Scalar(scalar) if matches!(scalar.resolve(), Resolved::Bool(_)) => Err(Wrong::new(
            format!("expected text, found {}", node.describe()),
            "put it in quotes if it is meant",
        )),
        _ => Ok(text),
    }
}

fn absolute(node: &Node) -> Read<PathBuf> {
    let path = PathBuf::from(text(node)?);
    if path.is_absolute() {
        Ok(path)
    } else {
        let problem = format!("{} is not an absolute path", path.display());
        Err(Wrong::new(problem, "begin it with `/`"))
    }
}

fn duration(node: &Node) -> Read<Duration> {
    parse_duration(&text(node)?).map_err(Wrong::from)
}

fn whole(node: &Node, range: &RangeInclusive<u64>) -> Read<u64> {
    let value = match &node.value {
        Value::Scalar(scalar) => match scalar.resolve() {
            Resolved::Int(value) => Some(value),
            // A number in quotes is still the number that was meant.
            Resolved::Text => scalar.text().trim().parse::<i128>().ok(),
            Resolved::Null | Resolved::Bool(_) | Resolved::Float(_) => None,
        },
        Value::Sequence(_) | Value::Mapping(_) => None,
    };
    let problem = || format!("expected a whole number, found {}", node.describe());
    let value = value.ok_or_else(|| Wrong::new(problem(), "write digits only"))?;
    let remedy = format!("choose between {} and {}", range.start(), range.end());
    let Ok(value) = u64::try_from(value) else {
        return Err(Wrong::new(format!("{value} is out of range"), remedy));
    };
    within(value, range, u64::to_string)
}

fn boolean(node: &Node) -> Read<bool> {
    match &node.value {
        Value::Scalar(scalar) => match scalar.resolve() {
            Resolved::Bool(value) => Some(value),
            Resolved::Null | Resolved::Int(_) | Resolved::Float(_) | Resolved::Text => None,
        },
        Value::Sequence(_) | Value::Mapping(_) => None,
    }
    .ok_or_else(|| {
        let problem = format!("expected true or false, found {}", node.describe());
        Wrong::new(problem, "write `true` or `false`, without quotes")
    })
}

fn socket_addr(node: &Node) -> Read<SocketAddr> {
    let text = text(node)?;
    text.parse().map_err(|_| {
        let problem = format!("not an address and port: {}", node.describe());
        Wrong::new(problem, "write them as in `127.0.0.1:9464` or `[::1]:9464`")
    })
}

fn within<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    shown: impl Fn(&T) -> String,
) -> Read<T> {
    if range.contains(&value) {
        return Ok(value);
    }
    let remedy = format!(
        "choose between {} and {}",
        shown(range.start()),
        shown(range.end())
    );
    Err(Wrong::new(
        format!("{} is out of range", shown(&value)),
        remedy,
    ))
}

/// `did you mean ...?` for the word nearest to `word`, when one is near.
fn suggestion<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<String> {
    // A third of the word may differ: `listn` finds `listen`, `foo` finds nothing.
    let near = (word.chars().count() / 3).clamp(1, 3);
    known
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, _)| *distance <= near)
        .min()
        .map(|(_, known)| format!("did you mean `{known}`?"))
}
