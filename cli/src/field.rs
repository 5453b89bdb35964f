//! Reads fields of the bridge's JSON: what is missing or has another shape is empty, not an error.
//!
//! A newer bridge may say more, an older one less; neither keeps the rest from being shown.

use serde_json::Value;

/// Reads fields by name.
pub(crate) trait Field {
    /// Text, or nothing.
    fn text(&self, key: &str) -> &str;
    /// A whole number, or 0.
    fn count(&self, key: &str) -> u64;
    /// A number, if there is one.
    fn number(&self, key: &str) -> Option<f64>;
    /// Whether it is `true`.
    fn flag(&self, key: &str) -> bool;
    /// A list, or an empty one.
    fn list(&self, key: &str) -> &[Value];
    /// What stands there, or `null`.
    fn part(&self, key: &str) -> &Value;
}

impl Field for Value {
    fn text(&self, key: &str) -> &str {
        self.part(key).as_str().unwrap_or_default()
    }

    fn count(&self, key: &str) -> u64 {
        self.part(key).as_u64().unwrap_or_default()
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.part(key).as_f64()
    }

    fn flag(&self, key: &str) -> bool {
        self.part(key).as_bool().unwrap_or_default()
    }

    fn list(&self, key: &str) -> &[Value] {
        self.part(key).as_array().map_or(&[], Vec::as_slice)
    }

    fn part(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&Self::Null)
    }
}
