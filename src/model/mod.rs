//! The data model: pure data, valid by construction. No async, no clock, no IO.
//!
//! In reading order: names ([`name`], [`mod@reference`], `address`), the manifest ([`spec`], `health`, `channel`,
//! `site`, `group`, `canary`), the desired state ([`desired`]), containers ([`container`]), workloads (`workload`) and
//! mounts (`mount`), the observed state ([`observed`]), gates of promotions ([`gates`]) and evidence for them
//! (`evidence`), the reconcile state ([`memory`]), reports ([`status`], [`event`]), checks of commits (`checks`),
//! builds (`build`), permissions (`access`, `credential`), API answers ([`view`]), explanations of states (`why`),
//! commits (`commits`), messages between hosts ([`link`]), the daemon's address (`listener`), causes of failures
//! (`cause`), outgoing items (`outbox`), error texts (`error`, `reading`) and texts without secrets (`redact`).

pub(crate) mod access;
pub(crate) mod address;
pub(crate) mod attach;
pub(crate) mod backup;
pub(crate) mod build;
pub(crate) mod canary;
pub(crate) mod cause;
pub(crate) mod channel;
pub(crate) mod checks;
pub(crate) mod commits;
pub mod container;
pub(crate) mod credential;
pub(crate) mod declared;
pub mod desired;
pub(crate) mod env_file;
pub(crate) mod error;
pub mod event;
pub(crate) mod evidence;
pub(crate) mod followed;
pub(crate) mod forge;
pub(crate) mod front;
pub mod gates;
pub(crate) mod group;
pub(crate) mod health;
pub(crate) mod holder;
pub(crate) mod job;
pub mod link;
pub(crate) mod listener;
pub(crate) mod logs;
pub mod manifest;
pub mod memory;
pub(crate) mod mount;
pub mod name;
pub(crate) mod network;
pub mod observed;
pub(crate) mod one_off;
pub(crate) mod options;
pub(crate) mod outbox;
pub(crate) mod percent;
pub(crate) mod platform;
pub(crate) mod poll;
pub mod ports;
pub(crate) mod public_url;
pub(crate) mod pull;
pub(crate) mod reading;
pub(crate) mod redact;
pub mod reference;
pub(crate) mod registries;
pub(crate) mod remote_url;
pub(crate) mod replicas;
pub mod schedule;
pub(crate) mod secret_file;
pub(crate) mod site;
pub mod spec;
pub mod status;
pub mod time;
pub(crate) mod usage;
pub mod view;
pub(crate) mod why;
pub(crate) mod wire;
pub(crate) mod workload;
