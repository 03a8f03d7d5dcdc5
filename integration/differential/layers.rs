//! Layers to start from: three lower ones and a used upper. The whiteouts and opaque directories in
//! them are made as they come about, by changes through a scratch overlayfs.

use std::path::{Path, PathBuf};

use crate::harness::*;
use crate::ops::{NAMES, bytes};

/// A small generator of its own, so that a seed means the same layers for ever.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.roll(3);
        let names: Vec<&str> = (0..depth)
            .map(|_| NAMES[self.roll(NAMES.len() as u64) as usize])
            .collect();
        names.join("/")
    }
}

/// Fills three lower layers and the upper; the same for the same seed.
pub fn fill(seed: u64, lowers: &[PathBuf], upper: &Path) {
    let mut dice = Dice(seed);
    chmod(&lowers[2], 0o777).unwrap();
    populate(&lowers[2], &mut dice, 60);
    let scratch = scratch();
    for (layer, below) in [
        (&lowers[1], &lowers[2..]),
        (&lowers[0], &lowers[1..]),
        (&upper.to_owned(), lowers),
    ] {
        // Some start without one of the layers, which then stays as it is: empty.
        if dice.roll(5) > 0 {
            change(scratch.path(), layer, below, &mut dice);
        }
        chmod(layer, 0o777).unwrap();
    }
    for layer in lowers.iter().map(PathBuf::as_path).chain([upper]) {
        old(layer);
    }
}

/// Sets every time below to one long ago, depth first.
fn old(path: &Path) {
    if kind(path) == FileType::Directory {
        for entry in std::fs::read_dir(path).unwrap() {
            old(&entry.unwrap().path());
        }
    }
    set_times(path, 1_100_000_000).unwrap();
}

/// Makes things at random places; what can't be made there isn't.
fn populate(root: &Path, dice: &mut Dice, count: usize) {
    for _ in 0..count {
        let path = root.join(dice.path());
        let mode =
            [0o644, 0o755, 0o777, 0o666, 0o600, 0o2775, 0o1777, 0o4755][dice.roll(8) as usize];
        let made = match dice.roll(12) {
            0..=4 => mkdir(&path, 0o777),
            5 => symlink(NAMES[dice.roll(5) as usize], &path),
            6 => mknod(&path, FileType::Fifo, 0o644, 0),
            _ => {
                let (n, hole) = (
                    [0, 5, 4096, 10_000][dice.roll(4) as usize],
                    dice.roll(4) == 0,
                );
                create(&path, 0o644)
                    .and_then(|file| pwrite(&file, if hole { 70_000 } else { 0 }, bytes(n, 9)))
            }
        };
        if made.is_ok() && kind(&path) != FileType::Symlink {
            let id = [0, 0, 1000, 1001][dice.roll(4) as usize];
            lchown(&path, Some(id), Some([0, id, 2000][dice.roll(3) as usize])).unwrap();
            chmod(&path, mode | 0o200).unwrap();
            if dice.roll(3) == 0 {
                setx(&path, "trusted.one", "low").unwrap();
            }
            if dice.roll(4) == 0 && kind(&path) != FileType::Fifo {
                setx(&path, "user.one", "low").unwrap();
                let tie = [
                    (USER_OBJ, 7, 0),
                    (USER, 6, 1000),
                    (GROUP_OBJ, 5, 0),
                    (MASK, 7, 0),
                    (OTHER, 4, 0),
                ];
                setx(&path, ACL_ACCESS, acl(&tie)).unwrap();
            }
            if dice.roll(6) == 0 && kind(&path) == FileType::Directory {
                let tie = [
                    (USER_OBJ, 7, 0),
                    (USER, 7, 1001),
                    (GROUP_OBJ, 5, 0),
                    (MASK, 7, 0),
                    (OTHER, 5, 0),
                ];
                setx(&path, ACL_DEFAULT, acl(&tie)).unwrap();
            }
        }
    }
}

/// Makes `layer` by changes over `below`.
fn change(scratch: &Path, layer: &Path, below: &[PathBuf], dice: &mut Dice) {
    let (work, view) = (scratch.join("work"), scratch.join("view"));
    for dir in [&work, &view] {
        std::fs::create_dir(dir).unwrap();
    }
    let below: Vec<&str> = below.iter().map(|l| l.to_str().unwrap()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},xino=off,index=off,redirect_dir=nofollow,metacopy=off,volatile",
        below.join(":"),
        layer.display(),
        work.display()
    );
    let options = std::ffi::CString::new(options).unwrap();
    rustix::mount::mount(
        "overlay",
        &view,
        "overlay",
        rustix::mount::MountFlags::empty(),
        options.as_c_str(),
    )
    .unwrap();
    for _ in 0..12 {
        let path = view.join(dice.path());
        // What is not there can't be changed; that is no matter.
        match dice.roll(6) {
            0 => drop(std::fs::remove_file(&path)),
            1 => drop(std::fs::remove_dir_all(&path)),
            2 => {
                // A directory made anew: opaque.
                if std::fs::remove_dir_all(&path).is_ok() {
                    mkdir(&path, 0o777).unwrap();
                }
            }
            3 => drop(rename(&path, view.join(dice.path()))),
            4 => drop(chmod(&path, 0o777)),
            _ => {
                if lstat(&path)
                    .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile)
                {
                    append(&path, "more").unwrap();
                }
            }
        }
    }
    populate(&view, dice, 15);
    unmount(&view).unwrap();
    for dir in [&work, &view] {
        std::fs::remove_dir_all(dir).unwrap();
    }
}
