//! The hands: wakes, passes, steps.

mod docker;
mod fleet;
mod probe;
mod wake;
