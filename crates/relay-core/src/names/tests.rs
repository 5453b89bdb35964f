use super::*;

#[test]
fn entries_keep_their_numbers_and_a_name_on_two_sites_has_two() {
    let mut names = Names::new(1, 100_000);
    let (a, b) = (names.number_site("a"), names.number_site("b"));
    let all: Vec<_> = (0..5_000)
        .map(|n| names.intern(a, &format!("m{n}")).unwrap())
        .collect();
    assert!(all.is_sorted() && all[0] == MinionIndex(0));
    for (n, index) in all.iter().enumerate() {
        assert_eq!(names.intern(a, &format!("m{n}")), Some(*index));
        assert_eq!(names.name(*index), Some(format!("m{n}").as_str()));
        assert_eq!(names.find(b, &format!("m{n}")), None);
    }
    let twin = names.intern(b, "m7").unwrap();
    assert!(names.is_shared(twin) && names.is_shared(all[7]) && !names.is_shared(all[8]));
    let mut both: Vec<_> = names.entries("m7").collect();
    both.sort();
    assert_eq!(both, [all[7], twin]);
    assert_eq!(names.site(twin), Some(b));
    assert_eq!(names.name(MinionIndex(9_999)), None);
}

#[test]
fn a_full_table_and_odd_names_get_no_number() {
    let mut names = Names::new(1, 2);
    let site = names.number_site("a");
    assert_eq!(names.intern(site, ""), None);
    assert_eq!(names.intern(site, "a\nb"), None);
    assert_eq!(names.intern(site, &"x".repeat(2_000)), None);
    assert!(names.intern(site, "1").is_some() && names.intern(site, "2").is_some());
    assert_eq!(names.intern(site, "3"), None);
    assert_eq!(names.intern(site, "1"), Some(MinionIndex(0)));
}

#[test]
fn a_roster_is_replaced_and_names_stay() {
    let mut names = Names::new(1, 100);
    let site = names.number_site("a");
    let of = |names: &mut Names, ids: &str| -> Vec<MinionIndex> {
        ids.split(' ')
            .map(|id| names.intern(site, id).unwrap())
            .collect()
    };
    let first = of(&mut names, "a b c");
    assert_eq!(names.replace_roster(site, &first), (3, 0));
    names.set_up(first[0], Up::Yes);
    let second = of(&mut names, "a d d");
    assert_eq!(names.replace_roster(site, &second), (1, 2));
    assert_eq!(names.up(first[0]), Up::Yes);
    let live: Vec<_> = names.live_entries().map(|(_, _, name)| name).collect();
    assert_eq!(live, ["a", "d"]);
    assert_eq!((names.live(), names.len()), (2, 4));
}
