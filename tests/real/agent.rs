//! prod on another host: an engine of its own in a network namespace, an agent that dials out, and a
//! registry that is reached through its link alone.

mod away;
mod end_to_end;
mod people;
mod promote;
mod tokens;
