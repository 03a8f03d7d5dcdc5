//! What must be mounted on the server before a view can be built: a node's tmpfs, and, where the
//! configuration says so, remote litetrees and stores.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::MountFlags;

use crate::config::Config;
use crate::sys::{Errno, dir, obj};
use crate::tables::{Location, NodeSpec};

/// A small tmpfs has so many inodes all the same.
const FEW_INODES: u64 = 16 << 10;

/// Why something is not mounted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A node's tmpfs.
    #[error("{path}: {error}; this is where the node's tmpfs (tmpfs_dir) is mounted")]
    Tmpfs {
        /// Where.
        path: PathBuf,
        /// What failed.
        error: std::io::Error,
    },
    /// A remote store.
    #[error("mounting {what} on {path}: {why}")]
    Remote {
        /// `host:path`.
        what: String,
        /// Where.
        path: PathBuf,
        /// What mount(8) said.
        why: String,
    },
}

/// Where a node's tmpfs is mounted.
pub fn tmpfs_point(config: &Config, node: &str) -> PathBuf {
    config.tmpfs_dir.join(node)
}

/// Is this directory the root of a mount?
pub fn is_mount_point(path: &Path) -> bool {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        .and_then(obj::stat)
        .is_ok_and(|stat| stat.mount_root)
}

/// Makes sure that a node has a tmpfs of its own, of the configured size; one that is there
/// already is given that size and keeps its contents.
///
/// # Errors
/// [`StoreError::Tmpfs`].
pub fn ensure_tmpfs(config: &Config, spec: &NodeSpec) -> Result<PathBuf, StoreError> {
    let path = tmpfs_point(config, &spec.node);
    let failed = |error: std::io::Error| StoreError::Tmpfs {
        path: path.clone(),
        error,
    };
    dir::make_all(&path).map_err(failed)?;
    let size = config.tmpfs_size_of(&spec.node, &spec.groups);
    let options = std::ffi::CString::new(format!("size={size},mode=0755"))
        .map_err(|e| failed(std::io::Error::other(e)))?;
    // Devices and setuid programs of the node work through its view, never on the server.
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    let mounted = if is_mount_point(&path) {
        rustix::mount::mount_remount(&path, flags, options.as_c_str())
    } else {
        rustix::mount::mount(
            "statelite-tmpfs",
            &path,
            "tmpfs",
            flags,
            Some(options.as_c_str()),
        )
    };
    mounted.map_err(|e| failed(e.into()))?;
    bound_inodes(&path, flags).map_err(|e| failed(e.into()))?;
    let upper = path.join("upper");
    dir::make_all(&upper).map_err(failed)?;
    Ok(path)
}

/// An empty file takes none of a tmpfs' size, and about a KiB of the server's memory all the same; the kernel would have as many
/// as half of the server's pages (tmpfs(5), nr_inodes). So there are as many as the size has KiB.
fn bound_inodes(tmpfs: &Path, flags: MountFlags) -> Result<(), Errno> {
    let stat = rustix::fs::statvfs(tmpfs)?;
    let used = stat.f_files.saturating_sub(stat.f_ffree);
    let inodes = (stat.f_blocks * stat.f_frsize / 1024)
        .max(FEW_INODES)
        .max(used);
    let options = format!("nr_inodes={inodes}");
    rustix::mount::mount_remount(tmpfs, flags, options)
}

/// Mounts a remote location with its row's options, hard unless they say otherwise.
///
/// # Errors
/// [`StoreError::Remote`].
pub fn ensure_remote(location: &Location, mntopts: &str) -> Result<(), StoreError> {
    let Some((host, export)) = &location.remote else {
        return Ok(());
    };
    if is_mount_point(&location.path) {
        return Ok(());
    }
    let what = format!("{host}:{export}");
    let failed = |why: String| StoreError::Remote {
        what: what.clone(),
        path: location.path.clone(),
        why,
    };
    dir::make_all(&location.path).map_err(|e| failed(e.to_string()))?;
    let soft = mntopts
        .split(',')
        .any(|option| option == "soft" || option == "hard");
    let hard = if soft { "" } else { "hard" };
    let options = [hard, mntopts]
        .into_iter()
        .filter(|o| !o.is_empty())
        .collect::<Vec<_>>();
    let mut mount = Command::new("mount");
    mount.args(["-t", "nfs"]);
    if !options.is_empty() {
        mount.args(["-o", &options.join(",")]);
    }
    mount.arg(&what).arg(&location.path).stdin(Stdio::null());
    let done = mount
        .output()
        .map_err(|e| failed(format!("mount(8): {e}")))?;
    if done.status.success() {
        return Ok(());
    }
    Err(failed(
        String::from_utf8_lossy(&done.stderr).trim().to_owned(),
    ))
}
