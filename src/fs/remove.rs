//! UNLINK, RMDIR: what only the upper has goes; what a lower layer has gets a whiteout.

use super::lookup::numbers_of;
use super::resolve::{Dir, Here, Outcome};
use super::{Inode, View};
use crate::inode::id;
use crate::rules::Pos;
use crate::sys::{Errno, Res};

impl View {
    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// As unlink(2); `EBUSY` for a rule's own path.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Res<()> {
        let removed = self.remove(parent, name, false);
        self.was_done(removed, &[Errno::NOENT], || Some(()))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2); `EBUSY` for a rule's own path, or a directory that a rule lies below.
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Res<()> {
        let removed = self.remove(parent, name, true);
        self.was_done(removed, &[Errno::NOENT], || Some(()))
    }

    fn remove(&self, parent: u64, name: &[u8], directory: bool) -> Res<()> {
        let parent = self.inode(parent)?;
        if let Some(()) = self.near_remove(&parent, name, directory) {
            return Ok(());
        }
        let dir = self.dir(&parent)?;
        let mut here = self.present(&dir, name)?;
        // Whoever copies it up now ends before the name goes, or finds it gone.
        let victim = self.known(&here);
        let _still = victim.as_ref().map(|victim| victim.data.copying.lock());
        if victim
            .as_ref()
            .is_some_and(|victim| self.was_copied(victim, &here))
        {
            here = self.present(&dir, name)?;
        }
        if self.rules.guarded(here.pos) {
            return Err(Errno::BUSY);
        }
        let upper = self.writable(here.pos)?;
        match here.kind() == libc::S_IFDIR {
            true if !directory => return Err(Errno::ISDIR),
            false if directory => return Err(Errno::NOTDIR),
            true => self.check_empty(&here)?,
            false => {}
        }
        let below = self.has_below(&dir, here.pos, name, upper)?;
        let at = self.parent_in_upper(&parent, here.pos, &here.path)?;
        self.hold_on(&here)?;
        self.hand_over(&here);
        let layer = &self.layers[upper as usize];
        let removed = match below {
            true => layer.whiteout(&at, name),
            false => layer.take_away(&at, name, &here.attr.stat),
        };
        removed.inspect_err(|_| self.object_is_named(here.attr.number))?;
        if directory {
            self.empty_dir_gone(&here.path, here.pos, upper);
        }
        self.number_gone(&here, upper);
        self.name_gone(&mut here, &parent, name);
        Ok(())
    }

    /// A stored number goes with its object's last name.
    pub(super) fn number_gone(&self, here: &Here, upper: u8) {
        if here.upper.is_some() {
            let layer = &self.layers[upper as usize];
            layer.clear_away(layer.drop_number(&here.attr.stat));
        }
    }

    /// Has it been copied up since it was looked at?
    pub(super) fn was_copied(&self, inode: &Inode, here: &Here) -> bool {
        let state = inode.data.state.read();
        self.was_in_upper(&state) && here.upper.is_none()
    }

    /// Is this name's object being copied up right now?
    pub fn name_is_busy(&self, parent: u64, name: &[u8]) -> bool {
        let known = self
            .named(parent, name)
            .ok()
            .and_then(|here| self.known(&here));
        known.is_some_and(|inode| inode.data.copying.is_locked())
    }

    /// What a name in a directory that the kernel knows is.
    ///
    /// # Errors
    /// `ESTALE`, `ENOTDIR`; `ENOENT` where it is nothing.
    pub(super) fn named(&self, parent: u64, name: &[u8]) -> Res<Here> {
        let dir = self.dir(&*self.inode(parent)?)?;
        self.present(&dir, name)
    }

    /// What a name is.
    ///
    /// # Errors
    /// `ENOENT` where it is nothing.
    pub(super) fn present(&self, dir: &Dir, name: &[u8]) -> Res<Here> {
        match self.resolve(dir, name)? {
            Outcome::Here(here) => Ok(*here),
            Outcome::Absent { .. } => Err(Errno::NOENT),
        }
    }

    /// Is a directory empty as the view shows it?
    ///
    /// # Errors
    /// `ENOTEMPTY` where it is not.
    pub(super) fn check_empty(&self, here: &Here) -> Res<()> {
        let super::Source::Dir(srcs) = &here.source else {
            return Err(Errno::NOTDIR);
        };
        let dir = Dir {
            path: here.path.clone(),
            pos: here.pos,
            srcs: srcs.clone(),
        };
        for (name, ..) in self.list(&dir)? {
            if let Outcome::Here(_) = self.resolve(&dir, &name)? {
                return Err(Errno::NOTEMPTY);
            }
        }
        Ok(())
    }

    /// Would something show at this name if the upper had nothing there?
    pub(super) fn has_below(&self, dir: &Dir, pos: Pos, name: &[u8], upper: u8) -> Res<bool> {
        let mut below = dir.clone();
        below.srcs.retain(|src| src.layer != upper);
        if below.srcs.is_empty() && !self.rules.is_mtab(pos) {
            return Ok(false);
        }
        Ok(matches!(self.resolve(&below, name)?, Outcome::Here(_)))
    }

    /// Is this a directory that only the upper has?
    pub(super) fn is_pure(&self, here: &Here, upper: u8) -> bool {
        matches!(&here.source, super::Source::Dir(srcs)
            if srcs.len() == 1 && srcs[0].layer == upper)
    }

    /// The inode that the kernel knows by this number, if it knows one.
    pub(super) fn known(&self, here: &Here) -> Option<std::sync::Arc<Inode>> {
        let number = here.attr.number;
        if here.upper.is_some() || !id::is_of_path(number) {
            let known = self.held.inodes.get(number);
            // A file that lost its name to another, and is open, keeps its number.
            let lost = |inode: &Inode| id::is_of_path(number) && inode.is_nameless();
            if !known.as_deref().is_some_and(lost) {
                return known;
            }
        }
        numbers_of(&here.path)
            .filter_map(|number| self.held.inodes.get(number))
            .find(|inode| inode.path().as_deref() == Some(&*here.path))
    }
}
