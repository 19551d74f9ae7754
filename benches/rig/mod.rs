//! What the benchmarks on a real Docker Engine share. They have `tests/common` as their `common`.
// Every benchmark takes its share of this module.
#![allow(dead_code)]

pub(crate) mod agent;
pub(crate) mod engine;
pub(crate) mod fleet;
pub(crate) mod http;
pub(crate) mod peers;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod steady;
pub(crate) mod swarm;
