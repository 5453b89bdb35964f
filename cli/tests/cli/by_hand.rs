//! With real Salt: a job that a minion missed runs there once it is sent again, and a roll-out goes over all sites.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{SaltVersion, Tree, await_that, run};

const WITHIN: Duration = Duration::from_secs(60);

/// A tree, and a configuration of its MoM by which `salt-run` finds the runner and the bridge.
struct Relay {
    tree: Tree,
    version: SaltVersion,
    conf_dir: std::path::PathBuf,
}

impl Relay {
    fn start(version: SaltVersion) -> Self {
        let tree = Tree::with_saltway(version)
            .site("s1", version, &["a1", "a2"])
            .site("s2", version, &["b1"])
            .shim_extra("receipts: {start_event: true}")
            .start()
            .expect("the tree starts");
        let conf_dir = tree.workspace().path().join("runner");
        fs::create_dir(&conf_dir).expect("created");
        let bridge = tree.bridge.as_ref().expect("a bridge");
        let runners = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../salt-ext/src/saltext/saltway/runners"
        );
        let own = fs::read_to_string(tree.mom.conf_dir().join("master")).expect("a file");
        let config = bridge.config_file().display();
        let more = format!("\nrunner_dirs: [{runners}]\nsaltway: {{config: {config}}}\n");
        fs::write(conf_dir.join("master"), own + &more).expect("written");
        Self {
            tree,
            version,
            conf_dir,
        }
    }

    fn saltway(&self, args: &[&str]) -> testkit::Output {
        let bridge = self.tree.bridge.as_ref().expect("a bridge");
        let config = bridge.config_file().display().to_string();
        let args = [&["--config", &config], args].concat();
        bridge.saltway(&args).expect("saltway runs")
    }

    fn salt_run(&self, args: &[&str]) -> Value {
        let mut command = Command::new(self.version.program("salt-run").expect("installed"));
        command
            .arg("-c")
            .arg(&self.conf_dir)
            .arg("--out=json")
            .args(args);
        let output = run(self.tree.workspace(), command, WITHIN);
        let output = output.expect("salt-run runs");
        output
            .json()
            .unwrap_or_else(|err| panic!("{args:?}: {err:#}: {output:?}"))
    }

    /// Publishes a job that each minion leaves a line of, and that no site sends again by itself; its jid.
    fn publish(&self, file: &str) -> String {
        let command = format!("echo ran >> {file}");
        let metadata = "--metadata={\"saltway_redeliver\": false}";
        let args = ["--async", metadata, "*", "cmd.run", command.as_str()];
        let output = self.tree.mom.salt(&args).expect("salt runs");
        let digits = output.stdout.split(|letter: char| !letter.is_ascii_digit());
        let jid = digits.into_iter().find(|digits| digits.len() == 20);
        jid.unwrap_or_else(|| panic!("{output:?}")).to_owned()
    }

    fn job(&self, jid: &str) -> Value {
        let output = self.saltway(&["--json", "job", jid]);
        output.json().unwrap_or_default()
    }

    fn await_returned(&self, jid: &str, count: u64) {
        await_that("the minions have returned", WITHIN, || {
            let job = self.job(jid);
            if job["returned"] == count {
                Ok(())
            } else {
                Err(job.to_string())
            }
        });
    }
}

fn a_missed_job_runs_once_when_it_is_sent_again(version: SaltVersion) {
    let mut relay = Relay::start(version);
    // From now on it is known who gives receipts.
    let ping = relay
        .tree
        .mom
        .salt(&["--out=json", "--static", "*", "test.ping"]);
    assert_eq!(ping.expect("salt runs").json().expect("JSON")["a2"], true);

    let ran = relay.tree.workspace().path().join("ran");
    let lines = || fs::read_to_string(&ran).unwrap_or_default().lines().count();
    relay.tree.sites[0].minions[1].kill();
    let jid = relay.publish(&ran.display().to_string());
    relay.await_returned(&jid, 2);
    let minion = &mut relay.tree.sites[0].minions[1];
    minion.start().expect("started again");
    minion.ready().expect("ready");

    let first = relay.saltway(&["redeliver", &jid]);
    if version == SaltVersion::V3006 {
        // Nobody knows whether it ran the job: a person is asked.
        assert!(first.stdout.contains("gives no receipts"), "{first:?}");
        assert_eq!(lines(), 2);
        let answer = relay.salt_run(&["saltway.redeliver", &jid, "force=True"]);
        assert_eq!(answer["sent"], json!(["a2"]), "{answer}");
    } else {
        assert!(first.stdout.contains("sent again to 1 minion"), "{first:?}");
    }
    relay.await_returned(&jid, 3);
    let again = relay.saltway(&["redeliver", &jid, "--minions", "a1,a2", "--yes"]);
    assert_eq!(again.stdout.matches("has returned").count(), 2, "{again:?}");
    assert_eq!(lines(), 3, "each minion ran it once");
    let cached = relay.salt_run(&["jobs.list_job", &jid]);
    assert_eq!(cached["Target"], "*", "the job cache has the job as it was");

    let answer = relay.salt_run(&["saltway.rollout", "*", "test.ping", "stages=1,100%"]);
    assert_eq!(answer["status"], "done", "{answer}");
    assert_eq!(
        (&answer["ok"], &answer["stages"]["2"]["ok"]),
        (&json!(3), &json!(2))
    );
    let failing = ["saltway.rollout", "*", "cmd.run", "false", "stages=1,100%"];
    let answer = relay.salt_run(&failing);
    assert_eq!(
        (&answer["status"], &answer["untouched"]),
        (&json!("stopped"), &json!(2))
    );
}

#[test]
fn real_3006_job_is_sent_again_by_hand_and_a_rollout_goes_over_all_sites() {
    a_missed_job_runs_once_when_it_is_sent_again(SaltVersion::V3006);
}

#[test]
fn real_3008_job_is_sent_again_by_hand_and_a_rollout_goes_over_all_sites() {
    a_missed_job_runs_once_when_it_is_sent_again(SaltVersion::V3008);
}
