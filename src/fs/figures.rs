//! What a view has, for who counts.

use super::View;
use crate::metrics::Figures;

/// f_type of what is kept in memory (include/uapi/linux/magic.h).
const TMPFS_MAGIC: u64 = 0x0102_1994;

impl View {
    /// Inodes, and how full the tmpfs is.
    pub fn figures(&self) -> Figures {
        Figures {
            inodes: self.inode_count() as u64,
            tmpfs: self.tmpfs_room(),
        }
    }

    /// Used bytes and size. Asks no other file system: one on a network may not answer.
    fn tmpfs_room(&self) -> Option<(u64, u64)> {
        let spec = self.layers[self.roles.tmpfs? as usize].spec();
        if spec.upper.as_ref()?.durable {
            return None;
        }
        let fs = rustix::fs::statfs(&spec.base).ok()?;
        // Without its mount this would be the server's own disk; without a limit there is no size.
        if fs.f_type as u64 != TMPFS_MAGIC || fs.f_blocks == 0 {
            return None;
        }
        let bytes = |blocks: u64| blocks * fs.f_bsize as u64;
        Some((bytes(fs.f_blocks - fs.f_bfree), bytes(fs.f_blocks)))
    }
}
