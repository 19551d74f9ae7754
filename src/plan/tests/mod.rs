//! Laws of the plan, checked in a small world that obeys every step.

mod canary;
mod causes;
mod clock;
mod cluster;
mod complete;
mod edits;
mod failures;
mod gates;
mod health;
mod hold;
mod hooks;
mod jobs;
mod needs;
mod network;
mod ports;
mod properties;
mod rollback;
mod rollout;
mod trial;
mod turn;
mod upkeep;
mod volumes;
mod workload;
mod world;
