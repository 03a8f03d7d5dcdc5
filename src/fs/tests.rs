//! Views as a whole, without a kernel; and a plain view for the tests of other modules.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::*;
use crate::fleet::{PlainSpec, Shared, plain_view};
use crate::layer::FormChoice;

pub(crate) const ROOT: u64 = id::ROOT;
/// Who asks where it does not matter.
pub(crate) const ME: Caller = Caller { uid: 0, gid: 0 };

/// A view over one lower directory that `fill` fills.
pub(crate) fn plain(dir: &Path, fill: impl FnOnce(&Path)) -> View {
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir(dir.join(name)).unwrap();
    }
    fill(&dir.join("lower"));
    plain_view(
        &PlainSpec {
            lower: vec![dir.join("lower")],
            upper: dir.join("upper"),
            work: dir.join("work"),
            lifetime: Duration::from_secs(1),
            form: FormChoice::Auto,
            io: IoMode::default(),
        },
        &Shared::for_a_look(),
    )
    .unwrap()
}

fn read(view: &View, number: u64, handle: u64) -> Vec<u8> {
    let mut buf = vec![0; 64];
    let n = view.read(number, handle, 0, &mut buf).unwrap();
    buf.truncate(n);
    buf
}

#[test]
fn a_file_that_is_open_goes_on_when_another_takes_its_place_below() {
    let dir = tempfile::tempdir().unwrap();
    let view = plain(dir.path(), |lower| {
        std::fs::write(lower.join("f"), "old").unwrap()
    });
    let old = view.lookup(ROOT, b"f").unwrap().attr.number;
    let handle = view
        .open(old, OpenHow::from_raw(libc::O_RDONLY), ME)
        .unwrap();
    std::fs::write(dir.path().join("lower/n"), "new").unwrap();
    std::fs::rename(dir.path().join("lower/n"), dir.path().join("lower/f")).unwrap();
    let new = view.lookup(ROOT, b"f").unwrap().attr.number;
    assert_ne!(old, new, "one number is one page cache");
    assert_eq!(read(&view, old, handle), b"old");
    assert_eq!(view.getattr(old, None).unwrap().attr.stat.nlink, 0);
    let second = view
        .open(new, OpenHow::from_raw(libc::O_RDONLY), ME)
        .unwrap();
    assert_eq!(read(&view, new, second), b"new");
    // The newcomer is the one that changes are made to.
    view.unlink(ROOT, b"f").unwrap();
    assert_eq!(view.lookup(ROOT, b"f").err(), Some(Errno::NOENT));
    assert_eq!(read(&view, new, second), b"new");
    // Once nobody has the old one open, the path has its own number again.
    view.release(handle);
    view.forget(old, 1);
    std::fs::remove_file(dir.path().join("upper/f")).unwrap();
    assert_eq!(view.lookup(ROOT, b"f").unwrap().attr.number, old);
}

#[test]
fn a_renamed_copy_and_what_comes_back_at_its_old_path_are_two() {
    let dir = tempfile::tempdir().unwrap();
    let low = dir.path().join("lower/f");
    let view = plain(dir.path(), |_| std::fs::write(&low, "first").unwrap());
    let copy = view.lookup(ROOT, b"f").unwrap().attr.number;
    let how = OpenHow::from_raw(libc::O_RDWR);
    view.release(view.open(copy, how, ME).unwrap());
    std::fs::remove_file(&low).unwrap();
    view.rename((ROOT, b"f"), (ROOT, b"g"), rustix::fs::RenameFlags::empty())
        .unwrap();
    view.forget(copy, 1);
    std::fs::write(&low, "second").unwrap();
    let newcomer = view.lookup(ROOT, b"f").unwrap().attr.number;
    assert_ne!(newcomer, copy, "one number is one page cache");
    assert_eq!(view.lookup(ROOT, b"g").unwrap().attr.number, copy);
    // It keeps that, whatever it is called, also when nobody remembers.
    view.rename((ROOT, b"g"), (ROOT, b"h"), rustix::fs::RenameFlags::empty())
        .unwrap();
    view.forget(copy, 1);
    view.forget(newcomer, 1);
    assert_eq!(view.lookup(ROOT, b"f").unwrap().attr.number, newcomer);
    let renamed = view.lookup(ROOT, b"h").unwrap().attr.number;
    assert_eq!(renamed, copy);
    let how = OpenHow::from_raw(libc::O_RDONLY);
    for (number, text) in [(newcomer, &b"second"[..]), (renamed, b"first")] {
        let handle = view.open(number, how, ME).unwrap();
        assert_eq!(read(&view, number, handle), text);
    }
}

#[test]
fn a_store_that_came_back_empty_is_written_to_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let view = plain(dir.path(), |lower| {
        std::fs::create_dir_all(lower.join("d/e")).unwrap();
        std::fs::write(lower.join("d/e/f"), "lower").unwrap();
        std::fs::write(lower.join("d/e/g"), "lower").unwrap();
    });
    let mut parent = ROOT;
    for name in [b"d", b"e"] {
        parent = view.lookup(parent, name).unwrap().attr.number;
    }
    let [f, g] = [b"f", b"g"].map(|name| view.lookup(parent, name).unwrap().attr.number);
    let how = OpenHow::from_raw(libc::O_RDWR);
    view.release(view.open(f, how, ME).unwrap());
    let upper = dir.path().join("upper");
    std::fs::rename(&upper, dir.path().join("gone")).unwrap();
    std::fs::create_dir(&upper).unwrap();
    for layer in view.layers.iter().filter(|layer| layer.is_upper()) {
        layer.look_again();
    }
    // Directories that were in the other one are known for a moment yet.
    view.release(view.open(g, how, ME).unwrap());
    view.create(parent, b"new", 0o644, 0, how, ME).unwrap();
    for name in ["g", "new"] {
        assert!(upper.join("d/e").join(name).exists(), "{name}");
    }
}

#[test]
fn a_fifo_in_the_place_of_a_file_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let view = plain(dir.path(), |lower| {
        std::fs::write(lower.join("f"), "x").unwrap()
    });
    let number = view.lookup(ROOT, b"f").unwrap().attr.number;
    std::fs::remove_file(dir.path().join("lower/f")).unwrap();
    let (kind, mode) = (
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
    );
    let fifo = dir.path().join("lower/f");
    rustix::fs::mknodat(rustix::fs::CWD, fifo, kind, mode, 0).unwrap();
    let opened = view.open(number, OpenHow::from_raw(libc::O_RDONLY), ME);
    assert_eq!(opened.err(), Some(Errno::STALE));
}

#[test]
fn a_removal_waits_for_a_copy_up_and_wins() {
    let dir = tempfile::tempdir().unwrap();
    let big = vec![7; 64 << 20];
    let view = plain(dir.path(), |lower| {
        std::fs::write(lower.join("f"), &big).unwrap()
    });
    let view = Arc::new(view);
    let number = view.lookup(ROOT, b"f").unwrap().attr.number;
    let writer = {
        let view = view.clone();
        let how = OpenHow::from_raw(libc::O_RDWR);
        std::thread::spawn(move || view.open(number, how, ME))
    };
    while !view.name_is_busy(ROOT, b"f") && !writer.is_finished() {
        std::thread::yield_now();
    }
    view.unlink(ROOT, b"f").unwrap();
    let handle = writer.join().unwrap().unwrap();
    view.write(number, handle, 0, b"mine", false).unwrap();
    assert_eq!(&read(&view, number, handle)[..5], b"mine\x07");
    assert_eq!(view.lookup(ROOT, b"f").err(), Some(Errno::NOENT));
}

#[test]
fn a_tree_deeper_than_there_are_descriptors_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let open = |at: &OwnedFd, name: &str| {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        mkdirat(at, name, Mode::from_raw_mode(0o755)).unwrap();
        openat(at, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    };
    let top: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
    let mut at = open(&top, "d");
    for _ in 0..25_000 {
        at = open(&at, "d");
    }
    crate::layer::store::empty_dir(&top).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
