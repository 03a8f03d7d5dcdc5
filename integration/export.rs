//! What NFS servers are told of the nodes' roots, and what they then give to whom.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod cluster;

#[path = "serve/daemon.rs"]
mod daemon;
#[path = "nfs/server.rs"]
mod server;

#[path = "export/boot.rs"]
mod boot;
#[path = "export/files.rs"]
mod files;
#[path = "export/ganesha.rs"]
mod ganesha;
#[path = "export/step.rs"]
mod step;
