//! Long operations in the background: builds, pulls and pushes, and their access to git and registries.

pub(super) mod builder;
pub(super) mod failpoints;
pub(super) mod pull;
pub(super) mod push;
pub(super) mod registries;
pub(super) mod remote;
mod running;
pub(super) mod slots;

pub(super) use running::{BuildLimits, JobEnd, JobKey, JobProgress, Jobs, PullRule};
