//! The files of a managed server: directory, password, configuration.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{ManagedRedisConfig, Persistence, ServerError};
use crate::value::hex;

/// Bytes of a generated password before they are written in hexadecimal.
const PASSWORD_BYTES: usize = 32;

pub(super) fn config_path(dir: &Path) -> PathBuf {
    dir.join("redis.conf")
}

pub(super) fn pid_path(dir: &Path) -> PathBuf {
    dir.join("redis.pid")
}

/// Makes the directory, the password if one is needed, and the configuration. Returns the file of
/// the password.
pub(super) fn prepare(
    config: &ManagedRedisConfig,
    dir: &Path,
) -> Result<Option<PathBuf>, ServerError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed("create the directory", dir))?;
    let password_file = match &config.password_file {
        Some(path) => Some(path.clone()),
        None if config.listen.ip().is_loopback() => None,
        None => Some(dir.join("password")),
    };
    let password = password_file.as_deref().map(password).transpose()?;
    let text = config_text(config, dir, password.as_deref());
    let path = config_path(dir);
    let new = dir.join("redis.conf.new");
    // Written anew each time: a file of an earlier run could be open to others.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(failed("replace", &new)(error));
        }
        Ok(()) | Err(_) => {}
    }
    write_secret(&new, &text).map_err(failed("write", &new))?;
    fs::rename(&new, &path).map_err(failed("write", &path))?;
    Ok(password_file)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ServerError {
    let path = path.to_owned();
    move |source| ServerError::File { what, path, source }
}

fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The password in the file, which is made when it does not exist.
fn password(path: &Path) -> Result<String, ServerError> {
    if !path.exists() {
        let mut random = [0_u8; PASSWORD_BYTES];
        openssl::rand::rand_bytes(&mut random)
            .map_err(|error| failed("generate", path)(std::io::Error::other(error)))?;
        write_secret(path, &format!("{}\n", hex(&random))).map_err(failed("write", path))?;
    }
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    let password = text.trim();
    if password.is_empty() {
        return Err(ServerError::NoPassword {
            path: path.to_owned(),
        });
    }
    Ok(password.to_owned())
}

fn config_text(config: &ManagedRedisConfig, dir: &Path, password: Option<&str>) -> String {
    let mut lines = vec![
        "# Written by saltway-bridge at each start; changes here are lost.".to_owned(),
        format!("bind {}", config.listen.ip()),
        format!("port {}", config.listen.port()),
        "protected-mode yes".to_owned(),
        "daemonize no".to_owned(),
        "databases 1".to_owned(),
        "tcp-keepalive 60".to_owned(),
        format!("dir {}", quoted(dir)),
        format!("pidfile {}", quoted(&pid_path(dir))),
        "logfile \"\"".to_owned(),
        // Entries are never thrown away behind our back: writes are refused instead.
        format!("maxmemory {}", config.maxmemory_bytes),
        "maxmemory-policy noeviction".to_owned(),
        // Room for a burst of publications towards a site on a slow line.
        "client-output-buffer-limit pubsub 64mb 32mb 60".to_owned(),
    ];
    lines.push(match config.persistence {
        Persistence::None => "save \"\"\nappendonly no".to_owned(),
        Persistence::Snapshot => "save 60 1\nappendonly no".to_owned(),
        Persistence::Append => "save \"\"\nappendonly yes\nappendfsync everysec".to_owned(),
    });
    if let Some(password) = password {
        lines.push(format!("requirepass {}", quoted_bytes(password.as_bytes())));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn quoted(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    quoted_bytes(path.as_os_str().as_bytes())
}

/// A string as redis.conf reads it, whatever its bytes.
fn quoted_bytes(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("\"");
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing into a String does not fail.
            write!(text, "\\x{byte:02x}").unwrap_or_default();
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_cannot_break_out_of_its_line() {
        assert_eq!(quoted_bytes(b"a\"b\nc d"), r#""a\x22b\x0ac\x20d""#);
    }

    #[test]
    fn a_server_beyond_loopback_gets_a_password_that_only_its_owner_reads() {
        use std::os::unix::fs::PermissionsExt as _;
        let state = tempfile::tempdir().expect("a directory");
        let mut config = ManagedRedisConfig::new(state.path());
        let dir = config.dir();
        assert_eq!(prepare(&config, &dir).expect("prepared"), None);
        config.listen = "0.0.0.0:6379".parse().expect("an address");
        let file = prepare(&config, &dir)
            .expect("prepared")
            .expect("a password");
        let password = fs::read_to_string(&file).expect("readable");
        assert_eq!(password.trim().len(), 2 * PASSWORD_BYTES);
        for path in [&file, &config_path(&dir)] {
            let mode = fs::metadata(path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
        assert_eq!(prepare(&config, &dir).expect("again"), Some(file.clone()));
        assert_eq!(
            fs::read_to_string(&file).expect("readable"),
            password,
            "kept over restarts"
        );
    }
}
