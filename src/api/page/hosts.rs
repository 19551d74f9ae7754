//! Hosts: this one and those of agents, with their environments.

use std::collections::BTreeSet;

use askama::Template;
use askama::filters::Safe;
use axum::extract::State;
use axum::response::Response;

use super::answer::{self, part};
use super::frame::Frame;
use super::guard::Visit;
use super::status::Badge;
use super::text::{PageClock, cut};
use crate::api::ApiState;
use crate::api::error::ApiError;
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::time::Timestamp;

/// The most characters of a version that an agent names.
const LONGEST_VERSION: usize = 60;

struct HostRow {
    name: String,
    badge: Badge,
    /// The versions of abide and of the Docker Engine there; `None`: not known since the start of the daemon.
    versions: [(&'static str, Option<String>); 2],
    /// When it was last seen or checked, with what that means.
    seen: Option<(&'static str, Timestamp)>,
    environments: Vec<EnvironmentName>,
    note: Option<&'static str>,
}

#[derive(Template)]
#[template(path = "hosts-list.html")]
struct HostList<'a> {
    root: &'a str,
    clock: PageClock,
    rows: Vec<HostRow>,
}

#[derive(Template)]
#[template(path = "hosts.html")]
struct HostsPage {
    frame: Frame,
    has_agents: bool,
    list: Safe<String>,
}

/// `GET /hosts`
pub(in crate::api) async fn hosts(visit: Visit, State(api): State<ApiState>) -> Result<Response, ApiError> {
    let engine = match &api.controller {
        Some(controller) => controller.engine_version().await,
        None => None,
    };
    let rows = api.apart(|api| Ok(rows(api, &agents(api)?, engine))).await?;
    let frame = Frame::new(&visit, &api, "Hosts", "hosts").live(None);
    let has_agents = rows.len() > 1;
    let list = part(&HostList { root: &visit.site.prefix, clock: frame.clock, rows })?;
    answer::page(&visit, &HostsPage { frame, has_agents, list })
}

fn versions(abide: Option<String>, engine: Option<String>) -> [(&'static str, Option<String>); 2] {
    [("abide", abide), ("Docker", engine)]
}

/// Every agent that the manifest or a valid token names.
fn agents(api: &ApiState) -> Result<BTreeSet<AgentName>, crate::record::RecordError> {
    let now = (api.clock)();
    let state = std::sync::Arc::clone(&api.manifest.borrow());
    let declared = state.manifest.environments.values().filter_map(|spec| spec.host.clone());
    let tokens = api.tokens.all()?.into_iter().filter(|token| token.is_in_force(now));
    Ok(declared.chain(tokens.filter_map(|token| token.role.agent().cloned())).collect())
}

/// `engine` is the version of this host's engine.
fn rows(api: &ApiState, agents: &BTreeSet<AgentName>, engine: Option<String>) -> Vec<HostRow> {
    let state = std::sync::Arc::clone(&api.manifest.borrow());
    let of = |host: Option<&AgentName>| {
        let declared = state.manifest.environments.iter().filter(|(_, spec)| spec.host.as_ref() == host);
        declared.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let alive = api.controller.as_ref().map(|controller| controller.alive());
    let (badge, note) = match alive {
        Some(alive) if alive.engine => (Badge { look: "ready", word: "Engine answers" }, None),
        Some(_) => (
            Badge { look: "degraded", word: "Engine silent" },
            Some("The Docker Engine of this host does not answer."),
        ),
        None => (Badge { look: "unsure", word: "No daemon" }, Some("No daemon is running.")),
    };
    let own = HostRow {
        name: "this host".to_owned(),
        badge,
        versions: versions(Some(env!("CARGO_PKG_VERSION").to_owned()), engine),
        seen: alive.and_then(|alive| alive.observed).map(|at| ("checked", at)),
        environments: of(None),
        note,
    };
    let agent = |name: &AgentName| {
        let presence = api.hub.presence(name);
        // Agents send `abide 0.1.0`.
        let software = api.hub.software(name);
        let version = software.map(|sent| cut(sent.strip_prefix("abide ").unwrap_or(&sent), LONGEST_VERSION));
        let is_other = version.as_deref().is_some_and(|version| version != env!("CARGO_PKG_VERSION"));
        let badge = match (presence.connected, presence.last_seen) {
            (true, _) => Badge { look: "ready", word: "Connected" },
            (false, Some(_)) => Badge { look: "degraded", word: "Disconnected" },
            (false, None) => Badge { look: "unsure", word: "Never seen" },
        };
        HostRow {
            name: name.to_string(),
            badge,
            versions: versions(version, api.hub.engine(name).map(|version| cut(&version, LONGEST_VERSION))),
            seen: presence.last_seen.filter(|_| !presence.connected).map(|at| ("last seen", at)),
            environments: of(Some(name)),
            note: is_other.then_some("It runs another version of abide than the controller."),
        }
    };
    std::iter::once(own).chain(agents.iter().map(agent)).collect()
}
