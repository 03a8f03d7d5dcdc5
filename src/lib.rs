//! statelite: every diskless node's root as a live merge of image, tmpfs, persistent and
//! litetree layers, chosen path by path by the litefile rules.

pub mod bench;
pub mod budget;
pub mod cache;
pub mod child;
pub mod cli;
pub mod config;
pub mod control;
pub mod fleet;
pub mod fs;
pub mod fuse;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod holder;
pub mod inode;
pub mod keep;
pub mod layer;
pub mod logs;
pub mod metrics;
pub mod nfs;
pub mod pool;
pub mod rules;
mod serving;
mod stuck;
mod sync;
pub mod sys;
pub mod systemd;
pub mod tables;
pub mod top;
pub mod watch;
