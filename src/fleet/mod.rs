//! Nodes to sessions: what the tables and the configuration say becomes layers, rules and a view,
//! and a view becomes a mounted session.
//!
//! Owns: building views, running them, the background. May not: serve requests, or know of
//! fuser's types.

mod plain;
mod run;

pub use plain::{PlainSpec, plain_view};
pub use run::{Background, RunError, run_foreground, start_background};
