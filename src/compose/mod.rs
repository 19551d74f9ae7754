//! Manifests from compose files.
//!
//! [`convert`] reads a compose project as compose does (`project`, with `yaml`, `interpolate` and `merge`), turns
//! each service into an environment (`service` and its neighbours), and writes a manifest (`draft`). It opens no
//! file itself: [`ComposeInput::read`] does. Whatever the manifest's own parser rejects is not written, and is
//! reported instead, so every manifest that comes from here is valid.

mod advice;
mod basic_auth;
mod build;
mod draft;
mod health;
mod interpolate;
mod literals;
mod merge;
mod network;
mod project;
mod secret_names;
mod secret_parts;
mod secrets;
mod service;
mod settings;
mod storage;
mod time;
mod volume;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use self::draft::{EnvironmentDraft, GroupDraft, comment, gone_note, quoted_key, toml};
use self::project::ComposeProject;
use self::service::Context;
use crate::model::manifest::{self, SourceFile};
use crate::model::name::{EnvironmentName, GroupName};

/// The most rounds of leaving out environments that the parser rejects.
const MOST_ROUNDS: usize = 1000;

/// Reads a file as text.
pub(crate) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// Everything that a conversion depends on.
pub(crate) struct ComposeInput<'a> {
    /// The compose files, as absolute paths; later files override earlier ones.
    pub(crate) files: &'a [PathBuf],
    /// Files of variables; empty: `.env` beside the first file, if there is one.
    pub(crate) env_files: &'a [PathBuf],
    /// The variables of the process, which go before those of files.
    pub(crate) environment: &'a BTreeMap<String, String>,
    /// The selected profiles.
    pub(crate) profiles: &'a [String],
    /// The project's name, if a user gives it.
    pub(crate) project: Option<&'a str>,
    /// The folder of the manifest, an absolute path.
    pub(crate) out: &'a Path,
    /// The repository that the files are in.
    pub(crate) checkout: Checkout,
    /// The containers of compose that run on this host.
    pub(crate) running: &'a [RunningService],
    /// This host's platform, such as `linux/amd64`.
    pub(crate) platform: &'a str,
    /// Reads a file.
    pub(crate) read: ReadFile<'a>,
    /// Whether something exists at a path.
    pub(crate) exists: &'a dyn Fn(&Path) -> bool,
}

impl ComposeInput<'_> {
    /// A path as the manifest names it: relative to its folder, if that is beside or above the path.
    pub(crate) fn written_path(&self, path: &str) -> String {
        let full = Path::new(path);
        if let Ok(inside) = full.strip_prefix(self.out) {
            return format!("./{}", inside.display());
        }
        match self.out.parent().map(|above| full.strip_prefix(above)) {
            // At the root, every path is inside.
            Some(Ok(beside)) if self.out.parent() != Some(Path::new("/")) => {
                format!("../{}", beside.display())
            }
            _ => path.to_owned(),
        }
    }
}

/// A container that compose runs.
#[derive(Clone, Debug)]
pub(crate) struct RunningService {
    /// The project.
    pub(crate) project: String,
    /// The service.
    pub(crate) service: String,
    /// The container's name.
    pub(crate) name: String,
}

/// A git repository.
#[derive(Clone, Debug)]
pub(crate) struct Checkout {
    /// The folder of the working tree.
    pub(crate) root: PathBuf,
    /// The URL of its remote, or its path.
    pub(crate) url: String,
    /// The branch that is checked out.
    pub(crate) branch: String,
    /// Whether there is a repository at all.
    pub(crate) is_known: bool,
}

/// Why there is no manifest: a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ComposeError(String);

/// A converted project.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Converted {
    /// The project's name.
    pub(crate) project: String,
    /// The manifest; empty if no service can be expressed.
    #[serde(skip)]
    pub(crate) manifest: String,
    /// Files that it mounts, by their path in its folder.
    #[serde(skip)]
    pub(crate) files: BTreeMap<String, String>,
    /// The services, in order.
    pub(crate) services: Vec<ConvertedService>,
    /// The daemon's variables that hold secrets, and the present places of their values.
    pub(crate) secrets: BTreeMap<String, String>,
    /// Services that are off, with their profiles.
    pub(crate) off: BTreeMap<String, String>,
    /// Variables that have no value and that the file requires, with its message.
    pub(crate) missing: BTreeMap<String, String>,
    /// Variables that have no value, and are empty texts in the manifest.
    pub(crate) empty: BTreeSet<String>,
}

/// The result of one service.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConvertedService {
    /// The service.
    pub(crate) service: String,
    /// The environment that it became; `None`: it cannot be expressed.
    pub(crate) environment: Option<String>,
    /// What matters at run time and cannot be expressed.
    pub(crate) lost: Vec<String>,
    /// What has to be done before the start.
    pub(crate) first: Vec<String>,
    /// Settings that are written in another way.
    pub(crate) notes: Vec<String>,
}

/// Converts a compose project.
///
/// # Errors
/// Returns [`ComposeError`] if the files are not a project that compose would run.
pub(crate) fn convert(input: &ComposeInput<'_>) -> Result<Converted, ComposeError> {
    let project = project::load(input).map_err(|error| ComposeError(secrets::shown(&error.0)))?;
    let (mut references, mut files) = (BTreeMap::new(), BTreeMap::new());
    let shared = shared_sources(&project);
    let checkout = widened(&input.checkout, &project);
    let mut drafts = Vec::new();
    for (name, node) in &project.services {
        let (secrets, files) = (&mut references, &mut files);
        let mut context =
            Context { input, project: &project, checkout: &checkout, secrets, files, shared: &shared };
        drafts.push(service::convert(&mut context, name, node));
    }
    name_apart(&mut drafts);
    let manifest = accepted(input, &checkout, &project, &mut drafts);
    references.retain(|variable, _| {
        manifest.contains(&format!("secret_env = {}", toml(&Value::from(variable.as_str()))))
    });
    files.retain(|file, _| manifest.contains(file.as_str()));
    let empty = drafts.iter().flat_map(|draft| draft.unset.iter().cloned()).collect();
    let services = drafts.into_iter().map(|draft| {
        let gone = draft.group.into_iter().flat_map(|group| group.gone);
        ConvertedService {
            environment: draft.lost.is_empty().then_some(draft.environment),
            service: draft.service,
            lost: draft.lost,
            first: draft.actions,
            notes: draft.changed.into_iter().chain(gone.map(|service| gone_note(&service))).collect(),
        }
    });
    Ok(Converted {
        project: project.name.clone(),
        manifest,
        files,
        services: services.collect(),
        secrets: references,
        off: project.off.into_iter().map(|(name, profiles)| (name, secrets::shown(&profiles))).collect(),
        missing: project
            .unset
            .required
            .into_iter()
            .map(|it| (it.name, secrets::shown(&it.message)))
            .collect(),
        empty,
    })
}

/// The smallest manifest: one environment that is built from a branch.
pub(crate) fn smallest(name: &str, checkout: &Checkout, port: Option<u16>, context: Option<&Path>) -> String {
    let text = |text: &str| toml(&Value::from(text));
    let port = match port {
        Some(port) => format!("port = {port}"),
        None => {
            "# port = 8080    # the port that the program listens on; without one, it is a worker".to_owned()
        }
    };
    let build =
        context.map(|context| format!("build = {{ context = {} }}\n", text(&context.display().to_string())));
    format!(
        "[repository.{key}]\nurl = {url}\n\n[environment.{key}]\ncontainer = {container}\n{port}\n\
         source = {{ repository = {repository}, branch = {branch} }}\n{build}",
        key = quoted_key(name),
        url = text(&checkout.url),
        container = text(name),
        repository = text(name),
        branch = text(&checkout.branch),
        build = build.unwrap_or_default(),
    )
}

/// The repository of all builds. Without git, it is the folder above all of their contexts.
fn widened(checkout: &Checkout, project: &ComposeProject) -> Checkout {
    let mut root = checkout.root.clone();
    let builds = project.services.iter().filter_map(|(_, service)| service.get("build")?.get_text("context"));
    for context in builds.filter(|context| !project::is_remote(context) && !checkout.is_known) {
        while !Path::new(context).starts_with(&root) && root.pop() {}
    }
    if root == checkout.root {
        return checkout.clone();
    }
    Checkout { url: root.display().to_string(), root, ..checkout.clone() }
}

/// The sources that more than one service writes.
fn shared_sources(project: &ComposeProject) -> Vec<String> {
    let mut writers: BTreeMap<String, usize> = BTreeMap::new();
    for (_, service) in &project.services {
        let mounts = storage::mounts_of(project, service, 0);
        let written = mounts.iter().filter(|mount| !storage::is_read_only(mount));
        let mut sources: Vec<String> = written.filter_map(|mount| storage::source(project, mount)).collect();
        sources.sort();
        sources.dedup();
        for source in sources {
            *writers.entry(source).or_default() += 1;
        }
    }
    writers.into_iter().filter(|(_, count)| *count > 1).map(|(source, _)| source).collect()
}

/// Gives environments whose names became equal different ones.
fn name_apart(drafts: &mut [EnvironmentDraft]) {
    let mut known: Vec<String> = Vec::new();
    for draft in drafts {
        let name = draft.environment.clone();
        let mut number = 2;
        while known.contains(&draft.environment) {
            draft.environment = format!("{}-{number}", name.chars().take(58).collect::<String>());
            number += 1;
        }
        known.push(draft.environment.clone());
    }
}

/// Makes one group of all services that can be expressed, if there are several, and translates their dependencies.
fn group(project: &ComposeProject, drafts: &mut [EnvironmentDraft]) {
    let there: BTreeMap<String, String> = drafts
        .iter()
        .filter(|draft| draft.lost.is_empty())
        .map(|draft| (draft.service.clone(), draft.environment.clone()))
        .collect();
    let group = GroupName::new(service::plain(&project.name)).ok().filter(|_| there.len() > 1);
    for draft in drafts {
        draft.group = group.as_ref().map(|group| {
            let mut of = GroupDraft { name: group.to_string(), needs: Map::new(), gone: Vec::new() };
            for (service, condition) in &draft.needs {
                match there.get(service).and_then(|name| EnvironmentName::new(name.as_str()).ok()) {
                    Some(name) => {
                        drop(of.needs.insert(group.short(&name).to_owned(), condition.as_str().into()));
                    }
                    None => of.gone.push(service.clone()),
                }
            }
            of
        });
    }
}

/// The manifest of all drafts that the manifest's parser accepts. The others get its problem.
fn accepted(
    input: &ComposeInput<'_>,
    checkout: &Checkout,
    project: &ComposeProject,
    drafts: &mut [EnvironmentDraft],
) -> String {
    for _ in 0..MOST_ROUNDS {
        group(project, drafts);
        let (text, owners) = written(input, checkout, project, drafts);
        let file = SourceFile { name: "compose".to_owned(), text: text.clone() };
        let Err(problems) = manifest::parse_with_places(&[file], input.out.to_str()) else { return text };
        let mut is_changed = false;
        for problem in problems {
            let owner = problem.line.and_then(|line| owners.get(line.saturating_sub(1)).copied().flatten());
            if let Some(draft) = owner.and_then(|owner| drafts.get_mut(owner)) {
                draft.lose(problem.message);
                is_changed = true;
            }
        }
        if !is_changed {
            break;
        }
    }
    String::new()
}

/// The text of a manifest, and the draft that each of its lines belongs to.
fn written(
    input: &ComposeInput<'_>,
    checkout: &Checkout,
    project: &ComposeProject,
    drafts: &[EnvironmentDraft],
) -> (String, Vec<Option<usize>>) {
    let (mut lines, mut owners) = (Vec::new(), Vec::new());
    let mut add = |owner: Option<usize>, text: &str| {
        for line in text.split('\n') {
            lines.push(line.to_owned());
            owners.push(owner);
        }
    };
    head(input, checkout, project, drafts).iter().for_each(|line| add(None, line));
    for (index, draft) in drafts.iter().enumerate() {
        add(None, "");
        if draft.lost.is_empty() {
            draft.written().iter().for_each(|line| add(Some(index), line));
        } else {
            add(None, &format!("# Service {} (line {}) is not here:", draft.service, draft.line));
            draft.lost.iter().for_each(|why| add(None, &format!("# lost: {}", comment(why))));
        }
    }
    // Only comments can still hold the mark of a secret.
    (secrets::shown(&lines.join("\n")) + "\n", owners)
}

fn head(
    input: &ComposeInput<'_>,
    checkout: &Checkout,
    project: &ComposeProject,
    drafts: &[EnvironmentDraft],
) -> Vec<String> {
    let files: Vec<String> = input
        .files
        .iter()
        .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let mut lines = vec![
        format!("# The compose project {}, from {}.", project.name, comment(&files.join(", "))),
        "# `abide check` validates this file; `abide adopt` takes the running containers over.".to_owned(),
    ];
    for (service, profiles) in &project.off {
        lines.push(format!(
            "# Service {} is off: select one of its profiles ({}) with --profile.",
            comment(service),
            comment(profiles)
        ));
    }
    let builds = drafts.iter().any(|draft| {
        draft.lost.is_empty()
            && draft.get("source").is_some_and(|source| source["repository"] == project.name.as_str())
    });
    if builds {
        lines.push(String::new());
        lines.push(format!("[repository.{}]", quoted_key(&project.name)));
        lines.push(format!("url = {}", toml(&Value::from(checkout.url.as_str()))));
    }
    lines
}

#[cfg(test)]
mod tests;
