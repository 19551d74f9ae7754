//! The voice: one verb a file.

use std::process::ExitCode;

/// Runs the command line and says how it went.
pub fn main() -> ExitCode {
    ExitCode::from(2)
}
