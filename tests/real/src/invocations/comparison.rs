//! Types invocations on the top master and on each site's own master, and collects what differs and how long each took.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use testkit::{Output, Tree};

use super::{Invocation, Printed, Sites};

/// What the top master may take more than the slower of the sites' own masters: `syndic_wait`, and noise of a busy machine.
/// Salt's own time-outs take `timeout` and `gather_job_timeout`, 15 s.
const MORE_AT_THE_TOP: Duration = Duration::from_secs(10);

/// Exit code of a `salt` whose target means nobody on its master.
const NO_MINIONS_MATCHED: i32 = 2;

/// A tree, and what was seen in it.
pub struct Comparison<'a> {
    tree: &'a Tree,
    findings: Vec<String>,
}

impl<'a> Comparison<'a> {
    /// Nothing compared yet. Prints the table of wall times for people, line by line as it goes.
    #[must_use]
    pub fn new(tree: &'a Tree) -> Self {
        eprintln!("{:>6} {:>6}  invocation", "top", "own");
        Self {
            tree,
            findings: Vec::new(),
        }
    }

    /// Types `invocation` on the top master and on the sites' own masters, at the same time or one after the other, and
    /// compares. Returns what the top master printed.
    pub fn check(&mut self, invocation: &Invocation) -> Output {
        let mom = &self.tree.mom;
        let type_at_top = || {
            mom.salt(&invocation.words())
                .expect("salt runs on the top master")
        };
        let (mom, own) = if invocation.alone {
            (type_at_top(), self.at_sites(&invocation.site_words()))
        } else {
            thread::scope(|scope| {
                let mom = scope.spawn(type_at_top);
                let own = self.at_sites(&invocation.site_words());
                (mom.join().expect("a command does not panic"), own)
            })
        };
        self.compare(invocation, &mom, &own);
        mom
    }

    /// Adds a finding of the caller's own unless `holds`.
    pub fn demand(&mut self, holds: bool, finding: impl FnOnce() -> String) {
        if !holds {
            let finding = finding();
            eprintln!("{finding}");
            self.findings.push(finding);
        }
    }

    /// Fails with all findings if there are any.
    ///
    /// # Panics
    /// When something differed.
    pub fn finish(self) {
        assert!(
            self.findings.is_empty(),
            "{} findings:\n{}\nconfiguration and logs were in {}",
            self.findings.len(),
            self.findings.join("\n"),
            self.tree.workspace().path().display()
        );
    }

    /// Types the words on all sites' own masters at the same time.
    #[must_use]
    pub fn at_sites(&self, words: &[&str]) -> Vec<Output> {
        thread::scope(|scope| {
            let runs: Vec<_> = self
                .tree
                .sites
                .iter()
                .map(|site| scope.spawn(|| site.master.salt(words)))
                .collect();
            runs.into_iter()
                .map(|run| {
                    run.join()
                        .expect("a command does not panic")
                        .expect("salt runs on a lower master")
                })
                .collect()
        })
    }

    fn compare(&mut self, invocation: &Invocation, mom: &Output, own: &[Output]) {
        let mut ids = self.tree.minion_ids();
        let sites: Vec<&str> = self.tree.sites.iter().map(testkit::Site::name).collect();
        ids.extend(&sites);
        let read = |output: &Output| Printed::read(invocation.form, &ids, &output.stdout);

        let mut top = read(mom);
        let of_sites = top.take(&sites);
        let (mut below, mut others) = (BTreeMap::new(), Vec::new());
        let (mut code, mut slowest) = (None, Duration::ZERO);
        for output in own {
            let answers = read(output);
            if !answers.by_minion.is_empty() || output.code != NO_MINIONS_MATCHED {
                code = code.max(Some(output.code));
            }
            below.extend(answers.by_minion);
            others.push(answers.other);
            slowest = slowest.max(output.wall);
        }
        let mut differs = Vec::new();
        for id in self.tree.minion_ids() {
            let (above, below) = (top.by_minion.get(id), below.get(id));
            if above != below {
                differs.push(format!(
                    "{id}: {} on the top master, {} on its own",
                    shown(above),
                    shown(below)
                ));
            }
        }
        for id in top
            .by_minion
            .keys()
            .filter(|id| !ids.contains(&id.as_str()))
        {
            differs.push(format!("nobody is called {id}"));
        }
        differs.extend(self.judge_sites(invocation, &of_sites, &top));
        // A refusal, or text that stands for all.
        let nobody = top.by_minion.is_empty() && below.is_empty();
        if nobody && (top.other.is_empty() || others.iter().any(|other| *other != top.other)) {
            differs.push("the text for all is not the same".to_owned());
        }
        let code = code.unwrap_or(NO_MINIONS_MATCHED);
        if mom.code != code {
            differs.push(format!("exit code {} instead of {code}", mom.code));
        }
        // Each part of a batch lasts `syndic_wait` at least, and there are more parts at the top.
        let limit = slowest + MORE_AT_THE_TOP;
        if mom.wall > limit && invocation.sites != Sites::InParts {
            // A time-out runs out every time, a busy machine is slow once.
            let again = self
                .tree
                .mom
                .salt(&invocation.words())
                .map(|again| again.wall);
            if !again.as_ref().is_ok_and(|wall| *wall <= limit) {
                differs.push(format!(
                    "{:.1?}, again {again:.1?}, instead of {slowest:.1?}",
                    mom.wall
                ));
            }
        }
        for line in mom.stdout.lines().chain(mom.stderr.lines()) {
            if line.contains("Traceback") {
                differs.push(format!("a traceback: {}", clipped(&mom.stderr)));
                break;
            }
        }
        // A line of the table of times, at once: a test that hangs shows where.
        let (above, below) = (mom.wall.as_secs_f64(), slowest.as_secs_f64());
        let words = invocation.words().join(" ");
        let mark = if differs.is_empty() {
            ""
        } else {
            "  <-- differs"
        };
        eprintln!("{above:>6.2} {below:>6.2}  {words}{mark}");
        if !differs.is_empty() {
            let lines = differs.join("\n    ");
            self.demand(false, || {
                format!(
                    "`{}`\n    {lines}\n    top: {}\n    own: {}",
                    mom.command,
                    outcome(mom),
                    own.iter().map(outcome).collect::<Vec<_>>().join(" | ")
                )
            });
        }
    }

    fn judge_sites(
        &self,
        invocation: &Invocation,
        said: &BTreeMap<String, Vec<Value>>,
        top: &Printed,
    ) -> Vec<String> {
        let mut differs = Vec::new();
        for site in &self.tree.sites {
            let ids = site.minion_ids();
            let shown = ids.iter().filter(|&&id| top.by_minion.contains_key(id));
            let shown = shown.count();
            let summary = format!("expected {shown}, returned {shown}, missing 0");
            match (invocation.sites, said.get(site.name()).map(Vec::as_slice)) {
                (Sites::Silent, None) | (Sites::Answer, Some([_])) => {}
                (Sites::Complete, Some([Value::String(text)])) if text.trim() == summary => {}
                (Sites::InParts, Some([Value::String(text)]))
                    if text.trim().ends_with(", missing 0") => {}
                (_, said) => differs.push(format!(
                    "{} says {said:?} for {:?}",
                    site.name(),
                    invocation.sites
                )),
            }
        }
        differs
    }
}

fn outcome(output: &Output) -> String {
    format!(
        "code {}, stdout {}, stderr {}",
        output.code,
        clipped(&output.stdout),
        clipped(&output.stderr)
    )
}

fn shown(values: Option<&Vec<Value>>) -> String {
    match values {
        None => "nothing".to_owned(),
        Some(values) => {
            let values: Vec<String> = values
                .iter()
                .map(|value| clipped(&value.to_string()))
                .collect();
            values.join(" and then ")
        }
    }
}

fn clipped(text: &str) -> String {
    let short: String = text.chars().take(700).collect();
    if short.len() < text.len() {
        format!("{short:?}... ({} bytes)", text.len())
    } else {
        format!("{short:?}")
    }
}
