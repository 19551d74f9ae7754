//! The places of a manifest's parts in its files.

use std::collections::BTreeMap;
use std::fmt;

use super::problem::Problem;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileLine {
    /// The file's name.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for FileLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The place of each part, by its dotted path such as `environment.dev.env.TOKEN`.
#[derive(Clone, Debug, Default)]
pub struct Places(BTreeMap<String, FileLine>);

impl Places {
    /// The place of `path`, or of the nearest table around it if `path` is not written.
    pub fn find(&self, path: &str) -> Option<&FileLine> {
        let mut rest = path;
        loop {
            if let Some(place) = self.0.get(rest) {
                return Some(place);
            }
            rest = &rest[..rest.rfind(['.', '['])?];
        }
    }

    /// Whether exactly `path` is written.
    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// A problem with the part at `path`.
    pub fn problem(&self, path: &str, message: impl AsRef<str>) -> Problem {
        match self.find(path) {
            Some(place) => Problem::new(&place.file, Some(place.line), message),
            None => Problem::new(path, None, message),
        }
    }

    /// Notes a place. The first place of a path is kept.
    pub(super) fn note(&mut self, path: &str, place: impl FnOnce() -> FileLine) {
        if !self.0.contains_key(path) {
            self.0.insert(path.to_owned(), place());
        }
    }

    pub(super) fn extend(&mut self, other: Self) {
        for (path, place) in other.0 {
            self.0.entry(path).or_insert(place);
        }
    }
}
