//! What a `salt` command printed, sorted by minion, without what differs from run to run.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Form;

/// Keys of a state's result that tell when and how long it ran.
const TIMES: [&str; 3] = ["duration", "start_time", "pid"];

/// The same in the lines of the `highstate` outputter.
const TIME_LINES: [&str; 3] = ["Started:", "Duration:", "Total run time:"];

/// Printed answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Printed {
    /// For each minion everything printed for it, in this order. A minion with two values was printed twice.
    pub by_minion: BTreeMap<String, Vec<Value>>,
    /// Lines that belong to no minion.
    pub other: Vec<String>,
}

impl Printed {
    /// Reads the standard output of a command that printed in this form; `ids` are those of all minions and sites.
    #[must_use]
    pub fn read(form: Form, ids: &[&str], stdout: &str) -> Self {
        let mut printed = Self::default();
        match form {
            Form::Json | Form::StaticJson => printed.read_json(stdout),
            Form::Text => printed.read_lines(ids, stdout),
            Form::Blocks => printed.read_blocks(ids, stdout),
        }
        printed
    }

    /// Takes what was printed for these ids out.
    pub(crate) fn take(&mut self, ids: &[&str]) -> BTreeMap<String, Vec<Value>> {
        ids.iter()
            .filter_map(|&id| self.by_minion.remove_entry(id))
            .collect()
    }

    fn add(&mut self, id: &str, value: Value) {
        self.by_minion.entry(id.to_owned()).or_default().push(value);
    }

    /// Documents, with lines in between that are none (`Executing run on [...]`).
    fn read_json(&mut self, stdout: &str) {
        let mut rest = stdout;
        while !rest.is_empty() {
            let mut documents = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            let used = match documents.next() {
                Some(Ok(Value::Object(returns))) => {
                    for (id, mut value) in returns {
                        mask_times(&mut value);
                        self.add(&id, value);
                    }
                    documents.byte_offset()
                }
                _ => {
                    let (line, _) = rest.split_once('\n').unwrap_or((rest, ""));
                    if !line.trim().is_empty() {
                        self.other.push(line.to_owned());
                    }
                    (line.len() + 1).min(rest.len())
                }
            };
            rest = rest.get(used..).unwrap_or_default();
        }
    }

    fn read_lines(&mut self, ids: &[&str], stdout: &str) {
        let mut blocks: BTreeMap<&str, String> = BTreeMap::new();
        for line in stdout.lines() {
            match line.split_once(": ") {
                Some((id, text)) if ids.contains(&id) => {
                    let block = blocks.entry(id).or_default();
                    block.push_str(text);
                    block.push('\n');
                }
                _ => self.other.push(line.to_owned()),
            }
        }
        for (id, text) in blocks {
            self.add(id, text.into());
        }
    }

    fn read_blocks(&mut self, ids: &[&str], stdout: &str) {
        let mut block: Option<(&str, String)> = None;
        for line in stdout.lines() {
            if let Some(id) = line.strip_suffix(':').filter(|id| ids.contains(id)) {
                if let Some((id, text)) = block.replace((id, String::new())) {
                    self.add(id, text.into());
                }
            } else if let Some((_, text)) = &mut block {
                let timed = TIME_LINES
                    .iter()
                    .find(|what| line.trim_start().starts_with(*what));
                text.push_str(timed.copied().unwrap_or(line.trim_end()));
                text.push('\n');
            } else {
                self.other.push(line.to_owned());
            }
        }
        if let Some((id, text)) = block {
            self.add(id, text.into());
        }
    }
}

fn mask_times(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            let is_state = entries.contains_key("__run_num__");
            for (key, value) in entries {
                if is_state && TIMES.contains(&key.as_str()) {
                    *value = Value::Null;
                } else {
                    mask_times(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask_times),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const IDS: [&str; 3] = ["a1", "a2", "site1"];

    #[test]
    fn minion_that_is_printed_twice_has_two_answers() {
        let stdout = "\nExecuting run on ['a1']\n\n{\n  \"a1\": true\n}\n{\n  \"a1\": true\n}\n";
        let printed = Printed::read(Form::Json, &IDS, stdout);
        assert_eq!(printed.by_minion["a1"], [json!(true), json!(true)]);
        assert_eq!(printed.other, ["Executing run on ['a1']"]);
    }

    #[test]
    fn state_is_compared_without_its_times() {
        let stdout = r#"{"a1": {"test_|-x": {"__run_num__": 0, "duration": 0.4, "result": true}, "duration": 7}}"#;
        let printed = Printed::read(Form::StaticJson, &IDS, stdout);
        let wanted = json!({"test_|-x": {"__run_num__": 0, "duration": null, "result": true}, "duration": 7});
        assert_eq!(printed.by_minion["a1"], [wanted]);
    }

    #[test]
    fn lines_and_blocks_belong_to_their_minion() {
        let printed = Printed::read(Form::Text, &IDS, "a1: x: y\na2: 1\na1: z\nwhat: no\n");
        assert_eq!(printed.by_minion["a1"], ["x: y\nz\n"]);
        assert_eq!(printed.other, ["what: no"]);
        let stdout = "a1:\n----------\n     Started: 10:11\nSummary for a1\na2:\n    True\n";
        let printed = Printed::read(Form::Blocks, &IDS, stdout);
        assert_eq!(
            printed.by_minion["a1"],
            ["----------\nStarted:\nSummary for a1\n"]
        );
        assert_eq!(printed.by_minion["a2"], ["    True\n"]);
    }
}
