//! What is open, mapped, locked, listed and watched in a root goes on with the next worker.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use rustix::process::{Resource, Rlimit};

use super::kill::{kill, site};
use crate::cluster::{Cluster, Detached, dir, eventually, put, text};
use crate::daemon::Daemon;

fn image() -> Cluster {
    let c = site(20);
    for name in ["below", "gone", "replaced", "changed"] {
        put(c.image(format!("var/{name}")), format!("{name}\n"));
    }
    c
}

fn open(path: impl AsRef<Path>) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options.open(path).unwrap()
}

fn content(file: &File) -> String {
    let mut file = file.try_clone().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn what_is_open_stays_what_it_is() {
    let c = image();
    let d = Daemon::start(&c);
    let at = |name: &str| d.at(1, name);
    // In an upper, where the kernel reads and writes by itself.
    let upper = open(at("home/upper"));
    upper.write_all_at(b"one", 0).unwrap();
    let appends = OpenOptions::new()
        .append(true)
        .create(true)
        .open(at("home/log"))
        .unwrap();
    // What may yet be copied up, and what never is.
    let (lower, fixed) = (
        File::open(at("var/below")).unwrap(),
        File::open(at("opt/f1")).unwrap(),
    );
    let numbers: Vec<u64> = [&upper, &lower, &fixed]
        .map(|f| f.metadata().unwrap().ino())
        .into();
    for round in 0..3 {
        kill(&d);
        upper
            .write_all_at(format!("{round}").as_bytes(), 0)
            .unwrap();
        assert_eq!(content(&upper), format!("{round}ne"));
        // By the same number there is one file only, however often it is opened.
        assert_eq!(
            content(&File::open(at("home/upper")).unwrap()),
            format!("{round}ne")
        );
        (&appends).write_all(b"line\n").unwrap();
        assert_eq!(content(&lower), "below\n");
        assert_eq!(content(&fixed), "file 1\n");
        assert_eq!(content(&File::open(at("opt/f1")).unwrap()), "file 1\n");
    }
    let now: Vec<u64> = [&upper, &lower, &fixed]
        .map(|f| f.metadata().unwrap().ino())
        .into();
    assert_eq!(now, numbers);
    assert_eq!(text(at("home/log")), "line\n".repeat(3));
    // Copied up by somebody else after its reader's worker died: it sees what is written.
    open(at("var/below")).write_all_at(b"BELOW", 0).unwrap();
    assert_eq!(content(&lower), "BELOW\n");
    assert_eq!(text(c.image("var/below")), "below\n");
    drop((upper, appends, lower, fixed));
    kill(&d);
    assert_eq!(text(at("home/upper")), "2ne");
}

#[test]
fn what_has_no_name_any_more_stays_as_long_as_it_is_open() {
    for io in ["passthrough", "daemon", "cached"] {
        nameless(io);
    }
}

fn nameless(io: &str) {
    let c = image();
    put(c.image("var/dir/f"), "");
    c.set("io", &format!("\"{io}\""));
    let d = Daemon::start(&c);
    let at = |name: &str| d.at(1, name);
    let made = open(at("home/made"));
    made.write_all_at(b"made", 0).unwrap();
    let (gone, replaced) = (
        File::open(at("var/gone")).unwrap(),
        File::open(at("var/replaced")).unwrap(),
    );
    // Nobody tells of a file that is only open where the kernel opens by itself.
    assert_eq!(
        (content(&gone), content(&replaced)),
        ("gone\n".into(), "replaced\n".into())
    );
    std::fs::remove_file(at("home/made")).unwrap();
    std::fs::remove_file(at("var/gone")).unwrap();
    std::fs::write(at("var/new"), "new\n").unwrap();
    std::fs::rename(at("var/new"), at("var/replaced")).unwrap();
    std::fs::create_dir(at("home/dir")).unwrap();
    let dirs = [
        File::open(at("home/dir")).unwrap(),
        File::open(at("var/dir")).unwrap(),
    ];
    let ids = || {
        dirs.each_ref()
            .map(|dir| dir.metadata().map(|m| (m.ino(), m.nlink())).unwrap())
    };
    std::fs::remove_dir(at("home/dir")).unwrap();
    std::fs::remove_dir_all(at("var/dir")).unwrap();
    let were = ids();
    // One that has another name is nothing of the kind.
    let linked = open(at("home/linked"));
    std::fs::hard_link(at("home/linked"), at("home/other")).unwrap();
    std::fs::remove_file(at("home/linked")).unwrap();
    // An upgrade of the image, while somebody runs the old file.
    let changed = File::open(at("var/changed")).unwrap();
    assert_eq!(content(&changed), "changed\n");
    std::fs::write(c.image("var/.new"), "upgraded\n").unwrap();
    std::fs::rename(c.image("var/.new"), c.image("var/changed")).unwrap();
    eventually("the new one shows", || {
        text(at("var/changed")) == "upgraded\n"
    });
    for round in 0..3 {
        kill(&d);
        made.write_all_at(format!("{round}").as_bytes(), 0).unwrap();
        assert_eq!(content(&made), format!("{round}ade"));
        assert_eq!(made.metadata().unwrap().nlink(), 0);
        assert_eq!(content(&gone), "gone\n");
        assert_eq!(content(&replaced), "replaced\n");
        assert_eq!(content(&changed), "changed\n");
        assert_eq!(ids(), were);
        linked
            .write_all_at(format!("{round}").as_bytes(), 0)
            .unwrap();
        assert_eq!(text(at("home/other")), format!("{round}"));
        assert_eq!(
            linked.metadata().unwrap().ino(),
            at("home/other").metadata().unwrap().ino()
        );
        for name in ["home/made", "var/gone", "home/dir", "var/dir"] {
            assert!(!at(name).exists(), "{name}");
        }
        assert_eq!(text(at("var/replaced")), "new\n");
        assert_eq!(text(at("var/changed")), "upgraded\n");
    }
    // Another of the name is another object.
    std::fs::write(at("home/made"), "another").unwrap();
    assert_ne!(
        at("home/made").metadata().unwrap().ino(),
        made.metadata().unwrap().ino()
    );
    drop(made);
    kill(&d);
    assert_eq!(text(at("home/made")), "another");
}

#[test]
fn what_is_renamed_between_two_workers_is_found() {
    let c = image();
    let d = Daemon::start(&c);
    let at = |name: &str| d.at(1, name);
    std::fs::create_dir_all(at("home/a/b")).unwrap();
    std::fs::write(at("home/a/b/f"), "f").unwrap();
    let file = open(at("home/a/b/f"));
    let dir = File::open(at("home/a/b")).unwrap();
    let below = |name: &str| PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
    kill(&d);
    std::fs::rename(at("home/a"), at("home/z")).unwrap();
    kill(&d);
    file.write_all_at(b"F", 0).unwrap();
    assert_eq!(text(at("home/z/b/f")), "F");
    // By a directory that is held, and names that the next worker has never heard of.
    assert_eq!(text(below("f")), "F");
    std::fs::write(below("g"), "g").unwrap();
    kill(&d);
    std::fs::rename(below("g"), at("home/g")).unwrap();
    assert_eq!(text(at("home/g")), "g");
    assert!(!at("home/a").exists());
}

#[test]
fn locks_listings_maps_and_watches_go_on() {
    for io in ["passthrough", "cached", "daemon"] {
        locks_listings_maps_and_watches(io);
    }
}

/// Does another process get the lock of fcntl(2)?
fn is_lockable(path: &Path) -> bool {
    let takes =
        "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)";
    let mut python = std::process::Command::new("python3");
    let out = python.args(["-c", takes]).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() || said.contains("BlockingIOError"),
        "{said}"
    );
    out.status.success()
}

fn locks_listings_maps_and_watches(io: &str) {
    const PAGE: usize = 4096;
    let c = image();
    c.set("io", &format!("\"{io}\""));
    let d = Daemon::start(&c);
    let at = |name: &str| d.at(1, name);
    let (locked, other) = (open(at("home/locked")), open(at("home/locked")));
    rustix::fs::flock(&locked, FlockOperation::LockExclusive).unwrap();
    let (ours, path) = (open(at("home/ours")), at("home/ours"));
    rustix::fs::fcntl_lock(&ours, FlockOperation::LockExclusive).unwrap();
    assert!(!is_lockable(&path));
    let names: Vec<String> = (0..1000).map(|n| format!("name{n:04}")).collect();
    std::fs::create_dir(at("home/many")).unwrap();
    for name in &names {
        std::fs::write(at("home/many").join(name), "").unwrap();
    }
    let mut listing = std::fs::read_dir(at("home/many")).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().into_string().unwrap()
    };
    let mut listed: Vec<String> = listing.by_ref().take(10).map(name).collect();
    let mapped = open(at("home/mapped"));
    let pages = [b'0', b'1', b'2'].map(|page| [page; PAGE]).concat();
    mapped.write_all_at(&pages, 0).unwrap();
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    #[allow(unsafe_code, reason = "a mapping is what is tested")]
    // SAFETY: a mapping of this test's own file, of its length, unmapped by nobody.
    let map = unsafe {
        let length = pages.len();
        let at = rustix::mm::mmap(std::ptr::null_mut(), length, prot, flags, &mapped, 0).unwrap();
        std::slice::from_raw_parts_mut(at.cast::<u8>(), length)
    };
    map[0] = b'a';
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, at("home"), WatchFlags::CREATE).unwrap();
    kill(&d);
    listed.extend(listing.map(name));
    listed.sort();
    assert_eq!(listed, names);
    let refused = rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused, Err(rustix::io::Errno::WOULDBLOCK));
    drop(locked);
    rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(!is_lockable(&path), "{io}: another process has our lock");
    drop(ours);
    assert!(is_lockable(&path));
    // A page that was touched before, and two that were not: nothing of them is in memory now.
    rustix::fs::fadvise(&mapped, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    map[1] = b'b';
    assert_eq!(&map[PAGE..PAGE + 2], b"11");
    map[2 * PAGE] = b'c';
    #[allow(unsafe_code, reason = "a mapping is what is tested")]
    // SAFETY: the mapping from above.
    unsafe { rustix::mm::msync(map.as_mut_ptr().cast(), pages.len(), MsyncFlags::SYNC) }.unwrap();
    let mut expected = pages;
    (expected[0], expected[1], expected[2 * PAGE]) = (b'a', b'b', b'c');
    assert!(
        std::fs::read(at("home/mapped")).unwrap() == expected,
        "{io}"
    );
    assert!(
        std::fs::read(d.store(1, "home/mapped")).unwrap() == expected,
        "{io}: in the store"
    );
    std::fs::write(at("home/created"), "").unwrap();
    let mut events = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&watch, &mut events);
    let event = reader.next().unwrap();
    assert_eq!(event.file_name(), Some(c"created"));
}

#[test]
fn what_changed_below_while_nobody_watched_is_seen() {
    let c = image();
    let d = Daemon::start(&c);
    let at = |name: &str| d.at(1, name);
    // All of it is in the kernel's caches.
    let held = File::open(at("var/changed")).unwrap();
    assert_eq!(content(&held), "changed\n");
    assert_eq!(text(at("opt/f2")), "file 2\n");
    assert!(!at("opt/new").exists());
    let listed = |dir: &str| std::fs::read_dir(at(dir)).unwrap().count();
    assert_eq!(listed("opt"), 20);
    let worker = d.worker();
    rustix::process::kill_process(worker, rustix::process::Signal::STOP).unwrap();
    put(c.image("opt/f2"), "FILE 2, another\n");
    put(c.image("opt/new"), "new\n");
    std::fs::remove_file(c.image("opt/f3")).unwrap();
    put(c.image("var/changed"), "edited in place\n");
    // It would not answer a question.
    rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
    d.told("READY=1");
    eventually("all that changed is seen", || {
        text(at("opt/f2")) == "FILE 2, another\n"
            && at("opt/new").exists()
            && !at("opt/f3").exists()
            && listed("opt") == 20
            && content(&held) == "edited in place\n"
    });
    // And what changes later, of what this worker was never asked for by name.
    put(c.image("var/changed"), "once more\n");
    eventually("what changes later is seen", || {
        content(&held) == "once more\n"
    });
}

#[test]
fn a_file_of_a_store_that_is_away_when_the_worker_dies_goes_on_when_it_is_back() {
    let c = image();
    c.set("require_mount", &format!("[{}]", c.quoted("store")));
    let real = dir(c.path("real"));
    let mount = || Detached::bind(&real, &c.path("store"));
    let mounted = mount();
    let d = Daemon::start(&c);
    let at = d.at(1, "home/f");
    let file = open(&at);
    file.write_all_at(b"one", 0).unwrap();
    drop(mounted);
    kill(&d);
    kill(&d);
    let _mounted = mount();
    eventually("the store is back", || at.exists());
    // There is one file, by whichever way.
    let other = open(&at);
    other.write_all_at(b"O", 0).unwrap();
    file.write_all_at(b"E", 2).unwrap();
    assert_eq!(
        (content(&file), content(&other)),
        ("OnE".into(), "OnE".into())
    );
    assert_eq!(text(&at), "OnE");
    drop((file, other));
    assert_eq!(text(real.join(format!("{}/home/f", c.node(1)))), "OnE");
}

/// What the kernel has forgotten is not handed on from worker to worker.
#[test]
fn the_state_of_a_root_does_not_grow_with_what_was_in_it() {
    let c = image();
    let d = Daemon::start(&c);
    let name = |n: u32| d.at(1, &format!("home/{n:0>100}"));
    // The session's state, in bytes.
    let size = || -> u64 {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", d.worker())).unwrap();
        let states = fds.filter_map(|fd| {
            let path = fd.ok()?.path();
            let target = std::fs::read_link(&path).ok()?;
            let is = target.to_str()?.starts_with("/memfd:statelite-session");
            is.then(|| std::fs::metadata(&path).map_or(0, |m| m.blocks() * 512))
        });
        states.max().unwrap()
    };
    for _ in 0..8 {
        for n in 0..1500 {
            std::fs::write(name(n), "").unwrap();
        }
        // While it holds them all.
        kill(&d);
        for n in 0..1500 {
            std::fs::remove_file(name(n)).unwrap();
        }
        kill(&d);
    }
    // A worker looks once at what there is. Then the next name has the log written anew.
    eventually("what is old is gone", || {
        std::fs::write(d.at(1, "home/last"), "").unwrap();
        std::fs::remove_file(d.at(1, "home/last")).unwrap();
        size() < 256 << 10
    });
}

/// Of how many files that the kernel has a root's next worker is told is limited; the rest are read through the daemon. A file that the
/// kernel had from a worker before, without the next one's knowing, could not be opened a second time (EIO).
#[test]
fn more_files_are_open_than_are_noted_with_the_kernel() {
    const FILES: usize = (1 << 14) + 200;
    let limits = rustix::process::getrlimit(Resource::Nofile);
    let enough = Rlimit {
        current: limits.maximum,
        ..limits
    };
    rustix::process::setrlimit(Resource::Nofile, enough).unwrap();
    let c = site(FILES);
    let d = Daemon::start(&c);
    let path = |n: usize| d.at(1, &format!("opt/f{n}"));
    let open: Vec<File> = (0..FILES).map(|n| File::open(path(n)).unwrap()).collect();
    kill(&d);
    for n in (0..FILES).step_by(100).chain(FILES - 300..FILES) {
        assert_eq!(text(path(n)), format!("file {n}\n"), "opened again");
        let mut again = vec![0; 20];
        let length = open[n].read_at(&mut again, 0).unwrap();
        again.truncate(length);
        assert_eq!(again, format!("file {n}\n").as_bytes(), "open from before");
    }
}
