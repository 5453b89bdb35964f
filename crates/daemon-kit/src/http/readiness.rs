//! The conditions under which a daemon can do its work, shown by `/readyz`.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every condition of a process. Clones share them; ready when all of them hold.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    states: Arc<Mutex<Vec<State>>>,
}

/// One condition, in the hands of the task that knows it.
#[derive(Debug, Clone)]
pub struct Condition {
    readiness: Readiness,
    index: usize,
}

#[derive(Debug)]
struct State {
    name: String,
    holds: bool,
    reason: String,
}

impl Readiness {
    /// A new condition, which does not hold until told so.
    pub fn condition(&self, name: impl Into<String>) -> Condition {
        let mut states = self.lock();
        states.push(State {
            name: name.into(),
            holds: false,
            reason: "not yet".to_owned(),
        });
        Condition {
            readiness: self.clone(),
            index: states.len() - 1,
        }
    }

    /// Whether every condition holds.
    pub fn is_ready(&self) -> bool {
        self.lock().iter().all(|state| state.holds)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line per condition: `redis: ok`, `mom: no: connection refused`.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for State {
            name,
            holds,
            reason,
        } in self.lock().iter()
        {
            match (holds, reason.as_str()) {
                (true, "") => writeln!(f, "{name}: ok")?,
                (true, reason) => writeln!(f, "{name}: ok: {reason}")?,
                (false, reason) => writeln!(f, "{name}: no: {reason}")?,
            }
        }
        Ok(())
    }
}

impl Condition {
    /// It holds. True when it did not before, for a log line at the change.
    pub fn holds(&self) -> bool {
        self.set(true, String::new())
    }

    /// It does not hold, because of `reason`. True when it did before.
    pub fn fails(&self, reason: impl fmt::Display) -> bool {
        self.set(false, reason.to_string())
    }

    /// States it with a reason. True when it changed.
    pub fn set(&self, holds: bool, reason: String) -> bool {
        // A reason may carry a peer's text; a page of one line per condition must stay one.
        let reason = reason.replace(['\r', '\n'], " ");
        let mut states = self.readiness.lock();
        let Some(state) = states.get_mut(self.index) else {
            return false;
        };
        let changed = state.holds != holds;
        state.holds = holds;
        state.reason = reason;
        changed
    }

    /// Whether it holds now.
    pub fn is_met(&self) -> bool {
        self.readiness
            .lock()
            .get(self.index)
            .is_some_and(|state| state.holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_condition_holds() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready(), "without conditions nothing is amiss");
        let redis = readiness.condition("redis");
        let mom = readiness.condition("mom");
        assert_eq!(
            readiness.to_string(),
            "redis: no: not yet\nmom: no: not yet\n"
        );
        assert!(redis.holds() && mom.holds());
        assert!(readiness.is_ready() && mom.is_met());
        assert!(mom.fails("connection\nrefused"), "it changed");
        assert!(!mom.fails("connection\nrefused"), "it did not change");
        assert!(!readiness.is_ready());
        assert_eq!(
            readiness.to_string(),
            "redis: ok\nmom: no: connection refused\n"
        );
    }
}
