//! What the MoM's own bus carries of its sites, with real Salt: who is there, who comes and goes, and that a job for nobody wakes no site.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{EventRecorder, RecordedEvent, SaltVersion, Tree, await_that};

const WITHIN: Duration = Duration::from_secs(60);

/// `kind [ids and who is up] -[removed]` of a roster event.
fn short(event: &RecordedEvent) -> String {
    let text = |key: &str| event.data[key].as_str().unwrap_or_default().to_owned();
    let (ids, up) = (text("ids"), text("up"));
    let members: Vec<String> = ids
        .lines()
        .zip(up.chars())
        .map(|(id, up)| format!("{id}{up}"))
        .collect();
    format!(
        "{} [{}] -[{}]",
        text("kind"),
        members.join(" "),
        text("removed").lines().collect::<Vec<_>>().join(" ")
    )
}

fn is_roster(event: &RecordedEvent, site: &str, expected: &str) -> bool {
    event.tag == format!("saltway/site/{site}/roster") && short(event) == expected
}

#[track_caller]
fn wait_for_roster(events: &mut EventRecorder, site: &str, expected: &str) -> RecordedEvent {
    let found = events.wait_for(1, WITHIN, |event| is_roster(event, site, expected));
    match found {
        Ok(found) => found.into_iter().next().expect("one at least"),
        Err(err) => {
            let seen = events.events().expect("the recorder runs").iter();
            let rosters = seen.filter(|event| event.tag.ends_with("/roster"));
            let rosters: Vec<String> = rosters.map(short).collect();
            panic!("{site} {expected}: {err:#}\n{rosters:#?}")
        }
    }
}

#[test]
fn real_sites_tell_the_mom_who_is_there_and_who_comes_and_goes() {
    let mut tree = Tree::with_saltway(SaltVersion::V3008)
        .site("site1", SaltVersion::V3006, &["a1", "a2"])
        .site("site2", SaltVersion::V3008, &["b1"])
        .start()
        .expect("the tree starts");
    let mut events = tree.mom.record().expect("the recorder connects");
    // A shim that was started again knows the keys, and nothing of who is up.
    for site in &mut tree.sites {
        let shim = site.shim.as_mut().expect("the site has a shim");
        shim.kill();
        shim.start().expect("started again");
        shim.ready().expect("ready");
    }
    let full = wait_for_roster(&mut events, "site1", "full [a1? a2?] -[]");
    wait_for_roster(&mut events, "site2", "full [b1?] -[]");
    assert_eq!(full.data["complete"], Value::Null, "complete");
    // As everything of a site: once as it is, once below the site's name.
    let below = |event: &RecordedEvent| event.tag == "syndic/site1/saltway/site/site1/roster";
    events.wait_for(1, WITHIN, below).expect("the second form");

    // A minion starts: up. Its key is deleted: gone.
    let minion = &mut tree.sites[0].minions[0];
    minion.terminate().expect("ended");
    minion.start().expect("started again");
    wait_for_roster(&mut events, "site1", "change [a11] -[]");
    let deleted = tree.sites[0].master.salt_key(&["-y", "-d", "a2"]);
    deleted.expect("the key is deleted");
    wait_for_roster(&mut events, "site1", "change [] -[a2]");

    // A job for nobody here reaches no lower master; one for the site's minions does.
    let unmatched = |tree: &Tree, site: usize| {
        let shim = tree.sites[site].shim.as_ref().expect("a shim");
        let count = shim.metric("saltway_publications_unmatched_total", &[]);
        count.expect("metrics").unwrap_or_default()
    };
    let before = [unmatched(&tree, 0), unmatched(&tree, 1)];
    events
        .publish("nobody*", "glob", "test.ping", json!([]))
        .expect("published");
    for (site, before) in before.into_iter().enumerate() {
        await_that("a job for nobody", WITHIN, || {
            let now = unmatched(&tree, site);
            (now >= before + 1.0).then_some(()).ok_or(now)
        });
    }
    let job = events
        .publish("b*", "glob", "test.ping", json!([]))
        .expect("published");
    let jid = job
        .jid
        .expect("a top master publishes whatever it is asked to");
    events
        .wait_for_returns(&jid, 1, WITHIN)
        .expect("the minion of the other site answers");
    await_that("the first site to have passed over it", WITHIN, || {
        let now = unmatched(&tree, 0);
        (now >= before[0] + 2.0).then_some(()).ok_or(now)
    });

    // Statuses keep coming, and name the roster as it is now.
    let digest = {
        let change = wait_for_roster(&mut events, "site1", "change [] -[a2]");
        change.data["digest"].clone()
    };
    let status = events
        .wait_for(1, WITHIN, |event| {
            event.tag == "saltway/site/site1/status" && event.data["roster"] == digest
        })
        .expect("a status");
    let status = &status[0].data;
    assert_eq!(
        (&status["minions"], &status["active"]),
        (&json!(1), &json!(true))
    );
}
