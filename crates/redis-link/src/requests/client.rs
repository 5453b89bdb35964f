//! A site's end: sends requests and hears replies.

use bytes::Bytes;
use relay_core::EntryId;

use super::{RequestId, RequestsConfig, word};
use crate::connection::{Purpose, Redis};
use crate::error::RedisError;
use crate::header::Header;
use crate::keys::{RelayKeys, SiteName};
use crate::lane::Lane;
use crate::value;

/// Frames above this size go over a connection of their own, so that small ones need not wait.
const SMALL_FRAME_BYTES_MAX: usize = 256 * 1024;

/// Sends requests of one site. Knows nothing of replies: see [`super::Tunnel`].
#[derive(Clone)]
pub struct RequestsClient {
    small: Lane,
    large: Lane,
    /// One large frame at a time: its time-out begins when the connection is free.
    large_turn: std::sync::Arc<tokio::sync::Mutex<()>>,
    stream: String,
    site: SiteName,
    config: RequestsConfig,
}

impl RequestsClient {
    /// A client for the site of this name.
    #[must_use]
    pub fn new(redis: &Redis, keys: &RelayKeys, site: SiteName, config: RequestsConfig) -> Self {
        Self {
            small: redis.write_lane(Purpose::Requests),
            large: redis.write_lane(Purpose::Requests),
            large_turn: std::sync::Arc::default(),
            stream: keys.requests(),
            site,
            config,
        }
    }

    /// Puts a request into the stream, for whichever bridge comes first. The same `rid` may be
    /// sent again. Returns the id that the entry got.
    ///
    /// # Errors
    /// After an error the request may or may not be in the stream.
    pub async fn send(
        &self,
        rid: &RequestId,
        frame: &Bytes,
        sent_at_ms: u64,
    ) -> Result<EntryId, RedisError> {
        const OPERATION: &str = "send a request";
        let (bytes, max) = (frame.len(), self.config.frame_bytes_max);
        if bytes > max {
            return Err(RedisError::FrameTooLarge {
                operation: OPERATION,
                bytes,
                max,
            });
        }
        let mut command = redis::cmd("XADD");
        command
            .arg(&self.stream)
            .arg("MAXLEN")
            .arg("~")
            .arg(self.config.requests_max)
            .arg("*")
            .arg("v")
            .arg(1)
            .arg("site")
            .arg(self.site.as_str())
            .arg("rid")
            .arg(rid.as_str())
            .arg("t")
            .arg(sent_at_ms)
            .arg("f")
            .arg(frame.as_ref());
        let limit = self.small.endpoint.timeout_for(bytes);
        let id = if bytes > SMALL_FRAME_BYTES_MAX {
            let _turn = self.large_turn.lock().await;
            self.large.command(OPERATION, &command, limit).await?
        } else {
            self.small.command(OPERATION, &command, limit).await?
        };
        value::text(id)
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| self.small.endpoint.unexpected(OPERATION, "an entry id"))
    }
}

/// What came by the site's channel of replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyEvent {
    /// Replies are heard from now on. A reply published before is lost: send its request again.
    Up,
    /// Replies are not heard; the task goes on trying.
    Down {
        /// Why, in a word out of [`crate::REASONS`].
        class: &'static str,
        /// Why, for people.
        reason: String,
    },
    /// The top master replied.
    Reply {
        /// The request replied to.
        rid: RequestId,
        /// The top master's reply frame.
        frame: Bytes,
    },
    /// The bridge refused the request: it will refuse it again.
    Refused {
        /// The request refused.
        rid: RequestId,
        /// A word for the reason.
        reason: String,
    },
    /// The top master did not reply to the bridge in time.
    TimedOut {
        /// The request without a reply.
        rid: RequestId,
        /// A word for the reason.
        reason: String,
    },
    /// A message that is not of our form was skipped.
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
}

impl ReplyEvent {
    /// Reads a message of the channel.
    pub(super) fn parse(message: &[u8]) -> Self {
        Self::try_parse(message).unwrap_or_else(|reason| Self::Malformed { reason })
    }

    fn try_parse(message: &[u8]) -> Result<Self, String> {
        let header = Header::parse(message)?;
        let rid = header.field("rid", RequestId::parse)?;
        let reason = || word(header.get("reason").unwrap_or_default());
        match header.field("status", Some)? {
            "ok" => {
                let frame = message.get(header.frame_at..).unwrap_or_default();
                Ok(Self::Reply {
                    rid,
                    frame: Bytes::copy_from_slice(frame),
                })
            }
            "refused" => Ok(Self::Refused {
                rid,
                reason: reason(),
            }),
            "timeout" => Ok(Self::TimedOut {
                rid,
                reason: reason(),
            }),
            other => Err(format!("unknown status {}", other.escape_debug())),
        }
    }
}
