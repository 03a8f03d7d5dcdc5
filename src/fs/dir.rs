//! OPENDIR, READDIR, READDIRPLUS: the union of a directory's layers as a snapshot with cookies
//! that hold at any time.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lru::LruCache;

use super::resolve::{Dir, Here, Outcome, Trust, join};
use super::{Attr, Inode, Source, Src, View};
use crate::inode::dirstream::{DOT, DOTDOT};
use crate::inode::{DirStream, StreamEntry, id};
use crate::sys::obj::Stat;
use crate::sys::{Errno, Res};

/// So many listings are kept while they are being read.
const STREAMS: usize = 8;

/// Listings that are being read, by the directory's number. A reader that goes on finds its own, or
/// one made meanwhile: cookies hold in either. Not by handle, since there is none over NFS, and
/// none at all where the kernel opens directories without asking.
#[derive(Debug)]
pub(super) struct Streams(LruCache<u64, Arc<DirStream>>);

impl Default for Streams {
    fn default() -> Self {
        Streams(LruCache::new(const { NonZeroUsize::new(STREAMS).unwrap() }))
    }
}

/// One entry of a listing as the kernel gets it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DirEntry<'n> {
    /// Where a reader goes on behind this entry.
    pub cookie: u64,
    /// The name.
    pub name: &'n [u8],
    /// st_ino.
    pub number: u64,
    /// Type bits.
    pub kind: u32,
}

/// A name with its type bits (0: unknown) and its number (0: it takes a look to tell).
type Name = (Box<[u8]>, u32, u64);

impl View {
    /// Can this be opened as a directory? Nothing is kept for it.
    ///
    /// # Errors
    /// `ENOTDIR`, `ESTALE`.
    pub fn opendir(&self, number: u64) -> Res<()> {
        match self.inode(number)?.data.state.read().kind {
            libc::S_IFDIR => Ok(()),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Entries behind a cookie, until `add` says that no more fit.
    ///
    /// # Errors
    /// What listing the layers answers.
    pub fn readdir(
        &self,
        number: u64,
        cookie: u64,
        mut add: impl FnMut(DirEntry<'_>) -> bool,
    ) -> Res<()> {
        let inode = self.inode(number)?;
        let dir = self.listable(&inode)?;
        let stream = self.snapshot(&inode, dir.as_ref(), cookie)?;
        if self.dots(&inode, cookie, &mut add) {
            return Ok(());
        }
        let Some(dir) = dir else { return Ok(()) };
        for entry in self.rest(&inode, &stream, cookie) {
            let Some(entry) = self.numbered(&dir, entry)? else {
                continue;
            };
            if add(entry) {
                break;
            }
        }
        Ok(())
    }

    /// As [`View::readdir`], each entry but "." and ".." counted as a lookup where `add` took it.
    ///
    /// # Errors
    /// What listing the layers answers.
    pub fn readdirplus(
        &self,
        number: u64,
        cookie: u64,
        mut add: impl FnMut(DirEntry<'_>, &Attr, Duration) -> bool,
    ) -> Res<()> {
        let generation = self.generation();
        let inode = self.inode(number)?;
        let dir = self.listable(&inode)?;
        let plain = |number| Attr {
            number,
            stat: Stat {
                mode: libc::S_IFDIR,
                ..Stat::default()
            },
        };
        let mut dots = |entry: DirEntry<'_>| {
            let attr = plain(entry.number);
            add(entry, &attr, Duration::ZERO)
        };
        let alone = dir.as_ref().and_then(|dir| self.alone(dir, generation));
        if let Some(alone) = &alone
            && let Some(listing) = self.listing(alone)
        {
            return match self.dots(&inode, cookie, &mut dots) {
                true => Ok(()),
                false => self.add_listing(&inode, alone, &listing, cookie, add),
            };
        }
        let stream = self.snapshot(&inode, dir.as_ref(), cookie)?;
        if self.dots(&inode, cookie, &mut dots) {
            return Ok(());
        }
        let Some(dir) = &dir else { return Ok(()) };
        let rest = self.rest(&inode, &stream, cookie);
        if let (true, Some(alone)) = (rest.is_empty(), &alone) {
            self.keep_listing(alone);
        }
        for entry in rest {
            let (here, reached) = match self.resolve(dir, &entry.name) {
                Ok(Outcome::Here(here)) => (*here, true),
                Ok(Outcome::Absent { .. }) => continue,
                Err(e) => (self.unreachable(dir, entry, e), false),
            };
            let kind = here.kind();
            let (found, known) = self.enter(&inode, &entry.name, here)?;
            let lifetime = match reached {
                true => found.lifetime,
                // Neither we nor the kernel believe it: the next use looks, and fails.
                false => {
                    known.data.state.write().checked = None;
                    Duration::ZERO
                }
            };
            let number = known.number;
            let (cookie, name) = (entry.cookie, &*entry.name);
            if add(
                DirEntry {
                    cookie,
                    name,
                    number,
                    kind,
                },
                &found.attr,
                lifetime,
            ) {
                // It did not fit, so the kernel never heard of it.
                self.forget(number, 1);
                break;
            }
        }
        Ok(())
    }

    /// A name whose layer cannot be reached now is listed all the same: programs that delete what
    /// is "not there" (rsync --delete) must not be told that it is not. Any use of it fails.
    fn unreachable(&self, dir: &Dir, entry: &StreamEntry, why: Errno) -> Here {
        let path = join(&dir.path, &entry.name);
        tracing::debug!(view = self.name, path = %String::from_utf8_lossy(&path), %why, "listed, not reached");
        let pos = self.rules.step(dir.pos, &entry.name);
        let kind = if entry.kind == 0 {
            libc::S_IFDIR
        } else {
            entry.kind
        };
        let number = if entry.number == 0 {
            id::of_path(&path, 0)
        } else {
            entry.number
        };
        let attr = Attr {
            number,
            stat: Stat {
                mode: kind,
                nlink: 1,
                ..Stat::default()
            },
        };
        let source = if kind == libc::S_IFDIR {
            Source::Dir(Default::default())
        } else {
            Source::Empty
        };
        let trust = Trust {
            lasting: false,
            generation: self.generation(),
        };
        Here::below(path, pos, source, attr, trust)
    }

    /// "." and ".."; true where no more fits.
    fn dots(&self, inode: &Inode, cookie: u64, add: &mut impl FnMut(DirEntry<'_>) -> bool) -> bool {
        if cookie >= DOTDOT {
            return false;
        }
        let links = inode.links();
        let parent = links
            .first()
            .map_or(inode.number, |link| link.parent.number);
        [(DOT, &b"."[..], inode.number), (DOTDOT, b"..", parent)]
            .into_iter()
            .any(|(at, name, n)| {
                cookie < at
                    && add(DirEntry {
                        cookie: at,
                        name,
                        number: n,
                        kind: libc::S_IFDIR,
                    })
            })
    }

    /// A directory without a name is empty, and stays readable.
    fn listable(&self, inode: &Inode) -> Res<Option<Dir>> {
        if inode.is_nameless() {
            Ok(None)
        } else {
            self.dir(inode).map(Some)
        }
    }

    /// The listing that is being read, made anew at the start of the directory and where it was
    /// not kept.
    fn snapshot(&self, inode: &Inode, dir: Option<&Dir>, cookie: u64) -> Res<Arc<DirStream>> {
        if cookie != 0
            && let Some(stream) = self.held.streams.lock().0.get(&inode.number)
        {
            return Ok(stream.clone());
        }
        let names = match dir {
            Some(dir) => self.list(dir)?,
            None => Vec::new(),
        };
        let stream = Arc::new(DirStream::new(names));
        let kept = stream.clone();
        self.held.streams.lock().0.put(inode.number, kept);
        Ok(stream)
    }

    /// What comes behind a cookie. Where that is nothing, the listing was read.
    fn rest<'s>(&self, inode: &Inode, stream: &'s DirStream, cookie: u64) -> &'s [StreamEntry] {
        let rest = stream.after(cookie);
        if rest.is_empty() {
            self.held.streams.lock().0.pop(&inode.number);
        }
        rest
    }

    fn numbered<'e>(&self, dir: &Dir, entry: &'e StreamEntry) -> Res<Option<DirEntry<'e>>> {
        let (cookie, name) = (entry.cookie, &*entry.name);
        if entry.number != 0 {
            return Ok(Some(DirEntry {
                cookie,
                name,
                number: entry.number,
                kind: entry.kind,
            }));
        }
        let here = match self.resolve(dir, name) {
            Ok(Outcome::Here(here)) => *here,
            Ok(Outcome::Absent { .. }) => return Ok(None),
            Err(e) => self.unreachable(dir, entry, e),
        };
        Ok(Some(DirEntry {
            cookie,
            name,
            number: self.number_of(&here),
            kind: here.kind(),
        }))
    }

    /// The names of a directory: the union of its layers, less whiteouts, plus what rules call
    /// for.
    pub(super) fn list(&self, dir: &Dir) -> Res<Vec<Name>> {
        let mut names: HashMap<Box<[u8]>, (u32, u64)> = HashMap::new();
        let mut hidden: HashSet<Box<[u8]>> = HashSet::new();
        let last = dir.srcs.len().saturating_sub(1);
        for (at, &src) in dir.srcs.iter().enumerate() {
            let mut deleted = Vec::new();
            for listed in self.list_layer(dir, src)?.iter() {
                let name = &listed.name;
                if listed.whiteout {
                    if at < last || self.rules.is_mtab(self.rules.step(dir.pos, name)) {
                        deleted.push(name.clone());
                    }
                } else if !hidden.contains(name) && !names.contains_key(name) {
                    let number = self.number_without_look(dir, src, name, listed.kind);
                    names.insert(name.clone(), (listed.kind, number));
                }
            }
            hidden.extend(deleted);
        }
        for name in self.rules.rule_names(dir.pos) {
            names.insert(name.into(), (0, 0));
        }
        let mtab = &b"mtab"[..];
        if self.rules.is_mtab(self.rules.step(dir.pos, mtab)) && !hidden.contains(mtab) {
            names.insert(mtab.into(), (0, 0));
        }
        Ok(names
            .into_iter()
            .map(|(name, (kind, number))| (name, kind, number))
            .collect())
    }

    fn number_without_look(&self, dir: &Dir, src: Src, name: &[u8], kind: u32) -> u64 {
        let pos = self.rules.step(dir.pos, name);
        let own_rule = self.rules.guarded(pos) || self.rules.is_mtab(pos);
        let perhaps_chain = kind == libc::S_IFLNK || kind == 0;
        let salted = self.held.salted.load(Ordering::Relaxed);
        if own_rule || perhaps_chain || salted || self.layer_is_upper(src.layer) {
            return 0;
        }
        let number = id::of_path(&join(&dir.path, name), 0);
        match self.has_moved(pos, number) {
            true => 0,
            false => number,
        }
    }

    /// fsync of a directory: of what the upper has of it.
    ///
    /// # Errors
    /// fsync(2)'s.
    pub fn fsyncdir(&self, number: u64) -> Res<()> {
        let here = self.object(&*self.inode(number)?)?;
        match (self.reach(&here)?, here.upper) {
            (Some(fd), Some(_)) => {
                let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
                rustix::fs::fsync(crate::sys::obj::reopen(fd, flags)?)
            }
            _ => Ok(()),
        }
    }
}
