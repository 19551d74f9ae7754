//! How versions come to run: pushes, promotions and people, and versions that are no good.

mod burst;
mod failures;
mod people;
mod pushes;
