//! The files in `state_dir`: what is kept there, what is shed from there, and that they fail.

use std::{error::Error, path::Path};

use daemon_kit::chain;
use store::{Class, Opened, Shed, SpoolState, StoreError};
use tracing::{debug, error, info, warn};

use super::Telemetry;

impl Telemetry {
    pub(crate) fn store_opened(&self, file: &'static str, opened: &Opened) {
        match &opened.set_aside {
            None => debug!(file, records = opened.records, "opened"),
            Some(aside) => {
                self.counters.disk_errors.with_label_values(&[file]).inc();
                error!(file, reason = %aside.reason, set_aside = %aside.path.display(), salvaged = aside.salvaged,
                    lost = ?aside.lost, "the file was damaged: what could be read of it was kept");
            }
        }
    }

    pub(crate) fn disk_works(&self) {
        info!("the files in state_dir can be written again");
    }

    pub(crate) fn disk_failed(&self, operation: &'static str, err: &StoreError) {
        let file = if operation.contains("spool") {
            "spool"
        } else {
            "jobs"
        };
        self.counters.disk_errors.with_label_values(&[file]).inc();
        if let Some(suppressed) = self.counters.loss_errors.allow() {
            error!(operation, error = %chain(err), suppressed, "the files in state_dir fail; what they would hold is in memory only");
        }
    }

    pub(crate) fn spool_shed(&self, shed: &Shed) {
        let reason = shed.reason.as_str();
        self.shed(shed.class, reason, shed.entries);
        if let Some(suppressed) = self.counters.loss_errors.allow() {
            error!(
                class = shed.class.as_str(),
                entries = shed.entries,
                reason,
                suppressed,
                "lost: shed from the spool, which is at its bound"
            );
        }
    }

    pub(super) fn shed(&self, class: Class, reason: &str, entries: u64) {
        self.counters
            .shed
            .with_label_values(&[class.as_str(), reason])
            .inc_by(entries);
    }

    pub(crate) fn spool_record_undecodable(&self) {
        self.counters
            .disk_errors
            .with_label_values(&["spool"])
            .inc();
        error!("a record in the spool is of another version of Saltway, or damaged; it is dropped");
    }

    pub(crate) fn spool_state(&self, state: &SpoolState) {
        for (class, of_class) in Class::ALL.into_iter().zip(state.by_class) {
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let label = [class.as_str()];
            self.counters
                .spool_entries
                .with_label_values(&label)
                .set(gauge(of_class.entries));
            self.counters
                .spool_bytes
                .with_label_values(&label)
                .set(gauge(of_class.bytes));
        }
    }

    pub(crate) fn cursor_not_written(&self, err: &(dyn Error + 'static)) {
        self.counters
            .disk_errors
            .with_label_values(&["cursor"])
            .inc();
        error!(error = %chain(err), "a restart may find publications again that were published already");
    }

    pub(crate) fn aes_keys_not_written(&self, path: &Path, err: &(dyn Error + 'static)) {
        self.counters
            .disk_errors
            .with_label_values(&["aes_keys"])
            .inc();
        error!(path = %path.display(), error = %chain(err),
            "a restart while the MoM changes its key may leave publications that do not open");
    }

    pub(crate) fn lease_file_not_written(&self, err: &(dyn Error + 'static)) {
        warn!(error = %chain(err), "the lease's file in state_dir could not be written");
    }
}
