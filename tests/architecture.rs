//! Import rules between modules and for crates, and rules for source files.
//!
//! The table of modules in `docs/ARCHITECTURE.md` is the only one that states who may import whom; this test
//! reads and enforces it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates that only one module may use, and why.
const CRATES: [(&str, &[&str], &str); 17] = [
    ("cronexpr", &["model/schedule"], "schedules are read in one place"),
    ("serde_path_to_error", &["model/reading"], "errors of clients' documents are worded in one place"),
    ("saphyr_parser", &["compose/"], "compose files are read in one place"),
    ("instant_acme", &["acme"], "certificates are asked for in one place"),
    ("simple_dns", &["acme"], "name servers are asked in one place"),
    ("sled", &["record/"], "the store is hidden behind the record's handles"),
    ("bollard", &["controller/docker/"], "nothing outside the loop reaches Docker"),
    ("axum", &["api/", "cli/", "daemon", "fuzz.rs"], "HTTP is the door's business"),
    ("askama", &["api/page"], "all HTML is rendered in one place"),
    ("clap", &["cli/"], "arguments are the command line's business"),
    ("clap_complete", &["cli/"], "arguments are the command line's business"),
    ("toml", &["model/manifest/", "agent/policy.rs"], "manifest and policy are read in one place each"),
    ("rustls", &["tls"], "who is trusted is decided in one place"),
    ("tokio_rustls", &["tls", "api/serve"], "who is trusted is decided in one place"),
    ("rcgen", &["tls"], "certificates are made in one place"),
    ("prometheus_client", &["metrics"], "metrics are encoded in one place"),
    ("sd_notify", &["daemon/"], "systemd is the composition root's business"),
];

/// Names forbidden in a pure module, which has no clock, no I/O, no async and no randomness.
const IMPURE: [&str; 12] = [
    "SystemTime::now",
    "Instant::now",
    "std::fs",
    "std::env",
    "std::net::Tcp",
    "std::process",
    "tokio",
    "tracing::",
    "async ",
    "async fn",
    "rand::",
    "std::thread",
];

/// The maximum lines of code in a file, without tests.
const LONGEST_FILE: usize = 520;

struct Source {
    /// Relative to `src`.
    path: String,
    /// Without comments and without the tests at the end.
    code: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &mut found);
    assert!(found.len() > 50, "the sources were not found: {} files", found.len());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source can be read");
        let path = path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
        Source { path, code: code_of(&text), text }
    };
    found.into_iter().map(read).collect()
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src can be listed") {
        let path = entry.expect("src can be listed").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn code_of(text: &str) -> String {
    let until_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = until_tests.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/")
        || path.ends_with("tests.rs")
        || path.contains("_tests")
        || path.ends_with("/world.rs")
}

/// Returns every module of this crate that the code names as `crate::module`, also in braces.
fn named_rooms(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or(list).split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name = name.trim_start();
            let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
            rooms.push(name[..end].to_owned());
        }
    }
    rooms
}

/// A module: its path prefix in `src`, and the modules of this crate that it may name.
struct Module {
    prefix: String,
    imports: Vec<String>,
}

impl Module {
    /// The name of the top-level module that it is or belongs to.
    fn name(&self) -> &str {
        self.prefix.split(['/', '.']).next().unwrap_or_default()
    }
}

fn document(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join(path)).expect("the document can be read")
}

/// Reads the table of modules, whose columns are module, purpose and imports.
fn modules() -> Vec<Module> {
    let text = document("docs/ARCHITECTURE.md");
    let (_, section) = text.split_once("\n## Modules\n").expect("the document has the table");
    let section = section.split("\n#").next().unwrap_or(section);
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 3, "a row has other cells: {line}");
        let (module, imports) = (cells[0], cells[2]);
        let prefix = module.trim_matches('`').to_owned();
        let imports = imports.split(", ").filter(|name| *name != "nothing").map(str::to_owned).collect();
        Module { prefix, imports }
    };
    section.lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

#[test]
fn every_module_imports_only_what_the_table_allows() {
    let modules = modules();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !is_test(&source.path)) {
        if ["main.rs", "lib.rs"].contains(&source.path.as_str()) {
            continue;
        }
        let of_file = modules.iter().filter(|module| source.path.starts_with(&module.prefix));
        let Some(module) = of_file.max_by_key(|module| module.prefix.len()) else {
            wrong.push(format!("{} is in no module of docs/ARCHITECTURE.md", source.path));
            continue;
        };
        for room in named_rooms(&source.code) {
            let is_own = module.prefix.matches('/').count() < 2 && room == module.name();
            if !is_own && !module.imports.contains(&room) {
                wrong.push(format!("{} names crate::{room}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_of_modules_is_complete_and_correct() {
    let modules = modules();
    let library = document("src/lib.rs");
    let declared: Vec<&str> = library
        .lines()
        .filter_map(|line| {
            line.strip_prefix("pub ")
                .or(line.strip_prefix("pub(crate) "))?
                .strip_prefix("mod ")?
                .strip_suffix(';')
        })
        .collect();
    assert!(declared.len() > 15, "{declared:?}");
    let mut wrong = Vec::new();
    for name in &declared {
        if !modules.iter().any(|module| module.name() == *name) {
            wrong.push(format!("docs/ARCHITECTURE.md has no row for `{name}`"));
        }
        let has_row = |line: &str| line.starts_with("//! | ") && line.contains(&format!("`{name}`"));
        if !library.lines().any(has_row) {
            wrong.push(format!("the table in src/lib.rs has no row for `{name}`"));
        }
    }
    for module in &modules {
        for name in module.imports.iter().map(String::as_str).chain([module.name()]) {
            if !declared.contains(&name) {
                wrong.push(format!("the row of `{}` names `{name}`, which is no module", module.prefix));
            }
        }
        let of_module = |source: &&Source| source.path.starts_with(&module.prefix) && !is_test(&source.path);
        let sources = sources();
        let used: Vec<String> =
            sources.iter().filter(of_module).flat_map(|source| named_rooms(&source.code)).collect();
        for name in module.imports.iter().filter(|name| !used.contains(name)) {
            wrong.push(format!("the row of `{}` allows `{name}`, which it does not import", module.prefix));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_crate_is_used_only_in_its_modules() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, rooms, why) in CRATES {
            let at_home = rooms.iter().any(|room| source.path.starts_with(room));
            let names_it = source.code.match_indices(&format!("{name}::")).any(|(at, _)| {
                !source.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if names_it && !at_home {
                wrong.push(format!("{} names {name}: {why}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_data_model_and_the_planner_are_pure() {
    let mut wrong = Vec::new();
    let is_pure = |path: &str| path.starts_with("model/") || path.starts_with("plan/");
    for source in sources().iter().filter(|source| is_pure(&source.path) && !is_test(&source.path)) {
        for word in IMPURE.iter().filter(|word| source.code.contains(*word)) {
            wrong.push(format!("{} contains `{word}`", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn api_and_controller_do_not_use_each_others_writers() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("api/") && !is_test(&source.path))
    {
        for handle in ["StatusWriter", "Resolver"] {
            if source.code.contains(handle) {
                wrong.push(format!("{} names {handle}", source.path));
            }
        }
    }
    for source in sources().iter().filter(|source| source.path.starts_with("controller/")) {
        if source.code.contains("DesiredWriter") {
            wrong.push(format!("{} names DesiredWriter", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A route added elsewhere has no access rule.
#[test]
fn routes_are_added_only_in_the_route_table() {
    // The controller has no router; its proxy has routes of another kind.
    let no_router = |path: &str| path.starts_with("controller/");
    let at_home = |path: &str| path == "api/routes.rs" || path.starts_with("api/webhook/") || no_router(path);
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !is_test(&source.path) && !at_home(&source.path)) {
        for adding in [".route(", ".route_service(", ".nest(", ".nest_service(", ".fallback_service("] {
            if source.code.contains(adding) {
                wrong.push(format!("{} adds a route by `{adding}`", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_has_a_description_and_a_bounded_length() {
    let mut wrong = Vec::new();
    for source in sources() {
        if !source.text.starts_with("//!") {
            wrong.push(format!("{} does not begin with what it is (`//! ...`)", source.path));
        }
        let lines = source.code.lines().count();
        if lines > LONGEST_FILE && !is_test(&source.path) {
            wrong.push(format!("{} has {lines} lines of code; split it", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_type_name_is_unique() {
    let mut declared: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| !is_test(&source.path)) {
        for line in source.code.lines() {
            let words = line
                .split_whitespace()
                .skip_while(|word| word.starts_with("pub") || word.starts_with("in") || word.ends_with(')'));
            let words: Vec<_> = words.take(2).collect();
            // Associated types are indented, and share the name that their trait gives them.
            let is_type = match words.as_slice() {
                ["struct" | "enum" | "trait" | "union", _] => true,
                ["type", _] => !line.starts_with(' '),
                _ => false,
            };
            if is_type {
                let name = words[1].split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                declared.entry(name.to_owned()).or_default().push(source.path.clone());
            }
        }
    }
    assert!(declared.len() > 500, "only {} types were found", declared.len());
    let shared: Vec<_> = declared.iter().filter(|(_, paths)| paths.len() > 1).collect();
    assert!(shared.is_empty(), "give each type a name of its own: {shared:#?}");
}

#[test]
fn no_string_is_ever_passed_to_a_shell() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !is_test(&source.path)) {
        for shell in ["Command::new(\"sh\")", "Command::new(\"bash\")", "Command::new(\"/bin/sh\")"] {
            if source.code.contains(shell) {
                wrong.push(format!("{} runs {shell}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether `code`, which begins with a call, awaits it directly.
fn is_awaited(code: &str) -> bool {
    let mut depth = 0;
    let end = code.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ')' && depth == 0
    });
    end.is_some_and(|end| code[end + 1..].trim_start().starts_with(".await"))
}

/// The engine has no deadlines, so a directly awaited call may hang for ever.
#[test]
fn every_call_of_the_engine_has_a_deadline() {
    let (mut calls, mut wrong) = (0, Vec::new());
    for source in sources().iter().filter(|source| source.path.starts_with("controller/docker/")) {
        for (at, _) in source.code.match_indices("docker.") {
            calls += 1;
            // The field of that name is a lock.
            let is_call = !source.code[..at].ends_with("self.");
            if is_call && is_awaited(&source.code[at..]) {
                let call = source.code[at..].lines().next().unwrap_or_default();
                wrong.push(format!("{} awaits without `within`: {call}", source.path));
            }
        }
    }
    assert!(calls > 30, "only {calls} calls were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_reason_is_documented_with_its_observation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/ARCHITECTURE.md")).expect("the document can be read");
    let heading = "## What each status and reason means";
    let (_, section) = text.split_once(heading).expect("the document has the table");
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    for reason in abide::model::status::Reason::ALL {
        let cell = format!("| `{}` |", reason.as_str());
        assert_eq!(rows.iter().filter(|row| row.starts_with(&cell)).count(), 1, "{cell}");
    }
    // A reason that is missing in the list would be missing here too.
    let source = fs::read_to_string(root.join("src/model/status.rs")).expect("the source can be read");
    let (_, variants) = source.split_once("pub enum Reason {").expect("the reasons are there");
    let variants = variants.split("\n}").next().unwrap_or(variants);
    let variants =
        variants.lines().filter(|line| line.ends_with(',') && !line.trim_start().starts_with("//"));
    assert_eq!(variants.count(), abide::model::status::Reason::ALL.len());
    for condition in ["Ready", "Progressing", "Degraded", "RolledBack", "Held", "Blocked"] {
        assert!(section.contains(&format!("**{condition}**")), "{condition}");
    }
}

#[test]
fn every_module_and_item_that_a_document_names_exists() {
    let sources = sources();
    let (mut found, mut stale) = (0, Vec::new());
    for document in ["docs/ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = self::document(document);
        for quoted in text.split('`').skip(1).step_by(2) {
            let path = quoted.trim_end_matches("()");
            let is_path =
                path.contains("::") && path.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':');
            if is_path && path.starts_with(|c: char| c.is_lowercase()) {
                found += 1;
                if !exists(&sources, path) {
                    stale.push(format!("{document}: {path}"));
                }
            }
        }
    }
    assert!(found > 50, "only {found} names were found");
    assert!(stale.is_empty(), "these names do not exist any more: {stale:#?}");
}

/// Whether `path` (`cache::watch`, `plan::gates`, `record::Replica`) is a module, or an item in or below one.
fn exists(sources: &[Source], path: &str) -> bool {
    let (parent, item) = path.rsplit_once("::").expect("a path has two parts");
    let parent = parent.replace("::", "/");
    let module = format!("{parent}/{item}");
    let declares = |code: &str| {
        let words = ["fn", "struct", "enum", "trait", "type", "const", "mod"];
        words.iter().any(|word| {
            code.match_indices(&format!("{word} {item}")).any(|(at, found)| {
                code[at + found.len()..]
                    .chars()
                    .next()
                    .is_none_or(|next| !(next.is_alphanumeric() || next == '_'))
            })
        })
    };
    sources.iter().any(|source| {
        let own = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let is_below = format!("/{own}/").contains(&format!("/{parent}/"));
        format!("/{own}").ends_with(&format!("/{module}")) || is_below && declares(&source.text)
    })
}
