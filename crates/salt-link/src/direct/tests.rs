use salt_wire::msgpack::{Limits, decode};

use super::*;

fn load(without: &str) -> PublicationLoad {
    let mut fields = Value::map([
        ("fun", "test.ping".into()),
        ("arg", Value::Array(Vec::new())),
        ("tgt", Value::array(["a1"])),
        ("jid", "20261121200000000001".into()),
        ("ret", "".into()),
        ("tgt_type", "list".into()),
        ("user", "root".into()),
        ("serial", Value::Int(7)),
    ]);
    fields.remove(without);
    PublicationLoad::new(fields).unwrap()
}

fn pull(dir: &Path) -> zmq::Socket {
    let socket = zmq::Context::new().socket(zmq::PULL).unwrap();
    let endpoint = format!("ipc://{}", dir.join(SOCKET).display());
    socket.bind(&endpoint).unwrap();
    socket.set_rcvtimeo(5_000).unwrap();
    socket
}

#[test]
fn publisher_gets_the_load_without_the_upper_masters_serial() {
    let dir = tempfile::tempdir().unwrap();
    let pull = pull(dir.path());
    let publisher = DirectPublisher::new(dir.path());
    publisher.publish_blocking(&load("")).unwrap();
    drop(publisher);
    let frame = pull.recv_bytes(0).unwrap();
    assert!(!pull.get_rcvmore().unwrap(), "one frame");
    let got = decode(&frame.into(), Limits::CONTENT).unwrap();
    assert_eq!(got.get("serial"), None);
    for field in FIELDS {
        assert_eq!(got.get(field), load("").fields().get(field), "{field}");
    }
}

#[test]
fn load_that_would_break_the_publisher_is_never_sent() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = DirectPublisher::new(dir.path());
    for without in ["arg", "ret", "tgt_type", "user"] {
        let refused = publisher.publish_blocking(&load(without));
        let is_refused = matches!(refused, Err(DirectPublishError::Incomplete { field, .. }) if field == without);
        assert!(is_refused, "{without}: {refused:?}");
    }
}

#[tokio::test]
async fn what_nobody_took_is_an_error_and_not_sent_later() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = DirectPublisher::new(dir.path());
    let refused = publisher.publish(&load("")).await;
    let is_refused = matches!(refused, Err(DirectPublishError::NobodyListens { .. }));
    assert!(is_refused, "{refused:?}");
    let pull = pull(dir.path());
    let mut second = load("").fields().clone();
    second.set("jid", "20261121200000000002");
    let second = PublicationLoad::new(second).unwrap();
    publisher.publish(&second).await.unwrap();
    let got = decode(&pull.recv_bytes(0).unwrap().into(), Limits::CONTENT).unwrap();
    assert_eq!(got.get_str("jid"), Some("20261121200000000002"));
}
