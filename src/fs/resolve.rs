//! Which layers have a name, and which one wins (SEMANTICS section 2). Everything that looks at
//! layers by name comes through here.

use std::cell::OnceCell;
use std::sync::Arc;

use super::look::{Look, Seen, is_mirror};
use super::lookup::MAX_SALT;
use super::node::{Checked, Srcs, State};
pub(super) use super::reach::{Here, Trust};
use super::{Attr, Inode, Source, Src, TreeMode, View};
use crate::inode::id;
use crate::layer::machinery;
use crate::rules::{Pos, Text, Zone, ZoneKind};
use crate::sys::obj::{self, Stat};
use crate::sys::{Errno, Res};
use crate::tables::LiteOption;

/// The longest name (include/uapi/linux/limits.h).
pub(super) const NAME_MAX: usize = 255;

/// A directory as the place to look names up in.
#[derive(Clone, Debug)]
pub(super) struct Dir {
    pub(super) path: Vec<u8>,
    pub(super) pos: Pos,
    pub(super) srcs: Srcs,
}

/// What a name is.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing; `whiteout` where the upper says so, and something may lie below. `lasting`:
    /// whatever changes that would be told of.
    Absent { whiteout: bool, lasting: bool },
    /// An object.
    Here(Box<Here>),
}

/// What the layers have, before the view adds what rules call for.
enum Merged {
    Nothing { whiteout: bool },
    Dir { srcs: Srcs, top: Seen },
    Other { src: Src, object: Seen },
}

pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        name.to_vec()
    } else {
        [dir, b"/", name].concat()
    }
}

impl View {
    /// The layers of a zone in order, as they are looked at where the zone begins.
    pub(super) fn stack(&self, zone: &Zone) -> Srcs {
        let plain = |layer: u8| Src {
            layer,
            default: false,
        };
        let mut srcs = Srcs::new();
        match &zone.kind {
            ZoneKind::Outside | ZoneKind::Default => {
                srcs.extend(self.roles.images.iter().copied().map(plain));
            }
            ZoneKind::Lite(_) => {
                let upper = zone.writes_to().and_then(|kind| self.upper_of(kind));
                srcs.extend(upper.map(plain));
                srcs.extend(self.roles.trees.iter().copied().map(plain));
                srcs.extend(self.roles.images.iter().copied().map(plain));
            }
            ZoneKind::Mirror(kind) => srcs.extend(self.upper_of(*kind).map(plain)),
            ZoneKind::Chain(_) | ZoneKind::Text(_) | ZoneKind::Virtual => {}
        }
        srcs
    }

    pub(super) fn is_image(&self, layer: u8) -> bool {
        self.roles.images.contains(&layer)
    }

    /// One name in a directory.
    pub(super) fn resolve(&self, dir: &Dir, name: &[u8]) -> Res<Outcome> {
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let pos = self.rules.step(dir.pos, name);
        let path = join(&dir.path, name);
        let candidates = self.candidates(dir, pos);
        self.resolve_in(path, pos, candidates)
    }

    /// The layers in which a name of a directory is looked for.
    pub(super) fn candidates(&self, dir: &Dir, pos: Pos) -> Srcs {
        if !self.rules.begins(pos) {
            return dir.srcs.clone();
        }
        // A zone begins here: its own layers, at this path. What liteimg moved away stays moved.
        let moved = dir.srcs.iter().any(|src| src.default);
        let mut srcs = self.stack(self.rules.zone(pos.zone));
        for src in srcs.iter_mut().filter(|src| self.is_image(src.layer)) {
            src.default = moved;
        }
        srcs
    }

    /// The view's root.
    pub(super) fn root_object(&self) -> Res<Box<Here>> {
        let pos = self.rules.root();
        let srcs = self.stack(self.rules.zone(pos.zone));
        match self.resolve_in(Vec::new(), pos, srcs)? {
            Outcome::Here(here) => Ok(here),
            Outcome::Absent { .. } => Err(Errno::IO),
        }
    }

    fn resolve_in(&self, path: Vec<u8>, pos: Pos, candidates: Srcs) -> Res<Outcome> {
        let zone = self.rules.zone(pos.zone);
        let begins = self.rules.begins(pos);
        let generation = self.generation();
        if begins {
            let virtual_only = match &zone.kind {
                ZoneKind::Chain(_) => self.rules.target(zone).map(Source::Link),
                ZoneKind::Text(text) => Some(Source::Text(*text)),
                ZoneKind::Virtual => Some(Source::Dir(Srcs::new())),
                _ => None,
            };
            if let Some(source) = virtual_only {
                // What the log says depends on more than is told of.
                let trust = Trust {
                    lasting: source != Source::Text(Text::Log),
                    generation,
                };
                return self.only_in_view(path, pos, source, trust);
            }
            if zone.kind == ZoneKind::Lite(LiteOption::Con)
                && let Some(here) = self.concatenated(&path, pos, generation, &candidates)?
            {
                return Ok(Outcome::Here(Box::new(here)));
            }
        }
        let must_be_dir = self.rules.leads_deeper(pos);
        let (mut merged, lasting) = self.merge(zone, &path, &candidates, must_be_dir)?;
        let trust = Trust {
            lasting,
            generation,
        };
        if begins
            && self.options.trees == TreeMode::First
            && matches!(zone.kind, ZoneKind::Lite(_))
            && let Merged::Dir { srcs, top } = &mut merged
        {
            let before = srcs.first().copied();
            self.keep_first(pos, &path, srcs)?;
            if let Some(first) = srcs.first().copied().filter(|src| Some(*src) != before)
                && let (_, Look::Object(object)) = self.probe(zone, &path, first)?
            {
                *top = object;
            }
        }
        let from_upper = |src: Src| self.layer_is_upper(src.layer);
        match merged {
            Merged::Other { src, object }
                if self.rules.is_mtab(pos)
                    && !from_upper(src)
                    && object.stat.kind() != libc::S_IFLNK =>
            {
                self.only_in_view(path, pos, Source::Link(b"/proc/mounts"[..].into()), trust)
            }
            Merged::Nothing { whiteout: false } if self.rules.is_mtab(pos) => {
                self.only_in_view(path, pos, Source::Link(b"/proc/mounts"[..].into()), trust)
            }
            Merged::Dir { srcs, top } => {
                let src = srcs[0];
                let several = srcs.len() > 1;
                self.found(path, pos, src, top, Source::Dir(srcs), several, trust)
            }
            Merged::Other { src, object } => {
                self.found(path, pos, src, object, Source::One(src), false, trust)
            }
            Merged::Nothing { .. } if self.rules.guarded(pos) => {
                let dir = must_be_dir || !begins || zone.dir;
                let source = if dir {
                    Source::Dir(Srcs::new())
                } else {
                    Source::Empty
                };
                self.only_in_view(path, pos, source, trust)
            }
            Merged::Nothing { whiteout } => Ok(Outcome::Absent { whiteout, lasting }),
        }
    }

    /// What the candidates have, and whether whatever changes that would be told of.
    fn merge(
        &self,
        zone: &Zone,
        path: &[u8],
        candidates: &Srcs,
        must_be_dir: bool,
    ) -> Res<(Merged, bool)> {
        let mut dirs = Srcs::new();
        let mut top: Option<Seen> = None;
        let mut whiteout = false;
        let mut lasting = true;
        for (at, &candidate) in candidates.iter().enumerate() {
            // Before the look: a layer that loses its watch in between counts as unwatched later.
            lasting &= self.is_lasting(zone, candidate.layer);
            let (src, object) = match self.probe(zone, path, candidate)? {
                (_, Look::Absent) => continue,
                (src, Look::Whiteout) => {
                    whiteout = self.layer_is_upper(src.layer) && top.is_none();
                    break;
                }
                (src, Look::Object(object)) => (src, object),
            };
            if object.stat.is_dir() {
                let last = at + 1 == candidates.len();
                let opaque =
                    !last && !is_mirror(zone) && self.opaque(self.layer(src), &object, path)?;
                dirs.push(src);
                top.get_or_insert(object);
                if opaque {
                    break;
                }
            } else if top.is_none() && !must_be_dir {
                return Ok((Merged::Other { src, object }, lasting));
            } else {
                // Anything but a directory hides what is below it.
                break;
            }
        }
        let merged = match top {
            Some(top) => Merged::Dir { srcs: dirs, top },
            None => Merged::Nothing { whiteout },
        };
        Ok((merged, lasting))
    }

    /// `litetree_directories = "first"`: of the lower levels only the first that is not empty.
    fn keep_first(&self, pos: Pos, path: &[u8], srcs: &mut Srcs) -> Res<()> {
        let dir = Dir {
            path: path.to_vec(),
            pos,
            srcs: Srcs::new(),
        };
        let mut kept = Srcs::new();
        for src in srcs.iter().copied() {
            if self.layer_is_upper(src.layer) {
                kept.push(src);
                continue;
            }
            if !self.list_layer(&dir, src)?.is_empty() {
                kept.push(src);
                break;
            }
        }
        if kept.is_empty() {
            kept.push(srcs[0]);
        }
        *srcs = kept;
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one reply")]
    fn found(
        &self,
        path: Vec<u8>,
        pos: Pos,
        src: Src,
        object: Seen,
        source: Source,
        merged: bool,
        trust: Trust,
    ) -> Res<Outcome> {
        let mut stat = object.stat;
        let mirror = is_mirror(self.rules.zone(pos.zone));
        let upper = (self.layer_is_upper(src.layer) && !mirror).then_some(src.layer);
        let number = match upper {
            _ if path.is_empty() => id::ROOT,
            Some(layer) => self.upper_number(layer, &object, &path)?,
            None => id::of_path(&path, 0),
        };
        if upper.is_some() && stat.rdev == machinery::STORED_NULL_DEVICE {
            stat.rdev = machinery::NULL_DEVICE;
        }
        if merged {
            // As overlayfs: find(1) and others then count no subdirectories by it.
            stat.nlink = 1;
        }
        let attr = Attr { number, stat };
        Ok(Outcome::Here(Box::new(Here {
            path,
            pos,
            source,
            attr,
            upper,
            target: object.target,
            fd: object
                .fd
                .map_or_else(OnceCell::new, |fd| OnceCell::from(Arc::new(fd))),
            open: None,
            bare: false,
            trust,
        })))
    }

    fn only_in_view(&self, path: Vec<u8>, pos: Pos, source: Source, trust: Trust) -> Res<Outcome> {
        let (mode, size) = match &source {
            Source::Dir(_) => (libc::S_IFDIR | 0o755, 0),
            Source::Link(target) => (libc::S_IFLNK | 0o777, target.len()),
            Source::Text(text) => (libc::S_IFREG | 0o444, self.text(*text).len()),
            _ => (libc::S_IFREG | 0o644, 0),
        };
        // The image's own age: it is the same on every server and after a restart.
        let age = self.roles.images.first().map_or((0, 0), |&image| {
            match self.look_at(&self.layers[image as usize], b"") {
                Ok(Look::Object(root)) => root.stat.mtime,
                _ => (0, 0),
            }
        });
        let stat = Stat {
            mode,
            nlink: if mode & libc::S_IFMT == libc::S_IFDIR {
                2
            } else {
                1
            },
            size: size as u64,
            blksize: 4096,
            atime: age,
            mtime: age,
            ctime: age,
            ..Stat::default()
        };
        let attr = Attr {
            number: id::of_path(&path, 0),
            stat,
        };
        let here = Here::below(path, pos, source, attr, trust);
        Ok(Outcome::Here(Box::new(here)))
    }

    /// A `con` file that no node has written: every litetree's, in order.
    fn concatenated(
        &self,
        path: &[u8],
        pos: Pos,
        generation: u64,
        srcs: &Srcs,
    ) -> Res<Option<Here>> {
        let zone = self.rules.zone(pos.zone);
        let mut parts = Srcs::new();
        let mut sum: Option<Stat> = None;
        let mut lasting = true;
        for &src in srcs {
            lasting &= self.is_lasting(zone, src.layer);
            let (src, Look::Object(object)) = self.probe(zone, path, src)? else {
                continue;
            };
            if self.layer_is_upper(src.layer) {
                return Ok(None);
            }
            let tree = self.roles.trees.contains(&src.layer);
            if object.stat.kind() != libc::S_IFREG || !tree {
                continue;
            }
            parts.push(src);
            sum = Some(match sum {
                None => object.stat,
                Some(sum) => Stat {
                    size: sum.size + object.stat.size,
                    blocks: sum.blocks + object.stat.blocks,
                    mtime: sum.mtime.max(object.stat.mtime),
                    ctime: sum.ctime.max(object.stat.ctime),
                    ..sum
                },
            });
        }
        let Some(sum) = sum else { return Ok(None) };
        let stat = Stat {
            mode: libc::S_IFREG | 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            ..sum
        };
        let attr = Attr {
            number: id::of_path(path, 0),
            stat,
        };
        let source = Source::Con(parts);
        let trust = Trust {
            lasting,
            generation,
        };
        Ok(Some(Here::below(path.to_vec(), pos, source, attr, trust)))
    }

    /// Is what was found of an inode still good?
    pub(super) fn is_fresh(&self, state: &State) -> bool {
        state.checked.is_some_and(|checked| {
            checked.generation == self.generation()
                && (checked.lasting || checked.at.elapsed() < self.options.lifetime)
        })
    }

    /// An inode as a directory, its layers looked at again where that was long ago.
    pub(super) fn dir(&self, inode: &Inode) -> Res<Dir> {
        let known = {
            let state = inode.data.state.read();
            match &state.source {
                Source::Dir(srcs) if self.is_fresh(&state) => Some((state.pos, srcs.clone())),
                _ => None,
            }
        };
        if let Some((pos, srcs)) = known
            && (inode.number != id::ROOT || !srcs.is_empty())
        {
            let path = inode.path().ok_or(Errno::NOENT)?;
            return Ok(Dir { path, pos, srcs });
        }
        self.object(inode)?.into_dir()
    }

    /// What an inode is now.
    ///
    /// # Errors
    /// `ENOENT` where its name is gone from the layers, `ESTALE` where another object has it.
    pub(super) fn object(&self, inode: &Inode) -> Res<Box<Here>> {
        if inode.number == id::ROOT {
            let here = self.root_object()?;
            self.refresh(inode, &here);
            return Ok(here);
        }
        let mut last = Errno::NOENT;
        for link in inode.links() {
            let dir = match self.dir(&link.parent) {
                Ok(dir) => dir,
                Err(e) => {
                    last = e;
                    continue;
                }
            };
            match self.resolve(&dir, &link.name)? {
                Outcome::Here(mut here) if self.is_same(inode, &here) => {
                    if self.displace(inode, Some(&here)) {
                        break;
                    }
                    here.attr.number = inode.number;
                    self.refresh(inode, &here);
                    return Ok(here);
                }
                Outcome::Here(_) => last = Errno::STALE,
                Outcome::Absent { .. } => last = Errno::NOENT,
            }
        }
        if matches!(last, Errno::NOENT | Errno::STALE | Errno::NOTDIR) {
            self.displace(inode, None);
        }
        let state = inode.data.snapshot();
        match state.orphan {
            Some(orphan) if inode.is_nameless() => {
                let mut stat = obj::stat(&orphan.fd)?;
                if orphan.upper.is_none() {
                    stat.nlink = 0;
                }
                let fd = orphan.fd.clone();
                let upper = orphan.upper.and_then(|kind| self.upper_of(kind));
                if upper.is_none() && orphan.upper.is_some() {
                    return Err(Errno::IO);
                }
                let source = match (upper, state.kind) {
                    (_, libc::S_IFDIR) => Source::Dir(Srcs::new()),
                    (Some(layer), _) => Source::One(Src {
                        layer,
                        default: false,
                    }),
                    (None, _) if state.plan == self.plan => state.source,
                    // The layer that it was found in has another place now, or none. Nothing is
                    // looked up by it: what is left is reached by its descriptor.
                    (None, _) => Source::Empty,
                };
                Ok(Box::new(Here {
                    path: Vec::new(),
                    pos: self.rules.walk(&orphan.path),
                    source,
                    attr: Attr {
                        number: inode.number,
                        stat,
                    },
                    fd: OnceCell::from(fd),
                    open: None,
                    bare: false,
                    upper,
                    target: None,
                    trust: self.own_trust(),
                }))
            }
            _ => Err(last),
        }
    }

    /// A salted number (see [`super::lookup`]) is still the same object's.
    fn is_same(&self, inode: &Inode, here: &Here) -> bool {
        // Directories and what only the view has go on under their number; see `number_of`.
        let kind = inode.data.state.read().kind;
        (here.attr.number == inode.number && (here.upper.is_some() || kind == here.kind()))
            || (kind == here.kind()
                && id::is_of_path(inode.number)
                && id::is_of_path(here.attr.number)
                && (1..MAX_SALT).any(|salt| id::of_path(&here.path, salt) == inode.number))
    }

    /// Keeps what was just found.
    pub(super) fn refresh(&self, inode: &Inode, here: &Here) {
        let mut state = inode.data.state.write();
        if state.source != here.source || state.plan != self.plan {
            let was_upper = self.was_in_upper(&state);
            if here.upper.is_some() && !was_upper && here.kind() != libc::S_IFDIR {
                // Copied up: whoever has it open goes on with the copy. A change from one lower
                // layer to another leaves open files as they are, like any replaced file.
                state.epoch = state.epoch.wrapping_add(1);
            }
            state.renewed |= state.plan != self.plan || matches!(state.source, Source::Dir(_));
            state.source = here.source.clone();
        }
        state.kind = here.kind();
        state.pos = here.pos;
        state.plan = self.plan;
        state.backing = here.backing();
        state.checked = Some(Checked::now(here.trust));
    }

    /// What the node itself just did is known until it does something else.
    pub(super) fn own_trust(&self) -> Trust {
        Trust {
            lasting: self.options.watched,
            generation: self.generation(),
        }
    }

    /// Was this no directory, and in an upper, when it was last looked at?
    pub(super) fn was_in_upper(&self, state: &State) -> bool {
        // In another plan's terms: an upper's objects are those without a lower backing.
        match state.source {
            Source::One(src) if state.plan == self.plan => self.layer_is_upper(src.layer),
            Source::One(_) => state.backing.is_none() && state.kind == libc::S_IFREG,
            _ => false,
        }
    }

    /// Where an inode stands in the rules.
    pub(super) fn pos_of(&self, inode: &Inode) -> Pos {
        let state = inode.data.state.read();
        if state.plan == self.plan {
            return state.pos;
        }
        let orphan = state.orphan.clone();
        drop(state);
        match (inode.path(), orphan) {
            (Some(path), _) => self.rules.walk(&path),
            (None, Some(orphan)) => self.rules.walk(&orphan.path),
            (None, None) => self.rules.root(),
        }
    }
}
