//! Reading bodies under limits: of one body's size and time, and of all bodies' memory together.
//!
//! The sender of a body is not known to be authentic until the whole body is there.

use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What every body may use without asking, in bytes. Most deliveries are smaller, so that large ones
/// that stall cannot keep them out; the number of connections bounds the sum.
const FREE: usize = 64 * 1024;

/// The unit in which memory is shared out, in bytes.
const UNIT: usize = 1024;

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IntakeError {
    /// It is larger than any delivery.
    #[error("the body is too large")]
    TooLarge,
    /// It did not arrive in time.
    #[error("the body did not arrive in time")]
    TooSlow,
    /// The connection broke, or the body's framing is wrong.
    #[error("the body broke off")]
    Broken,
    /// Other bodies use all the memory that there is for them.
    #[error("too many large bodies are being read")]
    Busy,
}

/// A body, and its share of the memory until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Taken {
    bytes: Vec<u8>,
    share: Option<OwnedSemaphorePermit>,
}

impl Deref for Taken {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where bodies are read.
#[derive(Clone, Debug)]
pub(super) struct Intake {
    largest: usize,
    deadline: Duration,
    memory: Arc<Semaphore>,
}

impl Intake {
    /// For bodies of at most `largest` bytes, each within `deadline`, together in `memory` bytes.
    pub(super) fn new(largest: usize, deadline: Duration, memory: usize) -> Self {
        let units = (memory.max(largest) / UNIT).min(Semaphore::MAX_PERMITS);
        Self { largest, deadline, memory: Arc::new(Semaphore::new(units)) }
    }

    /// Reads `body`.
    ///
    /// # Errors
    /// [`IntakeError`]; nothing of the body is kept then.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Taken, IntakeError> {
        let declared = declared_length(headers);
        // Beyond this it would take too long to listen to what is refused anyway; and a sender that
        // waits for our consent to send must not get it.
        let hopeless = declared.is_some_and(|length| length > self.largest.saturating_mul(2));
        let refused = declared.is_some_and(|length| length > self.largest);
        if hopeless || (refused && headers.contains_key(header::EXPECT)) {
            return Err(IntakeError::TooLarge);
        }
        let reading =
            Reading { intake: self, declared: declared.unwrap_or_default(), taken: Taken::default() };
        timeout(self.deadline, reading.finish(body)).await.unwrap_or(Err(IntakeError::TooSlow))
    }
}

fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

struct Reading<'a> {
    intake: &'a Intake,
    declared: usize,
    taken: Taken,
}

impl Reading<'_> {
    async fn finish(mut self, mut body: Body) -> Result<Taken, IntakeError> {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
            let length = self.taken.len().saturating_add(data.len());
            if length > self.intake.largest {
                drop(self.taken);
                discard(body, self.intake.largest).await;
                return Err(IntakeError::TooLarge);
            }
            self.grow_to(length).await?;
            self.taken.bytes.extend_from_slice(&data);
        }
        Ok(self.taken)
    }

    /// Makes room for `length` bytes. Only what really arrived counts: who declares a large body and
    /// sends nothing takes nothing.
    async fn grow_to(&mut self, length: usize) -> Result<(), IntakeError> {
        let capacity = self.taken.bytes.capacity();
        if length <= capacity {
            return Ok(());
        }
        let doubled = capacity.saturating_mul(2);
        let wanted = if self.declared >= length { doubled.min(self.declared) } else { doubled };
        let target = wanted.max(length).min(self.intake.largest);
        self.pay_for(target).await?;
        self.taken.bytes.reserve_exact(target - self.taken.len());
        Ok(())
    }

    async fn pay_for(&mut self, capacity: usize) -> Result<(), IntakeError> {
        let owed = capacity.saturating_sub(FREE).div_ceil(UNIT);
        let paid = self.taken.share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(owed.saturating_sub(paid)).map_err(|_| IntakeError::TooLarge)?;
        if more == 0 {
            return Ok(());
        }
        // Half the deadline, so that a wait in vain is told from a slow sender.
        let share = Arc::clone(&self.intake.memory).acquire_many_owned(more);
        let share = timeout(self.intake.deadline / 2, share).await;
        let share = share.map_err(|_| IntakeError::Busy)?.map_err(|_| IntakeError::Busy)?;
        match &mut self.taken.share {
            Some(held) => held.merge(share),
            none => *none = Some(share),
        }
        Ok(())
    }
}

/// The server has a deadline of its own, which may be the first to pass.
fn broken(error: &(dyn std::error::Error + 'static)) -> IntakeError {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let is_late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    if causes.any(|cause| cause.downcast_ref().is_some_and(is_late)) {
        IntakeError::TooSlow
    } else {
        IntakeError::Broken
    }
}

/// Listens on for a while without keeping anything: a connection that is closed while its peer still
/// sends is reset, and the peer never sees why it was refused.
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

    #[tokio::test]
    async fn a_body_is_taken_up_to_the_limit_and_no_further() {
        let intake = Intake::new(200_000, SHORT, 200_000);
        let read = |length: usize| intake.read_bytes(vec![7; length]);
        assert_eq!(read(0).await.unwrap().len(), 0);
        assert_eq!(read(200_000).await.unwrap().to_vec(), vec![7; 200_000]);
        assert_eq!(read(200_001).await.unwrap_err(), IntakeError::TooLarge);
    }

    impl Intake {
        async fn read_bytes(&self, bytes: Vec<u8>) -> Result<Taken, IntakeError> {
            self.read(&HeaderMap::new(), Body::from(bytes)).await
        }
    }

    #[tokio::test]
    async fn a_body_that_declares_too_much_is_refused_unread() {
        let intake = Intake::new(1_000, SHORT, 1_000);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, "1000000000000".parse().unwrap());
        assert_eq!(intake.read(&headers, stalling(1)).await.unwrap_err(), IntakeError::TooLarge);
        headers.insert(header::CONTENT_LENGTH, "1001".parse().unwrap());
        headers.insert(header::EXPECT, "100-continue".parse().unwrap());
        assert_eq!(intake.read(&headers, stalling(1)).await.unwrap_err(), IntakeError::TooLarge);
    }

    #[tokio::test]
    async fn an_endless_body_is_cut_off_by_size_or_by_time() {
        let intake = Intake::new(1_000, SHORT, 1_000);
        let endless = stream::repeat(()).map(|()| Ok::<_, Infallible>(Bytes::from_static(&[0; 64])));
        let endless = Body::from_stream(endless);
        assert_eq!(intake.read(&HeaderMap::new(), endless).await.unwrap_err(), IntakeError::TooLarge);
        assert_eq!(intake.read(&HeaderMap::new(), stalling(10)).await.unwrap_err(), IntakeError::TooSlow);
    }

    #[tokio::test]
    async fn large_bodies_that_stall_keep_large_ones_out_but_not_small_ones() {
        let intake = Intake::new(1_000_000, SHORT, 1_000_000);
        let stalled = tokio::spawn({
            let intake = intake.clone();
            async move { intake.read(&HeaderMap::new(), stalling(1_000_000)).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(intake.read_bytes(vec![0; 900_000]).await.unwrap_err(), IntakeError::Busy);
        assert_eq!(intake.read_bytes(vec![0; FREE]).await.unwrap().len(), FREE);
        assert_eq!(stalled.await.unwrap().unwrap_err(), IntakeError::TooSlow);
        assert!(intake.read_bytes(vec![0; 900_000]).await.is_ok(), "the memory was not given back");
    }
}
