//! Reads a configuration file of Salt's with everything it includes.
//!
//! The order is Salt's (`load_config`, `include_config`): the file; over it the merge of
//! `default_include`; over that the merge of `include`. Within one merge, lists grow and
//! dictionaries are merged; over the file, a key is replaced whole.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use config_kit::config::{self, Mistake};
use config_kit::yaml::{Entry, Node, Resolved, Scalar, Value};
use glob::MatchOptions;

/// Deepest chain of files that include each other. Salt has no bound and dies of a circle.
const INCLUDE_DEPTH_MAX: usize = 16;

/// Most files that one configuration may include.
const FILES_MAX: usize = 1000;

/// A value and the file it comes from.
#[derive(Debug, Clone)]
pub struct Given {
    /// The value.
    pub node: Node,
    /// Line of its key, from 1.
    pub line: usize,
    /// The file.
    pub file: Rc<Path>,
}

/// The options given in a file and its includes.
#[derive(Debug)]
pub struct Overrides {
    /// The file that was named, for mistakes about what is missing.
    pub file: Rc<Path>,
    /// Each option by its name.
    pub values: BTreeMap<String, Given>,
}

type Values = BTreeMap<String, Given>;

/// What a missing file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The operator named it.
    IsMistake,
    /// Salt's defaults apply, as Salt itself would do.
    IsEmpty,
}

/// Reads `file` and its includes; whatever is wrong is added to `mistakes`.
pub fn read(
    file: &Path,
    default_include: &str,
    missing: Missing,
    mistakes: &RefCell<Vec<Mistake>>,
) -> Overrides {
    let mut reader = Reader { mistakes, files: 0 };
    let file: Rc<Path> = file.into();
    let absent = missing == Missing::IsEmpty && !file.exists();
    let mut values = if absent {
        Values::new()
    } else {
        reader.read_one(&file)
    };
    let defaults = match values.get("default_include") {
        Some(given) => patterns(&given.node),
        None => vec![default_include.to_owned()],
    };
    let includes = values
        .get("include")
        .map(|given| patterns(&given.node))
        .unwrap_or_default();
    for patterns in [defaults, includes] {
        let included = reader.include(&patterns, &file, 0);
        values.extend(included);
    }
    Overrides { file, values }
}

struct Reader<'a> {
    mistakes: &'a RefCell<Vec<Mistake>>,
    files: usize,
}

impl Reader<'_> {
    /// The options of one file, `id` as text as Salt makes it.
    fn read_one(&mut self, file: &Rc<Path>) -> Values {
        let document = match config::load_document(file) {
            Ok(document) => document,
            Err(mistakes) => {
                self.mistakes.borrow_mut().extend(mistakes.into_list());
                return Values::new();
            }
        };
        let problems = document
            .problems
            .iter()
            .map(|problem| config::at(file, problem));
        self.mistakes.borrow_mut().extend(problems);
        let entries = match document.root {
            Some(Node {
                value: Value::Mapping(entries),
                ..
            }) => entries,
            Some(node) if !node.is_null() => {
                let found = format!("expected a dictionary, found {}", node.describe());
                self.tell(Mistake::in_file(&**file, found, "write `key: value` lines"));
                return Values::new();
            }
            _ => return Values::new(),
        };
        let own = |Entry {
                       key,
                       line,
                       mut value,
                   }| {
            if key == "id" {
                value.value = id_as_text(value.value);
            }
            (
                key,
                Given {
                    node: value,
                    line,
                    file: Rc::clone(file),
                },
            )
        };
        entries.into_iter().map(own).collect()
    }

    /// The merge of every file that `patterns` match, relative to the directory of `from`.
    fn include(&mut self, patterns: &[String], from: &Rc<Path>, depth: usize) -> Values {
        let mut merged = Values::new();
        for pattern in patterns {
            for file in self.matches(pattern, from) {
                self.files += 1;
                if depth >= INCLUDE_DEPTH_MAX || self.files > FILES_MAX {
                    let told = "includes files too deep or too many; is there a circle?";
                    self.tell(Mistake::in_file(&**from, told, "remove an `include`"));
                    return merged;
                }
                let file: Rc<Path> = file.into();
                let mut values = self.read_one(&file);
                if let Some(given) = values.get("include") {
                    let patterns = patterns_of(given);
                    let nested = self.include(&patterns, &file, depth + 1);
                    values.extend(nested);
                }
                for (key, given) in values {
                    match merged.get_mut(&key) {
                        Some(old) => update(old, given),
                        None => drop(merged.insert(key, given)),
                    }
                }
            }
        }
        merged
    }

    fn matches(&self, pattern: &str, from: &Path) -> Vec<PathBuf> {
        let home = std::env::var("HOME").unwrap_or_default();
        let path = match pattern.strip_prefix("~/") {
            Some(rest) => Path::new(&home).join(rest),
            None => PathBuf::from(pattern),
        };
        // The directory may hold characters that mean something in a pattern; Salt's glob takes
        // them as a pattern too.
        let path = from.parent().unwrap_or(Path::new("")).join(path);
        // As Python's glob: a wildcard matches neither a separator nor a leading dot.
        let options = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        match glob::glob_with(&path.to_string_lossy(), options) {
            Ok(found) => {
                let mut found: Vec<PathBuf> = found.filter_map(Result::ok).collect();
                found.sort();
                found
            }
            Err(err) => {
                let told = format!("the include pattern {pattern} cannot be read: {err}");
                self.tell(Mistake::in_file(from, told, "correct the pattern"));
                Vec::new()
            }
        }
    }

    fn tell(&self, mistake: Mistake) {
        self.mistakes.borrow_mut().push(mistake);
    }
}

fn patterns_of(given: &Given) -> Vec<String> {
    patterns(&given.node)
}

/// One pattern or a list of them; nothing where the option is empty.
fn patterns(node: &Node) -> Vec<String> {
    match &node.value {
        Value::Scalar(scalar) if !node.is_null() && !scalar.text().is_empty() => {
            vec![scalar.text().to_owned()]
        }
        Value::Sequence(items) => items.iter().flat_map(patterns).collect(),
        Value::Scalar(_) | Value::Mapping(_) => Vec::new(),
    }
}

/// Salt's `dictupdate.update` with lists merged: `new` over `old`.
fn update(old: &mut Given, new: Given) {
    let Given { node, line, file } = new;
    old.line = line;
    old.file = file;
    update_node(&mut old.node, node);
}

fn update_node(old: &mut Node, new: Node) {
    match (&mut old.value, new.value) {
        (Value::Mapping(entries), Value::Mapping(more)) => {
            for entry in more {
                match entries.iter_mut().find(|own| own.key == entry.key) {
                    Some(own) => update_node(&mut own.value, entry.value),
                    None => entries.push(entry),
                }
            }
        }
        (Value::Sequence(items), Value::Sequence(more)) => {
            for item in more {
                if !items.iter().any(|own| same(own, &item)) {
                    items.push(item);
                }
            }
        }
        (value, new) => *value = new,
    }
}

/// Equal wherever they stand.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Scalar(a), Value::Scalar(b)) => a.text() == b.text() && a.resolve() == b.resolve(),
        (Value::Sequence(a), Value::Sequence(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Mapping(a), Value::Mapping(b)) => {
            let found = |a: &Entry| b.iter().any(|b| a.key == b.key && same(&a.value, &b.value));
            a.len() == b.len() && a.iter().all(found)
        }
        _ => false,
    }
}

/// Salt turns an id that YAML reads as something else into the text that Python shows for it.
fn id_as_text(value: Value) -> Value {
    let Value::Scalar(scalar) = &value else {
        return value;
    };
    let text = match scalar.resolve() {
        Resolved::Text => return value,
        Resolved::Null => "None".to_owned(),
        Resolved::Bool(true) => "True".to_owned(),
        Resolved::Bool(false) => "False".to_owned(),
        Resolved::Int(int) => int.to_string(),
        Resolved::Float(float) if float.is_infinite() => {
            if float > 0.0 {
                "inf".to_owned()
            } else {
                "-inf".to_owned()
            }
        }
        Resolved::Float(float) if float.is_nan() => "nan".to_owned(),
        Resolved::Float(float) => format!("{float:?}"),
    };
    Value::Scalar(Scalar::new(text, false))
}
