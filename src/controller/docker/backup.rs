//! The image of the program that backs volumes up and restores them.

use super::program::Program;

/// The program, which `build.rs` compiles.
pub(crate) static PROGRAM: Program = Program {
    repository: "abide/backup",
    file: "backup",
    content: include_bytes!(concat!(env!("OUT_DIR"), "/backup")),
};
