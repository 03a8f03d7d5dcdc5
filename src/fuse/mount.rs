//! Mounting a view and running its session.

use std::io;
use std::path::{Path, PathBuf};

use fuser::{Config, MountOption, Session, SessionACL};

use super::Adapter;

/// Why a view could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point is no directory.
    #[error("{path}: {error}; the mount point must be an existing directory")]
    Point {
        /// The mount point.
        path: PathBuf,
        /// What looking at it answered.
        error: io::Error,
    },
    /// The kernel refused.
    #[error("mounting on {path}: {error}{}", hint(.error))]
    Kernel {
        /// The mount point.
        path: PathBuf,
        /// What mount(2) or the handshake answered.
        error: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (mounting needs root)",
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => " (is /dev/fuse there, fuse loaded?)",
        _ => "",
    }
}

/// A mounted view, not yet serving.
#[derive(Debug)]
pub struct MountPoint {
    session: Session<Adapter>,
}

/// Mounts; requests wait until [`MountPoint::run`].
///
/// # Errors
/// [`MountError`], with the reason and what to do.
pub fn mount(adapter: Adapter, point: &Path, threads: usize) -> Result<MountPoint, MountError> {
    let failed = |error| MountError::Point {
        path: point.into(),
        error,
    };
    if !std::fs::metadata(point).map_err(failed)?.is_dir() {
        return Err(failed(io::Error::from_raw_os_error(libc::ENOTDIR)));
    }
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(format!("statelite:{}", adapter.name())),
        MountOption::Subtype("statelite".into()),
        MountOption::DefaultPermissions,
        MountOption::Suid,
        MountOption::Dev,
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(threads.max(1));
    config.clone_fd = threads > 1;
    let session = Session::new(adapter, point, &config).map_err(|error| MountError::Kernel {
        path: point.into(),
        error,
    })?;
    Ok(MountPoint { session })
}

impl MountPoint {
    /// Serves until the view is unmounted.
    ///
    /// # Errors
    /// What reading requests answers, other than that the view was unmounted.
    pub fn run(self) -> io::Result<()> {
        self.session.run()
    }

    /// Ends a session from another thread, by unmounting.
    pub fn unmounter(&mut self) -> fuser::SessionUnmounter {
        self.session.unmount_callable()
    }
}
