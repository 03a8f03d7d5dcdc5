//! RENAME within a zone.
//!
//! One renameat2(2) in the upper does the move; what has to be so before it (copies, opaque
//! marks, an emptied target) shows the same view, so that a crash between two steps leaves the
//! old state or the new one. A whiteout that is needed at the source comes with the same call
//! (RENAME_WHITEOUT) where the store can.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

use super::resolve::{Here, Outcome};
use super::upper::Data;
use super::{Inode, View};
use crate::layer::machinery::{self, Form};
use crate::layer::{Layer, store};
use crate::sys::obj;
use crate::sys::{Errno, Res};

/// One end of a rename.
struct End<'a> {
    dir: Arc<OwnedFd>,
    name: &'a [u8],
    /// Something would show here if the upper had nothing.
    below: bool,
}

impl View {
    /// Renames; `NOREPLACE` and `EXCHANGE` as renameat2(2).
    ///
    /// # Errors
    /// As rename(2); `EXDEV` across zones and for a directory with content from below; `EBUSY`
    /// for what a rule names or lies below.
    pub fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), flags: RenameFlags) -> Res<()> {
        let renamed = self.rename_once(from, to, flags);
        self.was_done(renamed, &[Errno::NOENT, Errno::EXIST], || {
            let source = self.named(from.0, from.1);
            let target = self.named(to.0, to.1).ok()?;
            // Nobody else could take the one away or make the other: the kernel has both
            // directories locked while the request is out.
            if !matches!(source, Err(Errno::NOENT)) || flags.contains(RenameFlags::EXCHANGE) {
                return None;
            }
            if let (Some(inode), Ok(dir)) = (self.known(&target), self.inode(to.0)) {
                self.note_rename(&inode, &dir, to.1);
            }
            Some(())
        })
    }

    fn rename_once(
        &self,
        (parent, name): (u64, &[u8]),
        (new_parent, new_name): (u64, &[u8]),
        flags: RenameFlags,
    ) -> Res<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let no_replace = flags.contains(RenameFlags::NOREPLACE);
        if flags.contains(RenameFlags::WHITEOUT) || exchange && no_replace {
            return Err(Errno::INVAL);
        }
        let (from_parent, to_parent) = (self.inode(parent)?, self.inode(new_parent)?);
        let (from_dir, to_dir) = (self.dir(&from_parent)?, self.dir(&to_parent)?);
        let from = self.present(&from_dir, name)?;
        let to = match self.resolve(&to_dir, new_name)? {
            Outcome::Here(to) => Some(*to),
            Outcome::Absent { .. } => None,
        };
        match &to {
            Some(_) if no_replace => return Err(Errno::EXIST),
            None if exchange => return Err(Errno::NOENT),
            _ => {}
        }
        let to_pos = self.rules.step(to_dir.pos, new_name);
        if self.rules.guarded(from.pos) || self.rules.guarded(to_pos) {
            return Err(Errno::BUSY);
        }
        let upper = self.writable(from.pos)?;
        if from.pos.zone != to_pos.zone {
            return Err(Errno::XDEV);
        }
        let layer = &self.layers[upper as usize];
        if machinery::is_ours(new_name, layer.form()) {
            return Err(Errno::PERM);
        }
        self.check_kinds(&from, to.as_ref(), upper, exchange)?;
        if exchange && to.as_ref().is_some_and(|to| self.was_exchanged(to)) {
            return Ok(());
        }
        if to
            .as_ref()
            .is_some_and(|to| to.attr.number == from.attr.number && !from.attr.stat.is_dir())
        {
            return Ok(()); // two names of one object: rename(2) does nothing
        }

        let from = self.in_upper(from)?;
        let to = match to {
            Some(to) if exchange => Some(self.in_upper(to)?),
            other => other,
        };
        // Whoever copies up what is replaced ends before its name goes, or finds it gone.
        let victim = to
            .as_ref()
            .filter(|_| !exchange)
            .and_then(|to| self.known(to));
        let _still = victim.as_ref().map(|victim| victim.data.copying.lock());
        let to = match (to, &victim) {
            (Some(to), Some(victim)) if self.was_copied(victim, &to) => {
                Some(self.present(&to_dir, new_name)?)
            }
            (to, _) => to,
        };
        let source = End {
            dir: self.parent_in_upper(&from_parent, from.pos, &from.path)?,
            name,
            below: self.has_below(&from_dir, from.pos, name, upper)?,
        };
        let target = End {
            dir: self.parent_in_upper(
                &to_parent,
                to_pos,
                &super::resolve::join(&to_dir.path, new_name),
            )?,
            name: new_name,
            below: self.has_below(&to_dir, to_pos, new_name, upper)?,
        };
        if let Some(to) = to.as_ref().filter(|_| !exchange) {
            self.hold_on(to)?;
            self.hand_over(to);
        }
        for moving in std::iter::once(&from).chain(to.iter().filter(|_| exchange)) {
            self.note_moved(moving, upper)?;
        }
        let done = match (exchange, &to) {
            (true, Some(to)) => {
                self.intend(&from);
                self.exchange(layer, (&from, &source), (to, &target))
            }
            _ => self.move_over(layer, &from, to.as_ref(), &source, &target),
        };
        for end in std::iter::once(&from).chain(&to) {
            if end.attr.stat.is_dir() {
                self.dir_gone(&end.path, end.pos, upper);
            }
        }
        done?;

        let dirs_moved = exchange || from.attr.stat.is_dir();
        if dirs_moved {
            // What is below has other paths now.
            layer.names_changed();
        }
        let moved = self.known(&from);
        let replaced = to.as_ref().and_then(|to| self.known(to));
        if exchange {
            if let Some(inode) = &replaced {
                self.held
                    .inodes
                    .rename(inode, (&to_parent, new_name), (&from_parent, name));
                self.note_rename(inode, &from_parent, name);
            }
        } else if let Some(mut to) = to {
            self.number_gone(&to, upper);
            self.name_gone(&mut to, &to_parent, new_name);
        }
        if let Some(inode) = &moved {
            self.held
                .inodes
                .rename(inode, (&from_parent, name), (&to_parent, new_name));
            self.note_rename(inode, &to_parent, new_name);
        }
        if dirs_moved {
            let is_dir = |inode: &&Arc<Inode>| inode.data.state.read().kind == libc::S_IFDIR;
            let both = moved.iter().chain(replaced.iter().filter(|_| exchange));
            for path in both.filter(is_dir).filter_map(|inode| inode.path()) {
                self.dirs_moved(&path);
            }
        }
        Ok(())
    }

    fn check_kinds(&self, from: &Here, to: Option<&Here>, upper: u8, exchange: bool) -> Res<()> {
        let from_is_dir = from.attr.stat.is_dir();
        if from_is_dir && !self.is_pure(from, upper) {
            return Err(Errno::XDEV);
        }
        let Some(to) = to else { return Ok(()) };
        let to_is_dir = to.attr.stat.is_dir();
        if exchange {
            let movable = !to_is_dir || self.is_pure(to, upper);
            return if movable { Ok(()) } else { Err(Errno::XDEV) };
        }
        match (from_is_dir, to_is_dir) {
            (true, false) => Err(Errno::NOTDIR),
            (false, true) => Err(Errno::ISDIR),
            (true, true) => self.check_empty(to),
            (false, false) => Ok(()),
        }
    }

    /// An end of the rename, copied up.
    fn in_upper(&self, here: Here) -> Res<Here> {
        if here.upper.is_some() {
            return Ok(here);
        }
        let inode = match self.known(&here) {
            Some(inode) => inode,
            // The kernel knows it, and told a worker before this one so.
            None => self.inode(here.attr.number)?,
        };
        self.copy_up(&inode, Data::Whole).map(|here| *here)
    }

    /// A directory that is about to stand over something must hide it.
    fn hide_below(&self, layer: &Layer, moved: &Here, below: bool) -> Res<()> {
        if !below || !moved.attr.stat.is_dir() {
            return Ok(());
        }
        layer.mark_opaque(self.reach(moved)?.ok_or(Errno::IO)?)
    }

    fn exchange(
        &self,
        layer: &Layer,
        (from, source): (&Here, &End<'_>),
        (to, target): (&Here, &End<'_>),
    ) -> Res<()> {
        self.hide_below(layer, from, target.below)?;
        self.hide_below(layer, to, source.below)?;
        let flags = RenameFlags::EXCHANGE;
        store::rename(&source.dir, source.name, &target.dir, target.name, flags)
    }

    fn move_over(
        &self,
        layer: &Layer,
        from: &Here,
        to: Option<&Here>,
        source: &End<'_>,
        target: &End<'_>,
    ) -> Res<()> {
        let caps = layer.caps()?;
        let is_dir = from.attr.stat.is_dir();
        let there = match obj::stat_name(&target.dir, target.name) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(e),
        };
        self.hide_below(layer, from, target.below)?;
        if there.is_some_and(|stat| stat.is_dir()) && to.is_some() {
            self.clear(layer, target)?;
        }
        if caps.form == Form::File {
            if source.below {
                layer.whiteout_beside(&source.dir, source.name)?;
            }
            let flags = RenameFlags::empty();
            store::rename(&source.dir, source.name, &target.dir, target.name, flags)?;
            layer.end_whiteout_file(&target.dir, target.name);
            return Ok(());
        }
        if is_dir && there.is_some_and(|stat| !stat.is_dir()) {
            // Only a whiteout can be here. It changes places with the directory, and stays at the
            // source where one is needed.
            let flags = RenameFlags::EXCHANGE;
            store::rename(&source.dir, source.name, &target.dir, target.name, flags)?;
            if !source.below {
                // Where it is left over, it hides nothing.
                let taken = rustix::fs::unlinkat(&source.dir, source.name, AtFlags::empty());
                layer.clear_away(taken);
            }
            return Ok(());
        }
        let flags = match source.below && caps.rename_whiteout {
            true => RenameFlags::WHITEOUT,
            false => RenameFlags::empty(),
        };
        store::rename(&source.dir, source.name, &target.dir, target.name, flags)?;
        match source.below && !caps.rename_whiteout {
            true => layer.whiteout(&source.dir, source.name),
            false => Ok(()),
        }
    }

    /// Takes the whiteouts out of an empty directory that is about to be replaced, once nothing
    /// below shows through it.
    fn clear(&self, layer: &Layer, target: &End<'_>) -> Res<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&target.dir, target.name, flags, Mode::empty())?;
        match layer.caps()?.form {
            Form::Device if target.below => layer.mark_opaque(&dir)?,
            // Beside it: a mark inside would go with the rest.
            Form::File if target.below => layer.whiteout_beside(&target.dir, target.name)?,
            _ => {}
        }
        store::empty_dir(&dir)
    }
}
