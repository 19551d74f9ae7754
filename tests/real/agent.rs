//! prod on another host: an engine of its own in a network namespace, an agent that dials out, and a
//! registry that is reached through its link alone.

mod end_to_end;
