//! How fast the stand-ins are by themselves: whoever measures Saltway with them has to know that they are not what is measured.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use salt_wire::ids::MinionId;
use salt_wire::keys::{EncAlgo, PrivateKey, SigAlgo};
use salt_wire::msgpack::Value;
use salt_wire::request::{Identity, Nonce, encode_aes};
use standin::{EventBus, Framing, StandinMom, jid, job, return_data};
use testkit::{Workspace, now};

const COUNT: u32 = 20_000;
const BATCH: u32 = 500;

fn main() -> Result<()> {
    let workspace = Workspace::new()?;
    let mom = StandinMom::start(&workspace, "mom")?;
    mom.sign_publications(false);
    let began = now();
    for number in 0..COUNT {
        mom.publish(job(&jid(number.into()), "*", "test.ping"))?;
    }
    tell("unsigned publications made and sent", began.elapsed());

    let bus = EventBus::listen(&workspace.path().join("run"), Framing::Streaming)?;
    let mut listener = UnixStream::connect(workspace.path().join("run/master_event_pub.ipc"))?;
    let reader = std::thread::spawn(move || std::io::copy(&mut listener, &mut std::io::sink()));
    bus.await_listener(Duration::from_secs(5))?;
    let began = now();
    for number in 0..COUNT {
        bus.fire_return(&jid(number.into()), "a1", "test.ping", true.into())?;
    }
    tell("events fired", began.elapsed());
    drop(bus);
    reader.join().ok().context("the reader panicked")??;

    let frames = returns(&mom)?;
    let socket = zmq::Context::new().socket(zmq::REQ)?;
    socket.connect(&format!("tcp://{}", mom.address().socket(4506)))?;
    let began = now();
    for frame in frames {
        socket.send(frame, 0)?;
        socket.recv_bytes(0)?;
    }
    tell("returns taken in batches", began.elapsed());
    mom.await_returns(usize::try_from(COUNT)?, Duration::from_secs(1))
}

fn returns(mom: &StandinMom) -> Result<Vec<Vec<u8>>> {
    let key = PrivateKey::generate(2048)?;
    let id = MinionId::parse("site1")?;
    let identity = Identity::new(id, &key, EncAlgo::default(), SigAlgo::default())?;
    let batch = |first: u32| {
        let elements = (first..first + BATCH).map(|number| {
            let jid = jid(number.into());
            let ret = return_data(&jid, "a1", "test.ping", true.into());
            Value::map([
                ("jid", jid.as_str().into()),
                ("return", Value::map([("a1", ret)])),
            ])
        });
        let elements = Value::Array(elements.collect());
        let load = Value::map([("cmd", "_syndic_return".into()), ("load", elements)]);
        let nonce = Nonce::random()?;
        Ok(encode_aes(&mom.master().session, &identity, &nonce, 1, load)?.to_vec())
    };
    (0..COUNT)
        .step_by(usize::try_from(BATCH)?)
        .map(batch)
        .collect()
}

fn tell(what: &str, took: Duration) {
    println!("{:>9.0}/s {what}", f64::from(COUNT) / took.as_secs_f64());
}
