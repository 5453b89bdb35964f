//! Builds the tree from the parser's events.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::{DEPTH_MAX, Document, Entry, NODES_MAX, Node, Problem, Scalar, Value};

/// Reads the first document of `text`; later documents are a problem.
///
/// # Errors
/// The syntax error, or the bound that the text exceeds; nothing of it can then be used.
pub fn parse(text: &str) -> Result<Document, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|err| syntax(&err))?;
        builder.apply(event, span)?;
    }
    Ok(Document {
        root: builder.root,
        problems: builder.problems,
    })
}

fn syntax(err: &granit_parser::ScanError) -> Problem {
    Problem {
        line: err.marker().line(),
        column: err.marker().col() + 1,
        key: String::new(),
        text: err.info(),
    }
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    problems: Vec<Problem>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    documents: usize,
}

/// A list or dictionary that is still being read.
struct Open {
    line: usize,
    anchor: usize,
    nodes_before: usize,
    filling: Filling,
}

enum Filling {
    Sequence(Vec<Node>),
    Mapping {
        entries: Vec<Entry>,
        merged: Vec<Entry>,
        key: Option<Key>,
    },
}

/// A key waiting for its value; `None` as text when the key was a list or a dictionary.
struct Key {
    text: Option<String>,
    line: usize,
    column: usize,
    merges: bool,
}

impl Builder {
    fn apply(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let line = span.start.line();
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let text = "a second document begins here (`---`): only one is read";
                    self.problem(span, String::new(), text);
                }
            }
            // Later documents were told of once; their contents do not matter.
            _ if self.documents > 1 => {}
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, span)?;
                let plain = style == ScalarStyle::Plain && !tag.as_deref().is_some_and(is_text_tag);
                let value = Value::Scalar(Scalar::new(text.into_owned(), plain));
                self.add(Node { line, value }, anchor, 1, span);
            }
            Event::SequenceStart(_, anchor, _) => {
                self.begin(line, anchor, Filling::Sequence(Vec::new()), span)?;
            }
            Event::MappingStart(_, anchor, _) => {
                let filling = Filling::Mapping {
                    entries: Vec::new(),
                    merged: Vec::new(),
                    key: None,
                };
                self.begin(line, anchor, filling, span)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Alias(anchor) => {
                let Some((node, nodes)) = self.anchors.get(&anchor) else {
                    return Err(place(span, "an alias refers to a value that contains it"));
                };
                let nodes = *nodes;
                // Counted before it is copied: a bomb of aliases ends here, not in memory.
                self.nodes = self.nodes.saturating_add(nodes);
                if self.nodes > NODES_MAX {
                    return Err(too_many(span));
                }
                let node = node.clone();
                self.add(node, 0, nodes, span);
            }
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            Err(too_many(span))
        } else {
            Ok(())
        }
    }

    fn begin(
        &mut self,
        line: usize,
        anchor: usize,
        filling: Filling,
        span: Span,
    ) -> Result<(), Problem> {
        self.count(1, span)?;
        if self.open.len() >= DEPTH_MAX {
            return Err(place(
                span,
                format!("nested deeper than {DEPTH_MAX} levels"),
            ));
        }
        self.open.push(Open {
            line,
            anchor,
            nodes_before: self.nodes - 1,
            filling,
        });
        Ok(())
    }

    fn end(&mut self, span: Span) {
        let Some(open) = self.open.pop() else { return };
        let value = match open.filling {
            Filling::Sequence(items) => Value::Sequence(items),
            Filling::Mapping {
                mut entries,
                merged,
                ..
            } => {
                // A merged key (`<<`) yields to one that the dictionary gives itself.
                for entry in merged {
                    if !entries.iter().any(|own| own.key == entry.key) {
                        entries.push(entry);
                    }
                }
                Value::Mapping(entries)
            }
        };
        let nodes = self.nodes - open.nodes_before;
        self.add(
            Node {
                line: open.line,
                value,
            },
            open.anchor,
            nodes,
            span,
        );
    }

    /// Puts a finished value where it belongs.
    fn add(&mut self, node: Node, anchor: usize, nodes: usize, span: Span) {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), nodes));
        }
        let mut duplicate = None;
        match self.open.last_mut().map(|open| &mut open.filling) {
            None => self.root = Some(node),
            Some(Filling::Sequence(items)) => items.push(node),
            Some(Filling::Mapping {
                key: key @ None, ..
            }) => *key = Some(Key::of(&node, span)),
            Some(Filling::Mapping {
                entries,
                merged,
                key,
            }) => match key.take() {
                Some(Key { merges: true, .. }) => merge(merged, node),
                Some(Key {
                    text: Some(text),
                    line,
                    column,
                    ..
                }) => {
                    if let Some(first) = entries.iter().find(|entry| entry.key == text) {
                        duplicate = Some((text, line, column, first.line));
                    } else {
                        entries.push(Entry {
                            key: text,
                            line,
                            value: node,
                        });
                    }
                }
                Some(Key { line, column, .. }) => self.problems.push(Problem {
                    line,
                    column,
                    key: String::new(),
                    text: "a key is a list or a dictionary; write plain text".to_owned(),
                }),
                None => {}
            },
        }
        if let Some((key, line, column, first)) = duplicate {
            let text = format!("given twice, first on line {first}; remove one");
            self.problems.push(Problem {
                line,
                column,
                key: self.path_of(&key),
                text,
            });
        }
    }

    /// The dotted path of `key` in the innermost open dictionary.
    fn path_of(&self, key: &str) -> String {
        let mut path = String::new();
        for open in &self.open {
            if let Filling::Mapping {
                key: Some(Key {
                    text: Some(text), ..
                }),
                ..
            } = &open.filling
            {
                path.push_str(text);
                path.push('.');
            }
        }
        path + key
    }

    fn problem(&mut self, span: Span, key: String, text: &str) {
        self.problems.push(Problem {
            key,
            ..place(span, text)
        });
    }
}

impl Key {
    fn of(node: &Node, span: Span) -> Self {
        let (text, merges) = match &node.value {
            Value::Scalar(scalar) => (
                Some(scalar.text().to_owned()),
                scalar.is_plain() && scalar.text() == "<<",
            ),
            Value::Sequence(_) | Value::Mapping(_) => (None, false),
        };
        Self {
            text,
            line: node.line,
            column: span.start.col() + 1,
            merges,
        }
    }
}

/// Takes the entries of one dictionary or of a list of them; the first that gives a key counts.
fn merge(merged: &mut Vec<Entry>, node: Node) {
    match node.value {
        Value::Mapping(entries) => merged.extend(entries),
        Value::Sequence(nodes) => nodes.into_iter().for_each(|node| merge(merged, node)),
        Value::Scalar(_) => {}
    }
}

fn is_text_tag(tag: &Tag) -> bool {
    tag.core_suffix() == Some("str")
}

fn too_many(span: Span) -> Problem {
    place(
        span,
        format!("more than {NODES_MAX} values, aliases expanded"),
    )
}

fn place(span: Span, text: impl Into<String>) -> Problem {
    Problem {
        line: span.start.line(),
        column: span.start.col() + 1,
        key: String::new(),
        text: text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<Entry> {
        match parse(text).unwrap().root.unwrap().value {
            Value::Mapping(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_keep_their_lines_and_text() {
        let read = entries("# head\na: 1\nb:\n  - 'x'\n  - y: |\n      z\n");
        assert_eq!((read[0].key.as_str(), read[0].line), ("a", 2));
        assert_eq!(read[0].value.value, Value::Scalar(Scalar::new("1", true)));
        let Value::Sequence(items) = &read[1].value.value else {
            panic!()
        };
        assert_eq!(items[0].value, Value::Scalar(Scalar::new("x", false)));
        assert_eq!(items[0].line, 4);
    }

    #[test]
    fn nothing_but_comments_is_no_document() {
        for text in ["", "# only\n", "\u{feff}# only\n"] {
            assert!(
                parse(text).unwrap().root.is_none_or(|root| root.is_null()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_syntax_error_names_line_and_column() {
        let problem = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(problem.line >= 2 && problem.column >= 1 && !problem.text.is_empty());
    }

    #[test]
    fn a_second_key_is_a_problem_and_the_first_counts() {
        let document = parse("r:\n  a: 1\n  a: 2\n").unwrap();
        let [problem] = &document.problems[..] else {
            panic!("{:?}", document.problems)
        };
        assert_eq!(
            (problem.line, problem.column, problem.key.as_str()),
            (3, 3, "r.a")
        );
        assert!(problem.text.contains("line 2"));
    }

    #[test]
    fn a_second_document_is_a_problem() {
        let document = parse("a: 1\n---\nb: 2\n").unwrap();
        assert_eq!(document.problems[0].line, 2);
        assert!(matches!(document.root.unwrap().value, Value::Mapping(e) if e[0].key == "a"));
    }

    #[test]
    fn aliases_and_merge_keys_are_expanded() {
        let read = entries("base: &b {a: 1, c: 2}\nuse:\n  <<: *b\n  a: 3\n");
        let Value::Mapping(used) = &read[1].value.value else {
            panic!()
        };
        let of = |key: &str| {
            used.iter()
                .find(|e| e.key == key)
                .map(|e| e.value.describe())
        };
        assert_eq!(of("a").as_deref(), Some("the number 3"));
        assert_eq!(of("c").as_deref(), Some("the number 2"));
        assert_eq!(used.len(), 2);
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let item = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![item; 10].join(", "));
        }
        assert!(parse(&text).unwrap_err().text.contains("100000"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        parse(&"[".repeat(100_000)).unwrap_err();
        parse(&"- ".repeat(100_000)).unwrap_err();
        let deep = "{a: ".repeat(DEPTH_MAX + 5) + "1" + &"}".repeat(DEPTH_MAX + 5);
        parse(&deep).unwrap_err();
    }

    #[test]
    fn an_alias_inside_its_own_anchor_is_refused() {
        parse("a: &a [*a]\n").unwrap_err();
    }

    #[test]
    fn arbitrary_text_never_panics() {
        for text in [
            "\0",
            "%",
            "---\n...\n---",
            "&",
            "*",
            "? [a]\n: b",
            "\t- a",
            "!!str",
            "a: !x b",
        ] {
            drop(parse(text));
        }
    }
}
