//! exports(5), for the kernel's NFS server.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{HEADER, NodeRoot};

/// A line a node. `mountpoint`: without its root nobody gets the directory that lies below.
pub fn exports<'r>(roots: impl IntoIterator<Item = &'r NodeRoot>) -> String {
    let mut text = String::from(HEADER);
    for root in roots {
        text.push_str(&path(&root.path));
        for client in &root.clients {
            let fsid = &root.fsid;
            text.push_str(&format!(
                " {client}(rw,no_root_squash,no_subtree_check,mountpoint,fsid={fsid})"
            ));
        }
        text.push('\n');
    }
    text
}

/// What is no plain letter is written as `\ooo`, which is read in every place.
fn path(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-+,:@%=~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("\\{byte:03o}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::testing::site;
    use super::*;

    #[test]
    fn each_node_has_its_own_root_alone() {
        let roots = site(
            "#node,ip,otherinterfaces\ncn1,10.0.0.1,-ib:fd00::1\ncn4,10.0.0.4,\n",
            "/srv/a b#\"\\é",
        );
        let text = exports(&roots.nodes);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let (one, four) = (&roots.nodes[0].fsid, &roots.nodes[1].fsid);
        let options = "rw,no_root_squash,no_subtree_check,mountpoint,fsid";
        let at = "/srv/a\\040b\\043\\042\\134\\303\\251";
        assert_eq!(
            lines,
            [
                format!("{at}/cn1 10.0.0.1({options}={one}) fd00::1({options}={one})"),
                format!("{at}/cn4 10.0.0.4({options}={four})"),
            ]
        );
    }
}
