//! The roots that are served, and whoever serves them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cluster::{Cluster, chmod, dir, link, put, stat};
use crate::daemon::Daemon;
use crate::server::{Ganesha, Shared};

/// Zones of three kinds, and content for each from all layers.
pub fn cluster() -> Cluster {
    let c = crate::server::site(&[
        ("/etc/", "tmpfs"),
        ("/etc/hosts", "con"),
        ("/var/", "persistent"),
    ]);
    c.set("export", "\"ganesha\"");
    put(c.path("ganesha/statelite.conf"), "");
    for zone in ["etc", "var", "usr"] {
        put(c.image(format!("{zone}/image")), format!("{zone} image\n"));
        put(c.image(format!("{zone}/dir/below")), "below\n");
        put(
            c.image(format!("{zone}/large")),
            "0123456789".repeat(20_000),
        );
        put(c.image(format!("{zone}/mode")), "");
        chmod(c.image(format!("{zone}/mode")), 0o4711).unwrap();
        std::os::unix::fs::chown(c.image(format!("{zone}/dir")), Some(12), Some(34)).unwrap();
        link("../nowhere", c.image(format!("{zone}/symlink")));
        put(c.tree(1, format!("{zone}/tree")), "tree 1\n");
        put(c.tree(2, format!("{zone}/dir/tree")), "tree 2\n");
    }
    put(c.tree(1, "etc/hosts"), "tree 1\n");
    put(c.tree(2, "etc/hosts"), "tree 2\n");
    dir(c.image("usr/empty"));
    c
}

/// In the order in which they must go.
pub struct Served<'a> {
    pub ganesha: Ganesha<'a>,
    pub daemon: Daemon<'a>,
    pub _shared: Shared,
}

impl<'a> Served<'a> {
    /// By the daemon's own exports.
    pub fn start(c: &'a Cluster) -> Self {
        let shared = Shared::on(c.path("roots"));
        let daemon = Daemon::start(c);
        Self {
            ganesha: Ganesha::start(c),
            daemon,
            _shared: shared,
        }
    }
}

/// What a client's `stat` says of it.
#[track_caller]
pub fn line(path: impl AsRef<Path>) -> String {
    let st = stat(path);
    format!(
        "{:o} {} {} {} {} {} {}",
        st.mode(),
        st.ino(),
        st.nlink(),
        st.uid(),
        st.gid(),
        st.size(),
        st.mtime()
    )
}
