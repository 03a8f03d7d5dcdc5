//! The locks, atomics and maps of what is also compiled without the rest, with others in their place
//! that try the steps of its threads in many orders (integration/model).

pub(crate) use std::sync::atomic;

pub(crate) use dashmap::{DashMap, mapref};
pub(crate) use parking_lot::{Mutex, RwLock};
