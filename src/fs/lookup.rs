//! LOOKUP, FORGET, READLINK.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::node::Orphan;
use super::resolve::{Here, Outcome};
use super::{Attr, Entry, Inode, Node, View};
use crate::inode::id;
use crate::inode::table::Naming;
use crate::sys::{Errno, Res};

impl View {
    /// A name in a directory; the reply counts as a lookup.
    ///
    /// "." and ".." are how the kernel asks for a number that it got out of a file handle
    /// (fs/fuse/inode.c, fuse_get_dentry and fuse_get_parent).
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`; `ESTALE` for a number that is not known.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Res<Entry> {
        let dir_inode = self.inode(parent)?;
        match name {
            b"." => return self.again(&dir_inode),
            b".." => {
                let links = dir_inode.links();
                let up = links.first().map_or(&dir_inode, |link| &link.parent);
                return self.again(up);
            }
            _ => {}
        }
        let dir = self.dir(&dir_inode)?;
        match self.resolve(&dir, name)? {
            Outcome::Here(here) => Ok(Entry {
                attr: self.enter(&dir_inode, name, *here)?.0,
            }),
            Outcome::Absent { .. } => Err(Errno::NOENT),
        }
    }

    /// Counts one more lookup of a known inode.
    fn again(&self, inode: &Arc<Inode>) -> Res<Entry> {
        let here = self.object(inode)?;
        if inode.number == id::ROOT {
            return Ok(Entry { attr: here.attr });
        }
        let links = inode.links();
        let link = links.first().ok_or(Errno::STALE)?;
        Ok(Entry {
            attr: self.enter(&link.parent, &link.name, *here)?.0,
        })
    }

    /// Counts a lookup of what was found, before the reply is sent.
    pub(super) fn enter(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        here: Here,
    ) -> Res<(Attr, Arc<Inode>)> {
        let shared =
            here.upper.is_some() && here.kind() != libc::S_IFDIR && here.attr.stat.nlink > 1;
        let naming = if shared {
            Naming::Another
        } else {
            Naming::Sole
        };
        if let Some(known) = self.inodes.get(here.attr.number) {
            self.displace(&known, &here);
        }
        let mut attr = here.attr;
        for salt in 0..8 {
            if salt > 0 {
                attr.number = id::of_path(&here.path, salt);
            }
            let clashes = |known: &Inode| {
                id::is_of_path(known.number)
                    && here.upper.is_none()
                    && match known.path() {
                        Some(path) => path != here.path,
                        None => known.data.opens.load(Ordering::Relaxed) > 0,
                    }
            };
            let make = || Node::new(here.pos, here.kind(), here.source.clone());
            match self
                .inodes
                .remember(attr.number, (parent, name), naming, make, clashes)
            {
                Ok(inode) => {
                    self.refresh(&inode, &here);
                    return Ok((attr, inode));
                }
                Err(_) => tracing::warn!(
                    view = self.name, path = %String::from_utf8_lossy(&here.path),
                    number = attr.number, "two paths hash to one number"
                ),
            }
        }
        Err(Errno::IO)
    }

    /// A file that is open goes on as it is when another takes its place in a lower layer (a
    /// package is upgraded in the image): it loses its name as if it had been removed, and with
    /// that its number to the newcomer's next best. One number is one page cache: programs that
    /// run the old file would get pages of the new one.
    fn displace(&self, known: &Arc<Inode>, here: &Here) {
        let open = known.data.opens.load(Ordering::Relaxed) > 0;
        let before = known.data.state.read().backing;
        if !open || before.is_none() || here.backing().is_none() || before == here.backing() {
            return;
        }
        let file = self.files.all().into_iter().find(|file| file.is_of(known));
        let copy = file
            .and_then(|file| file.current())
            .and_then(|fd| fd.try_clone().ok());
        known.data.state.write().orphan = copy.map(|fd| Arc::new(Orphan { fd, upper: None }));
        for link in known.links() {
            self.inodes.unlink(known, &link.parent, &link.name);
        }
    }

    /// The kernel forgets lookups.
    pub fn forget(&self, number: u64, count: u64) {
        self.inodes.forget(number, count);
        if self.inodes.shrink() {
            crate::sys::memory::give_back();
        }
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// `EINVAL` for anything else.
    pub fn readlink(&self, number: u64) -> Res<Vec<u8>> {
        let here = self.object(&*self.inode(number)?)?;
        self.readlink_of(&here)
    }
}
