//! Environments on Docker Swarm: three private engines in network namespaces.
//!
//! `cargo test --test swarm` runs on one node; `-- --include-ignored` also runs the tests on three nodes, which take
//! longer.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod cluster;
mod one_node;
mod three_nodes;
