//! prod on another host: its own engine in a network namespace, an agent that connects out, and a
//! registry that is reachable only through its link.

mod away;
mod canary;
mod end_to_end;
mod front;
mod left;
mod moves;
mod people;
mod promote;
mod tokens;
