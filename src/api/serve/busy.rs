//! Whether anything is asked on a connection of HTTP/2. Answering pings alone does not keep one open:
//! else whoever has no token could take all connections and hold them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::timeout;

/// Counts what is under way on one connection.
#[derive(Clone, Default)]
pub(super) struct Activity {
    under_way: Arc<watch::Sender<usize>>,
}

impl Activity {
    /// One request more, until what is returned is dropped.
    pub(super) fn begin(&self) -> Busy {
        self.under_way.send_modify(|count| *count += 1);
        Busy(self.clone())
    }

    /// Returns once nothing was under way for `patience`.
    pub(super) async fn idle_for(&self, patience: Duration) {
        let mut under_way = self.under_way.subscribe();
        loop {
            // Neither fails, for the sender is here.
            let _ = under_way.wait_for(|count| *count == 0).await;
            if timeout(patience, under_way.wait_for(|count| *count > 0)).await.is_err() {
                return;
            }
        }
    }
}

/// A request that is under way.
pub(super) struct Busy(Activity);

impl Busy {
    /// Goes with the answer until that was sent as a whole.
    pub(super) fn until_sent(self, response: Response) -> Response {
        response.map(|body| Body::new(Sending { body, _busy: self }))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|count| *count = count.saturating_sub(1));
    }
}

struct Sending {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
