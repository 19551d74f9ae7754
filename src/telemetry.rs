//! The tracing subscriber; nothing else.
