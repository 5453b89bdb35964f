//! Whether the files in `state_dir` can be read and written: the readiness condition and the telemetry of both stores.

use daemon_kit::http::Condition;
use store::StoreError;

use crate::telemetry::Telemetry;

/// Hears of every operation on disk; cheap to clone.
#[derive(Clone)]
pub(crate) struct Disk {
    condition: std::sync::Arc<Condition>,
    telemetry: Telemetry,
}

impl Disk {
    /// `condition` fails while operations fail.
    pub(crate) fn new(condition: Condition, telemetry: Telemetry) -> Self {
        condition.holds();
        Self {
            condition: std::sync::Arc::new(condition),
            telemetry,
        }
    }

    /// The result of an operation that writes, or nothing after an error, which is counted and logged.
    pub(crate) fn written<T>(
        &self,
        operation: &'static str,
        result: Result<T, StoreError>,
    ) -> Option<T> {
        let value = self.read(operation, result)?;
        // A full disk still lets one read.
        if self.condition.holds() {
            self.telemetry.disk_works();
        }
        Some(value)
    }

    /// The result of an operation that reads, or nothing after an error, which is counted and logged.
    pub(crate) fn read<T>(
        &self,
        operation: &'static str,
        result: Result<T, StoreError>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(err) => {
                self.condition.fails(daemon_kit::chain(&err));
                self.telemetry.disk_failed(operation, &err);
                None
            }
        }
    }
}
