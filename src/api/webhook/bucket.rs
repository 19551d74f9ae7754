//! A token bucket: a burst of deliveries, then a steady rate per second.

use std::time::Duration;

use tokio::time::Instant;

/// The rate of authentic deliveries for one hook.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::api) struct Rate {
    /// The size of the burst.
    pub burst: u32,
    /// Deliveries per second once the burst is used up. At least one.
    pub per_second: u32,
}

/// The remaining deliveries of one hook.
#[derive(Debug)]
pub(in crate::api) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(in crate::api) fn full(rate: Rate, now: Instant) -> Self {
        Self { left: f64::from(rate.burst), at: now }
    }

    /// Takes one delivery.
    ///
    /// # Errors
    /// How long to wait until the next one is available.
    pub(in crate::api) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let per_second = f64::from(rate.per_second.max(1));
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * per_second;
        self.left = (self.left + refill).min(f64::from(rate.burst));
        self.at = now;
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / per_second));
        }
        self.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 2_000, per_second: 50 };

    #[test]
    fn a_flood_is_limited_to_the_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(RATE, start);
        let taken = |bucket: &mut Bucket, now| (0..10_000).filter(|_| bucket.take(RATE, now).is_ok()).count();
        assert_eq!(taken(&mut bucket, start), 2_000);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(1)), 50);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3_600)), 2_000);
    }

    #[test]
    fn an_empty_bucket_returns_the_time_to_wait() {
        let start = Instant::now();
        let rate = Rate { burst: 1, per_second: 2 };
        let mut bucket = Bucket::full(rate, start);
        assert_eq!(bucket.take(rate, start), Ok(()));
        assert_eq!(bucket.take(rate, start), Err(Duration::from_millis(500)));
        assert_eq!(bucket.take(rate, start + Duration::from_millis(500)), Ok(()));
    }
}
