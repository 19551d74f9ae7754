//! Host ports that environments exchange. An environment whose next container needs a port that another environment
//! still publishes keeps serving until that port is free. If each of several waits for another in a circle, the one
//! with the last name stops first, once all others lack nothing but their port.

use std::collections::{BTreeMap, BTreeSet};

use super::{Intent, PlannedStatus};
use crate::model::name::EnvironmentName;
use crate::model::observed::{Neighbour, Observed};
use crate::model::ports::PortMapping;
use crate::model::status::{Condition, Reason};

/// When the container of an environment may take its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortTurn {
    /// Now: no other environment publishes one of them.
    Now,
    /// Once others have given up the ports that they publish. They wait for those that this environment publishes, so
    /// it stops now.
    AfterItsStop(PlannedStatus),
    /// Once another environment has given up the port that it publishes.
    Later(PlannedStatus),
}

/// The ports of an environment.
struct PortClaim {
    /// Those that its running containers publish.
    has: Vec<PortMapping>,
    /// Those that its next container publishes.
    wants: Vec<PortMapping>,
    /// Whether it gives up no port that it has.
    stays: bool,
    /// Whether it lacks nothing but a port for its next container.
    is_waiting: bool,
}

impl PortClaim {
    /// The port of `other` that this one needs.
    fn needs_of(&self, other: &Self) -> Option<&PortMapping> {
        self.wants.iter().find(|wanted| other.has.iter().any(|taken| wanted.conflicts(taken)))
    }
}

/// Decides when a container of this environment that publishes `wanted` may take its ports.
pub(super) fn turn(intent: &Intent, observed: &Observed, wanted: Vec<PortMapping>) -> PortTurn {
    if observed.neighbours.is_empty() || wanted.is_empty() {
        return PortTurn::Now;
    }
    let (me, claims) = (&intent.environment, claims(intent, observed, wanted));
    let Some((other, port)) = blockers(me, &claims).next() else { return PortTurn::Now };
    let published = port.publish().map_or_else(|| port.to_string(), |publish| publish.port.to_string());
    let waits = |condition, why: &str| {
        let message = format!("waiting for port {published}, which {other} still publishes{why}");
        PlannedStatus::new(condition, Reason::AwaitingPort, message)
    };
    if claims.get(other).is_some_and(|claim| claim.stays) {
        return PortTurn::Later(waits(Condition::Degraded, " because it is held or no longer declared"));
    }
    let waits = waits(Condition::Progressing, "");
    if stops_first(me, &claims) { PortTurn::AfterItsStop(waits) } else { PortTurn::Later(waits) }
}

/// Whether this environment has to stop so that the circle that it is part of can move.
fn stops_first(me: &EnvironmentName, claims: &BTreeMap<&EnvironmentName, PortClaim>) -> bool {
    let all = reachable(me, claims);
    let mut circle = all.into_iter().filter(|name| reachable(name, claims).contains(me)).peekable();
    let comes_before = |name: &EnvironmentName| {
        name == me || name < me && claims.get(name).is_some_and(|claim| claim.is_waiting)
    };
    circle.peek().is_some() && circle.all(comes_before)
}

fn claims<'o>(
    intent: &'o Intent,
    observed: &'o Observed,
    wants: Vec<PortMapping>,
) -> BTreeMap<&'o EnvironmentName, PortClaim> {
    let own = observed.containers.iter().chain(&observed.holders).filter(|seen| seen.state.has_process());
    let own = own.flat_map(|seen| &seen.published).filter_map(|port| port.parse().ok()).collect();
    let others = observed.neighbours.iter().map(|(name, neighbour)| {
        let has = neighbour.publishes.iter().filter_map(|port| port.parse().ok()).collect();
        let wants = neighbour.wants.clone().unwrap_or_default();
        let Neighbour { is_waiting, .. } = *neighbour;
        (name, PortClaim { has, wants, stays: neighbour.wants.is_none(), is_waiting })
    });
    let me = (&intent.environment, PortClaim { has: own, wants, stays: false, is_waiting: true });
    others.chain([me]).collect()
}

/// The environments that publish a port which `name` needs, and those ports.
fn blockers<'c>(
    name: &'c EnvironmentName,
    claims: &'c BTreeMap<&'c EnvironmentName, PortClaim>,
) -> impl Iterator<Item = (&'c EnvironmentName, &'c PortMapping)> {
    let claim = claims.get(name);
    let others = claims.iter().filter(move |(other, _)| **other != name);
    others.filter_map(move |(other, its)| Some((*other, claim?.needs_of(its)?)))
}

/// The environments for which `name` waits, directly or through others.
fn reachable<'c>(
    name: &'c EnvironmentName,
    claims: &'c BTreeMap<&'c EnvironmentName, PortClaim>,
) -> BTreeSet<&'c EnvironmentName> {
    let (mut found, mut open) = (BTreeSet::new(), vec![name]);
    while let Some(next) = open.pop() {
        open.extend(blockers(next, claims).map(|(other, _)| other).filter(|other| found.insert(*other)));
    }
    found
}
