//! Which commits concern an environment that declares relevant paths.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::context::ignore::IgnoreRules;
use crate::controller::jobs::builder::Builder;
use crate::model::error::chain;
use crate::model::name::{BranchName, CommitId, EnvironmentName};
use crate::model::spec::{BuildSpec, BuildStep, Recipe};
use crate::record::DesiredReader;

/// The relevant paths of the environments of one repository.
pub(super) struct Paths {
    builder: Arc<Builder>,
    desired: DesiredReader,
    url: String,
    patterns: BTreeMap<EnvironmentName, Vec<String>>,
    /// The recorded commit and the head of the last comparison without relevant changes.
    passed: Mutex<HashMap<EnvironmentName, (CommitId, CommitId)>>,
}

impl Paths {
    pub(super) fn new(
        builder: Arc<Builder>,
        desired: DesiredReader,
        url: String,
        patterns: BTreeMap<EnvironmentName, Vec<String>>,
    ) -> Self {
        Self { builder, desired, url, patterns, passed: Mutex::default() }
    }

    /// Whether a branch's head differs from the recorded commit in a path that concerns the environment. If
    /// there is no commit to compare it with, it does.
    ///
    /// # Errors
    /// Returns a sentence if the two cannot be compared now.
    pub(super) async fn concern(
        &self,
        environment: &EnvironmentName,
        branch: &BranchName,
        head: &CommitId,
    ) -> Result<bool, String> {
        let Some(patterns) = self.patterns.get(environment) else { return Ok(true) };
        let desired = self.desired.get(environment).map_err(|error| chain(&error))?;
        let is_taken = desired.head.as_ref() == Some(head) && desired.passed_over.as_ref() != Some(head);
        let Some(recorded) = desired.entry.revision.filter(|recorded| !is_taken && recorded != head) else {
            return Ok(true);
        };
        let compared = (recorded, head.clone());
        if self.passed().get(environment) == Some(&compared) {
            return Ok(false);
        }
        let rules = IgnoreRules::parse(&patterns.join("\n"))
            .map_err(|error| format!("invalid `paths` of {environment}: {}", chain(&error)))?;
        let remote = self.builder.remote(&self.url).map_err(|error| chain(&error))?;
        let mirror = self.builder.mirror(remote);
        let counts = |path: &[u8]| rules.is_ignored(&String::from_utf8_lossy(path));
        let touches =
            mirror.touches(&compared.0, head, branch, counts).await.map_err(|error| chain(&error))?;
        if !touches {
            self.passed().insert(environment.clone(), compared);
        }
        Ok(touches)
    }

    /// The newest commits of a branch with the head `head`, along the first parents, newest first.
    ///
    /// # Errors
    /// Returns a sentence if git cannot list them now.
    pub(super) async fn newest(
        &self,
        branch: &BranchName,
        head: &CommitId,
        most: usize,
    ) -> Result<Vec<CommitId>, String> {
        let remote = self.builder.remote(&self.url).map_err(|error| chain(&error))?;
        let mirror = self.builder.mirror(remote);
        mirror.ensure(head, Some(branch)).await.map_err(|error| chain(&error))?;
        mirror.first_parents(head, most).await.map_err(|error| chain(&error))
    }

    fn passed(&self) -> std::sync::MutexGuard<'_, HashMap<EnvironmentName, (CommitId, CommitId)>> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The patterns of a build that declares some, with the files that it always needs: its Dockerfiles, their
/// ignore files and its script.
pub(super) fn patterns(build: &BuildSpec) -> Vec<String> {
    if build.paths.is_empty() {
        return Vec::new();
    }
    let mut patterns = build.paths.clone();
    if patterns.iter().all(|pattern| pattern.starts_with('!')) {
        // All paths except these.
        patterns.insert(0, "**".to_owned());
    }
    match &build.recipe {
        Recipe::Script { command, .. } => patterns.extend(command.first().cloned()),
        Recipe::Dockerfile { context, dockerfile, steps, .. } => {
            patterns.extend(recipes(context, dockerfile));
            for step in steps {
                if let BuildStep::Dockerfile { context, dockerfile, .. } = step {
                    patterns.extend(recipes(context, dockerfile));
                }
            }
        }
    }
    patterns
}

fn recipes(context: &str, dockerfile: &str) -> [String; 3] {
    let ignore = format!("{dockerfile}.dockerignore");
    [dockerfile, &ignore, ".dockerignore"].map(|name| Path::new(context).join(name).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::{SourceFile, parse};

    /// Whether a change of `path` concerns an environment whose build has `lines`.
    fn concerns(lines: &str, path: &str) -> bool {
        let text = format!(
            "[repository.r]\nurl = \"/r\"\n[environment.dev]\ncontainer = \"dev\"\nport = 1\n\
             source = {{ repository = \"r\", branch = \"b\" }}\n[environment.dev.build]\n{lines}\n"
        );
        let manifest = parse(&[SourceFile { name: "m.toml".to_owned(), text }]).unwrap();
        let build = manifest.environments.into_values().next().unwrap().build.unwrap();
        IgnoreRules::parse(&patterns(&build).join("\n")).unwrap().is_ignored(path)
    }

    #[test]
    fn declared_paths_and_build_inputs_are_relevant_to_a_build() {
        let lines = "paths = [\"apps/a/**\", \"!**/*.md\"]\ncontext = \".\"\ndockerfile = \"docker/a\"\n\
                     step = [{ dockerfile = \"D\", context = \"web\", output = \"o\" }]";
        for path in ["apps/a/x", "apps/a/b/c", "docker/a", ".dockerignore", "web/D", "web/D.dockerignore"] {
            assert!(concerns(lines, path), "{path}");
        }
        for path in ["apps/b/x", "apps/a/x.md", "README", "docker/b", "web/x"] {
            assert!(!concerns(lines, path), "{path}");
        }
        let script = "paths = [\"src\"]\nscript = [\"./ci/build.sh\"]\nimage = \"x:b{build_number}\"";
        assert!(concerns(script, "src/deep/x") && concerns(script, "ci/build.sh") && !concerns(script, "x"));
    }

    #[test]
    fn path_exceptions_alone_apply_to_all_paths() {
        assert!(concerns("paths = [\"!docs/**\"]", "x") && !concerns("paths = [\"!docs/**\"]", "docs/x"));
    }
}
