//! What a server says of itself: the answer to `INFO`.

use redis::Value;

use crate::value;

/// The lines of `INFO`, `name:value`.
#[derive(Debug, Default)]
pub(crate) struct Info(String);

impl Info {
    pub(crate) fn new(reply: Value) -> Self {
        Self(value::text(reply).unwrap_or_default())
    }

    /// The value of a field; empty when the server does not tell.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
            .trim()
    }

    pub(crate) fn is_replica(&self) -> bool {
        self.field("role") == "slave"
    }

    /// Names this run of this server as a primary: another after a restart, and another after it
    /// was a replica meanwhile (its `master_replid` changes with every promotion).
    pub(crate) fn run(&self) -> Option<String> {
        let (run, replication) = (self.field("run_id"), self.field("master_replid"));
        let fits = |id: &str| id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (!run.is_empty() && fits(run) && fits(replication)).then(|| format!("{run}:{replication}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> Info {
        Info::new(Value::BulkString(text.as_bytes().to_vec()))
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let info = info("# Server\r\nrun_id:ab\r\nrole:slave\r\nmaster_replid:cd\r\n");
        assert_eq!(info.field("role"), "slave");
        assert_eq!(info.field("rol"), "");
        assert!(info.is_replica());
        assert_eq!(info.run().as_deref(), Some("ab:cd"));
    }

    #[test]
    fn a_run_is_named_only_by_what_a_server_would_say() {
        assert_eq!(info("").run(), None);
        assert_eq!(info("run_id:a b").run(), None);
        assert_eq!(info(&format!("run_id:{}", "a".repeat(65))).run(), None);
        assert_eq!(info("run_id:ab").run().as_deref(), Some("ab:"));
    }
}
