//! One environment in a few lines.

use super::evidence;
use super::status::Badge;
use super::text::sentence;
use crate::api::agent::AgentHub;
use crate::model::commits::CommitLine;
use crate::model::desired::{Desired, Origin};
use crate::model::link::ReportedProxy;
use crate::model::name::{CommitId, Digest};
use crate::model::spec::{EnvironmentSpec, FrontSpec, Supply};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::model::view::EnvironmentView;

/// What links to running sites need to know.
pub(super) struct CardPlace<'a> {
    /// The host by which the browser reached the page.
    pub(super) host: &'a str,
    /// The proxy in front of the environments of this host.
    pub(super) front: Option<&'a FrontSpec>,
    /// The agents, which report the proxies of their hosts.
    pub(super) hub: &'a AgentHub,
}

/// One environment.
pub(super) struct Card {
    pub(super) name: String,
    pub(super) badge: Badge,
    /// The commit's subject, or the image.
    pub(super) subject: String,
    /// The author of the commit.
    pub(super) author: Option<String>,
    /// How far the environment that it is promoted from is ahead.
    pub(super) ahead: Option<String>,
    /// A further sentence, if the badge is not enough.
    pub(super) message: Option<String>,
    /// The short commit or digest.
    pub(super) version: String,
    pub(super) generation: u64,
    /// What happened last, and when.
    pub(super) last: Option<(&'static str, Timestamp)>,
    pub(super) by: Option<String>,
    pub(super) address: Option<CardAddress>,
    /// The origin of its versions.
    pub(super) source: String,
    pub(super) host: Option<String>,
}

/// The address of a running site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CardAddress {
    pub(super) shown: String,
    /// `None` if browsers cannot be sent there.
    pub(super) url: Option<String>,
}

impl Card {
    /// The card of an environment.
    pub(super) fn new(
        view: &EnvironmentView,
        spec: Option<&EnvironmentSpec>,
        desired: Option<&Desired>,
        commit: Option<CommitLine>,
        place: &CardPlace<'_>,
    ) -> Self {
        let (title, author) = commit.map(|line| (line.subject, line.author)).unzip();
        let badge = Badge::of(view);
        let entry = desired.map(|desired| &desired.entry);
        let at = entry.map(|entry| entry.at).filter(|_| view.generation.0 > 0);
        let (last, by) = match (view.status, &view.held) {
            _ if view.reason == Reason::AgentAway => (view.last_seen.map(|at| ("last seen", at)), None),
            (Condition::Held, Some(hold)) => (Some(("held", hold.since)), None),
            (Condition::Ready, _) => (view.since.map(|at| ("ready", at)), None),
            (Condition::RolledBack, _) => (view.since.map(|at| ("rolled back", at)), None),
            _ => (at.map(|at| (moved(view.origin), at)), entry.and_then(|entry| entry.by.clone())),
        };
        Self {
            name: view.environment.to_string(),
            badge,
            subject: title.filter(|title| !title.is_empty()).unwrap_or_else(|| subject(view)),
            author: author.filter(|author| !author.is_empty()),
            ahead: None,
            message: match view.generation.0 {
                0 => waiting(view).or_else(|| message(view)),
                _ => message(view).or_else(|| waiting(view)),
            },
            version: version(view),
            generation: view.generation.0,
            last,
            by: by.map(|by| short_name(&by)),
            address: spec.and_then(|spec| address(spec, place)),
            source: spec.map_or_else(|| "not in the manifest".to_owned(), source),
            host: view.host.clone(),
        }
    }
}

/// The name of an author without the address: `anna` for `token anna (192.0.2.7, page)`.
pub(super) fn short_name(by: &str) -> String {
    let by = by.strip_prefix("token ").unwrap_or(by);
    match by.split_once(" (") {
        // The name in brackets is that of a person, as in `github (alice)`.
        Some(("github" | "gitlab" | "gitea" | "bitbucket" | "registry", person)) => {
            person.trim_end_matches(')').to_owned()
        }
        Some((name, _)) => name.to_owned(),
        None => by.to_owned(),
    }
}

/// The change as a past participle.
pub(super) fn moved(origin: Option<Origin>) -> &'static str {
    match origin {
        Some(Origin::Push | Origin::BranchPoll) => "pushed",
        Some(Origin::Promotion) => "promoted",
        Some(Origin::Set) => "set",
        Some(Origin::Rollback | Origin::AutomaticRollback) => "rolled back",
        Some(Origin::Tag) => "tagged",
        Some(Origin::Rebuild | Origin::ManifestEdit) => "built again",
        None => "recorded",
    }
}

fn subject(view: &EnvironmentView) -> String {
    let image = view.image.as_ref();
    match (&view.revision, image.and_then(|image| image.reference.clone())) {
        (Some(revision), _) => format!("commit {}", revision.short()),
        (None, Some(reference)) => reference,
        (None, None) => match image {
            Some(_) => "an image without a name".to_owned(),
            None => "nothing is recorded yet".to_owned(),
        },
    }
}

/// The first seven digits of the commit, else those of the image.
fn version(view: &EnvironmentView) -> String {
    let revision = view.revision.as_ref().map(CommitId::as_str);
    let digest = view.image.as_ref().and_then(|image| image.shown_digest()).map(Digest::hex);
    revision.or(digest).and_then(|text| text.get(..7)).unwrap_or("none").to_owned()
}

/// The missing conditions of a promotion to it.
fn waiting(view: &EnvironmentView) -> Option<String> {
    view.waiting.as_ref().map(|message| evidence::waiting(&view.environment, message))
}

fn message(view: &EnvironmentView) -> Option<String> {
    match view.status {
        Condition::Held => {
            view.held.as_ref().map(|hold| format!("“{}” — {}", hold.reason, short_name(&hold.by)))
        }
        Condition::Progressing if view.reason != Reason::NothingRecorded => Some(sentence(&view.message)),
        _ if view.reason == Reason::AgentAway => {
            view.host.as_ref().map(|host| format!("The agent {host} is disconnected."))
        }
        _ => None,
    }
}

fn source(spec: &EnvironmentSpec) -> String {
    match &spec.supply {
        Supply::Branch { branch, .. } => format!("branch {branch}"),
        Supply::Promotion { from } => format!("from {from}"),
        Supply::Tag { .. } => "tag".to_owned(),
        Supply::Manual => "set by hand".to_owned(),
    }
}

/// The address at which an environment serves.
pub(super) fn address(spec: &EnvironmentSpec, place: &CardPlace<'_>) -> Option<CardAddress> {
    let proxy = match &spec.host {
        Some(host) => place.hub.proxy(host).unwrap_or(ReportedProxy::UNKNOWN),
        None => ReportedProxy::of(place.front),
    };
    if let (Some(name), Some(url)) = (spec.first_host_name(), proxy.url(spec)) {
        return Some(CardAddress { shown: name.to_string(), url: Some(url) });
    }
    let publish = spec.publish.as_ref()?;
    if let Some(host) = &spec.host {
        return Some(CardAddress { shown: format!("port {} of {host}", publish.port), url: None });
    }
    let port = publish.port;
    let shown = |host: &str| format!("{host}:{port}");
    let address = match publish.address {
        Some(ip) if ip.is_loopback() => {
            let text = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            // A browser on another host would reach its own loopback address.
            let is_here = place.host == "localhost"
                || place.host == "abide.localhost"
                || place.host.starts_with("127.");
            CardAddress { url: is_here.then(|| format!("http://{text}:{port}/")), shown: shown(&text) }
        }
        Some(ip) if !ip.is_unspecified() => {
            let text = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            CardAddress { url: Some(format!("http://{text}:{port}/")), shown: shown(&text) }
        }
        _ => {
            let host = if place.host == "abide.localhost" { "localhost" } else { place.host };
            CardAddress { url: Some(format!("http://{host}:{port}/")), shown: format!("port {port}") }
        }
    };
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_author_is_shown_without_the_address() {
        for (by, expected) in [
            ("alice", "alice"),
            ("token anna (192.0.2.7, page)", "anna"),
            ("github (li.wei)", "li.wei"),
            ("alice (page)", "alice"),
        ] {
            assert_eq!(short_name(by), expected);
        }
    }
}
