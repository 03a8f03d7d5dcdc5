//! What the table is made of: the daemon's own source.
#![allow(
    dead_code,
    reason = "the table is a part of the daemon, and so has more to it"
)]

#[path = "../../../src/inode/departed.rs"]
pub mod departed;
#[path = "../../../src/inode/id.rs"]
pub mod id;
#[path = "../../../src/inode/spread.rs"]
mod spread;
#[path = "../../../src/inode/table.rs"]
pub mod table;
