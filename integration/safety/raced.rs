//! A directory and a symlink to outside, exchanged in a loop while every operation runs.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::canary::{Canary, OPERATIONS, assert_no_secret, by_handle, refill, view};
use crate::harness::*;

/// How often all operations run; more finds more.
fn rounds() -> usize {
    std::env::var("STATELITE_RACE_ROUNDS").map_or(12, |v| v.parse().unwrap())
}

fn race(position: &str, inside: &str, works_in: &str, in_litetree: bool) {
    let ov = view();
    let canary = Canary::new(ov.outside());
    if in_litetree {
        std::fs::remove_dir_all(ov.up("d")).unwrap();
    }
    let layer = if in_litetree {
        ov.lowers[0].clone()
    } else {
        ov.upper.clone()
    };
    // Beside the layer, where no operation of the node's can take it away.
    let decoy = ov.outside().join("store/decoy");
    symlink(canary.dir.join(inside), &decoy).unwrap();
    let at = layer.join(position);
    let (over, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                // The node may have removed the symlink while it lay in its tree.
                if readlink(&at).is_err() && readlink(&decoy).is_err() {
                    if unlink(&decoy).is_err() {
                        std::fs::remove_dir_all(&decoy).ok();
                    }
                    symlink(canary.dir.join(inside), &decoy).ok();
                }
                if rename_with(&at, &decoy, RenameFlags::EXCHANGE).is_ok() {
                    swaps.fetch_add(1, Ordering::Relaxed);
                } else {
                    // The node has removed it or put something else there.
                    refill(&layer);
                }
            }
        });
        without_deadlock(&ov, || {
            // Both ends of the race: what the node does by path, and by handles from before.
            std::thread::scope(|node| {
                for part in 0..2 {
                    let (ov, canary) = (&ov, &canary);
                    node.spawn(move || {
                        Who::root().chroot(&ov.root).run(|| {
                            let dir = Path::new("/").join(works_in);
                            for round in 0..rounds() {
                                let handles = (
                                    open(
                                        &dir,
                                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
                                        0,
                                    ),
                                    open_r(dir.join("f")),
                                );
                                for (name, operation) in OPERATIONS.iter().skip(part).step_by(2) {
                                    let what =
                                        format!("{name}, {works_in}, {position}, round {round}");
                                    assert_no_secret(&operation(&dir), &what);
                                }
                                if let (Ok(dir), Ok(file)) = handles {
                                    for shown in by_handle(&dir, &file) {
                                        assert_no_secret(&shown, "by handle");
                                    }
                                }
                            }
                        });
                        canary.assert_untouched(works_in);
                    });
                }
            });
        });
        poll_until("some swaps", || swaps.load(Ordering::Relaxed) > 20);
        over.store(true, Ordering::Release);
    });
    canary.assert_untouched("the race");
}

#[test]
fn the_first_component_of_the_upper() {
    race("d", "d", "d", false);
    race("d", "d", "d/sub", false);
}

#[test]
fn a_middle_component_of_the_upper() {
    race("d/sub", "sub", "d/sub", false);
}

#[test]
fn the_last_component_of_the_upper() {
    race("d/f", "secret", "d", false);
    race("d/empty", "empty", "d", false);
}

#[test]
fn the_first_component_of_the_litetree() {
    race("d", "d", "d/sub", true);
}

#[test]
fn the_last_component_of_the_litetree() {
    race("d/sub/f", "secret", "d/sub", true);
}
