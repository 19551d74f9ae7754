//! Secrets that a compose file holds as text. [`hide`] puts a mark in place of each, as variables of secrets have
//! one, so the rest of the conversion cannot write it anywhere. A value that is secret in one place is hidden
//! everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::interpolate::{ComposeVariables, is_variable};
use super::project::ComposeProject;
use super::secret_names::{names_secret, upper_case};
use super::secret_parts::{SecretPart, options, secret_parts, without_overlaps};
use super::secrets::{MARK, is_marked, is_secret, marked};
use super::yaml::{Node, Scalar, YamlKind};

/// The fewest bytes of a value that is looked for in other texts.
const SHORTEST_SEARCHED: usize = 6;
/// Tables whose keys are names that a user chose for the values.
const NAMED: &[&str] =
    &["environment", "args", "labels", "options", "driver_opts", "annotations", "sysctls", "storage_opt"];
/// Tables whose keys are parts of the manifest.
const KEYED: &[&str] = &["depends_on", "networks", "extra_hosts", "ulimits"];
/// Tables of variables: each part of their names counts. Of other names, only the part after the last dot does.
const VARIABLES: &[&str] = &["environment", "args"];
/// Lists of the words of a command.
const COMMANDS: &[&str] = &["command", "entrypoint", "test"];
/// Passwords of examples. They are also words of usual texts.
const USUAL_WORDS: &[&str] = &[
    "admin",
    "change",
    "changeit",
    "changeme",
    "database",
    "default",
    "example",
    "guest",
    "mariadb",
    "minioadmin",
    "mongodb",
    "mysql",
    "passwd",
    "password",
    "postgres",
    "postgresql",
    "production",
    "rabbitmq",
    "redis",
    "secret",
];
/// Ends of names of variables that hold names.
const NAMES: &[&str] = &["USER", "USERNAME", "DB", "DATABASE", "NAME", "HOST", "HOSTNAME", "EMAIL", "SCHEMA"];

/// The secrets of a project.
#[derive(Debug, Default)]
pub(super) struct KnownSecrets {
    /// By the name that stands for each.
    known: BTreeMap<String, KnownSecret>,
    /// Words that are no secrets, even if somebody uses one as a password.
    public: BTreeSet<String>,
}

#[derive(Debug)]
struct KnownSecret {
    value: String,
    /// The place of its value, for users.
    place: String,
    /// Its line in the compose file; `None`: it is the value of a variable.
    line: Option<usize>,
}

impl KnownSecrets {
    /// The place of the value that a name stands for.
    pub(super) fn place(&self, name: &str) -> Option<&str> {
        self.known.get(name).map(|literal| literal.place.as_str())
    }

    /// The name as users may see it: with the line of its value, if the compose file holds that.
    pub(super) fn described(&self, name: &str) -> String {
        self.line(name).map_or_else(|| name.to_owned(), |line| format!("{name} (line {line})"))
    }

    /// The line of the compose file that holds the value, unless it is the value of a variable.
    pub(super) fn line(&self, name: &str) -> Option<usize> {
        self.known.get(name)?.line
    }

    /// The name of a known secret that is part of a text.
    pub(super) fn found_in(&self, text: &str) -> Option<&str> {
        let mut searched = self.known.iter().filter(|(_, literal)| self.is_searched(&literal.value));
        let found = searched.find(|(_, literal)| !occurrences(text, &literal.value).is_empty());
        found.map(|(name, _)| name.as_str())
    }

    /// The text with a mark in place of each of its `parts`, and of each known secret.
    fn rewritten(&mut self, owner: &str, text: &str, line: usize, parts: Vec<SecretPart>) -> String {
        let free = |all: &[SecretPart], range: &Range<usize>| {
            all.iter().all(|part| part.range.end <= range.start || part.range.start >= range.end)
        };
        let marks = marks(text);
        let mut all = Vec::new();
        for part in parts.into_iter().filter(|part| free(&marks, &part.range)) {
            let name = self.learn(&format!("{owner}_{}", part.name), &text[part.range.clone()], line);
            all.push(SecretPart { range: part.range, name });
        }
        let mut searched: Vec<(&String, &KnownSecret)> =
            self.known.iter().filter(|(_, literal)| self.is_searched(&literal.value)).collect();
        // A secret may be part of a longer one.
        searched.sort_by_key(|(_, literal)| std::cmp::Reverse(literal.value.len()));
        for (name, literal) in searched {
            for range in occurrences(text, &literal.value) {
                if free(&all, &range) && free(&marks, &range) {
                    all.push(SecretPart { range, name: name.clone() });
                }
            }
        }
        let (mut result, mut end) = (String::new(), 0);
        for part in without_overlaps(all) {
            result.push_str(&text[end..part.range.start]);
            result.push_str(&marked(&part.name));
            end = part.range.end;
        }
        result.push_str(&text[end..]);
        result
    }

    /// The name that stands for a value: that of an equal secret, or one that begins with `base`.
    fn learn(&mut self, base: &str, value: &str, line: usize) -> String {
        self.learn_at(base, value, format!("line {line} of the compose file"), Some(line))
    }

    fn learn_at(&mut self, base: &str, value: &str, place: String, line: Option<usize>) -> String {
        if self.is_searched(value)
            && let Some((name, _)) = self.known.iter().find(|(_, literal)| literal.value == value)
        {
            return name.clone();
        }
        let base = if line.is_none() { base.to_owned() } else { upper_case(base) };
        let mut name = base.clone();
        let mut number = 2;
        while self.known.get(&name).is_some_and(|literal| literal.value != value) {
            name = format!("{base}_{number}");
            number += 1;
        }
        self.known.entry(name.clone()).or_insert_with(|| KnownSecret {
            value: value.to_owned(),
            place,
            line,
        });
        name
    }

    /// Whether a value is unlikely enough to be nothing but the secret.
    fn is_searched(&self, value: &str) -> bool {
        value.len() >= SHORTEST_SEARCHED && !self.public.contains(&value.to_ascii_lowercase())
    }

    fn learn_variable(&mut self, name: &str, value: &str) {
        let place = place_of_variable(name);
        for part in secret_parts(value) {
            let part_name = format!("{name}_{}", part.name);
            let part = &value[part.range];
            if part != value {
                self.learn_at(&part_name, part, format!("part of {place}"), None);
            }
        }
        // Another variable of the same value keeps its own name, since the file uses that.
        self.known.entry(name.to_owned()).or_insert_with(|| KnownSecret {
            value: value.to_owned(),
            place,
            line: None,
        });
    }

    fn learn_public(&mut self, text: &str) {
        let text = text.to_ascii_lowercase();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).chain([text.as_str()]);
        // A name with a digit is rare, and a password with one is not.
        let words = words.filter(|word| !word.bytes().any(|b| b.is_ascii_digit()));
        self.public.extend(words.map(str::to_owned));
    }
}

/// The place of a variable's value, for users.
pub(super) fn place_of_variable(name: &str) -> String {
    format!("`.env` or your shell, as {name}")
}

/// The places of a value in a text. A value that is one word is not looked for within words.
fn occurrences(text: &str, value: &str) -> Vec<Range<usize>> {
    let is_word = value.bytes().all(|b| b.is_ascii_alphabetic()) || value.bytes().all(|b| b.is_ascii_digit());
    let is_whole = |at: usize| {
        let before = text[..at].chars().next_back();
        let after = text[at + value.len()..].chars().next();
        ![before, after].into_iter().flatten().any(|c| c.is_ascii_alphanumeric())
    };
    let all = text.match_indices(value).map(|(at, _)| at);
    all.filter(|at| !is_word || is_whole(*at)).map(|at| at..at + value.len()).collect()
}

/// The marks in a text.
fn marks(text: &str) -> Vec<SecretPart> {
    let [begin, end] = MARK;
    let starts = text.match_indices(begin);
    let range = |start: usize| {
        let length = text[start..].find(end).map_or(text.len() - start, |at| at + end.len_utf8());
        start..start + length
    };
    starts.map(|(start, _)| SecretPart { range: range(start), name: String::new() }).collect()
}

/// Hides all secrets of a project: first learns them from all its places, and then replaces them in all. Returns what
/// the marks stand for.
pub(super) fn hide(project: &mut ComposeProject) -> KnownSecrets {
    let mut literals = KnownSecrets::default();
    USUAL_WORDS.iter().for_each(|word| literals.learn_public(word));
    literals.learn_public(&project.name);
    let mut used = BTreeSet::new();
    for (name, service) in &project.services {
        passed_on(service, &mut used);
        literals.learn_public(name);
        public_texts(service, &mut literals);
    }
    let ComposeProject { services, off, volumes, networks, secrets, configs, variables, unset, .. } = project;
    let variables = &*variables;
    for declared in [&*secrets, &*configs].into_iter().flat_map(Node::entries) {
        used.extend(declared.1.get_text("environment").map(str::to_owned));
    }
    let mut sections: Vec<(&str, &mut Node)> = Vec::new();
    sections.extend(services.iter_mut().map(|(name, node)| (name.as_str(), node)));
    for other in [volumes, networks, secrets, configs] {
        sections.extend(other.entries_mut().iter_mut().map(|(name, node)| (name.as_str(), node)));
    }
    for (_, node) in &mut sections {
        node.each_scalar(&mut |scalar| used.extend(scalar.variables.iter().cloned()));
    }
    for (name, value) in
        variables.iter().filter(|(name, value)| used.contains(*name) && is_secret(name, value))
    {
        literals.learn_variable(name, value);
    }
    for (name, (value, line)) in &unset.defaults {
        let literal = || KnownSecret {
            value: value.clone(),
            place: format!("line {line} of the compose file"),
            line: Some(*line),
        };
        literals.known.entry(name.clone()).or_insert_with(literal);
    }
    for is_last in [false, true] {
        for (owner, node) in &mut sections {
            let mut walk = HidingPass { owner, variables, literals: &mut literals, is_last };
            walk.node(node, "");
        }
    }
    for (service, profiles) in off {
        *profiles = literals.rewritten(service, profiles, 1, Vec::new());
    }
    literals
}

/// The variables that a service takes from its surroundings: it names them without a value.
fn passed_on(service: &Node, used: &mut BTreeSet<String>) {
    let args = service.get("build").and_then(|build| build.get("args"));
    for table in [service.get("environment"), args].into_iter().flatten() {
        let names = table.entries().iter().filter(|(_, value)| value.is_null());
        used.extend(names.map(|(name, _)| name.clone()));
    }
}

/// Learns the names in a service that are no secrets, whatever their values are.
fn public_texts(service: &Node, literals: &mut KnownSecrets) {
    for key in ["image", "container_name", "hostname"] {
        service.get_text(key).into_iter().for_each(|text| literals.learn_public(text));
    }
    for (name, value) in service.get("environment").map(Node::entries).unwrap_or_default() {
        let last = upper_case(name);
        let last = last.rsplit('_').next().unwrap_or_default();
        if let (true, Some(text)) = (NAMES.contains(&last), value.text()) {
            literals.learn_public(text);
        }
    }
}

/// One pass over a section. The first one learns, and the last one also replaces.
struct HidingPass<'a> {
    owner: &'a str,
    variables: &'a ComposeVariables,
    literals: &'a mut KnownSecrets,
    is_last: bool,
}

impl HidingPass<'_> {
    fn node(&mut self, node: &mut Node, key: &str) {
        let line = node.line;
        match &mut node.kind {
            YamlKind::Null => {}
            YamlKind::Text(scalar) => self.text(scalar, line, "", Vec::new()),
            YamlKind::List(items) if COMMANDS.contains(&key) => self.command(items),
            YamlKind::List(items) => items.iter_mut().for_each(|item| self.node(item, "")),
            YamlKind::Map(entries) => {
                for (name, value) in entries {
                    let is_named = NAMED.contains(&key);
                    match &mut value.kind {
                        YamlKind::Text(scalar) if is_named => self.named(scalar, value.line, key, name),
                        _ => self.node(value, name),
                    }
                    if (is_named || KEYED.contains(&key)) && self.is_last {
                        *name = self.literals.rewritten(self.owner, name, value.line, Vec::new());
                    }
                }
            }
        }
    }

    /// A value with a name: all of it is a secret, or parts of it are.
    fn named(&mut self, scalar: &mut Scalar, line: usize, table: &str, name: &str) {
        let tested = if VARIABLES.contains(&table) { name } else { name.rsplit('.').next().unwrap_or(name) };
        let is_whole = !is_marked(&scalar.text) && names_secret(tested, &scalar.text);
        let whole = SecretPart { range: 0..scalar.text.len(), name: upper_case(name) };
        match scalar.variables.as_slice() {
            // The variable keeps its name.
            [variable] if is_whole && is_variable(&scalar.raw) => {
                let mark = match self.variables.get(variable) {
                    Some(value) if *value == scalar.text => {
                        self.literals.learn_variable(variable, value);
                        variable.clone()
                    }
                    _ => self.literals.learn(variable, &scalar.text, line),
                };
                if self.is_last {
                    scalar.text = marked(&mark);
                }
            }
            _ => self.text(scalar, line, name, if is_whole { vec![whole] } else { Vec::new() }),
        }
    }

    /// A text with a name or without one. `more` are the secrets that its place reveals.
    fn text(&mut self, scalar: &mut Scalar, line: usize, name: &str, more: Vec<SecretPart>) {
        let is_whole = more.iter().any(|part| part.range == (0..scalar.text.len()));
        let separator = if name.is_empty() { "" } else { "_" };
        let owner = format!("{}{separator}{name}", self.owner);
        // The name of a value is the end of the name of all of it, and the beginning of that of a part.
        let (owner, parts) = if is_whole {
            (self.owner.to_owned(), more)
        } else {
            (owner, without_overlaps([more, secret_parts(&scalar.text)].concat()))
        };
        let text = self.literals.rewritten(&owner, &scalar.text, line, parts);
        if self.is_last {
            scalar.text = text;
        }
    }

    /// A command: an option may be one item, and its value the next.
    fn command(&mut self, items: &mut [Node]) {
        let texts: Vec<&str> = items.iter().map(|item| item.text().unwrap_or_default()).collect();
        let found = options(&texts);
        for (at, item) in items.iter_mut().enumerate() {
            let of_item = found.iter().filter(|(number, _)| *number == at).map(|(_, part)| part.clone());
            let of_item: Vec<SecretPart> = of_item.collect();
            let line = item.line;
            match &mut item.kind {
                YamlKind::Text(scalar) => self.text(scalar, line, "", of_item),
                _ => self.node(item, ""),
            }
        }
    }
}
