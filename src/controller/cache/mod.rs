//! The cache of the engine: the known containers and images, kept up to date by the engine's events.

pub(super) mod ends;
pub(super) mod fleet;
pub(super) mod inspections;
pub(super) mod lives;
pub(super) mod watch;
