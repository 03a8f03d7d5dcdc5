//! Each kind of change in a lower layer, in views that have cached what was there before.

use std::path::PathBuf;

use statelite::config::Config;
use statelite::fleet::Shared;

use crate::cluster::Detached;
use crate::harness::sys::Map;
use crate::harness::*;
use crate::site::{Mounted, Site};

/// What every test begins with, in the lower of two layers; the upper one has a part of it.
fn fill(lowers: &[PathBuf]) {
    let (top, low) = (&lowers[0], &lowers[1]);
    for dir in ["d", "d/sub", "other", "empty"] {
        mkdir(low.join(dir), 0o755).unwrap();
    }
    for path in ["f", "d/f", "d/sub/f", "other/f", "d/g"] {
        write(low.join(path), format!("{path} as it was\n").repeat(2000)).unwrap();
    }
    link(low.join("f"), low.join("d/hard")).unwrap();
    symlink("f", low.join("l")).unwrap();
    mkdir(top.join("d"), 0o755).unwrap();
    write(top.join("d/top"), "top\n").unwrap();
}

/// What is looked for besides what is there.
fn absences() -> Vec<PathBuf> {
    let names = [
        "new",
        "d/new",
        "d/sub/new",
        "other/new",
        "other/sub",
        "other/sub/f",
        "empty/f",
        "other/top",
    ];
    names.iter().map(PathBuf::from).collect()
}

fn site() -> Site {
    Site::new(2, 3, fill)
}

/// Makes a change below views that have all of it cached, and looks at them.
#[track_caller]
fn shows(site: &Site, what: &str, change: impl FnOnce()) {
    site.warm(&absences());
    change();
    site.settle();
    site.assert_true(&absences(), what);
}

#[test]
fn a_file_that_is_changed_in_place_shows() {
    let site = site();
    let f = site.low(1, "d/f");
    shows(&site, "written", || {
        pwrite(&open_rw(&f).unwrap(), 3, "changed").unwrap()
    });
    shows(&site, "appended", || append(&f, "more").unwrap());
    shows(&site, "truncated", || truncate(&f, 10).unwrap());
    shows(&site, "longer", || truncate(&f, 100_000).unwrap());
    shows(&site, "emptied", || write(&f, "").unwrap());
}

#[test]
fn names_that_come_and_go_show() {
    let site = site();
    let (f, new) = (site.low(1, "d/f"), site.outside("new"));
    shows(&site, "replaced", || {
        write(&new, "the new one").unwrap();
        rename(&new, &f).unwrap();
    });
    shows(&site, "removed", || unlink(&f).unwrap());
    for path in ["new", "d/new", "d/sub/new", "other/new"] {
        shows(&site, path, || write(site.low(1, path), "new").unwrap());
    }
    shows(&site, "hidden by a layer above", || {
        write(site.low(0, "f"), "above").unwrap()
    });
    shows(&site, "no longer hidden", || {
        unlink(site.low(0, "f")).unwrap()
    });
    shows(&site, "whiteout", || {
        mknod(site.low(0, "f"), FileType::CharacterDevice, 0o600, 0).unwrap()
    });
    shows(&site, "whiteout gone", || unlink(site.low(0, "f")).unwrap());
    shows(&site, "another symlink", || {
        symlink("d/f", &new).unwrap();
        rename(&new, site.low(1, "l")).unwrap();
    });
}

#[test]
fn changes_of_attributes_show() {
    let site = site();
    for path in ["f", "d", "d/g", "d/sub", ""] {
        let at = site.low(1, path);
        shows(&site, "chmod", || chmod(&at, 0o700).unwrap());
        shows(&site, "chown", || lchown(&at, Some(12), Some(34)).unwrap());
        shows(&site, "utimes", || set_times(&at, 1_000_000).unwrap());
        shows(&site, "setxattr", || setx(&at, "user.x", "y").unwrap());
        shows(&site, "removexattr", || rmx(&at, "user.x").unwrap());
        let list = acl(&[
            (USER_OBJ, 7, 0),
            (USER, 4, 77),
            (GROUP_OBJ, 5, 0),
            (MASK, 5, 0),
            (OTHER, 1, 0),
        ]);
        shows(&site, "setfacl", || setx(&at, ACL_ACCESS, &list).unwrap());
    }
    shows(&site, "chown of a symlink", || {
        lchown(site.low(1, "l"), Some(5), None).unwrap()
    });
}

#[test]
fn a_change_by_one_name_shows_by_the_others() {
    let site = site();
    shows(&site, "by the other name", || {
        append(site.low(1, "d/hard"), "more").unwrap()
    });
    shows(&site, "attributes", || {
        chmod(site.low(1, "d/hard"), 0o600).unwrap()
    });
    let outside = site.outside("name");
    shows(&site, "a name outside", || {
        link(site.low(1, "f"), &outside).unwrap()
    });
    shows(&site, "by a name outside", || {
        append(&outside, "and more").unwrap()
    });
    shows(&site, "its attributes", || chmod(&outside, 0o640).unwrap());
    shows(&site, "one name less", || unlink(&outside).unwrap());
}

#[test]
fn a_file_becomes_a_directory_and_back() {
    let site = site();
    let f = site.low(1, "d/f");
    shows(&site, "a directory", || {
        unlink(&f).unwrap();
        mkdir(&f, 0o755).unwrap();
        write(f.join("x"), "x").unwrap();
    });
    shows(&site, "a symlink", || {
        std::fs::remove_dir_all(&f).unwrap();
        symlink("top", &f).unwrap();
    });
    shows(&site, "a file", || {
        unlink(&f).unwrap();
        write(&f, "again").unwrap();
    });
    shows(&site, "a file over a directory", || {
        std::fs::remove_dir_all(site.low(0, "d")).unwrap();
        write(site.low(0, "d"), "hides").unwrap();
    });
    shows(&site, "the directory again", || {
        unlink(site.low(0, "d")).unwrap()
    });
}

#[test]
fn directories_that_move_show_with_all_that_is_in_them() {
    let site = site();
    let outside = site.outside("d");
    shows(&site, "out", || rename(site.low(1, "d"), &outside).unwrap());
    shows(&site, "in", || rename(&outside, site.low(1, "d")).unwrap());
    shows(&site, "within", || {
        rename(site.low(1, "d/sub"), site.low(1, "other/sub")).unwrap()
    });
    shows(&site, "over a path of another layer", || {
        rename(site.low(1, "other"), site.low(0, "other")).unwrap()
    });
    shows(&site, "and into it", || {
        rename(site.low(0, "d"), site.low(0, "other/new")).unwrap()
    });
    // The layer above has the path, too: names that were absent in both are there.
    mkdir(site.outside("e"), 0o755).unwrap();
    for name in ["f", "new", "top"] {
        write(site.outside("e").join(name), name).unwrap();
    }
    shows(&site, "merged", || {
        rename(site.outside("e"), site.low(0, "empty")).unwrap()
    });
    let exchange = RenameFlags::EXCHANGE;
    shows(&site, "exchanged", || {
        mkdir(site.low(1, "other"), 0o755).unwrap();
        rename_with(site.low(1, "other"), site.low(1, "d"), exchange).unwrap();
    });
}

#[test]
fn opaque_marks_that_come_and_go_show() {
    let site = site();
    let opaque = "trusted.overlay.opaque";
    shows(&site, "opaque", || {
        setx(site.low(0, "d"), opaque, "y").unwrap()
    });
    assert_eq!(names(site.views[0].at("d")), ["top"]);
    shows(&site, "not opaque", || {
        rmx(site.low(0, "d"), opaque).unwrap()
    });
    assert_eq!(
        names(site.views[0].at("d")),
        ["f", "g", "hard", "sub", "top"]
    );
}

#[test]
fn what_a_node_has_written_stays_whatever_changes_below() {
    let site = site();
    let at = |path: &str| site.views[0].at(path);
    write(at("f"), "mine").unwrap();
    unlink(at("d/f")).unwrap();
    std::fs::remove_dir_all(at("other")).unwrap();
    mkdir(at("other"), 0o755).unwrap();
    site.warm(&absences());
    write(site.low(1, "f"), "below").unwrap();
    write(site.low(0, "f"), "above").unwrap();
    for path in ["d/f", "other/f", "other/new"] {
        write(site.outside("x"), "new").unwrap();
        rename(site.outside("x"), site.low(1, path)).unwrap();
    }
    mkdir(site.low(0, "other"), 0o755).unwrap();
    site.settle();
    assert_eq!(read(at("f")).unwrap(), b"mine");
    assert!(!exists(at("d/f")));
    assert!(names(at("other")).is_empty() && !exists(at("other/new")));
    site.assert_true(&absences(), "hidden");
    assert_eq!(read(site.views[1].at("f")).unwrap(), b"above");
}

#[test]
fn what_is_open_or_mapped_goes_on_when_another_takes_its_place() {
    let site = site();
    let was = read(site.low(1, "d/f")).unwrap();
    for kind in ["file", "dir", "link", "nothing"] {
        let file = open_r(site.views[0].at("d/f")).unwrap();
        let map = Map::shared(&file, 4096, false).unwrap();
        // A part of it is in the page cache, a part is not.
        assert_eq!(map.read(0, 100), was[..100]);
        site.warm(&absences());
        let (new, f) = (site.outside("new"), site.low(1, "d/f"));
        match kind {
            "file" => {
                write(&new, "short").unwrap();
                rename(&new, &f).unwrap();
            }
            kind => {
                unlink(&f).unwrap();
                match kind {
                    "dir" => mkdir(&f, 0o755).unwrap(),
                    "link" => symlink("g", &f).unwrap(),
                    _ => {}
                }
            }
        }
        site.settle();
        // By the handle first, then when the name has been looked up.
        for round in ["before", "after"] {
            let still = format!("{kind}, {round} the name was looked up");
            assert_eq!(fstat(&file).st_size, was.len() as i64, "{still}");
            assert_eq!(pread(&file, 0, 1 << 20).unwrap(), was, "{still}");
            assert_eq!(map.read(0, 4096), was[..4096], "{still}");
            site.assert_true(&absences(), &still);
        }
        drop((map, file));
        std::fs::remove_dir_all(&f)
            .or_else(|_| std::fs::remove_file(&f))
            .ok();
        write(&f, &was).unwrap();
        site.settle();
        site.assert_true(&absences(), kind);
    }
}

/// Changes whose events were lost: by more of them than the kernel keeps.
#[test]
fn when_events_are_lost_nothing_is_missed() {
    let limit = "/proc/sys/fs/fanotify/max_queued_events";
    let before = std::fs::read(limit).unwrap();
    std::fs::write(limit, "4").unwrap();
    let mut site = site();
    std::fs::write(limit, before).unwrap();
    let at = site.views[0].at("other");
    let inner = Detached::tmpfs(&at);
    write(at.join("inner"), "in the mount").unwrap();
    // Absences at and beside a mount point are told one by one.
    let mut also = absences();
    also.retain(|path| !path.starts_with("other"));
    also.extend((0..200).map(|n| PathBuf::from(format!("n{n}"))));
    let lost = || site.shared.watch_stats().unwrap()().overflows;
    let mut rounds = 0;
    while lost() == 0 {
        rounds += 1;
        assert!(rounds < 1000, "the queue does not overflow");
        for view in &site.views {
            for path in &also {
                lstat(view.at(path)).ok();
            }
        }
        for n in 0..200 {
            let path = site.low(rounds % 2, format!("n{n}"));
            match exists(&path) {
                true => unlink(&path).unwrap(),
                false => write(&path, format!("{rounds}")).unwrap(),
            }
        }
        site.settle();
    }
    assert_eq!(read(at.join("inner")).unwrap(), b"in the mount");
    for view in &site.views {
        for path in &also {
            let there = site.lowers.iter().any(|low| exists(low.join(path)));
            assert_eq!(exists(view.at(path)), there, "{}", path.display());
        }
    }
    drop(inner);
    site.views.truncate(1);
    site.assert_true(&also, "after an overflow");
}

#[test]
fn what_is_mounted_in_a_view_stays() {
    let mut site = site();
    site.views.truncate(1);
    let at = site.views[0].at("d/sub");
    let inner = Detached::tmpfs(&at);
    write(at.join("inner"), "in the mount").unwrap();
    let also = ["new", "d/new", "other/new", "d/n1"].map(PathBuf::from);
    let look = || {
        for path in ["", "d", "other"] {
            drop(list(site.views[0].at(path)));
        }
        for path in &also {
            lstat(site.views[0].at(path)).ok();
        }
    };
    let still = |what: &str| {
        site.settle();
        assert_eq!(read(at.join("inner")).unwrap(), b"in the mount", "{what}");
        for path in &also {
            let there = site.lowers.iter().any(|low| exists(low.join(path)));
            assert_eq!(
                exists(site.views[0].at(path)),
                there,
                "{what}: {}",
                path.display()
            );
        }
        look();
    };
    look();
    chmod(site.low(1, "d"), 0o711).unwrap();
    still("chmod above it");
    chmod(site.low(1, "d/sub"), 0o711).unwrap();
    still("chmod of what it covers");
    write(site.low(1, "d/new"), "new").unwrap();
    still("a new name beside it");
    mkdir(site.outside("d"), 0o755).unwrap();
    write(site.outside("d").join("n1"), "n1").unwrap();
    std::fs::remove_dir_all(site.low(0, "d")).unwrap();
    still("a layer less above it");
    rename(site.outside("d"), site.low(0, "d")).unwrap();
    still("a layer more above it");
    setx(site.low(0, "d"), "user.x", "y").unwrap();
    still("an attribute");
    drop(inner);
}

#[test]
fn without_watching_changes_show_when_their_time_is_over() {
    let config = Config {
        watch: false,
        cache_lifetime: std::time::Duration::from_millis(50),
        ..Config::default()
    };
    let site = Site::with(config, 2, 2, fill);
    assert!(!site.shared.is_watching());
    site.warm(&absences());
    write(site.low(1, "d/new"), "new").unwrap();
    unlink(site.low(1, "d/g")).unwrap();
    append(site.low(1, "d/f"), "more").unwrap();
    for view in &site.views {
        poll_until("the changes", || {
            exists(view.at("d/new"))
                && !exists(view.at("d/g"))
                && read(view.at("d/f")).unwrap() == read(site.low(1, "d/f")).unwrap()
                && names(view.at("d")) == ["f", "hard", "new", "sub", "top"]
        });
    }
}

#[test]
fn a_layer_that_cannot_be_watched_shows_changes_when_their_time_is_over() {
    let config = Config {
        cache_lifetime: std::time::Duration::from_millis(50),
        ..Config::default()
    };
    let mut site = Site::with(config, 1, 0, |lowers| {
        mkdir(lowers[0].join("d"), 0o755).unwrap()
    });
    // A view is a FUSE file system, of which nobody is told.
    let below = Site::new(1, 1, |lowers| {
        mkdir(lowers[0].join("d"), 0o755).unwrap();
        write(lowers[0].join("d/f"), "f").unwrap();
        symlink("f", lowers[0].join("d/l")).unwrap();
    });
    site.lowers.push(below.views[0].at.clone());
    site.mount();
    let at = |path: &str| site.views[0].at(path);
    assert!(!site.views[0].root.view().is_watched());
    assert_eq!(
        (names(at("d")), readlink(at("d/l")).unwrap()),
        (vec!["f".into(), "l".into()], b"f".to_vec())
    );
    assert!(!exists(at("d/new")));
    write(below.low(0, "d/new"), "new").unwrap();
    unlink(below.low(0, "d/l")).unwrap();
    symlink("new", below.low(0, "d/l")).unwrap();
    poll_until("the changes", || {
        exists(at("d/new"))
            && names(at("d")) == ["f", "l", "new"]
            && readlink(at("d/l")).unwrap() == b"new"
    });
    // The other layer is watched, and told of at once.
    write(site.low(0, "d/mine"), "mine").unwrap();
    site.settle();
    poll_until("the watched one's", || {
        exists(at("d/mine")) && names(at("d")).len() == 4
    });
    site.views.clear();
}

#[test]
fn a_layer_whose_file_system_goes_and_comes_back() {
    let mut site = Site::new(2, 0, |_| ());
    let low = site.low(1, "");
    let first = Detached::tmpfs(&low);
    write(low.join("f"), "first").unwrap();
    site.mount();
    let view: &Mounted = &site.views[0];
    assert_eq!(read(view.at("f")).unwrap(), b"first");
    assert!(!exists(view.at("g")));
    drop(first);
    poll_until("that it is gone", || !exists(view.at("f")));
    let _second = Detached::tmpfs(&low);
    write(low.join("g"), "second").unwrap();
    poll_until("the second", || {
        read(view.at("g")).is_ok_and(|text| text == b"second") && !exists(view.at("f"))
    });
    poll_until("that it is watched", || view.root.view().is_watched());
    site.settle();
    write(low.join("h"), "h").unwrap();
    site.settle();
    assert!(exists(view.at("h")) && names(view.at("")) == ["g", "h"]);
}

#[test]
fn a_layer_that_nobody_has_any_more_is_watched_no_longer() {
    let mut site = site();
    let stats = |shared: &Shared| shared.watch_stats().unwrap()().roots;
    assert_eq!(stats(&site.shared), 2);
    site.views.clear();
    poll_until("that nothing is watched", || stats(&site.shared) == 0);
    site.mount();
    assert_eq!(stats(&site.shared), 2);
    site.warm(&absences());
}
