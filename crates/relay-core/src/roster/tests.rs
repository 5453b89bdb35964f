use super::*;

fn rosters() -> Rosters {
    Rosters::new(RostersConfig::default(), 1)
}

fn digest(ids: &str) -> Digest {
    let mut ids: Vec<&str> = ids.split_whitespace().collect();
    ids.sort_unstable();
    Digest::of_sorted(ids)
}

/// A full announcement.
fn full(run: &str, number: u64, ids: &str) -> Announcement {
    Announcement {
        run: run.to_owned(),
        number,
        parts: 1,
        part: 0,
        kind: Kind::Full,
        digest: digest(ids),
        ids: ids
            .split_whitespace()
            .map(|id| (id.to_owned(), Up::Yes))
            .collect(),
        removed: Vec::new(),
        is_complete: true,
    }
}

/// The roster `before` becomes `after` by adding `added` and removing `removed`.
fn change(number: u64, before: &str, added: &str, removed: &str, after: &str) -> Announcement {
    Announcement {
        kind: Kind::Change {
            base: digest(before),
        },
        digest: digest(after),
        removed: removed.split_whitespace().map(str::to_owned).collect(),
        ..full("r", number, added)
    }
}

fn changed(added: usize, removed: usize, is_first: bool) -> Announced {
    Announced::Changed {
        added,
        removed,
        is_first,
    }
}

fn stale(reason: Stale) -> Announced {
    Announced::Stale { reason }
}

fn ids(rosters: &Rosters, site: &str) -> String {
    let mut ids: Vec<&str> = rosters.ids(site).map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids.join(" ")
}

#[test]
fn the_digest_is_that_of_the_shims() {
    assert_eq!(digest("a1 a2 b1").to_string(), "3f57ef1ac4751a13");
    assert_eq!(digest("").to_string(), "e3b0c44298fc1c14");
    assert_eq!(Digest::parse("3f57ef1ac4751a13"), Some(digest("a1 a2 b1")));
    for wrong in [
        "",
        "3f57ef1ac4751a1",
        "3f57ef1ac4751a1g",
        "+f57ef1ac4751a13",
    ] {
        assert_eq!(Digest::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn announcements_are_taken_in_their_order_and_once() {
    let mut rosters = rosters();
    let steps = [
        (full("r", 1, "a b c"), changed(3, 0, true), "a b c"),
        (full("r", 1, "a b c"), Announced::Unchanged, "a b c"),
        (full("r", 2, "a b d"), changed(1, 1, false), "a b d"),
        (full("r", 1, "a b c"), stale(Stale::Older), "a b d"),
        (full("r", 3, "d a b"), Announced::Unchanged, "a b d"),
        (
            change(4, "a b d", "e", "a", "b d e"),
            changed(1, 1, false),
            "b d e",
        ),
        (
            change(5, "a b d", "f", "", "a b d f"),
            stale(Stale::Base),
            "b d e",
        ),
        (
            change(5, "b d e", "f", "", "b d f"),
            stale(Stale::Digest),
            "b d e",
        ),
        (
            change(5, "b d e", "b", "", "b d e"),
            Announced::Unchanged,
            "b d e",
        ),
        // Another process counts anew.
        (full("s", 1, "x"), changed(1, 3, false), "x"),
        (full("s", 2, ""), changed(0, 1, false), ""),
    ];
    for (at, (announcement, expected, left)) in steps.into_iter().enumerate() {
        assert_eq!(rosters.announce("s1", &announcement), expected, "step {at}");
        assert_eq!(ids(&rosters, "s1"), left, "step {at}");
        assert_eq!(rosters.digest("s1"), Some(digest(left)), "step {at}");
        assert_eq!(rosters.count("s1"), left.split_whitespace().count());
    }
    let mut wrong = full("s", 3, "a b");
    wrong.digest = digest("a");
    assert_eq!(rosters.announce("s1", &wrong), stale(Stale::Digest));
    assert_eq!(
        rosters.announce("s2", &change(1, "", "a", "", "a")),
        stale(Stale::Base)
    );
    assert!(!rosters.is_site("s2"));
}

fn parts(number: u64, texts: &[&str]) -> Vec<Announcement> {
    let all = texts.join(" ");
    let count = u32::try_from(texts.len()).unwrap();
    (0..count)
        .zip(texts)
        .map(|(part, ids)| Announcement {
            parts: count,
            part,
            digest: digest(&all),
            ..full("r", number, ids)
        })
        .collect()
}

#[test]
fn a_roster_of_several_parts_counts_when_all_are_there() {
    let mut rosters = rosters();
    let old = parts(1, &["a", "b"]);
    let new = parts(2, &["a", "c", "d"]);
    assert_eq!(rosters.announce("s1", &old[0]), Announced::Waiting);
    assert_eq!(rosters.announce("s1", &new[2]), Announced::Waiting);
    assert_eq!(rosters.announce("s1", &new[2]), Announced::Waiting);
    // A part of an announcement that a later one has replaced.
    assert_eq!(rosters.announce("s1", &old[1]), stale(Stale::Older));
    assert_eq!(rosters.announce("s1", &new[0]), Announced::Waiting);
    assert!(!rosters.is_site("s1"));
    assert_eq!(rosters.announce("s1", &new[1]), changed(3, 0, true));
    assert_eq!(ids(&rosters, "s1"), "a c d");
    for (part, parts) in [(3, 3), (0, 0), (0, 5_000)] {
        let odd = Announcement {
            part,
            parts,
            ..full("r", 9, "a")
        };
        assert_eq!(rosters.announce("s1", &odd), stale(Stale::Malformed));
    }
}

#[test]
fn bounds_are_refused_and_leave_what_is_known() {
    let config = RostersConfig {
        sites_max: 2,
        ids_max: 4,
        parts_bytes_max: 100,
        former_max: 1_000,
    };
    let mut rosters = Rosters::new(config, 1);
    assert_eq!(
        rosters.announce("s1", &full("r", 1, "a b")),
        changed(2, 0, true)
    );
    assert_eq!(
        rosters.announce("s2", &full("r", 1, "c")),
        changed(1, 0, true)
    );
    assert_eq!(
        rosters.announce("s3", &full("r", 1, "d")),
        stale(Stale::TooLarge)
    );
    assert_eq!(
        rosters.announce("s2", &full("r", 2, "c d e")),
        stale(Stale::TooLarge)
    );
    assert_eq!(ids(&rosters, "s2"), "c");
    let long = "x".repeat(60);
    let parts = parts(3, &["a", &long, "b"]);
    assert_eq!(rosters.announce("s1", &parts[0]), Announced::Waiting);
    assert_eq!(rosters.announce("s1", &parts[1]), stale(Stale::TooLarge));
    assert_eq!(ids(&rosters, "s1"), "a b");
}

#[test]
fn connections_follow_and_are_forgotten_with_the_minion() {
    let mut rosters = rosters();
    let mut first = full("r", 1, "a b");
    first.ids[1].1 = Up::No;
    rosters.announce("s1", &first);
    let up = |rosters: &Rosters| -> Vec<Up> { rosters.ids("s1").map(|(_, up)| up).collect() };
    assert_eq!(up(&rosters), [Up::Yes, Up::No]);
    assert_eq!(
        rosters.announce("s1", &change(2, "a b", "b", "", "a b")),
        Announced::Unchanged
    );
    assert_eq!(up(&rosters), [Up::Yes, Up::Yes]);
    assert_eq!(
        rosters.announce("s2", &full("r", 1, "b")),
        changed(1, 0, true)
    );
    let mut sites: Vec<&str> = rosters.site_of("b").collect();
    sites.sort_unstable();
    assert_eq!(sites, ["s1", "s2"]);
    assert!(rosters.forget("s1") && !rosters.forget("s1"));
    assert_eq!(rosters.site_of("b").collect::<Vec<_>>(), ["s2"]);
}

#[test]
fn a_table_full_of_former_minions_is_left() {
    let config = RostersConfig {
        former_max: 10,
        ..RostersConfig::default()
    };
    let mut rosters = Rosters::new(config, 7);
    let all = |from: u32| {
        (from..from + 80)
            .map(|n| format!("m{n} "))
            .collect::<String>()
    };
    rosters.announce("s1", &full("r", 1, &all(0)));
    rosters.announce("s2", &full("r", 1, "m1 x"));
    rosters.announce("s1", &full("r", 2, &all(15)));
    assert!(rosters.compact_if_due().is_none());
    rosters.announce("s1", &full("r", 3, &all(30)));
    let before = ids(&rosters, "s1");
    let former = rosters.compact_if_due().unwrap();
    assert_eq!((former.table(), rosters.names().table()), (7, 8));
    assert_eq!((rosters.names().len(), rosters.names().live()), (82, 82));
    assert_eq!(ids(&rosters, "s1"), before);
    assert_eq!(ids(&rosters, "s2"), "m1 x");
    assert_eq!(rosters.ids("s2").next(), Some(("m1", Up::Yes)));
    assert!(rosters.compact_if_due().is_none());
}

#[test]
fn rosters_and_names_come_back_from_the_disk() {
    let mut rosters = rosters();
    rosters.announce("s1", &full("r", 1, "a b c"));
    rosters.announce("s2", &full("q", 4, "b d"));
    rosters.announce("s1", &full("r", 2, "a c e"));
    let names = rosters.names();
    let parts = [
        names.part_to_bytes(MinionIndex(0), 4),
        names.part_to_bytes(MinionIndex(4), 100),
    ];
    let sites = rosters.take_unsaved();
    assert!(!rosters.has_unsaved() && sites.len() == 2);
    let back = Names::from_parts(1, parts.iter().map(Vec::as_slice)).unwrap();
    let mut back = Rosters::with_names(RostersConfig::default(), back);
    for (_, bytes) in &sites {
        back.restore(bytes).unwrap();
        for length in 0..bytes.len() {
            assert!(back.restore(&bytes[..length]).is_err(), "cut at {length}");
        }
    }
    for site in ["s1", "s2"] {
        assert_eq!(ids(&back, site), ids(&rosters, site));
        assert_eq!(back.digest(site), rosters.digest(site));
    }
    assert_eq!(
        back.announce("s1", &full("r", 2, "a c e")),
        Announced::Unchanged
    );
    assert_eq!(back.announce("s1", &full("r", 1, "a")), stale(Stale::Older));
    // The second part without the first.
    let gap = Names::from_parts(1, [parts[1].as_slice()]);
    assert_eq!(gap.unwrap_err(), RosterError::Gap { table: 1, first: 4 });
    let none = Names::from_parts(1, [&b"nonsense"[..]]);
    assert_eq!(none.unwrap_err(), RosterError::Format);
    let mut empty = Rosters::with_names(RostersConfig::default(), Names::new(1, 9));
    assert!(matches!(
        empty.restore(&sites[0].1),
        Err(RosterError::Table { .. })
    ));
}

#[test]
fn expected_are_those_that_the_target_means_each_once() {
    use crate::{expect::expect, target::Target};
    let mut rosters = rosters();
    rosters.announce("s2", &full("r", 1, "b1 b2 both"));
    rosters.announce("s1", &full("r", 1, "a1 a2 both"));
    rosters.announce("s3", &full("r", 1, ""));
    let mut partly = full("r", 1, "c1");
    partly.is_complete = false;
    rosters.announce("s4", &partly);
    let check = |tgt_type: &str, tgt: &str, wanted: &str| {
        let all = expect(tgt_type, &Target::Text(tgt.to_owned()), &rosters);
        let told: Vec<String> = all
            .iter()
            .map(|of_site| {
                let names = of_site
                    .minions
                    .iter()
                    .map(|index| rosters.names().name(*index).unwrap());
                let mut names: Vec<&str> = names.collect();
                names.sort_unstable();
                let ask = if of_site.ask { "?" } else { "" };
                format!("{}{ask}={}", of_site.site, names.join(","))
            })
            .collect();
        assert_eq!(told.join(" "), wanted, "{tgt_type} {tgt}");
    };
    check("glob", "*", "s1=a1,a2,both s2=b1,b2 s4?=c1");
    check("glob", "b*", "s1=both s2=b1,b2 s4?=");
    check("list", "b1,both,x", "s1=both s2=b1 s4?=");
    check("pcre", "[ab]1", "s1=a1 s2=b1 s4?=");
    check("compound", "a* or L@b1,b2", "s1=a1,a2 s2=b1,b2 s4?=");
    check("compound", "a* or ( b* and G@os:x )", "s1?=a1,a2 s2?= s4?=");
    check("grain", "os:Debian", "s1?= s2?= s4?=");
    check("nodegroup", "x", "s1?= s2?= s4?=");
    check("glob", "nobody", "s4?=");
}
