//! Inside a writable zone everything that POSIX says works (SEMANTICS, section 6): one test an
//! operation, each with its store on disk and on a tmpfs.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod harness;

#[path = "posix/attr.rs"]
mod attr;
#[path = "posix/data.rs"]
mod data;
#[path = "posix/dirs.rs"]
mod dirs;
#[path = "posix/handles.rs"]
mod handles;
#[path = "posix/names.rs"]
mod names;
#[path = "posix/owner.rs"]
mod owner;
#[path = "posix/remove.rs"]
mod remove;
#[path = "posix/rename.rs"]
mod rename;
#[path = "posix/xattr.rs"]
mod xattr;
