//! The event bus against masters made of unix sockets, in each framing that Salt uses.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use salt_link::event_bus::{
    BusEvent, EventReader, EventReaderConfig, EventWriter, EventWriterConfig, FireError,
};
use salt_link::queue::{QueueBounds, Receiver};
use salt_wire::bus::{BusDecoder, Decoded, Event, Framing, encode_event};
use salt_wire::msgpack::{Limits, Value, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

/// Longer than anything here takes, so that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("done within the patience of the test")
}

async fn next(receiver: &mut Receiver<BusEvent>) -> BusEvent {
    within(receiver.recv()).await.expect("the reader lives")
}

async fn connected(receiver: &mut Receiver<BusEvent>) {
    loop {
        match next(receiver).await {
            BusEvent::Connected => return,
            BusEvent::Disconnected { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

fn event(tag: &str) -> BusEvent {
    BusEvent::Event(Event {
        tag: tag.to_owned(),
        data: Bytes::from_static(b"\x80"),
    })
}

fn frame(tag: &str, framing: Framing) -> Bytes {
    encode_event(tag, b"\x80", framing).unwrap()
}

fn reader(
    sock_dir: &Path,
    tasks: &mut JoinSet<()>,
    wanted: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> Receiver<BusEvent> {
    let (reader, receiver) = EventReader::new(EventReaderConfig::new(sock_dir), wanted);
    tasks.spawn(reader.run());
    receiver
}

mod reading {
    use super::*;

    fn listen(sock_dir: &Path) -> UnixListener {
        let path = sock_dir.join("master_event_pub.ipc");
        if path.exists() {
            std::fs::remove_file(&path).unwrap();
        }
        UnixListener::bind(path).unwrap()
    }

    async fn accept(listener: &UnixListener) -> UnixStream {
        within(listener.accept()).await.unwrap().0
    }

    #[tokio::test]
    async fn wanted_events_arrive_in_either_framing() {
        for framing in [Framing::LengthPrefix, Framing::Streaming] {
            let dir = tempfile::tempdir().unwrap();
            let listener = listen(dir.path());
            let mut tasks = JoinSet::new();
            let mut events = reader(dir.path(), &mut tasks, |tag| tag.starts_with("salt/"));
            let mut master = accept(&listener).await;
            for tag in ["salt/a", "other", "salt/b"] {
                master.write_all(&frame(tag, framing)).await.unwrap();
            }
            connected(&mut events).await;
            assert_eq!(next(&mut events).await, event("salt/a"), "{framing:?}");
            assert_eq!(next(&mut events).await, event("salt/b"), "{framing:?}");
        }
    }

    #[tokio::test]
    async fn a_master_that_changes_version_at_a_restart_is_read_on() {
        let dir = tempfile::tempdir().unwrap();
        let listener = listen(dir.path());
        let mut tasks = JoinSet::new();
        let mut events = reader(dir.path(), &mut tasks, |_| true);
        let mut master = accept(&listener).await;
        master
            .write_all(&frame("before", Framing::LengthPrefix))
            .await
            .unwrap();
        connected(&mut events).await;
        assert_eq!(next(&mut events).await, event("before"));
        // Half a frame, then the end.
        master
            .write_all(&frame("torn", Framing::LengthPrefix)[..9])
            .await
            .unwrap();
        drop(master);
        drop(listener);
        assert!(matches!(
            next(&mut events).await,
            BusEvent::Disconnected { .. }
        ));
        let listener = listen(dir.path());
        let mut master = accept(&listener).await;
        master
            .write_all(&frame("after", Framing::Streaming))
            .await
            .unwrap();
        connected(&mut events).await;
        assert_eq!(next(&mut events).await, event("after"));
    }

    #[tokio::test]
    async fn a_master_that_is_not_there_is_told_once_and_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut tasks = JoinSet::new();
        let mut events = reader(dir.path(), &mut tasks, |_| true);
        let BusEvent::Disconnected { reason } = next(&mut events).await else {
            panic!()
        };
        assert!(reason.contains("master_event_pub.ipc"), "{reason}");
        let listener = listen(dir.path());
        let _master = accept(&listener).await;
        assert_eq!(next(&mut events).await, BusEvent::Connected);
    }

    #[tokio::test]
    async fn garbage_ends_the_connection_and_a_good_one_follows() {
        let garbage: [&[u8]; 4] = [
            b"\xff\xff\xff\xff",
            b"\x7f\xff\xff\xff",
            b"\x82\xc1",
            b"GET / HTTP/1.1\r\n\r\n",
        ];
        for bytes in garbage {
            let dir = tempfile::tempdir().unwrap();
            let listener = listen(dir.path());
            let mut tasks = JoinSet::new();
            let mut events = reader(dir.path(), &mut tasks, |_| true);
            let mut master = accept(&listener).await;
            master.write_all(bytes).await.unwrap();
            connected(&mut events).await;
            assert!(
                matches!(next(&mut events).await, BusEvent::Disconnected { .. }),
                "{bytes:?}"
            );
            let mut master = accept(&listener).await;
            master
                .write_all(&frame("good", Framing::Streaming))
                .await
                .unwrap();
            connected(&mut events).await;
            assert_eq!(next(&mut events).await, event("good"));
        }
    }

    #[tokio::test]
    async fn a_frame_that_is_no_event_is_told_and_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let listener = listen(dir.path());
        let mut tasks = JoinSet::new();
        let mut events = reader(dir.path(), &mut tasks, |_| true);
        let mut master = accept(&listener).await;
        master.write_all(b"\x00\x00\x00\x01\xc0").await.unwrap();
        master
            .write_all(&frame("good", Framing::LengthPrefix))
            .await
            .unwrap();
        connected(&mut events).await;
        assert!(matches!(
            next(&mut events).await,
            BusEvent::Malformed { .. }
        ));
        assert_eq!(next(&mut events).await, event("good"));
    }

    #[tokio::test]
    async fn a_slow_consumer_slows_the_master_and_loses_nothing() {
        const COUNT: usize = 20_000;
        let dir = tempfile::tempdir().unwrap();
        let listener = listen(dir.path());
        let mut config = EventReaderConfig::new(dir.path());
        config.queue = QueueBounds {
            entries: 5,
            bytes: 1000,
        };
        let (reader, mut events) = EventReader::new(config, |_| true);
        let gauge = events.gauge();
        let mut tasks = JoinSet::new();
        tasks.spawn(reader.run());
        let mut master = accept(&listener).await;
        let (blocked, blocking) = tokio::sync::oneshot::channel();
        tasks.spawn(async move {
            let all: Vec<u8> = (0..COUNT)
                .flat_map(|number| frame(&format!("{number:0100}"), Framing::Streaming))
                .collect();
            let mut written = 0;
            while let Ok(bytes) = master.try_write(&all[written..]) {
                written += bytes;
            }
            blocked.send(()).unwrap();
            master.write_all(&all[written..]).await.unwrap();
            std::future::pending::<()>().await;
        });
        within(blocking).await.unwrap();
        connected(&mut events).await;
        for number in 0..COUNT {
            let state = gauge.state();
            assert!(state.entries <= 5 && state.bytes <= 1000, "{state:?}");
            assert_eq!(next(&mut events).await, event(&format!("{number:0100}")));
        }
        assert!(gauge.state().stalls > 0);
    }

    #[tokio::test]
    async fn the_reader_ends_when_nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let listener = listen(dir.path());
        let mut tasks = JoinSet::new();
        let events = reader(dir.path(), &mut tasks, |_| true);
        let _master = accept(&listener).await;
        drop(events);
        within(tasks.join_next()).await.unwrap().unwrap();
    }
}

mod writing {
    use super::*;

    /// A master's bus: what is written in `pull` framing comes out in `publish` framing; what is
    /// written in another is lost, as with Salt.
    struct Bus {
        tasks: JoinSet<()>,
    }

    impl Bus {
        fn start(
            sock_dir: &Path,
            pull: Framing,
            publish: Framing,
        ) -> (Self, mpsc::Receiver<Event>) {
            let (bodies, _) = broadcast::channel::<Event>(100);
            let (seen, events) = mpsc::channel(100);
            let bind = |name: &str| {
                let path = sock_dir.join(name);
                if path.exists() {
                    std::fs::remove_file(&path).unwrap();
                }
                UnixListener::bind(path).unwrap()
            };
            let pub_listener = bind("master_event_pub.ipc");
            let pull_listener = bind("master_event_pull.ipc");
            let mut tasks = JoinSet::new();
            let publications = bodies.clone();
            tasks.spawn(async move {
                let mut readers = JoinSet::new();
                loop {
                    let (mut stream, _) = pub_listener.accept().await.unwrap();
                    let mut publications = publications.subscribe();
                    readers.spawn(async move {
                        while let Ok(event) = publications.recv().await {
                            let frame = encode_event(&event.tag, &event.data, publish).unwrap();
                            if stream.write_all(&frame).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            });
            tasks.spawn(async move {
                let mut writers = JoinSet::new();
                loop {
                    let (stream, _) = pull_listener.accept().await.unwrap();
                    writers.spawn(pull_events(stream, pull, bodies.clone(), seen.clone()));
                }
            });
            (Self { tasks }, events)
        }

        async fn stop(mut self) {
            self.tasks.shutdown().await;
        }
    }

    async fn pull_events(
        mut stream: UnixStream,
        framing: Framing,
        bodies: broadcast::Sender<Event>,
        seen: mpsc::Sender<Event>,
    ) {
        let mut decoder = BusDecoder::default();
        loop {
            match stream.read_buf(decoder.read_buffer()).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
            loop {
                let decoded = decoder.next_event(|_| true);
                if decoder.framing().is_some_and(|found| found != framing) {
                    // Salt reads on without ever finding an event here.
                    std::future::pending::<()>().await;
                }
                match decoded {
                    Ok(Some(Decoded::Event(event))) => {
                        if !event.tag.starts_with("saltway/probe/") {
                            seen.send(event.clone()).await.unwrap();
                        }
                        bodies.send(event).ok();
                    }
                    Ok(Some(Decoded::Malformed { reason })) => panic!("{reason}"),
                    Ok(None) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn writer(sock_dir: &Path) -> EventWriter {
        let mut config = EventWriterConfig::new(sock_dir);
        config.probe_timeout = Duration::from_millis(500);
        EventWriter::new(config)
    }

    fn data(number: i64) -> Value {
        Value::map([("number", Value::Int(number))])
    }

    async fn expect(events: &mut mpsc::Receiver<Event>, tag: &str, number: i64) {
        let event = within(events.recv()).await.unwrap();
        assert_eq!(event.tag, tag);
        let data = decode(&event.data, Limits::CONTENT).unwrap();
        assert_eq!(data.get("number"), Some(&Value::Int(number)));
        assert!(
            data.get_str("_stamp").unwrap().starts_with("20"),
            "{data:?}"
        );
    }

    const VERSIONS: [(&str, Framing, Framing); 3] = [
        ("3006", Framing::LengthPrefix, Framing::LengthPrefix),
        ("3007", Framing::Streaming, Framing::Streaming),
        ("3008", Framing::LengthPrefix, Framing::Streaming),
    ];

    #[tokio::test]
    async fn events_reach_masters_of_every_version() {
        for (version, pull, publish) in VERSIONS {
            let dir = tempfile::tempdir().unwrap();
            let (_bus, mut events) = Bus::start(dir.path(), pull, publish);
            let writer = writer(dir.path());
            for number in 0..3 {
                within(writer.fire("my/tag", data(number)))
                    .await
                    .expect(version);
                expect(&mut events, "my/tag", number).await;
            }
        }
    }

    #[tokio::test]
    async fn an_upgraded_master_is_probed_anew() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(dir.path());
        for (version, pull, publish) in VERSIONS {
            let (bus, mut events) = Bus::start(dir.path(), pull, publish);
            within(writer.fire("my/tag", data(7))).await.expect(version);
            expect(&mut events, "my/tag", 7).await;
            bus.stop().await;
        }
    }

    #[tokio::test]
    async fn what_is_no_event_is_refused_before_the_master_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(dir.path());
        let refused = writer.fire("tag", Value::Nil).await;
        assert!(
            matches!(refused, Err(FireError::NotAMap { .. })),
            "{refused:?}"
        );
        let refused = writer.fire("a\n\nb", data(1)).await;
        assert!(matches!(refused, Err(FireError::Encode(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn a_master_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = writer(dir.path()).fire("tag", data(1)).await.unwrap_err();
        assert!(error.is_transient());
        assert!(
            error.to_string().contains("master_event_pub.ipc"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_master_that_shows_no_probe_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let _pub = UnixListener::bind(dir.path().join("master_event_pub.ipc")).unwrap();
        let _pull = UnixListener::bind(dir.path().join("master_event_pull.ipc")).unwrap();
        let error = writer(dir.path()).fire("tag", data(1)).await.unwrap_err();
        assert!(matches!(error, FireError::NoProbe { .. }), "{error:?}");
    }
}
