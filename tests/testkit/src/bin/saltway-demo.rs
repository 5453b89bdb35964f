//! `make demo`: a whole Saltway on loopback with real Salt and real Redis, and what an operator sees on the top master.
//!
//! Progress goes to standard error, what the operator sees to standard output. Everything that was started is stopped at the end, also on
//! Ctrl-C and SIGTERM (a second Ctrl-C ends at once; the guardian of testkit then cleans up).

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use testkit::{Daemon, Output, Relay, SaltVersion, Tree, end_waits_on_signals, interrupted, now};

/// Starts a top master, Redis, a bridge and two sites of three minions on loopback, and runs Salt commands on the top master.
#[derive(Debug, Parser)]
#[command(name = "saltway-demo")]
struct Arguments {
    /// Salt version of every daemon: 3006, 3007 or 3008.
    #[arg(long, default_value = "3008")]
    salt: SaltVersion,
    /// What stands between the top master and the sites.
    #[arg(long, value_enum, default_value_t = Through::Saltway)]
    through: Through,
    /// Leave everything up until Ctrl-C, and print commands to play with.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Through {
    Saltway,
    Syndic,
}

/// Prints a line of what the operator sees.
#[expect(clippy::print_stdout, reason = "showing is what this program is for")]
fn show(line: &str) {
    println!("{line}");
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = end_waits_on_signals().and_then(|()| demo(&arguments));
    if interrupted() {
        eprintln!("stopped; everything that was started has ended");
        return ExitCode::from(if arguments.keep { 0 } else { 130 });
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &Arguments) -> Result<()> {
    let began = now();
    let relay = match arguments.through {
        Through::Saltway => Relay::Saltway,
        Through::Syndic => Relay::Syndic,
    };
    let v = arguments.salt;
    let tree = Tree::builder(v, relay)
        .minion_extra("grains: {kind: demo}")
        .site("site1", v, &["a1", "a2", "a3"])
        .site("site2", v, &["b1", "b2", "b3"])
        .on_progress(move |line| progress(began, line))
        .start()?;
    tour(&tree)?;
    if let Some(bridge) = &tree.bridge {
        cut_off(&tree, bridge)?;
    }
    if arguments.keep {
        leave_up(&tree);
    }
    progress(began, "stopping everything");
    drop(tree);
    progress(began, "stopped");
    Ok(())
}

fn progress(began: Instant, line: &str) {
    eprintln!("[{:5.1} s] {line}", began.elapsed().as_secs_f64());
}

/// The commands of the tour, each with what it shows.
const SAMPLES: &[(&str, &[&str])] = &[
    (
        "Every minion of both sites, as on one flat master",
        &["*", "test.ping"],
    ),
    (
        "A list over two sites",
        &["-L", "a1,b2", "cmd.run", "echo hello from $(hostname)"],
    ),
    (
        "By grain",
        &["-G", "kind:demo", "grains.item", "id", "--out=txt"],
    ),
    (
        "A compound target",
        &[
            "-C",
            "a* or E@b[12]",
            "test.echo",
            "several ways to say who",
            "--out=txt",
        ],
    ),
];

fn tour(tree: &Tree) -> Result<()> {
    for (what, args) in SAMPLES {
        expect_success(present(tree, what, "salt", args)?)?;
    }
    let started = expect_success(present(
        tree,
        "In the background",
        "salt",
        &["--async", "*", "test.ping"],
    )?)?;
    let Some(jid) = started
        .stdout
        .split_whitespace()
        .find(|word| word.len() >= 20 && word.chars().all(|c| c.is_ascii_digit()))
    else {
        bail!("`salt --async` named no job id");
    };
    // The job cache holds an answer as soon as it has come up; the six have up to a few seconds.
    testkit::wait_until(
        "six answers in the top master's job cache",
        Duration::from_secs(20),
        || {
            let output = tree
                .mom
                .salt_run(&["--out=json", "jobs.lookup_jid", jid])
                .map_err(|error| format!("{error:#}"))?;
            let answers = output.json().map_err(|error| format!("{error:#}"))?;
            let missing: Vec<&str> = tree
                .minion_ids()
                .into_iter()
                .filter(|id| answers.get(id).is_none())
                .collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("missing: {}", missing.join(" ")))
            }
        },
    )?;
    expect_success(present(
        tree,
        "... and looked up later",
        "salt-run",
        &["jobs.lookup_jid", jid],
    )?)?;
    Ok(())
}

/// The second site cannot be asked: its minions are named all the same.
fn cut_off(tree: &Tree, bridge: &Daemon) -> Result<()> {
    let site = tree.sites.get(1).context("the demo has two sites")?;
    let shim = site.shim.as_ref().context("the site has a shim")?;
    shim.process()?.pause()?;
    await_state(bridge, site.name(), "down")?;
    let what = "site2 is cut off: nobody is missing in silence";
    let output = present(tree, what, "salt", &["*", "test.ping"])?;
    if output.code == 0 {
        bail!("salt did not tell that minions are missing");
    }
    let samples: [(&str, &[&str]); 2] = [
        ("The same from the bridge", &["sites"]),
        ("... job by job", &["jobs", "--limit", "3"]),
    ];
    for (what, args) in samples {
        print(what, "saltway", args, &bridge.saltway(args)?);
    }
    shim.process()?.resume()?;
    await_state(bridge, site.name(), "up")
}

fn await_state(bridge: &Daemon, site: &str, state: &str) -> Result<()> {
    let what = format!("{site} to be {state}");
    testkit::wait_until(&what, Duration::from_secs(30), || {
        let output = bridge.saltway(&["sites", "--json"]);
        let sites = output
            .and_then(|output| output.json())
            .map_err(|error| format!("{error:#}"))?;
        let sites = sites["sites"].as_array().cloned().unwrap_or_default();
        match sites.iter().find(|one| one["id"] == site) {
            Some(found) if found["state"] == state => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// Runs a command and shows it the way a terminal would.
fn present(tree: &Tree, what: &str, program: &str, args: &[&str]) -> Result<Output> {
    let output = tree.mom.command(program, args, Duration::from_secs(90))?;
    print(what, program, args, &output);
    Ok(output)
}

fn print(what: &str, program: &str, args: &[&str], output: &Output) {
    let words: Vec<String> = args.iter().map(|arg| quote(arg)).collect();
    show(&format!(
        "\n--- {what} {}",
        "-".repeat(75_usize.saturating_sub(what.chars().count()))
    ));
    show(&format!("# {program} {}", words.join(" ")));
    show(output.stdout.trim_end());
    if !output.stderr.trim().is_empty() {
        show(output.stderr.trim_end());
    }
    let code = if output.code == 0 {
        String::new()
    } else {
        format!(", exit code {}", output.code)
    };
    show(&format!("({:.2} s{code})", output.wall.as_secs_f64()));
}

fn expect_success(output: Output) -> Result<Output> {
    if output.code != 0 {
        bail!("`{}` ended with exit code {}", output.command, output.code);
    }
    Ok(output)
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{word}'")
    }
}

fn leave_up(tree: &Tree) {
    let bin = tree.mom.version().venv().join("bin");
    show(&format!("\n{}", "=".repeat(80)));
    show("Everything stays up until Ctrl-C here. In another terminal:\n");
    show(&format!("  export PATH={}:$PATH", bin.display()));
    show(&format!(
        "  salt -c {} '*' test.ping",
        tree.mom.conf_dir().display()
    ));
    show(&format!(
        "  salt-run -c {} jobs.list_jobs",
        tree.mom.conf_dir().display()
    ));
    for site in &tree.sites {
        show(&format!(
            "  salt -c {} '*' test.ping    # {} alone",
            site.master.conf_dir().display(),
            site.name()
        ));
    }
    for daemon in tree
        .bridge
        .iter()
        .chain(tree.sites.iter().filter_map(|site| site.shim.as_ref()))
    {
        show(&format!(
            "  curl http://{}/metrics    # {}",
            daemon.http(),
            daemon.config_file().display()
        ));
    }
    if let Some(bridge) = &tree.bridge {
        show(&format!("  http://{}/    # the status page", bridge.http()));
    }
    if let Some(redis) = &tree.redis {
        show(&format!("  redis-cli -u {} monitor", redis.url()));
    }
    show(&format!(
        "\n  logs: {}/*/log",
        tree.workspace().path().display()
    ));
    while !interrupted() {
        thread::sleep(Duration::from_millis(100));
    }
}
