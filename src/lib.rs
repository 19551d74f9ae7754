//! abide: a Kubernetes-style reconciling controller for plain Docker hosts.
//!
//! Webhooks, promotions and the CLI only move the [`record`] of what should run. The
//! [`controller`] keeps diffing what does run against it, and acts until the two match.
//!
//! | room | what it is | may import |
//! | --- | --- | --- |
//! | [`model`] | the vocabulary: pure data | nothing of ours |
//! | [`plan`] | the decision, and its explanation | model |
//! | [`record`] | the memory; the only room that names sled | model, failpoint |
//! | [`source`] | git | model |
//! | [`registry`] | credentials, and questions to registries | model, secret, tls |
//! | [`context`] | build contexts: ignore rules, archives, overlays | model |
//! | [`controller`] | the hands; its child `docker` alone names bollard | model, plan, record, source, registry, context, failpoint |
//! | [`api`] | the door: webhooks, HTTP API | model, record |
//! | [`cli`] | the voice | model, api (its router, where no daemon runs) |
//! | [`tls`] | certificates, and how a server is known by one | model |
//! | [`manifest_dir`], [`secret`] | what people write: manifest files, secrets | model, each other |
//! | [`failpoint`] | where a test may have the daemon end | nothing of ours |
//! | [`daemon`], [`demo`] | composition roots | all |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod api;
pub mod cli;
pub mod context;
pub mod controller;
pub mod daemon;
pub mod demo;
pub mod failpoint;
pub mod manifest_dir;
pub mod model;
pub mod plan;
pub mod record;
pub mod registry;
pub mod secret;
pub mod source;
pub mod telemetry;
pub mod tls;
