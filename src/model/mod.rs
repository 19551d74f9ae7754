//! The data model: pure data, valid by construction. No async, no clock, no IO.
//!
//! In reading order: names ([`name`], [`mod@reference`], [`address`]), the manifest ([`spec`], [`health`],
//! [`channel`], [`site`], [`group`]), the desired
//! state ([`desired`]), containers ([`container`]), workloads ([`workload`]) and mounts ([`mount`]), the observed state
//! ([`observed`]), gates of promotions ([`gates`]) and evidence for them ([`evidence`]), the reconcile state
//! ([`memory`]), reports ([`status`], [`event`]), checks of commits ([`checks`]), builds ([`build`]), permissions
//! ([`access`], [`credential`]), API answers ([`view`]), explanations of states ([`why`]), commits ([`commits`]),
//! messages between hosts ([`link`]), the daemon's address ([`listener`]), causes of failures ([`cause`]), outgoing
//! items ([`outbox`]), error texts ([`error`]) and texts without secrets ([`redact`]).

pub mod access;
pub mod address;
pub mod attach;
pub mod backup;
pub mod build;
pub mod cause;
pub mod channel;
pub mod checks;
pub mod commits;
pub mod container;
pub mod credential;
pub mod declared;
pub mod desired;
pub mod env_file;
pub mod error;
pub mod event;
pub mod evidence;
pub mod followed;
pub mod forge;
pub mod front;
pub mod gates;
pub mod group;
pub mod health;
pub mod holder;
pub mod job;
pub mod link;
pub mod listener;
pub mod logs;
pub mod manifest;
pub mod memory;
pub mod mount;
pub mod name;
pub mod network;
pub mod observed;
pub mod one_off;
pub mod options;
pub mod outbox;
pub mod percent;
pub mod platform;
pub mod poll;
pub mod ports;
pub mod public_url;
pub mod pull;
pub mod redact;
pub mod reference;
pub mod registries;
pub(crate) mod remote_url;
pub mod replicas;
pub mod schedule;
pub mod secret_file;
pub mod site;
pub mod spec;
pub mod status;
pub mod time;
pub mod usage;
pub mod view;
pub mod why;
pub(crate) mod wire;
pub mod workload;
