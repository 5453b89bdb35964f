//! Everything reconnects by itself, in any order of start and of failure, and what was published meanwhile runs once.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use real_tests::{
    answers::wait_for_answers,
    stream::{self, Job, JobStream},
};
use testkit::{Daemon, EventRecorder, KeyPair, SaltVersion, Tree, await_that, now};

const MINIONS: &[&str] = &["a1", "a2"];
/// Slow enough for the minions to get through what waited behind a cut link, without losing returns to their own time-outs.
const PACE: Duration = Duration::from_millis(300);
const WITHIN: Duration = Duration::from_secs(60);

/// How long the whole relay may take until all minions answer again. One `salt` command takes 2 s on a busy machine, or 5 s when it
/// came too early and ran into its time-out.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Server {
    Mom,
    Redis,
    LowerMaster,
    Bridge,
    Shim,
}

use Server::{Bridge, LowerMaster, Mom, Redis, Shim};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Terminate,
    Kill,
}

/// A tree with one site, and numbered jobs on it.
struct Relay {
    tree: Tree,
    above: EventRecorder,
    file: PathBuf,
    number: u32,
}

fn bridge(tree: &mut Tree) -> &mut Daemon {
    tree.bridge.as_mut().expect("the tree has a bridge")
}

fn shim(tree: &mut Tree) -> &mut Daemon {
    tree.sites[0].shim.as_mut().expect("the site has a shim")
}

impl Relay {
    fn start() -> Self {
        let tree = Tree::with_saltway(SaltVersion::V3008)
            .site("site1", SaltVersion::V3006, MINIONS)
            .start()
            .expect("the tree starts");
        let above = tree.mom.record().expect("the recorder connects");
        let file = tree.workspace().path().join("runs");
        Self {
            tree,
            above,
            file,
            number: 0,
        }
    }

    fn end(&mut self, server: Server, end: End) {
        let tree = &mut self.tree;
        match (server, end) {
            (Mom, End::Kill) => tree.mom.kill(),
            // A Salt master that is busy may have to be killed, which is as good here.
            (Mom, End::Terminate) => drop(tree.mom.terminate()),
            (LowerMaster, End::Kill) => tree.sites[0].master.kill(),
            (LowerMaster, End::Terminate) => drop(tree.sites[0].master.terminate()),
            (Redis, End::Kill) => tree.redis.as_mut().expect("the tree has Redis").kill(),
            (Redis, End::Terminate) => tree
                .redis
                .as_mut()
                .expect("the tree has Redis")
                .stop()
                .expect("Redis ends"),
            (Bridge, End::Kill) => bridge(tree).kill(),
            (Bridge, End::Terminate) => {
                assert!(
                    bridge(tree)
                        .terminate()
                        .expect("the bridge ends by itself")
                        .success()
                )
            }
            (Shim, End::Kill) => shim(tree).kill(),
            (Shim, End::Terminate) => {
                assert!(
                    shim(tree)
                        .terminate()
                        .expect("the shim ends by itself")
                        .success()
                )
            }
        }
    }

    /// Starts a server and waits until it runs, whether or not its peers do.
    fn begin(&mut self, server: Server) {
        let tree = &mut self.tree;
        let runs = |daemon: &Daemon| {
            await_that(
                "the daemon to run without its peers",
                WITHIN,
                || match daemon.get("/healthz") {
                    Ok((200, _)) => Ok(()),
                    Ok((status, body)) => Err(format!("{status}: {body}")),
                    Err(err) => Err(format!("{err:#}\n{}", daemon.log_tail(5))),
                },
            );
        };
        match server {
            Mom => {
                tree.mom.start().expect("the MoM starts");
                tree.mom.ready().expect("the MoM gets ready");
                // Its root key is a new one, which a running client does not notice.
                self.above = tree.mom.record().expect("the recorder connects");
            }
            LowerMaster => {
                tree.sites[0]
                    .master
                    .start()
                    .expect("the lower master starts");
                tree.sites[0]
                    .master
                    .ready()
                    .expect("the lower master gets ready");
            }
            Redis => tree
                .redis
                .as_mut()
                .expect("the tree has Redis")
                .start()
                .expect("Redis starts"),
            Bridge => {
                tree.start_bridge().expect("the bridge starts");
                runs(bridge(tree));
            }
            Shim => {
                tree.start_shim(0).expect("the shim starts");
                runs(shim(tree));
            }
        }
    }

    /// Publishes the next numbered job.
    fn publish(&mut self) {
        self.number += 1;
        stream::publish_number(&mut self.above, "*", &self.file, self.number)
            .expect("the MoM publishes");
    }

    /// Waits until every daemon says that it is ready.
    fn wait_ready(&mut self) {
        bridge(&mut self.tree)
            .ready()
            .expect("the bridge gets ready by itself");
        shim(&mut self.tree)
            .ready()
            .expect("the shim gets ready by itself");
    }

    fn assert_each_ran_once(&self) {
        stream::wait_for_runs(&self.file, 1, self.number, MINIONS, WITHIN)
            .expect("nothing is lost");
        assert_eq!(
            stream::doubled(&self.file).expect("readable"),
            BTreeMap::new(),
            "nothing runs twice"
        );
    }
}

#[test]
fn real_servers_restart_and_start_in_any_order_and_minions_answer_again() {
    let mut relay = Relay::start();
    for server in [Shim, Redis, Bridge, Mom, LowerMaster] {
        for end in [End::Terminate, End::Kill] {
            relay.end(server, end);
            // What the relay can know of runs once it is back. A MoM that is down publishes nothing; nobody hears it while the bridge is
            // down; and minions that look for their restarted master miss what it publishes, be it behind a syndic or a shim.
            let told = matches!(server, Shim | Redis);
            if told {
                relay.publish();
            }
            relay.begin(server);
            let began = now();
            wait_for_answers(&relay.tree.mom, MINIONS, ANSWERS_WITHIN)
                .unwrap_or_else(|err| panic!("{server:?} after {end:?}: {err:#}"));
            eprintln!(
                "{server:?} after {end:?}: all answer after {:.1} s",
                began.elapsed().as_secs_f64()
            );
            relay.wait_ready();
            relay.publish();
            relay.assert_each_ran_once();
        }
    }

    for order in [
        [Shim, Bridge, Redis, LowerMaster, Mom],
        [LowerMaster, Shim, Mom, Bridge, Redis],
    ] {
        for server in order {
            relay.end(server, End::Terminate);
        }
        for server in order {
            relay.begin(server);
        }
        let began = now();
        wait_for_answers(&relay.tree.mom, MINIONS, ANSWERS_WITHIN)
            .unwrap_or_else(|err| panic!("{order:?}: {err:#}"));
        eprintln!(
            "{order:?}: all answer after {:.1} s",
            began.elapsed().as_secs_f64()
        );
        relay.wait_ready();
        relay.publish();
        relay.assert_each_ran_once();
    }
}

/// The number of sign-ins that the MoM has accepted.
fn sign_ins(tree: &Tree) -> f64 {
    let shim = tree.sites[0].shim.as_ref().expect("the site has a shim");
    let accepted = shim.metric("saltway_sign_ins_total", &[("result", "accepted")]);
    accepted.expect("/metrics").unwrap_or(0.0)
}

/// Waits until the MoM's job cache has each return of these jobs that the lower master's has. A minion that is too busy gives up a return
/// before its own master has it; that is not the relay's.
fn wait_for_returns_of_below(tree: &Tree, jobs: &[Job]) {
    await_that("every return to be recorded at the MoM", WITHIN, || {
        let [below, above] = [&tree.sites[0].master, &tree.mom].map(stream::recorded_returns);
        let (below, above) = (
            below.map_err(|err| format!("{err:#}"))?,
            above.map_err(|err| format!("{err:#}"))?,
        );
        let minions = |recorded: &BTreeMap<String, Vec<String>>, job: &Job| -> Vec<String> {
            let ids = recorded.get(&job.jid).into_iter().flatten();
            ids.filter(|id| MINIONS.contains(&id.as_str()))
                .cloned()
                .collect()
        };
        let returned: usize = jobs.iter().map(|job| minions(&below, job).len()).sum();
        let missing: Vec<_> = jobs
            .iter()
            .filter(|job| {
                minions(&below, job)
                    .iter()
                    .any(|id| !minions(&above, job).contains(id))
            })
            .collect();
        // Most have returned, else nothing would be shown here.
        if missing.is_empty() && returned * 10 >= jobs.len() * MINIONS.len() * 9 {
            return Ok(());
        }
        Err(format!(
            "{returned} returns below; not recorded: {missing:?}"
        ))
    });
}

#[test]
fn real_cut_link_and_new_keys_of_the_mom_cost_no_job_and_no_return() {
    let mut tree = Tree::with_saltway(SaltVersion::V3006)
        .site("site1", SaltVersion::V3006, MINIONS)
        .proxied(true)
        // Salt looks for the request to change its key this often.
        .mom_extra("loop_interval: 1\n")
        .start()
        .expect("the tree starts");
    let file = tree.workspace().path().join("runs");
    let stream = JobStream::start(
        tree.mom.record().expect("the recorder connects"),
        "*",
        &file,
        PACE,
    );
    let before = stream.wait_for_more(5).expect("the stream gets on");
    stream
        .wait_for_runs(1, before, MINIONS, WITHIN)
        .expect("the stream runs");

    // Ten seconds of jobs on each side of Redis without a link.
    let link = tree.sites[0]
        .redis_link
        .as_ref()
        .expect("the tree is proxied");
    let cut = now();
    link.cut();
    let mut newest = stream.newest();
    while cut.elapsed() < Duration::from_secs(10) {
        newest = stream.wait_for_more(5).expect("the stream gets on");
    }
    let ran = stream::runs(&file).expect("readable");
    assert!(
        !ran.contains_key(&(newest - 5, "a1".to_owned())),
        "the link was really cut"
    );
    link.heal().expect("the link heals");
    let mended = now();
    stream
        .wait_for_runs(1, newest, MINIONS, WITHIN)
        .expect("the site's cut link loses nothing");
    eprintln!(
        "all run {:.1} s after the site's link was mended",
        mended.elapsed().as_secs_f64()
    );
    let link = tree
        .bridge_redis_link
        .as_ref()
        .expect("the tree is proxied");
    link.cut();
    let newest = stream.wait_for_more(10).expect("the stream gets on");
    link.heal().expect("the link heals");
    stream
        .wait_for_runs(1, newest, MINIONS, WITHIN)
        .expect("the bridge's cut link loses nothing");

    // A deleted key makes the MoM change its AES key (`rotate_aes_key`).
    let signed_in = sign_ins(&tree);
    let dummy = KeyPair::take(tree.workspace()).expect("a key");
    tree.mom.accept("dummy", &dummy).expect("accepted");
    let deleted = tree
        .mom
        .salt_key(&["-y", "-d", "dummy"])
        .expect("salt-key runs");
    assert_eq!(deleted.code, 0, "{}{}", deleted.stdout, deleted.stderr);
    await_that(
        "the shim to sign in with the MoM's new key",
        WITHIN,
        || match sign_ins(&tree) {
            now if now > signed_in => Ok(()),
            now => Err(now),
        },
    );
    stream.wait_for_more(5).expect("the stream gets on");
    let (jobs, _) = stream.finish().expect("every job was published");
    let last = jobs.last().expect("there are jobs").number;
    stream::wait_for_runs(&file, 1, last, MINIONS, WITHIN).expect("a new AES key loses nothing");

    // A new MoM process has a new AES key as well, and the first thing it publishes opens with no known one.
    let signed_in = sign_ins(&tree);
    drop(tree.mom.terminate());
    await_that("the bridge to miss the MoM", WITHIN, || {
        match bridge(&mut tree)
            .get("/readyz")
            .map_err(|err| format!("{err:#}"))?
        {
            (200, body) => Err(body),
            (_, body) if body.contains("mom") => Ok(()),
            (_, body) => Err(body),
        }
    });
    tree.mom.start().expect("the MoM starts");
    tree.mom.ready().expect("the MoM gets ready");
    let above = tree.mom.record().expect("the recorder connects");
    bridge(&mut tree)
        .ready()
        .expect("the bridge hears the MoM again");
    let stream = JobStream::resume(above, "*", &file, PACE, jobs);
    stream.wait_for_more(10).expect("the stream gets on");
    let (jobs, _) = stream.finish().expect("every job was published");
    let last = jobs.last().expect("there are jobs").number;
    stream::wait_for_runs(&file, 1, last, MINIONS, WITHIN)
        .expect("a restarted MoM's first job is not lost");
    assert!(sign_ins(&tree) > signed_in, "the shim has signed in again");

    assert_eq!(
        stream::doubled(&file).expect("readable"),
        BTreeMap::new(),
        "no job runs twice"
    );
    wait_for_returns_of_below(&tree, &jobs);
    let lost = shim(&mut tree)
        .metric("saltway_publications_lost_total", &[])
        .expect("/metrics");
    assert_eq!(lost, Some(0.0), "nothing is counted as lost");
}
