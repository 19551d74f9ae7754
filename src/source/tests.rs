//! Tests with the real git, by path and over HTTP.

mod fixture;
mod hostile;
mod http;
mod log;
mod mirrors;
mod more;
mod remotes;
mod trees;
