//! Authority to act on the record. The copy on an agent's host may be older than the containers there, such
//! as after its folder was restored, and only the controller can confirm it.

use std::time::Duration;

use tokio::sync::watch;

/// The authority to act on the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Not yet: the controller has not answered.
    Awaited,
    /// Only to keep the running containers: the controller did not answer in time.
    Alone,
    /// Full authority.
    Given,
}

/// Grants authority over the record of a reconcile loop.
#[derive(Clone, Debug)]
pub struct Grant(watch::Sender<Authority>);

impl Grant {
    /// A record that nobody else decides about, as a receiver of its authority.
    pub fn given() -> watch::Receiver<Authority> {
        watch::channel(Authority::Given).1
    }

    /// A record that a controller decides about.
    pub fn awaited() -> (Self, watch::Receiver<Authority>) {
        let (sender, receiver) = watch::channel(Authority::Awaited);
        (Self(sender), receiver)
    }

    /// Grants authority, after the controller has answered.
    pub fn give(&self) {
        self.0.send_if_modified(|now| std::mem::replace(now, Authority::Given) != Authority::Given);
    }

    /// Waits for the controller, and then continues without it. Returns whether it did not answer in time.
    pub async fn wait(&self, patience: Duration) -> bool {
        tokio::time::sleep(patience).await;
        self.0.send_if_modified(|now| {
            let is_alone = *now == Authority::Awaited;
            if is_alone {
                *now = Authority::Alone;
            }
            is_alone
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_late_authority_grant_is_still_accepted_after_the_timeout() {
        let (grant, authority) = Grant::awaited();
        assert_eq!(*authority.borrow(), Authority::Awaited);
        assert!(grant.wait(Duration::from_millis(1)).await);
        assert_eq!(*authority.borrow(), Authority::Alone);
        grant.give();
        assert_eq!(*authority.borrow(), Authority::Given);
        assert!(!grant.wait(Duration::from_millis(1)).await, "who was heard once is not waited for again");
        assert_eq!(*authority.borrow(), Authority::Given);
    }
}
