//! Parse, run, exit code. No logic.

use std::process::ExitCode;

fn main() -> ExitCode {
    statelite::cli::main()
}
