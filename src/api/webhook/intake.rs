//! Reads bodies under limits: on the size and time of one body, and on the memory for all.
//!
//! Until the whole body has arrived, its sender may not be authentic. So abide keeps as little as
//! possible of it: see [`Arriving`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::proof::Arriving;

/// The number of bytes stored of every body without a reservation. Deliveries need less, so that
/// larger bodies cannot block them; the number of connections bounds the sum.
const FREE: usize = 32 * 1024;

/// The unit of memory reservations, in bytes.
const UNIT: usize = 1024;

/// How long a refused sender may keep sending. If its connection were closed immediately, it would
/// never see the reason.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IntakeError {
    /// It is larger than any valid delivery.
    #[error("the body is too large")]
    TooLarge,
    /// It did not arrive in time.
    #[error("the body did not arrive in time")]
    TooSlow,
    /// The connection broke, or the body's framing is wrong.
    #[error("the body was incomplete")]
    Broken,
    /// Other bodies use all the memory for bodies.
    #[error("too many other bodies are being read")]
    Busy,
}

/// The destination of a body's bytes.
pub(super) trait Sink {
    /// Takes the next bytes.
    fn take(&mut self, bytes: &[u8]);

    /// The number of bytes stored.
    fn kept(&self) -> usize;
}

impl Sink for Arriving {
    fn take(&mut self, bytes: &[u8]) {
        self.push(bytes);
    }

    fn kept(&self) -> usize {
        Self::kept(self)
    }
}

impl Sink for Vec<u8> {
    fn take(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn kept(&self) -> usize {
        self.len()
    }
}

/// Reads bodies under the limits.
#[derive(Clone, Debug)]
pub(super) struct Intake {
    largest: usize,
    deadline: Duration,
    memory: Arc<Semaphore>,
}

impl Intake {
    /// Limits each body to `largest` bytes and to `deadline`; of all bodies together, at most
    /// `memory` bytes are stored.
    pub(super) fn new(largest: usize, deadline: Duration, memory: usize) -> Self {
        let units = (memory / UNIT).min(Semaphore::MAX_PERMITS);
        Self { largest, deadline, memory: Arc::new(Semaphore::new(units)) }
    }

    /// Refuses a body whose declared size is too large.
    ///
    /// # Errors
    /// [`IntakeError::TooLarge`].
    pub(super) async fn admit(&self, headers: &HeaderMap, body: Body) -> Result<Body, IntakeError> {
        let declared = declared_length(headers);
        if declared.is_none_or(|length| length <= self.largest) {
            return Ok(body);
        }
        // A body beyond this size would take too long to discard. Also, a sender that waits for a
        // `100 Continue` must not get it.
        let hopeless = declared.is_some_and(|length| length > self.largest.saturating_mul(2));
        if !hopeless && !headers.contains_key(header::EXPECT) {
            // The deadline may pass before that.
            let _ = timeout(self.deadline, discard(body, self.largest.saturating_mul(2))).await;
        }
        Err(IntakeError::TooLarge)
    }

    /// Reads and discards a refused body for a moment.
    pub(super) async fn turn_away(&self, body: Body) {
        let _ = timeout(FAREWELL.min(self.deadline), discard(body, self.largest)).await;
    }

    /// Reads `body` into `sink`.
    ///
    /// # Errors
    /// [`IntakeError`].
    pub(super) async fn read_into(&self, sink: &mut impl Sink, body: Body) -> Result<(), IntakeError> {
        timeout(self.deadline, self.read(sink, body)).await.unwrap_or(Err(IntakeError::TooSlow))
    }

    async fn read(&self, sink: &mut impl Sink, mut body: Body) -> Result<(), IntakeError> {
        let (mut length, mut share) = (0_usize, None);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
            length = length.saturating_add(data.len());
            if length > self.largest {
                discard(body, self.largest).await;
                return Err(IntakeError::TooLarge);
            }
            sink.take(&data);
            self.pay_for(sink.kept(), &mut share)?;
            // A body that arrives faster than it is read would block its thread for all other
            // tasks.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn pay_for(&self, kept: usize, share: &mut Option<OwnedSemaphorePermit>) -> Result<(), IntakeError> {
        let owed = kept.saturating_sub(FREE).div_ceil(UNIT);
        let paid = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(owed.saturating_sub(paid)).map_err(|_| IntakeError::TooLarge)?;
        if more == 0 {
            return Ok(());
        }
        let more = Arc::clone(&self.memory).try_acquire_many_owned(more);
        let more = more.map_err(|_| IntakeError::Busy)?;
        match share {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The server has its own deadline, which may pass first.
fn broken(error: &(dyn std::error::Error + 'static)) -> IntakeError {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let is_late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    if causes.any(|cause| cause.downcast_ref().is_some_and(is_late)) {
        IntakeError::TooSlow
    } else {
        IntakeError::Broken
    }
}

/// Reads on for a while without storing anything. If a connection is closed while its peer still
/// sends, it is reset, and the peer never sees the reason of the refusal.
async fn discard(mut body: Body, most: usize) {
    let mut seen = 0_usize;
    while let Some(Ok(frame)) = body.frame().await {
        seen = seen.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if seen > most {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::StreamExt as _;
    use futures::stream;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    fn stalling(first: usize) -> Body {
        let chunk = stream::once(async move { Ok::<_, Infallible>(Bytes::from(vec![0; first])) });
        Body::from_stream(chunk.chain(stream::pending()))
    }

    impl Intake {
        async fn read_all(&self, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, IntakeError> {
            let (body, mut all) = (self.admit(headers, body).await?, Vec::new());
            self.read_into(&mut all, body).await.map(|()| all)
        }

        async fn read_bytes(&self, bytes: Vec<u8>) -> Result<Vec<u8>, IntakeError> {
            self.read_all(&HeaderMap::new(), Body::from(bytes)).await
        }
    }

    #[tokio::test]
    async fn a_body_is_accepted_up_to_the_limit() {
        let intake = Intake::new(200_000, SHORT, 200_000);
        let read = |length: usize| intake.read_bytes(vec![7; length]);
        assert_eq!(read(0).await.unwrap().len(), 0);
        assert_eq!(read(200_000).await.unwrap(), vec![7; 200_000]);
        assert_eq!(read(200_001).await.unwrap_err(), IntakeError::TooLarge);
    }

    #[tokio::test]
    async fn a_body_declaring_an_excessive_length_is_rejected_unread() {
        let intake = Intake::new(1_000, SHORT, 1_000);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, "1000000000000".parse().unwrap());
        assert_eq!(intake.read_all(&headers, stalling(1)).await.unwrap_err(), IntakeError::TooLarge);
        headers.insert(header::CONTENT_LENGTH, "1001".parse().unwrap());
        headers.insert(header::EXPECT, "100-continue".parse().unwrap());
        assert_eq!(intake.read_all(&headers, stalling(1)).await.unwrap_err(), IntakeError::TooLarge);
    }

    #[tokio::test]
    async fn an_endless_body_is_cut_off_by_size_or_by_time() {
        let intake = Intake::new(1_000, SHORT, 1_000);
        let endless = stream::repeat(()).map(|()| Ok::<_, Infallible>(Bytes::from_static(&[0; 64])));
        let endless = Body::from_stream(endless);
        assert_eq!(intake.read_all(&HeaderMap::new(), endless).await.unwrap_err(), IntakeError::TooLarge);
        let stalled = intake.read_all(&HeaderMap::new(), stalling(10)).await;
        assert_eq!(stalled.unwrap_err(), IntakeError::TooSlow);
    }

    #[tokio::test]
    async fn large_bodies_block_other_large_bodies_but_not_small_ones() {
        let intake = Intake::new(1_000_000, SHORT, 1_000_000);
        let stalled = tokio::spawn({
            let intake = intake.clone();
            async move { intake.read_all(&HeaderMap::new(), stalling(1_000_000)).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(intake.read_bytes(vec![0; 900_000]).await.unwrap_err(), IntakeError::Busy);
        assert_eq!(intake.read_bytes(vec![0; FREE]).await.unwrap().len(), FREE);
        assert_eq!(stalled.await.unwrap().unwrap_err(), IntakeError::TooSlow);
        assert!(intake.read_bytes(vec![0; 900_000]).await.is_ok(), "the memory was not given back");
    }
}
