//! Timing: one operation over its list of paths on one mount, each call by itself on the monotonic
//! clock. What is prepared for a call is prepared before the clock is read.

use std::ffi::CString;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, openat, statat, unlinkat};
use rustix::io::{Errno, pread, read, write};

use super::paths::Lists;
use super::write::{Ground, appended};
use super::{BenchError, Observer, Operation, Place, Plan};
use crate::sys::close::close;

/// One sequential read.
const BLOCK: usize = 128 << 10;
/// One random read.
const PAGE: usize = 4 << 10;
/// How much of a large file is read at most: it shall stay in memory.
const EXTENT: u64 = 64 << 20;
/// How many of what has no list of paths to end it.
const MOST: usize = 10_000;
/// How often progress is told.
const TOLD: usize = 256;

/// The right to drop the kernel's caches.
#[derive(Debug)]
pub(super) struct Cold(File);

impl Cold {
    pub(super) const FILE: &str = "/proc/sys/vm/drop_caches";

    pub(super) fn open() -> std::io::Result<Cold> {
        Ok(Cold(File::options().write(true).open(Cold::FILE)?))
    }

    /// Names and inodes that nobody uses are forgotten, in the whole machine.
    fn drop_caches(&self) -> std::io::Result<()> {
        rustix::fs::sync();
        self.0.write_all_at(b"2", 0)
    }
}

/// What one pass found.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// Nanoseconds of each operation that succeeded.
    pub(super) samples: Vec<u64>,
    pub(super) failed: usize,
    /// The first failure.
    pub(super) failure: Option<String>,
}

/// What reading the clock costs: between two readings with nothing in between, the median.
pub(super) fn clock_cost() -> u64 {
    let mut costs: Vec<u64> = (0..10_001).map(|_| nanoseconds(Instant::now())).collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// All that a pass needs.
pub(super) struct Bench<'a> {
    pub(super) plan: &'a Plan,
    pub(super) places: &'a [Place],
    pub(super) lists: &'a Lists,
    /// One a place, or none where nothing is written.
    pub(super) grounds: &'a [Ground],
    pub(super) cold: Option<&'a Cold>,
    pub(super) observer: &'a mut dyn Observer,
}

impl Bench<'_> {
    /// How many of `op` one pass is.
    pub(super) fn count(&self, op: Operation) -> usize {
        let lists = self.lists;
        match op {
            Operation::ColdStat | Operation::WarmStat => lists.any.len(),
            Operation::ColdAbsent | Operation::WarmAbsent => lists.absent.len(),
            Operation::ColdReaddir | Operation::WarmReaddir => lists.directories.len(),
            Operation::Open => lists.files.len(),
            Operation::ColdRead | Operation::WarmRead => lists.small.len(),
            Operation::SeqRead => usize::try_from(self.extent()).map_or(0, |size| size / BLOCK),
            Operation::RandomRead if lists.large.is_none() => 0,
            Operation::RandomRead | Operation::CreateUnlink | Operation::Append => {
                self.plan.paths.min(MOST)
            }
            Operation::CopyUp => lists.copies.len() / self.plan.rounds.max(1),
        }
    }

    fn extent(&self) -> u64 {
        self.lists
            .large
            .as_ref()
            .map_or(0, |(_, size)| EXTENT.min(*size))
    }

    /// One pass of `op` over the place with number `at`.
    pub(super) fn pass(
        &mut self,
        op: Operation,
        at: usize,
        round: usize,
    ) -> Result<Pass, BenchError> {
        let (places, lists) = (self.places, self.lists);
        let place = &places[at];
        let root = &place.root;
        if op.is_cold() {
            let cold = self.cold.ok_or(BenchError::NoOperations)?;
            cold.drop_caches().map_err(BenchError::Cold)?;
        }
        match op {
            Operation::ColdStat | Operation::WarmStat => self.over(op, place, &lists.any, |path| {
                statat(root, path, AtFlags::SYMLINK_NOFOLLOW).map(drop)
            }),
            Operation::ColdAbsent | Operation::WarmAbsent => {
                self.over(op, place, &lists.absent, |path| {
                    match statat(root, path, AtFlags::SYMLINK_NOFOLLOW) {
                        Err(Errno::NOENT) => Ok(()),
                        Ok(_) => Err(Errno::EXIST),
                        Err(error) => Err(error),
                    }
                })
            }
            Operation::ColdReaddir | Operation::WarmReaddir => {
                let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
                self.over(op, place, &lists.directories, |path| {
                    let fd = openat(root, path, DIRECTORY, Mode::empty())?;
                    let mut entries = RawDir::new(&fd, &mut buffer);
                    while let Some(entry) = entries.next() {
                        entry?;
                    }
                    close(fd)
                })
            }
            Operation::Open => self.over(op, place, &lists.files, |path| {
                close(openat(root, path, READ, Mode::empty())?)
            }),
            Operation::ColdRead | Operation::WarmRead => {
                let mut buffer = vec![0; 64 << 10];
                self.over(op, place, &lists.small, |path| {
                    let fd = openat(root, path, READ, Mode::empty())?;
                    while read(&fd, &mut buffer[..])? > 0 {}
                    close(fd)
                })
            }
            Operation::SeqRead | Operation::RandomRead => self.large(op, place, round),
            Operation::CopyUp => {
                let each = self.count(op);
                let paths = &lists.copies[round * each..][..each];
                self.over(op, place, paths, |path| {
                    close(openat(root, path, WRITE, Mode::empty())?)
                })
            }
            Operation::CreateUnlink | Operation::Append => {
                let ground = self.grounds.get(at).ok_or(BenchError::NoOperations)?;
                self.ground(op, place, &ground.own)
            }
        }
    }

    /// Every path once; for what is to be warm, twice, the first time unmeasured.
    fn over(
        &mut self,
        op: Operation,
        place: &Place,
        paths: &[CString],
        mut one: impl FnMut(&CString) -> Result<(), Errno>,
    ) -> Result<Pass, BenchError> {
        if !op.is_cold() && !op.writes() {
            for path in paths {
                self.plan.go_on()?;
                // What fails here fails again below, where it is counted.
                one(path).unwrap_or_default();
            }
        }
        let shown = |at: usize| place.shown(&paths[at]).display().to_string();
        self.timed(op, place, paths.len(), shown, |at| one(&paths[at]))
    }

    fn large(&mut self, op: Operation, place: &Place, round: usize) -> Result<Pass, BenchError> {
        let (path, _) = self.lists.large.as_ref().ok_or(BenchError::NoOperations)?;
        let name = place.shown(path).display().to_string();
        let open = || openat(&place.root, path, READ, Mode::empty());
        let extent = self.extent();
        let failed = |error| BenchError::Failed {
            mount: place.mount.name.clone(),
            operation: op,
            failure: format!("{name}: {error}"),
        };
        let mut buffer = vec![0; BLOCK];
        // Opened by itself, as another program would have read it before.
        self.warm_up(open, extent, &mut buffer)?.map_err(failed)?;
        let fd = open().map_err(failed)?;
        let count = self.count(op);
        let (size, offsets) = if op == Operation::SeqRead {
            (
                BLOCK,
                (0..count as u64).map(|at| at * BLOCK as u64).collect(),
            )
        } else {
            (PAGE, random_pages(self.plan.seed, round, extent, count))
        };
        let buffer = &mut buffer[..size];
        let pass = self.timed(
            op,
            place,
            count,
            |_| name.clone(),
            |at| {
                match pread(&fd, &mut buffer[..], offsets[at])? {
                    // Shorter than it was: no longer what the other mounts have.
                    0 => Err(Errno::IO),
                    _ => Ok(()),
                }
            },
        )?;
        close(fd).map_err(failed)?;
        Ok(pass)
    }

    fn warm_up(
        &self,
        open: impl Fn() -> Result<OwnedFd, Errno>,
        extent: u64,
        buffer: &mut [u8],
    ) -> Result<Result<(), Errno>, BenchError> {
        let fd = match open() {
            Ok(fd) => fd,
            Err(error) => return Ok(Err(error)),
        };
        let mut at = 0;
        while at < extent {
            self.plan.go_on()?;
            match pread(&fd, &mut buffer[..], at) {
                Ok(0) => break,
                Ok(n) => at += n as u64,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(close(fd))
    }

    fn ground(&mut self, op: Operation, place: &Place, own: &OwnedFd) -> Result<Pass, BenchError> {
        let count = self.count(op);
        let name = |at: usize| match op {
            Operation::Append => appended(at),
            _ => format!("c{at}"),
        };
        let names: Vec<CString> = (0..count)
            .map(|at| CString::new(name(at)).unwrap_or_default())
            .collect();
        let shown = |at: usize| names[at].to_string_lossy().into_owned();
        self.timed(op, place, count, shown, |at| {
            if op == Operation::Append {
                append(own, &names[at])
            } else {
                create_unlink(own, &names[at])
            }
        })
    }

    /// `count` calls, each timed. One that fails is counted and not timed; if all do, there is
    /// nothing to say of the mount.
    fn timed(
        &mut self,
        op: Operation,
        place: &Place,
        count: usize,
        shown: impl Fn(usize) -> String,
        mut one: impl FnMut(usize) -> Result<(), Errno>,
    ) -> Result<Pass, BenchError> {
        let mut pass = Pass {
            samples: Vec::with_capacity(count),
            ..Pass::default()
        };
        for at in 0..count {
            self.plan.go_on()?;
            let began = Instant::now();
            let result = one(at);
            let took = nanoseconds(began);
            match result {
                Ok(()) => pass.samples.push(took),
                Err(error) => {
                    pass.failed += 1;
                    let failure = || format!("{}: {error}", shown(at));
                    pass.failure.get_or_insert_with(failure);
                }
            }
            if at % TOLD == TOLD - 1 {
                self.observer.measured(TOLD);
            }
        }
        self.observer.measured(count % TOLD);
        // An interrupt fails the call that it meets.
        self.plan.go_on()?;
        match pass.failure {
            Some(failure) if pass.samples.is_empty() => Err(BenchError::Failed {
                mount: place.mount.name.clone(),
                operation: op,
                failure,
            }),
            _ => Ok(pass),
        }
    }
}

// Never a terminal of ours, and no waiting for who is at the other end: a path may have become
// something else since it was collected.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
const WRITE: OFlags = READ.union(OFlags::WRONLY);
const DIRECTORY: OFlags = READ.union(OFlags::DIRECTORY);

fn create_unlink(own: &OwnedFd, name: &CString) -> Result<(), Errno> {
    let flags = WRITE | OFlags::CREATE | OFlags::EXCL;
    close(openat(own, name, flags, Mode::from(0o600))?)?;
    unlinkat(own, name, AtFlags::empty())
}

fn append(own: &OwnedFd, name: &CString) -> Result<(), Errno> {
    let fd = openat(own, name, WRITE | OFlags::APPEND, Mode::empty())?;
    one_byte(rustix::fd::AsFd::as_fd(&fd))?;
    close(fd)
}

fn one_byte(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    match write(fd, b"x")? {
        1 => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// The same for every mount, others in each round.
fn random_pages(seed: u64, round: usize, extent: u64, count: usize) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(round as u64));
    let pages = (extent / PAGE as u64).max(1);
    (0..count)
        .map(|_| random.u64(..pages) * PAGE as u64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_pages_lie_in_the_file_and_follow_the_seed() {
        let (seed, extent) = (1, 1 << 20);
        let pages = random_pages(seed, 0, extent, 500);
        assert!(pages.iter().all(|at| at % 4096 == 0 && at + 4096 <= extent));
        assert_eq!(pages, random_pages(seed, 0, extent, 500));
        assert_ne!(pages, random_pages(seed, 1, extent, 500));
        assert_ne!(pages, random_pages(2, 0, extent, 500));
    }
}
