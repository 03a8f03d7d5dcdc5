//! What a reboot does to a node's writable layers: the tmpfs upper is emptied, the others stay. And how
//! one boot is told from another, where several calls come for each.
//!
//! The last boot stands in a file of the node's tmpfs, beside its upper: it outlives the daemon, and ends
//! with the server's own uptime, as the tmpfs does.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::stores;
use crate::config::Config;
use crate::control::Boot;
use crate::layer::store::empty_dir;
use crate::sys::{Errno, mountinfo};

/// Why nothing was reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The node is using it.
    #[error("node {node} is mounted on {point}; unmount it, or reset it all the same with --force")]
    Mounted {
        /// The node.
        node: String,
        /// Where.
        point: PathBuf,
    },
    /// What is mounted could not be found out.
    #[error("/proc/self/mountinfo: {0}")]
    Mounts(std::io::Error),
    /// A directory could not be emptied.
    #[error("{path}: {error}")]
    Empty {
        /// Which.
        path: PathBuf,
        /// Why.
        error: Errno,
    },
    /// What the last boot was can't be read or written.
    #[error("{path}: {error}")]
    Boot {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The boot that a node's tmpfs was last emptied for.
#[derive(Debug, Deserialize, Serialize)]
struct LastBoot {
    token: Option<String>,
    /// On the server's clock since it was started.
    at: Duration,
}

fn boot_file(config: &Config, node: &str) -> PathBuf {
    stores::tmpfs_point(config, node).join("boot")
}

fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// Was the tmpfs emptied for this boot already?
pub(super) fn is_done(config: &Config, node: &str, boot: &Boot) -> Result<bool, ResetError> {
    let path = boot_file(config, node);
    let last = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<LastBoot>(&bytes).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => Err(error),
    };
    let last = last.map_err(|error| ResetError::Boot { path, error })?;
    Ok(match &boot.token {
        Some(token) => last.token.as_ref() == Some(token),
        None => uptime().saturating_sub(last.at) < config.boot_window,
    })
}

/// Notes that it was. Without a tmpfs there is nothing to empty another time.
pub(super) fn note(config: &Config, node: &str, boot: &Boot) -> Result<(), ResetError> {
    let path = boot_file(config, node);
    if !stores::is_mount_point(&stores::tmpfs_point(config, node)) {
        return Ok(());
    }
    let last = LastBoot {
        token: boot.token.clone(),
        at: uptime(),
    };
    let beside = path.with_extension("new");
    let written = serde_json::to_vec(&last)
        .map_err(io::Error::from)
        .and_then(|text| crate::sys::dir::create_file(&beside, false)?.write_all(&text))
        .and_then(|()| std::fs::rename(&beside, &path));
    written.map_err(|error| ResetError::Boot { path, error })
}

/// As [`reset`], once for each boot. Returns false where it was done already, too.
///
/// # Errors
/// [`ResetError`].
pub fn reset_on_boot(
    config: &Config,
    node: &str,
    boot: &Boot,
    force: bool,
) -> Result<bool, ResetError> {
    let _one = alone(config, node)?;
    if is_done(config, node, boot)? {
        return Ok(false);
    }
    let done = reset(config, node, force)?;
    note(config, node, boot)?;
    Ok(done)
}

/// Two hooks of one boot at once, where no daemon has them wait for one another: held until it is dropped.
fn alone(config: &Config, node: &str) -> Result<Option<OwnedFd>, ResetError> {
    let path = stores::tmpfs_point(config, node);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let locked = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(dir) => rustix::fs::flock(&dir, FlockOperation::LockExclusive).map(|()| Some(dir)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    };
    locked.map_err(|error| ResetError::Boot {
        path,
        error: error.into(),
    })
}

/// Empties a node's tmpfs upper. Returns false where it has none, so that there was nothing to do.
///
/// # Errors
/// [`ResetError::Mounted`] without `force` while the node's view is mounted.
pub fn reset(config: &Config, node: &str, force: bool) -> Result<bool, ResetError> {
    if !force && let Some(point) = mounted_on(node).map_err(ResetError::Mounts)? {
        return Err(ResetError::Mounted {
            node: node.into(),
            point,
        });
    }
    empty(config, node)
}

/// The emptying alone: whoever calls it knows that the node's view is not mounted.
pub(super) fn empty(config: &Config, node: &str) -> Result<bool, ResetError> {
    let tmpfs = stores::tmpfs_point(config, node);
    if !stores::is_mount_point(&tmpfs) {
        return Ok(false);
    }
    for name in ["upper", "work"] {
        let path = tmpfs.join(name);
        let failed = |error| ResetError::Empty {
            path: path.clone(),
            error,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(dir) => empty_dir(&dir).map_err(failed)?,
            Err(Errno::NOENT) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(true)
}

/// The mount point of a node's view, if there is one.
pub(super) fn mounted_on(node: &str) -> std::io::Result<Option<PathBuf>> {
    let source = format!("statelite:{node}");
    let ours = mountinfo::read()?.into_iter().find(|mount| {
        // The kernel says the subtype only where it was mounted with one.
        matches!(&*mount.kind, "fuse" | "fuse.statelite") && *mount.source == *source
    });
    Ok(ours.map(|mount| mount.point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_boot_is_told_from_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            tmpfs_dir: dir.path().into(),
            boot_window: Duration::from_secs(3600),
            ..Config::default()
        };
        let boot = |token: Option<&str>| Boot {
            token: token.map(str::to_owned),
        };
        let put = |token: Option<&str>, at: Duration| {
            let token = token.map(str::to_owned);
            let text = serde_json::to_vec(&LastBoot { token, at }).unwrap();
            std::fs::create_dir_all(dir.path().join("cn1")).unwrap();
            std::fs::write(
                boot_file(
                    &Config {
                        tmpfs_dir: dir.path().into(),
                        ..Config::default()
                    },
                    "cn1",
                ),
                text,
            )
            .unwrap();
        };
        assert!(!is_done(&config, "cn1", &boot(None)).unwrap());
        put(Some("a"), uptime());
        assert!(is_done(&config, "cn1", &boot(None)).unwrap());
        assert!(is_done(&config, "cn1", &boot(Some("a"))).unwrap());
        assert!(!is_done(&config, "cn1", &boot(Some("b"))).unwrap());
        config.boot_window = Duration::ZERO;
        assert!(!is_done(&config, "cn1", &boot(None)).unwrap());
        assert!(
            is_done(&config, "cn1", &boot(Some("a"))).unwrap(),
            "whenever it comes"
        );
        // What can't be read is no reason to take from a node that runs what it has.
        std::fs::write(dir.path().join("cn1/boot"), "{").unwrap();
        let told = is_done(&config, "cn1", &boot(None))
            .unwrap_err()
            .to_string();
        assert!(told.contains("cn1/boot: "), "{told}");
        // Where no tmpfs is mounted, nothing is written.
        std::fs::remove_file(dir.path().join("cn1/boot")).unwrap();
        note(&config, "cn1", &boot(None)).unwrap();
        assert!(!dir.path().join("cn1/boot").exists());
    }
}
