//! A stream that tracks its peer's progress. A peer that does not read its answer would otherwise
//! hold the connection for ever; a peer that sends is not closed for others that wait.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::admission::AdmissionGuard;

/// How often a stranger's progress is recorded; each time takes a lock that all connections share.
const NOTED_EVERY: Duration = Duration::from_millis(100);

/// Fails a write that makes no progress for as long as an unauthenticated client may leave an
/// answer unread.
pub(super) struct ProgressGuard<S> {
    stream: S,
    standing: AdmissionGuard,
    limit: Duration,
    /// Set while a write waits for the peer.
    timer: Option<Pin<Box<Sleep>>>,
    /// When the peer's progress was last recorded.
    noted: Instant,
}

impl<S> ProgressGuard<S> {
    pub(super) fn new(stream: S, standing: AdmissionGuard, limit: Duration) -> Self {
        Self { stream, standing, limit, timer: None, noted: Instant::now() }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        // A client with a token may page through a log for hours.
        if self.standing.is_proven() {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client is not reading the response")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ProgressGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && self.noted.elapsed() > NOTED_EVERY && !self.standing.is_proven()
        {
            self.noted = Instant::now();
            self.standing.has_sent();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ProgressGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
