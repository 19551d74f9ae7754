//! The daemon as a service: what it tells who started it, what it opens to whom, and how it goes
//! through trouble. Most of it needs no Docker Engine: the daemon is pointed at a socket that is
//! not there.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod child;
mod doors;
mod guide;
mod logs;
mod secrets;
mod signals;
mod start;
mod store;
mod strangers;
mod tokens;
mod trouble;
