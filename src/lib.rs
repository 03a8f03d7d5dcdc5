//! statelite: every diskless node's root as a live merge of image, tmpfs, persistent and
//! litetree layers, chosen path by path by the litefile rules.

pub mod config;
pub mod tables;
