//! All of abide on real systems: a Docker Engine, git, and the abide binary as users run it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod agent;
mod api;
mod backup;
mod behaviour;
mod build;
mod canary;
mod checks;
mod clock;
mod commands;
mod complete;
mod compose;
mod crash;
mod deploy;
mod engine;
#[cfg(debug_assertions)]
mod failpoints;
mod front;
mod full_disk;
mod gates;
mod groups;
mod guard;
mod heal;
mod holder;
mod jobs;
mod keepwork;
#[cfg(debug_assertions)]
mod load;
mod lost;
mod monitoring;
mod names;
mod options;
mod page;
mod platform;
mod registry;
mod replicas;
mod rollback;
mod tls;
mod verdicts;
mod volumes;
mod waves;
mod wishes;
