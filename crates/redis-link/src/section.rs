//! The section `redis` of a daemon's configuration, as far as both daemons share it.

use daemon_kit::config::Section;

use crate::config::{ConfigError, Primary, RedisConfig, SentinelConfig};

impl RedisConfig {
    /// Reads a deployment that the operator runs; notes every mistake at its key.
    pub fn read(section: &Section<'_>) -> Self {
        let config = Self {
            primary: read_primary(section),
            read_url: section.optional_string("read_url"),
            username: section.optional_string("username"),
            password_file: section.optional_path("password_file"),
            ca_file: section.optional_path("ca_file"),
            op_timeout: section.duration("op_timeout", Self::OP_TIMEOUT),
        };
        // That the key is missing is told already.
        if config.primary != Primary::Url(String::new()) {
            for mistake in config.check() {
                let (key, within) = key_of(&mistake);
                if within {
                    let section = section.section("sentinel");
                    section.mistake(key, mistake.to_string(), "");
                } else {
                    section.mistake(key, mistake.to_string(), "");
                }
            }
        }
        config
    }
}

fn read_primary(section: &Section<'_>) -> Primary {
    if !section.has("sentinel") {
        return Primary::Url(section.string("url"));
    }
    if section.has("url") {
        section.ignore(&["url"]);
        let problem = "redis.url and redis.sentinel both say where the primary is";
        let remedy = "leave out url: the sentinels know it; read_url may stay";
        section.mistake("url", problem, remedy);
    }
    let sentinel = section.section("sentinel");
    Primary::Sentinel(SentinelConfig {
        master: sentinel.optional_string("master").unwrap_or_default(),
        urls: sentinel.string_or_list("urls"),
        username: sentinel.optional_string("username"),
        password_file: sentinel.optional_path("password_file"),
    })
}

/// The key of a mistake, and whether it is one of the section `sentinel`.
fn key_of(mistake: &ConfigError) -> (&'static str, bool) {
    let key = match mistake {
        ConfigError::Url { key, .. }
        | ConfigError::SecretInUrl { key }
        | ConfigError::File { key, .. }
        | ConfigError::NoPassword { key, .. }
        | ConfigError::UsernameAlone { username: key, .. } => key,
        ConfigError::NoSentinelMaster => "redis.sentinel.master",
        ConfigError::NoSentinels | ConfigError::SentinelTlsMixed => "redis.sentinel.urls",
        ConfigError::NoCertificate { .. } | ConfigError::CaFileWithoutTls => "redis.ca_file",
        ConfigError::OpTimeoutTooShort => "redis.op_timeout",
    };
    let key = key.strip_prefix("redis.").unwrap_or(key);
    match key.strip_prefix("sentinel.") {
        Some(key) => (key, true),
        None => (key, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the section makes, or every mistake in one text.
    fn read(text: &str) -> Result<RedisConfig, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("saltway.yaml");
        std::fs::write(&file, format!("redis: {text}\n")).expect("written");
        daemon_kit::config::load(&file, |root| RedisConfig::read(&root.section("redis")))
            .map_err(|mistakes| mistakes.to_string())
    }

    fn told(text: &str, parts: &[&str]) {
        let mistakes = read(text).expect_err("mistakes");
        for part in parts {
            assert!(mistakes.contains(part), "{part} is missing in {mistakes}");
        }
    }

    #[test]
    fn sentinels_take_the_place_of_the_url() {
        let config = read("{sentinel: {master: relay, urls: ['redis://a:26379', 'redis://b']}}");
        let urls = ["redis://a:26379", "redis://b"].map(str::to_owned);
        let sentinel = SentinelConfig::new("relay", urls.to_vec());
        assert_eq!(config.expect("valid").primary, Primary::Sentinel(sentinel));
        let config = read("{sentinel: {master: relay, urls: 'redis://a'}, read_url: 'redis://r'}");
        assert_eq!(
            config.expect("valid").read_url.as_deref(),
            Some("redis://r")
        );
    }

    #[test]
    fn every_mistake_is_told_at_its_key() {
        told("{read_url: x}", &["redis.url"]);
        told(
            "{url: 'redis://a', sentinel: {urls: ['b'], username: u, mistre: relay}, read_url: x}",
            &[
                "redis.url and redis.sentinel both",
                "redis.sentinel.master",
                "redis.sentinel.urls",
                "redis.sentinel.username",
                "redis.read_url",
                "mistre",
            ],
        );
        told(
            "{sentinel: {master: relay}}",
            &["redis.sentinel.urls is empty"],
        );
        told("{sentinel: relay}", &["sentinel"]);
    }
}
