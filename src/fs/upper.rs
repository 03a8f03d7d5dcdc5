//! Bringing objects to the upper before they are changed.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::node::Orphan;
use super::resolve::{Here, join};
use super::{Inode, View};
use crate::inode::id;
use crate::layer::copyup::Origin;
use crate::layer::machinery;
use crate::layer::{Found, Layer};
use crate::rules::Pos;
use crate::sys::obj::{self, Stat};
use crate::sys::{Errno, Res};

/// How much of a file is copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Data {
    /// All of it.
    Whole,
    /// Nothing: it is about to be truncated.
    Nothing,
}

impl View {
    /// The upper that writes at this position go to.
    ///
    /// # Errors
    /// `EROFS` outside writable zones; `EIO` where a rule's store is not configured.
    pub(super) fn writable(&self, pos: Pos) -> Res<u8> {
        let kind = self.rules.zone(pos.zone).writes_to().ok_or(Errno::ROFS)?;
        self.upper_of(kind).ok_or(Errno::IO)
    }

    /// Makes sure that an object is in its upper, and says what it is there.
    ///
    /// # Errors
    /// `EROFS`, or what copying answers; the lower object still stands then.
    pub(super) fn copy_up(&self, inode: &Inode, data: Data) -> Res<Box<Here>> {
        let here = self.object(inode)?;
        let upper = self.writable(here.pos)?;
        if here.upper == Some(upper) {
            return Ok(here);
        }
        let _copying = inode.data.copying.lock();
        let here = self.object(inode)?;
        if here.upper == Some(upper) {
            return Ok(here);
        }
        if inode.is_nameless() {
            self.copy_orphan(inode, &here, upper, data)?;
            return self.object(inode);
        }
        let (parent_path, name) = obj::split(&here.path);
        let links = inode.links();
        let link = links
            .iter()
            .find(|link| *link.name == *name && link.parent.path().as_deref() == Some(parent_path))
            .ok_or(Errno::STALE)?;
        let dir = self.parent_in_upper(&link.parent, here.pos, &here.path)?;
        let layer = &self.layers[upper as usize];
        if machinery::is_ours(name, layer.form()) {
            // A lower layer may have such a name; in this upper it would mean something else.
            return Err(Errno::PERM);
        }
        // What only the view has can stand where the upper says that it was deleted, before a rule
        // called for it.
        let at = self.rules.zone(here.pos.zone).layer_path(&here.path);
        let over = here.fd.is_none() && matches!(layer.probe(at)?, Found::Whiteout);
        let is_dir = here.attr.stat.is_dir();
        let copy = |origin: &Origin<'_>| match over {
            true => layer.make_over_whiteout(&dir, name, is_dir, |nest, name| {
                layer.copy_up(nest, name, origin)
            }),
            false => layer.copy_up(&dir, name, origin),
        };
        match self.with_room(|| self.copy(layer, &here, data, copy)) {
            // EEXIST: someone else put something there; what it is decides the next look.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        let copied = self.object(inode)?;
        if copied.upper == Some(upper) {
            Ok(copied)
        } else {
            Err(Errno::IO)
        }
    }

    /// A file that lost its last name before it was written to: its copy has none either.
    fn copy_orphan(&self, inode: &Inode, here: &Here, upper: u8, data: Data) -> Res<()> {
        let layer = &self.layers[upper as usize];
        let mut copy = None;
        self.with_room(|| {
            self.copy(layer, here, data, |origin| {
                copy = Some(layer.copy_unnamed(origin)?);
                Ok(())
            })
        })?;
        let mut state = inode.data.state.write();
        state.orphan = copy.map(|fd| {
            Arc::new(Orphan {
                fd,
                upper: Some(upper),
            })
        });
        state.epoch = state.epoch.wrapping_add(1);
        Ok(())
    }

    fn copy(
        &self,
        layer: &Layer,
        here: &Here,
        data: Data,
        make: impl FnOnce(&Origin<'_>) -> Res<()>,
    ) -> Res<()> {
        let contents = match here.kind() {
            libc::S_IFREG if data == Data::Whole => self.open_contents(here)?,
            _ => Vec::new(),
        };
        let target = match here.kind() {
            libc::S_IFLNK => self.readlink_of(here)?,
            _ => Vec::new(),
        };
        tracing::debug!(
            view = self.name, path = %String::from_utf8_lossy(&here.path),
            to = layer.spec().label, size = here.attr.stat.size, "copy-up"
        );
        make(&Origin {
            stat: here.attr.stat,
            attrs: here.fd.as_ref(),
            contents: &contents,
            target: &target,
            number: Some(here.attr.number),
        })?;
        crate::metrics::copied_up(contents.iter().map(|(_, size)| size).sum());
        Ok(())
    }

    /// The directory of the upper in which an object at `path` and `pos` is named.
    ///
    /// # Errors
    /// What copying up directories answers.
    pub(super) fn parent_in_upper(&self, parent: &Inode, pos: Pos, path: &[u8]) -> Res<OwnedFd> {
        let parent_pos = parent.data.state.read().pos;
        let upper = self.writable(pos)?;
        if self.writable(parent_pos) == Ok(upper) {
            let dir = self.dir(parent)?;
            return match dir.srcs.first() {
                Some(&src) if src.layer == upper => {
                    let zone = self.rules.zone(dir.pos.zone);
                    self.layer(src)
                        .open_dir(&self.layer_path(zone, &dir.path, src))
                }
                _ => self.copy_up(parent, Data::Whole)?.fd.ok_or(Errno::IO),
            };
        }
        // The zone begins here: what leads to it in this upper belongs to no zone of its own.
        let layer = &self.layers[upper as usize];
        let at = self.rules.zone(pos.zone).layer_path(path);
        let (parent, _) = obj::split(at);
        let mut made: Vec<u8> = Vec::new();
        for name in parent.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            let dir = layer.open_dir(&made)?;
            made = join(&made, name);
            self.placeholder(layer, &dir, name, &made)?;
        }
        layer.open_dir(&made)
    }

    fn placeholder(&self, layer: &Layer, dir: &OwnedFd, name: &[u8], path: &[u8]) -> Res<()> {
        let deleted = match layer.probe(path)? {
            Found::Object(object) if object.stat.is_dir() => return Ok(()),
            Found::Object(_) => {
                tracing::error!(
                    view = self.name, layer = layer.spec().label,
                    path = %String::from_utf8_lossy(path),
                    "a rule lies below what is no directory in the store"
                );
                return Err(Errno::IO);
            }
            Found::Whiteout => true,
            Found::Absent => false,
        };
        // As the image has it, in case a later rule makes this directory visible.
        let image = self
            .roles
            .images
            .first()
            .map(|&image| &self.layers[image as usize]);
        let like = match image.map(|image| image.probe(path)) {
            Some(Ok(Found::Object(object))) if object.stat.is_dir() => Some(object),
            _ => None,
        };
        let plain = Stat {
            mode: libc::S_IFDIR | 0o755,
            ..Stat::default()
        };
        let origin = Origin {
            stat: like.as_ref().map_or(plain, |object| object.stat),
            attrs: like.as_ref().map(|object| &object.fd),
            contents: &[],
            target: &[],
            // What the path has in every view, whichever zone comes to show it.
            number: Some(id::of_path(path, 0)),
        };
        if !deleted {
            return match layer.copy_up(dir, name, &origin) {
                Err(Errno::EXIST) => Ok(()),
                other => other,
            };
        }
        layer.make_over_whiteout(dir, name, true, |nest, name| {
            layer.copy_up(nest, name, &origin)
        })
    }

    /// A symlink's target, wherever it comes from.
    pub(super) fn readlink_of(&self, here: &Here) -> Res<Vec<u8>> {
        match (&here.source, &here.fd) {
            (super::Source::Link(target), _) => Ok(target.to_vec()),
            (_, Some(fd)) if here.kind() == libc::S_IFLNK => {
                Ok(rustix::fs::readlinkat(fd, c"", Vec::new())?.into_bytes())
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// Keeps an object reachable that is about to lose a name: by then the kernel may still hold
    /// it open, or as a working directory.
    fn keep_orphan(&self, here: &mut Here) -> Option<Arc<Orphan>> {
        let fd = here.fd.take()?;
        Some(Arc::new(Orphan {
            fd,
            upper: here.upper,
        }))
    }

    /// After the name went: the table forgets it, and the inode keeps what is left.
    pub(super) fn name_gone(&self, here: &mut Here, parent: &Inode, name: &[u8]) {
        let Some(inode) = self.known(here) else {
            return;
        };
        let orphan = self.keep_orphan(here);
        self.inodes.unlink(&inode, parent, name);
        if inode.is_nameless() {
            let regular = {
                let mut state = inode.data.state.write();
                state.orphan = orphan;
                state.kind == libc::S_IFREG
            };
            if regular {
                self.note_removed(&inode);
            }
        }
    }
}

/// Copying up more than this is not done on the thread that serves a view's requests.
const LONG: u64 = 1 << 20;

impl View {
    /// Would changing this object copy so much that other requests should not wait for it?
    pub fn may_take_long(&self, number: u64) -> bool {
        let Ok(inode) = self.inode(number) else {
            return false;
        };
        let lower_file = {
            let state = inode.data.state.read();
            let lower = match &state.source {
                super::Source::One(src) => !self.layer_is_upper(src.layer),
                super::Source::Con(_) => true,
                _ => false,
            };
            lower && state.kind == libc::S_IFREG
        };
        lower_file
            && self
                .object(&inode)
                .is_ok_and(|here| here.attr.stat.size > LONG)
    }

    /// As [`View::may_take_long`], for a name in a directory.
    pub fn name_may_take_long(&self, parent: u64, name: &[u8]) -> bool {
        self.named(parent, name).is_ok_and(|here| {
            here.upper.is_none() && here.kind() == libc::S_IFREG && here.attr.stat.size > LONG
        })
    }
}
