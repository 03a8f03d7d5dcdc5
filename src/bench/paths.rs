//! Which paths are measured: what the first mount holds, in an order that the seed decides, as far
//! as every mount holds the same. Reads names and attributes only.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use super::write::OURS;
use super::{BenchError, Observer, Place, Plan};
use crate::sys::dir;

/// The largest file that counts as small.
pub(super) const SMALL: u64 = 64 << 10;
/// The smallest file that counts as large.
pub(super) const LARGE: u64 = 1 << 20;
/// Left out at the top: the kernel's and other programs' own, and different at every look.
const LEFT_OUT: [&[u8]; 4] = [b"dev", b"proc", b"sys", b"run"];
/// What a name that is not there ends with.
const ABSENT: &[u8] = b".statelite-absent";
/// Longer ones would not fit with what is put behind them.
const LONGEST_PATH: usize = libc::PATH_MAX as usize - 64;
const LONGEST_NAME: usize = 255;

/// The paths of each operation, relative to the mounts.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Whatever is there: files, directories, symlinks.
    pub(super) any: Vec<CString>,
    /// What is not there.
    pub(super) absent: Vec<CString>,
    pub(super) directories: Vec<CString>,
    pub(super) files: Vec<CString>,
    pub(super) small: Vec<CString>,
    /// With its size.
    pub(super) large: Option<(CString, u64)>,
    /// To be opened for writing, each once.
    pub(super) copies: Vec<CString>,
    /// How many paths the first mount has.
    pub(super) seen: usize,
    /// How many of those that were wanted are not the same in another mount.
    pub(super) differ: usize,
    /// How many could not be looked at, and the first with its reason.
    pub(super) unread: Option<(usize, String)>,
}

impl Lists {
    fn unreadable(&mut self, place: &Place, path: &CStr, error: Errno) {
        let first = || (0, format!("{}: {error}", place.shown(path).display()));
        self.unread.get_or_insert_with(first).0 += 1;
    }
}

#[derive(Debug)]
struct Found {
    path: CString,
    kind: FileType,
    mode: u32,
    size: u64,
}

impl Found {
    fn new(path: CString, stat: &Stat) -> Found {
        Found {
            path,
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode,
            size: u64::try_from(stat.st_size).unwrap_or(0),
        }
    }

    fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    /// Of the same kind and, for a file, of the same size in each of `places`.
    fn same_in(&self, places: &[Place]) -> bool {
        places.iter().all(|place| {
            let stat = statat(&place.root, &self.path, AtFlags::SYMLINK_NOFOLLOW);
            stat.is_ok_and(|stat| {
                let there = Found::new(CString::default(), &stat);
                there.kind == self.kind && (!self.is_file() || there.size == self.size)
            })
        })
    }
}

/// Walks the first mount and picks at most `plan.paths` paths for each operation.
pub(super) fn collect(
    plan: &Plan,
    places: &[Place],
    observer: &mut dyn Observer,
) -> Result<Lists, BenchError> {
    let mut lists = Lists::default();
    let Some((first, others)) = places.split_first() else {
        return Err(BenchError::NoMounts);
    };
    let mut found = walk(plan, first, observer, &mut lists)?;
    lists.seen = found.len();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    pick_large(&mut lists, &found, others);
    fastrand::Rng::with_seed(plan.seed).shuffle(&mut found);
    if plan.operations.contains(&super::Operation::CopyUp) {
        pick_copies(plan, &mut lists, &found, others)?;
    }
    let copied: HashSet<CString> = lists.copies.iter().cloned().collect();
    for found in found.iter().filter(|found| !copied.contains(&found.path)) {
        plan.go_on()?;
        pick(plan.paths, &mut lists, found, others);
    }
    if lists.any.is_empty() {
        return Err(BenchError::NoPaths {
            mount: first.mount.path.clone(),
            seen: lists.seen,
        });
    }
    Ok(lists)
}

/// Puts a path into each list that it is for and that has room.
fn pick(most: usize, lists: &mut Lists, found: &Found, others: &[Place]) {
    let is_file = found.is_file();
    let is_directory = found.kind == FileType::Directory;
    let is_small = is_file && found.size <= SMALL;
    let (path, absent) = (Some(&found.path), absent(&found.path));
    let for_lists = [
        (&mut lists.any, path),
        (&mut lists.absent, absent.as_ref()),
        (&mut lists.directories, path.filter(|_| is_directory)),
        (&mut lists.files, path.filter(|_| is_file)),
        (&mut lists.small, path.filter(|_| is_small)),
    ];
    let wanted: Vec<_> = for_lists
        .into_iter()
        .filter_map(|(list, path)| Some((list, path?)))
        .filter(|(list, _)| list.len() < most)
        .collect();
    if wanted.is_empty() {
        return;
    }
    if !found.same_in(others) {
        lists.differ += 1;
        return;
    }
    for (list, path) in wanted {
        list.push(path.clone());
    }
}

/// The name beside `path` that is not there, where it can be one.
fn absent(path: &CStr) -> Option<CString> {
    let mut bytes = path.to_bytes().to_vec();
    bytes.extend(ABSENT);
    let name = bytes.rsplit(|b| *b == b'/').next().unwrap_or_default();
    if name.len() > LONGEST_NAME {
        return None;
    }
    CString::new(bytes).ok()
}

/// The largest file that is the same everywhere.
fn pick_large(lists: &mut Lists, found: &[Found], others: &[Place]) {
    let mut large: Vec<&Found> = found
        .iter()
        .filter(|found| found.is_file() && found.size >= LARGE)
        .collect();
    large.sort_by_key(|found| std::cmp::Reverse(found.size));
    let large = large.into_iter().find(|found| found.same_in(others));
    lists.large = large.map(|found| (found.path.clone(), found.size));
}

/// Small files below the directory that may be written in, for each round its own: a file is copied
/// up once. Programs are left out, since one that runs can't be opened for writing.
fn pick_copies(
    plan: &Plan,
    lists: &mut Lists,
    found: &[Found],
    others: &[Place],
) -> Result<(), BenchError> {
    let below = plan.ground.as_deref().map(|dir| dir.as_os_str().as_bytes());
    let below = below.unwrap_or_default();
    let is_below = |path: &CStr| {
        let rest = path.to_bytes().strip_prefix(below);
        rest.is_some_and(|rest| below.is_empty() || rest.first() == Some(&b'/'))
    };
    let most = plan.paths.saturating_mul(plan.rounds);
    for found in found {
        plan.go_on()?;
        if lists.copies.len() == most {
            break;
        }
        let fits = found.is_file() && (1..=SMALL).contains(&found.size) && found.mode & 0o111 == 0;
        if fits && is_below(&found.path) && found.same_in(others) {
            lists.copies.push(found.path.clone());
        }
    }
    // As many in each round.
    let each = lists.copies.len() / plan.rounds.max(1);
    lists.copies.truncate(each * plan.rounds);
    Ok(())
}

/// Everything on the mount's own file system but what is mounted below, as find -xdev.
fn walk(
    plan: &Plan,
    place: &Place,
    observer: &mut dyn Observer,
    lists: &mut Lists,
) -> Result<Vec<Found>, BenchError> {
    let device = statat(&place.root, c".", AtFlags::empty())
        .map_err(|error| BenchError::mount(&place.mount, error))?
        .st_dev;
    let mut found = Vec::new();
    let mut todo: Vec<CString> = vec![CString::default()];
    while let Some(directory) = todo.pop() {
        plan.go_on()?;
        let top = directory.is_empty();
        let names = match list(place, &directory) {
            Ok(names) => names,
            // It has gone since it was listed.
            Err(Errno::NOENT | Errno::NOTDIR) if !top => continue,
            Err(error) if top => return Err(BenchError::mount(&place.mount, error)),
            Err(error) => {
                lists.unreadable(place, &directory, error);
                continue;
            }
        };
        for name in names {
            if top && LEFT_OUT.contains(&&*name) || name.starts_with(OURS.as_bytes()) {
                continue;
            }
            let Some(path) = join(directory.to_bytes(), &name) else {
                continue;
            };
            let stat = match statat(&place.root, &path, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => {
                    lists.unreadable(place, &path, error);
                    continue;
                }
            };
            let here = Found::new(path, &stat);
            match here.kind {
                FileType::Directory if stat.st_dev == device => todo.push(here.path.clone()),
                FileType::RegularFile | FileType::Symlink => {}
                _ => continue,
            }
            found.push(here);
            observer.found(1);
        }
    }
    Ok(found)
}

fn list(place: &Place, directory: &CStr) -> Result<Vec<Box<[u8]>>, Errno> {
    let at = if directory.is_empty() {
        c"."
    } else {
        directory
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(&place.root, at, flags, Mode::empty())?;
    Ok(dir::list(&fd)?
        .into_iter()
        .map(|entry| entry.name)
        .collect())
}

/// `None` where it would be too long for a system call.
fn join(directory: &[u8], name: &[u8]) -> Option<CString> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend(directory);
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend(name);
    if path.len() > LONGEST_PATH {
        return None;
    }
    CString::new(path).ok()
}

impl Plan {
    /// # Errors
    /// [`BenchError::Interrupted`] once that was asked for.
    pub(super) fn go_on(&self) -> Result<(), BenchError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(BenchError::Interrupted);
        }
        Ok(())
    }
}
