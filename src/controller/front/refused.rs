//! Sockets that nginx could not bind. nginx applies nothing of a configuration with such a socket, so these
//! sockets are left out, reported, and retried.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::model::time::Timestamp;
use crate::plan::backoff;

/// The shortest and the longest pause between attempts. During a failed attempt nginx accepts no other change
/// for 2.5 s, so attempts are rare.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The sockets that are left out, each with the time of its next attempt.
#[derive(Debug, Default)]
pub(super) struct RefusedSockets(BTreeMap<SocketAddr, RefusedSocket>);

#[derive(Debug)]
struct RefusedSocket {
    why: String,
    failures: u32,
    /// `None` during an attempt.
    retry_at: Option<Timestamp>,
}

impl RefusedSocket {
    fn describe(&self, socket: SocketAddr) -> String {
        format!("{socket}: {} (`ss -ltnp` shows the process); abide retries", self.why)
    }
}

impl RefusedSockets {
    /// Records the sockets that nginx could not bind, and the reasons.
    pub(super) fn add(&mut self, sockets: Vec<(SocketAddr, String)>, now: Timestamp) {
        for (socket, why) in sockets {
            let failures = self.0.get(&socket).map_or(0, |before| before.failures) + 1;
            let pause = backoff(failures, &socket.to_string()).clamp(PAUSE.0, PAUSE.1);
            self.0.insert(socket, RefusedSocket { why, failures, retry_at: Some(now.after(pause)) });
        }
    }

    /// Returns the sockets that are left out.
    pub(super) fn sockets(&self) -> BTreeSet<SocketAddr> {
        self.left_out().map(|(socket, _)| *socket).collect()
    }

    /// Returns the sockets that are due for another attempt.
    pub(super) fn due(&self, now: Timestamp) -> Vec<SocketAddr> {
        let is_due = |refusal: &RefusedSocket| refusal.retry_at.is_some_and(|at| at <= now);
        self.0.iter().filter(|(_, refusal)| is_due(refusal)).map(|(socket, _)| *socket).collect()
    }

    /// Returns the time of the next attempt.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.0.values().filter_map(|refusal| refusal.retry_at).min()
    }

    /// Includes a socket again, for an attempt.
    pub(super) fn allow_retry(&mut self, socket: SocketAddr) {
        if let Some(refusal) = self.0.get_mut(&socket) {
            refusal.retry_at = None;
        }
    }

    /// Postpones the attempt for a socket a little, because somebody still uses it.
    pub(super) fn look_later(&mut self, socket: SocketAddr, now: Timestamp) {
        if let Some(refusal) = self.0.get_mut(&socket) {
            refusal.retry_at = Some(now.after(PAUSE.0));
        }
    }

    /// Forgets the sockets whose attempts succeeded.
    pub(super) fn taken(&mut self) {
        self.0.retain(|_, refusal| refusal.retry_at.is_some());
    }

    /// Forgets sockets that the desired sites do not need.
    pub(super) fn keep(&mut self, wanted: &BTreeSet<SocketAddr>) {
        self.0.retain(|socket, _| wanted.contains(socket));
    }

    /// Returns why this port cannot be served, in a sentence; `None` if it can be served.
    pub(super) fn sentence(&self, port: u16) -> Option<String> {
        let (socket, refusal) = self.left_out().find(|(socket, _)| socket.port() == port)?;
        Some(format!("the proxy cannot listen on host port {port}: {}", refusal.describe(*socket)))
    }

    /// Returns why no port at all can be served, in a sentence.
    pub(super) fn sentence_for_all(&self) -> String {
        let first = self.left_out().next().map(|(socket, refusal)| refusal.describe(*socket));
        format!("the proxy cannot listen on any of its ports: {}", first.unwrap_or_default())
    }

    fn left_out(&self) -> impl Iterator<Item = (&SocketAddr, &RefusedSocket)> {
        self.0.iter().filter(|(_, refusal)| refusal.retry_at.is_some())
    }
}

/// Returns the sockets that nginx could not bind according to its log, each with the reason.
pub(super) fn read(log: &str) -> Vec<(SocketAddr, String)> {
    let mut found = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains("[emerg]")) {
        if let Some((socket, why)) = refused_in(line) {
            found.insert(socket, why);
        }
    }
    found.into_iter().collect()
}

/// Parses `bind() to 0.0.0.0:80 failed (98: Address already in use)`, or `socket() [::]:80 failed (...)`.
fn refused_in(line: &str) -> Option<(SocketAddr, String)> {
    let after = |what: &str| line.split_once(what).map(|(_, rest)| rest);
    let rest = after("bind() to ").or_else(|| after("socket() ")).or_else(|| after("listen() to "))?;
    let (socket, rest) = rest.split_once(" failed (")?;
    let why = rest.split_once(": ").map_or(rest, |(_, why)| why);
    Some((socket.split(',').next()?.parse().ok()?, why.trim_end_matches(')').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026/11/25 14:33:17 [emerg] 1#1: bind() to 0.0.0.0:8900 failed (98: Address already in use)\n\
        2026/11/25 14:33:17 [notice] 1#1: try again to bind() after 500ms\n\
        2026/11/25 14:33:18 [emerg] 1#1: bind() to 0.0.0.0:8900 failed (98: Address already in use)\n\
        2026/11/25 14:33:18 [emerg] 1#1: socket() [::]:80 failed (97: Address family not supported by protocol)\n\
        2026/11/25 14:33:19 [emerg] 1#1: still could not bind()\n";

    fn at(second: u64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    #[test]
    fn refused_sockets_are_parsed_from_the_nginx_log() {
        let expected = [
            ("0.0.0.0:8900", "Address already in use"),
            ("[::]:80", "Address family not supported by protocol"),
        ];
        let expected = expected.map(|(socket, why)| (socket.parse().unwrap(), why.to_owned()));
        assert_eq!(read(LOG), expected);
        assert!(
            read("[error] 7#7: *1 connect() failed (111: Connection refused) while connecting").is_empty()
        );
    }

    #[test]
    fn a_refused_socket_is_retried_and_cleared_once_bound() {
        let (mut refusals, socket) = (RefusedSockets::default(), "0.0.0.0:8900".parse().unwrap());
        refusals.add(read(LOG), at(0));
        assert!(refusals.sockets().contains(&socket));
        assert!(refusals.sentence(8900).unwrap().contains("Address already in use"));
        assert!(
            refusals.sentence_for_all().contains("any of its ports: 0.0.0.0:8900: Address already in use")
        );
        assert!(refusals.due(at(0)).is_empty() && refusals.due(at(1)).contains(&socket));
        refusals.allow_retry(socket);
        assert!(!refusals.sockets().contains(&socket) && refusals.sentence(8900).is_none());
        refusals.add(vec![(socket, "no".to_owned())], at(1));
        assert!(!refusals.due(at(1)).contains(&socket), "the second failure waits");
        refusals.allow_retry(socket);
        refusals.taken();
        refusals.add(vec![(socket, "no".to_owned())], at(9));
        assert!(refusals.due(at(10)).contains(&socket), "what was taken begins anew");
    }
}
