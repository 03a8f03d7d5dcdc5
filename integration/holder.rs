//! The daemon as two processes: the worker is killed, hangs, or is replaced by another program, and
//! nobody in a root notices more than a pause.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod cluster;

#[path = "serve/daemon.rs"]
mod daemon;

#[path = "holder/files.rs"]
mod files;
#[path = "serve/hanging.rs"]
mod hanging;
#[path = "holder/kill.rs"]
mod kill;
#[path = "holder/load.rs"]
mod load;
#[path = "holder/pause.rs"]
mod pause;
#[path = "holder/stuck.rs"]
mod stuck;
#[path = "holder/upgrade.rs"]
mod upgrade;
