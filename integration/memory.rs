//! What was looked up and forgotten costs nothing: the daemon's memory and its open files return to what
//! they were. With overlayfs there is no daemon, and nothing to measure.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod harness;

use harness::*;

/// `STATELITE_MEMORY_INODES` for a quicker run.
fn count() -> usize {
    std::env::var("STATELITE_MEMORY_INODES").map_or(200_000, |v| v.parse().unwrap())
}

/// What may stay: an allocator gives back pages, not bytes, and keeps some for the next time; a cache of
/// bounded size may fill. 16 MiB for 200,000 inodes is 84 bytes each: less than any record of one.
const TOLERANCE: u64 = 16 << 20;

struct Daemon(u32);

impl Daemon {
    fn of(ov: &Overlay) -> Self {
        match ov.daemons()[..] {
            [pid] => Self(pid),
            ref other => panic!("one daemon was expected: {other:?}"),
        }
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap();
        let line = status.lines().find(|l| l.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Resident bytes that are the daemon's own: not the program and its libraries.
    fn memory(&self) -> u64 {
        self.status("RssAnon:") << 10
    }

    fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    fn fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0))
            .unwrap()
            .count()
    }
}

fn fill(lower: &std::path::Path, files: usize) {
    for dir in 0..files.div_ceil(1000) {
        let path = lower.join(format!("{dir}"));
        mkdir(&path, 0o755).unwrap();
        for n in 0..1000.min(files - dir * 1000) {
            mknod(path.join(format!("{n}")), FileType::RegularFile, 0o644, 0).unwrap();
        }
    }
}

/// Looks everything up, each by its name and by a listing.
fn visit(ov: &Overlay, files: usize) {
    for dir in 0..files.div_ceil(1000) {
        let entries = list(ov.at(format!("{dir}"))).unwrap();
        assert_eq!(entries.len(), 1000.min(files - dir * 1000));
        for n in 0..entries.len() {
            lstat(ov.at(format!("{dir}/{n}"))).unwrap();
        }
    }
}

/// At most what they were: the kernel tells of a closed file later, so a first count may be too high.
#[track_caller]
fn returns_to(daemon: &Daemon, memory: u64, fds: usize, threads: u64) {
    let mut last = (0, 0, 0);
    let back = poll_for(std::time::Duration::from_secs(60), &mut || {
        drop_caches();
        last = (daemon.memory(), daemon.fds(), daemon.threads());
        last.0 <= memory + TOLERANCE && last.1 <= fds && last.2 <= threads
    });
    assert!(
        back,
        "memory, descriptors and threads were {:?}, and now are {last:?}",
        (memory, fds, threads)
    );
}

/// The layers lie on a tmpfs, so that filling them takes no disk.
fn view(files: usize) -> Overlay {
    let mut tmpfs = None;
    let mut ov = Overlay::new(TMPFS, |l| {
        tmpfs = Some(Tmpfs::new(l, 1 << 30));
        fill(l, files);
    });
    ov.hold(tmpfs);
    ov
}

#[test]
fn inodes_looked_up_and_forgotten() {
    let files = count();
    let ov = view(files);
    // Whether or not there is a daemon, the walk itself must work.
    visit(&ov, files.min(2000));
    if ov.is_overlayfs() {
        return visit(&ov, files);
    }
    let daemon = Daemon::of(&ov);
    // A first pass fills what is filled once: a path table, bounded caches, the allocator's arenas.
    visit(&ov, files);
    drop_caches();
    let mut before = daemon.memory();
    poll_until("the first forgets", || {
        drop_caches();
        let now = daemon.memory();
        std::mem::replace(&mut before, now) == now
    });
    let (fds, threads) = (daemon.fds(), daemon.threads());
    for _ in 0..2 {
        visit(&ov, files);
        returns_to(&daemon, before, fds, threads);
    }
}

/// Against a leak that the first pass would hide: after 2,000 inodes and after 200,000, the same.
#[test]
fn memory_does_not_grow_with_what_was_ever_seen() {
    let files = count();
    let ov = view(files);
    if ov.is_overlayfs() {
        return;
    }
    let daemon = Daemon::of(&ov);
    visit(&ov, 2000);
    drop_caches();
    let (before, fds, threads) = (daemon.memory(), daemon.fds(), daemon.threads());
    visit(&ov, files);
    // The cache of what lower layers have is bounded by cache_size, 128 MiB unless configured; the
    // absences that kernels may hold, and the allocator's share, come on top.
    const CACHES: u64 = 160 << 20;
    returns_to(&daemon, before + CACHES, fds, threads);
}

#[test]
fn files_opened_changed_and_removed() {
    let files = count() / 20;
    let ov = view(files);
    let churn = || {
        for n in 0..files {
            let path = ov.at(format!("{}/{}", n / 1000, n % 1000));
            append(&path, "x").unwrap();
            let held = open_rw(&path).unwrap();
            unlink(&path).unwrap();
            pwrite(&held, 0, "y").unwrap();
            mkdir(&path, 0o755).unwrap();
            rename(&path, path.with_extension("r")).unwrap();
            rmdir(path.with_extension("r")).unwrap();
            write(&path, "again").unwrap();
        }
    };
    churn();
    if ov.is_overlayfs() {
        return;
    }
    let daemon = Daemon::of(&ov);
    drop_caches();
    let (before, fds, threads) = (daemon.memory(), daemon.fds(), daemon.threads());
    churn();
    returns_to(&daemon, before, fds, threads);
}

/// While files are open the daemon has a descriptor for each; afterwards none.
#[test]
fn descriptors_follow_open_files() {
    let ov = view(500);
    if ov.is_overlayfs() {
        return;
    }
    visit(&ov, 500);
    let daemon = Daemon::of(&ov);
    drop(open_rw(ov.at("0/0")).unwrap());
    let (before, fds, threads) = (daemon.memory(), daemon.fds(), daemon.threads());
    for _ in 0..3 {
        let held: Vec<_> = (0..500)
            .map(|n| open_rw(ov.at(format!("0/{n}"))).unwrap())
            .collect();
        let dirs: Vec<_> = (0..100).map(|_| open_r(ov.at("0")).unwrap()).collect();
        assert!(held.iter().all(|f| fstat(f).st_size == 0));
        drop((held, dirs));
        returns_to(&daemon, before, fds, threads);
    }
}
