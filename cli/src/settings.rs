//! Where the bridge answers, and what it takes to be let in: from `saltway.yaml` and the arguments.
//!
//! The file is the daemons', which check it whole (`saltway-bridge --check`); here only the keys
//! that matter to a client are read, and unknown ones are passed over.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use daemon_kit::config::{self, Section};
use daemon_kit::http::LISTEN_DEFAULT;
use daemon_kit::yaml::{Node, Value};
use openssl::x509::X509;

use crate::args::Args;
use crate::client::Client;

/// Largest token or certificate file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// As the daemons have it.
const JOB_TTL_DEFAULT: Duration = Duration::from_secs(300);

/// What the file says to a client.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the bridge listens.
    pub(crate) listen: SocketAddr,
    /// The bridge's certificate, if it serves TLS.
    pub(crate) tls_cert: Option<PathBuf>,
    /// File with the token, if the bridge wants one.
    pub(crate) token_file: Option<PathBuf>,
    /// The MoM's configuration.
    pub(crate) salt_config: PathBuf,
    /// How long a job may wait for its site.
    pub(crate) job_ttl: Duration,
    /// The daemon's files, and the record of placeholder keys.
    pub(crate) state_dir: PathBuf,
}

impl Settings {
    /// Reads `file`.
    pub(crate) fn load(file: &Path) -> anyhow::Result<Self> {
        let document = config::load_document(file)?;
        let root = document.root.as_ref();
        let settings = config::load(file, |section| Self::read(section, root));
        Ok(settings?)
    }

    fn read(root: &Section<'_>, node: Option<&Node>) -> Self {
        ignore_all(root, node);
        let http = root.section("http");
        ignore_all(&http, node.and_then(|node| entry(node, "http")));
        let listen = LISTEN_DEFAULT
            .parse()
            .expect("the default is an address and a port");
        Self {
            listen: http.socket_addr("listen", listen),
            tls_cert: http.optional_path("tls_cert"),
            token_file: http.optional_path("token_file"),
            salt_config: root.path_or("salt_config", "/etc/salt/master"),
            job_ttl: root.duration("job_ttl", JOB_TTL_DEFAULT),
            state_dir: root.path_or("state_dir", "/var/lib/saltway"),
        }
    }

    /// The address to ask from the bridge's own host.
    fn url(&self) -> anyhow::Result<String> {
        let port = self.listen.port();
        let Some(cert) = &self.tls_cert else {
            return Ok(format!(
                "http://{}",
                SocketAddr::new(reachable(self.listen.ip()), port)
            ));
        };
        let host = certified_host(&read_file(cert, "certificate")?, self.listen.ip())
            .with_context(|| format!("{} names no host; use --url", cert.display()))?;
        Ok(format!("https://{host}:{port}"))
    }
}

/// The bridge to ask, by the arguments and, where they leave something open, by the file.
pub(crate) fn client(args: &Args) -> anyhow::Result<Client> {
    let settings = match (Settings::load(&args.config), &args.url) {
        (Ok(settings), _) => Some(settings),
        // Another host's bridge: this host need not have the file.
        (Err(_), Some(_)) => None,
        (Err(err), None) => {
            return Err(err.context(format!(
                "cannot tell where the bridge is from {}; name a file by --config, or the bridge by --url http://127.0.0.1:9464",
                args.config.display()
            )));
        }
    };
    let of_file = |pick: fn(&Settings) -> Option<PathBuf>| settings.as_ref().and_then(pick);
    let url = match (&args.url, &settings) {
        (Some(url), _) => url.trim_end_matches('/').to_owned(),
        (None, Some(settings)) => settings.url()?,
        (None, None) => anyhow::bail!("name the bridge by --url"),
    };
    let token = args
        .token_file
        .clone()
        .or_else(|| of_file(|settings| settings.token_file.clone()));
    let token = token.map(|file| read_token(&file)).transpose()?;
    let own = of_file(|settings| settings.tls_cert.clone());
    let ca = match (&args.ca_file, own) {
        (Some(file), _) => Some(read_file(file, "authority file")?),
        // A certificate that nobody else has signed vouches for itself; others are the system's.
        (None, Some(file)) => {
            Some(read_file(&file, "certificate")?).filter(|pem| is_self_signed(pem))
        }
        (None, None) => None,
    };
    Client::new(&url, token, ca.as_deref())
}

fn ignore_all(section: &Section<'_>, node: Option<&Node>) {
    if let Some(Node {
        value: Value::Mapping(entries),
        ..
    }) = node
    {
        let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        section.ignore(&keys);
    }
}

fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    match &node.value {
        Value::Mapping(entries) => entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value),
        Value::Scalar(_) | Value::Sequence(_) => None,
    }
}

/// The loopback where a port listens on every address.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    }
}

/// The name under which the certificate can be verified: the address itself, else its first name.
fn certified_host(pem: &[u8], ip: IpAddr) -> Option<String> {
    let cert = X509::from_pem(pem).ok()?;
    let names = cert.subject_alt_names()?;
    let octets = match reachable(ip) {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    if names.iter().any(|name| name.ipaddress() == Some(&octets)) {
        return Some(
            SocketAddr::new(reachable(ip), 0)
                .to_string()
                .trim_end_matches(":0")
                .to_owned(),
        );
    }
    names
        .iter()
        .find_map(|name| name.dnsname().map(str::to_owned))
}

fn is_self_signed(pem: &[u8]) -> bool {
    X509::from_pem(pem).is_ok_and(|cert| {
        let names = (cert.subject_name().to_der(), cert.issuer_name().to_der());
        matches!(names, (Ok(subject), Ok(issuer)) if subject == issuer)
    })
}

fn read_token(file: &Path) -> anyhow::Result<String> {
    let bytes = read_file(file, "token file")?;
    let text = String::from_utf8(bytes).ok();
    text.as_deref()
        .and_then(|text| text.lines().next())
        .map(str::trim)
        .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
        .map(str::to_owned)
        .with_context(|| {
            format!(
                "the first line of {} is no token; copy the bridge's file",
                file.display()
            )
        })
}

fn read_file(file: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    let told = || {
        format!(
            "the {what} {} cannot be read; run saltway as a user who may",
            file.display()
        )
    };
    let size = fs::metadata(file).with_context(told)?.len();
    anyhow::ensure!(
        size <= FILE_BYTES_MAX,
        "{} is too large to be a {what}",
        file.display()
    );
    fs::read(file).with_context(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Settings {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("saltway.yaml");
        fs::write(&file, text).expect("written");
        Settings::load(&file).expect("valid")
    }

    #[test]
    fn keys_of_the_daemons_are_passed_over() {
        let settings =
            load("mom: main\nnew_key: 3\nhttp: {listen: '0.0.0.0:99', other: 1, token_file: /t}\n");
        assert_eq!(settings.url().expect("a url"), "http://127.0.0.1:99");
        assert_eq!(settings.token_file, Some("/t".into()));
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let settings = load("mom: main\n");
        assert_eq!(settings.url().expect("a url"), "http://127.0.0.1:9464");
        assert_eq!(settings.salt_config, Path::new("/etc/salt/master"));
    }

    #[test]
    fn a_mistake_names_file_line_and_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("saltway.yaml");
        fs::write(&file, "mom: main\nhttp:\n  listen: nowhere\n").expect("written");
        let told = Settings::load(&file).expect_err("wrong").to_string();
        assert!(told.contains("saltway.yaml:3: http.listen"), "{told}");
    }
}
