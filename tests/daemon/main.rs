//! The daemon as a service: notifications to its manager, access, and failures around it. Most of
//! this needs no Docker Engine: the daemon is pointed at a socket that does not exist.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod bitbucket;
mod channels;
mod child;
mod confined;
mod doors;
mod followed;
mod guide;
mod logs;
mod mail;
mod secrets;
mod signals;
mod start;
mod store;
mod strangers;
mod tokens;
mod trouble;
