//! `desired-state/*.toml` as values: every problem at once, with file and line.
//!
//! Reading has two rounds. The first reads each file by itself into the types of [`spec`](super::spec):
//! `table` walks the TOML and reports wrong types, and `grammar` checks texts. The second, `cross`, checks
//! all files together: duplicate names, and references to missing parts. Reading continues after a problem,
//! so one `check` reports every problem.

mod acme;
mod build;
mod canary;
mod cross;
mod environment;
mod followed;
mod forge;
mod front;
mod gates;
pub(super) mod grammar;
mod groups;
mod health;
mod job;
mod keys;
mod notify;
mod one_off;
mod options;
mod page;
mod places;
mod problem;
mod registry;
mod replicas;
mod repository;
mod schema;
mod secrets;
pub(in crate::model) mod service;
mod site;
mod swarm;
mod table;
mod url;

use toml::de::{DeTable, DeValue};

use self::cross::{Declarations, Docker};
pub use self::keys::{Key, NOT_YET, SECTIONS, Section, ValueShape};
pub use self::places::{FileLine, Places};
pub use self::problem::{Problem, Problems};
pub use self::schema::schema;
use self::table::{ManifestField, ManifestSource, Table};
use super::spec::{FrontSpec, GuardMode, HolderImage, Manifest};

/// One file of a manifest, as text.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// The file's name, as shown in problems.
    pub name: String,
    /// Its whole content.
    pub text: String,
}

/// A manifest, and the file and line of each of its parts.
#[derive(Clone, Debug)]
pub struct ParsedManifest {
    /// The declarations.
    pub manifest: Manifest,
    /// The places of its parts, for problems that only show later, such as an unreadable secret.
    pub places: Places,
}

/// Reads the manifest that `files` declare together.
///
/// ```
/// use abide::model::manifest::{SourceFile, parse};
///
/// let file = |text: &str| SourceFile { name: "shop.toml".to_owned(), text: text.to_owned() };
/// let good = "[environment.dev]\ncontainer = \"dev-server\"\nport = 8900\n";
/// let manifest = parse(&[file(good)]).unwrap();
/// let (name, dev) = manifest.environments.first_key_value().unwrap();
/// assert_eq!((name.as_str(), dev.port), ("dev", Some(8900)));
///
/// let problems = parse(&[file(&good.replace("port", "prot"))]).unwrap_err();
/// assert!(problems.to_string().starts_with("shop.toml:3: "), "{problems}");
/// ```
///
/// # Errors
/// Returns all [`Problems`], ordered by file and line.
pub fn parse(files: &[SourceFile]) -> Result<Manifest, Problems> {
    parse_with_places(files, None).map(|parsed| parsed.manifest)
}

/// Does the same as [`parse`], and keeps the place of each part. `folder`: the manifest's own, an absolute
/// path.
///
/// # Errors
/// Returns all [`Problems`], ordered by file and line.
pub fn parse_with_places(files: &[SourceFile], folder: Option<&str>) -> Result<ParsedManifest, Problems> {
    let mut declared = Declarations::default();
    let mut problems = Vec::new();
    let mut places = Places::default();
    for file in files {
        let source = ManifestSource::new(file, folder);
        read_file(&source, &mut declared);
        let (found, at) = source.finish();
        problems.extend(found);
        places.extend(at);
    }
    problems.extend(cross::problems(&declared, &places));
    if problems.is_empty() && declared.is_empty() {
        // A file that an editor has just emptied must not count as a request to run nothing.
        let file = files.first().map_or("the manifest", |file| &file.name);
        problems.push(Problem::new(
            file,
            None,
            "the manifest declares no environment, such as \
            `[environment.dev]`",
        ));
    }
    if problems.is_empty() {
        Ok(ParsedManifest { manifest: declared.into_manifest(), places })
    } else {
        Err(Problems::new(problems))
    }
}

/// Reads `[front]` from a file with other tables too, such as an agent's policy. The other tables are not
/// checked. `None`: there is no such table.
///
/// # Errors
/// Returns all [`Problems`] of the table.
pub fn parse_front(file: &SourceFile) -> Result<Option<FrontSpec>, Problems> {
    let source = ManifestSource::new(file, None);
    let (root, errors) = DeTable::parse_recoverable(source.text());
    for error in &errors {
        let offset = error.span().map(|span| span.start);
        source.problem(offset, not_toml(source.text(), error.span(), error.message()));
    }
    let field = Table::unchecked_root(&source, root.get_ref()).get("front");
    let front = field.filter(|_| errors.is_empty()).map(|field| front::read(&field));
    let (problems, _) = source.finish();
    if problems.is_empty() { Ok(front.flatten()) } else { Err(Problems::new(problems)) }
}

/// Reads one file. If its TOML is broken, this reports only that: guesses about the rest would report false
/// problems.
fn read_file(source: &ManifestSource<'_>, declared: &mut Declarations) {
    let (root, errors) = DeTable::parse_recoverable(source.text());
    for error in &errors {
        let offset = error.span().map(|span| span.start);
        source.problem(offset, not_toml(source.text(), error.span(), error.message()));
    }
    if errors.is_empty() {
        read_root(&Table::root(source, root.get_ref()), declared);
    } else {
        declared.incomplete = true;
    }
}

/// Describes broken TOML. The parser's own messages require knowledge of its grammar.
fn not_toml(text: &str, span: Option<std::ops::Range<usize>>, message: &str) -> String {
    let at = span.clone().unwrap_or_default();
    let named = text.get(at.clone()).map(str::trim).filter(|named| !named.is_empty());
    let start = text.get(..at.start).map_or(0, |before| before.rfind('\n').map_or(0, |end| end + 1));
    let line = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    match (line.trim_end().strip_suffix('='), named) {
        (Some(key), _) => format!("`{}` has no value: add one after the `=`", key.trim()),
        (None, Some(named)) if message == "duplicate key" => {
            format!("`{named}` is declared twice: remove one of them, or merge them")
        }
        _ => format!("invalid TOML: {message}"),
    }
}

fn read_root(root: &Table<'_>, declared: &mut Declarations) {
    for field in root.named_tables("repository") {
        let spec = repository::read(&field);
        declared.add_repository(&field, spec);
    }
    for field in root.named_tables("environment") {
        let draft = environment::read(&field);
        declared.add_environment(&field, draft);
    }
    for field in root.named_tables("job") {
        let job = job::read(&field);
        declared.add_job(&field, job);
    }
    if let Some(field) = root.get("front") {
        declared.add_front(&field, front::read(&field));
    }
    if let Some(field) = root.get("page") {
        declared.set_page(&field, page::read(&field));
    }
    if let Some(field) = root.get("registry") {
        declared.set_registry(&field, registry::read_managed(&field));
    }
    for field in root.named_tables("registry_access") {
        let access = registry::read_access(&field);
        declared.add_registry(&field, access);
    }
    for field in root.named_tables("notify") {
        let spec = notify::read(&field);
        declared.add_channel(&field, spec);
    }
    if let Some(field) = root.get("manifest") {
        declared.set_followed(&field, followed::read(&field));
    }
    if let Some(field) = root.get("docker") {
        declared.add_docker(&field, read_docker(&field));
    }
}

/// The maximum number of parallel updates.
const MOST_UPDATES: u64 = 1_000;

fn read_docker(field: &ManifestField<'_>) -> Docker {
    let default = Docker::default();
    let Some(table) = field.table(&keys::DOCKER) else { return default };
    let parallel = table.get("parallel_updates").and_then(|field| field.integer(1, MOST_UPDATES));
    Docker {
        network: table.get("network").and_then(|field| field.name()),
        holder: table.get("holder").and_then(|field| read_holder(&field)).unwrap_or_default(),
        build_cache: match table.get("build_cache") {
            Some(field) => read_build_cache(&field),
            None => default.build_cache,
        },
        guard: match table.get("guard").and_then(|field| field.flag()) {
            Some(false) => GuardMode::Off,
            Some(true) | None => GuardMode::On,
        },
        parallel_updates: parallel.and_then(|parallel| usize::try_from(parallel).ok()),
    }
}

/// Reads a size, or `false`, which leaves the cache alone.
fn read_build_cache(field: &ManifestField<'_>) -> Option<u64> {
    const EXPECTED: &str = "a size such as \"20GiB\" or false";
    match field.value() {
        DeValue::Boolean(false) => None,
        DeValue::String(_) => field.parsed(EXPECTED, grammar::memory),
        _ => {
            field.wrong(EXPECTED);
            None
        }
    }
}

fn read_holder(field: &ManifestField<'_>) -> Option<HolderImage> {
    match field.value() {
        DeValue::Boolean(true) => Some(HolderImage::Own),
        DeValue::Boolean(false) => Some(HolderImage::Off),
        DeValue::String(_) => field.parsed("the name of an image", front::image).map(HolderImage::Named),
        _ => {
            field.wrong("true, false or an image's name");
            None
        }
    }
}

#[cfg(test)]
mod tests;
