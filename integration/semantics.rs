//! docs/SEMANTICS.md sentence by sentence, on mounted roots of nodes that the tables describe.
#![allow(clippy::unwrap_used, missing_docs)]

mod cluster;

#[path = "semantics/edges.rs"]
mod edges;
#[path = "semantics/evolve.rs"]
mod evolve;
#[path = "semantics/layers.rs"]
mod layers;
#[path = "semantics/options.rs"]
mod options;
#[path = "semantics/safety.rs"]
mod safety;
#[path = "semantics/tables.rs"]
mod tables;
#[path = "semantics/trees.rs"]
mod trees;
#[path = "semantics/view.rs"]
mod view;
#[path = "semantics/zones.rs"]
mod zones;
