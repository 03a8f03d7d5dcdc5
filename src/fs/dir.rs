//! OPENDIR, READDIR, READDIRPLUS: the union of a directory's layers as a snapshot with cookies
//! that hold at any time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::resolve::{Dir, Here, Outcome, join};
use super::{Attr, Inode, Source, Src, View};
use crate::inode::dirstream::{DOT, DOTDOT};
use crate::inode::{DirStream, StreamEntry, id};
use crate::layer::Listed;
use crate::rules::ZoneKind;
use crate::sys::obj::Stat;
use crate::sys::{Errno, Res};

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    snapshot: Mutex<Option<Arc<DirStream>>>,
}

/// One entry of a listing as the kernel gets it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DirEntry {
    /// Where a reader goes on behind this entry.
    pub cookie: u64,
    /// The name.
    pub name: Box<[u8]>,
    /// st_ino.
    pub number: u64,
    /// Type bits.
    pub kind: u32,
}

/// A name with its type bits (0: unknown) and its number (0: it takes a look to tell).
type Name = (Box<[u8]>, u32, u64);

impl View {
    /// Opens a directory; returns the handle's number.
    ///
    /// # Errors
    /// `ENOTDIR`, `ESTALE`.
    pub fn opendir(&self, number: u64) -> Res<u64> {
        let inode = self.inode(number)?;
        if inode.data.state.read().kind != libc::S_IFDIR {
            return Err(Errno::NOTDIR);
        }
        Ok(self.dirs.insert(Directory {
            snapshot: Mutex::new(None),
        }))
    }

    /// Lets go of a directory handle.
    pub fn releasedir(&self, handle: u64) {
        self.dirs.remove(handle);
    }

    /// Entries behind a cookie, until `add` says that no more fit.
    ///
    /// # Errors
    /// What listing the layers answers.
    pub fn readdir(
        &self,
        number: u64,
        handle: u64,
        cookie: u64,
        mut add: impl FnMut(DirEntry) -> bool,
    ) -> Res<()> {
        let inode = self.inode(number)?;
        let stream = self.snapshot(&inode, handle, cookie)?;
        if self.dots(&inode, cookie, &mut add) {
            return Ok(());
        }
        let Some(dir) = self.listable(&inode)? else {
            return Ok(());
        };
        for entry in stream.after(cookie) {
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
        handle: u64,
        cookie: u64,
        mut add: impl FnMut(DirEntry, &Attr, Duration) -> bool,
    ) -> Res<()> {
        let inode = self.inode(number)?;
        let stream = self.snapshot(&inode, handle, cookie)?;
        let plain = |number| Attr {
            number,
            stat: Stat {
                mode: libc::S_IFDIR,
                ..Stat::default()
            },
        };
        if self.dots(&inode, cookie, &mut |entry: DirEntry| {
            let attr = plain(entry.number);
            add(entry, &attr, Duration::ZERO)
        }) {
            return Ok(());
        }
        let Some(dir) = self.listable(&inode)? else {
            return Ok(());
        };
        for entry in stream.after(cookie) {
            let (here, reached) = match self.resolve(&dir, &entry.name) {
                Ok(Outcome::Here(here)) => (*here, true),
                Ok(Outcome::Absent { .. }) => continue,
                Err(e) => (self.unreachable(&dir, entry, e), false),
            };
            let kind = here.kind();
            let (attr, known) = self.enter(&inode, &entry.name, here)?;
            let lifetime = match reached {
                true => self.options.lifetime,
                // Neither we nor the kernel believe it: the next use looks, and fails.
                false => {
                    known.data.state.write().checked = None;
                    Duration::ZERO
                }
            };
            let number = known.number;
            let (cookie, name) = (entry.cookie, entry.name.clone());
            if add(
                DirEntry {
                    cookie,
                    name,
                    number,
                    kind,
                },
                &attr,
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
        Here {
            path,
            pos,
            source,
            attr,
            fd: None,
            upper: None,
        }
    }

    /// "." and ".."; true where no more fits.
    fn dots(&self, inode: &Inode, cookie: u64, add: &mut impl FnMut(DirEntry) -> bool) -> bool {
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
                        name: name.into(),
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

    /// The handle's snapshot, made anew at the start of the directory; for a handle that is not
    /// known (NFS reads on after a close), one made for this request.
    fn snapshot(&self, inode: &Inode, handle: u64, cookie: u64) -> Res<Arc<DirStream>> {
        let open = self.dirs.get(handle);
        if cookie != 0
            && let Some(open) = &open
            && let Some(stream) = &*open.snapshot.lock()
        {
            return Ok(stream.clone());
        }
        let names = match self.listable(inode)? {
            Some(dir) => self.list(&dir)?,
            None => Vec::new(),
        };
        let stream = Arc::new(DirStream::new(names));
        if let Some(open) = open {
            *open.snapshot.lock() = Some(stream.clone());
        }
        Ok(stream)
    }

    fn numbered(&self, dir: &Dir, entry: &StreamEntry) -> Res<Option<DirEntry>> {
        let (cookie, name) = (entry.cookie, entry.name.clone());
        if entry.number != 0 {
            return Ok(Some(DirEntry {
                cookie,
                name,
                number: entry.number,
                kind: entry.kind,
            }));
        }
        let here = match self.resolve(dir, &name) {
            Ok(Outcome::Here(here)) => *here,
            Ok(Outcome::Absent { .. }) => return Ok(None),
            Err(e) => self.unreachable(dir, entry, e),
        };
        Ok(Some(DirEntry {
            cookie,
            name,
            number: here.attr.number,
            kind: here.kind(),
        }))
    }

    /// The names of a directory: the union of its layers, less whiteouts, plus what rules call
    /// for.
    pub(super) fn list(&self, dir: &Dir) -> Res<Vec<Name>> {
        let mut names: HashMap<Box<[u8]>, (u32, u64)> = HashMap::new();
        let mut hidden: HashSet<Box<[u8]>> = HashSet::new();
        for &src in &dir.srcs {
            let mut deleted = Vec::new();
            for Listed {
                name,
                kind,
                whiteout,
            } in self.list_layer(dir, src)?
            {
                if whiteout {
                    deleted.push(name);
                } else if !hidden.contains(&name) && !names.contains_key(&name) {
                    let number = self.number_without_look(dir, src, &name, kind);
                    names.insert(name, (kind, number));
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

    fn list_layer(&self, dir: &Dir, src: Src) -> Res<Vec<Listed>> {
        let zone = self.rules.zone(dir.pos.zone);
        let at = self.layer_path(zone, &dir.path, src);
        let raw = matches!(zone.kind, ZoneKind::Mirror(_));
        let listed = if raw {
            self.layer(src).list_raw(&at)
        } else {
            self.layer(src).list(&at)
        };
        match listed {
            // Gone since it was looked at.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Vec::new()),
            other => other,
        }
    }

    fn number_without_look(&self, dir: &Dir, src: Src, name: &[u8], kind: u32) -> u64 {
        let pos = self.rules.step(dir.pos, name);
        let own_rule = self.rules.guarded(pos) || self.rules.is_mtab(pos);
        let perhaps_chain = kind == libc::S_IFLNK || kind == 0;
        if own_rule || perhaps_chain || self.layer_is_upper(src.layer) {
            return 0;
        }
        id::of_path(&join(&dir.path, name), 0)
    }

    /// fsync of a directory: of what the upper has of it.
    ///
    /// # Errors
    /// fsync(2)'s.
    pub fn fsyncdir(&self, number: u64) -> Res<()> {
        let here = self.object(&*self.inode(number)?)?;
        match (&here.fd, here.upper) {
            (Some(fd), Some(_)) => {
                let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
                rustix::fs::fsync(crate::sys::obj::reopen(fd, flags)?)
            }
            _ => Ok(()),
        }
    }
}
