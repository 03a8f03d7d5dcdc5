//! Roots that `statelite serve` presents, over NFSv3 and NFSv4: NFS-Ganesha exports them as the daemon tells it to, and clients by libnfs
//! (`nfs/client.c`) use them. What comes back is held against the root itself, as a process on the server sees it.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod cluster;
mod harness;

#[path = "serve/daemon.rs"]
mod daemon;
#[path = "nfs/server.rs"]
mod server;

/// Makes each named test one over NFSv3 and one over NFSv4.
macro_rules! over_both_versions {
    ($($test:ident),* $(,)?) => {
        mod v3 { $( #[test] fn $test() { super::$test(3) } )* }
        mod v4 { $( #[test] fn $test() { super::$test(4) } )* }
    };
}

#[path = "nfs/control.rs"]
mod control;
#[path = "nfs/held.rs"]
mod held;
#[path = "nfs/listing.rs"]
mod listing;
#[path = "nfs/locks.rs"]
mod locks;
#[path = "nfs/operations.rs"]
mod operations;
#[path = "nfs/site.rs"]
mod site;
#[path = "nfs/tree.rs"]
mod tree;
