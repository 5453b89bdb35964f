use super::*;

/// What Python and Salt themselves say; written by `tests/data/make_target_tables.py`.
const TABLES: &str = include_str!("../../tests/data/target_tables.json");

fn check(tgt_type: &str, target: &str, minion_id: &str, expected: Match) {
    let found = matches(tgt_type, &Target::Text(target.to_owned()), minion_id);
    assert_eq!(found, expected, "{tgt_type} {target:?} for {minion_id:?}");
}

/// Compares with a table of Salt's answers; counts what is not judged.
fn agree(tgt_type: &str, unknown_allowed: usize) {
    let tables: serde_json::Value = serde_json::from_str(TABLES).expect("the tables are JSON");
    let rows = tables[tgt_type].as_array().expect("a table");
    assert!(rows.len() > 100, "{} rows", rows.len());
    let mut unknown = Vec::new();
    for row in rows {
        let target = match &row[0] {
            serde_json::Value::String(text) => Target::Text(text.clone()),
            list => Target::List(serde_json::from_value(list.clone()).expect("texts")),
        };
        let minion_id = row[1].as_str().expect("an id");
        let expected = Match::from(row[2].as_bool().expect("a result"));
        match matches(tgt_type, &target, minion_id) {
            Match::Unknown => unknown.push(row),
            found => assert_eq!(found, expected, "{tgt_type} {target:?} for {minion_id:?}"),
        }
    }
    assert!(unknown.len() <= unknown_allowed, "not judged: {unknown:?}");
}

#[test]
fn globs_match_as_python_s_fnmatch() {
    agree("glob", 0);
}

#[test]
fn lists_match_as_salt_s() {
    agree("list", 0);
}

#[test]
fn regular_expressions_match_as_python_s() {
    agree("pcre", 0);
}

#[test]
fn compounds_match_as_salt_s() {
    agree("compound", 0);
}

#[test]
fn what_needs_more_than_the_id_is_unknown() {
    for tgt_type in [
        "grain",
        "grain_pcre",
        "pillar",
        "pillar_exact",
        "ipcidr",
        "nodegroup",
        "range",
        "",
    ] {
        check(tgt_type, "*", "web1", Match::Unknown);
    }
    for target in [
        "G@os:Debian",
        "G|@os|Debian",
        "I@role:web",
        "S@10.0.0.0/8",
        "N@group",
        "R@%x",
        "J@a:b",
        "T@x",
        "M@x",
    ] {
        check("compound", target, "web1", Match::Unknown);
    }
}

#[test]
fn a_compound_is_certain_where_the_unknown_does_not_matter() {
    check("compound", "G@os:Debian or web*", "web1", Match::Yes);
    check("compound", "G@os:Debian and db*", "web1", Match::No);
    check(
        "compound",
        "not ( G@os:Debian and db* )",
        "web1",
        Match::Yes,
    );
    check("compound", "G@os:Debian and web*", "web1", Match::Unknown);
    check("compound", "not G@os:Debian", "web1", Match::Unknown);
    check("compound", "web1 ( a )", "web1", Match::Unknown);
    check("compound", "( )", "web1", Match::Unknown);
}

#[test]
fn a_compound_of_words_is_taken_as_it_is() {
    let words = ["web*", "and", "not", "web2"].map(str::to_owned).to_vec();
    assert_eq!(
        matches("compound", &Target::List(words), "web1"),
        Match::Yes
    );
}

#[test]
fn expressions_that_python_and_rust_may_read_differently_are_unknown() {
    for pattern in [
        "(?=web)",
        "(?<!x)web",
        "(w)\\1",
        "we++b",
        "a**",
        "a{2}{3}",
        "[[:alpha:]]",
        "[a&&b]",
        "[a--b]",
        "[a~~b]",
        "\\<web",
        "\\p{L}",
        "\\x41",
        "(?x)w e b",
        "(?s).",
        "(?<n>w)",
        "(?#c)w",
        "web(?i)1",
        "(",
        "[",
        "\\",
        "a{99999}",
        "(?u)w",
        "(((a{500}){500}){500})",
    ] {
        check("pcre", pattern, "web1", Match::Unknown);
    }
}

#[test]
fn hostile_targets_end_soon() {
    let id = "a".repeat(250);
    check("glob", &"*a".repeat(2_000), &id, Match::No);
    check("glob", &"*a".repeat(100), &id, Match::Yes);
    check("compound", &"( ".repeat(100_000), &id, Match::Unknown);
    check("compound", &"not ".repeat(100_000), &id, Match::No);
    check("pcre", &"(a|aa)+$".repeat(50), &id, Match::No);
    check("pcre", &"a".repeat(100_000), &id, Match::Unknown);
}

#[test]
fn top_master_expects_whom_it_knows_no_data_of_only_by_subnet() {
    let check = |tgt_type: &str, target: &str, expected| {
        let target = Target::Text(target.to_owned());
        let found = is_expected_without_data(tgt_type, &target, "site1");
        assert_eq!(found, expected, "{tgt_type} {target:?}");
    };
    check("grain", "os:Debian", Match::No);
    check("pillar", "role:web", Match::No);
    check("ipcidr", "10.0.0.0/8", Match::Yes);
    check("compound", "S@10.0.0.0/8 and not I@role:db", Match::Yes);
    check("compound", "S@10.0.0.0/8 and G@os:Debian", Match::No);
    check("compound", "not G@os:Debian", Match::Yes);
    check("compound", "N@group", Match::Unknown);
    check("glob", "site*", Match::Yes);
}
