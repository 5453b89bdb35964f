//! Loopback addresses that belong to one user at a time, so that fixed port numbers never collide.
//!
//! Salt wants the same `publish_port` number on the top master and on each lower master. Instead of looking for free ports, which is a
//! race, every server here leases an address of its own out of 127.66.0.0/16 (Linux answers on all of 127.0.0.0/8 without any set-up)
//! and uses the usual ports on it: 4505 and 4506, 6379, 9464.
//!
//! A lease is a locked file in the [`shared_dir`]: the kernel releases it when the process ends, however it ends, and test processes that run
//! at the same time see each other's leases. Ports that need no fixed number count up from 20000, below the kernel's own range.

use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail};

/// First of the ports that [`Address::free_port`] hands out.
const FIRST_PORT: u16 = 20_000;

/// A leased loopback address; the lease ends with the last clone.
#[derive(Clone, Debug)]
pub struct Address {
    lease: Arc<Lease>,
}

#[derive(Debug)]
struct Lease {
    ip: Ipv4Addr,
    next_port: AtomicU16,
    _lock: File,
}

impl Address {
    /// Leases an address that no other process of this user holds.
    ///
    /// # Errors
    /// When the lock directory cannot be written, or all addresses are taken.
    pub fn lease() -> Result<Self> {
        let dir = shared_dir()?.join("addresses");
        fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
        // Processes that run side by side start in different places, so they seldom try the same file.
        let first = std::process::id().wrapping_mul(61);
        for step in 0..u32::from(u16::MAX) {
            let [_, _, third, fourth] = first.wrapping_add(step).to_be_bytes();
            if matches!(fourth, 0 | 255) {
                continue;
            }
            let ip = Ipv4Addr::new(127, 66, third, fourth);
            let path = dir.join(ip.to_string());
            let lock = File::create(&path)
                .with_context(|| format!("failed to open {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) if is_unused(ip) => {
                    let next_port = AtomicU16::new(FIRST_PORT);
                    return Ok(Self {
                        lease: Arc::new(Lease {
                            ip,
                            next_port,
                            _lock: lock,
                        }),
                    });
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error)
                        .with_context(|| format!("failed to lock {}", path.display()));
                }
            }
        }
        bail!(
            "no address of 127.66.0.0/16 is free (locks in {})",
            dir.display()
        );
    }

    /// The address itself.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.lease.ip
    }

    /// This address with a port of the caller's choice.
    #[must_use]
    pub fn socket(&self, port: u16) -> SocketAddr {
        (self.lease.ip, port).into()
    }

    /// This address with a port that nobody got from it before.
    #[must_use]
    pub fn free_port(&self) -> SocketAddr {
        self.socket(self.lease.next_port.fetch_add(1, Ordering::Relaxed))
    }
}

/// Another user's servers, or one that listens on all addresses, do not show in our locks; they show here.
fn is_unused(ip: Ipv4Addr) -> bool {
    [4505, 4506, 6379]
        .into_iter()
        .all(|port| TcpListener::bind((ip, port)).is_ok())
}

/// What test processes of this user share: leases and generated keys. Readable by this user only.
///
/// # Errors
/// When the directory cannot be made.
pub fn shared_dir() -> Result<PathBuf> {
    let path = PathBuf::from(format!(
        "/tmp/saltway-testkit-{}",
        rustix::process::getuid().as_raw()
    ));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .with_context(|| format!("failed to make {}", path.display()))?;
    Ok(path)
}
