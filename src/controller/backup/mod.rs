//! The program that backs up volumes and restores them. `build.rs` compiles it, and it runs in separate containers.

// A separate program; here only its tests use parts of it.
#[cfg(test)]
#[allow(dead_code, clippy::print_stdout, clippy::exit)]
mod program;
