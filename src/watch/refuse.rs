//! Which directories can be watched, and what is said of those that can't.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::system::Root;
use super::tree;
use crate::sys::{Errno, Res, fanotify, mountinfo, obj};

/// Why a directory is not watched. Whoever wants to know of its changes has to look.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotWatched {
    /// It can't be opened.
    #[error("{}: {error}", path.display())]
    NotThere {
        /// The directory.
        path: PathBuf,
        /// open(2)'s reason.
        error: Errno,
    },
    /// Not all that changes there is told by this kernel.
    #[error("{}: changes of {kind} can't be watched: {}", path.display(), if *remote {
        "other machines or a user's program make them without this kernel's knowledge"
    } else {
        "only local file systems known to report all of them are"
    })]
    FileSystem {
        /// The directory.
        path: PathBuf,
        /// The type of its file system, as /proc/self/mountinfo has it.
        kind: String,
        /// It is known to be a network, cluster or FUSE file system.
        remote: bool,
    },
    /// The file system can't say which directory a handle belongs to.
    #[error("{}: its file system ({kind}) has no file handles: {error}", path.display())]
    NoHandles {
        /// The directory.
        path: PathBuf,
        /// The type of its file system.
        kind: String,
        /// The reason of name_to_handle_at(2) or open_by_handle_at(2).
        error: Errno,
    },
    /// Another file system is mounted below it.
    #[error("{}: {} is a mount of its own, whose changes would not be seen", path.display(), at.display())]
    MountBelow {
        /// The directory.
        path: PathBuf,
        /// The first mount point below it.
        at: PathBuf,
    },
    /// The kernel refuses the mark.
    #[error("{}: the kernel does not watch this file system ({kind}): {error}{}", path.display(), match *error {
        Errno::XDEV => "; a btrfs subvolume can't be watched, the whole file system's top can",
        Errno::PERM => "; CAP_SYS_ADMIN is needed in the first user namespace",
        Errno::NOSPC => "; raise fs.fanotify.max_user_marks",
        Errno::NODEV => "; it has no identity of its own (fsid)",
        _ => "",
    })]
    Kernel {
        /// The directory.
        path: PathBuf,
        /// The type of its file system.
        kind: String,
        /// fanotify_mark(2)'s reason.
        error: Errno,
    },
    /// The watcher's thread has ended.
    #[error("events can't be read any more: nothing is watched until a restart")]
    Ended,
}

/// f_type of the file systems that only this kernel changes and that report every change
/// (include/uapi/linux/magic.h; ZFS and ISO 9660 in their own sources). Those that are read-only
/// report nothing, since nothing changes.
const LOCAL: [u64; 10] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
    0x9660,      // iso9660
];

/// Types in the mount table whose contents come from elsewhere; FUSE's are "fuse" and "fuse.*".
const REMOTE: [&str; 18] = [
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "afs", "lustre", "gpfs", "beegfs",
    "gfs2", "ocfs2", "virtiofs", "orangefs", "pvfs2", "panfs", "fuseblk",
];

/// A directory that may be watched.
pub(super) struct Suitable {
    pub(super) fd: OwnedFd,
    pub(super) root: Root,
    pub(super) kind: String,
}

/// Opens a directory and looks whether it may be watched.
pub(super) fn look(path: &Path) -> Result<Suitable, NotWatched> {
    let not_there = |error| NotWatched::NotThere {
        path: path.into(),
        error,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(not_there)?;
    let own = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new());
    let own = PathBuf::from(OsString::from_vec(own.map_err(not_there)?.into_bytes()));
    let table = mountinfo::read()
        .map_err(|error| not_there(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    let mount = obj::mount_id(&fd).map_err(not_there)?;
    // A mount that the table does not have was taken away this moment.
    let entry = table
        .iter()
        .find(|m| m.id == mount)
        .ok_or(not_there(Errno::STALE))?;
    let kind = entry.kind.clone();
    let statfs = rustix::fs::fstatfs(&fd).map_err(not_there)?;
    let magic = u64::try_from(statfs.f_type).unwrap_or_default() & 0xffff_ffff;
    if !LOCAL.contains(&magic) {
        let remote = REMOTE.contains(&&*kind) || kind == "fuse" || kind.starts_with("fuse.");
        return Err(NotWatched::FileSystem {
            path: path.into(),
            kind,
            remote,
        });
    }
    let handle = handle_and_back(&fd).map_err(|error| NotWatched::NoHandles {
        path: path.into(),
        kind: kind.clone(),
        error,
    })?;
    if let Some(below) = tree::mount_below(&table, &own) {
        return Err(NotWatched::MountBelow {
            path: path.into(),
            at: below.point.clone(),
        });
    }
    let root = Root {
        path: own,
        handle,
        fsid: fanotify::fsid_of(&fd).map_err(not_there)?,
        mount,
        dev: entry.dev,
    };
    Ok(Suitable { fd, root, kind })
}

/// The handle of a directory, and whether it leads back to it.
fn handle_and_back(fd: &OwnedFd) -> Res<Box<[u8]>> {
    let handle = fanotify::handle_of(fd.as_fd())?;
    let back = obj::stat(fanotify::open_handle(fd.as_fd(), &handle)?)?;
    let there = obj::stat(fd)?;
    if (back.dev, back.ino) == (there.dev, there.ino) {
        Ok(handle)
    } else {
        Err(Errno::STALE)
    }
}
