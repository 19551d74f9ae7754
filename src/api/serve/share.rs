//! How many connections one address may have: whoever needs no token to connect must not have all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Peer;
use crate::api::access::place;

/// The connections of each address on another machine.
pub(super) struct Shares {
    most: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection of an address, until it is dropped.
pub(super) struct Share {
    /// `None`: of this machine, which is not counted.
    address: Option<IpAddr>,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Shares {
    /// None is open yet.
    pub(super) fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    /// One connection more of a peer; `None` where its address has as many as it may.
    pub(super) fn take(&self, peer: &Peer) -> Option<Share> {
        let address = peer.address.map(|address| address.ip().to_canonical());
        let address = address.filter(|address| !address.is_loopback()).map(place);
        if let Some(address) = address {
            let mut open = lock(&self.open);
            let count = open.get(&address).copied().unwrap_or_default();
            if count >= self.most {
                return None;
            }
            open.insert(address, count + 1);
        }
        Some(Share { address, open: Arc::clone(&self.open) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut open = lock(&self.open);
        if let Some(count) = open.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&address);
            }
        }
    }
}

fn lock(open: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}
