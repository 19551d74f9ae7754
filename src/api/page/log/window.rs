//! The part of an output that is shown: its last lines, within bounds of memory and time.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use askama::filters::Safe;
use futures::StreamExt as _;
use tokio::time::Instant;

use super::ansi::PlainLine;
use crate::api::LogStream;

/// The most bytes of one line; of a longer one, its beginning and its length are shown.
const LONGEST: usize = 8 * 1024;
/// The most bytes of all lines that are kept.
const MOST_BYTES: usize = 4 << 20;

/// Cuts pieces of output into lines.
#[derive(Default)]
pub(in crate::api::page) struct LineCutter {
    line: Vec<u8>,
    /// The number of bytes of the ended lines, with the dropped parts.
    read: u64,
    unended: u64,
}

impl LineCutter {
    /// Takes a piece and calls `with` for every line that ends in it.
    pub(in crate::api::page) fn take(&mut self, piece: &[u8], mut with: impl FnMut(Vec<u8>)) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            self.unended += u64::try_from(part.len()).unwrap_or_default();
            if part.ends_with(b"\n") {
                with(self.ended());
            }
        }
    }

    /// The last line, if it has no line break yet.
    pub(in crate::api::page) fn rest(&mut self) -> Option<Vec<u8>> {
        Some(self.ended()).filter(|line| !line.is_empty())
    }

    fn ended(&mut self) -> Vec<u8> {
        let length = std::mem::take(&mut self.unended);
        self.read += length;
        let mut line = std::mem::take(&mut self.line);
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if length > LONGEST as u64 + 1 {
            line.extend_from_slice(format!("… ({length} bytes)").as_bytes());
        }
        line
    }

    /// The number of bytes of all ended lines.
    pub(in crate::api::page) fn read(&self) -> u64 {
        self.read
    }
}

/// A line of output with the moment at which the engine got it, or with its number.
pub(in crate::api::page) struct LogLine {
    /// The moment, as the engine writes it, with nine digits of a second: they are in the order of time.
    pub(in crate::api::page) at: Option<String>,
    /// The number of the line in a log that is read from its beginning.
    pub(in crate::api::page) number: Option<u64>,
    pub(in crate::api::page) html: Safe<String>,
}

impl LogLine {
    pub(in crate::api::page) fn new(raw: &[u8], query: Option<&str>) -> Self {
        let (at, text) = stamped(raw);
        Self { at: at.map(str::to_owned), number: None, html: PlainLine::new(text).html(query) }
    }

    /// The same line with its number, which such a log has in place of moments.
    pub(in crate::api::page) fn numbered(self, number: Option<u64>) -> Self {
        Self { number, ..self }
    }

    /// The last part of links to this line. A number would not last in the log of a container, because the engine
    /// drops its oldest lines.
    pub(in crate::api::page) fn anchor(&self) -> Option<String> {
        self.at.as_ref().map(|at| format!("L{at}")).or_else(|| Some(format!("L{}", self.number?)))
    }

    /// `03:00:11.241`
    pub(in crate::api::page) fn time(&self) -> &str {
        self.at.as_deref().and_then(|at| at.get(11..23)).unwrap_or_default()
    }

    /// `2026-11-29 03:00:11.241`
    pub(in crate::api::page) fn moment(&self) -> String {
        self.at.as_deref().and_then(|at| at.get(..23)).unwrap_or_default().replace('T', " ")
    }
}

/// Splits a line into the engine's timestamp and the text. An agent of an earlier version sends no timestamps.
pub(in crate::api::page) fn stamped(raw: &[u8]) -> (Option<&str>, &[u8]) {
    let stamp =
        raw.get(..30).and_then(|stamp| std::str::from_utf8(stamp).ok()).filter(|stamp| is_stamp(stamp));
    match stamp {
        Some(stamp) if raw.len() == 30 => (Some(stamp), b""),
        Some(stamp) if raw[30] == b' ' => (Some(stamp), &raw[31..]),
        _ => (None, raw),
    }
}

/// Whether this is a moment as the engine writes it: `2026-11-29T03:00:11.241234567Z`.
pub(in crate::api::page) fn is_stamp(text: &str) -> bool {
    let is_in_place = |(at, c): (usize, char)| match at {
        4 | 7 => c == '-',
        10 => c == 'T',
        13 | 16 => c == ':',
        19 => c == '.',
        29 => c == 'Z',
        _ => c.is_ascii_digit(),
    };
    text.len() == 30 && text.char_indices().all(is_in_place)
}

/// What to keep of an output.
pub(in crate::api::page) struct LogSelection {
    /// The most lines.
    pub(in crate::api::page) lines: usize,
    /// Only lines with this text, in lower case.
    pub(in crate::api::page) query: Option<String>,
    /// Only lines before this moment.
    pub(in crate::api::page) before: Option<String>,
    /// Only lines up to this number.
    pub(in crate::api::page) to: Option<u64>,
    /// The time after which the rest is left out.
    pub(in crate::api::page) patience: Duration,
    /// Whether a last line without a line break is left out, because the stream of new lines brings it.
    pub(in crate::api::page) only_complete: bool,
    /// Whether the output is read from its beginning, so that its lines have numbers.
    pub(in crate::api::page) is_numbered: bool,
}

/// The part that was kept.
#[derive(Default)]
pub(in crate::api::page) struct LogWindow {
    pub(in crate::api::page) lines: Vec<LogLine>,
    /// The number of lines that were read.
    pub(in crate::api::page) scanned: usize,
    /// Whether older lines were left out.
    pub(in crate::api::page) has_more: bool,
    /// Whether the time was up before the end.
    pub(in crate::api::page) is_cut: bool,
    /// The number of ended lines that were read, and that of their bytes.
    pub(in crate::api::page) ended: u64,
    pub(in crate::api::page) read: u64,
}

impl LogSelection {
    /// Reads an output to its end and keeps the last lines.
    pub(in crate::api::page) async fn read(&self, mut output: LogStream) -> io::Result<LogWindow> {
        let (mut lines, mut kept, mut shown) = (LineCutter::default(), Kept::default(), LogWindow::default());
        let until = Instant::now() + self.patience;
        loop {
            let piece = match tokio::time::timeout_at(until, output.next()).await {
                Ok(Some(piece)) => piece?,
                Ok(None) => break,
                Err(_) => {
                    shown.is_cut = true;
                    break;
                }
            };
            lines.take(&piece, |line| kept.consider(self, line, &mut shown));
        }
        let (read, ended) = (lines.read(), kept.considered);
        if let Some(line) = lines.rest().filter(|_| !self.only_complete) {
            kept.consider(self, line, &mut shown);
        }
        shown.has_more = kept.dropped;
        (shown.read, shown.ended) = (read, ended);
        let line = |(number, line): &(u64, Vec<u8>)| {
            LogLine::new(line, self.query.as_deref()).numbered(self.is_numbered.then_some(*number))
        };
        shown.lines = kept.lines.iter().map(line).collect();
        Ok(shown)
    }

    pub(in crate::api::page) fn takes(&self, line: &[u8]) -> bool {
        let (at, text) = stamped(line);
        let is_early = match (&self.before, at) {
            (Some(before), Some(at)) => at < before.as_str(),
            _ => true,
        };
        is_early && self.query.as_ref().is_none_or(|query| PlainLine::new(text).has(query))
    }
}

#[derive(Default)]
struct Kept {
    /// The lines with their numbers.
    lines: VecDeque<(u64, Vec<u8>)>,
    considered: u64,
    bytes: usize,
    dropped: bool,
}

impl Kept {
    fn consider(&mut self, wanted: &LogSelection, line: Vec<u8>, shown: &mut LogWindow) {
        shown.scanned += 1;
        self.considered += 1;
        if wanted.to.is_some_and(|to| self.considered > to) || !wanted.takes(&line) {
            return;
        }
        self.bytes += line.len();
        self.lines.push_back((self.considered, line));
        while self.lines.len() > wanted.lines || self.bytes > MOST_BYTES {
            let Some((_, oldest)) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len();
            self.dropped = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Bytes;
    use futures::stream;

    fn wanted(lines: usize) -> LogSelection {
        let patience = Duration::from_secs(20);
        let (query, before, to) = (None, None, None);
        LogSelection { lines, query, before, to, patience, only_complete: false, is_numbered: false }
    }

    async fn read(wanted: &LogSelection, pieces: &[&str]) -> LogWindow {
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece.as_bytes()))).collect();
        wanted.read(stream::iter(pieces).boxed()).await.unwrap()
    }

    fn texts(window: &LogWindow) -> Vec<&str> {
        window.lines.iter().map(|line| line.html.0.as_str()).collect()
    }

    const STAMP: &str = "2026-11-29T03:00:11.241234567Z";

    #[tokio::test]
    async fn lines_are_reassembled_and_the_last_ones_kept() {
        let window = read(&wanted(2), &["on", "e\ntwo\nth", "ree\nfo", "ur"]).await;
        assert_eq!(texts(&window), ["three", "four"]);
        assert_eq!((window.scanned, window.has_more, window.read), (4, true, 14));
        let window = read(&wanted(9), &["a\n\nb\n"]).await;
        assert_eq!((texts(&window), window.has_more), (vec!["a", "", "b"], false));
    }

    #[tokio::test]
    async fn a_timestamp_is_shown_beside_the_line_and_orders_it() {
        let text = format!("{STAMP} hello\n{STAMP}\n2026-11-29T03:00:12.000000000Z later\nno stamp\n");
        let window = read(
            &LogSelection { before: Some("2026-11-29T03:00:12.000000000Z".into()), ..wanted(9) },
            &[&text],
        )
        .await;
        assert_eq!(texts(&window), ["hello", "", "no stamp"]);
        assert_eq!(window.lines[0].time(), "03:00:11.241");
        assert_eq!(window.lines[0].moment(), "2026-11-29 03:00:11.241");
        assert_eq!((window.lines[2].at.as_deref(), window.lines[2].time()), (None, ""));
        let anchors: Vec<_> = window.lines.iter().map(LogLine::anchor).collect();
        assert_eq!(anchors, [Some(format!("L{STAMP}")), Some(format!("L{STAMP}")), None]);
        for wrong in ["2026-11-29T03:00:11.241Z", "2026-11-29T03:00:11.24123456修", &"x".repeat(30)] {
            assert!(!is_stamp(wrong), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_search_keeps_the_lines_that_match() {
        let wanted = LogSelection { query: Some("warn".into()), ..wanted(9) };
        let window = read(&wanted, &["\u{1b}[33mWARN\u{1b}[0m slow\nok\nwarning\n"]).await;
        assert_eq!(
            texts(&window),
            ["<span class=\"f3\"><mark>WARN</mark></span> slow", "<mark>warn</mark>ing"]
        );
        assert_eq!(window.scanned, 3);
        let wanted = LogSelection { is_numbered: true, ..wanted };
        let window = read(&wanted, &["ok\nwarn\nok\nwarn"]).await;
        let anchors: Vec<_> = window.lines.iter().filter_map(LogLine::anchor).collect();
        assert_eq!((anchors, window.ended), (vec!["L2".to_owned(), "L4".to_owned()], 3));
    }

    #[tokio::test]
    async fn lines_up_to_a_number_are_kept_and_all_are_counted() {
        let wanted = LogSelection { to: Some(3), is_numbered: true, ..wanted(2) };
        let window = read(&wanted, &["a\nb\nc\nd\n"]).await;
        assert_eq!((texts(&window), window.has_more), (vec!["b", "c"], true));
        assert_eq!((window.ended, window.read), (4, 8), "the stream of new lines goes on at the end");
    }

    #[tokio::test]
    async fn endless_lines_and_outputs_stay_within_their_bounds() {
        let long = "x".repeat(1 << 20);
        let window = read(&wanted(10_000), &[&long, &long, "\nend\n"]).await;
        assert_eq!(window.lines.len(), 2);
        let html = &window.lines[0].html.0;
        assert!(html.len() < LONGEST + 100 && html.ends_with("x… (2097153 bytes)"), "{}", html.len());
        assert_eq!(window.read, (2 << 20) + 5);
        let many = "y".repeat(8_000) + "\n";
        let pieces = vec![many.as_str(); 2_000];
        let window = read(&wanted(10_000), &pieces).await;
        assert!(window.lines.len() * 8_000 <= MOST_BYTES && window.has_more);
        let silent = LogSelection { patience: Duration::from_millis(1), ..wanted(9) };
        let window = silent.read(stream::pending().boxed()).await.unwrap();
        assert!(window.is_cut && window.lines.is_empty());
    }
}
