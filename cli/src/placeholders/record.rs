//! What `add` made: the public key, and which ids have it, with their sites.
//!
//! `<state_dir>/placeholders.json`, replaced whole; gone when no placeholder is left.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use daemon_kit::state_dir::{Durability, atomic_write};
use serde_json::{Value, json};

use super::key::PublicKey;
use crate::field::Field;

const FILE: &str = "placeholders.json";

/// The format that is read and written.
const VERSION: u64 = 1;

/// The record of placeholder keys.
pub(super) struct Record {
    file: PathBuf,
    key: Option<Vec<u8>>,
    ids: BTreeMap<String, String>,
}

impl Record {
    /// The record in `state_dir`; an empty one where there is none.
    pub(super) fn load(state_dir: &Path) -> anyhow::Result<Self> {
        let file = state_dir.join(FILE);
        let advice = || {
            format!(
                "{} cannot be read as a record of placeholder keys; move it away: ours are known by their content, too",
                file.display()
            )
        };
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    file,
                    key: None,
                    ids: BTreeMap::new(),
                });
            }
            Err(err) => return Err(err).with_context(advice),
        };
        let value: Value = serde_json::from_slice(&text).with_context(advice)?;
        anyhow::ensure!(
            value.count("v") == VERSION,
            "{} has format {}, of another Saltway; use that one",
            file.display(),
            value.part("v")
        );
        let ids = value.part("ids").as_object().with_context(advice)?;
        let site = |site: &Value| site.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            key: Some(value.text("public_key").as_bytes().to_vec()),
            ids: ids
                .iter()
                .map(|(id, value)| (id.clone(), site(value)))
                .collect(),
            file,
        })
    }

    /// The recorded key.
    pub(super) fn key(&self) -> Option<PublicKey> {
        PublicKey::from_pem(self.key.as_deref()?)
    }

    /// Whether `key` is the recorded one.
    pub(super) fn is_key(&self, key: &PublicKey) -> bool {
        self.key().is_some_and(|ours| ours == *key)
    }

    /// The site of `id`.
    pub(super) fn site(&self, id: &str) -> Option<&str> {
        self.ids.get(id).map(String::as_str)
    }

    /// Every recorded id, with its site.
    pub(super) fn ids(&self) -> &BTreeMap<String, String> {
        &self.ids
    }

    /// Notes that `ids` are about to get `key`.
    pub(super) fn add(&mut self, key: &PublicKey, ids: &[(String, String)]) -> anyhow::Result<()> {
        self.key = Some(key.to_pem()?);
        self.ids.extend(ids.iter().cloned());
        self.save()
    }

    /// Forgets the ids of the sites that `gone` says.
    pub(super) fn forget(&mut self, gone: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        self.ids.retain(|_, site| !gone(site));
        self.save()
    }

    fn save(&self) -> anyhow::Result<()> {
        let told = || {
            format!(
                "failed to write {}; run saltway as a user who may",
                self.file.display()
            )
        };
        if self.ids.is_empty() {
            return match fs::remove_file(&self.file) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err).with_context(told),
                _ => Ok(()),
            };
        }
        let key = String::from_utf8_lossy(self.key.as_deref().unwrap_or_default()).into_owned();
        let text = format!(
            "{:#}\n",
            json!({"v": VERSION, "public_key": key, "ids": self.ids})
        );
        if let Some(dir) = self.file.parent() {
            fs::create_dir_all(dir).with_context(told)?;
        }
        atomic_write(&self.file, text.as_bytes(), 0o600, Durability::Synced).with_context(told)
    }
}
