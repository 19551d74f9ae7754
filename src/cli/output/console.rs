//! The streams of the process: data to standard output, talk to standard error.

use std::io::{self, BufRead, IsTerminal as _, Write};

use serde::Serialize;

use super::terminal;
use super::text::{is_obeyed, one_line};

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For scripts; the shapes are stable.
    Json,
}

/// What is known of the terminal, if there is one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Screen {
    /// Whether standard output is a terminal.
    pub(crate) output_is_terminal: bool,
    /// Whether a person can answer a question.
    pub(crate) input_is_terminal: bool,
    /// Columns, where standard output is a terminal whose size is known.
    pub(crate) width: Option<usize>,
}

impl Screen {
    /// Looks at the process's own streams.
    pub(crate) fn of_process() -> Self {
        let output_is_terminal = io::stdout().is_terminal();
        Self {
            output_is_terminal,
            input_is_terminal: io::stdin().is_terminal(),
            width: output_is_terminal.then(terminal::width).flatten(),
        }
    }
}

/// All that a verb reads and writes, so that a test can stand in for the terminal.
pub(crate) struct Console {
    /// Takes styled text, and drops the styles where they are not wanted.
    data: Box<dyn Write + Send>,
    /// Standard output as it is, for bytes that are not ours to change.
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

    /// Whether `-o json` was asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// What is known of the terminal.
    pub(crate) fn screen(&self) -> Screen {
        self.screen
    }

    /// One line of data, or several; styles are dropped where they are not wanted.
    pub(crate) fn data(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.data, "{}", text.trim_end_matches('\n'))?;
        self.data.flush()
    }

    /// `value` as an indented JSON document.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.raw(inert(&text).as_bytes())
    }

    /// `value` as JSON on one line, for streams of many.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        self.raw(inert(&text).as_bytes())
    }

    /// Bytes exactly as they came.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.write_all(bytes)?;
        self.raw.flush()
    }

    /// Empties the terminal, so that what follows stands in place of what was there.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.raw(b"\x1b[H\x1b[2J")
    }

    /// A sentence beside the data. One that cannot be said is no reason to fail.
    pub(crate) fn talk(&mut self, text: &str) {
        let _ = writeln!(self.talk, "{}", one_line(text));
    }

    /// Several lines beside the data, already safe to print.
    pub(crate) fn talk_block(&mut self, text: &str) {
        let _ = writeln!(self.talk, "{}", text.trim_end_matches('\n'));
    }

    /// Asks a question where there is someone to ask; a script that runs without a terminal goes on.
    pub(crate) fn agreed_on_a_terminal(&mut self, question: &str) -> io::Result<bool> {
        if self.screen().input_is_terminal { self.confirm(question) } else { Ok(true) }
    }

    /// Asks a question; anything but yes is no.
    pub(crate) fn confirm(&mut self, question: &str) -> io::Result<bool> {
        write!(self.talk, "{} [y/N] ", one_line(question))?;
        self.talk.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }
}

/// The same JSON, ended by a line break, with nothing in it that a terminal would obey: what JSON
/// lets stand in a string is escaped too.
fn inert(json: &str) -> String {
    let mut text = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if is_obeyed(c) && c != '\n' {
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
    fn json_never_carries_a_control_character_and_never_loses_one() {
        let text = "a\u{9b}31m\u{7f}\u{202e}b\u{1b}\n字";
        let (mut console, data, _) = testing::console(Format::Json, None);
        console.json(&[text]).unwrap();
        let printed = String::from_utf8(data.bytes()).unwrap();
        assert!(printed.chars().all(|c| c == '\n' || !is_obeyed(c)), "{printed:?}");
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
    //! A console that remembers what was printed.

    use std::sync::{Arc, Mutex};

    use super::*;

    /// Text that was written, shared with the console that writes it.
    #[derive(Clone, Default)]
    pub(crate) struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        pub(crate) fn bytes(&self) -> Vec<u8> {
            self.0.lock().unwrap().clone()
        }

        /// What was written, without its styles.
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

    /// A pipe whose reader has gone.
    pub(crate) struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A console with its data, its talk, and a person who answers `answers`.
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
