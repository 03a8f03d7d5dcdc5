//! The names and attributes in which a store keeps what a plain tree cannot say: deletions,
//! opaque directories, numbers. A node neither sees nor forges them (SEMANTICS section 6).
//!
//! Owns: the forms. May not: do I/O.

use std::ffi::{CStr, CString};

use crate::sys::{Errno, Res};

/// An opaque directory (kernel Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
/// directories").
pub const OPAQUE: &CStr = c"trusted.overlay.opaque";
/// The number of a copied-up object, 8 bytes, little endian.
pub const NUMBER: &CStr = c"trusted.overlay.statelite.ino";

/// The name space of overlayfs' attributes, which ours lie in.
const PREFIX: &[u8] = b"trusted.overlay.";
/// How overlayfs keeps attributes of that space that a user sets (same document, "Nesting
/// overlayfs mounts").
const ESCAPED: &[u8] = b"trusted.overlay.overlay.";

/// Everything that begins so is ours, in every form of store.
pub const OURS: &[u8] = b".wh..statelite.";
/// The work directory of an upper that was given none.
pub const WORK: &[u8] = b".wh..statelite.work";
/// Prefix of a whiteout in the `.wh.` form.
pub const WH: &[u8] = b".wh.";
/// Marks an opaque directory in the `.wh.` form.
pub const WH_OPAQUE: &[u8] = b".wh..wh..opq";

/// What the character device 0:0 of a node is stored as, since 0:0 is the whiteout: major 0 is
/// no driver's (include/linux/kdev_t.h), and this minor is refused to nodes.
pub const STORED_NULL_DEVICE: u64 = libc::makedev(0, 0xf_ffff);
/// The whiteout's device number, and the one that [`STORED_NULL_DEVICE`] stands for.
pub const NULL_DEVICE: u64 = libc::makedev(0, 0);

/// How a store keeps deletions.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Form {
    /// Character device 0:0 and `trusted.overlay.*`.
    Device,
    /// `.wh.<name>` and `.wh..wh..opq`, for stores that hold no devices or attributes (NFS).
    File,
}

/// Is this name the machinery's in a store of this form?
pub fn is_ours(name: &[u8], form: Form) -> bool {
    name.starts_with(OURS) || (form == Form::File && name.starts_with(WH))
}

/// The name of a whiteout in the `.wh.` form.
///
/// # Errors
/// `ENAMETOOLONG` where the prefix does not fit before the name; `EPERM` for the few names whose
/// whiteout would be something else.
pub fn whiteout_name(name: &[u8]) -> Res<Vec<u8>> {
    if name.len() + WH.len() > 255 {
        return Err(Errno::NAMETOOLONG);
    }
    let mark = [WH, name].concat();
    if is_reserved(&mark) {
        return Err(Errno::PERM);
    }
    Ok(mark)
}

/// Is this name, in the `.wh.` form, something else than the whiteout of a name?
pub fn is_reserved(mark: &[u8]) -> bool {
    mark.starts_with(OURS) || mark == WH_OPAQUE
}

/// An attribute's name in the view to its name in a store.
///
/// # Errors
/// `ERANGE` where the escaped name is too long (XATTR_NAME_MAX).
pub fn attr_to_store(name: &CStr) -> Res<CString> {
    let bytes = name.to_bytes();
    let Some(rest) = bytes.strip_prefix(PREFIX) else {
        return Ok(name.to_owned());
    };
    let escaped = [ESCAPED, rest].concat();
    if escaped.len() > 255 {
        return Err(Errno::RANGE);
    }
    CString::new(escaped).map_err(|_| Errno::INVAL)
}

/// A stored attribute's name as the view shows it; `None` for the machinery's own.
pub fn attr_to_view(name: &[u8]) -> Option<Vec<u8>> {
    if let Some(rest) = name.strip_prefix(ESCAPED) {
        return Some([PREFIX, rest].concat());
    }
    (!name.starts_with(PREFIX)).then(|| name.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_never_names_the_machinery() {
        let forged = attr_to_store(OPAQUE).unwrap();
        assert_eq!(forged.to_bytes(), b"trusted.overlay.overlay.opaque");
        assert_eq!(attr_to_view(forged.to_bytes()).unwrap(), OPAQUE.to_bytes());
        assert_eq!(attr_to_view(OPAQUE.to_bytes()), None);
        assert_eq!(attr_to_view(NUMBER.to_bytes()), None);
        assert_eq!(attr_to_view(b"user.x").unwrap(), b"user.x");
        assert_eq!(attr_to_store(c"user.x").unwrap().as_c_str(), c"user.x");
    }

    #[test]
    fn names_of_each_form() {
        assert!(is_ours(WORK, Form::Device) && is_ours(WORK, Form::File));
        assert!(is_ours(b".wh.x", Form::File) && !is_ours(b".wh.x", Form::Device));
        assert_eq!(whiteout_name(&[b'x'; 252]), Err(Errno::NAMETOOLONG));
        assert_eq!(whiteout_name(b"x").unwrap(), b".wh.x");
        assert_eq!(whiteout_name(b".wh.x").unwrap(), b".wh..wh.x");
        assert_eq!(whiteout_name(b".wh..opq"), Err(Errno::PERM));
        assert_eq!(whiteout_name(b".statelite.work"), Err(Errno::PERM));
        assert_eq!(whiteout_name(b".statelite").unwrap(), b".wh..statelite");
    }
}
