//! The proxy's faults, seen from both ends of a connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use testkit::{Address, Direction, Proxy, await_that, now};

const WITHIN: Duration = Duration::from_secs(5);

/// A server that sends everything back, and a proxy before it.
fn echo() -> (Address, Proxy) {
    let address = Address::lease().expect("an address is free");
    let listener = TcpListener::bind(address.socket(7)).expect("the address is ours");
    let proxy = Proxy::start(address.free_port(), address.socket(7)).expect("the port is free");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut reader = stream.try_clone().expect("a socket can be cloned");
                std::io::copy(&mut reader, &mut &stream).ok();
            });
        }
    });
    (address, proxy)
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.socket()).expect("the proxy listens");
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a socket has time-outs");
    stream
}

/// What comes back within 300 ms.
fn exchange(stream: &mut TcpStream, text: &str) -> Result<String, ErrorKind> {
    stream
        .write_all(text.as_bytes())
        .map_err(|error| error.kind())?;
    receive(stream, text.len())
}

fn receive(stream: &mut TcpStream, length: usize) -> Result<String, ErrorKind> {
    let mut answer = vec![0; length];
    stream
        .read_exact(&mut answer)
        .map_err(|error| error.kind())?;
    Ok(String::from_utf8(answer).expect("what was sent is text"))
}

#[test]
fn bytes_pass_unchanged_and_are_counted() {
    let (_address, proxy) = echo();
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, "hello").as_deref(), Ok("hello"));
    let big = "x".repeat(3_000_000);
    let mut writer = stream.try_clone().expect("a socket can be cloned");
    let sent = big.clone();
    let sender = thread::spawn(move || writer.write_all(sent.as_bytes()));
    assert!(receive(&mut stream, big.len()).as_deref() == Ok(big.as_str()));
    sender
        .join()
        .expect("no panic")
        .expect("the connection is open");
    // The proxy counts behind its write, when the last byte may be here already.
    await_that("the counts", WITHIN, || {
        match (proxy.bytes_up(), proxy.bytes_down(), proxy.accepted()) {
            (3_000_005, 3_000_005, 1) => Ok(()),
            counts => Err(format!("{counts:?}")),
        }
    });
}

#[test]
fn cut_resets_what_is_open_and_refuses_what_is_new_until_healed() {
    let (_address, proxy) = echo();
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, "one").as_deref(), Ok("one"));
    proxy.cut();
    await_that("the reset", WITHIN, || match exchange(&mut stream, "two") {
        Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let refused = TcpStream::connect(proxy.socket()).expect_err("a cut link takes no connection");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    proxy.heal().expect("the address is still ours");
    assert_eq!(
        exchange(&mut connect(&proxy), "three").as_deref(),
        Ok("three")
    );
}

#[test]
fn a_silenced_connection_stays_half_open_after_heal_and_a_new_one_works() {
    let (_address, proxy) = echo();
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, "one").as_deref(), Ok("one"));
    proxy.silence(Direction::Both);
    assert_eq!(exchange(&mut stream, "two"), Err(ErrorKind::WouldBlock));
    proxy.heal().expect("nothing was cut");
    assert_eq!(exchange(&mut stream, "three"), Err(ErrorKind::WouldBlock));
    assert_eq!(
        exchange(&mut connect(&proxy), "four").as_deref(),
        Ok("four")
    );
}

#[test]
fn silence_in_one_direction_leaves_the_other_alone() {
    let (_address, proxy) = echo();
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, "one").as_deref(), Ok("one"));
    proxy.silence(Direction::Down);
    assert_eq!(exchange(&mut stream, "two"), Err(ErrorKind::WouldBlock));
    assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (6, 3));
}

#[test]
fn stalled_bytes_arrive_late_and_complete() {
    let (_address, proxy) = echo();
    let mut stream = connect(&proxy);
    assert_eq!(exchange(&mut stream, "one").as_deref(), Ok("one"));
    proxy.stall(Direction::Both);
    assert_eq!(exchange(&mut stream, "two"), Err(ErrorKind::WouldBlock));
    proxy.heal().expect("nothing was cut");
    assert_eq!(receive(&mut stream, 3).as_deref(), Ok("two"));
}

#[test]
fn latency_delays_each_direction() {
    let (_address, proxy) = echo();
    let mut stream = connect(&proxy);
    stream
        .set_read_timeout(Some(WITHIN))
        .expect("a socket has time-outs");
    proxy.latency(Duration::from_millis(100));
    let began = now();
    assert_eq!(exchange(&mut stream, "slow").as_deref(), Ok("slow"));
    assert!(
        began.elapsed() >= Duration::from_millis(200),
        "took {:?}",
        began.elapsed()
    );
}

#[test]
fn half_open_ends_the_servers_side_and_tells_the_client_nothing() {
    let (_address, proxy) = echo();
    let mut old = connect(&proxy);
    assert_eq!(exchange(&mut old, "one").as_deref(), Ok("one"));
    proxy.half_open();
    let mut new = connect(&proxy);
    assert_eq!(exchange(&mut new, "two").as_deref(), Ok("two"));
    for _ in 0..2 {
        let silence = exchange(&mut old, "three");
        assert!(
            matches!(silence, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
            "{silence:?}"
        );
    }
    proxy.reset_all();
    await_that("the reset", WITHIN, || match exchange(&mut old, "four") {
        Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
