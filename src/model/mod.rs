//! The vocabulary: pure data, valid by construction. No async, no clock, no IO.
//!
//! In reading order: names, then what people declare ([`spec`]), what should run
//! ([`desired`]), what a container is made of ([`container`]), what is seen
//! ([`observed`]), what the loop remembers ([`memory`]), what it says ([`status`],
//! [`event`]), what a build was ([`build`]) and what an API answers ([`view`]).

pub mod build;
pub mod container;
pub mod desired;
pub mod event;
pub mod front;
pub mod holder;
pub mod manifest;
pub mod memory;
pub mod name;
pub mod observed;
pub mod spec;
pub mod status;
pub mod time;
pub mod view;
