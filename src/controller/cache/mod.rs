//! The cache of the engine: the known containers and images, kept up to date by the engine's events.

pub(super) mod containers;
pub(super) mod exits;
pub(super) mod inspections;
pub(super) mod lifetimes;
pub(super) mod watch;
