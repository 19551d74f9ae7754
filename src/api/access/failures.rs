//! Limits requests without a valid token, by address.
//!
//! This slows guessing, which is hopeless anyway, and keeps the log short. It never affects a valid
//! token, because all clients behind a proxy share one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::webhook::bucket::{Bucket, Rate};

/// A burst of twenty, then one per second.
const RATE: Rate = Rate { burst: 20, per_second: 1 };
/// After this time a bucket is full again, so it need not be stored.
const FULL_AGAIN: Duration = Duration::from_secs(20);
/// The maximum number of stored addresses, about half a megabyte. Further addresses share one
/// bucket.
const REMEMBERED: usize = 4_096;

/// Addresses that recently sent requests without a valid token.
#[derive(Default)]
pub(super) struct Failures {
    seen: Mutex<HashMap<IpAddr, (Bucket, Instant)>>,
}

impl Failures {
    /// Counts a failure of `address`.
    ///
    /// # Errors
    /// How long to wait, if there were too many.
    pub(super) fn count(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut place = place(address);
        if seen.len() >= REMEMBERED && !seen.contains_key(&place) {
            seen.retain(|_, (_, last)| now.saturating_duration_since(*last) < FULL_AGAIN);
            if seen.len() >= REMEMBERED {
                place = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let (bucket, last) = seen.entry(place).or_insert_with(|| (Bucket::full(RATE, now), now));
        *last = now;
        bucket.take(RATE, now)
    }
}

/// The owner of one IPv6 address also has the other 2^64 of its network.
fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_address_that_fails_too_often_is_delayed() {
        let (failures, now) = (Failures::default(), Instant::now());
        let taken = (0..100).filter(|_| failures.count(address("192.0.2.1"), now).is_ok()).count();
        assert_eq!(taken, 20);
        assert!(failures.count(address("::ffff:192.0.2.1"), now).is_err(), "it is the same address");
        assert!(failures.count(address("192.0.2.2"), now).is_ok());
        assert!(failures.count(address("192.0.2.1"), now + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one_sender() {
        let (failures, now) = (Failures::default(), Instant::now());
        let senders = (0..100).map(|last| address(&format!("2001:db8::{last:x}")));
        assert_eq!(senders.filter(|sender| failures.count(*sender, now).is_ok()).count(), 20);
        assert!(failures.count(address("2001:db8:0:1::1"), now).is_ok());
    }

    #[test]
    fn the_failure_table_is_bounded_and_freed() {
        let (failures, now) = (Failures::default(), Instant::now());
        let many = |count: u32| (0..count).map(|number| IpAddr::V4((0x0a00_0000 + number).into()));
        let taken = many(10_000).filter(|sender| failures.count(*sender, now).is_ok()).count();
        assert_eq!(taken, REMEMBERED + 20, "those beyond share a bucket");
        assert_eq!(failures.seen.lock().unwrap().len(), REMEMBERED + 1);
        assert!(failures.count(address("192.0.2.1"), now + FULL_AGAIN).is_ok());
        assert_eq!(failures.seen.lock().unwrap().len(), 1);
    }
}
