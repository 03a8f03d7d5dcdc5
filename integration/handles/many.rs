//! More handles than anybody could keep open, each opened after all were forgotten: what the daemon
//! has for them does not grow with what is asked, and there is no descriptor for any.

use statelite::inode::id;

use crate::handle::{Handle, assert_stale};
use crate::harness::*;

/// Each is a look-up by the daemon: a million take a minute and more.
fn count() -> usize {
    std::env::var("STATELITE_HANDLES_COUNT").map_or(40_000, |n| n.parse().unwrap())
}

/// What an object takes: some 40 bytes of the table, and up to its bound (`cache_size`) the cache of
/// what layers have. What memory holds of an object while the kernel knows it is more.
const EACH: u64 = 400;
/// What else may come: buffers, the allocator's, bounded caches, the notes of what was forgotten.
const OTHER: u64 = 8 << 20;

fn status(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

#[test]
fn handles_cost_no_descriptor_and_little_memory() {
    let (count, mut lower) = (count(), None);
    // Links are cheap to make, and as many objects as names.
    let mut ov = Overlay::build(Target::Statelite, TMPFS, 1, |lowers, upper| {
        lower = Some(Tmpfs::new(&lowers[0], 4 << 30));
        for base in [&lowers[0], upper] {
            for dir in 0..count.div_ceil(2000) {
                let dir = base.join(dir.to_string());
                mkdir(&dir, 0o755).unwrap();
                write(dir.join("0"), "x").unwrap();
            }
        }
        for n in (0..count).filter(|n| n % 1000 != 0) {
            let dir = lowers[0].join((n / 1000 % count.div_ceil(2000)).to_string());
            link(dir.join("0"), dir.join(n.to_string())).unwrap();
        }
    });
    ov.hold(lower);
    let [pid] = ov.daemons()[..] else {
        panic!("one daemon was expected")
    };
    let (memory, fds) = (status(pid, "RssAnon:") << 10, descriptors(pid));
    let some = Handle::of(ov.at("0"));
    let mount = open_r(&ov.root).unwrap();
    let mut most = 0;
    for n in (0..count).filter(|n| n % 1000 != 0) {
        let path = format!("{}/{n}", n / 1000 % count.div_ceil(2000));
        let handle = some.with_number(id::of_path(path.as_bytes(), 0));
        let found = handle
            .open_in(&mount)
            .unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(rustix::fs::fstat(&found).unwrap().st_ino, handle.number());
        if n % 1000 == 1 {
            most = most.max(descriptors(pid));
        }
    }
    assert_stale(&some.with_number(id::of_path(b"none", 0)), &ov.root, "none");
    assert!(most <= fds + 64, "{fds} descriptors became {most}");
    let limit = memory + OTHER + EACH * count as u64;
    let mut last = 0;
    let small = poll_for(std::time::Duration::from_secs(60), &mut || {
        drop_caches();
        last = status(pid, "RssAnon:") << 10;
        last <= limit
    });
    eprintln!("{count} handles: {memory} bytes became {last}, {fds} descriptors at most {most}");
    assert!(small, "{memory} bytes became {last}, more than {limit}");
}
