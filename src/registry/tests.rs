//! The keyring with files and helpers, and the client with small servers of every kind.

mod client;
mod keyring;
