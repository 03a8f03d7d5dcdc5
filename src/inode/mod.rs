//! What the kernel has been told of: stable numbers, the table that counts lookups, open handles
//! and directory streams.
//!
//! Owns: lookup counts, and the links between an object and its parents. May not: do I/O, know of
//! rules, layers or FUSE; what an inode means is its payload's business.

pub mod departed;
pub mod dirstream;
pub mod handles;
pub mod id;
mod spread;
pub mod table;

pub use dirstream::{DirStream, StreamEntry};
pub use handles::Handles;
pub use table::{Inode, Table};
