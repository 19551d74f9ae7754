//! References to parts of the manifest that it does not declare.

use super::{Declarations, promotion_path};
use crate::model::manifest::keys::nearest;
use crate::model::manifest::places::Places;
use crate::model::manifest::problem::Problem;
use crate::model::mount::{Mount, VolumeName};
use crate::model::name::{EnvironmentName, RepositoryName};
use crate::model::spec::Supply;

/// Repositories and environments that are referenced but not declared.
pub(super) fn lost_references(declared: &Declarations, places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, draft) in &declared.environments {
        match &draft.supply {
            Some(Supply::Branch { repository, .. }) if !declared.repositories.contains_key(repository) => {
                let known = declared.repositories.keys().map(RepositoryName::as_str);
                let message = lost("repository", repository.as_str(), known);
                found.push(places.problem(&format!("environment.{name}.source.repository"), message));
            }
            Some(Supply::Promotion { from }) if !declared.environments.contains_key(from) => {
                let known = declared.environments.keys().map(EnvironmentName::as_str);
                let message =
                    lost("environment", from.as_str(), known.filter(|known| *known != name.as_str()));
                found.push(places.problem(&promotion_path(places, name), message));
            }
            _ => {}
        }
    }
    found
}

pub(in crate::model::manifest) fn lost<'k>(
    kind: &str,
    name: &str,
    known: impl Iterator<Item = &'k str> + Clone,
) -> String {
    if let Some(near) = nearest(name, known.clone()) {
        return format!("unknown {kind} `{name}`; did you mean `{near}`?");
    }
    let known: Vec<&str> = known.collect();
    if known.is_empty() {
        return format!("unknown {kind} `{name}`; declare it as `[{kind}.{name}]`");
    }
    format!("unknown {kind} `{name}`; the manifest declares {}", known.join(", "))
}

/// Channels that select an environment that is not declared.
pub(super) fn lost_environments_of_channels(declared: &Declarations, places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, spec) in &declared.channels {
        let chosen = spec.iter().filter_map(|spec| spec.environments.as_ref()).flatten();
        for environment in chosen.filter(|chosen| !declared.environments.contains_key(*chosen)) {
            let known = declared.environments.keys().map(EnvironmentName::as_str);
            let message = lost("environment", environment.as_str(), known);
            found.push(places.problem(&format!("notify.{name}.environments"), message));
        }
    }
    found
}

/// Backups of volumes that their environment does not mount.
pub(super) fn lost_volumes_of_jobs(declared: &Declarations, places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, job) in &declared.jobs {
        let backup = job.spec.as_ref().and_then(|spec| spec.backup.as_ref());
        let environment = job.environment.as_ref().and_then(|name| declared.environments.get(name));
        let (Some(backup), Some(environment)) = (backup, environment) else { continue };
        let volumes: Vec<&str> =
            environment.volumes.iter().filter_map(Mount::volume).map(VolumeName::as_str).collect();
        if !volumes.contains(&backup.volume.as_str()) {
            let message = match volumes.as_slice() {
                [] => {
                    format!("`volume` names {}, but the environment mounts no volume", backup.volume.as_str())
                }
                known => format!(
                    "`volume` names {}, which the environment does not mount; it mounts {}",
                    backup.volume.as_str(),
                    known.join(", ")
                ),
            };
            found.push(places.problem(&format!("job.{name}.backup.volume"), message));
        }
    }
    found
}

/// Jobs of an environment that is not declared.
pub(super) fn lost_environments_of_jobs(declared: &Declarations, places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, job) in &declared.jobs {
        let Some(environment) = &job.environment else { continue };
        if !declared.environments.contains_key(environment) {
            let known = declared.environments.keys().map(EnvironmentName::as_str);
            let message = lost("environment", environment.as_str(), known);
            found.push(places.problem(&format!("job.{name}.environment"), message));
        }
    }
    found
}
