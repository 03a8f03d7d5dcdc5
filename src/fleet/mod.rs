//! Nodes to sessions: what the tables and the configuration say becomes layers, rules and a view,
//! and a view becomes a mounted session.
//!
//! Owns: building views, running them, the background, the daemon (`serve`). May not: serve requests, or know of
//! fuser's types.

pub mod build;
mod live;
mod observe;
mod plain;
pub mod plan;
mod reset;
mod run;
mod serve;
mod shared;
pub mod shown;
pub mod stores;

pub use build::{BuildError, Built, Use, node_view, planned_view};
pub use live::Attached;
pub use observe::Metrics;
pub use plain::{PlainSpec, plain_view};
pub use plan::{Plan, PlanError, Planned, plan};
pub use reset::{ResetError, reset, reset_on_boot};
pub use run::{Background, RunError, report_failure, run_foreground, start_background};
pub use serve::{Beginning, ControlError, Fleet, ServeError, ServeOptions, serve};
pub use shared::Shared;
