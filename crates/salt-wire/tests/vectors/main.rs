//! Bytes of real daemons, decoded, verified and, where they are deterministic, made again.
//!
//! One module for each subject; each lists the files that it tests.

// `cfg(test)` tells clippy, too, that these are tests.
#[cfg(test)]
mod auth;
#[cfg(test)]
mod events;
#[cfg(test)]
mod publications;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod support;

use std::collections::BTreeSet;

use support::{VERSIONS, directory};

#[test]
fn no_vector_file_is_left_untested() {
    let tested: BTreeSet<String> = [
        auth::FILES,
        events::FILES,
        publications::FILES,
        requests::FILES,
    ]
    .concat()
    .into_iter()
    .map(|name| format!("{name}.json"))
    .collect();
    let names = |path: std::path::PathBuf| -> BTreeSet<String> {
        let entries = std::fs::read_dir(path).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    for version in VERSIONS {
        assert_eq!(names(directory().join(version)), tested, "{version}");
    }
    let mut expected: BTreeSet<String> = VERSIONS.map(str::to_owned).into();
    expected.insert("README.md".to_owned());
    assert_eq!(names(directory()), expected);
}
