//! The adapter between the kernel and `fs`: decode a request, call, reply. No logic. Only here are
//! fuser's types known.

mod adapter;
mod filesystem;
mod find;
mod io;
mod mount;
mod negotiate;
mod notify;
mod opening;
mod passthrough;
mod reply;
mod session;

pub use adapter::Adapter;
pub use io::IoNow;
pub use mount::{Leave, MountError, clear_dead, mount_id, unmount, unmount_how};
pub use notify::Notifier;
pub use session::{Left, MountPoint, adopt, check_state, mount};
