//! Bringing objects to the upper before they are changed.

use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;

use super::look::Look;
use super::lookup::numbers_of;
use super::node::{JUST_COPIED, Orphan};
use super::resolve::{Here, join};
use super::{Attr, Inode, Source, Src, View};
use crate::layer::copyup::{Copied, Origin};
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
        if let Some(here) = self.near_here(inode) {
            return Ok(here);
        }
        let mut locked = inode.data.copying.try_lock();
        // Nobody else copies it while the lock is held.
        let below = locked.as_ref().and_then(|_| self.still_below(inode));
        let mut here = match below {
            Some(here) => here,
            None => self.object(inode)?,
        };
        let upper = self.writable(here.pos)?;
        if here.upper == Some(upper) {
            return Ok(here);
        }
        if locked.is_none() {
            // Someone copies it: what there is afterwards counts.
            locked = Some(inode.data.copying.lock());
            here = self.object(inode)?;
            if here.upper == Some(upper) {
                return Ok(here);
            }
        }
        let _copying = locked;
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
        let over = here.top().is_none() && matches!(layer.probe(at)?, Found::Whiteout);
        let is_dir = here.attr.stat.is_dir();
        let mut made = None;
        let mut copy = |origin: &Origin<'_>| {
            made = match over {
                true => layer.make_over_whiteout(&dir, name, is_dir, |nest, name| {
                    layer.copy_up(nest, name, origin)
                }),
                false => layer.copy_up(&dir, name, origin),
            }?;
            Ok(())
        };
        match self.with_room(|| self.copy(layer, &here, data, &mut copy)) {
            Ok(()) => self.note_below_own(&link.parent, &here, upper)?,
            // Someone else put something there; what it is decides the next look.
            Err(Errno::EXIST) => {}
            Err(e) => {
                // If its directory is gone, the next try finds that out.
                self.dir_gone(parent_path, here.pos, upper);
                return Err(e);
            }
        }
        if let Some(copied) = made {
            return self.as_copied(inode, *here, upper, copied);
        }
        if is_dir {
            layer.names_changed();
        }
        let copied = self.object(inode)?;
        if copied.upper == Some(upper) {
            Ok(copied)
        } else {
            Err(Errno::IO)
        }
    }

    /// What was just copied, and is at hand.
    fn as_copied(
        &self,
        inode: &Inode,
        here: Here,
        upper: u8,
        Copied { fd, bare }: Copied,
    ) -> Res<Box<Here>> {
        let src = Src {
            layer: upper,
            default: false,
        };
        let stat = obj::stat(&fd)?;
        self.remember_copy(inode, upper, &stat);
        // Whoever sets an attribute now comes after the copy, and takes this away.
        let made = if bare { JUST_COPIED } else { 0 };
        inode.data.bare.store(made, Ordering::Relaxed);
        let number = inode.number;
        let copied = Here {
            source: Source::One(src),
            attr: Attr { number, stat },
            fd: OnceCell::from(Arc::new(fd)),
            open: Some(OFlags::RDWR),
            bare,
            upper: Some(upper),
            trust: self.own_trust(),
            ..here
        };
        self.refresh(inode, &copied);
        Ok(Box::new(copied))
    }

    /// A file that lost its last name before it was written to: its copy has none either.
    fn copy_orphan(&self, inode: &Inode, here: &Here, upper: u8, data: Data) -> Res<()> {
        let layer = &self.layers[upper as usize];
        let mut copy = None;
        self.with_room(|| {
            self.copy(layer, here, data, |origin| {
                copy = Some(layer.copy_unnamed(origin)?.fd);
                Ok(())
            })
        })?;
        let mut state = inode.data.state.write();
        let path = state.orphan.take().map(|orphan| orphan.path.clone());
        let path = path.unwrap_or_default();
        state.orphan = copy.map(|fd| {
            Arc::new(Orphan {
                fd: Arc::new(fd),
                upper: Some(self.kind_of(upper)),
                path,
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
            attrs: self.reach(here)?.map(|fd| &**fd),
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
    pub(super) fn parent_in_upper(
        &self,
        parent: &Inode,
        pos: Pos,
        path: &[u8],
    ) -> Res<Arc<OwnedFd>> {
        let parent_pos = self.pos_of(parent);
        let upper = self.writable(pos)?;
        if self.writable(parent_pos) == Ok(upper) {
            let dir = self.dir(parent)?;
            if let Some(&src) = dir.srcs.first().filter(|src| src.layer == upper) {
                let zone = self.rules.zone(dir.pos.zone);
                let at = self.layer_path(zone, &dir.path, src);
                match self.layer(src).hold_dir(&at, self.options.lifetime) {
                    // The store went away and came back without it.
                    Err(Errno::NOENT) => {}
                    held => return held,
                }
            }
            let copied = self.copy_up(parent, Data::Whole)?;
            self.reach(&copied)?;
            return copied.fd.into_inner().ok_or(Errno::IO);
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
        layer.open_dir(&made).map(Arc::new)
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
            number: numbers_of(path).find(|number| !layer.has_moved(*number)),
        };
        let copy = |nest: &OwnedFd, name: &[u8]| layer.copy_up(nest, name, &origin);
        let made = match deleted {
            true => layer.make_over_whiteout(dir, name, true, copy),
            false => layer.copy_up(dir, name, &origin),
        };
        layer.names_changed();
        match made {
            Err(Errno::EXIST) if !deleted => Ok(()),
            other => other.map(drop),
        }
    }

    /// A symlink's target, wherever it comes from.
    pub(super) fn readlink_of(&self, here: &Here) -> Res<Vec<u8>> {
        match (&here.source, &here.target) {
            (Source::Link(target), _) => Ok(target.to_vec()),
            _ if here.kind() != libc::S_IFLNK => Err(Errno::INVAL),
            (_, Some(target)) => Ok(target.to_vec()),
            (_, None) => {
                let fd = self.reach(here)?.ok_or(Errno::INVAL)?;
                Ok(rustix::fs::readlinkat(fd, c"", Vec::new())?.into_bytes())
            }
        }
    }

    /// Before a name of the upper goes: the object behind it stays within reach.
    ///
    /// # Errors
    /// As [`View::reach`].
    pub(super) fn hold_on(&self, here: &Here) -> Res<()> {
        match here.upper {
            Some(_) => self.reach(here).map(drop),
            None => Ok(()),
        }
    }

    /// Keeps an object reachable that is about to lose a name: by then the kernel may still hold
    /// it open, or as a working directory.
    fn keep_orphan(&self, here: &mut Here) -> Option<Arc<Orphan>> {
        if let Err(error) = self.reach(here) {
            tracing::debug!(view = self.name, %error, "removed, and not to be reached any more");
        }
        let fd = here.fd.take()?;
        Some(Arc::new(Orphan {
            fd,
            upper: here.upper.map(|upper| self.kind_of(upper)),
            path: here.path.clone().into(),
        }))
    }

    /// After the name went: the table forgets it, and the inode keeps what is left.
    pub(super) fn name_gone(&self, here: &mut Here, parent: &Inode, name: &[u8]) {
        let Some(inode) = self.known(here) else {
            return;
        };
        let orphan = self.keep_orphan(here);
        self.held.inodes.unlink(&inode, parent, name);
        if inode.is_nameless() {
            if let Some(upper) = here.upper.filter(|_| here.attr.stat.nlink > 1) {
                // It has other names, which nobody has asked for lately.
                self.layers[upper as usize].names_changed();
            }
            self.not_kept(&here.attr.stat);
            self.held.handless.let_go(inode.number);
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
                Source::One(_) => !self.was_in_upper(&state),
                Source::Con(_) => true,
                _ => false,
            };
            lower && state.kind == libc::S_IFREG
        };
        lower_file && self.size_below(&inode) > LONG
    }

    /// The size of a file that was in a lower layer when it was last looked at. What is remembered
    /// of that layer is good enough here: nothing is copied by it.
    fn size_below(&self, inode: &Inode) -> u64 {
        let (source, pos, plan) = {
            let state = inode.data.state.read();
            (state.source.clone(), state.pos, state.plan)
        };
        if let (Source::One(src), true, Some(path)) = (source, plan == self.plan, inode.path())
            && let Ok((_, Look::Object(seen))) = self.probe(self.rules.zone(pos.zone), &path, src)
        {
            return seen.stat.size;
        }
        self.object(inode).map_or(0, |here| here.attr.stat.size)
    }

    /// As [`View::may_take_long`], for a name in a directory.
    pub fn name_may_take_long(&self, parent: u64, name: &[u8]) -> bool {
        self.named(parent, name).is_ok_and(|here| {
            here.upper.is_none() && here.kind() == libc::S_IFREG && here.attr.stat.size > LONG
        })
    }
}
