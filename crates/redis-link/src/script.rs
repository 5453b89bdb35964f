//! Lua scripts, called by their digest and loaded when the server does not know them.

use std::time::Duration;

use redis::Value;

use crate::error::RedisError;
use crate::lane::{Lane, Session};
use crate::value::hex;

pub(crate) struct Script {
    text: &'static str,
    digest: String,
}

impl Script {
    pub(crate) fn new(text: &'static str) -> Self {
        Self {
            text,
            digest: hex(&openssl::sha::sha1(text.as_bytes())),
        }
    }

    /// A call with that many keys; keys and arguments are still to be added.
    pub(crate) fn call(&self, keys: usize) -> redis::Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.digest).arg(keys);
        command
    }

    /// Runs the calls in one pipeline. If the server did not know the script it is loaded, and
    /// every call is made again: a script has to bear being called twice.
    pub(crate) async fn run(
        &self,
        lane: &Lane,
        session: &Session,
        operation: &'static str,
        calls: &[redis::Cmd],
        limit: Duration,
    ) -> Result<Vec<Value>, RedisError> {
        let mut pipeline = redis::Pipeline::with_capacity(calls.len());
        for call in calls {
            pipeline.add_command(call.clone());
        }
        let send = || lane.pipeline_on(session, operation, &pipeline, limit);
        let mut values = Box::pin(send()).await?;
        if values.iter().any(is_no_script) {
            let mut load = redis::Pipeline::with_capacity(1);
            load.cmd("SCRIPT").arg("LOAD").arg(self.text);
            let limit = lane.endpoint.op_timeout;
            let loading = lane.pipeline_on(session, "load script", &load, limit);
            for value in Box::pin(loading).await? {
                lane.endpoint.value("load script", value)?;
            }
            values = Box::pin(send()).await?;
        }
        values
            .into_iter()
            .map(|value| lane.endpoint.value(operation, value))
            .collect()
    }
}

fn is_no_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "NOSCRIPT")
}
