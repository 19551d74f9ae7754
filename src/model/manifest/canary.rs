//! `canary`: new versions serve a part of the visitors first.

use super::cross::{Declarations, NamedPartial};
use super::environment::PartialEnvironment;
use super::places::Places;
use super::problem::Problem;
use super::table::Table;
use super::{grammar, keys};
use crate::model::canary::{CanaryPercent, CanarySpec, ErrorLimit};
use crate::model::spec::Update;

pub(super) fn read(environment: &Table<'_>) -> Option<CanarySpec> {
    let table = environment.get("canary")?.table(&keys::CANARY)?;
    let percent = match table.get("percent") {
        Some(field) => field
            .integer(1, u64::from(CanaryPercent::MOST))
            .and_then(|percent| CanaryPercent::try_from(percent).ok()),
        None => Some(CanaryPercent::default()),
    };
    let time = match table.get("for") {
        Some(field) => field
            .duration()
            .and_then(|time| grammar::patience(time).map_err(|predicate| field.must(predicate)).ok()),
        None => Some(CanarySpec::DEFAULT_TIME),
    };
    let fail_on = match table.get("fail_on") {
        Some(field) => field.parsed(ErrorLimit::FORM, str::parse),
        None => Some(ErrorLimit::default()),
    };
    Some(CanarySpec { percent: percent?, time: time?, fail_on: fail_on? })
}

/// Every problem of declarations with a canary.
pub(super) fn problems(declared: &Declarations, all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, draft) in all {
        for message in conflicts(declared, draft) {
            found.push(places.problem(&format!("environment.{name}.canary"), message));
        }
    }
    found
}

/// Why two versions of this declaration cannot share its visitors.
fn conflicts(declared: &Declarations, draft: &PartialEnvironment) -> Vec<&'static str> {
    let Some(spec) = draft.spec.as_ref().filter(|spec| spec.canary.is_some()) else { return Vec::new() };
    let is_beside = spec.update == Some(Update::StartFirst);
    let has_front = declared.front.is_some() || declared.incomplete || draft.host.is_some();
    let has_fixed_address = spec
        .run
        .networks
        .values()
        .any(|joined| joined.ipv4_address.is_some() || joined.ipv6_address.is_some());
    [
        (
            spec.swarm.is_some(),
            "`canary` does not go with `swarm`: Swarm replaces one replica after the other",
        ),
        (
            draft.replicas.is_some(),
            "`canary` does not go with `replicas`: a new version replaces one replica after the other",
        ),
        (
            spec.swarm.is_none() && !has_front,
            "`canary` needs the proxy, which divides the visitors: add `[front]`",
        ),
        (
            spec.swarm.is_none() && draft.publish.is_none() && draft.hostnames.is_empty(),
            "`canary` needs requests through the proxy: declare a `hostname`, or publish the `port`",
        ),
        (
            spec.update == Some(Update::StopFirst),
            "`canary` does not go with `update` = \"stop-first\": two versions have to run at once",
        ),
        (
            !draft.volumes.is_empty() && spec.update.is_none(),
            "`canary` runs two versions at once, which both mount the `volumes`: if they may, declare \
             `update = \"start-first\"`",
        ),
        (
            draft.host_port.is_some(),
            "`canary` does not go with `network_mode` = \"host\": two programs cannot listen on one port",
        ),
        (
            draft.ports.iter().any(|port| port.publish().is_some()) && !is_beside,
            "`canary` does not go with `ports`: two containers cannot publish one host port",
        ),
        (
            has_fixed_address && !is_beside,
            "`canary` does not go with a fixed address: each container needs its own",
        ),
    ]
    .into_iter()
    .filter_map(|(conflicts, message)| conflicts.then_some(message))
    .collect()
}
