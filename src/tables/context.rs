//! The node that tables are being evaluated for.
//!
//! Owns: what an evaluation may ask, and what it found wrong. May not: know any table.

use super::Problem;
use super::book::Book;
use super::command::Commands;
use super::location::LocalHosts;
use crate::config::Config;

/// One node, all tables, and the configuration. Its problems don't name the node: they are the
/// same for many.
pub(crate) struct Context<'c> {
    /// All tables.
    pub(crate) book: &'c Book,
    /// The configuration.
    pub(crate) config: &'c Config,
    /// Outputs of commands.
    pub(crate) commands: &'c Commands,
    /// This host's names.
    pub(crate) hosts: &'c LocalHosts,
    /// The node's name.
    pub(crate) node: &'c str,
    /// Its groups, in order.
    pub(crate) groups: &'c [String],
    /// The name of its image.
    pub(crate) image: &'c str,
    /// What was found wrong so far.
    pub(crate) problems: Vec<Problem>,
}
