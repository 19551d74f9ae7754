//! `desired-state/*.toml` as values: every problem at once, with file and line.
