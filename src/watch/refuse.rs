//! Which directories can be watched, and what is said of those that can't.

use std::path::PathBuf;

use crate::sys::Errno;

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
