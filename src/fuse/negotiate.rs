//! What is asked of the kernel when a view is mounted (FUSE_INIT).

use fuser::{InitFlags, KernelConfig};

use super::adapter::Adapter;
use crate::fs::IoMode;

/// What the view cannot do without. Each is asked for alone: asking for several where one is
/// missing gets none (fuser's `add_capabilities`).
const REQUIRED: [InitFlags; 1] = [InitFlags::FUSE_DONT_MASK];

/// As well, where the kernel tells of opens.
const REQUIRED_OPENING: [InitFlags; 1] = [InitFlags::FUSE_ATOMIC_O_TRUNC];

/// What makes it better.
const WANTED: [InitFlags; 6] = [
    // A worker that follows knows what it may have been given before.
    InitFlags::FUSE_HAS_RESEND,
    // File handles are answered by number (LOOKUP of "." and "..").
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_POSIX_ACL,
    // The kernel then asks for no attribute before every write.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_DO_READDIRPLUS,
];

/// Where an answer may cost a look into a store, attributes come with a listing only as long as
/// they are asked for.
const UNWATCHED: [InitFlags; 1] = [InitFlags::FUSE_READDIRPLUS_AUTO];

/// What saves requests where the kernel is told of every change in what it keeps: it opens
/// directories and keeps their listings without asking, and the targets of symlinks.
const WATCHED: [InitFlags; 2] = [
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_CACHE_SYMLINKS,
];

impl Adapter {
    /// Asks for what the view needs and what makes it better.
    ///
    /// # Errors
    /// `EPROTO` where this kernel lacks what a view needs.
    pub(super) fn negotiate(&mut self, config: &mut KernelConfig) -> std::io::Result<()> {
        let mode = self.view().io();
        let opening: &[InitFlags] = match mode {
            // What is truncated at an open that is not told of comes as a change of attributes.
            IoMode::Cached => &[],
            _ => &REQUIRED_OPENING,
        };
        for &flag in REQUIRED.iter().chain(opening) {
            config.add_capabilities(flag).map_err(|missing| {
                tracing::error!(?missing, "this kernel's FUSE lacks what a view needs");
                std::io::Error::from_raw_os_error(libc::EPROTO)
            })?;
        }
        let watched: &[InitFlags] = if self.view().is_watched() {
            &WATCHED
        } else {
            &UNWATCHED
        };
        for &flag in WANTED.iter().chain(watched) {
            match config.add_capabilities(flag) {
                Ok(()) if flag == InitFlags::FUSE_NO_OPENDIR_SUPPORT => self.no_opendir = true,
                Ok(()) => {}
                Err(_) if flag == InitFlags::FUSE_HAS_RESEND => tracing::warn!(
                    "this kernel is older than 6.9: who waits for a request while this process is killed or replaced waits until the root is unmounted"
                ),
                Err(missing) => tracing::info!(?missing, "not offered by this kernel"),
            }
        }
        if mode == IoMode::Passthrough {
            // One level: a view can still be a layer of an overlayfs.
            let offered = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
                && config.set_max_stack_depth(1).is_ok();
            match offered {
                true => self.io.offer(),
                false => {
                    tracing::info!("this kernel has no passthrough: the daemon reads and writes")
                }
            }
        }
        Ok(())
    }
}
