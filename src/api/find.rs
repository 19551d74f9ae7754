//! Finds an environment by the name that a user typed.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::error::ApiError;
use super::{ApiState, ManifestState};
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::spec::EnvironmentSpec;
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

impl FromRequestParts<ApiState> for FoundEnvironment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::refused(error.status(), error.body_text()))?;
        state.find(&text)
    }
}

impl ApiState {
    /// Finds the environment called `text`.
    ///
    /// # Errors
    /// Not found, with the most similar name, or all names.
    pub(super) fn find(&self, text: &str) -> Result<FoundEnvironment, ApiError> {
        let manifest = Arc::clone(&self.manifest.borrow());
        let names = self.names()?;
        match names.iter().find(|name| name.as_str() == text) {
            Some(name) => Ok(FoundEnvironment { name: name.clone(), manifest }),
            None => Err(ApiError::not_found(unknown(text, &names))),
        }
    }

    /// Returns every environment that is declared or recorded.
    pub(super) fn names(&self) -> Result<BTreeSet<EnvironmentName>, RecordError> {
        let recorded = self.desired.all()?.into_iter().map(|desired| desired.environment);
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
    fn a_mistyped_name_is_found_and_a_long_one_costs_nothing() {
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
