//! The vocabulary: pure data, valid by construction. No async, no clock, no IO.
//!
//! In reading order: names ([`name`], [`mod@reference`]), then what people declare ([`spec`], [`health`]), what should run
//! ([`desired`]), what a container is made of ([`container`]), what is mounted ([`mount`]), what is seen
//! ([`observed`]), what the loop remembers ([`memory`]), what it says ([`status`],
//! [`event`]), what a build was ([`build`]), who may do what ([`access`], [`credential`]), what an API
//! answers ([`view`]), what travels between hosts ([`link`]) whose doing a failure is
//! ([`cause`]) and how errors are told ([`error`]).

pub mod access;
pub mod build;
pub mod cause;
pub mod container;
pub mod credential;
pub mod declared;
pub mod desired;
pub mod error;
pub mod event;
pub mod front;
pub mod health;
pub mod holder;
pub mod link;
pub mod look;
pub mod manifest;
pub mod memory;
pub mod mount;
pub mod name;
pub mod observed;
pub mod reference;
pub(crate) mod remote_url;
pub mod spec;
pub mod status;
pub mod time;
pub mod view;
mod wire;
