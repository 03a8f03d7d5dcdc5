//! What the daemon counts, and how it is asked for: counters of each node's session, Prometheus'
//! text format, and a small HTTP server for it.
//!
//! Owns: counters, names of families, the endpoint. May not: know of views, layers or FUSE; cost a
//! request a lock, an allocation or a look-up by name.
//!
//! A part that has something to tell gives the [`Registry`] a [`Source`]; a session gets a [`Node`]
//! from it. The counters are atomics of our own: the histograms of metrics-exporter-prometheus keep
//! each sample until they are asked (memory, and allocations in requests), those of
//! prometheus-client take a lock at each sample.

mod address;
pub mod clock;
mod copies;
mod errno;
mod http;
mod node;
mod op;
mod registry;
mod server;
mod shared;
mod source;
mod stream;
mod text;

pub use address::Address;
pub use copies::copied_up;
pub use node::{Begun, Figures, Node, is_failure};
pub use op::Op;
pub use registry::Registry;
pub use server::{ServeError, Server};
pub use source::{CacheFigures, Source, WatchFigures};
pub use stream::{Stream, get};
pub use text::{CONTENT_TYPE, Family, Kind, Text, Value};
