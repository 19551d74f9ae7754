//! The log of an environment or of a build: its last lines as a page, every new line as a stream, and all of it as a
//! download.

mod ansi;
mod follow;
mod sgr;
pub(super) mod steps;
mod window;

use std::io;
use std::time::Duration;

use askama::Template;
use askama::filters::Safe;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

pub(in crate::api) use follow::follow;
pub(super) use follow::{FilePlace, build_lines, resumed_at};
pub(super) use window::{LogLine, LogSelection, LogWindow};

use super::answer;
use super::frame::Frame;
use super::guard::Visit;
use super::status::Badge;
use crate::api::body::QueryParams;
use crate::api::error::ApiError;
use crate::api::find::FoundEnvironment;
use crate::api::{ApiState, LogStream};
use crate::model::link::Question;
use crate::model::logs::LogOptions;
use crate::model::time::Timestamp;

/// The lines that a page shows unless it is asked for another number.
const LINES: usize = 2_000;
/// The most lines of one page.
pub(super) const MOST_LINES: usize = 10_000;
/// The lines of one block; the script makes blocks of the same size.
const BLOCK: usize = 500;
/// The newest lines that a search looks through.
const SEARCHED: usize = 200_000;
/// How long the engine or an agent may take for one page.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most characters of a search.
const LONGEST_QUERY: usize = 200;

/// The part that is asked for.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::api) struct LogQuery {
    /// The number of lines.
    tail: Option<usize>,
    /// Only lines with this text.
    q: Option<String>,
    /// Any value: long lines are wrapped.
    wrap: Option<String>,
    /// Only lines before this moment, as the engine writes it.
    before: Option<String>,
    /// In a log with numbers, only lines up to this one.
    to: Option<u64>,
    /// Any value: the end of the previous container's output.
    previous: Option<String>,
}

impl LogQuery {
    pub(super) fn search(&self) -> Option<String> {
        let query = self.q.as_deref().map(str::trim).filter(|query| !query.is_empty())?;
        Some(query.chars().take(LONGEST_QUERY).collect::<String>().to_ascii_lowercase())
    }

    fn before(&self) -> Option<String> {
        self.before.clone().filter(|before| window::is_stamp(before))
    }

    /// What to keep of the output.
    pub(super) fn wanted(&self) -> LogSelection {
        LogSelection {
            lines: self.tail.unwrap_or(LINES).clamp(1, MOST_LINES),
            query: self.search(),
            before: self.before(),
            to: None,
            patience: PATIENCE,
            only_complete: false,
            is_numbered: false,
        }
    }

    /// The query of a link to the same page with one difference.
    pub(super) fn with(&self, change: impl FnOnce(&mut Self)) -> String {
        let mut other = self.clone();
        change(&mut other);
        let tail = other.tail.map(|tail| tail.to_string());
        let fields = [
            ("q", other.q.filter(|q| !q.is_empty())),
            ("tail", tail),
            ("wrap", other.wrap),
            ("before", other.before),
            ("to", other.to.map(|to| to.to_string())),
            ("previous", other.previous),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in fields {
            if let Some(value) = value {
                query.append_pair(name, &value);
            }
        }
        query.finish()
    }

    pub(super) fn is_wrapped(&self) -> bool {
        self.wrap.is_some()
    }

    /// A search alone.
    pub(super) fn searching(q: Option<String>) -> Self {
        Self { q, ..Self::default() }
    }

    /// The last line to show of a log with numbers.
    pub(super) fn last_line(&self) -> Option<u64> {
        self.to
    }

    /// The query of a link to the newest lines, if others are shown.
    pub(super) fn newest(&self) -> Option<String> {
        let is_older = self.to.is_some() || self.before().is_some();
        is_older.then(|| self.with(|query| (query.before, query.to) = (None, None)))
    }

    /// Drops everything but the search.
    pub(super) fn keep_search(&mut self) {
        *self = Self::searching(self.q.take());
    }

    /// The text in the search field.
    pub(super) fn text(&self) -> String {
        self.q.clone().unwrap_or_default()
    }

    /// The query of a link that wraps long lines, or no longer does.
    pub(super) fn toggled_wrap(&self) -> String {
        self.with(|query| query.wrap = if query.is_wrapped() { None } else { Some("1".to_owned()) })
    }
}

/// The output of an environment's container, wherever it runs.
async fn output(
    api: &ApiState,
    found: &FoundEnvironment,
    options: LogOptions,
) -> Result<LogStream, ApiError> {
    match (found.host(), &api.controller) {
        (Some(host), _) => Ok(api.hub.ask(host, found.name.clone(), Question::Logs(options)).await?),
        (None, Some(controller)) => Ok(controller.logs(found.name.clone(), options).await?),
        (None, None) => Err(ApiError::no_daemon()),
    }
}

/// The box with the lines, and the sentence above it.
#[derive(Template)]
#[template(path = "log-lines.html")]
pub(super) struct LogView {
    /// Whose log it is.
    label: String,
    lines: Vec<LogLine>,
    summary: String,
    is_wrapped: bool,
    /// The stream of new lines; `None`: there will be none.
    follow: Option<String>,
    /// The position up to which the lines are known.
    at: String,
    most: usize,
    earlier: Option<String>,
}

impl LogView {
    pub(super) fn new(
        label: String,
        query: &LogQuery,
        wanted: &LogSelection,
        window: LogWindow,
        at: String,
        follow: Option<String>,
    ) -> Self {
        let summary = summary(wanted, &window);
        let oldest = window.lines.first();
        let oldest =
            oldest.filter(|_| window.has_more || window.scanned >= wanted.lines && wanted.query.is_none());
        let earlier = oldest.and_then(|oldest| match (&oldest.at, oldest.number) {
            (Some(at), _) => Some(query.with(|query| query.before = Some(at.clone()))),
            (None, Some(number)) if number > 1 => Some(query.with(|query| query.to = Some(number - 1))),
            (None, _) => None,
        });
        let (lines, is_wrapped) = (window.lines, query.is_wrapped());
        Self { label, lines, summary, is_wrapped, follow, at, most: MOST_LINES, earlier }
    }
}

impl LogView {
    /// No lines, because of `why`. A followed log shows those that come.
    fn nothing(label: String, query: &LogQuery, why: &str, follow: Option<String>) -> Self {
        Self {
            label,
            lines: Vec::new(),
            summary: format!("There is no output to show: {}.", why.trim_end_matches('.')),
            is_wrapped: query.is_wrapped(),
            follow,
            at: follow::START.to_owned(),
            most: MOST_LINES,
            earlier: None,
        }
    }

    /// Browsers lay out only the blocks that are in view, which makes 10,000 lines as cheap as a few.
    fn blocks(&self) -> std::slice::Chunks<'_, LogLine> {
        self.lines.chunks(BLOCK)
    }
}

/// Which part is shown, as a sentence.
fn summary(wanted: &LogSelection, window: &LogWindow) -> String {
    let count = |count: usize, one: &str, many: &str| {
        format!("{} {}", grouped(count), if count == 1 { one } else { many })
    };
    let shown = window.lines.len();
    let lines = count(shown, "line", "lines");
    let text = match (&wanted.query, &wanted.before) {
        (Some(_), _) => {
            let newest = if window.has_more { "newest " } else { "" };
            let scanned = count(window.scanned, "line", "lines");
            format!(
                "{} in the last {scanned}",
                count(shown, &format!("{newest}match"), &format!("{newest}matches"))
            )
        }
        (None, Some(before)) => {
            format!(
                "{lines} before {} {}",
                before.get(..10).unwrap_or_default(),
                before.get(11..19).unwrap_or_default()
            )
        }
        (None, None) if wanted.to.is_some() => {
            let numbers = |line: Option<&LogLine>| line.and_then(|line| line.number).unwrap_or_default();
            let (first, last) = (numbers(window.lines.first()), numbers(window.lines.last()));
            format!("The lines {} to {}", grouped_number(first), grouped_number(last))
        }
        (None, None) if shown == 0 => "It has printed nothing".to_owned(),
        (None, None) if window.has_more || shown >= wanted.lines => format!("The last {lines}"),
        (None, None) => format!("All {lines}"),
    };
    match window.is_cut {
        true => format!(
            "{text}. The rest did not come in time, so this is incomplete: download it to have all of it."
        ),
        false => format!("{text}."),
    }
}

/// `41,244`
fn grouped(number: usize) -> String {
    grouped_number(number as u64)
}

fn grouped_number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[derive(Template)]
#[template(path = "log.html")]
struct LogPage {
    frame: Frame,
    name: String,
    badge: Badge,
    query: LogQuery,
    text: String,
    has_previous: bool,
    shown: Safe<String>,
    wrap: String,
    previous: String,
    newest: Option<String>,
}

/// `GET /environments/{environment}/logs?tail=&q=&wrap=&before=&previous=`
pub(in crate::api) async fn log(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Response, ApiError> {
    let name = found.name.clone();
    let view = {
        let name = name.clone();
        api.apart(move |api| Ok(api.view_apart_from_build(&name)?.0)).await?
    };
    let (wanted, is_previous) = (query.wanted(), query.previous.is_some());
    let options = LogOptions {
        tail: Some(if wanted.query.is_some() { SEARCHED } else { wanted.lines }),
        // The engine counts in whole seconds, so lines of the same second come too and are left out here.
        until: wanted.before.as_deref().and_then(parse_stamp).map(second_after),
        timestamps: !is_previous,
        previous: is_previous,
        ..LogOptions::default()
    };
    let read = async {
        let output = output(&api, &found, options).await.map_err(|error| error.view.message)?;
        wanted.read(output).await.map_err(|error: io::Error| error.to_string())
    };
    let read = tokio::time::timeout(PATIENCE * 2, read).await;
    let read = read.unwrap_or_else(|_| Err("it did not come in time".to_owned()));
    let is_followed = !is_previous && wanted.before.is_none();
    let follow = is_followed.then(|| {
        let query = query.with(LogQuery::keep_search);
        format!("{}/environments/{name}/logs/follow?{query}", visit.site.prefix)
    });
    let shown = match read {
        Ok(window) => {
            // Without a line, all that there is came after the page. A line without a moment has no position.
            let at = window
                .lines
                .last()
                .map_or(follow::START.to_owned(), |line| line.at.clone().unwrap_or_default());
            LogView::new(format!("Log of {name}"), &query, &wanted, window, at, follow)
        }
        // The output may come later: that of the first container, or of an agent that is away.
        Err(why) => LogView::nothing(format!("Log of {name}"), &query, &why, follow),
    };
    let shown = Safe(answer::rendered(&shown)?);
    let page = LogPage {
        frame: Frame::new(&visit, &api, &format!("Log of {name}"), ""),
        badge: Badge::of(&view),
        text: query.text(),
        has_previous: is_previous,
        shown,
        wrap: query.toggled_wrap(),
        previous: query.with(|query| {
            query.previous = if is_previous { None } else { Some("1".to_owned()) };
            query.before = None;
        }),
        newest: query.newest(),
        name: name.to_string(),
        query,
    };
    answer::page(&visit, &page)
}

/// `GET /environments/{environment}/logs.txt?previous=`: all of it.
pub(in crate::api) async fn download(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Response, ApiError> {
    let options = LogOptions { previous: query.previous.is_some(), ..LogOptions::default() };
    let stream = output(&api, &found, options).await?;
    Ok(attachment(&format!("{}.log", found.name), stream))
}

/// Sends an output as a file: browsers must not render it as a page.
pub(super) fn attachment(name: &str, stream: LogStream) -> Response {
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // Names of environments have no character that would need quoting.
    let disposition = HeaderValue::from_str(&format!("attachment; filename=\"{name}\""));
    headers.extend(disposition.map(|value| (header::CONTENT_DISPOSITION, value)));
    response
}

/// The whole second after a moment.
fn second_after(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_millis() / 1_000 * 1_000 + 1_000)
}

/// Reads a moment as the engine writes it.
fn parse_stamp(stamp: &str) -> Option<Timestamp> {
    Timestamp::parse(&format!("{}Z", stamp.get(..23)?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_preserve_the_query_and_its_values_are_bounded() {
        let query = LogQuery { q: Some(" Order&s ".into()), tail: Some(50), ..LogQuery::default() };
        assert_eq!(query.with(|query| query.wrap = Some("1".into())), "q=+Order%26s+&tail=50&wrap=1");
        assert_eq!(query.search().as_deref(), Some("order&s"));
        let huge = LogQuery { q: Some("x".repeat(9_000)), tail: Some(usize::MAX), ..LogQuery::default() };
        assert_eq!((huge.wanted().lines, huge.search().unwrap().len()), (MOST_LINES, LONGEST_QUERY));
        assert_eq!(LogQuery { before: Some("<script>".into()), ..LogQuery::default() }.wanted().before, None);
    }

    #[test]
    fn the_summary_states_which_lines_are_shown() {
        let line = || LogLine::new(b"x", None);
        let window = |lines: usize, scanned, has_more, is_cut| LogWindow {
            lines: (0..lines).map(|_| line()).collect(),
            scanned,
            has_more,
            is_cut,
            ..LogWindow::default()
        };
        let plain = LogQuery::default().wanted();
        let search = LogQuery { q: Some("x".into()), ..LogQuery::default() }.wanted();
        for (wanted, window, expected) in [
            (&plain, window(0, 0, false, false), "It has printed nothing."),
            (&plain, window(1, 1, false, false), "All 1 line."),
            (&plain, window(2_000, 2_000, false, false), "The last 2,000 lines."),
            (&search, window(1, 41_244, false, false), "1 match in the last 41,244 lines."),
            (&search, window(2_000, 200_000, true, false), "2,000 newest matches in the last 200,000 lines."),
        ] {
            assert_eq!(summary(wanted, &window), expected);
        }
        assert!(summary(&plain, &window(3, 3, false, true)).contains("incomplete"));
        assert_eq!((grouped(7), grouped(1_234_567)), ("7".to_owned(), "1,234,567".to_owned()));
    }

    #[test]
    fn an_engine_timestamp_is_parsed_and_rounded_up() {
        let at = parse_stamp("2026-11-29T03:00:11.241234567Z").unwrap();
        assert_eq!(at.to_string(), "2026-11-29T03:00:11.241Z");
        assert_eq!(second_after(at).to_string(), "2026-11-29T03:00:12.000Z");
        assert!(parse_stamp("x").is_none());
    }
}
