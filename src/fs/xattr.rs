//! GETXATTR, LISTXATTR, SETXATTR, REMOVEXATTR. The machinery's attributes are neither shown nor
//! forged; an ACL that a layer's file system cannot hold is one that is not there.

use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use rustix::fs::XattrFlags;

use super::reach::attrs_by;
use super::upper::Data;
use super::{Caller, Inode, View};
use crate::inode::id;
use crate::keep::request;
use crate::layer::machinery;
use crate::sys::obj::{self, Xattrs};
use crate::sys::{Errno, Res};

/// Never there unless somebody sets it (capabilities(7)); others come from a default ACL or a
/// security module when a file is made.
const CAPABILITY: &[u8] = b"security.capability";
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// The root directory's access ACL as it was last found, and in which generation of the view. A
/// kernel asks for it at each walk through the root by a user who does not own it: it makes that
/// inode before it knows that there are ACLs, and does not cache them for it (fs/fuse/inode.c,
/// `fuse_init_inode`).
#[derive(Debug, Default)]
pub(super) struct RootAcl(Mutex<Option<(u64, Option<Vec<u8>>)>>);

fn stored(name: &[u8]) -> Res<CString> {
    machinery::attr_to_store(&CString::new(name).map_err(|_| Errno::INVAL)?)
}

/// Is it open under the handle that it was made or copied under, and nobody has set an attribute?
fn is_bare(inode: &Inode) -> bool {
    let made_under = inode.data.bare.load(Ordering::Relaxed);
    made_under != 0 && made_under == inode.data.writer.load(Ordering::Relaxed)
}

fn is_acl(name: &[u8]) -> bool {
    ACLS.contains(&name)
}

impl View {
    /// One attribute's value.
    ///
    /// # Errors
    /// `ENODATA` where it is not there.
    pub fn getxattr(&self, number: u64, name: &[u8]) -> Res<Vec<u8>> {
        match number == id::ROOT && name == ACLS[0] && self.is_watched() {
            true => self.root_acl(),
            false => self.attribute(number, name),
        }
    }

    fn root_acl(&self) -> Res<Vec<u8>> {
        // Before the look: what changes meanwhile has another one.
        let generation = self.generation();
        // Held during the look: who changes it waits, and then says so.
        let mut known = self.held.root_acl.0.lock();
        if let Some((at, acl)) = &*known
            && *at == generation
        {
            return acl.clone().ok_or(Errno::NODATA);
        }
        let found = self.attribute(id::ROOT, ACLS[0]);
        *known = match &found {
            Ok(acl) => Some((generation, Some(acl.clone()))),
            Err(Errno::NODATA) => Some((generation, None)),
            Err(_) => None,
        };
        found
    }

    /// Attributes were changed, of the root perhaps.
    pub(super) fn acl_changed(&self, number: u64) {
        if number == id::ROOT {
            *self.held.root_acl.0.lock() = None;
        }
    }

    fn attribute(&self, number: u64, name: &[u8]) -> Res<Vec<u8>> {
        let stored = stored(name)?;
        let inode = self.inode(number)?;
        let value = if let Some((fd, flags, ..)) = self.writing_to(&inode) {
            // The kernel asks for a capability that a first write or a new owner would clear.
            if name == CAPABILITY && is_bare(&inode) {
                return Err(Errno::NODATA);
            }
            attrs_by(flags, &fd).get(&stored)
        } else {
            let here = match self.near_named(&inode) {
                Some(here) => here,
                None => self.object(&inode)?,
            };
            let fd = self.reach(&here)?.ok_or(Errno::NODATA)?;
            here.attrs_by(fd).get(&stored)
        };
        match value {
            // squashfs and others answer so; passed on, it would fail every open by another user
            // (fs/posix_acl.c asks at each permission check).
            Err(Errno::OPNOTSUPP) if is_acl(name) => Err(Errno::NODATA),
            other => other,
        }
    }

    /// All names that the caller may see, each ended by a NUL. `trusted.*` is root's (xattr(7);
    /// the kernel leaves this to the file system, as in fs/ext4/xattr_trusted.c).
    ///
    /// # Errors
    /// What the layer answers.
    pub fn listxattr(&self, number: u64, caller: Caller) -> Res<Vec<u8>> {
        let here = self.object(&*self.inode(number)?)?;
        let Some(fd) = self.reach(&here)? else {
            return Ok(Vec::new());
        };
        let mut shown = Vec::new();
        for name in Xattrs::of(fd)
            .list()?
            .split(|b| *b == 0)
            .filter(|name| !name.is_empty())
        {
            if caller.uid != 0 && name.starts_with(b"trusted.") {
                continue;
            }
            if let Some(name) = machinery::attr_to_view(name) {
                shown.extend_from_slice(&name);
                shown.push(0);
            }
        }
        Ok(shown)
    }

    /// Sets an attribute. `flags` as setxattr(2).
    ///
    /// # Errors
    /// `EROFS` outside writable zones; what copy-up and the upper answer.
    pub fn setxattr(
        &self,
        number: u64,
        name: &[u8],
        value: &[u8],
        flags: i32,
        caller: Caller,
    ) -> Res<()> {
        let set = self.set(number, name, value, flags, caller);
        self.acl_changed(number);
        set
    }

    fn set(&self, number: u64, name: &[u8], value: &[u8], flags: i32, caller: Caller) -> Res<()> {
        let stored = stored(name)?;
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let inode = self.inode(number)?;
        let here = self.copy_up(&inode, Data::Whole)?;
        inode.data.bare.store(0, Ordering::Relaxed);
        let fd = self.reach(&here)?.ok_or(Errno::IO)?;
        let attrs = here.attrs_by(fd);
        self.was_done(
            attrs.set(&stored, value, flags),
            &[Errno::EXIST, Errno::NODATA],
            || (attrs.get(&stored).ok()? == value).then_some(()),
        )?;
        // Setting an access ACL is a chmod: someone outside the file's group, without
        // CAP_FSETID, loses the setgid bit (fs/posix_acl.c, posix_acl_update_mode).
        if name == ACLS[0] && caller.uid != 0 && caller.gid != here.attr.stat.gid {
            let stat = obj::stat(fd)?;
            if stat.mode & libc::S_ISGID != 0 && !stat.is_dir() {
                obj::chmod(fd, stat.mode & !libc::S_ISGID)?;
            }
        }
        Ok(())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// `ENODATA` where it is not there, before anything is copied up.
    pub fn removexattr(&self, number: u64, name: &[u8]) -> Res<()> {
        let removed = self.remove_attribute(number, name);
        self.acl_changed(number);
        removed
    }

    fn remove_attribute(&self, number: u64, name: &[u8]) -> Res<()> {
        let stored: CString = stored(name)?;
        let inode = self.inode(number)?;
        self.writable(self.pos_of(&inode))?;
        let gone = |name: &CStr| -> Res<()> {
            let here = self.object(&inode)?;
            let fd = self.reach(&here)?.ok_or(Errno::NODATA)?;
            Xattrs::of(fd).get(name).map(drop)
        };
        match gone(&stored) {
            // Removing an ACL that is not there is no error (fs/posix_acl.c, vfs_remove_acl).
            Err(Errno::NODATA | Errno::OPNOTSUPP) if is_acl(name) => return Ok(()),
            // It was done when it came first.
            Err(Errno::NODATA) if request::is_resent() => return Ok(()),
            other => other?,
        }
        let here = self.copy_up(&inode, Data::Whole)?;
        Xattrs::of(self.reach(&here)?.ok_or(Errno::IO)?).remove(&stored)
    }
}
