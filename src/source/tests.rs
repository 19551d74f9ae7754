//! Against the real git.
