//! System calls with the shapes this crate needs. The only place where `unsafe` is allowed.
//!
//! Owns: confinement to a root (openat2), caller credentials, object-wise attribute calls, fanotify.
//! May not: know of layers, rules, inodes or FUSE; decide anything.

pub mod close;
pub mod copy;
pub mod creds;
pub mod dir;
pub mod fanotify;
pub mod fusemount;
pub mod inherit;
pub mod memory;
pub mod mountinfo;
pub mod obj;
pub mod privileges;
mod procfs;
pub mod shm;
pub mod threads;
mod xattr;

pub use rustix::io::Errno;

/// What every function that can fail here returns.
pub type Res<T> = Result<T, Errno>;

/// How many descriptors this process may have (getrlimit(2), `RLIMIT_NOFILE`).
pub fn most_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}
