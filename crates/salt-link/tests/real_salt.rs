//! The whole crate against a real salt-master of each version.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use salt_link::event_bus::{
    BusEvent, EventReader, EventReaderConfig, EventWriter, EventWriterConfig, PROBE_TAG_PREFIX,
};
use salt_link::local_master::{LocalMaster, LocalMasterConfig};
use salt_link::queue::Receiver;
use salt_link::requester::{RequestPool, RequestPoolConfig, Requester, alive};
use salt_link::session::{Session, SessionConfig};
use salt_link::sign_in::{SignIn, SignInConfig, SignInStatus};
use salt_link::socket::Endpoint;
use salt_link::subscriber::{Subscriber, SubscriberConfig, SubscriberEvent};
use salt_wire::bus::{Event, EventTag};
use salt_wire::commands::{Publish, PublishReply, RootKey};
use salt_wire::ids::MinionId;
use salt_wire::msgpack::{Limits, Value, decode};
use salt_wire::publication::{Publication, Signature};
use testkit::{Master, SaltVersion, Workspace};
use tokio::task::JoinSet;

/// Real masters on a busy machine of two cores.
const PATIENCE: Duration = Duration::from_secs(90);

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"))
}

async fn event_with(events: &mut Receiver<BusEvent>, wanted: impl Fn(&Event) -> bool) -> Event {
    within("the event", async {
        loop {
            match events.recv().await.unwrap() {
                BusEvent::Event(event) if event.tag.starts_with(PROBE_TAG_PREFIX) => {
                    panic!("{event:?} is passed on")
                }
                BusEvent::Event(event) if wanted(&event) => return event,
                BusEvent::Malformed { reason } => panic!("{reason}"),
                BusEvent::Event(_) | BusEvent::Connected | BusEvent::Disconnected { .. } => {}
            }
        }
    })
    .await
}

async fn bus_connected(events: &mut Receiver<BusEvent>) {
    within("the bus", async {
        while events.recv().await.unwrap() != BusEvent::Connected {}
    })
    .await;
}

async fn publication(frames: &mut Receiver<SubscriberEvent>) -> Publication {
    within("the publication", async {
        loop {
            if let SubscriberEvent::Frames { frames, .. } = frames.recv().await.unwrap() {
                return Publication::parse(frames.last().unwrap()).unwrap();
            }
        }
    })
    .await
}

async fn subscribed(frames: &mut Receiver<SubscriberEvent>) {
    within("the connection", async {
        while frames.recv().await.unwrap() != SubscriberEvent::Connected {}
    })
    .await;
}

fn job(key: RootKey, marker: &str) -> Publish {
    Publish {
        tgt: "*".into(),
        fun: "test.ping".into(),
        arg: Value::Array(Vec::new()),
        key,
        tgt_type: "glob".into(),
        ret: "".into(),
        jid: "".into(),
        kwargs: Value::map([("metadata", Value::map([("marker", marker.into())]))]),
        user: "root".to_owned(),
        to: Some(5),
    }
}

/// Publishes until the master has finished starting and takes it; the jid.
async fn publish(local: &LocalMaster, marker: &str) -> String {
    within("publishing", async {
        loop {
            match local
                .publish_with(|key| job(key, marker), Duration::from_secs(15))
                .await
            {
                Ok(PublishReply::Published { jid, .. }) => return jid.to_string(),
                Ok(PublishReply::Error(_)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) if error.is_transient() => {}
                Err(error) => panic!("{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
}

fn blocking<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    tokio::task::block_in_place(work)
}

fn site() -> MinionId {
    MinionId::parse("site1").unwrap()
}

async fn goes_all_ways(version: SaltVersion) {
    let workspace = Workspace::new().unwrap();
    let mut master = blocking(|| {
        let builder = Master::builder(version, "mom").order_masters(1);
        let mut master = builder.start(&workspace).unwrap();
        master.ready().unwrap();
        master
    });
    let ip = master.ip().to_string();
    let mut tasks = JoinSet::new();

    // The bus, read from here on.
    let config = EventReaderConfig::new(&master.sock_dir());
    let (reader, mut events) = EventReader::new(config, |_| true);
    tasks.spawn(reader.run());
    bus_connected(&mut events).await;

    // The ports.
    let request_port = Endpoint::tcp(&ip, 4506).unwrap();
    let pool = RequestPool::spawn(RequestPoolConfig::new(request_port)).unwrap();
    within("a living master", async {
        while alive(&pool, Duration::from_secs(5)).await.is_err() {}
    })
    .await;
    let publish_port = Endpoint::tcp(&ip, 4505).unwrap();
    let (_subscription, mut frames) =
        Subscriber::spawn(SubscriberConfig::new(publish_port)).unwrap();
    subscribed(&mut frames).await;

    // Signing in: pending until an operator accepts the key.
    let requester: Arc<dyn Requester> = Arc::new(pool.clone());
    let pki_dir = workspace.path().join("site1-pki");
    let mut config = SignInConfig::new(site(), pki_dir.clone());
    config.acceptance_wait = Duration::from_millis(200);
    let sign_in = SignIn::new(config, Arc::clone(&requester)).unwrap();
    let mut status = sign_in.status();
    let session = Arc::new(Session::new(sign_in, SessionConfig::default()).unwrap());
    let signing_in = Arc::clone(&session);
    tasks.spawn(async move {
        signing_in.signed_in().await;
    });
    within(
        "a pending key",
        status.wait_for(|now| *now == SignInStatus::Pending),
    )
    .await
    .unwrap();
    blocking(|| master.salt_key(&["-y", "-a", "site1"])).unwrap();
    let keys = within("signing in", session.signed_in()).await;
    assert!(pki_dir.join("syndic_master.pub").exists());
    let auth = |event: &Event| {
        let data = decode(&event.data, Limits::CONTENT).unwrap();
        event.parsed_tag() == EventTag::Auth && data.get_str("act") == Some("accept")
    };
    event_with(&mut events, auth).await;

    // A request under the session.
    let options = Value::map([
        ("cmd", "_master_opts".into()),
        ("env_only", Value::Bool(true)),
    ]);
    let request = session.authenticated_request(options.clone(), Duration::from_secs(20));
    let answer = within("the options", request).await.unwrap();
    assert!(answer.get("file_roots").is_some(), "{answer:?}");

    // A job: published with the key on disk, seen on the bus and on the publish port.
    let config = LocalMasterConfig {
        cachedir: master.dir().join("cache/master"),
        user: "root".to_owned(),
        timeout: Duration::from_secs(20),
    };
    let local = LocalMaster::new(config, Arc::clone(&requester));
    let jid = publish(&local, "first").await;
    event_with(&mut events, |event| {
        event.parsed_tag() == EventTag::JobNew { jid: &jid }
    })
    .await;
    let first = publication(&mut frames).await;
    assert_eq!(
        first.verify(&keys.credentials.master_key).unwrap(),
        Signature::Valid
    );
    let load = first.decrypt(&keys.credentials.aes).unwrap();
    assert_eq!(load.jid().as_str(), jid);
    assert_eq!(load.metadata().unwrap().get_str("marker"), Some("first"));

    // An event of our own.
    let writer = EventWriter::new(EventWriterConfig::new(&master.sock_dir()));
    let fire = |number| writer.fire("my/own/tag", Value::map([("number", Value::Int(number))]));
    within("firing", fire(1)).await.unwrap();
    let own = event_with(&mut events, |event| event.tag == "my/own/tag").await;
    let data = decode(&own.data, Limits::CONTENT).unwrap();
    assert_eq!(data.get("number"), Some(&Value::Int(1)));

    // The master restarts: everything goes on by itself, with new keys.
    blocking(|| {
        master.restart().unwrap();
        master.ready().unwrap();
    });
    bus_connected(&mut events).await;
    subscribed(&mut frames).await;
    let jid = publish(&local, "second").await;
    let second = publication(&mut frames).await;
    assert!(
        second.decrypt(&keys.credentials.aes).is_err(),
        "a restart changes the AES key"
    );
    let keys = within(
        "signing in again",
        session.sign_in_again(&keys, "new AES key"),
    )
    .await;
    assert_eq!(
        second
            .decrypt(&keys.credentials.aes)
            .unwrap()
            .jid()
            .as_str(),
        jid
    );
    assert_eq!(session.aes_keys().len(), 2);
    first
        .decrypt(&session.aes_keys()[1])
        .expect("the earlier key still opens the earlier job");
    within("firing", fire(2)).await.unwrap();
    event_with(&mut events, |event| event.tag == "my/own/tag").await;
    let request = session.authenticated_request(options, Duration::from_secs(20));
    within("the options", request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_salt_3006_is_linked_all_ways_and_through_a_restart() {
    goes_all_ways(SaltVersion::V3006).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_salt_3007_is_linked_all_ways_and_through_a_restart() {
    goes_all_ways(SaltVersion::V3007).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_salt_3008_is_linked_all_ways_and_through_a_restart() {
    goes_all_ways(SaltVersion::V3008).await;
}
