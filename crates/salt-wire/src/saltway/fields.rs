//! Looks into the map of an event, key by key.

use crate::{ids::MinionId, msgpack::Value};

use super::{SaltwayError, VERSION};

/// Longest name of a run or a release.
const WORD_BYTES_MAX: usize = 64;

/// The map of an event whose version has been looked at, and its site if it is a site's.
pub(super) struct Fields<'a>(&'a Value);

impl<'a> Fields<'a> {
    /// Checks what all events of sites share.
    pub(super) fn open(data: &'a Value, site: &MinionId) -> Result<Self, SaltwayError> {
        let fields = Self::versioned(data)?;
        if data.get_str("site") != Some(site.as_str()) {
            return Err(SaltwayError::OtherSite);
        }
        Ok(fields)
    }

    /// Checks what all events share.
    pub(super) fn versioned(data: &'a Value) -> Result<Self, SaltwayError> {
        if data.as_map().is_none() {
            return Err(SaltwayError::NoMap);
        }
        match data.get("v") {
            Some(Value::Int(VERSION)) => {}
            // A number, or nothing that deserves to be repeated in a log.
            Some(Value::Int(other)) => {
                let found = other.to_string();
                return Err(SaltwayError::Version { found });
            }
            other => {
                let found = if other.is_some() { "?" } else { "none" };
                return Err(SaltwayError::Version {
                    found: found.to_owned(),
                });
            }
        }
        Ok(Self(data))
    }

    /// The value itself.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name)
    }

    pub(super) fn text(&self, name: &'static str) -> Result<&'a str, SaltwayError> {
        let text = self.get(name).and_then(Value::as_str);
        text.ok_or_else(|| key(name, "no text"))
    }

    /// A text that fits a log line.
    pub(super) fn word(&self, name: &'static str) -> Result<String, SaltwayError> {
        let text = self.text(name)?;
        if text.len() > WORD_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(key(name, "no short text on one line"));
        }
        Ok(text.to_owned())
    }

    pub(super) fn number(&self, name: &'static str) -> Result<u64, SaltwayError> {
        let number = self.get(name).and_then(Value::as_u64);
        number.ok_or_else(|| key(name, "no whole number"))
    }

    pub(super) fn small(&self, name: &'static str) -> Result<u32, SaltwayError> {
        u32::try_from(self.number(name)?).map_err(|_| key(name, "too large"))
    }

    /// A time span: finite and not negative.
    pub(super) fn seconds(&self, name: &'static str) -> Result<f64, SaltwayError> {
        let seconds = match self.get(name) {
            Some(Value::Float64(seconds)) => Some(*seconds),
            Some(Value::Int(seconds)) => i32::try_from(*seconds).ok().map(f64::from),
            _ => None,
        };
        let seconds = seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
        seconds.ok_or_else(|| key(name, "no number of seconds"))
    }

    /// A flag, which counts as `default` where it is missing.
    pub(super) fn flag(&self, name: &'static str, default: bool) -> Result<bool, SaltwayError> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| key(name, "neither true nor false")),
        }
    }
}

pub(super) fn key(name: &'static str, problem: &'static str) -> SaltwayError {
    SaltwayError::Key { name, problem }
}
