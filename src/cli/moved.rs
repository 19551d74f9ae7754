//! Prints the result of a command that updated the record.

use std::io;

use super::output::console::Console;
use super::output::text::one_line;
use crate::model::view::Moved;

/// Prints the daemon's answer.
pub(crate) fn report(console: &mut Console, moved: &Moved) -> io::Result<()> {
    if console.is_json() { console.json(moved) } else { console.data(&sentence(moved)) }
}

/// Prints the daemon's answers for several environments.
pub(crate) fn report_all(console: &mut Console, moved: &[Moved]) -> io::Result<()> {
    if console.is_json() {
        return console.json(&moved);
    }
    moved.iter().try_for_each(|moved| console.data(&sentence(moved)))
}

fn sentence(moved: &Moved) -> String {
    format!("{} generation {}: {}", moved.environment, moved.generation, one_line(&moved.message))
}
