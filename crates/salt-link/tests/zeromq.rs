//! The ZeroMQ threads against peers in this process that behave, stall, die and come back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use salt_link::queue::{QueueBounds, Receiver};
use salt_link::requester::{RequestError, RequestPool, RequestPoolConfig, alive};
use salt_link::socket::Endpoint;
use salt_link::subscriber::{Subscriber, SubscriberConfig, SubscriberEvent};

/// Longer than anything here takes, so that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Peer {
    socket: zmq::Socket,
    port: u16,
    _context: zmq::Context,
}

/// Binds to a port, or to any free one for 0.
fn peer(kind: zmq::SocketType, port: u16) -> Peer {
    let context = zmq::Context::new();
    let socket = context.socket(kind).unwrap();
    socket.set_linger(0).unwrap();
    socket.set_sndhwm(0).unwrap();
    let address = match port {
        0 => "tcp://127.0.0.1:*".to_owned(),
        port => format!("tcp://127.0.0.1:{port}"),
    };
    // The port of a peer that was just dropped is free once its context has ended.
    socket.bind(&address).unwrap();
    let bound = socket.get_last_endpoint().unwrap().unwrap();
    let port = bound.rsplit(':').next().unwrap().parse().unwrap();
    Peer {
        socket,
        port,
        _context: context,
    }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint::tcp("127.0.0.1", port).unwrap()
}

/// The ZMTP 3.1 handshake of a peer of this type, with mechanism NULL.
fn shake_hands(stream: &mut std::net::TcpStream, socket_type: &str) {
    use std::io::{Read, Write};
    let mut greeting = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 1];
    greeting.extend(b"NULL");
    greeting.resize(64, 0);
    stream.write_all(&greeting).unwrap();
    let mut theirs = [0; 64];
    stream.read_exact(&mut theirs).unwrap();
    let mut ready = b"\x05READY\x0bSocket-Type\x00\x00\x00".to_vec();
    ready.push(u8::try_from(socket_type.len()).unwrap());
    ready.extend(socket_type.as_bytes());
    let mut command = vec![0x04, u8::try_from(ready.len()).unwrap()];
    command.extend(ready);
    stream.write_all(&command).unwrap();
}

async fn next(receiver: &mut Receiver<SubscriberEvent>) -> SubscriberEvent {
    let event = tokio::time::timeout(PATIENCE, receiver.recv()).await;
    event
        .expect("an event within the patience of the test")
        .expect("the subscriber lives")
}

async fn next_frames(receiver: &mut Receiver<SubscriberEvent>) -> Vec<Bytes> {
    loop {
        if let SubscriberEvent::Frames {
            frames,
            received_at_ms,
        } = next(receiver).await
        {
            assert!(received_at_ms > 1_600_000_000_000);
            return frames;
        }
    }
}

/// A PUB that has certainly seen the subscription: XPUB reports it.
fn wait_for_subscription(peer: &Peer) {
    peer.socket.set_rcvtimeo(20_000).unwrap();
    assert_eq!(peer.socket.recv_bytes(0).unwrap(), b"\x01");
}

mod subscriber {
    use super::*;

    #[tokio::test]
    async fn publications_of_one_and_two_frames_arrive_whole_and_in_order() {
        let publisher = peer(zmq::XPUB, 0);
        let config = SubscriberConfig::new(endpoint(publisher.port));
        let (_handle, mut receiver) = Subscriber::spawn(config).unwrap();
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Connected);
        wait_for_subscription(&publisher);
        let big = vec![7_u8; 3 << 20];
        publisher.socket.send("one", 0).unwrap();
        publisher
            .socket
            .send_multipart(["topic", "two"], 0)
            .unwrap();
        publisher.socket.send(&big, 0).unwrap();
        assert_eq!(next_frames(&mut receiver).await, ["one"]);
        assert_eq!(next_frames(&mut receiver).await, ["topic", "two"]);
        assert_eq!(next_frames(&mut receiver).await, [big]);
    }

    #[tokio::test]
    async fn a_master_that_restarts_is_subscribed_to_again() {
        let publisher = peer(zmq::XPUB, 0);
        let port = publisher.port;
        let config = SubscriberConfig::new(endpoint(port));
        let (_handle, mut receiver) = Subscriber::spawn(config).unwrap();
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Connected);
        drop(publisher);
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Disconnected);
        let publisher = peer(zmq::XPUB, port);
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Connected);
        wait_for_subscription(&publisher);
        publisher.socket.send("again", 0).unwrap();
        assert_eq!(next_frames(&mut receiver).await, ["again"]);
    }

    #[tokio::test]
    async fn a_slow_consumer_stalls_the_reading_and_loses_nothing() {
        let publisher = peer(zmq::XPUB, 0);
        let mut config = SubscriberConfig::new(endpoint(publisher.port));
        config.queue = QueueBounds {
            entries: 10,
            bytes: 1 << 20,
        };
        config.options.high_water_mark = 10;
        let (handle, mut receiver) = Subscriber::spawn(config).unwrap();
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Connected);
        wait_for_subscription(&publisher);
        for number in 0..5000_u32 {
            publisher
                .socket
                .send(number.to_be_bytes().as_slice(), 0)
                .unwrap();
        }
        let stalled = async {
            while !handle.queue().state().stalled {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, stalled)
            .await
            .expect("a full queue stalls the thread");
        assert_eq!(handle.queue().state().entries, 10);
        for number in 0..5000_u32 {
            assert_eq!(
                next_frames(&mut receiver).await,
                [number.to_be_bytes().as_slice()]
            );
        }
    }

    #[tokio::test]
    async fn dropping_the_handle_ends_the_receiver_even_while_stalled() {
        let publisher = peer(zmq::XPUB, 0);
        let mut config = SubscriberConfig::new(endpoint(publisher.port));
        config.queue = QueueBounds {
            entries: 1,
            bytes: 1,
        };
        let (handle, mut receiver) = Subscriber::spawn(config).unwrap();
        wait_for_subscription(&publisher);
        for _ in 0..10 {
            publisher.socket.send("x", 0).unwrap();
        }
        drop(handle);
        let ended = async { while receiver.recv().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ended)
            .await
            .expect("the thread ends");
    }

    #[tokio::test]
    async fn a_message_of_many_frames_is_reported_and_the_next_one_read() {
        let publisher = peer(zmq::XPUB, 0);
        let config = SubscriberConfig::new(endpoint(publisher.port));
        let (_handle, mut receiver) = Subscriber::spawn(config).unwrap();
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Connected);
        wait_for_subscription(&publisher);
        publisher.socket.send_multipart(vec!["x"; 1000], 0).unwrap();
        publisher.socket.send("good", 0).unwrap();
        assert!(matches!(
            next(&mut receiver).await,
            SubscriberEvent::Malformed { .. }
        ));
        assert_eq!(next_frames(&mut receiver).await, ["good"]);
    }

    #[tokio::test]
    async fn a_frame_above_the_limit_costs_the_connection_only() {
        let publisher = peer(zmq::XPUB, 0);
        let mut config = SubscriberConfig::new(endpoint(publisher.port));
        config.options.frame_bytes_max = 1000;
        let (_handle, mut receiver) = Subscriber::spawn(config).unwrap();
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Connected);
        wait_for_subscription(&publisher);
        publisher.socket.send(vec![0; 2000], 0).unwrap();
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Disconnected);
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Connected);
    }

    #[tokio::test]
    async fn a_foreign_service_on_the_port_is_outlived() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_handle, mut receiver) =
            Subscriber::spawn(SubscriberConfig::new(endpoint(port))).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\nnot what you are looking for")
            .unwrap();
        drop(listener);
        drop(stream);
        let publisher = peer(zmq::XPUB, port);
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Connected);
        wait_for_subscription(&publisher);
        publisher.socket.send("served", 0).unwrap();
        assert_eq!(next_frames(&mut receiver).await, ["served"]);
    }

    /// The peer's process is alive for the kernel, but answers nothing: a stopped master.
    #[tokio::test]
    async fn a_master_that_falls_silent_is_noticed_by_heartbeat() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = SubscriberConfig::new(endpoint(listener.local_addr().unwrap().port()));
        config.options.heartbeat_interval = Duration::from_millis(100);
        config.options.heartbeat_timeout = Duration::from_millis(300);
        let (_handle, mut receiver) = Subscriber::spawn(config).unwrap();
        let silent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            shake_hands(&mut stream, "PUB");
            stream
        });
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Connected);
        assert_eq!(next(&mut receiver).await, SubscriberEvent::Disconnected);
        drop(silent.join().unwrap());
    }
}

mod requester {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A ROUTER on a thread. `answer` gets the payload and says what to reply, if anything.
    struct Router {
        port: u16,
        stop: Arc<AtomicBool>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Router {
        fn spawn(port: u16, answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> Self {
            let peer = peer(zmq::ROUTER, port);
            let port = peer.port;
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            let thread = std::thread::spawn(move || {
                peer.socket.set_rcvtimeo(20).unwrap();
                while !stopped.load(Ordering::SeqCst) {
                    let Ok(frames) = peer.socket.recv_multipart(0) else {
                        continue;
                    };
                    assert_eq!(frames.len(), 3, "[identity, delimiter, payload]");
                    assert!(frames[1].is_empty());
                    if let Some(reply) = answer(&frames[2]) {
                        peer.socket
                            .send_multipart([&frames[0], &frames[1], &reply], 0)
                            .unwrap();
                    }
                }
            });
            Self {
                port,
                stop,
                thread: Some(thread),
            }
        }
    }

    impl Drop for Router {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::SeqCst);
            if let Some(thread) = self.thread.take() {
                thread.join().unwrap();
            }
        }
    }

    fn echo(payload: &[u8]) -> Option<Vec<u8>> {
        Some(payload.to_vec())
    }

    fn pool(port: u16) -> RequestPool {
        RequestPool::spawn(RequestPoolConfig::new(endpoint(port))).unwrap()
    }

    /// A master that was stopped looks at its timers before its sockets when it goes on: one that was told to give us up would close the
    /// connection and never read the request that waits in it.
    #[tokio::test]
    async fn a_master_is_not_asked_to_give_up_a_connection_with_requests() {
        use std::io::Read;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = RequestPoolConfig::new(endpoint(listener.local_addr().unwrap().port()));
        config.options.heartbeat_interval = Duration::from_millis(100);
        let pool = RequestPool::spawn(config).unwrap();
        let asked = pool.request(Bytes::from_static(b"anything"), PATIENCE);
        let pinged = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = listener.accept().unwrap();
            shake_hands(&mut stream, "ROUTER");
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let (mut seen, mut byte) = (Vec::new(), [0]);
            // `PING`, behind it the time to live in tenths of a second.
            loop {
                stream.read_exact(&mut byte).unwrap();
                seen.extend(byte);
                if let [before @ .., high, low] = seen.as_slice()
                    && before.ends_with(b"\x04PING")
                {
                    return u16::from_be_bytes([*high, *low]);
                }
            }
        });
        tokio::select! {
            ttl = pinged => assert_eq!(ttl.unwrap(), 0),
            reply = asked => panic!("nobody replies: {reply:?}"),
        }
    }

    #[tokio::test]
    async fn many_requests_at_once_each_get_their_own_reply() {
        let router = Router::spawn(0, echo);
        let pool = pool(router.port);
        let requests = (0..500_u32).map(|number| {
            let pool = pool.clone();
            async move {
                let frame = Bytes::copy_from_slice(&number.to_be_bytes());
                let reply = pool.request(frame.clone(), PATIENCE).await.unwrap();
                assert_eq!(reply, frame);
            }
        });
        let mut set = tokio::task::JoinSet::new();
        for request in requests {
            set.spawn(request);
        }
        set.join_all().await;
        assert!(pool.state().sockets_opened <= 16);
        assert_eq!((pool.state().queued, pool.state().queued_bytes), (0, 0));
    }

    #[tokio::test]
    async fn requests_one_after_the_other_need_one_socket() {
        let router = Router::spawn(0, echo);
        let pool = pool(router.port);
        let started = tokio::time::Instant::now();
        for number in 0..2000_u32 {
            let frame = Bytes::copy_from_slice(&number.to_be_bytes());
            assert_eq!(pool.request(frame.clone(), PATIENCE).await.unwrap(), frame);
        }
        println!("{:.0} requests/s", 2000.0 / started.elapsed().as_secs_f64());
        assert_eq!(pool.state().sockets_opened, 1);
    }

    #[tokio::test]
    async fn a_late_reply_never_reaches_a_later_request() {
        // The peer holds the first request back and answers it after it has seen the second.
        let held = std::sync::Mutex::new(None);
        let peer = peer(zmq::ROUTER, 0);
        let port = peer.port;
        let thread = std::thread::spawn(move || {
            peer.socket.set_rcvtimeo(20_000).unwrap();
            loop {
                let frames = peer.socket.recv_multipart(0).unwrap();
                if frames[2] == b"first" {
                    *held.lock().unwrap() = Some(frames);
                    continue;
                }
                let first = held.lock().unwrap().take().unwrap();
                peer.socket.send_multipart(first, 0).unwrap();
                peer.socket.send_multipart(frames, 0).unwrap();
                return peer;
            }
        });
        let mut config = RequestPoolConfig::new(endpoint(port));
        config.sockets = 1;
        let pool = RequestPool::spawn(config).unwrap();
        let timed_out = pool
            .request("first".into(), Duration::from_millis(300))
            .await;
        assert!(
            matches!(timed_out, Err(RequestError::TimedOut { .. })),
            "{timed_out:?}"
        );
        assert_eq!(
            pool.request("second".into(), PATIENCE).await.unwrap(),
            "second"
        );
        assert_eq!(pool.state().sockets_opened, 2);
        drop(thread.join().unwrap());
    }

    #[tokio::test]
    async fn a_request_given_up_frees_its_socket() {
        let router = Router::spawn(0, |payload| (payload != b"hold").then(|| payload.to_vec()));
        let mut config = RequestPoolConfig::new(endpoint(router.port));
        config.sockets = 1;
        let pool = RequestPool::spawn(config).unwrap();
        tokio::select! {
            biased;
            _ = pool.request("hold".into(), PATIENCE) => panic!("nobody answers this"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        assert_eq!(pool.request("go".into(), PATIENCE).await.unwrap(), "go");
    }

    #[tokio::test]
    async fn a_request_waits_for_a_master_that_is_not_there_yet() {
        let gone = peer(zmq::ROUTER, 0);
        let port = gone.port;
        drop(gone);
        let pool = pool(port);
        let request = pool.request("early".into(), PATIENCE);
        let appear = tokio::task::spawn_blocking(move || Router::spawn(port, echo));
        let (reply, router) = tokio::join!(request, appear);
        assert_eq!(reply.unwrap(), "early");
        drop(router.unwrap());
    }

    #[tokio::test]
    async fn idle_sockets_survive_a_restart_of_the_master() {
        let router = Router::spawn(0, echo);
        let port = router.port;
        let pool = pool(port);
        assert_eq!(
            pool.request("before".into(), PATIENCE).await.unwrap(),
            "before"
        );
        drop(router);
        let _router = Router::spawn(port, echo);
        // What is sent into the connection that just died is lost, as with any master.
        let mut tries = 0;
        let answered = loop {
            tries += 1;
            match pool.request("after".into(), Duration::from_secs(2)).await {
                Ok(reply) => break reply,
                Err(error) if error.is_transient() && tries < 5 => {}
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(answered, "after");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let router = Router::spawn(0, |_| None);
        let mut config = RequestPoolConfig::new(endpoint(router.port));
        config.sockets = 1;
        config.queue = QueueBounds {
            entries: 2,
            bytes: 1000,
        };
        let pool = RequestPool::spawn(config).unwrap();
        let mut set = tokio::task::JoinSet::new();
        let full = loop {
            let pool = pool.clone();
            let (told, tell) = tokio::sync::oneshot::channel::<()>();
            set.spawn(async move {
                let request = pool.request("x".into(), PATIENCE);
                let result =
                    tokio::select! { result = request => result, _ = tell => Ok(Bytes::new()) };
                (result, pool)
            });
            // Kept until the end of the test so that the requests stay under way.
            std::mem::forget(told);
            tokio::task::yield_now().await;
            if let Some(done) = set.try_join_next() {
                break done.unwrap().0;
            }
            assert!(set.len() < 10);
        };
        assert!(matches!(full, Err(RequestError::QueueFull)), "{full:?}");

        let too_much = pool.request(vec![0; 2000].into(), PATIENCE).await;
        assert!(
            matches!(too_much, Err(RequestError::QueueFull)),
            "{too_much:?}"
        );
    }

    #[tokio::test]
    async fn alive_tells_a_serving_port_from_a_silent_one() {
        let router = Router::spawn(0, echo);
        let serving = pool(router.port);
        alive(&serving, PATIENCE).await.unwrap();
        let silent = Router::spawn(0, |_| None);
        let silent_pool = pool(silent.port);
        let told = alive(&silent_pool, Duration::from_millis(200)).await;
        assert!(
            matches!(told, Err(RequestError::TimedOut { .. })),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn a_large_request_and_reply_pass() {
        let router = Router::spawn(0, echo);
        let pool = pool(router.port);
        let frame = Bytes::from(vec![9; 50 << 20]);
        assert_eq!(pool.request(frame.clone(), PATIENCE).await.unwrap(), frame);
    }
}
