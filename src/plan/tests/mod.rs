//! Laws of the plan, checked in a small world that obeys every step.

mod causes;
mod clock;
mod edits;
mod failures;
mod gates;
mod health;
mod hold;
mod network;
mod properties;
mod rollback;
mod rollout;
mod turn;
mod upkeep;
mod volumes;
mod world;
