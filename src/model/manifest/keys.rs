//! The keys of a manifest, section by section, each declared once: name, type, default, example and meaning.
//!
//! The parser rejects other keys, its errors show the examples, `desired-state/README.md` has the tables of
//! [`Section::reference`], and [`schema`](super::schema) describes the same keys to editors.

mod build;
mod canary;
mod environment;
mod gates;
mod host;
mod job;
mod one_off;
mod services;
mod site;
mod swarm;

pub(super) use self::build::{BUILD, CHECKOUT, OVERLAY, STEP};
pub(super) use self::canary::CANARY;
pub(super) use self::environment::{
    ENV_FILE, ENVIRONMENT, HEALTH, MOUNT, NETWORK, PORT, SECRET, SECRET_FILE, SOURCE,
};
pub(super) use self::gates::{FREEZE, PROMOTE, VERIFY, WINDOW};
pub(super) use self::host::{
    ACME, ACME_DNS, CERTIFICATE, DOCKER, FRONT, MANAGED_REGISTRY, MANIFEST, PAGE, REGISTRY_ACCESS,
    REGISTRY_WEBHOOK, REPOSITORY, ROOT, WEBHOOK,
};
pub(super) use self::job::{BACKUP, JOB};
pub(super) use self::one_off::HOOK;
pub(super) use self::services::{FORGE, FORGE_APP, FORGE_TOKEN, NOTIFY};
pub(super) use self::site::{BASIC_AUTH, RATE_LIMIT, SITE};
pub(super) use self::swarm::SWARM;

/// A kind of table and its keys.
#[derive(Debug)]
pub struct Section {
    /// The table's dotted path, with `NAME` for names; empty for the top of a file.
    pub title: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key and its documentation, in Markdown.
#[derive(Debug)]
pub struct Key {
    /// The key.
    pub name: &'static str,
    /// The type of its value.
    pub shape: ValueShape,
    /// Whether a table without it is invalid.
    pub is_required: bool,
    /// The meaning of a table without it; empty if that follows from the other keys.
    pub default: &'static str,
    /// A value, in TOML; empty for tables with a separate section.
    pub example: &'static str,
    /// The meaning.
    pub meaning: &'static str,
}

/// The type of a value.
#[derive(Debug)]
pub enum ValueShape {
    /// A text.
    Text,
    /// A path; the label completes "path ...", such as "in the checkout".
    Path(&'static str),
    /// `true` or `false`.
    Flag,
    /// Only `true`.
    True,
    /// Only `false`.
    False,
    /// A number, with or without a fraction.
    Number,
    /// A whole number in a range.
    Integer(u64, u64),
    /// A TCP port, 1 to 65535.
    Port,
    /// A duration such as `"30s"`.
    Duration,
    /// A size such as `"512MiB"`, or a number of bytes.
    Size,
    /// A list of texts; the label completes "list of ...".
    List(&'static str),
    /// A table with free keys, whose values are texts, numbers, `true`, `false` or secrets.
    Values,
    /// A table whose keys have another grammar.
    AnyTable,
    /// A table.
    Table(&'static Section),
    /// A list of tables.
    Tables(&'static Section),
    /// A table for each name; the label completes "tables by ...".
    TablesBy(&'static str, &'static Section),
    /// One of several types, described by the label.
    OneOf(&'static str, &'static [ValueShape]),
}

impl Key {
    /// An optional key without a default.
    const fn new(name: &'static str, shape: ValueShape) -> Self {
        Self { name, shape, is_required: false, default: "none", example: "", meaning: "" }
    }

    const fn required(self) -> Self {
        Self { is_required: true, default: "*required*", ..self }
    }

    const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    /// For a key that is one of several alternatives.
    const fn without_default(self) -> Self {
        self.default("")
    }

    const fn example(self, example: &'static str) -> Self {
        Self { example, ..self }
    }

    const fn meaning(self, meaning: &'static str) -> Self {
        Self { meaning, ..self }
    }
}

impl Section {
    /// Returns the key of this name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Returns the names of all keys.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + Clone + use<> {
        self.keys.iter().map(|key| key.name)
    }

    /// Returns the table of this section in the manifest reference, in Markdown.
    #[must_use]
    pub fn reference(&self) -> String {
        let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}` ") };
        let space = |text: &str| if text.is_empty() { String::new() } else { format!("{text} ") };
        let row = |key: &Key| {
            let (name, shape, default) = (key.name, key.shape.label(), space(key.default));
            format!("| `{name}` | {shape} | {default}| {} | {}|\n", key.meaning, code(key.example))
        };
        let head = "| key | type | default | meaning | example |\n| --- | --- | --- | --- | --- |\n";
        self.keys.iter().fold(head.to_owned(), |table, key| table + &row(key))
    }
}

impl ValueShape {
    /// Returns the type in words, in Markdown.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Path(label) => format!("path {label}"),
            Self::Flag => "`true` or `false`".to_owned(),
            Self::True => "`true`".to_owned(),
            Self::False => "`false`".to_owned(),
            Self::Number => "number".to_owned(),
            Self::Integer(least, most) => format!("{least} to {most}"),
            Self::Port => "1 to 65535".to_owned(),
            Self::Duration => "duration".to_owned(),
            Self::Size => "size".to_owned(),
            Self::List(label) => format!("list of {label}"),
            Self::Values | Self::AnyTable | Self::Table(_) => "table".to_owned(),
            Self::Tables(_) => "list of tables".to_owned(),
            Self::TablesBy(label, _) => format!("tables by {label}"),
            Self::OneOf(label, _) => (*label).to_owned(),
        }
    }
}

/// Every section, in the order of the manifest reference.
pub static SECTIONS: &[&Section] = &[
    &ROOT,
    &REPOSITORY,
    &WEBHOOK,
    &FORGE,
    &FORGE_TOKEN,
    &FORGE_APP,
    &ENVIRONMENT,
    &SOURCE,
    &PROMOTE,
    &WINDOW,
    &FREEZE,
    &VERIFY,
    &HOOK,
    &SECRET,
    &PORT,
    &ENV_FILE,
    &SECRET_FILE,
    &NETWORK,
    &MOUNT,
    &HEALTH,
    &CANARY,
    &SWARM,
    &SITE,
    &BASIC_AUTH,
    &RATE_LIMIT,
    &BUILD,
    &STEP,
    &OVERLAY,
    &CHECKOUT,
    &FRONT,
    &CERTIFICATE,
    &ACME,
    &ACME_DNS,
    &PAGE,
    &MANAGED_REGISTRY,
    &REGISTRY_ACCESS,
    &REGISTRY_WEBHOOK,
    &JOB,
    &BACKUP,
    &NOTIFY,
    &MANIFEST,
    &DOCKER,
];

/// Keys with a meaning that this version does not support: (section, key, reason). Ignoring them would be
/// worse than rejecting them. To support one, remove it here and add it to its section above.
pub static NOT_YET: &[(&str, &str, &str)] = &[];

/// The prefix of the user's own keys, at every level.
pub(super) const OWN_PREFIX: &str = "x-";

/// Whether `key` is the user's own, which abide ignores.
pub(super) fn is_own(key: &str) -> bool {
    key.starts_with(OWN_PREFIX)
}

/// The problem with `key` in `section`; `None` if the key is valid there.
pub(super) fn objection(section: &Section, key: &str) -> Option<String> {
    if is_own(key) || section.key(key).is_some() {
        return None;
    }
    let not_yet = NOT_YET.iter().find(|(title, name, _)| *title == section.title && *name == key);
    if let Some((_, _, why)) = not_yet {
        return Some(format!("this version of abide does not support `{key}`: {why}"));
    }
    let shown: String = key.chars().take(80).collect();
    Some(format!("unknown key `{shown}`; {}", advice(section, key)))
}

fn advice(section: &Section, key: &str) -> String {
    if let Some(near) = nearest(key, section.names()) {
        return format!("did you mean `{near}`?");
    }
    if let Some(other) = SECTIONS.iter().find(|other| !other.title.is_empty() && other.key(key).is_some()) {
        return format!("it belongs to `{}`", other.title);
    }
    format!("known keys: {}", section.names().collect::<Vec<_>>().join(", "))
}

/// The candidate that `text` was most likely meant to be: at most a third of it is mistyped.
pub(super) fn nearest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Nobody mistypes a name into such a long text, and the distance takes quadratic time.
    if text.len() > 64 {
        return None;
    }
    let wanted = text.to_lowercase();
    let allowed = wanted.chars().count() / 3;
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}
