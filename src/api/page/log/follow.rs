//! New lines of a log as they come. Every message carries its position, so that a connection that was cut continues
//! from there and repeats nothing.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::response::sse::Event as Message;
use futures::StreamExt as _;
use futures::stream::unfold;
use serde::Deserialize;
use tokio::time::Instant;

use super::window::{LineCutter, LogLine, LogSelection, is_stamp, stamped};
use super::{LogQuery, MOST_LINES, output, parse_stamp};
use crate::api::body::QueryParams;
use crate::api::error::ApiError;
use crate::api::find::FoundEnvironment;
use crate::api::page::stream::streamed;
use crate::api::{ApiState, LogStream};
use crate::model::logs::LogOptions;

/// The position of a page that shows no line: everything that there is came since.
pub(super) const START: &str = "start";
/// Lines within this time are sent together.
const GATHER: Duration = Duration::from_millis(250);
/// The most lines of one message; of a burst, the newest ones are sent.
const MOST: usize = 500;
/// The most pieces of output in one message, so that a burst is reported while it lasts.
const MOST_PIECES: usize = 20_000;

/// The lines that the page has already.
#[derive(Debug, Default, Deserialize)]
pub(in crate::api) struct FollowQuery {
    /// Only lines with this text.
    q: Option<String>,
    /// The position of the last line.
    after: Option<String>,
}

/// The position from which a browser continues: that of the last message, else that of its page.
pub(in crate::api::page) fn resumed_at(headers: &HeaderMap, after: Option<String>) -> Option<String> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    last.or(after).filter(|at| !at.is_empty())
}

/// `GET /environments/{environment}/logs/follow?q=&after=`
pub(in crate::api) async fn follow(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    headers: HeaderMap,
    QueryParams(query): QueryParams<FollowQuery>,
) -> Result<Response, ApiError> {
    let after = resumed_at(&headers, query.after);
    let is_from_start = after.as_deref() == Some(START);
    let after = after.filter(|after| is_stamp(after));
    let since = after.as_deref().and_then(parse_stamp);
    let tail = Some(if since.is_some() || is_from_start { MOST_LINES } else { 0 });
    let options = LogOptions { follow: true, tail, since, timestamps: true, ..LogOptions::default() };
    let stream = output(&api, &found, options).await?;
    Ok(Following::new(stream, LogQuery::searching(query.q).wanted(), Position::after(after)).into_response())
}

/// The lines of a build's log from a place on.
pub(in crate::api::page) fn build_lines(
    stream: LogStream,
    wanted: LogSelection,
    from: FilePlace,
) -> Response {
    Following::new(stream, wanted, Position::File(from)).into_response()
}

/// A place between two lines of a file, such as `8096-120`: the number of bytes, and of lines, before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::api::page) struct FilePlace {
    pub(in crate::api::page) bytes: u64,
    pub(in crate::api::page) lines: u64,
}

impl FilePlace {
    /// Reads a place; `None`: the text is not one.
    pub(in crate::api::page) fn parse(text: &str) -> Option<Self> {
        let (bytes, lines) = text.split_once('-')?;
        Some(Self { bytes: bytes.parse().ok()?, lines: lines.parse().ok()? })
    }
}

impl fmt::Display for FilePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.bytes, self.lines)
    }
}

/// The position of a line.
enum Position {
    /// The engine's timestamp of the newest line.
    Moment {
        newest: Option<String>,
        /// The position of the page, until a newer line comes. Later, lines of the two streams of a container may come
        /// slightly out of order, and none of them is left out.
        known: Option<String>,
    },
    /// The place in the file at the beginning of the stream, with the lines that came since.
    File(FilePlace),
}

impl Position {
    /// The position after the last line of the page.
    fn after(last: Option<String>) -> Self {
        Self::Moment { newest: last.clone(), known: last }
    }
}

struct Following {
    stream: LogStream,
    lines: LineCutter,
    wanted: LogSelection,
    at: Position,
    is_over: bool,
}

/// Lines that are sent together.
#[derive(Default)]
struct Batch {
    /// The lines with their numbers, if they have any.
    lines: VecDeque<(Option<u64>, Vec<u8>)>,
    /// The number of lines that are left out.
    skipped: usize,
    /// Whether any line came, even if it does not match.
    has_moved: bool,
}

impl Following {
    fn new(stream: LogStream, wanted: LogSelection, at: Position) -> Self {
        Self { stream, lines: LineCutter::default(), wanted, at, is_over: false }
    }

    fn into_response(self) -> Response {
        streamed(unfold(self, |mut following| async move {
            let message = following.next().await?;
            Some((message, following))
        }))
    }

    /// Returns the next message; `None` after the one about the end.
    async fn next(&mut self) -> Option<Message> {
        let mut batch = Batch::default();
        while !batch.has_moved {
            if self.is_over {
                return None;
            }
            if !self.receive(&mut batch).await {
                self.is_over = true;
                break;
            }
        }
        let until = Instant::now() + GATHER;
        for _ in 0..MOST_PIECES {
            if self.is_over {
                break;
            }
            match tokio::time::timeout_at(until, self.receive(&mut batch)).await {
                Ok(true) => {}
                Ok(false) => self.is_over = true,
                Err(_) => break,
            }
        }
        Some(self.message(&batch))
    }

    /// Receives one piece; `false` at the end.
    async fn receive(&mut self, batch: &mut Batch) -> bool {
        let Some(Ok(piece)) = self.stream.next().await else {
            if let Some(line) = self.lines.rest() {
                take(&self.wanted, &mut self.at, batch, line);
            }
            return false;
        };
        let Self { lines, wanted, at, .. } = self;
        lines.take(&piece, |line| take(wanted, at, batch, line));
        true
    }

    fn message(&self, batch: &Batch) -> Message {
        let query = self.wanted.query.as_deref();
        let mut html = match batch.skipped {
            0 => String::new(),
            skipped => format!(
                "<li class=\"gap\"><span></span><span>{skipped} lines came at once and are left out here</span></li>"
            ),
        };
        for (number, raw) in &batch.lines {
            html.push_str(&item(&LogLine::new(raw, query).numbered(*number)));
        }
        let kind = if self.is_over { "end" } else { "lines" };
        Message::default().event(kind).id(self.position()).data(html)
    }

    fn position(&self) -> String {
        match &self.at {
            Position::Moment { newest, .. } => newest.clone().unwrap_or_default(),
            Position::File(from) => FilePlace { bytes: from.bytes + self.lines.read(), ..*from }.to_string(),
        }
    }
}

/// Takes a line into a batch, unless the page has it already.
fn take(wanted: &LogSelection, at: &mut Position, batch: &mut Batch, line: Vec<u8>) {
    if let (Position::Moment { newest, known }, Some(stamp)) = (&mut *at, stamped(&line).0) {
        if known.as_deref().is_some_and(|known| stamp <= known) {
            return;
        }
        *known = None;
        if newest.as_deref().is_none_or(|newest| newest < stamp) {
            *newest = Some(stamp.to_owned());
        }
    }
    let number = match at {
        Position::File(place) => {
            place.lines += 1;
            Some(place.lines)
        }
        Position::Moment { .. } => None,
    };
    batch.has_moved = true;
    if !wanted.takes(&line) {
        return;
    }
    batch.lines.push_back((number, line));
    if batch.lines.len() > MOST {
        batch.lines.pop_front();
        batch.skipped += 1;
    }
}

/// One line as an item of the list, as in `log-lines.html`.
fn item(line: &LogLine) -> String {
    use askama::Template as _;
    #[derive(askama::Template)]
    #[template(path = "log-line.html")]
    struct Item<'a> {
        line: &'a LogLine,
    }
    Item { line }.render().unwrap_or_default().replace('\n', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Bytes, to_bytes};
    use futures::stream;

    async fn sent(wanted: LogSelection, at: Position, pieces: Vec<String>) -> String {
        let pieces = pieces.into_iter().map(|piece| Ok(Bytes::from(piece)));
        let response = Following::new(stream::iter(pieces).boxed(), wanted, at).into_response();
        String::from_utf8(to_bytes(response.into_body(), 1 << 24).await.unwrap().to_vec()).unwrap()
    }

    fn stamp(second: u64) -> String {
        format!("2026-11-29T03:00:{second:02}.000000001Z")
    }

    #[tokio::test]
    async fn lines_already_on_the_page_are_not_sent_again() {
        let seconds = [1, 2, 4, 3];
        let lines = seconds.map(|second| format!("{} line {second}\n", stamp(second))).to_vec();
        let wanted = LogQuery::default().wanted();
        let text = sent(wanted, Position::after(Some(stamp(2))), lines).await;
        assert!(!text.contains("line 1") && !text.contains("line 2"), "{text}");
        assert!(text.contains("line 4") && text.contains("line 3"), "slightly out of order: {text}");
        assert!(text.contains(&format!("id: {}", stamp(4))), "{text}");
        assert!(text.contains("event: end"), "{text}");
    }

    #[tokio::test]
    async fn a_burst_of_lines_is_cut_and_the_cut_is_reported() {
        let lines: String = (0..2_000).map(|number| format!("line <{number}>\n")).collect();
        let bytes = 100 + lines.len();
        let wanted = LogQuery::default().wanted();
        let from = FilePlace { bytes: 100, lines: 7 };
        let text = sent(wanted, Position::File(from), vec![lines]).await;
        assert!(text.contains("1500 lines came at once"), "{text}");
        assert!(text.contains("line &lt;1999&gt;") && !text.contains("line &lt;1499&gt;"));
        assert!(text.contains("<li id=\"L2007\"><a href=\"#L2007\" tabindex=\"-1\">2007</a>"), "the number");
        let place = text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
        assert_eq!(
            (place, FilePlace::parse(place)),
            (format!("{bytes}-2007").as_str(), Some(FilePlace { bytes: bytes as u64, lines: 2_007 }))
        );
        assert_eq!(FilePlace::parse("45"), None);
    }
}
