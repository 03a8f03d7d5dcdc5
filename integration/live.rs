//! Live changes: what changes below mounted views shows in each of them, whatever their kernel sides
//! have cached, and nothing else changes. Several views in one process, over layers that are watched.
//!
//! `STATELITE_LIVE_SEEDS=first..last` and `STATELITE_LIVE_ROUNDS` make the random test longer;
//! `STATELITE_TEST_DIR` says where the layers lie.
#![allow(clippy::unwrap_used, missing_docs)]

mod cluster;
mod harness;

#[path = "live/changes.rs"]
mod changes;
#[path = "live/levels.rs"]
mod levels;
#[path = "live/liteimg.rs"]
mod liteimg;
#[path = "live/options.rs"]
mod options;
#[path = "live/package.rs"]
mod package;
#[path = "live/random.rs"]
mod random;
#[path = "live/site.rs"]
mod site;
#[path = "live/soon.rs"]
mod soon;
#[path = "live/swap.rs"]
mod swap;
#[path = "live/tabled.rs"]
mod tabled;
