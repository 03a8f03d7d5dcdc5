//! The tables: CSV as `tabdump` prints it, to typed rows, to what they say of one node.
//!
//! Owns: parsing and evaluation of tables. May not: look into images, litetrees or stores.

mod csv;
pub(crate) mod nearest;
mod source;
mod spec;

pub use csv::{Row, Table};
pub use source::{CsvDir, RawTable, Source};
pub use spec::*;
