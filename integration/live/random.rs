//! Threads change lower layers at random while others use the views; when all is quiet, every view
//! is what a newly mounted one is. Round after round over warm caches.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::paths::{NAMES, any_path, universe};
use crate::harness::*;
use crate::site::Site;

const LOWERS: usize = 3;
const VIEWS: usize = 3;

fn remove(path: &Path) {
    // Another thread may be at work there: then it stays.
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path).ok(),
        Ok(_) => std::fs::remove_file(path).ok(),
        Err(_) => None,
    };
}

/// One change in a lower layer. What is not possible just now is left out.
fn change(site: &Site, rng: &mut fastrand::Rng, n: u64) {
    let low = |rng: &mut fastrand::Rng| site.low(rng.usize(..LOWERS), any_path(rng));
    let (path, other) = (low(rng), low(rng));
    let text = |rng: &mut fastrand::Rng| n.to_string().repeat(rng.usize(1..400));
    let aside = site.outside(format!("{n}"));
    match rng.u32(..21) {
        0..=2 => drop(write(&path, text(rng))),
        3 => drop(append(&path, text(rng))),
        4 => drop(truncate(&path, rng.u64(..100))),
        5 | 6 => {
            write(&aside, text(rng)).unwrap();
            rename(&aside, &path).ok();
            remove(&aside);
        }
        7 => drop(unlink(&path)),
        8 | 9 => drop(mkdir(&path, 0o755)),
        10 => remove(&path),
        11 => drop(rename(&path, &other)),
        12 => {
            // Out with all that is in it, and in again elsewhere.
            if rename(&path, &aside).is_ok() && rename(&aside, &other).is_err() {
                remove(&aside);
            }
        }
        13 => {
            mkdir(&aside, 0o755).unwrap();
            for name in NAMES {
                write(aside.join(name), text(rng)).unwrap();
            }
            rename(&aside, &path).ok();
            remove(&aside);
        }
        14 => {
            symlink(text(rng).get(..8).unwrap_or("x"), &aside).unwrap();
            rename(&aside, &path).ok();
            remove(&aside);
        }
        15 => drop(chmod(&path, 0o600 | rng.u32(..0o100))),
        16 => drop(set_times(&path, rng.i64(..1_000_000))),
        17 => drop(setx(&path, "user.n", n.to_string())),
        18 => {
            let opaque = "trusted.overlay.opaque";
            if setx(&path, opaque, "y").is_ok() && rng.bool() {
                rmx(&path, opaque).ok();
            }
        }
        19 => drop(link(&path, &other)),
        _ => drop(mknod(&path, FileType::CharacterDevice, 0o600, 0)),
    }
}

/// One use of a view that changes nothing.
fn look(root: &Path, rng: &mut fastrand::Rng) {
    let path = root.join(any_path(rng));
    match rng.u32(..5) {
        0 => drop(lstat(&path)),
        1 => drop(read(&path)),
        2 => drop(list(&path)),
        3 => drop(readlink(&path)),
        _ => drop(list(root)),
    }
}

/// One change through a view.
fn edit(root: &Path, rng: &mut fastrand::Rng, n: u64) {
    let (path, other) = (root.join(any_path(rng)), root.join(any_path(rng)));
    match rng.u32(..9) {
        0 | 1 => drop(write(&path, n.to_string())),
        2 => drop(append(&path, "more")),
        3 => drop(unlink(&path)),
        4 => drop(mkdir(&path, 0o750)),
        5 => drop(rmdir(&path)),
        6 => drop(chmod(&path, 0o711)),
        7 => drop(rename(&path, &other)),
        _ => drop(symlink("nowhere", &path)),
    }
}

fn round(site: &Site, seed: u64, steps: u64, edits: bool) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        for (n, view) in site.views.iter().enumerate() {
            for user in 0..2 {
                let mut rng = fastrand::Rng::with_seed(seed * 100 + n as u64 * 10 + user);
                scope.spawn(move || {
                    let mut n = 0;
                    while !stop.load(Ordering::Relaxed) {
                        look(&view.at, &mut rng);
                        n += 1;
                        if edits && user == 0 && n % 8 == 0 {
                            edit(&view.at, &mut rng, n);
                        }
                    }
                });
            }
        }
        let changers: Vec<_> = (0..2)
            .map(|n| {
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed * 1000 + n);
                    for step in 0..steps {
                        change(site, &mut rng, (seed * steps + step) * 2 + n);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = changers.into_iter().map(|c| c.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(|ended| ended.is_ok()));
    });
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn rounds(first: u64, edits: bool) {
    let seeds = setting("STATELITE_LIVE_SEEDS").map(|seeds| {
        let (first, last) = seeds.split_once("..").unwrap();
        first.parse().unwrap()..last.parse().unwrap()
    });
    let count: u64 = setting("STATELITE_LIVE_ROUNDS").map_or(4, |n| n.parse().unwrap());
    let all = universe();
    for seed in seeds.unwrap_or(first..first + 3) {
        let site = Site::new(LOWERS, VIEWS, |_| ());
        for n in 0..count {
            round(&site, seed * 1000 + n, 60, edits);
            site.settle();
            site.assert_true(&all, &format!("seed {seed}, round {n}"));
            site.warm(&all);
        }
    }
}

#[test]
fn whatever_changes_below_shows_in_every_view() {
    rounds(1, false);
}

#[test]
fn whatever_changes_below_and_in_views_shows() {
    rounds(101, true);
}
