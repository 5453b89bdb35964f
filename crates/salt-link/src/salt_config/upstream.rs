//! The masters above, as `syndic_master` names them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use daemon_kit::yaml::{Node, Value};

use super::options::Options;

/// One master above.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Host name or address; an IPv6 address without brackets.
    pub host: String,
    /// Its request port (4506).
    pub ret_port: u16,
    /// Its publish port (4505). Salt takes it from the local configuration.
    pub publish_port: u16,
}

impl Upstream {
    /// `tcp://host:port` of its request port.
    pub fn request_endpoint(&self) -> String {
        endpoint(&self.host, self.ret_port)
    }

    /// `tcp://host:port` of its publish port.
    pub fn publish_endpoint(&self) -> String {
        endpoint(&self.host, self.publish_port)
    }
}

/// `host:port` of the request port.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}",
            self.request_endpoint().trim_start_matches("tcp://")
        )
    }
}

/// A ZeroMQ endpoint; IPv6 addresses get their brackets.
pub(super) fn endpoint(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("tcp://[{host}]:{port}")
    } else {
        format!("tcp://{host}:{port}")
    }
}

/// Reads `syndic_master`: text or a list, each with or without a port; each upstream once.
pub(super) fn read(options: &Options<'_>, ret_port: u16, publish_port: u16) -> Vec<Upstream> {
    const KEY: &str = "syndic_master";
    let masters: Vec<&Node> = match options.given(KEY).map(|given| &given.node) {
        None => {
            let told = "missing; Salt would look for a host named masterofmasters";
            options.mistake(KEY, told, "name the top master");
            return Vec::new();
        }
        Some(Node {
            value: Value::Sequence(items),
            ..
        }) => items.iter().collect(),
        Some(node) => vec![node],
    };
    if masters.is_empty() {
        options.mistake(KEY, "an empty list", "name the top master");
    }
    let mut upstreams = Vec::new();
    for node in masters {
        let parsed = match &node.value {
            Value::Scalar(scalar) => parse_host_port(scalar.text()),
            Value::Sequence(_) | Value::Mapping(_) => None,
        };
        let Some((host, port)) = parsed else {
            let told = format!("not a host: {}", node.describe());
            options.mistake(KEY, &told, "write `host`, `host:port` or `[address]:port`");
            continue;
        };
        let upstream = Upstream {
            host,
            ret_port: port.unwrap_or(ret_port),
            publish_port,
        };
        if !upstreams.contains(&upstream) {
            upstreams.push(upstream);
        }
    }
    upstreams
}

/// Salt's `parse_host_port`; `None` where it raises.
fn parse_host_port(text: &str) -> Option<(String, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.rsplit_once(']')?;
        let host: Ipv6Addr = host.parse().ok()?;
        let port = match after {
            "" => None,
            _ => Some(port(after.strip_prefix(':')?)?),
        };
        return Some((host.to_string(), port));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, after)) if !after.contains(':') => (host, Some(port(after)?)),
        _ => (text, None),
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some((ip.to_string(), port));
    }
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!host.is_empty() && host.chars().all(allowed)).then(|| (host.to_owned(), port))
}

fn port(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read_as_salt_does() {
        let check = |text: &str, expected: Option<(&str, Option<u16>)>| {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(parse_host_port(text), expected, "{text}");
        };
        check("mom", Some(("mom", None)));
        check(
            "mom.example.net:5678",
            Some(("mom.example.net", Some(5678))),
        );
        check("10.11.12.13:4567", Some(("10.11.12.13", Some(4567))));
        check("[1234::5]:5678", Some(("1234::5", Some(5678))));
        check("[1234::0005]", Some(("1234::5", None)));
        check("1234::5", Some(("1234::5", None)));
        check("mom:", None);
        check("mom:port", None);
        check("mom:70000", None);
        check("[mom]:1", None);
        check("[::1]x", None);
        check("a b", None);
        check("tcp://mom", None);
        check("", None);
    }

    #[test]
    fn endpoints_put_ipv6_addresses_in_brackets() {
        let upstream = Upstream {
            host: "::1".to_owned(),
            ret_port: 4506,
            publish_port: 4505,
        };
        assert_eq!(upstream.request_endpoint(), "tcp://[::1]:4506");
        assert_eq!(upstream.publish_endpoint(), "tcp://[::1]:4505");
        assert_eq!(upstream.to_string(), "[::1]:4506");
    }
}
