//! Reads typed values from a TOML file, with the line of each.
//!
//! Every reader returns `Option`: `None` means that a problem was noted, and reading continues.

use std::cell::RefCell;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::keys::{self, Section};
use super::places::{FileLine, Places};
use super::problem::Problem;
use super::{SourceFile, grammar};
use crate::model::mount::AbsolutePath;
use crate::model::name::InvalidName;

/// A file that is being read, and its problems so far.
pub(super) struct ManifestSource<'a> {
    name: &'a str,
    /// The folder of the manifest, from which relative paths of the host begin.
    folder: Option<&'a str>,
    text: &'a str,
    /// The offsets of all lines except the first.
    line_starts: Vec<usize>,
    problems: RefCell<Vec<Problem>>,
    places: RefCell<Places>,
}

impl<'a> ManifestSource<'a> {
    pub(super) fn new(file: &'a SourceFile, folder: Option<&'a str>) -> Self {
        // Some editors write a byte order mark, which does not belong to the text.
        let text = file.text.strip_prefix('\u{feff}').unwrap_or(&file.text);
        let line_starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        let (problems, places) = (RefCell::default(), RefCell::default());
        Self { name: &file.name, folder, text, line_starts, problems, places }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// Notes a problem at a byte of the text; `None` means the file as a whole.
    pub(super) fn problem(&self, offset: Option<usize>, message: impl AsRef<str>) {
        let line = offset.map(|offset| self.line(offset));
        self.problems.borrow_mut().push(Problem::new(self.name, line, message));
    }

    pub(super) fn finish(self) -> (Vec<Problem>, Places) {
        (self.problems.into_inner(), self.places.into_inner())
    }

    fn place(&self, offset: usize) -> FileLine {
        FileLine { file: self.name.to_owned(), line: self.line(offset) }
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.line_starts.partition_point(|start| *start <= offset)
    }
}

/// A table with known keys.
#[derive(Clone)]
pub(super) struct Table<'a> {
    source: &'a ManifestSource<'a>,
    path: String,
    offset: Option<usize>,
    toml: &'a DeTable<'a>,
    section: &'static Section,
}

impl<'a> Table<'a> {
    /// The top of a file.
    pub(super) fn root(source: &'a ManifestSource<'a>, toml: &'a DeTable<'a>) -> Self {
        Self { source, path: String::new(), offset: None, toml, section: &keys::ROOT }.checked()
    }

    /// The top of a file that has other keys too.
    pub(super) fn unchecked_root(source: &'a ManifestSource<'a>, toml: &'a DeTable<'a>) -> Self {
        Self { source, path: String::new(), offset: None, toml, section: &keys::ROOT }
    }

    fn checked(self) -> Self {
        for key in self.toml.keys() {
            if let Some(objection) = keys::objection(self.section, key.get_ref()) {
                self.source.problem(Some(key.span().start), objection);
            }
        }
        self
    }

    /// The value of `key`, if present.
    pub(super) fn get(&self, key: &'static str) -> Option<ManifestField<'a>> {
        debug_assert!(self.section.key(key).is_some(), "`{key}` is read but not declared");
        let (name, value) = self.toml.get_key_value(key)?;
        Some(ManifestField::new(self.source, &self.path, name, value))
    }

    /// The value of a required key. The problem of a missing key shows its example.
    pub(super) fn required(&self, key: &'static str) -> Option<ManifestField<'a>> {
        let found = self.get(key);
        if found.is_none() {
            let example = self.section.key(key).map(|key| key.example).unwrap_or_default();
            self.problem(format!("`{}` needs `{key}`, such as `{key} = {example}`", self.path));
        }
        found
    }

    /// The present keys among `keys`.
    pub(super) fn present(&self, keys: &[&'static str]) -> Vec<ManifestField<'a>> {
        keys.iter().filter_map(|key| self.get(key)).collect()
    }

    /// The named tables below `key`, such as each `[environment.NAME]`.
    pub(super) fn named_tables(&self, key: &'static str) -> Vec<ManifestField<'a>> {
        self.get(key).map(|field| field.entries()).unwrap_or_default()
    }

    /// The table's dotted path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Notes a problem at the table's head.
    pub(super) fn problem(&self, message: impl AsRef<str>) {
        self.source.problem(self.offset, message);
    }
}

/// A key and its value.
#[derive(Clone)]
pub(super) struct ManifestField<'a> {
    source: &'a ManifestSource<'a>,
    /// The label in problems: the key, or `key[2]` for the third item of a list.
    label: String,
    /// The full dotted path from the top of the file.
    path: String,
    offset: usize,
    value: &'a DeValue<'a>,
}

impl<'a> ManifestField<'a> {
    fn new(
        source: &'a ManifestSource<'a>,
        parent: &str,
        key: &'a Spanned<std::borrow::Cow<'a, str>>,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Self {
        let label = key.get_ref().to_string();
        let path = if parent.is_empty() { label.clone() } else { format!("{parent}.{label}") };
        let offset = key.span().start;
        source.places.borrow_mut().note(&path, || source.place(offset));
        Self { source, label, path, offset, value: value.get_ref() }
    }

    /// The key.
    pub(super) fn key(&self) -> &str {
        &self.label
    }

    /// The dotted path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The place of the key.
    pub(super) fn place(&self) -> FileLine {
        self.source.place(self.offset)
    }

    /// Notes a problem. `predicate` follows the key, such as `must be ...`.
    pub(super) fn must(&self, predicate: impl AsRef<str>) {
        self.problem(format!("`{}` {}", self.label, predicate.as_ref()));
    }

    /// Notes a problem with a complete message.
    pub(super) fn problem(&self, message: impl AsRef<str>) {
        self.source.problem(Some(self.offset), message);
    }

    /// Notes that the value has the wrong type.
    pub(super) fn wrong(&self, expected: &str) {
        self.must(format!("must be {expected}, not {}", type_of(self.value)));
    }

    /// A path of the host: one that begins with `./` or `../` is relative to the manifest's folder.
    pub(super) fn in_folder(&self, path: &str) -> String {
        match self.source.folder.filter(|_| path.starts_with("./") || path.starts_with("../")) {
            Some(folder) => {
                AbsolutePath::cleaned(&format!("{folder}/{path}")).map_or(path.to_owned(), String::from)
            }
            None => path.to_owned(),
        }
    }

    /// The raw TOML value, for keys that accept several types.
    pub(super) fn value(&self) -> &'a DeValue<'a> {
        self.value
    }

    /// A text.
    pub(super) fn text(&self) -> Option<&'a str> {
        self.text_as("a text in quotes")
    }

    /// A text that `grammar` accepts; `expected` describes it in problems.
    pub(super) fn parsed<T>(
        &self,
        expected: &str,
        grammar: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        grammar(self.text_as(expected)?).map_err(|predicate| self.must(predicate)).ok()
    }

    /// A name, by the rule of its type.
    pub(super) fn name<T: FromStr<Err = InvalidName>>(&self) -> Option<T> {
        self.text()?.parse().map_err(|error: InvalidName| self.problem(error.to_string())).ok()
    }

    /// The key itself as a name.
    pub(super) fn key_as_name<T: FromStr<Err = InvalidName>>(&self) -> Option<T> {
        self.label.parse().map_err(|error: InvalidName| self.problem(error.to_string())).ok()
    }

    fn text_as(&self, expected: &str) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) if text.contains('\0') => {
                self.must("must not contain a NUL character");
                None
            }
            DeValue::String(text) => Some(text),
            _ => {
                self.wrong(expected);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self) -> Option<bool> {
        if let DeValue::Boolean(flag) = self.value {
            return Some(*flag);
        }
        self.wrong("true or false");
        None
    }

    /// A whole number from `least` to `most`.
    pub(super) fn integer(&self, least: u64, most: u64) -> Option<u64> {
        let expected = format!("a whole number from {least} to {most}");
        let DeValue::Integer(number) = self.value else {
            self.wrong(&expected);
            return None;
        };
        let found = integer(number).and_then(|found| u64::try_from(found).ok());
        let found = found.filter(|found| (least..=most).contains(found));
        if found.is_none() {
            self.must(format!("must be {expected}, not {number}"));
        }
        found
    }

    /// A port: 1 to 65535.
    pub(super) fn port(&self) -> Option<u16> {
        self.integer(1, u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
    }

    /// A duration such as `30s`.
    pub(super) fn duration(&self) -> Option<std::time::Duration> {
        self.parsed("a duration such as \"30s\" or \"5m\"", grammar::duration)
    }

    /// The items of a list; `expected` describes it in problems.
    pub(super) fn items(&self, expected: &str) -> Vec<Self> {
        let DeValue::Array(items) = self.value else {
            self.wrong(expected);
            return Vec::new();
        };
        items.iter().enumerate().map(|(index, item)| self.item(index, item)).collect()
    }

    fn item(&self, index: usize, value: &'a Spanned<DeValue<'a>>) -> Self {
        let path = format!("{}[{index}]", self.path);
        let offset = value.span().start;
        self.source.places.borrow_mut().note(&path, || self.source.place(offset));
        Self {
            source: self.source,
            label: format!("{}[{index}]", self.label),
            path,
            offset,
            value: value.get_ref(),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, expected: &str) -> Vec<&'a str> {
        let read = |item: &Self| {
            let text = item.text()?;
            if let Err(predicate) = grammar::argument(text.len()) {
                item.must(predicate);
            }
            Some(text)
        };
        self.items(expected).iter().filter_map(read).collect()
    }

    /// A table with the keys of `section`.
    pub(super) fn table(&self, section: &'static Section) -> Option<Table<'a>> {
        let toml = self.plain_table()?;
        let (source, path) = (self.source, self.path.clone());
        Some(Table { source, path, offset: Some(self.offset), toml, section }.checked())
    }

    /// The entries of a table with free keys, without the user's own keys.
    pub(super) fn entries(&self) -> Vec<Self> {
        self.all_entries().into_iter().filter(|entry| !keys::is_own(entry.key())).collect()
    }

    /// The entries of a table whose keys are names of headers, many of which begin like the user's own keys.
    pub(super) fn all_entries(&self) -> Vec<Self> {
        let toml = self.plain_table().into_iter().flatten();
        toml.map(|(key, value)| Self::new(self.source, &self.path, key, value)).collect()
    }

    fn plain_table(&self) -> Option<&'a DeTable<'a>> {
        if let DeValue::Table(toml) = self.value {
            return Some(toml);
        }
        self.wrong("a table");
        None
    }
}

/// Converts an integer of any radix.
pub(super) fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
