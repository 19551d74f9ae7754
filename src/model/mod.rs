//! The data model: pure data, valid by construction. No async, no clock, no IO.
//!
//! In reading order: names ([`name`], [`mod@reference`], [`address`]), the manifest ([`spec`], [`health`],
//! [`channel`]), the desired
//! state ([`desired`]), containers ([`container`]) and mounts ([`mount`]), the observed state ([`observed`]),
//! gates of promotions ([`gates`]) and evidence for them ([`evidence`]), the reconcile state ([`memory`]),
//! reports ([`status`], [`event`]), builds ([`build`]), permissions ([`access`], [`credential`]), API answers
//! ([`view`]), explanations of states ([`why`]), commits ([`commits`]), messages between hosts ([`link`]),
//! causes of failures ([`cause`]), outgoing items ([`outbox`]) and error texts ([`error`]).

pub mod access;
pub mod address;
pub mod build;
pub mod cause;
pub mod channel;
pub mod commits;
pub mod container;
pub mod credential;
pub mod declared;
pub mod desired;
pub mod env_file;
pub mod error;
pub mod event;
pub mod evidence;
pub mod forge;
pub mod front;
pub mod gates;
pub mod health;
pub mod holder;
pub mod link;
pub mod logs;
pub mod look;
pub mod manifest;
pub mod memory;
pub mod mount;
pub mod name;
pub mod network;
pub mod observed;
pub mod options;
pub mod outbox;
pub mod ports;
pub mod public_url;
pub mod reference;
pub(crate) mod remote_url;
pub mod secret_file;
pub mod spec;
pub mod status;
pub mod time;
pub mod view;
pub mod why;
pub(crate) mod wire;
