//! The section `redis` of a daemon's configuration, as far as both daemons share it.

use daemon_kit::config::Section;

use crate::config::{ConfigError, RedisConfig};

impl RedisConfig {
    /// Reads a server that the operator runs; notes every mistake at its key.
    pub fn read(section: &Section<'_>) -> Self {
        let config = Self {
            url: section.string("url"),
            read_url: section.optional_string("read_url"),
            username: section.optional_string("username"),
            password_file: section.optional_path("password_file"),
            ca_file: section.optional_path("ca_file"),
            op_timeout: section.duration("op_timeout", Self::OP_TIMEOUT),
        };
        if !config.url.is_empty() {
            for mistake in config.check() {
                section.mistake(key_of(&mistake), mistake.to_string(), "");
            }
        }
        config
    }
}

fn key_of(mistake: &ConfigError) -> &'static str {
    match mistake {
        ConfigError::Url { key, .. }
        | ConfigError::SecretInUrl { key }
        | ConfigError::File { key, .. } => key.strip_prefix("redis.").unwrap_or(key),
        ConfigError::UsernameAlone => "username",
        ConfigError::NoPassword { .. } => "password_file",
        ConfigError::NoCertificate { .. } | ConfigError::CaFileWithoutTls => "ca_file",
        ConfigError::OpTimeoutTooShort => "op_timeout",
    }
}
