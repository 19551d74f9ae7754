//! Admission of connections: limits the memory of unauthenticated clients, and decides which
//! connection is closed for a new one.
//!
//! A client is unauthenticated ("stranger") until it sends a valid token or a signed webhook.
//! Strangers share pools of a fixed size. A new connection is always admitted: if its pool is full,
//! the network that holds the most loses the connection that has been silent for longest. So a
//! client cannot lock others out by holding connections, and a client that sends its data is not
//! closed for others that wait.
//! Networks that have authenticated before have a pool to themselves: a provider that has delivered
//! once still gets through while attackers fill the other pools.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::Peer;

/// The memory that a connection of HTTP/1.1, or a new connection, may use: one request head. The
/// unit is 32 KiB.
const ONE: u32 = 1;
/// The same for HTTP/2: its receive window and the heads and bodies of
/// [`UNANSWERED`](super::http::UNANSWERED) requests.
const HTTP2: u32 = 24;
/// Networks that hold no more units than this count as equal, and only the age of their connections
/// matters. Otherwise a client with many addresses would displace one that has two connections.
const SMALL: u32 = 32;
/// The share of the strangers' units for possibly authentic deliveries, as a divisor.
const FOR_DELIVERIES: u32 = 3;

/// The pools of strangers. Filling one does not affect the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pool {
    /// Connections of HTTP/1.1, and connections with at most one request.
    Light,
    /// Connections of HTTP/2 with several requests.
    Heavy,
    /// Connections that deliver a webhook with a well-formed signature.
    Deliveries,
    /// Connections from networks in which a client has authenticated since the start.
    Familiar,
}

const POOLS: usize = 4;
/// The maximum number of remembered networks. Git providers deliver from a few dozen addresses.
const FAMILIAR: usize = 256;

/// The connections of one listener.
pub(super) struct Admission {
    /// The units of each pool.
    units: [u32; POOLS],
    /// The maximum number of connections of authenticated clients.
    known: usize,
    table: Mutex<ConnectionTable>,
}

#[derive(Default)]
struct ConnectionTable {
    pools: [Connections; POOLS],
    /// The pool of each connection, and its place in the pool.
    places: HashMap<u64, (Pool, u64)>,
    /// The number of connections of authenticated clients.
    known: usize,
    /// Networks of clients that have authenticated, the latest last.
    familiar: VecDeque<IpAddr>,
    next: u64,
}

/// The connections of a pool.
#[derive(Default)]
struct Connections {
    used: u32,
    /// The connections, longest silent first.
    strangers: BTreeMap<u64, Stranger>,
    networks: HashMap<IpAddr, ClientNetwork>,
    /// The networks, the one that holds the most last.
    by_units: BTreeSet<(u32, IpAddr)>,
}

struct Stranger {
    id: u64,
    network: IpAddr,
    units: u32,
    evicted: CancellationToken,
}

#[derive(Default)]
struct ClientNetwork {
    units: u32,
    connections: BTreeSet<u64>,
}

/// An admitted connection, until the last clone is dropped; an extension of every request on it.
#[derive(Clone)]
pub struct AdmissionGuard(Arc<Admitted>);

struct Admitted {
    id: u64,
    is_proven: AtomicBool,
    evicted: CancellationToken,
    admission: Arc<Admission>,
}

impl Admission {
    /// Creates pools with `units` each for HTTP/1.1 and HTTP/2, and room for `known` connections of
    /// authenticated clients.
    pub(super) fn new(units: u32, known: usize) -> Arc<Self> {
        let part = (units / FOR_DELIVERIES).max(HTTP2);
        let units = [units, units.max(HTTP2), part, part];
        Arc::new(Self { units, known, table: Mutex::default() })
    }

    /// Admits a connection, and closes another if its pool is full.
    pub(super) fn admit(self: &Arc<Self>, peer: &Peer) -> AdmissionGuard {
        let evicted = CancellationToken::new();
        let mut table = self.table();
        let id = table.number();
        let stranger = Stranger { id, network: network(peer), units: ONE, evicted: evicted.clone() };
        let pool = if table.familiar.contains(&stranger.network) { Pool::Familiar } else { Pool::Light };
        table.put(pool, stranger, &self.units);
        drop(table);
        let is_proven = AtomicBool::new(false);
        AdmissionGuard(Arc::new(Admitted { id, is_proven, evicted, admission: Arc::clone(self) }))
    }

    /// Closes one connection of a stranger; returns `false` if there is none.
    pub(super) fn evict(&self) -> bool {
        let mut table = self.table();
        let pools = [Pool::Light, Pool::Heavy, Pool::Deliveries, Pool::Familiar];
        pools.into_iter().any(|pool| table.evict(pool))
    }

    fn table(&self) -> MutexGuard<'_, ConnectionTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionTable {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Adds a connection to a pool as its newest, after making room for it.
    fn put(&mut self, pool: Pool, stranger: Stranger, units: &[u32; POOLS]) {
        while self.pools[pool as usize].used + stranger.units > units[pool as usize] && self.evict(pool) {}
        let place = self.number();
        self.places.insert(stranger.id, (pool, place));
        self.pools[pool as usize].add(place, stranger);
    }

    fn note_familiar(&mut self, network: IpAddr) {
        self.familiar.retain(|known| *known != network);
        if self.familiar.len() == FAMILIAR {
            self.familiar.pop_front();
        }
        self.familiar.push_back(network);
    }

    fn take(&mut self, id: u64) -> Option<(Pool, Stranger)> {
        let (pool, place) = self.places.remove(&id)?;
        Some((pool, self.pools[pool as usize].remove(place)?))
    }

    fn evict(&mut self, pool: Pool) -> bool {
        let Some(stranger) = self.pools[pool as usize].evict() else { return false };
        self.places.remove(&stranger.id);
        stranger.evicted.cancel();
        true
    }
}

impl Connections {
    /// Removes the longest silent connection of the network that holds the most; of all networks,
    /// if none holds many.
    fn evict(&mut self) -> Option<Stranger> {
        let most = self.by_units.last().filter(|(units, _)| *units > SMALL);
        let there = most.and_then(|(_, network)| self.networks.get(network)?.connections.first().copied());
        let place = there.or_else(|| self.strangers.keys().next().copied())?;
        self.remove(place)
    }

    fn add(&mut self, place: u64, stranger: Stranger) {
        let network = self.networks.entry(stranger.network).or_default();
        network.connections.insert(place);
        self.weigh(stranger.network, i64::from(stranger.units));
        self.strangers.insert(place, stranger);
    }

    fn remove(&mut self, place: u64) -> Option<Stranger> {
        let stranger = self.strangers.remove(&place)?;
        if let Some(network) = self.networks.get_mut(&stranger.network) {
            network.connections.remove(&place);
        }
        self.weigh(stranger.network, -i64::from(stranger.units));
        Some(stranger)
    }

    /// Changes the units of a network by `change`.
    fn weigh(&mut self, address: IpAddr, change: i64) {
        let Some(network) = self.networks.get_mut(&address) else { return };
        self.by_units.remove(&(network.units, address));
        let changed = |units: u32| u32::try_from(i64::from(units) + change).unwrap_or_default();
        (network.units, self.used) = (changed(network.units), changed(self.used));
        if network.connections.is_empty() {
            self.networks.remove(&address);
        } else {
            self.by_units.insert((network.units, address));
        }
    }
}

impl AdmissionGuard {
    /// Marks the client as authenticated. Its connection is then not closed to make room for
    /// strangers, and its answers have no deadline.
    pub fn prove(&self) {
        let Admitted { id, is_proven, admission, .. } = &*self.0;
        if is_proven.load(Relaxed) {
            return;
        }
        let mut table = admission.table();
        // A connection that was evicted meanwhile keeps its standing.
        let Some((pool, stranger)) = table.take(*id) else { return };
        table.note_familiar(stranger.network);
        if table.known < admission.known {
            table.known += 1;
            is_proven.store(true, Relaxed);
        } else {
            table.put(pool, stranger, &admission.units);
        }
    }

    /// Whether the client is authenticated.
    pub(super) fn is_proven(&self) -> bool {
        self.0.is_proven.load(Relaxed)
    }

    /// Marks the client as delivering a possibly authentic webhook: only other deliveries can
    /// displace it.
    pub fn delivers(&self) {
        self.change(|pool, _| if pool == Pool::Familiar { pool } else { Pool::Deliveries });
    }

    /// Marks the client as sending several requests on one HTTP/2 connection, which may use more
    /// memory than HTTP/1.1. A client that sends a token with its first request, such as an agent,
    /// is authenticated before that.
    pub(super) fn multiplexes(&self) {
        self.change(|pool, stranger| {
            stranger.units = HTTP2;
            if pool == Pool::Light { Pool::Heavy } else { pool }
        });
    }

    /// Records that the client has sent something, which makes others the longest silent.
    pub(super) fn has_sent(&self) {
        let Admitted { id, admission, .. } = &*self.0;
        let mut table = admission.table();
        if let Some((pool, stranger)) = table.take(*id) {
            table.put(pool, stranger, &admission.units);
        }
    }

    fn change(&self, change: impl FnOnce(Pool, &mut Stranger) -> Pool) {
        let Admitted { id, admission, .. } = &*self.0;
        let mut table = admission.table();
        if let Some((pool, mut stranger)) = table.take(*id) {
            let pool = change(pool, &mut stranger);
            table.put(pool, stranger, &admission.units);
        }
    }

    /// Returns once the connection must be closed to make room for another.
    pub(super) async fn evicted(&self) {
        self.0.evicted.cancelled().await;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut table = self.admission.table();
        if *self.is_proven.get_mut() {
            table.known -= 1;
        } else {
            table.take(self.id);
        }
    }
}

/// The network of a client, the unit in which room is shared: an IPv4 address, or the IPv6 /48 that
/// a provider assigns to one customer. All clients of the Unix socket count as one network.
fn network(peer: &Peer) -> IpAddr {
    match peer.address.map(|address| address.ip().to_canonical()) {
        Some(IpAddr::V6(address)) => IpAddr::V6((u128::from(address) >> 80 << 80).into()),
        Some(address) => address,
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer { uid: None, address: Some(address.parse().unwrap()) }
    }

    fn alive(standings: &[AdmissionGuard]) -> Vec<usize> {
        let is_alive = |standing: &AdmissionGuard| !standing.0.evicted.is_cancelled();
        (0..standings.len()).filter(|at| is_alive(&standings[*at])).collect()
    }

    fn many(admission: &Arc<Admission>, count: usize, address: &str) -> Vec<AdmissionGuard> {
        (0..count).map(|_| admission.admit(&peer(address))).collect()
    }

    #[test]
    fn the_network_with_the_most_connections_is_evicted_first() {
        let admission = Admission::new(60, 10);
        let other = many(&admission, 3, "192.0.2.2:1");
        let held = many(&admission, 80, "192.0.2.1:1");
        assert_eq!(alive(&other), [0, 1, 2]);
        assert_eq!(alive(&held), (23..80).collect::<Vec<_>>());
        drop(held);
        let again = many(&admission, 57, "[2001:db8::1]:1");
        assert_eq!(alive(&again).len(), 57, "connections that ended leave no room");
    }

    #[test]
    fn silent_connections_are_closed_before_those_that_sent_data() {
        let admission = Admission::new(40, 10);
        let held = many(&admission, 40, "192.0.2.1:1");
        held[0].has_sent();
        let _more = many(&admission, 39, "192.0.2.1:1");
        assert_eq!(alive(&held), [0]);
    }

    #[test]
    fn many_single_connection_networks_do_not_evict_one_with_two() {
        let admission = Admission::new(40, 10);
        let old = admission.admit(&peer("192.0.2.9:1"));
        let strangers: Vec<_> =
            (0..39).map(|at| admission.admit(&peer(&format!("192.0.2.{}:1", at + 10)))).collect();
        let two = many(&admission, 2, "192.0.2.1:1");
        assert_eq!(alive(&two), [0, 1]);
        assert!(old.0.evicted.is_cancelled() && alive(&strangers).len() == 38);
    }

    #[test]
    fn known_clients_keep_their_connections_outside_the_strangers_quota() {
        let admission = Admission::new(12, 2);
        let known = many(&admission, 3, "192.0.2.1:1");
        known.iter().for_each(AdmissionGuard::prove);
        assert_eq!(known.iter().filter(|standing| standing.is_proven()).count(), 2);
        let strangers = many(&admission, 12, "192.0.2.2:1");
        assert_eq!(alive(&known), [0, 1], "the third found no room among the known");
        assert_eq!(alive(&strangers).len(), 12);
        drop(known);
        assert_eq!(admission.table().known, 0);
    }

    #[test]
    fn a_known_network_is_not_evicted_by_any_number_of_strangers() {
        let admission = Admission::new(72, 10);
        admission.admit(&peer("192.0.2.9:1")).prove();
        let familiar = admission.admit(&peer("192.0.2.9:2"));
        familiar.delivers();
        let attack = |at: usize| {
            let standing = admission.admit(&peer(&format!("198.51.{}.{}:1", at / 200, at % 200)));
            standing.delivers();
            standing
        };
        let strangers: Vec<_> = (0..1_000).map(attack).collect();
        assert!(!familiar.0.evicted.is_cancelled());
        assert_eq!(alive(&strangers).len(), 24);
        for at in 0..FAMILIAR {
            admission.admit(&peer(&format!("203.0.113.{at}:1"))).prove();
        }
        assert_eq!(admission.table().familiar.len(), FAMILIAR, "networks without number are not remembered");
    }

    #[test]
    fn a_client_that_fills_one_pool_leaves_the_others_free() {
        let admission = Admission::new(72, 10);
        let light = many(&admission, 70, "192.0.2.1:1");
        let (mut heavy, mut deliveries) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            heavy.push(admission.admit(&peer("192.0.2.1:1")));
            heavy.last().unwrap().multiplexes();
        }
        for _ in 0..30 {
            deliveries.push(admission.admit(&peer("192.0.2.1:1")));
            deliveries.last().unwrap().delivers();
        }
        assert_eq!(alive(&light).len(), 70);
        assert_eq!(alive(&heavy), [2, 3, 4]);
        assert_eq!(alive(&deliveries), (6..30).collect::<Vec<_>>());
        assert!(admission.evict() && alive(&light).len() == 69);
        drop((light, heavy, deliveries));
        let table = admission.table();
        let is_empty =
            |pool: &Connections| pool.used == 0 && pool.networks.is_empty() && pool.by_units.is_empty();
        assert!(table.pools.iter().all(is_empty) && table.places.is_empty());
    }
}
