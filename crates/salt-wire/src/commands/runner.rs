//! Clear `runner`: a function of the master itself, whose result comes by its event bus.

use bytes::Bytes;

use super::{PublishReply, RootKey};
use crate::ids::Jid;
use crate::msgpack::{Limits, Value};
use crate::request::{Reply, decode_reply_within, encode_clear};

/// A runner function for a master. Never sent upwards: the gate refuses it.
#[derive(Clone, Debug)]
pub struct Runner {
    /// The function, as `jobs.list_job`.
    pub fun: String,
    /// Its arguments by name, as a map.
    pub kwarg: Value,
    /// What allows to run it.
    pub key: RootKey,
    /// In whose name; any, if `key` is the root key.
    pub user: String,
}

/// What a master answers to `runner`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunnerReply {
    /// It runs; the result is the event `salt/run/<jid>/ret`.
    Running {
        /// The runner job.
        jid: Jid,
    },
    /// The key is wrong: read the file again.
    AuthenticationError,
    /// Anything else.
    Error(String),
}

impl Runner {
    /// The payload frame (`RunnerClient.cmd_async` in `salt/runner.py`).
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_clear(Value::map([
            ("cmd", "runner".into()),
            ("fun", self.fun.as_str().into()),
            ("kwarg", self.kwarg.clone()),
            ("key", self.key.as_text().into()),
            ("user", self.user.as_str().into()),
        ]))
    }
}

impl RunnerReply {
    /// Reads the reply frame; what is no known answer is an error with its words.
    #[must_use]
    pub fn parse(frame: &Bytes) -> Self {
        let reply = match decode_reply_within(frame, Limits::CONTENT) {
            Ok(Reply::Map(reply)) => reply,
            Ok(Reply::Text(text)) => return Self::Error(text),
            Ok(Reply::Encrypted(_)) => return Self::Error("an encrypted reply".to_owned()),
            Err(err) => return Self::Error(err.to_string()),
        };
        if let Some(error) = reply.get("error") {
            // `runner` names the failure of the key by how it was to be proved.
            if error.get_str("name") == Some("UserAuthenticationError") {
                return Self::AuthenticationError;
            }
            return match PublishReply::from_error(error) {
                PublishReply::AuthenticationError => Self::AuthenticationError,
                PublishReply::Error(text) => Self::Error(text),
                _ => Self::Error("authorization".to_owned()),
            };
        }
        let jid = reply.get_str("jid").and_then(|jid| Jid::parse(jid).ok());
        jid.map_or_else(
            || Self::Error("a reply without jid".to_owned()),
            |jid| Self::Running { jid },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msgpack::{Dialect, encode};

    fn check(reply: Value, expected: RunnerReply) {
        let frame = encode(&reply, Dialect::Old);
        assert_eq!(RunnerReply::parse(&frame), expected);
    }

    #[test]
    fn replies_are_told_apart() {
        let jid: Jid = "20261121175418824928".parse().unwrap();
        check(
            Value::map([
                ("tag", format!("salt/run/{jid}").as_str().into()),
                ("jid", jid.as_str().into()),
            ]),
            RunnerReply::Running { jid },
        );
        let refused = Value::map([
            ("name", "UserAuthenticationError".into()),
            ("message", "no".into()),
        ]);
        check(
            Value::map([("error", refused)]),
            RunnerReply::AuthenticationError,
        );
        check(
            Value::map([("tag", "salt/run/1".into())]),
            RunnerReply::Error("a reply without jid".to_owned()),
        );
    }

    #[test]
    fn command_has_the_fields_of_salts_own_client() {
        let runner = Runner {
            fun: "jobs.list_job".to_owned(),
            kwarg: Value::map([("jid", "1".into())]),
            key: RootKey::parse("k").unwrap(),
            user: "root".to_owned(),
        };
        let frame = crate::msgpack::decode(&runner.encode(), Limits::CONTENT).unwrap();
        assert_eq!(frame.get_str("enc"), Some("clear"));
        let load = frame.get("load").unwrap();
        assert_eq!(load.get_str("cmd"), Some("runner"));
        assert_eq!(load.get("kwarg").unwrap().get_str("jid"), Some("1"));
        assert_eq!(load.get_str("key"), Some("k"));
    }
}
