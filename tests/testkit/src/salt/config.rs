//! Writing Salt's configuration files. Values are written as JSON, which is YAML.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// A configuration file in the making: options, then lines that a test adds as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    options: Map<String, Value>,
    extra: String,
}

impl Config {
    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.options.insert(key.to_owned(), value.into());
    }

    /// Adds YAML; its top-level keys replace options of the same name (YAML would refuse to have both).
    pub(crate) fn extra(&mut self, yaml: &str) {
        for line in yaml.lines() {
            if let Some((key, _)) = line.split_once(':')
                && !key.starts_with([' ', '#', '-'])
            {
                self.options.remove(key.trim());
            }
        }
        self.extra.push_str(yaml.trim_end());
        self.extra.push('\n');
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        for (key, value) in &self.options {
            text.push_str(&format!("{key}: {value}\n"));
        }
        text.push_str(&self.extra);
        fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
    }
}

/// The directory of one daemon, or of a lower master's host with its syndic.
#[derive(Clone, Debug)]
pub(crate) struct HostDir {
    pub(crate) path: PathBuf,
}

impl HostDir {
    pub(crate) fn create(workspace: &Path, name: &str) -> Result<Self> {
        let path = workspace.join(name);
        for part in ["etc", "pki", "cache", "run", "log"] {
            fs::create_dir_all(path.join(part))
                .with_context(|| format!("failed to make {}", path.display()))?;
        }
        Ok(Self { path })
    }

    pub(crate) fn etc(&self) -> PathBuf {
        self.path.join("etc")
    }

    pub(crate) fn pki(&self, role: &str) -> PathBuf {
        self.path.join("pki").join(role)
    }

    pub(crate) fn log(&self, role: &str) -> PathBuf {
        self.path.join("log").join(role)
    }

    /// What master and minion have in common; `role` is `master` or `minion`.
    pub(crate) fn options(&self, role: &str, id: &str) -> Config {
        let mut config = Config::default();
        let path = |part: &str| self.path.join(part).join(role).display().to_string();
        config.set("id", id);
        config.set("user", "root");
        config.set("root_dir", self.path.display().to_string());
        config.set("pki_dir", path("pki"));
        config.set("cachedir", path("cache"));
        config.set("sock_dir", path("run"));
        config.set(
            "pidfile",
            self.path
                .join("run")
                .join(format!("{role}.pid"))
                .display()
                .to_string(),
        );
        config.set("log_file", self.log(role).display().to_string());
        // What the console shows; the log file has more. Salt 3008 warns about its own unclosed objects after each command.
        config.set("log_level", "error");
        config.set("log_level_logfile", "info");
        // Grains that ask name servers or hardware.
        config.set("enable_fqdns_grains", false);
        config.set("enable_gpu_grains", false);
        // Salt's defaults draw a delay of 1 to 10 s for the first reconnect; a daemon that starts a moment before its master pays it.
        config.set("recon_default", 50);
        config.set("recon_max", 500);
        config.set("recon_randomize", false);
        // Everything is on this host, and a test's key is accepted before its owner starts.
        config.set("acceptance_wait_time", 1);
        config.set("random_startup_delay", 0);
        config
    }

    /// The minion options of a host: of a salt-minion, or of the syndic that reads them.
    pub(crate) fn minion_options(&self, id: &str) -> Config {
        let mut config = self.options("minion", id);
        config.set("enable_lspci", false);
        config.set("mine_enabled", false);
        config.set("random_reauth_delay", 1);
        config.set("auth_timeout", 5);
        config
    }
}
