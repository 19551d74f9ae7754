//! The requests of one HTTP/2 connection, and limits on how long they may keep it open.
//!
//! Answering pings does not keep a connection open, and neither does a request whose answer the
//! peer never reads. Otherwise any client without a token could hold connections for ever.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Counts the active requests of one connection.
#[derive(Clone, Default)]
pub(super) struct RequestCounter {
    requests: Arc<watch::Sender<Requests>>,
}

#[derive(Default)]
struct Requests {
    next: u64,
    under_way: usize,
    /// Unanswered requests, oldest first, each with the token that cancels it.
    unanswered: BTreeMap<u64, CancellationToken>,
    /// Answers that wait for the peer to read, and since when.
    unsent: BTreeMap<u64, Instant>,
}

impl RequestCounter {
    /// Counts another request until the returned value is dropped. If `most` requests are
    /// unanswered already, the oldest of them is cancelled.
    pub(super) fn begin(&self, most: Option<usize>) -> Busy {
        let displaced = CancellationToken::new();
        let mut id = 0;
        self.requests.send_modify(|requests| {
            id = requests.next;
            requests.next += 1;
            requests.under_way += 1;
            if most.is_some_and(|most| requests.unanswered.len() >= most)
                && let Some((_, oldest)) = requests.unanswered.pop_first()
            {
                oldest.cancel();
            }
            requests.unanswered.insert(id, displaced.clone());
        });
        Busy { activity: self.clone(), id, displaced }
    }

    /// Returns once no request was active for `patience`.
    pub(super) async fn idle_for(&self, patience: Duration) {
        let mut requests = self.requests.subscribe();
        loop {
            // Neither call fails, because `self` holds the sender.
            let _ = requests.wait_for(|requests| requests.under_way == 0).await;
            if timeout(patience, requests.wait_for(|requests| requests.under_way > 0)).await.is_err() {
                return;
            }
        }
    }

    /// Returns once the peer has read nothing of an answer for `patience`.
    pub(super) async fn stalled_for(&self, patience: Duration) {
        let mut requests = self.requests.subscribe();
        loop {
            let waiting = requests.wait_for(|requests| !requests.unsent.is_empty()).await;
            let since = waiting.ok().and_then(|requests| requests.unsent.values().min().copied());
            let Some(since) = since else { return };
            if since.elapsed() >= patience {
                return;
            }
            sleep_until(since + patience).await;
        }
    }

    /// Records whether an answer waits for the peer. Only the first one wakes the watcher.
    fn note(&self, id: u64, is_waiting: bool) {
        self.requests.send_if_modified(|requests| {
            let is_first = is_waiting && requests.unsent.is_empty();
            if is_waiting {
                requests.unsent.insert(id, Instant::now());
            } else {
                requests.unsent.remove(&id);
            }
            is_first
        });
    }
}

/// An active request.
pub(super) struct Busy {
    activity: RequestCounter,
    id: u64,
    displaced: CancellationToken,
}

impl Busy {
    /// Returns a token that is cancelled if newer requests displace this one.
    pub(super) fn displaced(&self) -> CancellationToken {
        self.displaced.clone()
    }

    /// Whether it is the first request of its connection.
    pub(super) fn is_first(&self) -> bool {
        self.id == 0
    }

    /// Keeps the request active until its answer is sent completely.
    pub(super) fn until_sent(self, response: Response) -> Response {
        self.activity.requests.send_if_modified(|requests| {
            requests.unanswered.remove(&self.id);
            false
        });
        self.activity.note(self.id, true);
        response.map(|body| Body::new(Sending { body, busy: self }))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.activity.requests.send_modify(|requests| {
            requests.under_way = requests.under_way.saturating_sub(1);
            requests.unanswered.remove(&self.id);
            requests.unsent.remove(&self.id);
        });
    }
}

struct Sending {
    body: Body,
    busy: Busy,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    /// The server polls for the next frame once the peer has received the previous one.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.busy.activity.note(self.busy.id, frame.is_ready());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
