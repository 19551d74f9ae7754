//! Deployments: pushes, promotions, user commands, and broken versions.

mod burst;
mod failures;
mod people;
mod pushes;
