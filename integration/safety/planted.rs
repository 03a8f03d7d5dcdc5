//! Symlinks that lie in a layer: in every position, in every layer, before the mount and beneath it.

use std::path::{Path, PathBuf};

use crate::canary::{Canary, OPERATIONS, assert_no_secret, by_handle, refill, view};
use crate::harness::*;

/// Where a symlink is planted, what of the canary lies there in its place, and the directory that the
/// node then works in.
const POSITIONS: [(&str, &str, &str); 7] = [
    ("d", "d", "d"),
    ("d", "", "d/sub"),
    ("d/sub", "d/sub", "d/sub"),
    ("d/f", "f", "d"),
    ("d/sub/f", "secret", "d/sub"),
    ("d/empty", "empty", "d"),
    ("d/sub", "d", "d"),
];

#[derive(Clone, Copy, Debug)]
enum Layer {
    Upper,
    Litetree,
}

fn to(canary: &Path, from: &Path, relative: bool) -> PathBuf {
    if !relative {
        return canary.to_owned();
    }
    // Up to the root and down again, so that it leads there from wherever it lies.
    let up = "../".repeat(from.components().count() + 2);
    PathBuf::from(format!(
        "{up}{}",
        canary.strip_prefix("/").unwrap().display()
    ))
}

/// Replaces what is at the position by a symlink to the canary, unless it is there already.
fn plant(layer: &Path, position: &str, target: &Path) {
    let at = layer.join(position);
    if readlink(&at).is_ok() {
        return;
    }
    if at.parent().is_some_and(|p| {
        lstat(p).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
    }) {
        if kind_or_none(&at) == Some(FileType::Directory) {
            std::fs::remove_dir_all(&at).unwrap();
        } else {
            unlink(&at).ok();
        }
        symlink(target, &at).unwrap();
    }
}

fn kind_or_none(path: &Path) -> Option<FileType> {
    lstat(path).ok().map(|s| FileType::from_raw_mode(s.st_mode))
}

fn clear(layer: &Path, position: &str) {
    let at = layer.join(position);
    if kind_or_none(&at) == Some(FileType::Symlink) {
        unlink(&at).unwrap();
    }
    refill(layer);
}

fn attack(which: Layer, relative: bool) {
    let ov = view();
    let canary = Canary::new(ov.outside());
    let layer = match which {
        Layer::Upper => ov.upper.clone(),
        Layer::Litetree => {
            // Only there: nothing in the upper hides it.
            std::fs::remove_dir_all(ov.up("d")).unwrap();
            ov.lowers[0].clone()
        }
    };
    for (position, inside, works_in) in POSITIONS {
        for (name, operation) in OPERATIONS {
            let what = format!(
                "{name} in {works_in}, {position} planted in the {which:?}, relative: {relative}"
            );
            if matches!(which, Layer::Litetree) {
                std::fs::remove_dir_all(ov.up("d")).ok();
            }
            clear(&layer, position);
            // The node has been there, so that its kernel and the server remember what was.
            let (dir, file) = Who::root().chroot(&ov.root).run(|| {
                let at = Path::new("/").join(works_in);
                lstat(at.join("f")).ok();
                list(&at).ok();
                (
                    open(&at, OFlags::RDONLY | OFlags::DIRECTORY, 0).ok(),
                    open_r(at.join("f")).ok(),
                )
            });
            plant(
                &layer,
                position,
                &to(&canary.dir.join(inside), &layer.join(position), relative),
            );
            let shown = Who::root()
                .chroot(&ov.root)
                .run(|| operation(&Path::new("/").join(works_in)));
            assert_no_secret(&shown, &what);
            if let (Some(dir), Some(file)) = (dir, file) {
                Who::root().chroot(&ov.root).run(|| {
                    for shown in by_handle(&dir, &file) {
                        assert_no_secret(&shown, &format!("{what}, by handle"));
                    }
                });
            }
            canary.assert_untouched(&what);
        }
        clear(&layer, position);
    }
}

#[test]
fn an_absolute_symlink_in_the_upper() {
    attack(Layer::Upper, false);
}

#[test]
fn a_relative_symlink_in_the_upper() {
    attack(Layer::Upper, true);
}

#[test]
fn an_absolute_symlink_in_the_litetree() {
    attack(Layer::Litetree, false);
}

#[test]
fn a_relative_symlink_in_the_litetree() {
    attack(Layer::Litetree, true);
}

/// What lies there at the mount is met without anything remembered.
#[test]
fn a_symlink_from_before_the_mount() {
    for relative in [false, true] {
        let mut ov = view();
        let canary = Canary::new(ov.outside());
        for (position, inside, works_in) in POSITIONS {
            for layer in [ov.upper.clone(), ov.lowers[0].clone()] {
                ov.umount();
                plant(
                    &layer,
                    position,
                    &to(&canary.dir.join(inside), &layer.join(position), relative),
                );
                ov.mount();
                for (name, operation) in OPERATIONS {
                    let what = format!(
                        "{name} in {works_in}, {position} planted in {}",
                        layer.display()
                    );
                    let shown = Who::root()
                        .chroot(&ov.root)
                        .run(|| operation(&Path::new("/").join(works_in)));
                    assert_no_secret(&shown, &what);
                    canary.assert_untouched(&what);
                }
                ov.umount();
                clear(&layer, position);
                ov.mount();
            }
        }
    }
}

/// The stage of a copy-up lies in the store as well.
#[test]
fn symlinks_in_the_work_directory() {
    let mut ov = view();
    let canary = Canary::new(ov.outside());
    let inner: Vec<PathBuf> = names(&ov.work).iter().map(|n| ov.work.join(n)).collect();
    let mut places = vec![ov.work.clone()];
    places.extend(
        inner
            .iter()
            .filter(|p| kind(p) == FileType::Directory)
            .cloned(),
    );
    for place in places {
        let aside = place.with_extension("aside");
        rename(&place, &aside).unwrap();
        symlink(&canary.dir, &place).unwrap();
        for dir in ["d", "d/sub"] {
            refill(&ov.lowers[0]);
            for (name, operation) in OPERATIONS {
                let shown = Who::root()
                    .chroot(&ov.root)
                    .run(|| operation(&Path::new("/").join(dir)));
                assert_no_secret(&shown, name);
                canary.assert_untouched(&format!("{name} in {dir}, {} planted", place.display()));
            }
        }
        unlink(&place).unwrap();
        rename(&aside, &place).unwrap();
    }
    // What is left in it is cleaned at the next mount, and not through a symlink.
    ov.umount();
    for place in std::iter::once(ov.work.clone()).chain(inner) {
        if kind_or_none(&place) == Some(FileType::Directory) {
            symlink(&canary.dir, place.join("left-dir")).unwrap();
            symlink(canary.dir.join("secret"), place.join("left-file")).unwrap();
            mkdir(place.join("#1"), 0o755).unwrap();
            symlink(&canary.dir, place.join("#1/deeper")).unwrap();
        }
    }
    ov.mount();
    chmod(ov.at("f"), 0o600).unwrap();
    canary.assert_untouched("cleaning the work directory");
}

/// A symlink in the place of the upper itself.
#[test]
fn a_symlink_in_the_place_of_the_upper() {
    let ov = view();
    let canary = Canary::new(ov.outside());
    let aside = ov.upper.with_extension("aside");
    rename(&ov.upper, &aside).unwrap();
    symlink(&canary.dir, &ov.upper).unwrap();
    for dir in ["", "d", "d/sub"] {
        for (name, operation) in OPERATIONS {
            let shown = Who::root()
                .chroot(&ov.root)
                .run(|| operation(&Path::new("/").join(dir)));
            assert_no_secret(&shown, name);
            canary.assert_untouched(&format!("{name} in {dir:?}"));
        }
    }
    unlink(&ov.upper).unwrap();
    rename(&aside, &ov.upper).unwrap();
}
