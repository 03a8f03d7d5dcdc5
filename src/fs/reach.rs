//! What was found, and how it is reached: by a descriptor, had once it is needed, that is proved to
//! be of the same object.

use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::look::is_mirror;
use super::resolve::Dir;
use super::{Attr, OpenHow, Source, Src, View};
use crate::rules::Pos;
use crate::sys::obj::{self, Stat};
use crate::sys::{Errno, Res};

/// An object that was found.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) path: Vec<u8>,
    pub(super) pos: Pos,
    pub(super) source: Source,
    /// As the view shows it.
    pub(super) attr: Attr,
    /// The object in the layer that wins, once it was needed ([`View::reach`]): `O_PATH`, or open
    /// as `open` says.
    pub(super) fd: OnceCell<Arc<OwnedFd>>,
    /// What `fd` is open for, where it is open for I/O.
    pub(super) open: Option<OFlags>,
    /// It was just copied, and no extended attribute came along.
    pub(super) bare: bool,
    /// The upper that has it.
    pub(super) upper: Option<u8>,
    /// A symlink's target, where it is known already.
    pub(super) target: Option<Arc<[u8]>>,
    /// For how long it may be believed.
    pub(super) trust: Trust,
}

/// How well something is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Trust {
    /// Whatever changes it would be told of.
    pub(super) lasting: bool,
    /// The view's generation before anything was looked at.
    pub(super) generation: u64,
}

impl Here {
    /// What no upper has, by its attributes alone: nothing of it is open or read yet.
    pub(super) fn below(path: Vec<u8>, pos: Pos, source: Source, attr: Attr, trust: Trust) -> Here {
        Here {
            path,
            pos,
            source,
            attr,
            fd: OnceCell::new(),
            open: None,
            bare: false,
            upper: None,
            target: None,
            trust,
        }
    }

    pub(super) fn kind(&self) -> u32 {
        self.attr.stat.kind()
    }

    /// What a lower layer has there, where that is no directory.
    pub(super) fn backing(&self) -> Option<(u64, u64)> {
        let lower = self.upper.is_none() && matches!(self.source, Source::One(_));
        let stat = &self.attr.stat;
        lower.then_some((stat.dev, stat.ino))
    }

    /// Is its descriptor as good as one opened so? What serves several handles has no position of
    /// its own that counts.
    pub(super) fn is_open_as(&self, how: OpenHow) -> bool {
        let plain = (how.backing() - OFlags::ACCMODE).is_empty();
        self.open == Some(how.backing()) || (plain && self.open == Some(OFlags::RDWR))
    }

    /// Its extended attributes, by the descriptor that it is reached by.
    pub(super) fn attrs_by<'f>(&self, fd: &'f Arc<OwnedFd>) -> obj::Xattrs<'f> {
        attrs_by(self.open, fd)
    }

    /// The layer that wins; `None` where it is only in the view, or put together.
    pub(super) fn top(&self) -> Option<Src> {
        match &self.source {
            Source::Dir(srcs) => srcs.first().copied(),
            Source::One(src) => Some(*src),
            _ => None,
        }
    }

    /// As a place to look names up in.
    ///
    /// # Errors
    /// `ENOTDIR` where it is something else.
    pub(super) fn into_dir(self) -> Res<Dir> {
        match self.source {
            Source::Dir(srcs) => Ok(Dir {
                path: self.path,
                pos: self.pos,
                srcs,
            }),
            _ => Err(Errno::NOTDIR),
        }
    }
}

/// Extended attributes by a descriptor and what it is open for; nothing: it only names the object.
pub(super) fn attrs_by(open: Option<OFlags>, fd: &Arc<OwnedFd>) -> obj::Xattrs<'_> {
    match open {
        Some(_) => obj::Xattrs::of_open(fd),
        None => obj::Xattrs::of(fd),
    }
}

impl View {
    /// The object behind what was found, `O_PATH`; `None` where only the view has it.
    ///
    /// # Errors
    /// `ESTALE` where another object has taken its place since.
    pub(super) fn reach<'h>(&self, here: &'h Here) -> Res<Option<&'h Arc<OwnedFd>>> {
        if let Some(fd) = here.fd.get() {
            return Ok(Some(fd));
        }
        Ok(match self.open_found(here)? {
            Some((fd, _)) => Some(here.fd.get_or_init(|| Arc::new(fd))),
            None => None,
        })
    }

    /// As [`View::reach`], opened now, with what it is now.
    fn open_found(&self, here: &Here) -> Res<Option<(OwnedFd, Stat)>> {
        let Some(src) = here.top() else {
            return Ok(None);
        };
        let zone = self.rules.zone(here.pos.zone);
        let at = self.layer_path(zone, &here.path, src);
        let layer = self.layer(src);
        let changed = |error| {
            // The word of that is still on its way. The kernel asks again at ESTALE, and must not
            // get the same answer.
            self.cache.forget(layer.id(), &at);
            Err(error)
        };
        let file = (here.attr.stat.dev, here.attr.stat.ino);
        if !layer.is_upper()
            && let Some(last) = layer.take_last(file)?
        {
            return Ok(Some(last));
        }
        let opened = match layer.is_upper() && !is_mirror(zone) {
            true => layer.open_near(&at, self.options.lifetime),
            false => layer.open(&at, OFlags::PATH),
        };
        let fd = match opened {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return changed(Errno::STALE),
            opened => opened?,
        };
        let now = obj::stat(&fd)?;
        if (now.dev, now.ino) != file {
            return changed(Errno::STALE);
        }
        Ok(Some((fd, now)))
    }

    /// The descriptor that reads the contents of a regular file.
    pub(super) fn open_contents(&self, here: &Here) -> Res<Vec<(OwnedFd, u64)>> {
        let zone = self.rules.zone(here.pos.zone);
        let open = |src: Src| -> Res<(OwnedFd, u64)> {
            let at = self.layer_path(zone, &here.path, src);
            let fd = self.layer(src).open_regular(&at, OFlags::RDONLY)?;
            let size = obj::stat(&fd)?.size;
            Ok((fd, size))
        };
        match &here.source {
            Source::One(_) if here.kind() != libc::S_IFREG => Err(Errno::STALE),
            Source::One(_) => {
                let (fd, now) = match here.fd.get() {
                    Some(fd) => (fd, obj::stat(&**fd)?),
                    None => {
                        let (fd, now) = self.open_found(here)?.ok_or(Errno::IO)?;
                        (here.fd.get_or_init(|| Arc::new(fd)), now)
                    }
                };
                if now.kind() != libc::S_IFREG {
                    return Err(Errno::STALE);
                }
                let flags = if here.upper.is_some() {
                    OFlags::RDONLY
                } else {
                    OFlags::NOATIME
                };
                Ok(vec![(obj::reopen(&**fd, flags)?, now.size)])
            }
            Source::Con(srcs) => srcs.iter().copied().map(open).collect(),
            Source::Text(text) => {
                let text = self.text(*text);
                let fd = rustix::fs::memfd_create(c"text", rustix::fs::MemfdFlags::CLOEXEC)?;
                crate::sys::copy::write_all(&fd, text.as_bytes(), 0)?;
                Ok(vec![(fd, text.len() as u64)])
            }
            Source::Empty => Ok(Vec::new()),
            Source::Dir(_) => Err(Errno::ISDIR),
            Source::Link(_) => Err(Errno::INVAL),
        }
    }
}
