//! A request's body that fails when it is not there in time.

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

/// The body, and the time that it has. Small bodies that came with the headers never set the timer.
pub(super) struct Deadline {
    body: Incoming,
    sleep: Pin<Box<Sleep>>,
    handle: BodyDeadline,
}

/// The deadline of a request's body, in the hands of whoever answers it; an extension of the request.
#[derive(Clone, Debug, Default)]
pub struct BodyDeadline {
    is_lifted: Arc<AtomicBool>,
}

impl BodyDeadline {
    /// The body may take as long as it likes. Only for peers that are known, and have reason to.
    pub fn lift(&self) {
        self.is_lifted.store(true, Relaxed);
    }
}

impl Deadline {
    /// Gives `body` this long from now.
    pub(super) fn new(body: Incoming, after: Duration) -> Self {
        Self { body, sleep: Box::pin(sleep(after)), handle: BodyDeadline::default() }
    }

    /// By which it can be lifted.
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
