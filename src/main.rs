//! Decides the exit code; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    abide::confined::stage().unwrap_or_else(abide::cli::main)
}
