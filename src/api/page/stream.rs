//! Streams of messages to the page's script, as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream::once;
use futures::{Stream, StreamExt as _};

/// The interval of comments, so that no proxy closes a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Answers with messages as they come.
///
/// The first piece is a comment: over HTTP/2, nginx passes on the headers only with the first piece of the body, and
/// until then the browser does not know that it is connected.
pub(super) fn streamed(messages: impl Stream<Item = Event> + Send + 'static) -> Response {
    let begin = once(std::future::ready(Event::default().comment("")));
    let stream = Sse::new(begin.chain(messages).map(Ok::<_, Infallible>));
    // nginx would hold the messages back.
    let headers = [(HeaderName::from_static("x-accel-buffering"), "no"), (header::CACHE_CONTROL, "no-store")];
    (headers, stream.keep_alive(KeepAlive::new().interval(KEEP_ALIVE))).into_response()
}
