//! An image that liteimg has rewritten, or rewrites while it is served: chains of symlinks into
//! `.statelite/tmpfs`, with the content in `.default`.

use std::path::{Path, PathBuf};

use crate::cluster::{self, Cluster, put};
use crate::harness::*;
use crate::tabled::Tabled;

/// What liteimg does to a path of the image. `up` leads from the path's directory to the root.
fn rewrite(image: &Path, path: &str) {
    let (to, chain) = (
        image.join(".default").join(path),
        image.join(".statelite/tmpfs").join(path),
    );
    for made in [&to, &chain] {
        std::fs::create_dir_all(made.parent().unwrap()).unwrap();
    }
    rename(image.join(path), &to).unwrap();
    let up = "../".repeat(Path::new(path).components().count() - 1);
    symlink(format!("../../{up}.default/{path}"), &chain).unwrap();
    symlink(format!("{up}.statelite/tmpfs/{path}"), image.join(path)).unwrap();
}

/// And how it is undone by hand.
fn restore(image: &Path, path: &str) {
    unlink(image.join(path)).unwrap();
    unlink(image.join(".statelite/tmpfs").join(path)).unwrap();
    rename(image.join(".default").join(path), image.join(path)).unwrap();
}

const PATHS: [&str; 3] = ["etc/ntp.conf", "var/lib/app", "srv"];

fn fill(c: &Cluster) {
    put(c.image("etc/ntp.conf"), "image\n");
    put(c.image("etc/plain"), "plain\n");
    put(c.image("etc/later"), "later\n");
    for dir in ["var/lib/app", "srv"] {
        for name in ["db", "sub/x", "sub/y", "gone"] {
            put(c.image(dir).join(name), format!("{dir}/{name}\n"));
        }
    }
}

fn absences() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for top in ["", ".default"] {
        for path in [
            "etc/new",
            "var/lib/app/new",
            "var/lib/app/sub/new",
            "srv/new",
            "srv/sub/new",
            "var/lib/other",
        ] {
            all.push(Path::new(top).join(path));
        }
    }
    all
}

/// Changes below what was moved away.
fn changes(site: &Tabled, what: &str) {
    let image = site.cluster.image("");
    let aside = site.cluster.path("aside");
    let absences = absences();
    let default = |path: &str| image.join(".default").join(path);
    let shows = |step: &str, change: &dyn Fn()| {
        site.shows(&absences, &format!("{what}: {step}"), change);
    };
    shows("edited", &|| {
        append(default("etc/ntp.conf"), "more\n").unwrap();
        write(default("var/lib/app/db"), "edited\n").unwrap();
    });
    shows("replaced", &|| {
        for path in ["etc/ntp.conf", "var/lib/app/db", "srv/sub/x"] {
            write(&aside, "replaced\n").unwrap();
            rename(&aside, default(path)).unwrap();
        }
    });
    shows("attributes", &|| {
        for path in ["etc/ntp.conf", "var/lib/app", "srv/sub"] {
            chmod(default(path), 0o750).unwrap();
            setx(default(path), "user.x", "y").unwrap();
        }
    });
    shows("new names", &|| {
        for path in ["var/lib/app/new", "var/lib/app/sub/new", "srv/sub/new"] {
            write(default(path), "new\n").unwrap();
        }
    });
    shows("removed", &|| {
        for path in ["var/lib/app/gone", "srv/gone", "etc/ntp.conf"] {
            unlink(default(path)).unwrap();
        }
    });
    shows("back", &|| {
        write(default("etc/ntp.conf"), "back\n").unwrap();
    });
    shows("a directory moved out", &|| {
        rename(default("var/lib/app"), &aside).unwrap()
    });
    shows("and in", &|| {
        rename(&aside, default("var/lib/app")).unwrap()
    });
    shows("a file in the place of a directory", &|| {
        rename(default("srv"), &aside).unwrap();
        write(default("srv"), "a file\n").unwrap();
    });
    shows("the directory again", &|| {
        unlink(default("srv")).unwrap();
        rename(&aside, default("srv")).unwrap();
    });
    shows("a level moved", &|| {
        rename(image.join(".default/var"), &aside).unwrap()
    });
    shows("and back", &|| {
        rename(&aside, image.join(".default/var")).unwrap()
    });
    shows("all of it moved", &|| {
        rename(image.join(".default"), &aside).unwrap()
    });
    shows("all of it back", &|| {
        rename(&aside, image.join(".default")).unwrap()
    });
    shows("undone", &|| {
        PATHS.iter().for_each(|path| restore(&image, path))
    });
    shows("run again", &|| {
        PATHS.iter().for_each(|path| rewrite(&image, path))
    });
    shows("one path more", &|| rewrite(&image, "etc/later"));
    assert_eq!(read(site.at(0, "etc/later")).unwrap(), b"later\n");
    restore(&image, "etc/later");
}

fn with(what: &str, rules: &[(&str, &str)], settings: &[(&str, &str)]) {
    let c = Cluster::new(rules);
    for (key, value) in settings {
        c.set(key, value);
    }
    fill(&c);
    for path in PATHS {
        rewrite(&c.image(""), path);
    }
    cluster::dir(c.image(".statelite/persistent"));
    let site = Tabled::new(c);
    site.warm(&absences());
    site.says("var/lib/app/db", "var/lib/app/db\n");
    changes(&site, what);
}

#[test]
fn an_image_that_liteimg_has_rewritten_is_live() {
    with("no rules", &[("/etc/plain", "tmpfs")], &[]);
    let rules = [
        ("/etc/ntp.conf", "link"),
        ("/var/lib/app/", "persistent"),
        ("/var/lib/app/sub/", "tmpfs"),
        ("/srv/", "ro"),
    ];
    with("rules", &rules, &[]);
    with("link_view", &rules, &[("link_view", "\"symlink\"")]);
    let outer = [("/var/", "tmpfs"), ("/var/lib/app/db", "persistent")];
    with("rules around it", &outer, &[]);
}

/// liteimg runs while its image is served, and is undone.
#[test]
fn liteimg_may_run_while_the_image_is_served() {
    for rules in [
        &[("/etc/plain", "tmpfs")][..],
        &[("/etc/ntp.conf", "link"), ("/var/lib/app/", "persistent")],
    ] {
        let c = Cluster::new(rules);
        fill(&c);
        let site = Tabled::new(c);
        let image = site.cluster.image("");
        site.warm(&absences());
        let says = |what: &str| {
            site.assert_true(&absences(), what);
            site.says("etc/ntp.conf", "image\n");
            site.says("var/lib/app/sub/x", "var/lib/app/sub/x\n");
            site.says("srv/db", "srv/db\n");
        };
        says("before");
        PATHS.iter().for_each(|path| rewrite(&image, path));
        site.settle();
        says("rewritten");
        changes(&site, "rewritten");
        PATHS.iter().for_each(|path| restore(&image, path));
        for dir in [".statelite", ".default"] {
            std::fs::remove_dir_all(image.join(dir)).unwrap();
        }
        site.settle();
        site.assert_true(&absences(), "undone");
    }
}
