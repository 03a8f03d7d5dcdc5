//! The daemon: many nodes in one process, told and asked over its control socket.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod cluster;

#[path = "serve/daemon.rs"]
mod daemon;

#[path = "serve/control.rs"]
mod control;
#[path = "serve/hanging.rs"]
mod hanging;
#[path = "serve/life.rs"]
mod life;
#[path = "serve/live.rs"]
mod live;
#[path = "serve/nodes.rs"]
mod nodes;
#[path = "serve/reload.rs"]
mod reload;
#[path = "serve/sharing.rs"]
mod sharing;
