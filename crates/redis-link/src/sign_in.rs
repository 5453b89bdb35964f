//! How to sign in at a server or at a sentinel.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::{Client, ConnectionInfo};

use crate::config::{ConfigError, RedisConfig, SENTINEL, SERVERS, Server, SignInKeys};
use crate::config::{SentinelConfig, certificates, password};
use crate::error::{RedisError, chain};

pub(crate) struct SignIn {
    keys: SignInKeys,
    username: Option<String>,
    password_file: Option<PathBuf>,
    ca: Option<Vec<u8>>,
    /// How long the network may owe an answer to what was sent: half-open connections end then.
    unacked: Duration,
}

impl SignIn {
    pub(crate) fn at_servers(config: &RedisConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            keys: SERVERS,
            username: config.username.clone(),
            password_file: config.password_file.clone(),
            ca: config.ca_file.as_deref().map(certificates).transpose()?,
            unacked: config.op_timeout,
        })
    }

    pub(crate) fn at_sentinels(
        sentinel: &SentinelConfig,
        config: &RedisConfig,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            keys: SENTINEL,
            username: sentinel.username.clone(),
            password_file: sentinel.password_file.clone(),
            ..Self::at_servers(config)?
        })
    }

    /// A client with the password that the file holds now: a changed password needs no restart.
    pub(crate) fn client(&self, server: &Server, url: &str) -> Result<Client, RedisError> {
        let info = &server.info;
        let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(path) = &self.password_file {
            let key = self.keys.password_file;
            let unreadable = |error: ConfigError| RedisError::PasswordFile {
                key,
                path: path.display().to_string(),
                source: Arc::new(std::io::Error::other(chain(&error))),
            };
            settings = settings.set_password(password(key, path).map_err(unreadable)?);
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info: ConnectionInfo = info
            .clone()
            .set_redis_settings(settings)
            .set_tcp_settings(tcp.set_user_timeout(self.unacked));
        let client = match &self.ca {
            Some(ca) if server.tls => Client::build_with_tls(
                info,
                redis::TlsCertificates {
                    client_tls: None,
                    root_cert: Some(ca.clone()),
                },
            ),
            Some(_) | None => Client::open(info),
        };
        client.map_err(|error| RedisError::sort_connect(url, error))
    }
}
