//! A request body that fails if it does not arrive in time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

/// The body and its deadline. Small bodies that arrive with the headers never set the timer.
pub(super) struct Deadline {
    body: Incoming,
    sleep: Pin<Box<Sleep>>,
    handle: BodyDeadline,
}

/// Controls the deadline of a request's body; an extension of the request.
#[derive(Clone, Debug, Default)]
pub struct BodyDeadline {
    is_lifted: Arc<AtomicBool>,
}

impl BodyDeadline {
    /// Removes the deadline. Only for authenticated peers that have a reason.
    pub fn lift(&self) {
        self.is_lifted.store(true, Relaxed);
    }
}

impl Deadline {
    /// Gives `body` the time `after` from now.
    pub(super) fn new(body: Incoming, after: Duration) -> Self {
        Self { body, sleep: Box::pin(sleep(after)), handle: BodyDeadline::default() }
    }

    /// Returns the control of the deadline.
    pub(super) fn handle(&self) -> BodyDeadline {
        self.handle.clone()
    }
}

impl Body for Deadline {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)));
        }
        if self.handle.is_lifted.load(Relaxed) {
            return Poll::Pending;
        }
        ready!(self.sleep.as_mut().poll(context));
        let late = io::Error::new(io::ErrorKind::TimedOut, "the body did not arrive in time");
        Poll::Ready(Some(Err(late)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
