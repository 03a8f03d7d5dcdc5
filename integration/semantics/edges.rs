//! Section 5: the edges of a zone behave like a mount's.

use rustix::fs::{CWD, RenameFlags};

use crate::cluster::{Cluster, exists, fails, put, text};

fn cluster() -> Cluster {
    let c = Cluster::new(&[
        ("/t/", "tmpfs"),
        ("/t/p/", "persistent"),
        ("/t/deep/er/f", "persistent"),
        ("/t2/", "tmpfs"),
        ("/p2/", "persistent"),
        ("/file", "tmpfs"),
    ]);
    for path in [
        "t/a",
        "t/p/a",
        "t2/a",
        "p2/a",
        "out/a",
        "file",
        "t/deep/er/g",
        "t/dir/x",
    ] {
        put(c.image(path), path);
    }
    c
}

#[test]
fn rename_across_zones_is_exdev() {
    let c = cluster();
    let v = c.mount(1);
    for (from, to) in [
        ("t/a", "t/p/b"),
        ("t/p/a", "t/b"),
        ("t/a", "t2/b"),
        ("t/a", "p2/b"),
        // Of one option, but two rules.
        ("p2/a", "t/p/b"),
        ("t/a", "t2/a"),
        ("t/dir", "t2/dir"),
    ] {
        fails!(std::fs::rename(v.at(from), v.at(to)), EXDEV);
        assert!(exists(v.at(from)), "{from}");
    }
    let exchange = RenameFlags::EXCHANGE;
    let swap = rustix::fs::renameat_with(CWD, v.at("t/a"), CWD, v.at("t2/a"), exchange);
    fails!(swap, EXDEV);
    // Into and out of what no rule governs: nothing can change there.
    fails!(std::fs::rename(v.at("t/a"), v.at("out/b")), EXDEV);
    fails!(std::fs::rename(v.at("out/a"), v.at("t/b")), EROFS);
    // Inside one, also around another.
    std::fs::rename(v.at("t/a"), v.at("t/deep/a")).unwrap();
    assert_eq!(v.text("t/deep/a"), "t/a");
}

#[test]
fn link_across_zones_is_exdev() {
    let c = cluster();
    let v = c.mount(1);
    for (from, to) in [
        ("t/a", "t/p/b"),
        ("t/p/a", "t/b"),
        ("t/a", "t2/b"),
        ("out/a", "t/b"),
    ] {
        fails!(std::fs::hard_link(v.at(from), v.at(to)), EXDEV);
        assert!(!exists(v.at(to)));
    }
    std::fs::hard_link(v.at("t/a"), v.at("t/deep/b")).unwrap();
    v.write("t/deep/b", "both\n").unwrap();
    assert_eq!(v.text("t/a"), "both\n");
    assert_eq!(text(c.tmpfs(1, "t/a")), "both\n");
}

#[test]
fn a_rules_own_path_stays() {
    let c = cluster();
    let v = c.mount(1);
    for path in ["t/p", "t2", "t/deep/er/f", "file"] {
        let at = v.at(path);
        if at.is_dir() {
            fails!(std::fs::remove_dir(&at), EBUSY);
        } else {
            fails!(std::fs::remove_file(&at), EBUSY);
        }
        fails!(std::fs::rename(&at, v.at("t/elsewhere")), EBUSY);
        assert!(exists(&at), "{path}");
    }
    // Nor is it replaced by renaming something over it.
    put(v.at("t/deep/er/mine"), "mine\n");
    fails!(
        std::fs::rename(v.at("t/deep/er/mine"), v.at("t/deep/er/f")),
        EBUSY
    );
    std::fs::create_dir(v.at("t/empty")).unwrap();
    fails!(std::fs::rename(v.at("t/empty"), v.at("t/p")), EBUSY);
}

#[test]
fn a_directory_that_a_rule_lies_below_stays() {
    let c = cluster();
    let v = c.mount(1);
    for path in ["t/deep", "t/deep/er"] {
        fails!(std::fs::remove_dir(v.at(path)), EBUSY);
        fails!(std::fs::rename(v.at(path), v.at("t/elsewhere")), EBUSY);
        std::fs::create_dir_all(v.at("t/empty")).unwrap();
        fails!(std::fs::rename(v.at("t/empty"), v.at(path)), EBUSY);
    }
    // What lies beside the rules may go.
    std::fs::remove_file(v.at("t/deep/er/g")).unwrap();
    assert_eq!(v.names("t/deep/er"), ["f"]);
}
