//! Whether the record may be acted upon. The copy on an agent's host may be older than what runs there,
//! as when its folder was restored, and only the controller can tell.

use std::time::Duration;

use tokio::sync::watch;

/// Whether the record may be acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Not yet: whoever decides is about to be heard.
    Awaited,
    /// As far as it keeps what runs: whoever decides was not heard for too long to wait.
    Alone,
    /// Yes.
    Given,
}

/// Gives authority over a loop's record.
#[derive(Clone, Debug)]
pub struct Grant(watch::Sender<Authority>);

impl Grant {
    /// A record that nobody else decides about, and who reads whether it may be acted upon.
    pub fn given() -> watch::Receiver<Authority> {
        watch::channel(Authority::Given).1
    }

    /// A record about which someone else decides.
    pub fn awaited() -> (Self, watch::Receiver<Authority>) {
        let (sender, receiver) = watch::channel(Authority::Awaited);
        (Self(sender), receiver)
    }

    /// Whoever decides was heard.
    pub fn give(&self) {
        self.0.send_if_modified(|now| std::mem::replace(now, Authority::Given) != Authority::Given);
    }

    /// Waits for whoever decides, and then goes on without. Returns whether it has to.
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
    async fn who_is_not_heard_in_time_is_not_waited_for_and_still_heard_later() {
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
