//! The job inside a publication.

use crate::ids::{IdError, Jid};
use crate::msgpack::Value;

/// Fields of a load that Salt 3006 to 3008 are known to write. What is not in here is carried on,
/// but cannot be handed to a lower master, whose `publish` builds its own load from known fields.
const KNOWN_FIELDS: &[&str] = &[
    "fun",
    "arg",
    "tgt",
    "jid",
    "ret",
    "tgt_type",
    "user",
    "master_id",
    "to",
    "auth_list",
    "delimiter",
    "metadata",
    "ret_config",
    "ret_kwargs",
    "module_executors",
    "executor_opts",
    "start_event",
    "id",
    "serial",
];

/// Why a decrypted load is no job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Not a map at all.
    #[error("it is no map")]
    NotMap,
    /// A field that every job has is missing or of the wrong kind.
    #[error("it has no usable {field:?}")]
    Field {
        /// Its name.
        field: &'static str,
    },
    /// The jid cannot stand in a tag or file name.
    #[error("its jid cannot be used")]
    Jid(#[source] IdError),
}

/// A job as the master published it: all of its fields, the common ones by name.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicationLoad {
    fields: Value,
    jid: Jid,
}

impl PublicationLoad {
    /// Checks what every job has: `jid`, `fun` and `tgt`.
    ///
    /// # Errors
    /// If one of them is missing.
    pub fn new(fields: Value) -> Result<Self, LoadError> {
        if fields.as_map().is_none() {
            return Err(LoadError::NotMap);
        }
        let field = |name| fields.get(name).ok_or(LoadError::Field { field: name });
        let jid = field("jid")?
            .as_str()
            .ok_or(LoadError::Field { field: "jid" })?;
        let jid = Jid::parse(jid).map_err(LoadError::Jid)?;
        let is_fun = match field("fun")? {
            Value::Array(functions) => functions.iter().all(|fun| fun.as_str().is_some()),
            fun => fun.as_str().is_some(),
        };
        if !is_fun {
            return Err(LoadError::Field { field: "fun" });
        }
        if field("tgt")?.is_nil() {
            return Err(LoadError::Field { field: "tgt" });
        }
        Ok(Self { fields, jid })
    }

    /// The whole load, fields unknown here included.
    pub fn fields(&self) -> &Value {
        &self.fields
    }

    /// The job id.
    pub fn jid(&self) -> &Jid {
        &self.jid
    }

    /// The function, or an array of them.
    pub fn fun(&self) -> &Value {
        self.field("fun")
    }

    /// The functions by name: one, or several for a multi-function job.
    pub fn functions(&self) -> Vec<&str> {
        match self.fun() {
            Value::Array(functions) => functions.iter().filter_map(Value::as_str).collect(),
            fun => fun.as_str().into_iter().collect(),
        }
    }

    /// The arguments: an array, or an array of arrays for a multi-function job.
    pub fn arg(&self) -> &Value {
        self.field("arg")
    }

    /// The target: text, or an array of ids.
    pub fn tgt(&self) -> &Value {
        self.field("tgt")
    }

    /// How `tgt` is meant; glob unless said otherwise.
    pub fn tgt_type(&self) -> &str {
        self.fields.get_str("tgt_type").unwrap_or("glob")
    }

    /// Between the parts of a grain or pillar target; `:` unless said otherwise.
    pub fn delimiter(&self) -> &str {
        self.fields.get_str("delimiter").unwrap_or(":")
    }

    /// Returners, separated by commas.
    pub fn ret(&self) -> &str {
        self.fields.get_str("ret").unwrap_or("")
    }

    /// Who gave the command.
    pub fn user(&self) -> Option<&str> {
        self.fields.get_str("user")
    }

    /// The master that the job began at, for loop prevention.
    pub fn master_id(&self) -> Option<&str> {
        self.fields.get_str("master_id")
    }

    /// Seconds that the commanding side waits.
    pub fn to(&self) -> Option<i64> {
        self.fields.get("to").and_then(Value::as_i64)
    }

    /// What `user` may do; present if the master has `order_masters: True`, empty for no limit.
    pub fn auth_list(&self) -> Option<&Value> {
        self.fields.get("auth_list")
    }

    /// Whatever the publisher attached.
    pub fn metadata(&self) -> Option<&Value> {
        self.fields.get("metadata")
    }

    /// Consecutive per AES key, from 1; absent on clustered masters.
    pub fn serial(&self) -> Option<u64> {
        self.fields.get("serial").and_then(Value::as_u64)
    }

    /// Names of fields that no known release writes, for counting and logging.
    pub fn unknown_fields(&self) -> Vec<&str> {
        let names = self.fields.as_map().unwrap_or_default().iter();
        names
            .filter_map(|(name, _)| name.as_str())
            .filter(|n| !KNOWN_FIELDS.contains(n))
            .collect()
    }

    fn field(&self, name: &str) -> &Value {
        self.fields.get(name).unwrap_or(&Value::Nil)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(change: impl FnOnce(&mut Value)) -> Result<PublicationLoad, LoadError> {
        let fields = [
            ("fun", "test.ping"),
            ("tgt", "*"),
            ("jid", "20261120175418824928"),
        ];
        let mut fields = Value::map(fields.map(|(name, text)| (name, Value::from(text))));
        change(&mut fields);
        PublicationLoad::new(fields)
    }

    #[test]
    fn defaults_are_salts() {
        let load = load(|_| ()).unwrap();
        assert_eq!(
            (load.tgt_type(), load.delimiter(), load.ret()),
            ("glob", ":", "")
        );
        assert_eq!(
            (load.user(), load.master_id(), load.to()),
            (None, None, None)
        );
        assert_eq!(
            (load.auth_list(), load.metadata(), load.serial()),
            (None, None, None)
        );
        assert!(load.arg().is_nil());
    }

    #[test]
    fn multi_function_jobs_name_all_functions() {
        let load = load(|fields| fields.set("fun", Value::array(["a.b", "c.d"]))).unwrap();
        assert_eq!(load.functions(), ["a.b", "c.d"]);
    }

    #[test]
    fn what_is_no_job_says_which_field_is_wrong() {
        let check = |change: fn(&mut Value), field| {
            assert_eq!(load(change), Err(LoadError::Field { field }));
        };
        check(|fields| drop(fields.remove("fun")), "fun");
        check(|fields| fields.set("fun", 7i64), "fun");
        check(
            |fields| fields.set("fun", Value::Array(vec![Value::Nil])),
            "fun",
        );
        check(|fields| drop(fields.remove("tgt")), "tgt");
        check(|fields| fields.set("tgt", Value::Nil), "tgt");
        check(|fields| drop(fields.remove("jid")), "jid");
        check(|fields| fields.set("jid", 7i64), "jid");
        assert!(matches!(
            load(|fields| fields.set("jid", "a/b")),
            Err(LoadError::Jid(_))
        ));
        assert_eq!(PublicationLoad::new(Value::Nil), Err(LoadError::NotMap));
    }
}
