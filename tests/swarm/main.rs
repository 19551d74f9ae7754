//! Environments on Docker Swarm: three private engines in network namespaces.
//!
//! They take minutes, so `cargo test` leaves them out: `cargo test --test swarm -- --ignored --test-threads 1`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod agent;
mod cluster;
mod edits;
mod groups;
mod guide;
mod kills;
mod one_node;
mod promotion;
mod proxy;
mod registry;
mod three_nodes;
