//! abide: a Kubernetes-style reconciling controller for plain Docker hosts.
//!
//! Webhooks, promotions and the CLI only update the [`record`] of what should run. The
//! [`controller`] keeps comparing the running containers with the record, and acts until the two
//! match.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`model`] | the data model: pure data |
//! | [`plan`] | the decision, and its explanation |
//! | [`record`] | the store; the only module that names sled |
//! | `source` | git |
//! | `outbound` | HTTP requests to other hosts: proxies, deadlines, limits |
//! | `registry` | credentials, and requests to registries |
//! | `context` | build contexts: ignore rules, archives, overlays |
//! | [`controller`] | the reconcile loops; only its child `docker` names bollard |
//! | [`api`] | webhooks and the HTTP API |
//! | `feedback` | deliveries to forges and channels |
//! | `compose` | manifests from compose files |
//! | [`cli`] | the command line |
//! | `acme` | certificates from an ACME authority for the proxy |
//! | `tls` | certificates, and how clients verify a server |
//! | [`manifest_dir`] | the folder of manifest files, as it is edited |
//! | `secret` | secrets of the manifest |
//! | `durable` | writes files in abide's own folders, never through a link |
//! | [`confined`] | a program isolated from abide: the script of a build |
//! | `doctor` | checks of this host for everything that abide needs |
//! | [`failpoint`] | points at which a test can kill the daemon |
//! | `metrics` | measurements of this process, for Prometheus |
//! | `telemetry` | the log |
//! | `fuzz` | input from strangers, as functions of bytes; only with the feature `fuzz` |
//! | `agent` | the composition root on another host, and the link to the controller |
//! | [`daemon`], [`demo`] | composition roots |
//!
//! The table in `docs/ARCHITECTURE.md` states which module may import which.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub(crate) mod acme;
pub(crate) mod agent;
pub mod api;
pub mod cli;
pub(crate) mod compose;
pub mod confined;
pub(crate) mod context;
pub mod controller;
pub mod daemon;
pub mod demo;
pub(crate) mod doctor;
pub(crate) mod durable;
pub mod failpoint;
pub(crate) mod feedback;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod manifest_dir;
pub(crate) mod metrics;
pub mod model;
pub(crate) mod outbound;
#[cfg(test)]
#[path = "../tests/common/pebble.rs"]
mod pebble;
pub mod plan;
#[cfg(test)]
#[path = "../tests/common/ports.rs"]
mod ports;
pub mod record;
pub(crate) mod registry;
pub(crate) mod secret;
pub(crate) mod source;
pub(crate) mod telemetry;
pub(crate) mod tls;
