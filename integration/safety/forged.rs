//! Whiteouts and machinery attributes that someone wrote into a store by hand: they may do what their
//! form says inside the node's own view, and nothing else.

use crate::canary::{Canary, SECRET};
use crate::harness::*;

fn base(forge: impl FnOnce(&Canary, &std::path::Path)) -> (Overlay, Canary) {
    let mut canary = None;
    let ov = Overlay::build(target(), Store::Disk, 1, |l, upper| {
        let l = &l[0];
        mkdir(l.join("d"), 0o755).unwrap();
        write(l.join("d/f"), "plain").unwrap();
        mkdir(l.join("closed"), 0o700).unwrap();
        write(l.join("closed/f"), SECRET).unwrap();
        write(l.join("f"), "plain").unwrap();
        let outside = Canary::new(l.parent().unwrap());
        forge(&outside, upper);
        canary = Some(outside);
    });
    (ov, canary.unwrap())
}

/// Redirects lead to another path of the layers below; ones that lead out, or past a closed directory,
/// are not followed.
#[test]
fn redirects_lead_nowhere() {
    let (ov, canary) = base(|canary, upper| {
        let out = format!("/{}", "../".repeat(20))
            + canary.dir.strip_prefix("/").unwrap().to_str().unwrap();
        for (i, redirect) in [
            canary.dir.to_str().unwrap(),
            &out,
            "../canary",
            "..",
            "/",
            "",
            "/closed",
            "closed",
        ]
        .iter()
        .enumerate()
        {
            let dir = upper.join(format!("r{i}"));
            mkdir(&dir, 0o755).unwrap();
            setx(&dir, "trusted.overlay.redirect", redirect).unwrap();
            let file = upper.join(format!("m{i}"));
            write(&file, "").unwrap();
            setx(&file, "trusted.overlay.redirect", redirect).unwrap();
            setx(&file, "trusted.overlay.metacopy", "").unwrap();
        }
    });
    Who::root().chroot(&ov.root).run(|| {
        for i in 0..8 {
            // Refused or shown without what it points to.
            if let Ok(listed) = list(format!("/r{i}")) {
                assert!(
                    listed.iter().all(|e| e.name != b"secret" && e.name != b"f"),
                    "r{i}: {listed:?}"
                );
            }
            for path in [
                format!("/r{i}/f"),
                format!("/r{i}/secret"),
                format!("/m{i}"),
            ] {
                assert_ne!(read(&path).unwrap_or_default(), SECRET, "{path}");
                chmod(&path, 0o666).ok();
                append(&path, "node").ok();
            }
            write(format!("/r{i}/new"), "node").ok();
        }
    });
    canary.assert_untouched("redirects");
    assert_eq!(read(ov.low("closed/f")).unwrap(), SECRET);
}

/// Origins, impure marks, protection attributes, of any content and any size.
#[test]
fn attributes_of_rubbish_do_no_harm() {
    let (mut ov, canary) = base(|_, upper| {
        for (i, value) in [
            vec![],
            vec![0],
            vec![0xff; 29],
            vec![0xfb; 128],
            vec![b'x'; 3000],
        ]
        .iter()
        .enumerate()
        {
            for name in [
                "origin",
                "impure",
                "nlink",
                "opaque",
                "uuid",
                "protattr",
                "upper",
                "whiteout",
                "whiteouts",
                "xwhiteouts",
                "statelite",
                "ino",
            ] {
                let name = format!("trusted.overlay.{name}");
                let dir = upper.join(format!("dir{i}"));
                mkdir(&dir, 0o755).ok();
                let file = upper.join(format!("file{i}"));
                write(&file, "content").unwrap();
                // What the store takes of these.
                setx(&dir, &name, value).ok();
                setx(&file, &name, value).ok();
            }
            // The largest last: a store has room for a few only.
            write(upper.join(format!("dir{i}/in")), "in").unwrap();
        }
        mkdir(upper.join("d"), 0o755).unwrap();
        setx(upper.join("d"), "trusted.overlay.origin", [0xfb; 40]).unwrap();
    });
    for _ in 0..2 {
        for i in 0..5 {
            // A zero-size or unknown mark may hide; it may not break.
            if let Ok(content) = read(ov.at(format!("file{i}"))) {
                assert_eq!(content, b"content");
            }
            list(ov.at(format!("dir{i}"))).ok();
            lstat(ov.at(format!("dir{i}/in"))).ok();
            for path in [format!("file{i}"), format!("dir{i}")] {
                let shown = listx(ov.at(path)).unwrap_or_default();
                assert!(
                    shown.iter().all(|n| !n.starts_with("trusted.overlay.")),
                    "{shown:?}"
                );
            }
        }
        assert_eq!(read(ov.at("f")).unwrap(), b"plain");
        assert_eq!(read(ov.at("d/f")).unwrap(), b"plain");
        write(ov.at("d/new"), "x").unwrap();
        ov.remount();
    }
    canary.assert_untouched("attributes");
}

/// A whiteout in the store is a deletion of the node's: no more, and it can be undone.
#[test]
fn whiteouts_hide_only_their_own_name() {
    let (ov, canary) = base(|_, upper| {
        mknod(upper.join("f"), FileType::CharacterDevice, 0, 0).unwrap();
        mknod(upper.join("never"), FileType::CharacterDevice, 0o777, 0).unwrap();
        mkdir(upper.join("d"), 0o755).unwrap();
        mknod(upper.join("d/."), FileType::CharacterDevice, 0, 0).ok();
        mknod(upper.join("d/other"), FileType::CharacterDevice, 0, 0).unwrap();
    });
    assert_eq!(names(&ov.root), ["closed", "d"]);
    assert_eq!(names(ov.at("d")), ["f"]);
    for name in ["f", "never", "d/other"] {
        fails!(lstat(ov.at(name)), NOENT);
        fails!(open_r(ov.at(name)), NOENT);
        fails!(unlink(ov.at(name)), NOENT);
        write(ov.at(name), "back").unwrap();
        assert_eq!(read(ov.at(name)).unwrap(), b"back");
    }
    assert_eq!(read(ov.low("f")).unwrap(), b"plain");
    canary.assert_untouched("whiteouts");
}

/// Two nodes with one image: neither sees or changes what the other does.
#[test]
fn views_don_t_see_one_another() {
    let (one, two) = (base(|_, _| ()).0, base(|_, _| ()).0);
    write(one.at("f"), "one").unwrap();
    write(one.at("new"), "one").unwrap();
    assert_eq!(read(two.at("f")).unwrap(), b"plain");
    assert!(!exists(two.at("new")));
    fails!(rename(one.at("new"), two.at("new")), XDEV);
    fails!(link(one.at("new"), two.at("new")), XDEV);
    Who::root().chroot(&one.root).run(|| {
        fails!(lstat(two.at("f")), NOENT);
        assert_eq!(lstat("/..").unwrap().st_ino, lstat("/").unwrap().st_ino);
    });
}
