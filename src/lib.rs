//! abide: a Kubernetes-style reconciling controller for plain Docker hosts.
//!
//! Webhooks, promotions and the CLI only update the [`record`] of what should run. The
//! [`controller`] keeps comparing the running containers with the record, and acts until the two
//! match.
//!
//! | module | purpose | may import |
//! | --- | --- | --- |
//! | [`model`] | the data model: pure data | none of the others |
//! | [`plan`] | the decision, and its explanation | model |
//! | [`record`] | the store; the only module that names sled | model, failpoint |
//! | [`source`] | git | model |
//! | [`outbound`] | HTTP requests to other hosts: proxies, deadlines, limits | model, tls |
//! | [`registry`] | credentials, and requests to registries | model, secret, outbound |
//! | [`context`] | build contexts: ignore rules, archives, overlays | model |
//! | [`controller`] | the reconcile loops; only its child `docker` names bollard | model, plan, record, source, registry, outbound, context, acme, confined, failpoint |
//! | [`api`] | webhooks and the HTTP API | model, record |
//! | [`feedback`] | deliveries to forges and channels | model, record, outbound, secret, tls, failpoint |
//! | [`cli`] | the command line | model, api (its router, without a daemon) |
//! | [`acme`] | certificates from an ACME authority for the proxy | model, secret, tls, outbound |
//! | [`tls`] | certificates, and how clients verify a server | model |
//! | [`manifest_dir`], [`secret`] | input of users: manifest files, secrets | model, each other |
//! | [`confined`] | a program isolated from abide: the script of a build | none of the others |
//! | [`doctor`] | checks of this host for everything that abide needs | model, controller, tls, manifest_dir, daemon |
//! | [`failpoint`] | points at which a test can kill the daemon | none of the others |
//! | `fuzz` | input from strangers, as functions of bytes; only with the feature `fuzz` | all |
//! | [`agent`] | the composition root on another host, and the link to the controller | model, record, controller, tls |
//! | [`daemon`], [`demo`] | composition roots | all |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod acme;
pub mod agent;
pub mod api;
pub mod cli;
pub mod confined;
pub mod context;
pub mod controller;
pub mod daemon;
pub mod demo;
pub mod doctor;
pub mod failpoint;
pub mod feedback;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod manifest_dir;
pub mod model;
pub mod outbound;
pub mod plan;
pub mod record;
pub mod registry;
pub mod secret;
pub mod source;
pub mod telemetry;
pub mod tls;
