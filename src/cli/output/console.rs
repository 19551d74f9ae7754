//! The streams of the process: data on standard output, messages on standard error.

use std::io::{self, BufRead, IsTerminal as _, Write};

use serde::Serialize;

use super::terminal;
use super::text::one_line;
use crate::model::redact::is_deceptive;

/// Output format of data
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables for people
    #[default]
    Table,
    /// JSON for scripts; the format is stable
    Json,
}

/// The properties of the terminal, if there is one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Screen {
    /// Whether standard output is a terminal.
    pub(crate) output_is_terminal: bool,
    /// Whether a user can answer a question.
    pub(crate) input_is_terminal: bool,
    /// The number of columns, if standard output is a terminal of known size.
    pub(crate) width: Option<usize>,
}

impl Screen {
    /// Inspects the streams of the process.
    pub(crate) fn of_process() -> Self {
        let output_is_terminal = io::stdout().is_terminal();
        Self {
            output_is_terminal,
            input_is_terminal: io::stdin().is_terminal(),
            width: output_is_terminal.then(terminal::width).flatten(),
        }
    }
}

/// All input and output of a command, so that a test can replace the terminal.
pub(crate) struct Console {
    /// Accepts styled text, and drops the styles if they are disabled.
    data: Box<dyn Write + Send>,
    /// Standard output without a filter, for bytes that must not change.
    raw: Box<dyn Write + Send>,
    talk: Box<dyn Write + Send>,
    answers: Box<dyn BufRead + Send>,
    format: Format,
    screen: Screen,
}

impl Console {
    /// The console of this process.
    pub(crate) fn of_process(format: Format) -> Self {
        Self {
            data: Box::new(anstream::stdout()),
            raw: Box::new(io::stdout()),
            talk: Box::new(anstream::stderr()),
            answers: Box::new(io::BufReader::new(io::stdin())),
            format,
            screen: Screen::of_process(),
        }
    }

    /// Whether the user chose `-o json`.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// The properties of the terminal.
    pub(crate) fn screen(&self) -> Screen {
        self.screen
    }

    /// Prints one or more lines of data; styles are dropped if they are disabled.
    pub(crate) fn data(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.data, "{}", text.trim_end_matches('\n'))?;
        self.data.flush()
    }

    /// Prints `value` as an indented JSON document.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.raw(inert(&text).as_bytes())
    }

    /// Prints `value` as JSON on one line, for streams.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        self.raw(inert(&text).as_bytes())
    }

    /// Prints bytes unchanged.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.write_all(bytes)?;
        self.raw.flush()
    }

    /// Clears the terminal, so that the next output replaces the previous one.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.raw(b"\x1b[H\x1b[2J")
    }

    /// Prints a message on standard error. A failed write is ignored.
    pub(crate) fn talk(&mut self, text: &str) {
        let _ = writeln!(self.talk, "{}", one_line(text));
    }

    /// Prints several lines on standard error; they must already be safe to print.
    pub(crate) fn talk_block(&mut self, text: &str) {
        let _ = writeln!(self.talk, "{}", text.trim_end_matches('\n'));
    }

    /// Asks for confirmation on a terminal. Returns `true` without one, so that scripts continue.
    pub(crate) fn agreed_on_a_terminal(&mut self, question: &str) -> io::Result<bool> {
        if self.screen().input_is_terminal { self.confirm(question) } else { Ok(true) }
    }

    /// Asks for confirmation; anything but yes means no.
    pub(crate) fn confirm(&mut self, question: &str) -> io::Result<bool> {
        write!(self.talk, "{} [y/N] ", one_line(question))?;
        self.talk.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }
}

/// The same JSON with a final line break. It also escapes the characters that JSON allows in a
/// string but that a terminal would interpret.
fn inert(json: &str) -> String {
    let mut text = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if is_deceptive(c) && c != '\n' {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_json_are_escaped_without_loss() {
        let text = "a\u{9b}31m\u{7f}\u{202e}b\u{1b}\n字";
        let (mut console, data, _) = testing::console(Format::Json, None);
        console.json(&[text]).unwrap();
        let printed = String::from_utf8(data.bytes()).unwrap();
        assert!(printed.chars().all(|c| c == '\n' || !is_deceptive(c)), "{printed:?}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&printed).unwrap(), [text]);
    }

    #[test]
    fn only_yes_is_yes() {
        for (answer, expected) in
            [("y\n", true), ("YES\n", true), ("no\n", false), ("", false), ("sure\n", false)]
        {
            let (mut console, _, talk) = testing::console(Format::Table, Some(answer));
            assert_eq!(console.confirm("Move it?").unwrap(), expected, "{answer:?}");
            assert_eq!(talk.text(), "Move it? [y/N] ");
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A console that records its output.

    use std::sync::{Arc, Mutex};

    use super::*;

    /// Recorded text, shared with the console that writes it.
    #[derive(Clone, Default)]
    pub(crate) struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        pub(crate) fn bytes(&self) -> Vec<u8> {
            self.0.lock().unwrap().clone()
        }

        /// The recorded text, without styles.
        pub(crate) fn text(&self) -> String {
            let text = String::from_utf8(self.bytes()).unwrap();
            anstream::adapter::strip_str(&text).to_string()
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A pipe whose reader has closed it.
    pub(crate) struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A console with its data, its messages, and a user who answers `answers`.
    pub(crate) fn console(format: Format, answers: Option<&'static str>) -> (Console, Paper, Paper) {
        let (data, talk) = (Paper::default(), Paper::default());
        let screen = Screen { input_is_terminal: answers.is_some(), ..Screen::default() };
        let console = Console {
            data: Box::new(data.clone()),
            raw: Box::new(data.clone()),
            talk: Box::new(talk.clone()),
            answers: Box::new(answers.unwrap_or_default().as_bytes()),
            format,
            screen,
        };
        (console, data, talk)
    }

    /// A console whose standard output is a closed pipe.
    pub(crate) fn closed(format: Format) -> Console {
        let (console, _, _) = console(format, None);
        Console { data: Box::new(Closed), raw: Box::new(Closed), ..console }
    }
}
