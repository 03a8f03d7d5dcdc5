//! Looking at one layer: what it has at a path, and the names in a directory. What a watched lower
//! layer was found to have is remembered for all views, so that nobody asks it twice.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::resolve::Dir;
use super::{Src, View};
use crate::cache::{self, Fact, Lookup, Name, Names};
use crate::layer::glance::Glance;
use crate::layer::{Found, Layer, Listed, Object};
use crate::rules::{Zone, ZoneKind};
use crate::sys::obj::{self, Stat};
use crate::sys::{Errno, Res};

/// What one layer has at a path.
#[derive(Debug)]
pub(super) enum Look {
    Absent,
    Whiteout,
    Object(Seen),
}

/// An object of one layer.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) stat: Stat,
    /// `O_PATH`; none where it was remembered, or looked at by its name.
    pub(super) fd: Option<OwnedFd>,
    /// The directory in which it was looked at by its name.
    pub(super) beside: Option<Arc<OwnedFd>>,
    /// A directory that hides what is below it; `None`: not asked yet.
    opaque: Option<bool>,
    covered: bool,
    /// A symlink's target, where it is known.
    pub(super) target: Option<Arc<[u8]>>,
}

impl From<Found> for Look {
    fn from(found: Found) -> Look {
        match found {
            Found::Absent => Look::Absent,
            Found::Whiteout => Look::Whiteout,
            Found::Object(Object { fd, stat, covered }) => Look::Object(Seen {
                stat,
                fd: Some(fd),
                beside: None,
                opaque: None,
                covered,
                target: None,
            }),
        }
    }
}

impl From<Glance> for Look {
    fn from(glance: Glance) -> Look {
        match glance {
            Glance::Absent => Look::Absent,
            Glance::Whiteout => Look::Whiteout,
            Glance::Object(stat, dir) => Look::Object(Seen {
                stat,
                fd: None,
                beside: Some(dir),
                opaque: None,
                covered: false,
                target: None,
            }),
        }
    }
}

impl From<Fact> for Look {
    fn from(fact: Fact) -> Look {
        match fact {
            Fact::Absent => Look::Absent,
            Fact::Whiteout => Look::Whiteout,
            Fact::Object(object) => Look::Object(Seen {
                stat: object.stat,
                fd: None,
                beside: None,
                opaque: Some(object.opaque),
                covered: false,
                target: object.target,
            }),
        }
    }
}

impl View {
    /// A view path's path in one layer.
    pub(super) fn layer_path<'p>(&self, zone: &Zone, path: &'p [u8], src: Src) -> Cow<'p, [u8]> {
        let path = zone.layer_path(path);
        if src.default {
            Cow::Owned(super::resolve::join(b".default", path))
        } else {
            Cow::Borrowed(path)
        }
    }

    pub(super) fn layer_is_upper(&self, layer: u8) -> bool {
        self.layers[layer as usize].is_upper()
    }

    /// Is every change of what this layer shows in a zone told of? The node's own changes in its
    /// upper are: they come through the same kernel. What shows an upper raw is another matter.
    pub(super) fn is_lasting(&self, zone: &Zone, layer: u8) -> bool {
        let layer = &self.layers[layer as usize];
        match layer.is_upper() {
            true => self.options.watched && !is_mirror(zone),
            false => layer.is_watched(),
        }
    }

    /// What one layer has, chains of liteimg read through, an optional layer's absence forgiven.
    pub(super) fn probe(&self, zone: &Zone, path: &[u8], src: Src) -> Res<(Src, Look)> {
        let layer = self.layer(src);
        let at = self.layer_path(zone, path, src);
        let mut look = if is_mirror(zone) {
            let mut look = layer.probe_raw(&at)?.into();
            if let Look::Object(seen) = &mut look
                && seen.stat.is_dir()
            {
                // The kernel keeps a listing until the time changes (fs/fuse/readdir.c), and a copy
                // leaves its directory's as it was; nobody can do that to this one.
                seen.stat.mtime = seen.stat.ctime;
            }
            look
        } else {
            self.look_at(layer, &at)?
        };
        if self.is_image(src.layer)
            && !src.default
            && let Look::Object(seen) = &mut look
            && seen.stat.kind() == libc::S_IFLNK
        {
            let target: Arc<[u8]> = match (&seen.target, &seen.fd) {
                (Some(target), _) => target.clone(),
                (None, Some(fd)) => layer.readlink(fd)?.into(),
                (None, None) => return Err(Errno::IO),
            };
            seen.target = Some(target.clone());
            if let Some(default) = layer.read_through(&at, &target)
                && let Look::Object(through) = self.look_at(layer, &default)?
            {
                let src = Src {
                    default: true,
                    ..src
                };
                return Ok((src, Look::Object(through)));
            }
        }
        Ok((src, look))
    }

    /// What a layer has at a path of its own.
    pub(super) fn look_at(&self, layer: &Layer, at: &[u8]) -> Res<Look> {
        let ask = || match layer.probe(at) {
            Err(Errno::NOENT) => Ok(Found::Absent),
            other => other,
        };
        if layer.is_upper() {
            return match layer.glance(at, self.options.lifetime)? {
                Some(glance) => Ok(glance.into()),
                None => Ok(ask()?.into()),
            };
        }
        if !layer.is_watched() {
            return Ok(ask()?.into());
        }
        let ticket = match self.cache.fact(layer.id(), at) {
            Lookup::Hit(fact) => return Ok(fact.into()),
            Lookup::Miss(ticket) => ticket,
        };
        // Watched when the ticket was drawn: a change since then is told of and voids it.
        let still = layer.is_watched();
        let mut look = ask()?.into();
        let fact = match &mut look {
            Look::Absent => Fact::Absent,
            Look::Whiteout => Fact::Whiteout,
            Look::Object(seen) => {
                let opaque = seen.stat.is_dir() && self.opaque(layer, seen, at)?;
                if let (libc::S_IFLNK, Some(fd)) = (seen.stat.kind(), &seen.fd) {
                    seen.target = Some(layer.readlink(fd)?.into());
                }
                seen.opaque = Some(opaque);
                Fact::Object(cache::Object {
                    stat: seen.stat,
                    opaque,
                    target: seen.target.clone(),
                })
            }
        };
        if still {
            self.cache.put_fact(layer.id(), at, fact, ticket);
        }
        Ok(look)
    }

    /// Does this directory, seen at `path`, hide what is below it?
    pub(super) fn opaque(&self, layer: &Layer, seen: &Seen, path: &[u8]) -> Res<bool> {
        match (seen.opaque, &seen.fd, &seen.beside) {
            (Some(opaque), ..) => Ok(opaque),
            (None, Some(fd), _) => layer.opaque(fd, seen.covered),
            (None, None, Some(dir)) => layer.opaque_name(dir, obj::split(path).1),
            (None, None, None) => Err(Errno::IO),
        }
    }

    /// The names in one layer's part of a directory.
    pub(super) fn list_layer(&self, dir: &Dir, src: Src) -> Res<Names> {
        let zone = self.rules.zone(dir.pos.zone);
        let at = self.layer_path(zone, &dir.path, src);
        let layer = self.layer(src);
        let raw = is_mirror(zone);
        let read = || {
            let listed = if raw {
                layer.list_raw(&at)
            } else {
                layer.list(&at)
            };
            match listed {
                Ok(names) => Ok(names.into_iter().map(name).collect()),
                // Gone since it was looked at.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Names::default()),
                Err(e) => Err(e),
            }
        };
        if raw || layer.is_upper() || !layer.is_watched() {
            return read();
        }
        let ticket = match self.cache.names(layer.id(), &at) {
            Lookup::Hit(names) => return Ok(names),
            Lookup::Miss(ticket) => ticket,
        };
        let still = layer.is_watched();
        let names = read()?;
        if still {
            let kept = names.clone();
            self.cache.put_names(layer.id(), &at, kept, ticket);
        }
        Ok(names)
    }
}

fn name(listed: Listed) -> Name {
    Name {
        name: listed.name,
        kind: listed.kind,
        whiteout: listed.whiteout,
    }
}

pub(super) fn is_mirror(zone: &Zone) -> bool {
    matches!(zone.kind, ZoneKind::Mirror(_))
}
