//! Shared helpers of the benchmarks on a real Docker Engine. `tests/common` is their module
//! `common`.
// Every benchmark uses only a part of this module.
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
