use std::sync::Arc;

use salt_wire::saltway::{Presence, RosterDigest};

use super::{super::parts::PART_BYTES_MAX, *};

type Minions = std::collections::BTreeMap<Arc<str>, Presence>;

fn snapshot(minions: &[(&str, Presence)]) -> Snapshot {
    let minions: Minions = minions
        .iter()
        .map(|(id, presence)| (Arc::from(*id), *presence))
        .collect();
    of(minions)
}

fn of(minions: Minions) -> Snapshot {
    Snapshot {
        digest: RosterDigest::of_sorted(minions.keys().map(AsRef::as_ref)),
        minions: Arc::new(minions),
        complete: true,
    }
}

fn many(count: usize) -> Snapshot {
    let ids = (0..count).map(|number| format!("minion-{number:06}.example.net"));
    of(ids.map(|id| (id.into(), Presence::Unknown)).collect())
}

const UP: Presence = Presence::Up;
const UNKNOWN: Presence = Presence::Unknown;

const FIRST: Version = Version {
    members: 1,
    presence: 0,
};

/// What a part says, in short.
fn short(part: Option<&Roster>) -> String {
    let Some(part) = part else {
        return "nothing".to_owned();
    };
    let ids: Vec<String> = part
        .members
        .iter()
        .map(|(id, presence)| format!("{id}{}", presence.as_char()))
        .collect();
    let gone: Vec<&str> = part.removed.iter().collect();
    let kind = match part.kind {
        RosterKind::Full => "full",
        RosterKind::Change { .. } => "change",
    };
    let (number, ids, gone) = (part.number, ids.join(" "), gone.join(" "));
    format!("{number} {kind} [{ids}] -[{gone}]")
}

/// An agenda and the roster that it tells of.
struct Rig {
    agenda: Agenda,
    version: Version,
    snapshot: Snapshot,
}

impl Rig {
    fn new(snapshot: Snapshot) -> Self {
        let site = "site1".parse().expect("an id");
        Self {
            agenda: Agenda::new(site, "run".to_owned(), Instant::now()),
            version: FIRST,
            snapshot,
        }
    }

    fn part(&mut self) -> Option<Roster> {
        let snapshot = self.snapshot.clone();
        self.agenda.part(Instant::now(), self.version, || snapshot)
    }

    #[track_caller]
    fn tells(&mut self, expected: &str) {
        assert_eq!(short(self.part().as_ref()), expected);
    }

    /// Everything that is to be told is told and answered.
    #[track_caller]
    fn settle(&mut self, expected: &str) {
        self.tells(expected);
        self.agenda.answered();
        self.tells("nothing");
    }

    fn members(&mut self, snapshot: Snapshot) {
        self.snapshot = snapshot;
        self.version.members += 1;
    }

    fn presence(&mut self, snapshot: Snapshot) {
        self.snapshot = snapshot;
        self.version.presence += 1;
    }
}

async fn seconds(count: u64) {
    tokio::time::advance(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn whole_roster_comes_first_and_changes_are_relative_to_what_was_answered() {
    let mut rig = Rig::new(snapshot(&[("a1", UNKNOWN), ("a2", UNKNOWN)]));
    let before = rig.snapshot.digest;
    rig.tells("1 full [a1? a2?] -[]");
    // Not answered: the same again, although the roster is another one by now.
    rig.members(snapshot(&[("a2", UNKNOWN), ("a3", UP)]));
    rig.tells("1 full [a1? a2?] -[]");
    rig.agenda.answered();
    let part = rig.part().expect("a change");
    assert_eq!(short(Some(&part)), "2 change [a31] -[a1]");
    assert_eq!(part.kind, RosterKind::Change { base: before });
    assert_eq!(part.digest, rig.snapshot.digest);
    rig.agenda.answered();
    rig.tells("nothing");
}

#[tokio::test(start_paused = true)]
async fn who_is_up_is_told_together_after_a_moment() {
    let mut rig = Rig::new(snapshot(&[("a1", UNKNOWN), ("a2", UNKNOWN)]));
    rig.settle("1 full [a1? a2?] -[]");
    rig.presence(snapshot(&[("a1", UP), ("a2", UNKNOWN)]));
    rig.tells("nothing");
    rig.presence(snapshot(&[("a1", UP), ("a2", UP)]));
    let due = rig.agenda.next(rig.version);
    assert_eq!(due, Instant::now() + PRESENCE_INTERVAL);
    seconds(1).await;
    rig.settle("2 change [a11 a21] -[]");
}

#[tokio::test(start_paused = true)]
async fn a_key_is_told_at_once() {
    let mut rig = Rig::new(snapshot(&[("a1", UNKNOWN)]));
    rig.settle("1 full [a1?] -[]");
    rig.members(snapshot(&[("a1", UNKNOWN), ("a2", UNKNOWN)]));
    rig.settle("2 change [a2?] -[]");
}

#[tokio::test(start_paused = true)]
async fn a_new_bridge_is_told_everything_at_once_and_once_more() {
    let mut rig = Rig::new(snapshot(&[("a1", UNKNOWN)]));
    rig.settle("1 full [a1?] -[]");
    seconds(60).await;
    let heard = Heard {
        up: true,
        returns: 0,
        births: 1,
    };
    rig.agenda.heard(heard, Instant::now());
    rig.settle("2 full [a1?] -[]");
    seconds(14).await;
    rig.tells("nothing");
    seconds(1).await;
    rig.settle("3 full [a1?] -[]");
    seconds(599).await;
    rig.tells("nothing");
    seconds(1).await;
    rig.settle("4 full [a1?] -[]");
}

#[tokio::test(start_paused = true)]
async fn bridges_that_are_made_up_cost_one_roster_in_two_seconds() {
    let mut rig = Rig::new(snapshot(&[("a1", UNKNOWN)]));
    let mut announcements = 0;
    for births in 1..=100 {
        let heard = Heard {
            up: true,
            returns: 0,
            births,
        };
        rig.agenda.heard(heard, Instant::now());
        if rig.part().is_some() {
            announcements += 1;
            rig.agenda.answered();
        }
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert_eq!(announcements, 5);
}

#[tokio::test(start_paused = true)]
async fn after_an_interruption_and_as_a_new_active_shim_everything_is_told() {
    let mut rig = Rig::new(snapshot(&[("a1", UNKNOWN)]));
    rig.settle("1 full [a1?] -[]");
    seconds(60).await;
    let heard = Heard {
        up: true,
        returns: 1,
        births: 0,
    };
    rig.agenda.heard(heard, Instant::now());
    rig.settle("2 full [a1?] -[]");
    rig.agenda.forget();
    rig.settle("3 full [a1?] -[]");
}

#[tokio::test(start_paused = true)]
async fn fifty_thousand_minions_go_in_parts_that_salt_does_not_cut() {
    let mut rig = Rig::new(many(50_000));
    let mut parts = Vec::new();
    while let Some(part) = rig.part() {
        parts.push(part);
        rig.agenda.answered();
    }
    let count = parts.len();
    assert!((2..=8).contains(&count), "{count} parts");
    let mut ids = 0;
    for (place, part) in parts.iter().enumerate() {
        assert_eq!((part.number, part.kind), (1, RosterKind::Full));
        assert_eq!(usize::try_from(part.part), Ok(place));
        assert_eq!(usize::try_from(part.parts), Ok(count));
        assert_eq!(part.digest, rig.snapshot.digest);
        assert!(part.members.ids().as_text().len() <= PART_BYTES_MAX);
        ids += part.members.len();
    }
    assert_eq!(ids, 50_000);
    // So do changes that do not fit one event; smaller ones go as such.
    rig.members(many(49_999));
    rig.settle("2 change [] -[minion-049999.example.net]");
    rig.members(many(0));
    rig.settle("3 full [] -[]");
}

#[tokio::test(start_paused = true)]
async fn whole_roster_that_is_interrupted_begins_anew_under_another_number() {
    let mut rig = Rig::new(many(50_000));
    assert_eq!(
        rig.part().map(|part| (part.number, part.part)),
        Some((1, 0))
    );
    rig.agenda.answered();
    assert_eq!(
        rig.part().map(|part| (part.number, part.part)),
        Some((1, 1))
    );
    seconds(5).await;
    rig.agenda.tell_all(Instant::now());
    assert_eq!(
        rig.part().map(|part| (part.number, part.part)),
        Some((2, 0))
    );
}

#[tokio::test(start_paused = true)]
async fn roster_that_is_no_longer_complete_is_told_whole() {
    let mut rig = Rig::new(snapshot(&[("a1", UNKNOWN)]));
    rig.settle("1 full [a1?] -[]");
    rig.snapshot.complete = false;
    rig.version.members += 1;
    let part = rig.part().expect("a part");
    assert_eq!((part.kind, part.complete), (RosterKind::Full, false));
}
