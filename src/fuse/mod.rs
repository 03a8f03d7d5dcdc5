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
mod reply;

pub use adapter::Adapter;
pub use io::IoNow;
pub use mount::{
    Keeper, Leave, Left, MountError, MountPoint, adopt, check_state, clear_dead, mount, mount_id,
    unmount, unmount_how,
};
pub use notify::Notifier;
