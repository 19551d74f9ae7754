//! Prints the result of a command that updated the record.

use std::io;

use serde_json::json;

use super::output::console::Console;
use super::output::text::one_line;
use crate::model::view::{RecordChange, SeenGenerations};

/// The generations that the user saw before the command.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct SeenGeneration {
    /// Refuse unless the environment is still at this generation; for a group: MEMBER=GENERATION,...
    #[arg(long, value_name = "GENERATION")]
    pub(crate) seen: Option<SeenGenerations>,
}

impl SeenGeneration {
    /// Adds the generations to a request, if they were given. An earlier daemon does not know the key.
    pub(crate) fn with(&self, mut request: serde_json::Value) -> serde_json::Value {
        if let (Some(seen), Some(fields)) = (&self.seen, request.as_object_mut()) {
            fields.insert("seen".to_owned(), json!(seen));
        }
        request
    }
}

/// Prints the daemon's answer.
pub(crate) fn report(console: &mut Console, moved: &RecordChange) -> io::Result<()> {
    if console.is_json() {
        return console.json(moved);
    }
    // A group answers for each member.
    let all = if moved.members.is_empty() { std::slice::from_ref(moved) } else { &moved.members };
    all.iter().try_for_each(|moved| console.data(&sentence(moved)))
}

/// Prints the daemon's answers for several environments.
pub(crate) fn report_all(console: &mut Console, moved: &[RecordChange]) -> io::Result<()> {
    if console.is_json() {
        return console.json(&moved);
    }
    moved.iter().try_for_each(|moved| console.data(&sentence(moved)))
}

fn sentence(moved: &RecordChange) -> String {
    format!("{} generation {}: {}", moved.environment, moved.generation, one_line(&moved.message))
}
