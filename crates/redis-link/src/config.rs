//! Where Redis is and how to sign in: checked once, every mistake reported.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Who knows where the primary is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Primary {
    /// The configuration: `redis://host:port` or, with TLS, `rediss://host:port`.
    Url(String),
    /// Redis Sentinel; asked each time that a connection for writes is made.
    Sentinel(SentinelConfig),
}

/// The section `redis.sentinel`, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelConfig {
    /// The name of the primary in `sentinel monitor`.
    pub master: String,
    /// The sentinels. With `rediss://` they and the servers are spoken to by TLS.
    pub urls: Vec<String>,
    /// The ACL user at the sentinels. Default: their default user.
    pub username: Option<String>,
    /// The file that holds the password for the sentinels. Default: they ask for none.
    pub password_file: Option<PathBuf>,
}

impl SentinelConfig {
    /// The sentinels at `urls`, which ask for no password.
    #[must_use]
    pub fn new(master: impl Into<String>, urls: Vec<String>) -> Self {
        Self {
            master: master.into(),
            urls,
            username: None,
            password_file: None,
        }
    }

    pub(crate) fn tls(&self) -> bool {
        self.urls.iter().any(|url| url.starts_with("rediss:"))
    }

    fn check(&self, mistakes: &mut Vec<ConfigError>) {
        if self.master.trim().is_empty() {
            mistakes.push(ConfigError::NoSentinelMaster);
        }
        if self.urls.is_empty() {
            mistakes.push(ConfigError::NoSentinels);
        }
        for url in &self.urls {
            mistakes.extend(server("redis.sentinel.urls", url).err());
        }
        if self.tls() && !self.urls.iter().all(|url| url.starts_with("rediss:")) {
            mistakes.push(ConfigError::SentinelTlsMixed);
        }
        check_sign_in(
            SENTINEL,
            self.username.as_ref(),
            self.password_file.as_ref(),
            mistakes,
        );
    }
}

/// The keys of a user's name and password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignInKeys {
    username: &'static str,
    pub(crate) password_file: &'static str,
}

/// At the servers.
pub(crate) const SERVERS: SignInKeys = SignInKeys {
    username: "redis.username",
    password_file: "redis.password_file",
};

/// At the sentinels.
pub(crate) const SENTINEL: SignInKeys = SignInKeys {
    username: "redis.sentinel.username",
    password_file: "redis.sentinel.password_file",
};

fn check_sign_in(
    keys: SignInKeys,
    username: Option<&String>,
    password_file: Option<&PathBuf>,
    mistakes: &mut Vec<ConfigError>,
) {
    match (username, password_file) {
        (Some(_), None) => mistakes.push(ConfigError::UsernameAlone {
            username: keys.username,
            password_file: keys.password_file,
        }),
        (_, Some(path)) => mistakes.extend(password(keys.password_file, path).err()),
        (None, None) => {}
    }
}

/// The `redis:` section of a daemon's configuration, as written. Checked by [`RedisConfig::check`]
/// and again by [`crate::Redis::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// The primary, or who knows where it is.
    pub primary: Primary,
    /// The server to listen and read at, such as the nearest replica. Default: the primary.
    pub read_url: Option<String>,
    /// The ACL user. Default: the server's default user.
    pub username: Option<String>,
    /// The file that holds the password; blanks and line ends around it do not count.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities that a `rediss://` server's certificate is checked against, in
    /// addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// How long a small operation may take. Large frames get more, in proportion.
    pub op_timeout: Duration,
}

impl RedisConfig {
    /// How long an operation may take unless configured.
    pub const OP_TIMEOUT: Duration = Duration::from_secs(2);

    /// A server at `url`, with defaults for the rest.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            primary: Primary::Url(url.into()),
            read_url: None,
            username: None,
            password_file: None,
            ca_file: None,
            op_timeout: Self::OP_TIMEOUT,
        }
    }

    /// Every mistake in it; empty when there is none. Reads the files that it names.
    #[must_use]
    pub fn check(&self) -> Vec<ConfigError> {
        let mut mistakes = Vec::new();
        let tls = match &self.primary {
            Primary::Url(url) => {
                mistakes.extend(server("redis.url", url).err());
                url.starts_with("rediss:")
            }
            Primary::Sentinel(sentinel) => {
                sentinel.check(&mut mistakes);
                sentinel.tls()
            }
        };
        if let Some(read_url) = &self.read_url {
            mistakes.extend(server("redis.read_url", read_url).err());
        }
        let (username, password_file) = (self.username.as_ref(), self.password_file.as_ref());
        check_sign_in(SERVERS, username, password_file, &mut mistakes);
        if let Some(path) = &self.ca_file {
            mistakes.extend(certificates(path).err());
            let read = self.read_url.as_ref();
            if !tls && !read.is_some_and(|url| url.starts_with("rediss:")) {
                mistakes.push(ConfigError::CaFileWithoutTls);
            }
        }
        if self.op_timeout < Duration::from_millis(100) {
            mistakes.push(ConfigError::OpTimeoutTooShort);
        }
        mistakes
    }
}

/// A mistake in the `redis:` section.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a URL of a Redis server.
    #[error("{key}: {reason}; write redis://host:6379, or rediss://host:6379 for TLS")]
    Url {
        /// The configuration key.
        key: &'static str,
        /// What is wrong with it; never the URL itself, which may hold a password.
        reason: String,
    },
    /// A secret in the URL.
    #[error(
        "{key} holds a user or password: put the user into redis.username and the password into a file named by redis.password_file"
    )]
    SecretInUrl {
        /// The configuration key.
        key: &'static str,
    },
    /// A user without a password.
    #[error(
        "{username} is set but {password_file} is not: name the file that holds the user's password"
    )]
    UsernameAlone {
        /// The key that is set.
        username: &'static str,
        /// The key that is not.
        password_file: &'static str,
    },
    /// A primary without a name.
    #[error(
        "redis.sentinel.master is missing: write the name that `sentinel monitor` gives the primary"
    )]
    NoSentinelMaster,
    /// Nobody to ask.
    #[error("redis.sentinel.urls is empty: name the sentinels, such as redis://host:26379")]
    NoSentinels,
    /// Some sentinels with TLS, some without.
    #[error(
        "redis.sentinel.urls mixes redis:// and rediss://: all sentinels and servers use TLS, or none"
    )]
    SentinelTlsMixed,
    /// A file that cannot be read.
    #[error("{key}: cannot read {path}: it has to exist and be readable to this process")]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A password file without a password.
    #[error("{key}: {path} holds no password: write the password into its first line")]
    NoPassword {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A file without certificates.
    #[error(
        "redis.ca_file: {path} holds no certificate: it has to be PEM (`-----BEGIN CERTIFICATE-----`)"
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Authorities for a server that is spoken to without TLS.
    #[error("redis.ca_file is set but no URL asks for TLS: write rediss:// instead of redis://")]
    CaFileWithoutTls,
    /// A time-out that cannot be met.
    #[error("redis.op_timeout is below 100ms: a server at some distance could not answer in time")]
    OpTimeoutTooShort,
}

/// A URL without its secrets, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) info: redis::ConnectionInfo,
    pub(crate) tls: bool,
}

/// Takes a URL apart.
pub(crate) fn server(key: &'static str, url: &str) -> Result<Server, ConfigError> {
    let authority = url
        .split_once("://")
        .map(|(_, rest)| rest.split(['/', '?', '#']).next());
    if authority
        .flatten()
        .is_some_and(|authority| authority.contains('@'))
    {
        return Err(ConfigError::SecretInUrl { key });
    }
    let scheme = url.split("://").next().unwrap_or_default();
    let tls = match scheme {
        "redis" => false,
        "rediss" => true,
        _ => {
            return Err(ConfigError::Url {
                key,
                reason: "not a redis:// or rediss:// URL".to_owned(),
            });
        }
    };
    if url.contains(['#', '?']) {
        return Err(ConfigError::Url {
            key,
            reason: "options behind # or ? are not supported".to_owned(),
        });
    }
    let info =
        redis::IntoConnectionInfo::into_connection_info(url).map_err(|error| ConfigError::Url {
            key,
            reason: error.to_string(),
        })?;
    Ok(Server { info, tls })
}

/// The largest file that a secret or certificates are read from.
const FILE_BYTES_MAX: u64 = 1 << 20;

fn read_file(key: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    use std::io::Read as _;
    let read = || {
        let mut content = Vec::new();
        std::fs::File::open(path)?
            .take(FILE_BYTES_MAX)
            .read_to_end(&mut content)?;
        Ok(content)
    };
    read().map_err(|source| ConfigError::File {
        key,
        path: path.to_owned(),
        source,
    })
}

/// The password in a file, without the white space around it.
pub(crate) fn password(key: &'static str, path: &Path) -> Result<String, ConfigError> {
    let content = read_file(key, path)?;
    let text = String::from_utf8_lossy(&content);
    let password = text.trim();
    if password.is_empty() {
        return Err(ConfigError::NoPassword {
            key,
            path: path.to_owned(),
        });
    }
    Ok(password.to_owned())
}

/// The certificates in a PEM file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let content = read_file("redis.ca_file", path)?;
    match openssl::x509::X509::stack_from_pem(&content) {
        Ok(found) if !found.is_empty() => Ok(content),
        _ => Err(ConfigError::NoCertificate {
            path: path.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(config: &RedisConfig) -> String {
        config
            .check()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_plain_url_is_enough() {
        assert_eq!(mistakes(&RedisConfig::new("redis://127.0.0.1:6379")), "");
        assert_eq!(
            mistakes(&RedisConfig::new("rediss://redis.example.com")),
            ""
        );
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        for url in [
            "redis://:geheim@127.0.0.1",
            "redis://user:geheim@h:1/0",
            "rediss://geheim@h",
        ] {
            let text = mistakes(&RedisConfig::new(url));
            assert!(text.contains("redis.password_file"), "{text}");
            assert!(!text.contains("geheim"), "{text}");
        }
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let config = RedisConfig {
            primary: Primary::Url("http://127.0.0.1".to_owned()),
            read_url: Some("redis://".to_owned()),
            username: Some("saltway-site".to_owned()),
            password_file: None,
            ca_file: Some("/nonexistent/ca.pem".into()),
            op_timeout: Duration::ZERO,
        };
        let text = mistakes(&config);
        for part in [
            "redis.url",
            "redis.read_url",
            "redis.username",
            "/nonexistent/ca.pem",
            "rediss://",
            "op_timeout",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn every_mistake_about_sentinels_is_reported_at_once() {
        let config = RedisConfig {
            primary: Primary::Sentinel(SentinelConfig {
                master: " ".to_owned(),
                urls: [
                    "redis://a:26379",
                    "rediss://b:26379",
                    "b:26379",
                    "redis://:x@c",
                ]
                .map(str::to_owned)
                .to_vec(),
                username: Some("saltway".to_owned()),
                password_file: None,
            }),
            ..RedisConfig::new("")
        };
        let text = mistakes(&config);
        for part in [
            "redis.sentinel.master is missing",
            "redis.sentinel.urls mixes",
            "redis.sentinel.urls: not a redis://",
            "redis.sentinel.urls holds a user or password",
            "redis.sentinel.username is set but redis.sentinel.password_file is not",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        let none = SentinelConfig::new("relay", Vec::new());
        let config = RedisConfig {
            primary: Primary::Sentinel(none),
            ..config
        };
        assert!(mistakes(&config).contains("redis.sentinel.urls is empty"));
    }

    #[test]
    fn files_without_their_content_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, " \n").expect("written");
        let mut config = RedisConfig::new("rediss://h");
        config.password_file = Some(file.clone());
        config.ca_file = Some(file);
        let text = mistakes(&config);
        assert!(
            text.contains("holds no password") && text.contains("holds no certificate"),
            "{text}"
        );
    }
}
