//! Finds an environment by the name that a user typed.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::error::ApiError;
use super::{ApiState, ManifestState};
use crate::model::name::{AgentName, EnvironmentName, GroupName};
use crate::model::spec::EnvironmentSpec;
use crate::model::view::RecordChange;
use crate::record::RecordError;

/// The maximum number of wrong letters for a name to be suggested.
const TYPING_ERRORS: usize = 2;

/// The environment that the URL names; it is declared in the manifest or recorded.
pub(super) struct FoundEnvironment {
    pub(super) name: EnvironmentName,
    manifest: Arc<ManifestState>,
}

impl FoundEnvironment {
    /// Its declaration; `None` if it is no longer in the manifest.
    pub(super) fn spec(&self) -> Option<&EnvironmentSpec> {
        self.manifest.manifest.environments.get(&self.name)
    }

    /// The agent that runs it; `None` if this host or nobody does.
    pub(super) fn host(&self) -> Option<&AgentName> {
        self.spec()?.host.as_ref()
    }

    /// Its declaration, for requests that need one.
    pub(super) fn declared(&self) -> Result<&EnvironmentSpec, ApiError> {
        self.spec().ok_or_else(|| {
            let name = &self.name;
            ApiError::unprocessable(format!("`{name}` is no longer in the manifest: declare it first"))
        })
    }
}

/// The target of a command: an environment, or a group with all its members.
pub(super) struct CommandTarget {
    /// The name, of either kind.
    pub(super) name: EnvironmentName,
    /// The group; `None`: it is an environment.
    pub(super) group: Option<GroupName>,
    /// The environments to change, in one write.
    pub(super) members: Vec<FoundEnvironment>,
}

impl From<FoundEnvironment> for CommandTarget {
    fn from(found: FoundEnvironment) -> Self {
        Self { name: found.name.clone(), group: None, members: vec![found] }
    }
}

impl CommandTarget {
    /// Refuses an environment that is no longer in the manifest.
    pub(super) fn is_declared(&self) -> Result<(), ApiError> {
        self.members.iter().try_for_each(|found| found.declared().map(|_| ()))
    }

    /// Refuses a member of a group, which changes only as one; `what` is done to it.
    pub(super) fn is_whole(&self, what: &str) -> Result<(), ApiError> {
        let [FoundEnvironment { name, .. }] = self.members.as_slice() else { return Ok(()) };
        let group = self.members.iter().find_map(|found| found.spec()?.group.as_ref());
        match group.filter(|_| self.group.is_none()) {
            None => Ok(()),
            Some(group) => Err(ApiError::conflict(format!(
                "`{name}` is a member of the group `{group}`, which is {what} as one: name the group"
            ))),
        }
    }

    /// Refuses an option that is about one environment.
    pub(super) fn is_one_for(&self, option: &str, is_given: bool) -> Result<(), ApiError> {
        if self.group.is_none() || !is_given {
            return Ok(());
        }
        Err(ApiError::bad_request(format!(
            "`{option}` is about one environment, and `{}` is a group",
            self.name
        )))
    }

    /// The names of the environments.
    pub(super) fn environments(&self) -> impl Iterator<Item = &EnvironmentName> {
        self.members.iter().map(|found| &found.name)
    }

    /// The answer, from those of the environments.
    pub(super) fn answer(&self, mut members: Vec<RecordChange>) -> RecordChange {
        if self.group.is_none()
            && let Some(only) = members.pop()
        {
            return only;
        }
        let messages: Vec<&str> = members.iter().map(|member| member.message.as_str()).collect();
        RecordChange {
            environment: self.name.clone(),
            generation: members.iter().map(|member| member.generation).max().unwrap_or_default(),
            changed: members.iter().any(|member| member.changed),
            message: messages.join("; "),
            failed: members.iter().any(|member| member.failed),
            members,
        }
    }
}

impl FromRequestParts<ApiState> for CommandTarget {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        state.find_after_edits(parts, ApiState::target).await
    }
}

/// An environment by its own name, not by that of a declaration with replicas. The manifest is always read again: its
/// command depends on the declaration being removed.
pub(super) struct ExactEnvironment(pub(super) FoundEnvironment);

impl FromRequestParts<ApiState> for ExactEnvironment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let name = named(parts, state).await?;
        state.fresh_manifest().await;
        state.find_exactly(&name).map(Self)
    }
}

/// The environment in a path, which may have other parameters too.
#[derive(serde::Deserialize)]
struct NamedInPath {
    environment: String,
}

impl FromRequestParts<ApiState> for FoundEnvironment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        state.find_after_edits(parts, ApiState::find).await
    }
}

async fn named(parts: &mut Parts, state: &ApiState) -> Result<String, ApiError> {
    let named = Path::<NamedInPath>::from_request_parts(parts, state).await;
    // A text can only fail to be one.
    let unreadable = "invalid path: the name of the environment is not UTF-8";
    let Path(NamedInPath { environment }) =
        named.map_err(|error| ApiError::refused(error.status(), unreadable))?;
    Ok(environment)
}

impl ApiState {
    /// Finds what the URL names by `find`. If that fails, it reads the manifest again, because a user may have just
    /// added what the command names.
    async fn find_after_edits<T>(
        &self,
        parts: &mut Parts,
        find: impl Fn(&Self, &str) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let name = named(parts, self).await?;
        if let Ok(found) = find(self, &name) {
            return Ok(found);
        }
        self.fresh_manifest().await;
        find(self, &name)
    }

    /// Finds the environment called `text`; of one that is declared with replicas, the first slot.
    ///
    /// # Errors
    /// Not found, with the most similar name, or all names.
    pub(super) fn find(&self, text: &str) -> Result<FoundEnvironment, ApiError> {
        let manifest = Arc::clone(&self.manifest.borrow());
        if let Some(name) = manifest.manifest.first_slot(text).cloned() {
            return Ok(FoundEnvironment { name, manifest });
        }
        self.find_exactly(text)
    }

    /// Finds the environment called `text`, even if another one is declared by that name with replicas.
    ///
    /// # Errors
    /// As [`Self::find`].
    fn find_exactly(&self, text: &str) -> Result<FoundEnvironment, ApiError> {
        let manifest = Arc::clone(&self.manifest.borrow());
        if let Ok(name) = EnvironmentName::new(text)
            && (manifest.manifest.environments.contains_key(&name) || self.desired.has(&name)?)
        {
            return Ok(FoundEnvironment { name, manifest });
        }
        Err(ApiError::not_found(unknown(text, &self.names()?)))
    }

    /// Finds the environment or the group called `text`.
    ///
    /// # Errors
    /// Not found, with the most similar name of an environment, or all of them.
    pub(super) fn target(&self, text: &str) -> Result<CommandTarget, ApiError> {
        let manifest = Arc::clone(&self.manifest.borrow());
        let group = GroupName::new(text).ok();
        let members = |group: &GroupName| {
            let names = manifest.manifest.members(group);
            let found = |name: &EnvironmentName| FoundEnvironment {
                name: name.clone(),
                manifest: Arc::clone(&manifest),
            };
            names.map(found).collect::<Vec<_>>()
        };
        let found = group.map(|group| (members(&group), group)).filter(|(members, _)| !members.is_empty());
        match (found, EnvironmentName::new(text)) {
            (Some((members, group)), Ok(name)) => Ok(CommandTarget { name, group: Some(group), members }),
            _ => self.find(text).map(CommandTarget::from),
        }
    }

    /// Returns every environment that is declared or recorded.
    pub(super) fn names(&self) -> Result<BTreeSet<EnvironmentName>, RecordError> {
        let recorded = self.desired.names()?;
        Ok(self.manifest.borrow().manifest.environments.keys().cloned().chain(recorded).collect())
    }
}

fn unknown(text: &str, names: &BTreeSet<EnvironmentName>) -> String {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
    let distance = |name: &EnvironmentName| strsim::osa_distance(&shown, name.as_str());
    let meant = names.iter().filter(|name| distance(name) <= TYPING_ERRORS).min_by_key(|name| distance(name));
    match meant {
        Some(meant) => format!("unknown environment `{shown}`; did you mean `{meant}`?"),
        None if names.is_empty() => format!("unknown environment `{shown}`; the manifest declares none"),
        None => {
            let all: Vec<_> = names.iter().map(EnvironmentName::as_str).collect();
            format!("unknown environment `{shown}`; known environments: {}", all.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_gets_a_suggestion_and_an_overlong_one_is_ignored() {
        let names = ["dev", "test"].map(|name| EnvironmentName::new(name).unwrap()).into();
        for (text, expected) in [("tset", "did you mean `test`?"), ("de", "did you mean `dev`?")] {
            assert!(unknown(text, &names).ends_with(expected), "{}", unknown(text, &names));
        }
        for other in ["production", "", &"test".repeat(10_000)] {
            assert!(
                unknown(other, &names).ends_with("known environments: dev, test"),
                "{}",
                unknown(other, &names)
            );
        }
    }
}
