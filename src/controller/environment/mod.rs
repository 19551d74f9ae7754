//! One environment: the reconcile, from observation to report, and everything that only one environment has.

pub(super) mod act;
pub(super) mod attach;
pub(super) mod authority;
pub(super) mod before;
pub(super) mod forget;
pub(super) mod generations;
pub(super) mod group_turns;
mod images;
pub(super) mod intent;
pub(super) mod jobs;
pub(super) mod last_output;
pub(super) mod leave;
mod members;
pub(super) mod mount_policy;
pub(super) mod mounts;
mod orphans;
pub(super) mod output;
mod position;
pub(super) mod previous;
pub(super) mod probe;
pub(super) mod reconciler;
pub(super) mod report;
pub(super) mod stopwatch;
pub(super) mod turns;
pub(super) mod workload;
