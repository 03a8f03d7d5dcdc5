//! Which way the kernel reads and writes (configuration key `io`): whatever it is, a node sees the
//! same, and lower layers stay as they are.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod harness;

use std::cell::RefCell;
use std::fs::File;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::*;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, kill_process};

/// What may happen to a file; every sequence of [`LENGTH`] of them is tried.
#[derive(Clone, Copy, Debug)]
enum Step {
    Read,
    Write,
    Truncate,
    CloseFirst,
    CloseLast,
    RenameOver,
    Unlink,
}

const STEPS: [Step; 7] = [
    Step::Read,
    Step::Write,
    Step::Truncate,
    Step::CloseFirst,
    Step::CloseLast,
    Step::RenameOver,
    Step::Unlink,
];
const LENGTH: u32 = 4;
const LOWER: &[u8] = b"lower file";

type Content = Rc<RefCell<Vec<u8>>>;

/// A file as POSIX has it: what is open stays what it is, whoever has it open sees every write.
fn play(ov: &Overlay, number: usize) {
    let (name, other) = (format!("f{number}"), format!("g{number}"));
    let at = ov.at(&name);
    let lower: Content = Rc::new(RefCell::new(LOWER.to_vec()));
    let mut named = Some(lower);
    let mut open_files: Vec<(File, Content)> = Vec::new();
    let mut rest = number;
    let mut steps = Vec::new();
    for turn in 0..LENGTH as u8 {
        let step = STEPS[rest % STEPS.len()];
        rest /= STEPS.len();
        steps.push(step);
        let said = |what| format!("{what} in {steps:?}");
        match step {
            Step::Read => match &named {
                Some(content) => {
                    let file = open_r(&at).unwrap_or_else(|e| panic!("{}: {e}", said("open")));
                    open_files.push((file, content.clone()));
                }
                None => fails!(open_r(&at), NOENT),
            },
            Step::Write | Step::Truncate => {
                let truncates = matches!(step, Step::Truncate);
                let mut flags = OFlags::RDWR | OFlags::CREATE;
                flags.set(OFlags::TRUNC, truncates);
                let file =
                    open(&at, flags, 0o644).unwrap_or_else(|e| panic!("{}: {e}", said("open")));
                let content = named.get_or_insert_default().clone();
                {
                    let mut content = content.borrow_mut();
                    if truncates {
                        content.clear();
                    }
                    let end = content.len().max(3);
                    content.resize(end, 0);
                    content[..3].copy_from_slice(&[b'0' + turn; 3]);
                }
                pwrite(&file, 0, [b'0' + turn; 3]).unwrap();
                open_files.push((file, content));
            }
            Step::CloseFirst if !open_files.is_empty() => drop(open_files.remove(0)),
            Step::CloseFirst => {}
            Step::CloseLast => drop(open_files.pop()),
            Step::RenameOver => {
                let content = vec![b'A' + turn; 5];
                write(ov.at(&other), &content).unwrap();
                rename(ov.at(&other), &at).unwrap();
                named = Some(Rc::new(RefCell::new(content)));
            }
            Step::Unlink => match named.take() {
                Some(_) => unlink(&at).unwrap(),
                None => fails!(unlink(&at), NOENT),
            },
        }
        for (file, content) in &open_files {
            let seen = pread(file, 0, 64).unwrap_or_else(|e| panic!("{}: {e}", said("read")));
            assert_eq!(seen, *content.borrow(), "{}", said("an open file"));
            assert_eq!(
                fstat(file).st_size as usize,
                seen.len(),
                "{}",
                said("its size")
            );
        }
        match &named {
            Some(content) => {
                let said = said("by name");
                let seen = read(&at).unwrap_or_else(|e| panic!("{said}: {e}"));
                assert_eq!(seen, *content.borrow(), "{said}");
                assert_eq!(lstat(&at).unwrap().st_size as usize, seen.len(), "{said}");
            }
            None => fails!(lstat(&at), NOENT),
        }
    }
    drop(open_files);
    if let Some(content) = named
        && exists(ov.up(&name))
    {
        assert_eq!(
            read(ov.up(&name)).unwrap(),
            *content.borrow(),
            "the upper after {steps:?}"
        );
    }
}

fn every_order(store: Store, io: &'static str) {
    let count = STEPS.len().pow(LENGTH);
    let ov = Overlay::new(store, |lower| {
        for number in 0..count {
            write(lower.join(format!("f{number}")), LOWER).unwrap();
        }
    })
    .with_io(io);
    let before = ov.lower_trees();
    for number in 0..count {
        play(&ov, number);
    }
    assert!(before == ov.lower_trees(), "a lower layer has changed");
}

#[test]
fn every_order_of_opens_writes_and_removals() {
    every_order(TMPFS, "passthrough");
}

#[test]
fn every_order_without_opens() {
    every_order(TMPFS, "cached");
}

#[test]
fn every_order_through_the_daemon() {
    every_order(TMPFS, "daemon");
}

#[test]
fn what_was_copied_up_is_read_and_written_without_the_daemon() {
    let ov = Overlay::new(TMPFS, |lower| write(lower.join("f"), "lower").unwrap());
    if ov.target != Target::Statelite {
        return;
    }
    append(ov.at("f"), " more").unwrap();
    let (copied, made) = (
        open_rw(ov.at("f")).unwrap(),
        create(ov.at("g"), 0o644).unwrap(),
    );
    // At the first write the kernel asks whether there are capabilities that it must take away.
    for file in [&copied, &made] {
        pwrite(file, 0, "upper").unwrap();
    }
    let daemons = ov.daemons();
    let signal = |signal| {
        for pid in &daemons {
            kill_process(Pid::from_raw(*pid as i32).unwrap(), signal).unwrap();
        }
    };
    let done = AtomicBool::new(false);
    signal(Signal::STOP);
    let went = std::thread::scope(|scope| {
        scope.spawn(|| {
            for file in [&copied, &made] {
                pwrite(file, 0, "UPPER").unwrap();
                assert_eq!(pread(file, 0, 5).unwrap(), b"UPPER");
            }
            done.store(true, Ordering::Release);
        });
        let went = poll_for(std::time::Duration::from_secs(60), &mut || {
            done.load(Ordering::Acquire)
        });
        signal(Signal::CONT);
        went
    });
    assert!(went, "the kernel waits for the daemon");
    assert_eq!(read(ov.at("f")).unwrap(), b"UPPER more");
    assert_eq!(read(ov.low("f")).unwrap(), b"lower");
}

#[test]
fn room_that_a_removal_made_can_be_written_to_at_once() {
    let ov = Overlay::new(Store::Tmpfs(8 << 20), |_| {});
    let most = vec![1; 5 << 20];
    for round in 0..20 {
        let at = ov.at(format!("f{round}"));
        write(&at, &most).unwrap_or_else(|e| panic!("round {round}: {e}"));
        unlink(at).unwrap();
    }
}

#[test]
fn setuid_goes_at_a_write_by_a_file_that_was_open_before() {
    let ov = Overlay::new(TMPFS, |_| {});
    let file = create(ov.at("f"), 0o755).unwrap();
    lchown(ov.at("f"), Some(1000), Some(1000)).unwrap();
    chmod(ov.at("f"), 0o4755).unwrap();
    as_user(1000, 1000, &[], || pwrite(&file, 0, "x")).unwrap();
    assert_eq!(perm(ov.at("f")), 0o755);
}

/// What is handed to the kernel is to lose setuid bits at a write, and what comes right after it
/// is not to be mistaken for that: root keeps them, also where it is in no group of the file's.
#[test]
fn setuid_stays_where_root_keeps_it_right_after_a_file_was_made() {
    let ov = Overlay::new(TMPFS, |l| {
        write(l.join("low"), "program").unwrap();
        lchown(l.join("low"), Some(1000), Some(1234)).unwrap();
        chmod(l.join("low"), 0o6775).unwrap();
    });
    mkdir(ov.at("setgid"), 0o755).unwrap();
    lchown(ov.at("setgid"), None, Some(1234)).unwrap();
    let chmod_of = |name: &str, mode| {
        chmod(ov.at(name), mode).unwrap();
        perm(ov.at(name))
    };
    write(ov.at("f"), "program").unwrap();
    lchown(ov.at("f"), Some(1000), Some(1234)).unwrap();
    let steps: [(&str, &dyn Fn() -> u32, u32); 10] = [
        ("chmod", &|| chmod_of("f", 0o6755), 0o6755),
        (
            "chmod of a directory",
            &|| chmod_of("setgid", 0o2755),
            0o2755,
        ),
        (
            "truncate",
            &|| {
                truncate(&ov.at("f"), 3).unwrap();
                perm(ov.at("f"))
            },
            0o6755,
        ),
        (
            "O_TRUNC",
            &|| {
                open(ov.at("f"), OFlags::WRONLY | OFlags::TRUNC, 0).unwrap();
                perm(ov.at("f"))
            },
            0o6755,
        ),
        (
            "write",
            &|| {
                append(ov.at("f"), "x").unwrap();
                perm(ov.at("f"))
            },
            0o6755,
        ),
        ("chmod for locks", &|| chmod_of("f", 0o2767), 0o2767),
        (
            "chown",
            &|| {
                lchown(ov.at("f"), Some(1001), None).unwrap();
                perm(ov.at("f"))
            },
            0o2767,
        ),
        (
            "copy-up",
            &|| {
                append(ov.at("low"), "x").unwrap();
                perm(ov.up("low"))
            },
            0o6775,
        ),
        (
            "a file that is made",
            &|| {
                create(ov.at("setgid/f"), 0o2755).unwrap();
                perm(ov.up("setgid/f"))
            },
            0o2755,
        ),
        (
            "a directory that is made",
            &|| {
                mkdir(ov.at("setgid/d"), 0o2755).unwrap();
                perm(ov.up("setgid/d"))
            },
            0o2755,
        ),
    ];
    for (at, (what, step, mode)) in steps.into_iter().enumerate() {
        let before = create(ov.at(format!("before{at}")), 0o644).unwrap();
        pwrite(&before, 0, "x").unwrap();
        assert_eq!(step(), mode, "after {what}");
        // And the other way round.
        let file = create(ov.at(format!("after{at}")), 0o755).unwrap();
        chmod(ov.at(format!("after{at}")), 0o4755).unwrap();
        lchown(ov.at(format!("after{at}")), Some(1000), Some(1000)).unwrap();
        chmod(ov.at(format!("after{at}")), 0o4755).unwrap();
        as_user(1000, 1000, &[], || pwrite(&file, 0, "x")).unwrap();
        let left = perm(ov.at(format!("after{at}")));
        assert_eq!(left, 0o755, "a write after {what}");
    }
}

/// A file that the kernel knows as a lower one is copied without another look into the upper.
#[test]
fn what_somebody_put_into_the_store_is_not_lost_to_a_copy() {
    let ov = Overlay::new(TMPFS, |l| {
        mkdir(l.join("d"), 0o755).unwrap();
        write(l.join("d/f"), "lower").unwrap();
    });
    if ov.is_overlayfs() {
        return; // Its upper is its own.
    }
    write(ov.at("d/own"), "").unwrap();
    assert_eq!(read(ov.at("d/f")).unwrap(), b"lower");
    write(ov.up("d/f"), "theirs").unwrap();
    append(ov.at("d/f"), " and mine").unwrap();
    assert_eq!(read(ov.up("d/f")).unwrap(), b"theirs and mine");
    assert_eq!(read(ov.at("d/f")).unwrap(), b"theirs and mine");
    assert_eq!(read(ov.low("d/f")).unwrap(), b"lower");
}

/// The kernel opens a file of an upper by itself, and would tell EIO whatever the reason.
#[test]
fn an_open_that_the_store_refuses_says_why() {
    let ov = Overlay::new(Store::Disk, |_| {});
    write(ov.at("f"), "made").unwrap();
    append(ov.at("f"), " here").unwrap();
    chattr("+i", &ov.up("f"));
    let refused = open(ov.at("f"), OFlags::WRONLY, 0);
    let there = read(ov.at("f"));
    chattr("-i", &ov.up("f"));
    assert_eq!(refused.unwrap_err(), Errno::PERM);
    assert_eq!(there.unwrap(), b"made here");
    append(ov.at("f"), ", again").unwrap();
    assert_eq!(read(ov.up("f")).unwrap(), b"made here, again");

    let ov = Overlay::new(TMPFS, |_| {});
    write(ov.at("f"), "made").unwrap();
    append(ov.at("f"), " here").unwrap();
    let store = ov.upper.parent().unwrap();
    // Nothing that is kept is open for writing, which would be EBUSY.
    rustix::mount::mount_remount(store, MountFlags::RDONLY, "").unwrap();
    assert_eq!(
        open(ov.at("f"), OFlags::WRONLY, 0).unwrap_err(),
        Errno::ROFS
    );
    assert_eq!(read(ov.at("f")).unwrap(), b"made here");
    rustix::mount::mount_remount(store, MountFlags::empty(), "").unwrap();
    append(ov.at("f"), ", again").unwrap();
    assert_eq!(read(ov.up("f")).unwrap(), b"made here, again");
}

fn chattr(change: &str, file: &std::path::Path) {
    let done = std::process::Command::new("chattr")
        .arg(change)
        .arg(file)
        .status();
    assert!(done.unwrap().success(), "chattr {change}");
}

/// A file is kept open for a moment after its last close: it is not in the way of one that
/// somebody else puts in its place, and its space comes back when somebody else removes it.
#[test]
fn what_is_kept_open_is_in_nobodys_way() {
    let ov = Overlay::new(Store::Tmpfs(16 << 20), |_| {});
    if ov.is_overlayfs() {
        // What happens in its upper behind its back is undefined there.
        return;
    }
    write(ov.at("f"), "before").unwrap();
    append(ov.at("f"), ".").unwrap();
    write(ov.up("new"), "after").unwrap();
    rename(ov.up("new"), ov.up("f")).unwrap();
    poll_until("the other file shows", || {
        read(ov.at("f")).unwrap() == b"after"
    });
    append(ov.at("f"), "wards").unwrap();
    assert_eq!(read(ov.up("f")).unwrap(), b"afterwards");

    let free = || rustix::fs::statvfs(&ov.upper).unwrap().f_bfree;
    let before = free();
    write(ov.at("big"), vec![1; 4 << 20]).unwrap();
    append(ov.at("big"), ".").unwrap();
    assert!(free() < before);
    unlink(ov.up("big")).unwrap();
    poll_until("its space is free", || free() >= before);
}
