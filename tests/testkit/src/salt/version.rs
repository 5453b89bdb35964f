//! The Salt versions and where `scripts/setup` put them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};

/// The pins, as the shell scripts read them too.
const PINS: &str = include_str!("../../../../versions.env");

/// A branch of Salt; `versions.env` says which release of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum SaltVersion {
    /// 3006 LTS.
    V3006,
    /// 3007 STS.
    V3007,
    /// 3008 LTS.
    V3008,
}

impl SaltVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 3] = [Self::V3006, Self::V3007, Self::V3008];

    /// The branch's number, as in file names: `3008`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::V3006 => "3006",
            Self::V3007 => "3007",
            Self::V3008 => "3008",
        }
    }

    /// The pinned release, `3008.3`.
    ///
    /// # Panics
    /// When `versions.env` does not name it, which is a mistake in this repository.
    #[must_use]
    pub fn release(self) -> &'static str {
        let name = format!("SALT_{}=", self.key());
        PINS.lines()
            .find_map(|line| line.strip_prefix(&name))
            .expect("versions.env pins every version")
    }

    /// The virtual environment, `<project>/.venv/salt-<key>`.
    #[must_use]
    pub fn venv(self) -> PathBuf {
        project_dir()
            .join(".venv")
            .join(format!("salt-{}", self.key()))
    }

    /// The path of a program of this version (`salt-master`, `salt`, `python`).
    ///
    /// # Errors
    /// When it is not installed; the error says how to install it.
    pub fn program(self, name: &str) -> Result<PathBuf> {
        let path = self.venv().join("bin").join(name);
        if !path.exists() {
            bail!(
                "{} is missing; run `scripts/setup {}` first",
                path.display(),
                self.key()
            );
        }
        Ok(path)
    }

    /// Whether `scripts/setup` has installed it.
    #[must_use]
    pub fn is_installed(self) -> bool {
        self.venv().join(".stamp").exists()
    }
}

impl fmt::Display for SaltVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.release())
    }
}

impl FromStr for SaltVersion {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL
            .into_iter()
            .find(|version| version.key() == text || version.release() == text)
        {
            Some(version) => Ok(version),
            None => bail!("there is no Salt {text} here; known are 3006, 3007 and 3008"),
        }
    }
}

/// The top of the work tree.
pub(crate) fn project_dir() -> &'static Path {
    // This crate is built in the tree that it tests: <project>/tests/testkit.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("/"))
}
