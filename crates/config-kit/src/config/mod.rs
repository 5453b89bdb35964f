//! Reads one YAML file into a daemon's configuration and collects every mistake on the way.
//!
//! [`load`] parses the file and hands its root to the daemon as a [`Section`]. Each reader
//! (`section.string("mom")`) returns a value at once; where the file holds none that fits, it notes a
//! [`Mistake`] and returns a placeholder. [`load`] gives the result away only when no mistake
//! was noted, so that later code holds only valid values.
//!
//! - A key that nobody read is a mistake: noted when its section is dropped.
//! - Files above [`FILE_BYTES_MAX`] are not read.

mod mistakes;
mod section;
#[cfg(test)]
mod tests;
mod units;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use mistakes::{Mistake, Mistakes};
pub use section::{Secret, Section};
pub use units::{parse_bytes, parse_duration};

use crate::yaml::{self, Document, Problem};

/// Largest configuration file that is read. A real one has a few KiB.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads `file` with `read`.
///
/// # Errors
/// Every mistake of the file; or the one that keeps it from being read at all.
pub fn load<C>(file: &Path, read: impl FnOnce(&Section<'_>) -> C) -> Result<C, Mistakes> {
    let document = load_document(file)?;
    let mut noted: Vec<Mistake> = document
        .problems
        .iter()
        .map(|problem| at(file, problem))
        .collect();
    let (config, found) = section::read_root(file, document.root.as_ref(), read);
    noted.extend(found);
    Mistakes::check(noted)?;
    Ok(config)
}

/// Reads and parses `file`.
///
/// # Errors
/// The mistake that keeps it from being read: missing, unreadable, too large, not UTF-8, or a
/// syntax error with its line and column.
pub fn load_document(file: &Path) -> Result<Document, Mistakes> {
    let text = read_text(file)?;
    yaml::parse(&text).map_err(|problem| at(file, &problem).into())
}

/// `problem` as a mistake in `file`.
pub fn at(file: &Path, problem: &Problem) -> Mistake {
    Mistake {
        file: file.to_owned(),
        line: Some(problem.line),
        column: Some(problem.column),
        key: problem.key.clone(),
        problem: problem.text.clone(),
        remedy: String::new(),
    }
}

fn read_text(file: &Path) -> Result<String, Mistakes> {
    let failed = |err: &std::io::Error| -> Mistakes {
        let remedy = match err.kind() {
            std::io::ErrorKind::NotFound => "create it or name another file",
            std::io::ErrorKind::PermissionDenied => "make it readable for the daemon's user",
            std::io::ErrorKind::IsADirectory => "name a file",
            _ => "",
        };
        Mistake::in_file(file, format!("cannot be read: {err}"), remedy).into()
    };
    let opened = File::open(file).map_err(|err| failed(&err))?;
    let mut bytes = Vec::new();
    opened
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|err| failed(&err))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(
            Mistake::in_file(file, "larger than 1 MiB", "name a configuration file").into(),
        );
    }
    String::from_utf8(bytes).map_err(|err| {
        let valid = err.utf8_error().valid_up_to();
        let before = err
            .as_bytes()
            .iter()
            .take(valid)
            .filter(|byte| **byte == b'\n')
            .count();
        let mistake = Mistake::in_file(file, "not UTF-8 text", "save it as UTF-8");
        Mistake {
            line: Some(before + 1),
            ..mistake
        }
        .into()
    })
}
