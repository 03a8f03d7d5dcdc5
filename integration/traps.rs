//! Traps that others fell into: one test each, named after the trap. Where the whole behaviour is
//! wider, `posix.rs` has it; here stands the case that went wrong somewhere.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod harness;

#[path = "traps/copyup.rs"]
mod copyup;
#[path = "traps/peers.rs"]
mod peers;
#[path = "traps/protocol.rs"]
mod protocol;
