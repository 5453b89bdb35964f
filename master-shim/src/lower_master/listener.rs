//! Who is connected to the lower master's publish port, by `/proc/net/tcp`.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Established connections, each by a digest of its ends: 50,000 of them take a megabyte.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Connections(HashSet<u64>);

impl Connections {
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether one of them is not among `earlier`.
    pub(super) fn has_new(&self, earlier: &Self) -> bool {
        !self.0.is_subset(&earlier.0)
    }
}

/// The lower master's publish port, as `/proc/net/tcp` writes it.
pub(super) struct Listener {
    /// `None` for every address of the host.
    address: Option<String>,
    port: String,
}

impl Listener {
    pub(super) fn new(interface: &str, port: u16) -> Self {
        let address = match interface.parse() {
            Ok(IpAddr::V4(address)) if address != Ipv4Addr::UNSPECIFIED => {
                Some(format!("{:08X}", u32::from_le_bytes(address.octets())))
            }
            Ok(IpAddr::V6(address)) if address != Ipv6Addr::UNSPECIFIED => Some(hex_v6(address)),
            // A host name may stand for several addresses.
            Ok(_) | Err(_) => None,
        };
        Self {
            address,
            port: format!("{port:04X}"),
        }
    }

    /// Established connections to the port.
    pub(super) fn connections(&self) -> Connections {
        let mut found = Connections::default();
        for file in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            self.read(
                &std::fs::read_to_string(file).unwrap_or_default(),
                &mut found,
            );
        }
        found
    }

    fn read(&self, text: &str, found: &mut Connections) {
        for line in text.lines() {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (Some(local), Some(remote), Some("01")) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let Some((address, port)) = local.split_once(':') else {
                continue;
            };
            if port == self.port && self.address.as_ref().is_none_or(|own| own == address) {
                let mut hasher = DefaultHasher::new();
                (address, remote).hash(&mut hasher);
                found.0.insert(hasher.finish());
            }
        }
    }
}

/// Four words in the host's byte order.
fn hex_v6(address: Ipv6Addr) -> String {
    let octets = address.octets();
    let words = octets.chunks_exact(4).filter_map(|word| {
        let word: [u8; 4] = word.try_into().ok()?;
        Some(format!("{:08X}", u32::from_le_bytes(word)))
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1199 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1199 0200007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0100007F:119A 0200007F:C351 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 0300007F:1199 0200007F:C352 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
   4: 0200007F:C350 0100007F:1199 01 00000000:00000000 00:00000000 00000000     0        0 5 1 0 20 4 30 10 -1
";

    #[test]
    fn only_established_connections_to_the_port_count() {
        let count = |interface: &str| {
            let mut found = Connections::default();
            Listener::new(interface, 4505).read(TCP, &mut found);
            found.count()
        };
        assert_eq!(count("127.0.0.1"), 1);
        assert_eq!(count("0.0.0.0"), 2);
        assert_eq!(count("127.0.0.9"), 0);
    }

    #[test]
    fn connections_of_this_very_host_are_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let port = Listener::new("127.0.0.1", address.port());
        let before = port.connections();
        assert_eq!(before.count(), 0);
        let _client = std::net::TcpStream::connect(address).expect("connected");
        let _server = listener.accept().expect("accepted");
        let after = port.connections();
        assert_eq!(after.count(), 1);
        assert!(after.has_new(&before) && !before.has_new(&after));
    }
}
