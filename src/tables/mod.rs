//! The tables: CSV as `tabdump` prints it, to typed rows, to what they say of one node.
//!
//! Owns: parsing and evaluation of tables. May not: look into images, litetrees or stores.

pub(crate) mod nearest;
mod spec;

pub use spec::*;
