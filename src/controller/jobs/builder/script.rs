//! Builds with a team's own build script: abide runs the script unchanged and uses the image that it makes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::inputs::key_of;
use super::log::BuildLog;
use super::work::ActiveBuild;
use super::{BuildError, Builder, Task, limits, spawned, tag_prefix};
use crate::confined::{Limit, ScriptOrder, ScriptReport};
use crate::controller::docker::Aside;
use crate::model::build::BuildKey;
use crate::model::desired::Image;
use crate::model::reference::local_path;
use crate::model::spec::{BUILD_NUMBER, EnvValue, Recipe};
use crate::model::status::Reason;

/// In the temporary name of an image, this follows the prefix of the record.
pub(in crate::controller) const ASIDE: &str = "aside-";
/// Larger numbers do not come from builds.
const LARGEST_NUMBER: u64 = 1 << 40;

/// Variables of the daemon that a script inherits if they are set. They suffice to find programs, the engine
/// and the network proxy, and contain none of the daemon's secrets.
const HANDED_ON: [&str; 16] = [
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "DOCKER_BUILDKIT",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

impl ActiveBuild<'_> {
    /// Runs the script in the checkout and returns the image that it made.
    pub(super) async fn script(
        &mut self,
        tree: &Path,
        command: &[String],
        image: &str,
        env: &BTreeMap<String, EnvValue>,
        kept_as: &str,
    ) -> Result<Image, BuildError> {
        let number = self.number.to_string();
        let words: Vec<String> = command.iter().map(|word| word.replace(BUILD_NUMBER, &number)).collect();
        let image = image.replace(BUILD_NUMBER, &number);
        let env = self.variables(tree, env)?;
        // So an image that has the name afterwards was made or tagged by this run.
        let aside = self.set_aside(&image).await?;
        self.report(&format!("running {}", words.join(" ")));
        let ran = self.run_script(tree, &words, env).await;
        let made = match &ran {
            Ok(()) => self.builder.engine.image_id(&image).await,
            Err(_) => Ok(None),
        };
        let was_there = aside.is_some();
        if let Some(aside) = aside {
            aside.end().await?;
        }
        ran?;
        let id = made?.ok_or_else(|| made_none(&image, was_there))?;
        // Whatever the script later does with its own names, this one stays.
        let (repository, tag) = kept_as.rsplit_once(':').unwrap_or((kept_as, "latest"));
        self.builder.engine.tag(id.as_str(), repository, tag).await?;
        Ok(Image { reference: Some(image), digest: None, id: Some(id) })
    }

    async fn set_aside(&self, image: &str) -> Result<Option<Aside>, BuildError> {
        let (environment, record) = (&self.task.environment, &self.builder.record);
        let key = BuildKey(key_of(&image));
        let aside = format!("{}:{}{ASIDE}{}", local_path(environment), tag_prefix(record), key.short());
        Ok(self.builder.engine.set_aside(image, &aside).await?)
    }

    /// Returns all variables of the script's environment.
    fn variables(
        &mut self,
        tree: &Path,
        env: &BTreeMap<String, EnvValue>,
    ) -> Result<BTreeMap<OsString, OsString>, BuildError> {
        let handed_on = HANDED_ON.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?)));
        let mut variables: BTreeMap<OsString, OsString> = handed_on.collect();
        variables.insert("BUILD_NUMBER".into(), self.number.to_string().into());
        variables.insert("WORKSPACE".into(), tree.into());
        variables.insert("GIT_COMMIT".into(), self.task.revision.as_str().into());
        variables.insert("GIT_BRANCH".into(), self.task.branch.as_str().into());
        for (name, value) in env {
            let secret = crate::secret::value(value).map_err(|error| {
                BuildError::Unavailable(Reason::SecretMissing, format!("variable {name}: {error}"))
            })?;
            if matches!(value, EnvValue::Secret(_)) {
                self.log.hide(&secret);
            }
            variables.insert(name.into(), secret.expose().into());
        }
        Ok(variables)
    }

    async fn run_script(
        &mut self,
        tree: &Path,
        words: &[String],
        env: BTreeMap<OsString, OsString>,
    ) -> Result<(), BuildError> {
        let bounds = self.task.spec.bounds;
        let [program, arguments @ ..] = words else {
            return Err(BuildError::failed("the script is an empty list"));
        };
        let cannot = |error| BuildError::not_tried(format!("the script: {error}"));
        let log: &mut BuildLog = self.log;
        if !bounds.isolation {
            let report = spawned::unconfined(words, &env, tree, log).await.map_err(cannot)?;
            return verdict(program, report, 0, 0);
        }
        let (memory, pids) = (limits::memory(bounds.memory), bounds.pids);
        let order = ScriptOrder {
            program: program.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            env: env.into_iter().collect(),
            directory: tree.into(),
            hidden: self.builder.hidden(self.task),
            memory,
            pids,
        };
        match spawned::confined(&order, log).await.map_err(cannot)? {
            Some(report) => verdict(program, report, memory, pids),
            None => Err(BuildError::not_tried("the process that supervises the script was killed")),
        }
    }
}

impl Builder {
    /// Returns the paths that a script of this build must not see.
    fn hidden(&self, task: &Task) -> Vec<OsString> {
        let mut hidden = self.dirs.hidden.clone();
        hidden.extend(self.manifest.borrow().secret_files(&task.spec.overlay));
        hidden.into_iter().map(OsString::from).collect()
    }

    /// Returns the highest build number among this script's images on the engine. A new record after a loss
    /// counts from one again, and another system may have built before.
    pub(super) async fn taken_number(&self, task: &Task) -> Result<u64, BuildError> {
        let Recipe::Script { image, .. } = &task.spec.recipe else { return Ok(0) };
        if !image.contains(BUILD_NUMBER) {
            return Ok(0);
        }
        let found = self.engine.images_by("reference", image.replace(BUILD_NUMBER, "*")).await?;
        let names = found.iter().flat_map(|image| &image.names);
        Ok(names.filter_map(|name| number_in(name, image)).max().unwrap_or(0))
    }
}

/// Returns the build number in an image name that matches the template.
fn number_in(name: &str, template: &str) -> Option<u64> {
    let (before, _) = template.split_once(BUILD_NUMBER)?;
    let rest = name.strip_prefix(before)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let number = &rest[..end];
    let is_of_template = template.replace(BUILD_NUMBER, number) == name;
    number.parse().ok().filter(|number| is_of_template && *number <= LARGEST_NUMBER)
}

fn made_none(image: &str, was_there: bool) -> BuildError {
    let other = if was_there { ", only the one that existed before it ran" } else { "" };
    BuildError::failed(format!(
        "the script did not create the image {image}{other}; with `set -e` at its beginning, it would \
        end at the first failed command"
    ))
}

/// Derives the result of the build from the end of its script.
fn verdict(program: &str, report: ScriptReport, memory: u64, pids: u32) -> Result<(), BuildError> {
    Err(match report {
        ScriptReport::Ended(0) => return Ok(()),
        ScriptReport::Ended(code) => BuildError::failed(format!("the script exited with code {code}")),
        ScriptReport::Signal(_) => BuildError::failed("the script was terminated by a signal"),
        ScriptReport::Exceeded(Limit::Memory) => BuildError::failed(limits::of_memory("the script", memory)),
        ScriptReport::Exceeded(Limit::Pids) => BuildError::failed(limits::of_pids("the script", pids)),
        ScriptReport::NotStarted(why) => BuildError::failed(format!("cannot start {program}: {why}")),
        ScriptReport::NotConfined(why) => BuildError::not_tried(format!(
            "this host does not allow abide to isolate the script ({why}). Allow namespaces: use abide's \
            systemd unit, or start its container with `--cap-add SYS_ADMIN --security-opt \
            apparmor=unconfined`, or set `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; or set \
            `isolation = false` in `build`, but then everyone who can push there can read abide's secrets"
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_number_is_read_only_from_matching_names() {
        for (name, template, number) in [
            ("site:b12", "site:b{build_number}", Some(12)),
            ("site:b12-dev", "site:b{build_number}-dev", Some(12)),
            ("site:b12-test", "site:b{build_number}-dev", None),
            ("site:latest", "site:b{build_number}", None),
            ("site:b", "site:b{build_number}", None),
            ("site:b12", "other:b{build_number}", None),
            ("a7/site:b7", "a{build_number}/site:b{build_number}", Some(7)),
            ("site:b99999999999999999999", "site:b{build_number}", None),
            ("site:b18446744073709551615", "site:b{build_number}", None),
        ] {
            assert_eq!(number_in(name, template), number, "{name}");
        }
    }

    #[test]
    fn an_exceeded_script_limit_is_a_permanent_failure_naming_the_limit() {
        let of = |report| verdict("./build.sh", report, 6 << 30, 100);
        let Err(BuildError::Verdict(Reason::BuildFailed, words)) = of(ScriptReport::Exceeded(Limit::Memory))
        else {
            panic!("no verdict");
        };
        assert!(words.contains("6 GiB") && words.contains("`memory`"), "{words}");
        let Err(BuildError::Verdict(_, words)) = of(ScriptReport::Exceeded(Limit::Pids)) else {
            panic!("no verdict")
        };
        assert!(words.contains("100") && words.contains("`pids`"), "{words}");
        let refused = of(ScriptReport::NotConfined("unshare: not permitted".to_owned()));
        assert!(matches!(refused, Err(BuildError::Unavailable(..))));
    }
}
