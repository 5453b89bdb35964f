//! The minion's process: when it began, and its connection to the publish port of its master.
//!
//! A new connection means that jobs may have been missed. It is found by the socket behind one file descriptor of the minion:
//! as long as that is the same a look costs one system call, however many connections the host has.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

/// Most of `/proc/<pid>/net/tcp` that is read: 40,000 connections. A busier host is told nothing of reconnections.
const TABLE_BYTES_MAX: u64 = 6 << 20;

/// A process, told apart from later ones with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Clock ticks after the host's start.
    pub(crate) began: u64,
}

impl Process {
    /// The process with this number, while it lives.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let behind_name = stat.rsplit_once(')')?.1;
        let began = behind_name.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, began })
    }

    /// Milliseconds after the host's start.
    pub(crate) fn began_ms(self) -> u64 {
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        self.began.saturating_mul(1000) / ticks
    }
}

/// A connection, as a file descriptor of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    descriptor: PathBuf,
    socket: String,
}

impl Connection {
    /// The connection of this process to this port of any host.
    pub(crate) fn find(pid: u32, port: u16) -> Option<Self> {
        let sockets: Vec<String> = ["tcp", "tcp6"]
            .iter()
            .filter_map(|table| read_table(&format!("/proc/{pid}/net/{table}")))
            .flat_map(|table| established(&table, port))
            .collect();
        if sockets.is_empty() {
            return None;
        }
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        descriptors.filter_map(Result::ok).find_map(|entry| {
            let socket = fs::read_link(entry.path())
                .ok()?
                .into_os_string()
                .into_string()
                .ok()?;
            sockets.contains(&socket).then(|| Self {
                descriptor: entry.path(),
                socket,
            })
        })
    }

    /// Whether it is still the same.
    pub(crate) fn is_there(&self) -> bool {
        fs::read_link(&self.descriptor)
            .is_ok_and(|socket| socket.as_os_str() == self.socket.as_str())
    }
}

fn read_table(path: &str) -> Option<String> {
    let mut text = String::new();
    let table = fs::File::open(path).ok()?;
    table.take(TABLE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The sockets that are connected to this port, as links of file descriptors show them.
fn established(table: &str, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    let connections = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (remote, state) = (words.nth(2)?, words.next()?);
        let inode = words.nth(5)?;
        (state == "01" && remote.ends_with(&port)).then(|| format!("socket:[{inode}]"))
    });
    connections.collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_found_and_its_end_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pid = std::process::id();
        assert_eq!(Connection::find(pid, address.port()), None);
        let stream = TcpStream::connect(address).unwrap();
        let found = Connection::find(pid, address.port()).unwrap();
        assert!(found.is_there());
        drop(stream);
        assert!(!found.is_there());
    }

    #[test]
    fn a_process_began_once() {
        let own = Process::of(std::process::id()).unwrap();
        assert_eq!(Process::of(own.pid), Some(own));
        assert!(own.began_ms() > 0 && Process::of(u32::MAX).is_none());
    }
}
