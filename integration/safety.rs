//! Every access to a layer is confined to it (SEMANTICS, section 8): what a node plants in its own store,
//! or someone in a litetree, leads the server nowhere.
//!
//! The node's side runs in a thread whose root is the view, so that a symlink which it follows itself
//! ends inside; whatever reaches the canary was done by the server.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod harness;

#[path = "safety/canary.rs"]
mod canary;
#[path = "safety/forged.rs"]
mod forged;
#[path = "safety/planted.rs"]
mod planted;
#[path = "safety/raced.rs"]
mod raced;
