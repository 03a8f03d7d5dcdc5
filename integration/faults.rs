//! Layers on a store that fails: reads that come back short, a store that dies and returns. (Each
//! system call failing by itself is `crash/everystep.sh`.)
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod harness;

#[path = "faults/store.rs"]
mod store;

use harness::*;
use store::Store as Faulty;

/// A view whose lower layer is a failing store.
fn over(files: &[(&str, Vec<u8>)]) -> (Overlay, Faulty) {
    let mut ov = Overlay::new(TMPFS, |_| {});
    ov.umount();
    let store = Faulty::mount(&ov.lowers[0], files);
    ov.mount();
    (ov, store)
}

fn text(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

#[test]
fn short_reads_leave_nothing_out() {
    if target() != Target::Statelite {
        return;
    }
    let sizes = [1, 4096, 10_000, 65_536, 200_000, 3 << 20];
    let files: Vec<(String, Vec<u8>)> = (0u64..)
        .zip(sizes)
        .map(|(seed, size)| (format!("f{size}"), text(size, seed)))
        .collect();
    let named: Vec<(&str, Vec<u8>)> = files.iter().map(|(n, t)| (&**n, t.clone())).collect();
    let (ov, store) = over(&named);
    store.reads_at_most(777);
    for (name, content) in &named {
        assert_eq!(&read(ov.at(name)).unwrap(), content, "{name}, from below");
        append(ov.at(name), "x").unwrap();
        let copy = read(ov.up(name)).unwrap();
        assert_eq!(
            (copy.len(), &copy[..content.len()]),
            (content.len() + 1, &content[..]),
            "{name}"
        );
    }
    assert!(store.short_reads() > 0, "nothing was read in pieces");
}

#[test]
fn a_read_that_fails_in_the_middle_copies_nothing() {
    if target() != Target::Statelite {
        return;
    }
    let content = text(3 << 20, 1);
    let (ov, store) = over(&[("f", content.clone())]);
    for (errno, at) in [
        (Errno::IO, 0),
        (Errno::IO, 1 << 20),
        (Errno::STALE, 2 << 20),
    ] {
        store.fails_from(at, Some(errno));
        let failed = append(ov.at("f"), "x").unwrap_err();
        // The kernel looks a stale object up once more by itself.
        assert!(
            [errno, Errno::STALE].contains(&failed),
            "{failed} for {errno}"
        );
        assert!(lstat(ov.up("f")).is_err(), "half a copy");
        let left = std::fs::read_dir(ov.work.join("work")).unwrap().count();
        assert_eq!(left, 0, "a stage is left");
        store.fails_from(0, None);
        assert_eq!(read(ov.at("f")).unwrap(), content);
    }
    append(ov.at("f"), "x").unwrap();
    assert_eq!(read(ov.up("f")).unwrap().len(), content.len() + 1);
}

#[test]
fn a_store_that_dies_and_returns() {
    if target() != Target::Statelite {
        return;
    }
    let content = text(100_000, 1);
    let (ov, store) = over(&[("f", content.clone()), ("g", content.clone())]);
    append(ov.at("g"), "x").unwrap();
    let open = open_r(ov.at("f")).unwrap();
    assert_eq!(pread(&open, 0, 10).unwrap(), &content[..10]);
    store.dies();
    // What is believed of it for a moment may still be told.
    poll_until("the dead store is noticed", || read(ov.at("f")).is_err());
    for failed in [append(ov.at("f"), "x"), write(ov.at("new"), "x")] {
        let failed = failed.unwrap_err();
        assert!([Errno::IO, Errno::NOTCONN].contains(&failed), "{failed}");
    }
    assert!(lstat(ov.up("f")).is_err() && lstat(ov.up("new")).is_err());
    store.returns();
    poll_until("it is back", || {
        read(ov.at("f")).is_ok_and(|now| now == content)
    });
    append(ov.at("f"), "x").unwrap();
    write(ov.at("new"), "x").unwrap();
    assert_eq!(read(ov.at("g")).unwrap().len(), content.len() + 1);
    assert_eq!(ov.daemons().len(), 1, "the same daemon");
}
