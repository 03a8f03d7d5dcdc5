//! Random changes with a model of what each handle must lead to, checked after everything that makes
//! a view forget.

use std::collections::BTreeMap;

use crate::handle::{EVENTS, Handle, Object, assert_stale};
use crate::harness::paths::{any_path, universe};
use crate::harness::*;

/// Handles by number, since that is what an object is, and by which of its kind it was.
#[derive(Default)]
struct Model {
    known: BTreeMap<u64, Handle>,
    gone: BTreeMap<u64, Handle>,
}

impl Model {
    /// Notes every object that there is, and which of those that were are there no longer.
    fn take(&mut self, ov: &Overlay) -> BTreeMap<u64, Object> {
        let mut now = BTreeMap::new();
        for path in universe().iter().map(|path| ov.at(path)) {
            if lstat(&path).is_ok() {
                let handle = Handle::of(&path);
                assert_eq!(handle.number(), lstat(&path).unwrap().st_ino);
                now.insert(handle.number(), Object::at(&path));
                self.known.insert(handle.number(), handle);
            }
        }
        self.gone.clear();
        for (number, handle) in &self.known {
            if !now.contains_key(number) {
                self.gone.insert(*number, handle.clone());
            }
        }
        now
    }

    fn check(&self, ov: &Overlay, now: &BTreeMap<u64, Object>, what: &str) {
        for (number, object) in now {
            let found = self.known[number].open(&ov.root);
            let found = found.unwrap_or_else(|e| panic!("{what}: {number:x}, {object:?}: {e}"));
            assert_eq!(Object::of(&found), *object, "{what}");
        }
        for handle in self.gone.values() {
            assert_stale(handle, &ov.root, what);
        }
    }
}

/// One change through the view. What is not possible just now is left out.
fn change(ov: &Overlay, rng: &mut fastrand::Rng, n: u64) {
    let (path, other) = (ov.at(any_path(rng)), ov.at(any_path(rng)));
    match rng.u32(..14) {
        0..=2 => drop(write(&path, n.to_string())),
        3 => drop(append(&path, "+")),
        4 => drop(mkdir(&path, 0o755)),
        5 => drop(unlink(&path)),
        6 => drop(rmdir(&path)),
        7 | 8 => drop(rename(&path, &other)),
        9 => drop(rename_with(&path, &other, RenameFlags::EXCHANGE)),
        10 => drop(link(&path, &other)),
        11 => drop(symlink(n.to_string(), &path)),
        12 => drop(mknod(&path, FileType::Socket, 0o600, 0)),
        _ => drop(std::fs::remove_dir_all(&path)),
    }
}

fn run(seed: u64, store: Store) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut ov = Overlay::build(Target::Statelite, store, 2, |lowers, _| {
        for n in 0..60 {
            let path = lowers[n % 2].join(any_path(&mut rng));
            match n % 5 {
                0 | 1 => drop(mkdir(&path, 0o755)),
                2 => drop(symlink("x", &path)),
                _ => drop(write(&path, n.to_string())),
            }
        }
    });
    let mut model = Model::default();
    for round in 0..8 {
        for n in 0..30 {
            change(&ov, &mut rng, round * 1000 + n);
        }
        let now = model.take(&ov);
        let (what, event) = EVENTS[rng.usize(..EVENTS.len())];
        event(&mut ov);
        model.check(&ov, &now, &format!("seed {seed}, round {round}, {what}"));
    }
}

fn seeds(first: u64) -> std::ops::Range<u64> {
    match std::env::var("STATELITE_HANDLES_SEEDS") {
        Ok(seeds) => {
            let (first, last) = seeds.split_once("..").unwrap();
            first.parse().unwrap()..last.parse().unwrap()
        }
        Err(_) => first..first + 3,
    }
}

#[test]
fn whatever_a_node_does_on_a_disk() {
    seeds(1).for_each(|seed| run(seed, Store::Disk));
}

#[test]
fn whatever_a_node_does_on_a_tmpfs() {
    seeds(101).for_each(|seed| run(seed, TMPFS));
}
