//! The keyring against files and helpers, the client against small servers of every kind.

mod client;
mod keyring;
