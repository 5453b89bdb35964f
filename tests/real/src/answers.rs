//! Waiting until minions answer the operator's command on a master.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use testkit::{Master, wait_until};

/// Waits until `salt -L <ids> test.ping` on `master` gives true for every id.
///
/// # Errors
/// Shows the last answer, when it does not come true `within` this time.
pub fn wait_for_answers(master: &Master, ids: &[&str], within: Duration) -> Result<()> {
    let list = ids.join(",");
    wait_until(
        &format!("{list} to answer on {}", master.id()),
        within,
        || {
            let args = [
                "-t",
                "3",
                "--out=json",
                "--static",
                "-L",
                &list,
                "test.ping",
            ];
            let output = master.salt(&args).map_err(|err| format!("{err:#}"))?;
            let Ok(answers) = output.json() else {
                return Err(format!("{}{}", output.stdout, output.stderr));
            };
            let all = ids
                .iter()
                .all(|id| answers.get(id) == Some(&Value::Bool(true)));
            if all {
                Ok(())
            } else {
                Err(answers.to_string())
            }
        },
    )
}
