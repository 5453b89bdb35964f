//! YAML as a tree that keeps its line numbers and the text of its scalars.
//!
//! The parser is `granit-parser`; this module builds the tree, within bounds, and reads plain
//! scalars by the rules of YAML 1.1 as PyYAML does, because that is what Salt's users write
//! (`yes`, `off`, `0755`). Whoever needs a value as text gets the text as it was written.
//!
//! - A tree holds at most [`NODES_MAX`] nodes after aliases are expanded, and nests at most
//!   [`DEPTH_MAX`] deep, so that no input grows past a small multiple of its size.
//! - A key stands in a mapping once; a second one is a [`Problem`], and the first one counts.

mod parse;
mod scalar;

pub use parse::parse;
pub use scalar::{Resolved, Scalar};

/// Most nodes that a document may have, aliases expanded: about a hundred times a large
/// configuration, and still only a few MiB.
pub const NODES_MAX: usize = 100_000;

/// Deepest nesting of a document. Salt's and our configurations need less than ten.
pub const DEPTH_MAX: usize = 64;

/// A document and what is wrong with it although it could be read.
#[derive(Debug, Clone)]
pub struct Document {
    /// The first document of the text; `None` when there is nothing but comments.
    pub root: Option<Node>,
    /// Duplicate keys and the like, in the order of the text.
    pub problems: Vec<Problem>,
}

/// Something wrong at a place of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The key it concerns, dotted; empty for the document.
    pub key: String,
    /// What is wrong, without the place.
    pub text: String,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Line, from 1.
    pub line: usize,
    /// The value.
    pub value: Value,
}

/// The three shapes of a YAML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A scalar, not yet read as any type.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// A dictionary, in the order of the text, each key once.
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key as written.
    pub key: String,
    /// Line of the key, from 1.
    pub line: usize,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// What this is, for messages: `a list`, `the number 5`.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a dictionary".to_owned(),
            Value::Scalar(scalar) => scalar.describe(),
        }
    }

    /// Whether nothing is given: empty, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.resolve() == Resolved::Null)
    }
}
