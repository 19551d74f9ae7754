//! The width of the terminal.

use std::fs::File;

/// Returns the number of columns, or `None` if it is unknown.
///
/// `COLUMNS` takes precedence, so that users can choose; else the terminal itself reports the size, also
/// if standard output is redirected.
pub(crate) fn width() -> Option<usize> {
    let chosen = std::env::var("COLUMNS").ok().and_then(|text| text.trim().parse().ok());
    chosen.filter(|columns| *columns > 0).or_else(ask_terminal)
}

fn ask_terminal() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(File::open("/dev/tty").ok()?).ok()?;
    // A terminal that does not know its size reports zero.
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}
