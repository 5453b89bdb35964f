//! Looks at the leases of many sites at once: which of them has a shim that renews it?
//!
//! A lease is renewed by the shim that is active and expires by itself, so that its key is a sign of life. What follows
//! from it is decided by the caller.
//!
//! - One pipeline of `HMGET` for all sites, on the primary; nothing is written, and no right is needed that a bridge
//!   does not have.

use redis::{Pipeline, Value};

use crate::connection::{Purpose, Redis};
use crate::error::RedisError;
use crate::keys::{RelayKeys, SiteName};
use crate::lane::Lane;
use crate::value;

/// The watch; one per bridge.
pub struct LeaseWatch {
    lane: Lane,
    keys: RelayKeys,
}

impl LeaseWatch {
    /// Looks at the leases of the relay's sites.
    #[must_use]
    pub fn new(redis: &Redis, keys: &RelayKeys) -> Self {
        Self {
            lane: redis.write_lane(Purpose::Lease),
            keys: keys.clone(),
        }
    }

    /// Whether somebody holds the lease of each of `sites`, in their order.
    ///
    /// # Errors
    /// When Redis does not answer, or not in this form.
    pub async fn look(&self, sites: &[SiteName]) -> Result<Vec<bool>, RedisError> {
        const OPERATION: &str = "look at the sites' leases";
        let mut pipeline = Pipeline::with_capacity(sites.len() + 1);
        // Without sites the question is still whether Redis answers.
        pipeline.cmd("HMGET").arg(self.keys.head()).arg("run");
        for site in sites {
            pipeline
                .cmd("HMGET")
                .arg(self.keys.lease(site))
                .arg("holder");
        }
        let limit = self.lane.endpoint.op_timeout;
        let asked = self.lane.pipeline(OPERATION, &pipeline, limit);
        let mut held = Vec::with_capacity(sites.len());
        for reply in Box::pin(asked).await?.into_iter().skip(1) {
            let reply = self.lane.endpoint.value(OPERATION, reply)?;
            let fields = value::array(reply).ok_or_else(|| {
                let expected = "an array of one field";
                self.lane.endpoint.unexpected(OPERATION, expected)
            })?;
            held.push(!matches!(fields.first(), None | Some(Value::Nil)));
        }
        Ok(held)
    }
}
