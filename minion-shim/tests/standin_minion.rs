//! The program beside stand-ins of minions: each framing, several at once, sockets that vanish, and what is hostile.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use salt_wire::bus::{BusDecoder, Decoded, Framing, encode_event};
use salt_wire::msgpack::{Dialect, Value, encode};
use testkit::{MinionShim, Workspace, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

const LENGTH: Framing = Framing::LengthPrefix;
const STREAM: Framing = Framing::Streaming;

type Heard = Arc<Mutex<Vec<(String, Value)>>>;
type Listeners = Arc<Mutex<Vec<UnixStream>>>;

/// A minion's directories and event bus, without a minion.
struct Standin {
    dir: PathBuf,
    sockets: [PathBuf; 2],
    /// How it reads and writes.
    framings: (Framing, Framing),
    /// How long it takes to read from a new connection, as one that is starting.
    slow: Duration,
    heard: Heard,
    listeners: Listeners,
}

impl Standin {
    fn new(root: &Path, id: &str, hash: &str, framings: (Framing, Framing)) -> Self {
        let dir = root.join(id);
        fs::create_dir_all(dir.join("cache/proc")).unwrap();
        fs::create_dir_all(dir.join("run")).unwrap();
        let text = format!(
            "id: {id}\nmaster: m\ncachedir: {0}/cache\nsock_dir: {0}/run\n",
            dir.display()
        );
        fs::write(dir.join("minion"), text).unwrap();
        let socket = |end: &str| dir.join(format!("run/minion_event_{hash}_{end}.ipc"));
        Self {
            sockets: [socket("pub"), socket("pull")],
            dir,
            framings,
            slow: Duration::ZERO,
            heard: Heard::default(),
            listeners: Listeners::default(),
        }
    }

    /// Makes the sockets and serves them until they are removed.
    fn open(&self) {
        let [events, inbox] = self
            .sockets
            .each_ref()
            .map(|path| UnixListener::bind(path).unwrap());
        let (listeners, heard, framings) = (
            Arc::clone(&self.listeners),
            Arc::clone(&self.heard),
            self.framings,
        );
        thread::spawn(move || {
            for stream in events.incoming() {
                listeners.lock().unwrap().push(stream.unwrap());
            }
        });
        let (listeners, slow) = (Arc::clone(&self.listeners), self.slow);
        thread::spawn(move || {
            for stream in inbox.incoming() {
                let (listeners, heard) = (Arc::clone(&listeners), Arc::clone(&heard));
                thread::spawn(move || {
                    thread::sleep(slow);
                    serve(stream.unwrap(), framings, &listeners, &heard);
                });
            }
        });
    }

    /// The sockets are gone, and so is whoever is connected.
    fn close(&self) {
        for socket in &self.sockets {
            fs::remove_file(socket).unwrap();
        }
        for stream in self.listeners.lock().unwrap().drain(..) {
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        }
    }

    fn tell(&self, tag: &str, data: &Value) {
        tell(&self.listeners, tag, data, self.framings.1);
    }

    fn take(&self, jid: &str) {
        fs::write(self.proc(jid), b"\x81\xa3jid\xa11").unwrap();
    }

    fn proc(&self, jid: &str) -> PathBuf {
        self.dir.join("cache/proc").join(jid)
    }

    /// Waits for an event of the shim's with this, and gives its data.
    fn wait_for(&self, what: &str, wanted: impl Fn(&str, &Value) -> bool) -> Value {
        let look = || {
            let heard = self.heard.lock().unwrap();
            let found = heard.iter().find(|(tag, data)| wanted(tag, data));
            found
                .map(|(_, data)| data.clone())
                .ok_or_else(|| format!("{heard:?}"))
        };
        wait_until(what, PATIENCE, look).unwrap()
    }

    fn wait_for_receipt(&self, jid: &str) -> Value {
        self.wait_for("the receipt", |tag, load| {
            let listed = load
                .get("data")
                .and_then(|data| data.get("jids"))
                .and_then(Value::as_array);
            let ours =
                listed.is_some_and(|jids| jids.iter().any(|known| known.as_str() == Some(jid)));
            tag == "fire_master" && ours
        })
    }
}

/// Reads what comes in one framing only, as a minion does, and tells everybody.
fn serve(
    mut stream: UnixStream,
    framings: (Framing, Framing),
    listeners: &Listeners,
    heard: &Heard,
) {
    let mut decoder = BusDecoder::default();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        decoder.feed(&buffer[..read]);
        while let Ok(Some(Decoded::Event(event))) = decoder.next_event(|_| true) {
            if decoder.framing() != Some(framings.0) {
                // The wrong framing: it waits for more, for ever.
                continue;
            }
            let data = event.value().unwrap();
            tell(listeners, &event.tag, &data, framings.1);
            if let Some(rest) = event.tag.strip_prefix("__master_req_channel_payload/") {
                let (request, master) = rest.split_once('/').unwrap();
                assert_eq!(master, "m");
                let answer = Value::map([("ret", Value::Nil)]);
                tell(
                    listeners,
                    &format!("__master_req_channel_return/{request}"),
                    &answer,
                    framings.1,
                );
            }
            heard.lock().unwrap().push((event.tag, data));
        }
    }
}

fn tell(listeners: &Listeners, tag: &str, data: &Value, framing: Framing) {
    let frame = encode_event(tag, &encode(data, Dialect::New), framing).unwrap();
    let mut listeners = listeners.lock().unwrap();
    listeners.retain_mut(|stream| stream.write_all(&frame).is_ok());
}

const WEB1: (&str, &str) = ("web1", "659a7fb2af");
const WEB2: (&str, &str) = ("web2", "146d3146ed");
const WEB3: (&str, &str) = ("web3", "a0636392b8");

fn jid(number: u32) -> String {
    format!("20261121200000{number:06}")
}

#[test]
fn minions_of_each_framing_are_served_by_one_process() {
    let workspace = Workspace::new().unwrap();
    let framings = [(LENGTH, LENGTH), (STREAM, STREAM), (LENGTH, STREAM)];
    let minions: Vec<Standin> = [WEB1, WEB2, WEB3]
        .iter()
        .zip(framings)
        .map(|((id, hash), framings)| Standin::new(workspace.path(), id, hash, framings))
        .collect();
    let configs: Vec<PathBuf> = minions
        .iter()
        .map(|minion| minion.dir.join("minion"))
        .collect();
    let configs: Vec<&Path> = configs.iter().map(PathBuf::as_path).collect();
    minions[0].open();
    let mut shim = MinionShim::start(&workspace, "shim", &configs).unwrap();
    // The others start later.
    shim.joined("web1").unwrap();
    minions[1].open();
    minions[2].open();
    for (minion, (id, _)) in minions.iter().zip([WEB1, WEB2, WEB3]) {
        shim.joined(id).unwrap();
        let state = minion.wait_for("the report", |_, load| {
            load.get_str("cmd") == Some("_minion_event")
        });
        assert_eq!(
            state.get_str("tag"),
            Some(format!("saltway/minion/{id}/state").as_str())
        );
        minion.take(&jid(1));
        let receipt = minion.wait_for_receipt(&jid(1));
        assert_eq!(
            receipt.get_str("tag"),
            Some(format!("saltway/minion/{id}/receipt").as_str())
        );
    }
    assert!(
        shim.check().unwrap().stderr.contains("web2"),
        "{}",
        shim.check().unwrap().stderr
    );
}

#[test]
fn sockets_that_vanish_are_waited_for() {
    let workspace = Workspace::new().unwrap();
    let minion = Standin::new(workspace.path(), WEB1.0, WEB1.1, (LENGTH, STREAM));
    minion.open();
    let config = minion.dir.join("minion");
    let mut shim = MinionShim::start(&workspace, "shim", &[&config]).unwrap();
    shim.joined("web1").unwrap();
    minion.close();
    minion.take(&jid(1));
    minion.open();
    minion.wait_for_receipt(&jid(1));
    // The directory of jobs, too.
    fs::remove_dir_all(minion.dir.join("cache/proc")).unwrap();
    fs::create_dir(minion.dir.join("cache/proc")).unwrap();
    let mut number = 2;
    let look = || {
        number += 1;
        minion.take(&jid(number));
        let heard = minion.heard.lock().unwrap();
        let text = format!("{heard:?}");
        if text.contains("20261121200000000003") {
            Ok(())
        } else {
            Err(text)
        }
    };
    wait_until("jobs of the new directory", PATIENCE, look).unwrap();
}

#[test]
fn what_is_hostile_costs_nothing() {
    let workspace = Workspace::new().unwrap();
    let minion = Standin::new(workspace.path(), WEB1.0, WEB1.1, (STREAM, STREAM));
    minion.open();
    let config = minion.dir.join("minion");
    let mut shim = MinionShim::start(&workspace, "shim", &[&config]).unwrap();
    shim.joined("web1").unwrap();
    std::os::unix::fs::symlink("/dev/zero", minion.proc(&jid(1))).unwrap();
    fs::create_dir(minion.proc(&jid(2))).unwrap();
    fs::write(minion.proc(&jid(3)), b"").unwrap();
    fs::write(
        minion.proc(&jid(4)),
        b"\xdf\xff\xff\xff\xff\xdb\xff\xff\xff\xff",
    )
    .unwrap();
    fs::write(minion.proc("no job\n"), b"").unwrap();
    // A return that announces 200 MiB, and 40 MiB of them.
    let mut frame = b"\x82\xa4head\x80\xa4body\xc6\x0c\x80\x00\x00__master_req_channel_payload/r/m\n\n\x82\xa6return\xc6\x0c\x70\x00\x00".to_vec();
    frame.extend(vec![0; 40 << 20]);
    minion.listeners.lock().unwrap()[0]
        .write_all(&frame)
        .unwrap();
    let rss = shim.process().unwrap().usage().unwrap().rss;
    assert!(rss < 16 << 20, "{rss}");
    // Nonsense in a place where only a frame can be: the shim comes back.
    minion.listeners.lock().unwrap().clear();
    wait_until("the shim is back", PATIENCE, || {
        match minion.listeners.lock().unwrap().len() {
            0 => Err("nobody"),
            _ => Ok(()),
        }
    })
    .unwrap();
    minion.listeners.lock().unwrap()[0]
        .write_all(b"\xff\xff\xff")
        .unwrap();
    minion.take(&jid(5));
    minion.wait_for_receipt(&jid(5));
}

#[test]
fn a_return_that_was_not_taken_is_sent_again_when_the_master_answers() {
    let workspace = Workspace::new().unwrap();
    let minion = Standin::new(workspace.path(), WEB1.0, WEB1.1, (LENGTH, LENGTH));
    minion.open();
    let config = minion.dir.join("minion");
    let mut shim = MinionShim::start(&workspace, "shim", &[&config]).unwrap();
    shim.joined("web1").unwrap();
    minion.take(&jid(1));
    minion.wait_for_receipt(&jid(1));
    let load = Value::map([
        ("cmd", Value::from("_return")),
        ("id", "web1".into()),
        ("jid", jid(1).into()),
        ("return", Value::Bool(true)),
    ]);
    minion.tell("__master_req_channel_payload/job-process/m", &load);
    let error = Value::map([("ret", Value::Nil), ("error", "timeout".into())]);
    minion.tell("__master_req_channel_return/job-process", &error);
    let again = minion.wait_for("the return", |_, load| {
        load.get_str("cmd") == Some("_return")
    });
    assert_eq!(again, load);
    minion.wait_for("the report", |_, load| {
        let data = load.get("data");
        data.and_then(|data| data.get_str("what")) == Some("undelivered")
    });
}

#[test]
fn a_minion_that_echoes_late_is_spoken_to_by_a_connection_that_is_not_spoilt() {
    let workspace = Workspace::new().unwrap();
    let mut minion = Standin::new(workspace.path(), WEB1.0, WEB1.1, (LENGTH, LENGTH));
    minion.open();
    let config = minion.dir.join("minion");
    let mut shim = MinionShim::start(&workspace, "shim", &[&config]).unwrap();
    shim.joined("web1").unwrap();
    minion.close();
    // Longer than one attempt, shorter than two: the echo of the first comes while the second, in the wrong framing, is open.
    minion.slow = Duration::from_millis(400);
    minion.open();
    minion.take(&jid(1));
    minion.wait_for_receipt(&jid(1));
}
