//! The hands: wakes, passes, steps.
//!
//! [`spawn`] gives everything that is rung and run. Nothing outside this room reaches Docker.

mod builder;
mod docker;
mod fleet;
mod jobs;
mod probe;
mod wake;
