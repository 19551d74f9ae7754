//! Server-sent events, as the HTML standard defines their stream.

use std::collections::VecDeque;

/// The longest line or event accepted, in bytes: far above any view, far below the memory of a
/// host.
const LONGEST: usize = 4 * 1024 * 1024;

/// One event of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerEvent {
    /// The name; `message` if the server sent none.
    pub(crate) name: String,
    /// The data lines, joined by line breaks.
    pub(crate) data: String,
}

/// A line or an event was longer than any that a daemon sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {LONGEST} bytes")]
pub(crate) struct TooLong;

/// Parses a stream that arrives in chunks of any size.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    /// A CR ended the last line, so a following LF belongs to it.
    after_cr: bool,
    begun: bool,
    name: String,
    data: Option<String>,
    ready: VecDeque<ServerEvent>,
}

impl Parser {
    /// Adds the next chunk.
    ///
    /// # Errors
    /// [`TooLong`]; the parser is unusable afterwards.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), TooLong> {
        for &byte in piece {
            let ends = match byte {
                b'\n' => !std::mem::take(&mut self.after_cr),
                b'\r' => {
                    self.after_cr = true;
                    true
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(byte);
                    false
                }
            };
            if ends {
                self.end_line();
            }
        }
        let kept = self.line.len() + self.data.as_ref().map_or(0, String::len);
        if kept > LONGEST { Err(TooLong) } else { Ok(()) }
    }

    /// Returns the next complete event.
    pub(crate) fn next(&mut self) -> Option<ServerEvent> {
        self.ready.pop_front()
    }

    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let text = if self.begun { &text } else { text.trim_start_matches('\u{feff}') };
        self.begun = true;
        if text.is_empty() {
            return self.dispatch();
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.append(value),
            // A comment, an `id` or a `retry`: the watch reads the whole state, so it needs none of
            // them.
            _ => {}
        }
    }

    fn append(&mut self, value: &str) {
        match &mut self.data {
            Some(data) => {
                data.push('\n');
                data.push_str(value);
            }
            None => self.data = Some(value.to_owned()),
        }
    }

    fn dispatch(&mut self) {
        let name = std::mem::take(&mut self.name);
        if let Some(data) = self.data.take() {
            let name = if name.is_empty() { "message".to_owned() } else { name };
            self.ready.push_back(ServerEvent { name, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece).unwrap();
            while let Some(event) = parser.next() {
                events.push((event.name, event.data));
            }
        }
        events
    }

    fn pair(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn an_event_has_a_name_and_all_its_lines() {
        let events = parse(&[b"event: environment\ndata: {\ndata: }\n\ndata:x\n\n"]);
        assert_eq!(events, [pair("environment", "{\n}"), pair("message", "x")]);
    }

    #[test]
    fn comments_and_events_without_data_are_skipped() {
        let events = parse(&[b"\xef\xbb\xbf: keep-alive\n\nevent: event\n\nid: 1\nretry: 5\ndata\n\n"]);
        assert_eq!(events, [pair("message", "")]);
    }

    #[test]
    fn an_unfinished_event_is_dropped() {
        assert_eq!(parse(&[b"data: half\n"]), []);
    }

    #[test]
    fn an_endless_event_stream_line_is_rejected() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(&vec![b'x'; LONGEST + 1]), Err(TooLong));
        let mut parser = Parser::default();
        let line = [b"data: ".as_slice(), &[b'x'; 1024 * 1024], b"\n"].concat();
        let results: Vec<_> = (0..5).map(|_| parser.push(&line)).collect();
        assert_eq!(results.last(), Some(&Err(TooLong)));
    }

    proptest! {
        #[test]
        fn an_event_stream_may_be_split_anywhere(
            cuts in proptest::collection::vec(0_usize..64, 0..8),
            ending in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
        ) {
            let text = ["event: event", "data: {\"a\":\"é\"}", "data: 2", "", "data: 字", "", ""].join(ending);
            let bytes = text.as_bytes();
            let at_once = parse(&[bytes]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let starts = std::iter::once(0).chain(cuts.iter().copied());
            let ends = cuts.iter().copied().chain([bytes.len()]);
            let pieces: Vec<&[u8]> = starts.zip(ends).map(|(from, to)| &bytes[from..to]).collect();
            prop_assert_eq!(&parse(&pieces), &at_once);
            prop_assert_eq!(at_once, vec![pair("event", "{\"a\":\"é\"}\n2"), pair("message", "字")]);
        }
    }
}
