//! Parse, run, exit code. No logic.

fn main() {}
