//! The door: webhooks and the HTTP API. Holds the handles that move the record, and nothing of Docker.

pub mod serve;
pub mod webhook;
