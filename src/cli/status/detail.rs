//! All details of one environment.

use crate::cli::output::style::{self, BOLD, paint};
use crate::cli::output::text::{ago, ahead, one_line, safe_lines};
use crate::model::desired::{Hold, Image, Origin};
use crate::model::name::{CommitId, Digest};
use crate::model::status::{RunningContainer, VolumeView};
use crate::model::time::Timestamp;
use crate::model::view::EnvironmentView;

/// A headline, the message, then one line for each known property.
pub(crate) fn detail(view: &EnvironmentView, now: Timestamp) -> String {
    let mut text = headline(view, now);
    for line in safe_lines(&view.message) {
        text.push_str(&format!("  {line}\n"));
    }
    text.push('\n');
    let volumes = view.volumes.iter().map(|volume| ("volume", self::volume(volume)));
    let nodes = view.nodes.iter().map(|node| ("node", format!("{}: {}", node.name, node.describe())));
    for (label, value) in facts(view, now).into_iter().chain(nodes).chain(volumes) {
        text.push_str(&format!("  {label:<11} {}\n", one_line(&value)));
    }
    text
}

fn volume(volume: &VolumeView) -> String {
    let VolumeView { source, target, read_only, declared, mounted } = volume;
    let read_only = if *read_only { ":ro" } else { "" };
    let note = match (declared, mounted) {
        (_, false) => " (kept, not mounted)",
        (false, true) => " (not declared: a VOLUME of the image)",
        (true, true) => "",
    };
    format!("{source}:{target}{read_only}{note}")
}

/// `dev  Ready (AsRecorded) since 3m ago`
pub(crate) fn headline(view: &EnvironmentView, now: Timestamp) -> String {
    let name = paint(BOLD, view.environment.as_str());
    let status = paint(style::condition(view.status), view.status.as_str());
    let since = view.since.map_or_else(String::new, |since| format!(", since {}", ago(now, since)));
    format!("{name}  {status} ({}){since}\n", view.reason.as_str())
}

fn facts(view: &EnvironmentView, now: Timestamp) -> Vec<(&'static str, String)> {
    let image = view.image.as_ref();
    let facts = [
        ("generation", Some(generation(view))),
        ("origin", view.origin.map(Origin::as_str).map(ToOwned::to_owned)),
        ("revision", view.revision.as_ref().map(CommitId::to_string)),
        ("image", image.and_then(|image| image.reference.clone())),
        ("digest", image.and_then(|image| image.digest.as_ref()).map(Digest::to_string)),
        ("image id", image.and_then(|image| image.id.as_ref()).map(Digest::to_string)),
        ("container", view.container.clone()),
        ("running", Some(running(view.running.as_ref(), image, now))),
        ("port", view.port.map(|port| port.to_string())),
        ("host", Some(view.host.clone().unwrap_or_else(|| "this host".to_owned()))),
        ("canary", view.canary.as_ref().map(|canary| canary.summary.clone())),
        ("waiting", view.waiting.clone()),
        ("held", view.held.as_ref().map(|hold| held(hold, now))),
        ("certificate", view.certificate_expires.map(|at| format!("expires {}", ahead(now, at)))),
        ("next retry", view.next_retry.map(|at| ahead(now, at))),
    ];
    facts.into_iter().filter_map(|(label, value)| Some((label, value?))).collect()
}

/// The controller may not have processed the newest generation yet.
fn generation(view: &EnvironmentView) -> String {
    match view.observed_generation {
        Some(seen) if seen == view.generation => view.generation.to_string(),
        Some(seen) => format!("{} (status of generation {seen})", view.generation),
        None => format!("{} (not reconciled yet)", view.generation),
    }
}

fn running(container: Option<&RunningContainer>, recorded: Option<&Image>, now: Timestamp) -> String {
    let Some(container) = container else { return "nothing".to_owned() };
    let id: String = container.container_id.chars().take(12).collect();
    let started = container.started_at.map_or_else(String::new, |at| format!(", started {}", ago(now, at)));
    let other =
        container.image_id.as_ref().filter(|id| recorded.and_then(|image| image.id.as_ref()) != Some(id));
    let image = other.map_or_else(String::new, |id| format!(", with image {}", id.short()));
    let restarts = match container.restarts {
        0 => String::new(),
        1 => ", restarted once".to_owned(),
        many => format!(", restarted {many} times"),
    };
    format!("{id}{started}{image}{restarts}")
}

fn held(hold: &Hold, now: Timestamp) -> String {
    let kept = hold.generation.map_or_else(
        || ", with nothing running".to_owned(),
        |generation| format!(", at generation {generation}"),
    );
    format!("by {} {}{kept}: {}", hold.by, ago(now, hold.since), hold.reason)
}
