//! Nothing is lost of what is carried: a publication's fields, a return's bytes, the events that salt-syndic forwards.

use std::{fs, process::Command, time::Duration};

use real_tests::stream::job_directory;
use serde_json::{Value, json};
use testkit::{EventRecorder, Master, SaltVersion, Tree, await_that, run};

const WITHIN: Duration = Duration::from_secs(60);

/// A result of 50 MiB goes through three Salt masters' processes and an unoptimised shim.
const LARGE_WITHIN: Duration = Duration::from_secs(150);

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python");

/// The MoM lets alice run `test.*`; the lower master passes on `auth_list` and `to`, as one that has syndics of its own.
const EXTERNAL_AUTH: &str =
    "external_auth: {sharedsecret: {alice: ['test.*', 'exact.*']}}\nsharedsecret: hush\n";
const ORDER_MASTERS: &str = "order_masters: true\n";

fn python(master: &Master, args: &[&str]) -> Value {
    let mut command = Command::new(
        master
            .version()
            .program("python")
            .expect("the venv has Python"),
    );
    command.args(args);
    let output = run(master.workspace(), command, WITHIN).expect("Python runs");
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    output.json().expect("the script prints JSON")
}

/// Publishes with keyword arguments of `LocalClient.run_job`; the jid.
fn publish(master: &Master, job: &Value) -> String {
    let conf_dir = master.conf_dir().display().to_string();
    let published = python(
        master,
        &[&format!("{PYTHON}/publish.py"), &conf_dir, &job.to_string()],
    );
    published["jid"]
        .as_str()
        .unwrap_or_else(|| panic!("not published: {published}"))
        .to_owned()
}

/// The publication as a master of 3008 shows it on its bus, without what belongs to the event.
fn shown(recorder: &mut EventRecorder, jid: &str) -> serde_json::Map<String, Value> {
    let tag = format!("salt/job/{jid}/publish");
    let events = recorder
        .wait_for(1, WITHIN, |event| event.tag == tag)
        .expect("the publication is shown");
    let mut fields = events[0].data.as_object().expect("a map").clone();
    fields.retain(|key, _| !key.starts_with('_'));
    fields
}

fn assert_whole_load(tree: &Tree, above: &mut EventRecorder, below: &mut EventRecorder) {
    let jid = publish(
        &tree.mom,
        &json!({
            "tgt": "kernel|Linux", "tgt_type": "grain", "delimiter": "|", "fun": "test.arg", "arg": ["Größe", 1, {"k": [2.5, null]}],
            "kwarg": {"named": "☃"}, "timeout": 7, "metadata": {"ticket": "T-1", "n": [1, 2]}, "ret_config": "alternative",
            "ret_kwargs": {"host": "h", "port": 1}, "module_executors": ["direct_call"], "executor_opts": {"deep": {"er": 1}},
            "master_id": "the-mom", "start_event": true, "eauth": "sharedsecret", "username": "alice", "password": "hush",
        }),
    );
    let (mut sent, mut arrived) = (shown(above, &jid), shown(below, &jid));
    let told = [
        "delimiter",
        "metadata",
        "ret_config",
        "ret_kwargs",
        "module_executors",
        "executor_opts",
        "start_event",
        "auth_list",
        "user",
        "master_id",
        "to",
        "arg",
        "fun",
        "jid",
        "ret",
        "tgt",
        "tgt_type",
    ];
    for field in told {
        assert!(
            sent.contains_key(field),
            "the MoM publishes {field}: {sent:?}"
        );
    }
    assert_eq!(sent["auth_list"], json!(["test.*", "exact.*"]));
    // Whoever publishes on the lower master is its own user, who asked on the MoM is in its job cache: both as with salt-syndic. One second
    // of `to` is for the way.
    assert_eq!(
        (sent.remove("user"), arrived.remove("user")),
        (Some(json!("alice")), Some(json!("root")))
    );
    assert_eq!(
        (sent.remove("to"), arrived.remove("to")),
        (Some(json!(7)), Some(json!(6)))
    );
    assert_eq!(
        sent, arrived,
        "what the MoM publishes is what the lower master publishes"
    );
    let load = job_directory(&tree.sites[0].master, &jid)
        .expect("the job is known")
        .join(".load.p");
    let decode = "import json, sys, salt.payload; print(json.dumps(salt.payload.loads(open(sys.argv[1], 'rb').read())))";
    let load = python(
        &tree.sites[0].master,
        &["-c", decode, &load.display().to_string()],
    );
    assert_eq!(load["kwargs"]["user"], "alice", "{load}");
    above
        .wait_for_returns(&jid, 1, WITHIN)
        .expect("the minion returns");
}

/// A file of a1's return in a master's job cache.
fn return_file(master: &Master, jid: &str, file: &str) -> anyhow::Result<Vec<u8>> {
    Ok(fs::read(job_directory(master, jid)?.join("a1").join(file))?)
}

/// Waits until a file of the MoM's job cache has the bytes of the lower master's; how many these are.
fn wait_for_same_bytes(tree: &Tree, jid: &str, file: &str, within: Duration) -> usize {
    await_that(
        &format!("{file} of job {jid} to be the same on both masters"),
        within,
        || {
            let [below, above] =
                [&tree.sites[0].master, &tree.mom].map(|master| return_file(master, jid, file));
            let below = below.map_err(|err| format!("lower master: {err}"))?;
            let above = above.map_err(|err| format!("MoM: {err}"))?;
            if !above.is_empty() && above == below {
                return Ok(above.len());
            }
            let same = above
                .iter()
                .zip(&below)
                .take_while(|(above, below)| above == below)
                .count();
            Err(format!(
                "{} and {} bytes, the first {same} alike",
                above.len(),
                below.len()
            ))
        },
    )
}

fn assert_whole_returns(tree: &Tree, above: &mut EventRecorder, below: &mut EventRecorder) {
    let jid = publish(&tree.mom, &json!({"tgt": "a1", "fun": "exact.values"}));
    above
        .wait_for_returns(&jid, 1, WITHIN)
        .expect("the minion returns");
    let length = wait_for_same_bytes(tree, &jid, "return.p", WITHIN);
    assert!(
        length > 140_000,
        "the module's values are there: {length} bytes"
    );
    wait_for_same_bytes(tree, &jid, "out.p", WITHIN);
    let job = tree
        .mom
        .salt_run(&["--out=json", "jobs.lookup_jid", &jid])
        .expect("salt-run runs");
    let job = job.json().expect("salt-run prints JSON");
    assert_eq!(job["a1"]["text"], "Größe ☃ 🧂 \u{0} \u{2028}", "{job}");
    assert_eq!(
        job["a1"]["beyond 64 bit"][0], "1180591620717411303424",
        "as Salt writes it"
    );

    let jid = publish(
        &tree.mom,
        &json!({"tgt": "a1", "fun": "exact.big", "arg": [50]}),
    );
    let tag = format!("salt/job/{jid}/ret/a1");
    let shown = below
        .wait_for(1, LARGE_WITHIN, |event| event.tag == tag)
        .expect("the minion returns");
    assert_eq!(
        shown[0].data["return"], "VALUE_TRIMMED",
        "the lower master's bus does not hold it"
    );
    let length = wait_for_same_bytes(tree, &jid, "return.p", LARGE_WITHIN);
    assert!(length > 50 << 20, "{length} bytes");
}

/// Fires an event on the minion.
fn fire(master: &Master, tag: &str) {
    let fired = master
        .salt(&[
            "--out=json",
            "--static",
            "a1",
            "event.send",
            tag,
            "{number: 7, text: Größe}",
        ])
        .expect("salt runs");
    assert_eq!(
        fired.json().expect("salt prints JSON")["a1"],
        true,
        "{}",
        fired.stderr
    );
}

/// Runs a job on the lower master itself; its jid.
fn run_below(master: &Master, text: &str) -> String {
    publish(
        master,
        &json!({"tgt": "a1", "fun": "test.echo", "arg": [text]}),
    )
}

fn assert_sync_mode(tree: &Tree, above: &mut EventRecorder) {
    let lower = &tree.sites[0].master;
    fire(lower, "test/sync");
    for tag in ["test/sync", "syndic/site1/test/sync"] {
        let seen = above
            .wait_for(1, WITHIN, |event| event.tag == tag)
            .unwrap_or_else(|err| panic!("{tag}: {err:#}"));
        assert_eq!(seen.len(), 1, "{tag} comes once");
        assert_eq!(seen[0].data["data"]["number"], 7, "{:?}", seen[0]);
        assert_eq!(seen[0].data["data"]["text"], "Größe");
    }
    let jid = run_below(lower, "from below");
    let job = await_that(
        "the job of the lower master in the MoM's job cache",
        WITHIN,
        || {
            let output = tree
                .mom
                .salt_run(&["--out=json", "jobs.list_job", &jid])
                .map_err(|err| format!("{err:#}"))?;
            let job = output.json().map_err(|err| format!("{err:#}"))?;
            if job["Result"]["a1"]["return"] == "from below" {
                Ok(job)
            } else {
                Err(job.to_string())
            }
        },
    );
    assert_eq!(
        (
            &job["Function"],
            &job["Target"],
            &job["Target-type"],
            &job["Arguments"]
        ),
        (
            &json!("test.echo"),
            &json!("a1"),
            &json!("glob"),
            &json!(["from below"])
        ),
        "the load comes with it: {job}"
    );
}

fn assert_cluster_mode(tree: &mut Tree, above: &mut EventRecorder) {
    let config = tree.sites[0].master.conf_dir().join("master");
    let text = fs::read_to_string(&config).expect("readable");
    fs::write(&config, format!("{text}\nsyndic_mode: cluster\n")).expect("writable");
    let shim = tree.sites[0].shim.as_mut().expect("the site has a shim");
    shim.terminate().expect("the shim ends");
    shim.start().expect("the shim starts");
    shim.ready().expect("the shim gets ready");
    let lower = &tree.sites[0].master;
    fire(lower, "test/cluster");
    let local = run_below(lower, "in cluster mode");
    // Events keep their order, and the event of this job, which names minions, is behind those that were not to go.
    above
        .wait_for(1, WITHIN, |event| {
            event.tag == format!("syndic/site1/salt/job/{local}/new")
        })
        .expect("jobs' minions are told");
    let jid = publish(
        &tree.mom,
        &json!({"tgt": "a1", "fun": "test.echo", "arg": ["on top"]}),
    );
    let returns = above
        .wait_for_returns(&jid, 1, WITHIN)
        .expect("jobs from above return");
    assert_eq!(returns[0].data["return"], "on top");
    let strays: Vec<_> = above
        .events()
        .expect("the recorder runs")
        .iter()
        .filter(|event| event.tag.ends_with("test/cluster"))
        .collect();
    assert!(
        strays.is_empty(),
        "salt-syndic does not forward it in cluster mode: {strays:?}"
    );
}

#[test]
fn real_loads_returns_and_events_are_carried_whole() {
    let mut tree = Tree::with_saltway(SaltVersion::V3008)
        .site("site1", SaltVersion::V3008, &["a1"])
        .mom_extra(EXTERNAL_AUTH)
        .site_extra(ORDER_MASTERS)
        // A minion cuts large returns off itself, on the bus between its own processes, unless it is told not to.
        .minion_extra(&format!(
            "module_dirs: [{PYTHON}/salt_modules]\nmax_event_size: 209715200\n"
        ))
        .start()
        .expect("the tree starts");
    let mut above = tree.mom.record().expect("the recorder connects");
    let mut below = tree.sites[0]
        .master
        .record()
        .expect("the recorder connects");
    assert_whole_load(&tree, &mut above, &mut below);
    assert_sync_mode(&tree, &mut above);
    assert_whole_returns(&tree, &mut above, &mut below);
    assert_cluster_mode(&mut tree, &mut above);
}
