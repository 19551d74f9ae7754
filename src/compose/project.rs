//! A compose project: its files, merged, with variables, `extends`, `include` and profiles resolved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::interpolate::{ComposeVariables, UnsetVariables, expand};
use super::literals::{self, KnownSecrets};
use super::merge::{merge, normalize};
use super::secrets::is_secret;
use super::volume::{cleaned, host_path, long_form};
use super::yaml::{self, InvalidYaml, Node, YamlKind};
use super::{ComposeError, ComposeInput};
use crate::model::env_file;

/// The longest chain of `extends` and `include`.
const LONGEST_CHAIN: usize = 16;
/// The sections of a file whose values may hold variables.
const SECTIONS: &[&str] = &["name", "services", "volumes", "networks", "secrets", "configs", "include"];

/// A project as compose would run it.
#[derive(Debug)]
pub(super) struct ComposeProject {
    pub(super) name: String,
    /// The folder of its first file.
    pub(super) dir: PathBuf,
    pub(super) services: Vec<(String, Node)>,
    /// Services of profiles that are not selected, with their profiles.
    pub(super) off: Vec<(String, String)>,
    pub(super) volumes: Node,
    pub(super) networks: Node,
    pub(super) secrets: Node,
    pub(super) configs: Node,
    /// What its files say about variables without a value.
    pub(super) unset: UnsetVariables,
    /// The values of variables.
    pub(super) variables: ComposeVariables,
    /// The secrets that have marks in place of their values.
    pub(super) literals: KnownSecrets,
}

impl ComposeProject {
    pub(super) fn service(&self, name: &str) -> Option<&Node> {
        self.services.iter().find(|(known, _)| known == name).map(|(_, service)| service)
    }

    /// A top-level declaration, such as a volume.
    pub(super) fn declared<'n>(&self, section: &'n Node, name: &str) -> Option<&'n Node> {
        section.entries().iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

/// Reads a project.
pub(super) fn load(input: &ComposeInput<'_>) -> Result<ComposeProject, ComposeError> {
    let first = input.files.first().ok_or_else(|| ComposeError("no compose file is named".to_owned()))?;
    let dir = first.parent().map(Path::to_owned).unwrap_or_default();
    let mut loader = Loader {
        input,
        variables: variables(input, &dir)?,
        unset: UnsetVariables::default(),
        home: home(input),
        included: BTreeMap::new(),
    };
    let mut all = Node::new(1, YamlKind::Map(Vec::new()));
    for file in input.files {
        let next = loader.file(file, &dir, 0)?;
        all = merge(all, next, "");
    }
    let name = project_name(input, &loader.variables, &all, &dir);
    // The name is a variable of the project too.
    let section =
        |key: &str| all.get(key).cloned().unwrap_or_else(|| Node::new(1, YamlKind::Map(Vec::new())));
    let mut project = ComposeProject {
        name,
        services: Vec::new(),
        off: Vec::new(),
        volumes: section("volumes"),
        networks: section("networks"),
        secrets: rooted_files(section("secrets"), &dir),
        configs: rooted_files(section("configs"), &dir),
        unset: UnsetVariables::default(),
        variables: BTreeMap::new(),
        literals: KnownSecrets::default(),
        dir,
    };
    if section("services").entries().is_empty() {
        return Err(ComposeError(format!("{} declares no service", first.display())));
    }
    for (service, node) in section("services").entries() {
        match inactive(node, input) {
            Some(profiles) => project.off.push((service.clone(), profiles)),
            None => project.services.push((service.clone(), node.clone())),
        }
    }
    loader.unset.required.sort();
    loader.unset.required.dedup();
    project.variables = loader.variables;
    for (name, value) in loader.included {
        project.variables.entry(name).or_insert(value);
    }
    project.unset = loader.unset;
    project.literals = literals::hide(&mut project);
    Ok(project)
}

/// The profiles of a service, if none of them is selected.
fn inactive(service: &Node, input: &ComposeInput<'_>) -> Option<String> {
    let profiles: Vec<&str> = service.get("profiles")?.items().iter().filter_map(Node::text).collect();
    let is_on = profiles.iter().any(|profile| input.profiles.iter().any(|on| on == profile || on == "*"));
    (!is_on && !profiles.is_empty()).then(|| profiles.join(", "))
}

fn home(input: &ComposeInput<'_>) -> Option<PathBuf> {
    input.environment.get("HOME").map(PathBuf::from)
}

/// The variables of files, and of the environment over them.
fn variables(input: &ComposeInput<'_>, dir: &Path) -> Result<ComposeVariables, ComposeError> {
    let mut all = of_files(input, input.env_files, dir)?;
    all.extend(input.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
    Ok(all)
}

/// The variables of the named files, or of `.env` in a folder, if there is one.
fn of_files(
    input: &ComposeInput<'_>,
    named: &[PathBuf],
    dir: &Path,
) -> Result<ComposeVariables, ComposeError> {
    let mut values = BTreeMap::new();
    let files = if named.is_empty() {
        vec![(dir.join(".env"), false)]
    } else {
        named.iter().map(|file| (file.clone(), true)).collect()
    };
    for (file, is_named) in files {
        match (input.read)(&file) {
            Ok(text) => env_file::read(&text, &mut values)
                .map_err(|error| ComposeError(format!("{}: {error}", file.display())))?,
            Err(error) if is_named => {
                return Err(ComposeError(format!("cannot read {}: {error}", file.display())));
            }
            Err(_) => {}
        }
    }
    Ok(values.into_iter().map(|(name, value)| (name, value.expose().to_owned())).collect())
}

/// Compose's rule: the option, the variable, the file, the folder.
fn project_name(input: &ComposeInput<'_>, variables: &ComposeVariables, all: &Node, dir: &Path) -> String {
    let folder = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let declared =
        input.project.map(str::to_owned).or_else(|| variables.get("COMPOSE_PROJECT_NAME").cloned());
    let declared = declared.or_else(|| all.get_text("name").map(str::to_owned)).unwrap_or(folder);
    let plain = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || ['-', '_'].contains(c);
    let name: String = declared.to_lowercase().chars().filter(plain).collect();
    let name = name.trim_start_matches(['-', '_']).to_owned();
    if name.is_empty() { "app".to_owned() } else { name.chars().take(40).collect() }
}

/// Makes the paths of `file` absolute.
fn rooted_files(mut section: Node, dir: &Path) -> Node {
    for (_, declared) in section.entries_mut() {
        if let Some(file) = declared.get_mut("file")
            && let Some(path) = file.text()
        {
            *file = file.with_text(cleaned(&dir.join(path)).display().to_string());
        }
    }
    section
}

struct Loader<'a> {
    input: &'a ComposeInput<'a>,
    variables: ComposeVariables,
    unset: UnsetVariables,
    home: Option<PathBuf>,
    /// The variables of files that an `include` names.
    included: ComposeVariables,
}

impl Loader<'_> {
    /// Reads a file with everything that it includes. Its paths begin at `dir`.
    fn file(&mut self, path: &Path, dir: &Path, depth: usize) -> Result<Node, ComposeError> {
        let mut root = self.raw(path, depth)?;
        let wrong = |line, what: &str| ComposeError(format!("{}:{line}: {what}", path.display()));
        let mut all = Node::new(1, YamlKind::Map(Vec::new()));
        for include in root.get("include").cloned().iter().flat_map(Node::one_or_many) {
            let paths = include.get("path").unwrap_or(include).one_or_many();
            let files: Option<Vec<PathBuf>> =
                paths.into_iter().map(|path| Some(cleaned(&dir.join(path.text()?)))).collect();
            let files = files.filter(|files| !files.is_empty());
            let files = files.ok_or_else(|| wrong(include.line, "`include` names no file"))?;
            // Several files are one project, whose folder is that of the first one.
            let folder = include.get_text("project_directory").map(|folder| cleaned(&dir.join(folder)));
            let folder = folder.or_else(|| files.first()?.parent().map(Path::to_owned)).unwrap_or_default();
            let outer = self.variables.clone();
            self.include_variables(include, dir, &folder)?;
            for file in files {
                all = merge(all, self.file(&file, &folder, depth + 1)?, "");
            }
            self.variables = outer;
        }
        let names: Vec<String> = root
            .get("services")
            .map(|it| it.entries().iter().map(|(name, _)| name.clone()).collect())
            .unwrap_or_default();
        let mut services = Vec::new();
        for name in names {
            services.push((name.clone(), self.service(&root, path, dir, &name, depth)?));
        }
        if let Some(node) = root.get_mut("services") {
            node.kind = YamlKind::Map(services);
        }
        Ok(merge(all, root, ""))
    }

    /// Adds the variables of an `include`: of the files that it names, or of `.env` in its folder. The variables of
    /// the project go before them.
    fn include_variables(&mut self, include: &Node, dir: &Path, folder: &Path) -> Result<(), ComposeError> {
        let named = include.get("env_file").map(Node::one_or_many).unwrap_or_default();
        let named = named.into_iter().filter_map(Node::text).filter(|path| *path != "/dev/null");
        let named: Vec<PathBuf> = named.map(|path| cleaned(&dir.join(path))).collect();
        for (name, value) in of_files(self.input, &named, folder)? {
            if self.variables.contains_key(&name) {
                continue;
            }
            // One name stands for a secret in the whole manifest.
            let is_other = self.included.get(&name).is_some_and(|known| *known != value);
            if is_other && is_secret(&name, &value) {
                let words =
                    format!("two included projects have different values of {name}: give one another name");
                return Err(ComposeError(words));
            }
            self.included.insert(name.clone(), value.clone());
            self.variables.insert(name, value);
        }
        Ok(())
    }

    /// Reads one file, with its variables replaced.
    fn raw(&mut self, path: &Path, depth: usize) -> Result<Node, ComposeError> {
        if depth > LONGEST_CHAIN {
            return Err(ComposeError(format!("{} is extended or included in a circle", path.display())));
        }
        let text = (self.input.read)(path)
            .map_err(|error| ComposeError(format!("cannot read {}: {error}", path.display())))?;
        let at = |line: usize, problem: String| ComposeError(format!("{}:{line}: {problem}", path.display()));
        let mut root = yaml::read(&text)
            .map_err(|InvalidYaml { line, problem }| at(line, format!("the file {problem}")))?;
        if !matches!(root.kind, YamlKind::Map(_)) {
            return Err(at(1, "the file must be a table with `services`".to_owned()));
        }
        let mut wrong = None;
        for (key, value) in root.entries_mut().iter_mut().filter(|(key, _)| SECTIONS.contains(&key.as_str()))
        {
            value.each_text(&mut |scalar, line| {
                if let Err(problem) = expand(scalar, line, &self.variables, &mut self.unset) {
                    wrong.get_or_insert((line, format!("a value of `{key}` {problem}")));
                }
            });
        }
        match wrong {
            Some((line, problem)) => Err(at(line, problem)),
            None => Ok(root),
        }
    }

    /// A service of a file, in the long form, merged with the service that it extends.
    fn service(
        &mut self,
        root: &Node,
        path: &Path,
        dir: &Path,
        name: &str,
        depth: usize,
    ) -> Result<Node, ComposeError> {
        let found = root.get("services").and_then(|all| all.get(name));
        let wrong = |line: usize, what: String| ComposeError(format!("{}:{line}: {what}", path.display()));
        let Some(found) = found else {
            return Err(wrong(1, format!("there is no service `{name}`, which another one extends")));
        };
        let mut service = found.clone();
        if !matches!(service.kind, YamlKind::Map(_)) {
            return Err(wrong(service.line, format!("the service `{name}` must be a table")));
        }
        normalize(&mut service);
        self.root_paths(&mut service, dir);
        let Some(extends) = service.get("extends").cloned() else { return Ok(service) };
        if let YamlKind::Map(entries) = &mut service.kind {
            entries.retain(|(key, _)| key != "extends");
        }
        let other = extends.get_text("service").or_else(|| extends.text());
        let other = other.ok_or_else(|| wrong(extends.line, "`extends` names no service".to_owned()))?;
        if depth > LONGEST_CHAIN {
            return Err(wrong(extends.line, format!("`{name}` extends itself")));
        }
        let mut base = match extends.get_text("file") {
            Some(file) => {
                let file = cleaned(&dir.join(file));
                let own = file.parent().map(Path::to_owned).unwrap_or_default();
                let root = self.raw(&file, depth + 1)?;
                self.service(&root, &file, &own, other, depth + 1)?
            }
            None => self.service(root, path, dir, other, depth + 1)?,
        };
        // A service does not inherit the profiles that switch the other one off.
        if let YamlKind::Map(entries) = &mut base.kind {
            entries.retain(|(key, _)| key != "profiles");
        }
        Ok(merge(base, service, ""))
    }

    /// Makes all paths of a service absolute.
    fn root_paths(&self, service: &mut Node, dir: &Path) {
        let home = self.home.as_deref();
        for (key, value) in service.entries_mut() {
            match (key.as_str(), &mut value.kind) {
                ("volumes", YamlKind::List(items)) => {
                    for item in items {
                        if let Some(long) = long_form(item, dir, home) {
                            *item = long;
                        }
                    }
                }
                ("env_file" | "label_file", YamlKind::List(items)) => {
                    items.iter_mut().for_each(|item| root_path(item, "path", dir, home));
                }
                ("build", YamlKind::Map(_)) => root_path(value, "context", dir, home),
                _ => {}
            }
        }
    }
}

/// Makes a path absolute: the text itself, or the value of `key`.
fn root_path(node: &mut Node, key: &str, dir: &Path, home: Option<&Path>) {
    let node = if node.text().is_some() { Some(node) } else { node.get_mut(key) };
    if let Some(node) = node
        && let YamlKind::Text(scalar) = &mut node.kind
        && !is_remote(&scalar.text)
    {
        scalar.text = host_path(&scalar.text, dir, home);
    }
}

/// Whether a build context is a repository.
pub(super) fn is_remote(context: &str) -> bool {
    context.contains("://") || context.starts_with("git@") || context.starts_with("github.com/")
}
