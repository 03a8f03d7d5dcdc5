//! What a reboot does to a node's writable layers: the tmpfs upper is emptied, the others stay.

use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::stores;
use crate::config::Config;
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
