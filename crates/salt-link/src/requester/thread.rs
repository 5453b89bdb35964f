//! The thread that owns the sockets of a [`RequestPool`](super::RequestPool).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::mpsc::{self, error::TryRecvError};
use tracing::{debug, error, warn};

use super::{Counters, Job, ReplyTo, RequestError, RequestPoolConfig};
use crate::socket::{self, Endpoint, SocketOptions, WakeSource, frame_message, receive};

pub(super) struct Thread {
    endpoint: Endpoint,
    options: SocketOptions,
    jobs: mpsc::Receiver<Job>,
    wake: WakeSource,
    counters: Arc<Counters>,
    /// Open sockets without a request; the last used is taken first.
    idle: Vec<zmq::Socket>,
    busy: Vec<Busy>,
    sockets_max: usize,
}

/// A socket whose request was sent and not yet answered.
struct Busy {
    socket: zmq::Socket,
    reply: ReplyTo,
}

impl Thread {
    pub(super) fn new(
        config: &RequestPoolConfig,
        jobs: mpsc::Receiver<Job>,
        wake: WakeSource,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            endpoint: config.endpoint.clone(),
            options: config.options.clone(),
            jobs,
            wake,
            counters,
            idle: Vec::new(),
            busy: Vec::new(),
            sockets_max: config.sockets.max(1),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            self.wake.clear();
            self.close_given_up();
            if !self.send_waiting() {
                debug!(endpoint = %self.endpoint, "request sockets closed");
                return;
            }
            self.counters
                .in_flight
                .store(self.busy.len(), Ordering::Relaxed);
            let readable = match self.wait() {
                Ok(readable) => readable,
                Err(error) => {
                    // Every caller sees `Closed`; the daemon's own liveness check takes it from there.
                    error!(endpoint = %self.endpoint, %error, "failed to poll request sockets");
                    return;
                }
            };
            // From the end, so that taking one out leaves the indices before it as they are.
            for index in readable.into_iter().rev() {
                self.take_reply(index);
            }
        }
    }

    /// Closes the sockets of requests that nobody waits for: their replies must not be read.
    fn close_given_up(&mut self) {
        let before = self.busy.len();
        self.busy.retain(|busy| !busy.reply.is_closed());
        let closed = before - self.busy.len();
        if closed > 0 {
            debug!(endpoint = %self.endpoint, closed, "requests given up, sockets closed");
        }
    }

    /// Sends what waits while there are slots; false when the pool is gone.
    fn send_waiting(&mut self) -> bool {
        while self.busy.len() < self.sockets_max {
            match self.jobs.try_recv() {
                Ok(job) if job.reply.is_closed() => {}
                Ok(job) => self.send(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        !self.jobs.is_closed()
    }

    fn send(&mut self, job: Job) {
        let Job {
            frame,
            reply,
            _share,
        } = job;
        let sent = self.ready_socket().and_then(|socket| {
            send(&socket, frame)?;
            Ok(socket)
        });
        match sent {
            Ok(socket) => self.busy.push(Busy { socket, reply }),
            Err(error) => {
                warn!(endpoint = %self.endpoint, %error, "failed to send a request");
                answer(reply, Err(RequestError::Socket(error)));
            }
        }
    }

    /// Hands the reply on; the next request of a sequence goes at once, on the same socket.
    fn answered(&mut self, busy: Busy, payload: Bytes) {
        let Busy { socket, reply } = busy;
        let (mut rest, go_on, replies) = match reply {
            ReplyTo::One(reply) => {
                self.idle.push(socket);
                return answer(ReplyTo::One(reply), Ok(payload));
            }
            ReplyTo::Several {
                rest,
                go_on,
                replies,
            } => (rest, go_on, replies),
        };
        let goes_on = go_on(&payload);
        let wanted = replies.try_send(payload).is_ok();
        let next = (goes_on && wanted).then(|| rest.pop_front()).flatten();
        let Some(frame) = next else {
            self.idle.push(socket);
            return;
        };
        match send(&socket, frame) {
            Ok(()) => {
                let reply = ReplyTo::Several {
                    rest,
                    go_on,
                    replies,
                };
                self.busy.push(Busy { socket, reply });
            }
            Err(error) => {
                warn!(endpoint = %self.endpoint, %error, "failed to send a request of a sequence");
            }
        }
    }

    /// An open socket on which nothing is under way.
    fn ready_socket(&mut self) -> Result<zmq::Socket, zmq::Error> {
        while let Some(socket) = self.idle.pop() {
            // A peer that answers twice would have its second answer taken for the next reply, and
            // libzmq never connects again to one that broke the protocol: nothing can be sent there.
            let events = socket.get_events()?;
            if events.contains(zmq::POLLOUT) && !events.contains(zmq::POLLIN) {
                return Ok(socket);
            }
            warn!(endpoint = %self.endpoint, "the peer broke the protocol, opening a new socket");
        }
        let socket = self.options.open(zmq::DEALER, &self.endpoint)?;
        socket.connect(self.endpoint.as_str())?;
        self.counters.sockets_opened.fetch_add(1, Ordering::Relaxed);
        Ok(socket)
    }

    /// Waits for replies or a call; the places of the busy sockets that can be read.
    fn wait(&self) -> Result<Vec<usize>, zmq::Error> {
        let mut items = Vec::with_capacity(1 + self.busy.len());
        items.push(zmq::PollItem::from_fd(self.wake.fd(), zmq::POLLIN));
        items.extend(
            self.busy
                .iter()
                .map(|busy| busy.socket.as_poll_item(zmq::POLLIN)),
        );
        socket::poll(&mut items, -1)?;
        let places = items.iter().skip(1).enumerate();
        Ok(places
            .filter(|(_, item)| item.is_readable())
            .map(|(place, _)| place)
            .collect())
    }

    fn take_reply(&mut self, place: usize) {
        let Some(busy) = self.busy.get(place) else {
            return;
        };
        match receive(&busy.socket) {
            Ok(None) => {}
            Ok(Some(frames)) => {
                let [delimiter, payload] = frames.as_slice() else {
                    warn!(endpoint = %self.endpoint, frames = frames.len(), "not a reply");
                    return;
                };
                if !delimiter.is_empty() {
                    warn!(endpoint = %self.endpoint, "a reply without delimiter");
                    return;
                }
                let payload = payload.clone();
                let busy = self.busy.swap_remove(place);
                self.answered(busy, payload);
                self.counters
                    .in_flight
                    .store(self.busy.len(), Ordering::Relaxed);
            }
            Err(error) => {
                warn!(endpoint = %self.endpoint, %error, "failed to read a reply");
                let busy = self.busy.swap_remove(place);
                answer(busy.reply, Err(RequestError::Socket(error)));
            }
        }
    }
}

fn send(socket: &zmq::Socket, frame: Bytes) -> Result<(), zmq::Error> {
    socket.send(zmq::Message::new(), zmq::SNDMORE | zmq::DONTWAIT)?;
    socket.send(frame_message(frame), zmq::DONTWAIT)
}

/// Ends a request. The end of a sequence is seen by its channel being closed.
fn answer(reply: ReplyTo, result: Result<Bytes, RequestError>) {
    if let ReplyTo::One(reply) = reply
        && reply.send(result).is_err()
    {
        tracing::trace!("the caller is gone");
    }
}
