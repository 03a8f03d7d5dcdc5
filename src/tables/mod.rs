//! The tables: CSV as `tabdump` prints it, to typed rows, to what they say of one node.
//!
//! Owns: parsing and evaluation of tables. May not: look into images, litetrees or stores.

mod book;
mod command;
mod context;
mod csv;
mod groups;
mod location;
pub(crate) mod nearest;
mod noderange;
mod nodes;
mod paths;
mod source;
mod spec;
#[cfg(test)]
mod testing;
mod values;
mod vars;

pub use csv::{Row, Table};
pub use noderange::NoderangeError;
pub use source::{CsvDir, RawTable, Source};
pub use spec::*;
