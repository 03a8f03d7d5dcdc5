//! Stable numbers: one serves as nodeid, st_ino and what an NFS handle holds.
//!
//! What comes from an image or a litetree: a 62-bit hash of its path, the same on every server
//! and after every restart. What a node created: a hash of the upper's own inode and its birth
//! time, with the high bit set, so that hard links share it and a reused inode gets another.

use xxhash_rust::xxh3::xxh3_64;

/// The root of every view (FUSE_ROOT_ID, include/uapi/linux/fuse.h).
pub const ROOT: u64 = 1;

const PATH_BITS: u64 = (1 << 62) - 1;
/// What one grain of salt adds: odd, so that no two salts of a path agree (2^64 by the golden ratio).
pub(super) const GRAIN: u64 = 0x9e37_79b9_7f4a_7c15;
const UPPER_BIT: u64 = 1 << 63;

/// The number of what has this path in the view, and comes from a lower layer. `salt` is 0, and
/// counts up only where two paths of one view collide.
pub fn of_path(path: &[u8], salt: u32) -> u64 {
    if path.is_empty() {
        return ROOT;
    }
    let salted = xxh3_64(path).wrapping_add(GRAIN.wrapping_mul(u64::from(salt)));
    // 0 is "no such name" in a FUSE reply, 1 the root; FUSE_ROOT_ID and below are nobody's.
    (salted & PATH_BITS).max(2)
}

/// The number without salt of the path whose number with this salt it is: so a table of unsalted
/// numbers finds them all. With no salt any number is its own.
pub fn unsalted(number: u64, salt: u32) -> u64 {
    if salt == 0 {
        return number;
    }
    let hash = number.wrapping_sub(GRAIN.wrapping_mul(u64::from(salt)));
    (hash & PATH_BITS).max(2)
}

/// The number of what a node created: from the kind of upper (two uppers of one node may lie on
/// file systems that number alike), the backing inode and its birth time.
pub fn of_upper(upper: u8, ino: u64, birth: (i64, u32)) -> u64 {
    let mut bytes = [0u8; 21];
    bytes[0] = upper;
    bytes[1..9].copy_from_slice(&ino.to_le_bytes());
    bytes[9..17].copy_from_slice(&birth.0.to_le_bytes());
    bytes[17..].copy_from_slice(&birth.1.to_le_bytes());
    xxh3_64(&bytes) | UPPER_BIT
}

/// Does this number stand for a path (and not for an inode of an upper)?
pub fn is_of_path(number: u64) -> bool {
    number & UPPER_BIT == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_on_every_server() {
        // Handles on NFS clients and copies in stores hold these: they may never change.
        assert_eq!(of_path(b"", 0), ROOT);
        assert_eq!(of_path(b"etc/passwd", 0), 0x1f8a80cada4f6d82);
        assert!(of_path(b"etc/passwd", 0) < 1 << 62);
        for salt in 1..8 {
            let salted = of_path(b"etc/passwd", salt);
            assert!(salted < 1 << 62 && salted != of_path(b"etc/passwd", salt - 1));
            assert_eq!(unsalted(salted, salt), of_path(b"etc/passwd", 0));
        }
        assert_eq!(unsalted(UPPER_BIT | 1, 0), UPPER_BIT | 1);
    }

    #[test]
    fn a_reused_inode_gets_another_number() {
        let first = of_upper(0, 12, (1_700_000_000, 1));
        assert_ne!(first, of_upper(0, 12, (1_700_000_000, 2)));
        assert_ne!(first, of_upper(1, 12, (1_700_000_000, 1)));
        assert!(!is_of_path(first) && is_of_path(of_path(b"a", 0)));
    }
}
