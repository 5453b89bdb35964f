//! Tests of the readers of the configuration.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn load_text<C>(text: &str, read: impl FnOnce(&Section<'_>) -> C) -> Result<C, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("saltway.yaml");
    fs::write(&file, text).unwrap();
    let prefix = format!("{}:", file.display());
    load(&file, read).map_err(|mistakes| mistakes.to_string().replace(&prefix, "F:"))
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn every_kind_of_value_is_read() {
    let text = "
mom: 42
ttl: 250ms
dir: /var/lib
http: {listen: '[::1]:9464'}
size: 64MiB
count: '7'
quick: yes
mode: off
one: a
many: [a, b]
";
    load_text(text, |root| {
        assert_eq!(root.string("mom"), "42");
        assert_eq!(root.duration("ttl", MINUTE), Duration::from_millis(250));
        assert_eq!(root.path("dir"), PathBuf::from("/var/lib"));
        let http = root.section("http");
        assert_eq!(http.required_socket_addr("listen"), addr("[::1]:9464"));
        assert_eq!(root.bytes("size", 0, 0..=u64::MAX), 64 << 20);
        assert_eq!(root.u64("count", 0, 1..=9), 7);
        assert!(root.bool("quick", false));
        assert_eq!(root.enumeration("mode", 1, &[("on", 1), ("off", 2)]), 2);
        assert_eq!(root.string_or_list("one"), ["a"]);
        assert_eq!(root.string_or_list("many"), ["a", "b"]);
    })
    .unwrap();
}

#[test]
fn defaults_stand_in_for_what_is_missing_or_empty() {
    load_text("ttl:\nhttp: ~\n", |root| {
        assert_eq!(root.duration("ttl", MINUTE), MINUTE);
        assert_eq!(
            root.section("http")
                .socket_addr("listen", addr("127.0.0.1:1"))
                .port(),
            1
        );
        assert_eq!(root.bytes("size", 5, 0..=9), 5);
        assert_eq!(root.string_or("name", "x"), "x");
        assert_eq!(root.optional_path("file"), None);
        assert!(root.string_or_list("many").is_empty());
        assert!(!root.has("ttl"));
    })
    .unwrap();
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = "
job_ttl: 5
redis: {ur: x}
dir: var/lib
count: 12
quick: 'yes'
mode: of
name: no
name: x
listen: localhost
stray: 1
size: 7
";
    let told = load_text(text, |root| {
        root.string("mom");
        root.duration("job_ttl", MINUTE);
        root.section("redis").string("url");
        root.path("dir");
        root.u64("count", 1, 1..=9);
        root.bool("quick", true);
        root.enumeration("mode", 1, &[("on", 1), ("off", 2)]);
        root.string("name");
        root.socket_addr("listen", addr("127.0.0.1:1"));
        root.bytes("size", 5, 0..=9);
    })
    .unwrap_err();
    let expected = [
        "F:2: mom: missing; add `mom:`",
        "F:2: job_ttl: the duration 5 has no unit; add one, as in `5s` or `5ms`",
        "F:3: redis.ur: unknown key; did you mean `url`?",
        "F:3: redis.url: missing; add `url:`",
        "F:4: dir: var/lib is not an absolute path; begin it with `/`",
        "F:5: count: 12 is out of range; choose between 1 and 9",
        "F:6: quick: expected true or false, found \"yes\"; write `true` or `false`, without quotes",
        "F:7: mode: unknown value \"of\"; did you mean `off`?",
        "F:8: name: expected text, found the boolean no; put it in quotes if it is meant",
        "F:9:1: name: given twice, first on line 8; remove one",
        "F:10: listen: not an address and port: \"localhost\"; write them as in `127.0.0.1:9464` or `[::1]:9464`",
        "F:11: stray: unknown key; remove it; known here: count, dir, job_ttl, listen, mode, mom, name, quick, redis, size",
        "F:12: size: the size 7 has no unit; add one, as in `7B` or `7MiB`",
    ];
    let mut sorted: Vec<&str> = told.lines().collect();
    let mut wanted = expected.to_vec();
    let lines = |list: &[&str]| -> Vec<u32> {
        list.iter()
            .filter_map(|l| l.split(':').nth(1)?.parse().ok())
            .collect()
    };
    assert!(lines(&sorted).is_sorted(), "{told}");
    sorted.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(sorted, wanted);
}

#[test]
fn a_section_of_another_shape_is_one_mistake() {
    let told = load_text("redis: [a]\n", |root| root.section("redis").string("url")).unwrap_err();
    assert_eq!(
        told,
        "F:1: redis: expected a dictionary, found a list; write `key: value` lines"
    );
    let told = load_text("just text\n", |root| root.string("mom")).unwrap_err();
    assert!(
        told.contains("expected a dictionary") && !told.contains('\n'),
        "{told}"
    );
}

#[test]
fn an_empty_file_lacks_what_is_required() {
    let told = load_text("# nothing\n", |root| root.section("redis").string("url")).unwrap_err();
    assert_eq!(told, "F: redis.url: missing; add `url:`");
}

#[test]
fn keys_of_another_daemon_can_be_let_pass() {
    load_text("spool: 1\n", |root| root.ignore(&["spool"])).unwrap();
}

#[test]
fn a_daemon_adds_mistakes_of_its_own() {
    let told = load_text("a: 1\nb: 2\n", |root| {
        root.ignore(&["a"]);
        root.string("b");
        root.mistake("b", "must be above `a`", "raise it");
        root.add([Mistake::in_file("/etc/salt/master", "is odd", "")]);
    })
    .unwrap_err();
    assert_eq!(
        told,
        "/etc/salt/master: is odd\nF:2: b: must be above `a`; raise it"
    );
}

#[test]
fn ranges_of_durations_and_sizes_are_checked() {
    let told = load_text("ttl: 1h\nsize: 1GiB\ncount: -1\n", |root| {
        root.duration_in("ttl", MINUTE, Duration::from_secs(1)..=MINUTE);
        root.bytes("size", 1, 1..=1024);
        root.u64("count", 1, 0..=9);
    })
    .unwrap_err();
    assert!(
        told.contains("ttl: 1h is out of range; choose between 1s and 1m"),
        "{told}"
    );
    assert!(told.contains("size: 1073741824B is out of range; choose between 1B and 1024B"));
    assert!(told.contains("count: -1 is out of range"), "{told}");
}

#[test]
fn a_secret_comes_from_its_file_and_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("password");
    fs::write(&secret, "s3cret\n").unwrap();
    let text = format!("password_file: {}\n", secret.display());
    let read = load_text(&text, |root| root.secret_file("password_file"))
        .unwrap()
        .unwrap();
    assert_eq!(read.expose(), "s3cret");
    assert!(!format!("{read:?}").contains("s3cret"));
    fs::write(&secret, "\n").unwrap();
    let told = load_text(&text, |root| root.secret_file("password_file")).unwrap_err();
    assert!(
        told.contains("password_file") && told.contains("is empty"),
        "{told}"
    );
    fs::remove_file(&secret).unwrap();
    let told = load_text(&text, |root| root.secret_file("password_file")).unwrap_err();
    assert!(told.contains("cannot be read: No such file"), "{told}");
}

#[test]
fn syntax_errors_name_file_line_and_column() {
    let told = load_text("a: 1\n b: [\n", |_| ()).unwrap_err();
    let place: Vec<&str> = told.split(':').take(3).collect();
    assert!(
        place[0] == "F" && place[1] == "2" && place[2].parse::<u32>().is_ok(),
        "{told}"
    );
}

#[test]
fn files_that_cannot_be_read_are_told_with_why() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, expected: &str| {
        let file = dir.path().join(name);
        let told = load(&file, |_| ()).unwrap_err().to_string();
        assert!(
            told.starts_with(file.to_str().unwrap()) && told.contains(expected),
            "{told}"
        );
    };
    check("missing.yaml", "No such file");
    check(".", "directory");
    fs::write(dir.path().join("large.yaml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    check("large.yaml", "larger than 1 MiB");
    fs::write(dir.path().join("latin1.yaml"), b"a: 1\nb: \xe9\n").unwrap();
    check("latin1.yaml", "yaml:2: not UTF-8");
}
