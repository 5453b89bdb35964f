//! The loss counters tell how many publications were destroyed, at which hop, for which site: no more and no less.

use std::time::Duration;

use serde_json::json;
use testkit::{Daemon, Direction, EventRecorder, SaltVersion, Tree, await_that};

/// The status of a site carries its counts to the bridge, every 5 s.
const COUNTED_WITHIN: Duration = Duration::from_secs(30);

/// How many are destroyed at each hop: all different, so that one cannot stand for another.
const AT_THE_MOM: u32 = 3;
const IN_REDIS: u32 = 5;
const AT_THE_LOWER_MASTER: u32 = 2;

const SITES: [&str; 2] = ["site1", "site2"];

fn publish(above: &mut EventRecorder, tgt: &str, fun: &str, count: u32) {
    for number in 0..count {
        let published = above.publish(tgt, "glob", fun, json!([number.to_string()]));
        published.expect("the MoM publishes");
    }
}

fn counted(daemon: &Daemon, hop: &str, site: &str) -> f64 {
    let labels = [("hop", hop), ("site", site)];
    let lost = daemon.metric("saltway_publications_lost_total", &labels);
    lost.expect("/metrics").unwrap_or_default()
}

/// What a site's shim says of itself and what the bridge says of it, against what was done.
fn await_losses(tree: &Tree, expected: &[(&str, [u32; 2])]) {
    let bridge = tree.bridge.as_ref().expect("the tree has a bridge");
    for (hop, counts) in expected {
        for (site, count) in tree.sites.iter().zip(counts) {
            let shim = site.shim.as_ref().expect("the site has a shim");
            for (who, daemon) in [("shim", shim), ("bridge", bridge)] {
                let what = format!(
                    "{who}: {count} publications of {} lost at {hop}",
                    site.name()
                );
                await_that(&what, COUNTED_WITHIN, || {
                    match counted(daemon, hop, site.name()) {
                        lost if (lost - f64::from(*count)).abs() < 0.5 => Ok(()),
                        lost => Err(format!("{lost}")),
                    }
                });
            }
        }
    }
}

#[test]
fn real_losses_are_counted_exactly_at_each_hop_and_site() {
    let mut tree = Tree::with_saltway(SaltVersion::V3008)
        .site(SITES[0], SaltVersion::V3008, &["a1"])
        .site(SITES[1], SaltVersion::V3008, &["b1"])
        // No user may have the lower masters run this one.
        .site_extra("publisher_acl_blacklist: {modules: [test.arg_clean]}\n")
        .proxied(true)
        .start()
        .expect("the tree starts");
    let mut above = tree.mom.record().expect("the recorder connects");

    // A gap in the MoM's numbers shows only behind the first one.
    let first = above.publish("*", "glob", "test.ping", json!([]));
    let jid = first.expect("the MoM publishes").jid.expect("with a jid");
    above
        .wait_for_returns(&jid, 2, COUNTED_WITHIN)
        .expect("both minions return");

    // Between the MoM and the bridge: nobody subscribes, for either site.
    tree.bridge.as_mut().expect("there is one").kill();
    publish(&mut above, "*", "test.arg", AT_THE_MOM);
    tree.start_bridge().expect("the bridge starts");
    let bridge = tree.bridge.as_mut().expect("there is one");
    bridge.ready().expect("the bridge gets ready");
    // The next one shows the gap.
    publish(&mut above, "*", "test.ping", 1);
    await_losses(&tree, &[("mom", [AT_THE_MOM; 2])]);

    // In Redis: the first site is away while they come and go.
    let link = tree.sites[0].redis_link.as_ref().expect("a proxied tree");
    link.silence(Direction::Both);
    publish(&mut above, "*", "test.arg", IN_REDIS);
    let redis = tree.redis.as_ref().expect("the tree has Redis");
    let stream = "saltway:{main}:publications";
    let newest = redis
        .cli(&[
            "XREVRANGE",
            stream,
            "+",
            "-",
            "COUNT",
            &IN_REDIS.to_string(),
        ])
        .expect("redis-cli runs");
    let ids: Vec<&str> = newest
        .stdout
        .lines()
        .filter(|line| {
            line.split_once('-')
                .is_some_and(|(epoch, number)| epoch.len() == 13 && number.parse::<u64>().is_ok())
        })
        .collect();
    assert_eq!(ids.len(), IN_REDIS as usize, "{newest:?}");
    // The second site has them by now, or has not: what it has not read is lost to it as well.
    let shim = tree.sites[1].shim.as_ref().expect("the site has a shim");
    let last = ids[0].to_owned();
    await_that("the second site to have them", COUNTED_WITHIN, || {
        let position = redis.cli(&["HGETALL", "saltway:{main}:position:site2"]);
        let position = position.map_err(|err| format!("{err:#}"))?.stdout;
        match position.contains(&last) {
            true => Ok(()),
            false => Err(position),
        }
    });
    assert!(counted(shim, "redis", SITES[1]) < 0.5);
    let mut delete = vec!["XDEL", stream];
    delete.extend(&ids);
    redis.cli(&delete).expect("redis-cli runs");
    link.heal().expect("the address is still ours");

    // At the lower master: it refuses them. Only the second site is meant.
    publish(&mut above, "b*", "test.arg_clean", AT_THE_LOWER_MASTER);
    publish(&mut above, "*", "test.ping", 1);
    await_losses(
        &tree,
        &[
            ("mom", [AT_THE_MOM; 2]),
            ("redis", [IN_REDIS, 0]),
            ("site", [0, 0]),
            ("lower_master", [0, AT_THE_LOWER_MASTER]),
        ],
    );
}
