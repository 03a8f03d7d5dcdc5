//! File handles: what was named by one opens by it again, whatever was forgotten, unmounted, restarted,
//! copied up, moved or reset meanwhile; what is gone is ESTALE and never another object. As an NFS
//! server uses them: name_to_handle_at(2) and open_by_handle_at(2).
//!
//! `STATELITE_HANDLES_SEEDS=first..last` makes the random test longer, `STATELITE_HANDLES_COUNT` the
//! number of handles that are held at once another one.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod cluster;
mod harness;

#[path = "serve/daemon.rs"]
mod daemon;

#[path = "handles/gone.rs"]
mod gone;
#[path = "handles/handle.rs"]
mod handle;
#[path = "handles/many.rs"]
mod many;
#[path = "handles/objects.rs"]
mod objects;
#[path = "handles/random.rs"]
mod random;
#[path = "handles/servers.rs"]
mod servers;
#[path = "handles/zones.rs"]
mod zones;
