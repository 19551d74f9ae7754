//! The width of the terminal.

use std::fs::File;
use std::process::{Command, Stdio};

/// Returns the number of columns, or `None` if it is unknown.
///
/// `COLUMNS` takes precedence, so that users can choose; else `stty` reports the size. Every system
/// with a terminal has `stty`.
pub(crate) fn width() -> Option<usize> {
    let chosen = std::env::var("COLUMNS").ok().and_then(|text| plausible(&text));
    chosen.or_else(ask_stty)
}

fn ask_stty() -> Option<usize> {
    let terminal = File::open("/dev/tty").ok()?;
    let answer = Command::new("stty").arg("size").stdin(terminal).stderr(Stdio::null()).output().ok()?;
    parse_size(&String::from_utf8_lossy(&answer.stdout))
}

/// Parses the rows and columns that `stty size` prints.
fn parse_size(text: &str) -> Option<usize> {
    plausible(text.split_whitespace().nth(1)?)
}

/// A terminal that does not know its size reports zero.
fn plausible(columns: &str) -> Option<usize> {
    columns.trim().parse().ok().filter(|columns| *columns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_of_zero_is_no_size() {
        assert_eq!(parse_size("24 80\n"), Some(80));
        assert_eq!(parse_size("0 0\n"), None);
        assert_eq!(parse_size(""), None);
        assert_eq!(parse_size("stty: not a terminal"), None);
    }
}
