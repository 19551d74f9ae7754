//! Lists the content of an archive: sorted, filtered by the rules, within limits.

use std::collections::BTreeMap;
use std::fs::{self, FileType, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::error::ContextError;
use super::ignore::{IgnoreMatch, IgnoreRules};
use super::pack::PackLimits;
use super::tree::{self, file_mode};

/// One entry of a future archive.
#[derive(Debug)]
pub(super) struct TreeEntry {
    pub(super) kind: EntryKind,
    /// Seconds since the epoch; `None` if the time has no meaning. It is then written as the newest time of
    /// all.
    pub(super) modified: Option<u64>,
}

#[derive(Debug)]
pub(super) enum EntryKind {
    Directory,
    Link { target: PathBuf },
    File { source: PathBuf, size: u64, mode: u32 },
}

impl TreeEntry {
    /// Reads the entry at `path`, whose metadata is `found`. Returns `None` for a socket, because it belongs
    /// to a running program and has no content. Errors name the path `shown`.
    pub(super) fn read(path: &Path, shown: &Path, found: &Metadata) -> Result<Option<Self>, ContextError> {
        let of_file = u64::try_from(found.mtime()).unwrap_or(0);
        let (kind, modified) = match found.file_type() {
            // A directory's own time only reflects its last new entry.
            t if t.is_dir() => (EntryKind::Directory, None),
            t if t.is_symlink() => (
                EntryKind::Link { target: fs::read_link(path).map_err(ContextError::read(path))? },
                Some(of_file),
            ),
            t if t.is_file() => (
                EntryKind::File { source: path.into(), size: found.len(), mode: file_mode(found) },
                Some(of_file),
            ),
            t if t.is_socket() => return Ok(None),
            t => return Err(ContextError::SpecialFile { path: shown.into(), kind: special(t) }),
        };
        Ok(Some(Self { kind, modified }))
    }

    fn size(&self) -> u64 {
        if let EntryKind::File { size, .. } = self.kind { size } else { 0 }
    }
}

fn special(file_type: FileType) -> &'static str {
    if file_type.is_fifo() { "FIFO" } else { "device" }
}

/// The entries by path. Paths sort by their parts, so a directory comes before its content.
#[derive(Debug)]
pub(super) struct TreeEntries {
    pub(super) entries: BTreeMap<PathBuf, TreeEntry>,
    bytes: u64,
    limits: PackLimits,
}

impl TreeEntries {
    /// Lists the tree at `root`, without ignored entries and without the file `skipped`.
    pub(super) fn of(
        root: &Path,
        rules: &IgnoreRules,
        skipped: Option<&Path>,
        limits: PackLimits,
    ) -> Result<Self, ContextError> {
        let mut listing = Self { entries: BTreeMap::new(), bytes: 0, limits };
        let mut ahead = vec![(PathBuf::new(), IgnoreMatch::default())];
        while let Some((directory, verdict)) = ahead.pop() {
            listing.check_depth(&directory)?;
            for name in names(&root.join(&directory))? {
                let relative = directory.join(name);
                if skipped == Some(relative.as_path()) {
                    continue;
                }
                let verdict = listing.visit(root, &relative, rules, &verdict)?;
                ahead.extend(verdict.map(|verdict| (relative, verdict)));
            }
        }
        Ok(listing)
    }

    /// Adds one path unless it is ignored. For a directory to enter, returns its result.
    fn visit(
        &mut self,
        root: &Path,
        relative: &Path,
        rules: &IgnoreRules,
        parent: &IgnoreMatch,
    ) -> Result<Option<IgnoreMatch>, ContextError> {
        let path = root.join(relative);
        let text = tree::rule_text(relative);
        let verdict = rules.judge(&text, parent);
        let found = fs::symlink_metadata(&path).map_err(ContextError::read(&path))?;
        let enter = found.is_dir() && (!verdict.ignored || rules.may_contain_exceptions(&text));
        if !verdict.ignored
            && let Some(entry) = TreeEntry::read(&path, relative, &found)?
        {
            self.put(relative.to_path_buf(), entry)?;
        }
        Ok(enter.then_some(verdict))
    }

    /// Adds an entry, or replaces the entry at the same path.
    pub(super) fn put(&mut self, path: PathBuf, entry: TreeEntry) -> Result<(), ContextError> {
        self.bytes = self.bytes.saturating_add(entry.size());
        let replaced = self.entries.insert(path, entry);
        self.bytes = self.bytes.saturating_sub(replaced.map_or(0, |old| old.size()));
        if self.bytes > self.limits.bytes {
            let what = format!("more than {} bytes; the largest are {}", self.limits.bytes, self.largest());
            return Err(ContextError::TooLarge { what });
        }
        if self.entries.len() > self.limits.files {
            let what = format!("more than {} files; most are in {}", self.limits.files, self.fullest());
            return Err(ContextError::TooLarge { what });
        }
        Ok(())
    }

    fn check_depth(&self, directory: &Path) -> Result<(), ContextError> {
        if directory.components().count() <= self.limits.depth {
            return Ok(());
        }
        let top: PathBuf = directory.components().take(3).collect();
        let what = format!("directories more than {} deep, below {top:?}", self.limits.depth);
        Err(ContextError::TooLarge { what })
    }

    /// The newest time of any file or link. Entries without a time get it, so that equal content always gives
    /// the same archive.
    pub(super) fn newest(&self) -> u64 {
        self.entries.values().filter_map(|entry| entry.modified).max().unwrap_or(0)
    }

    fn largest(&self) -> String {
        let sizes = self.entries.iter().map(|(path, entry)| (entry.size(), path.as_path()));
        biggest(sizes.collect(), "bytes")
    }

    fn fullest(&self) -> String {
        let mut counts: BTreeMap<&Path, u64> = BTreeMap::new();
        for path in self.entries.keys() {
            let top = path.components().next().map_or(path.as_path(), |part| Path::new(part.as_os_str()));
            *counts.entry(top).or_default() += 1;
        }
        biggest(counts.into_iter().map(|(path, count)| (count, path)).collect(), "files")
    }
}

/// The three largest entries, as text.
fn biggest(mut all: Vec<(u64, &Path)>, unit: &str) -> String {
    all.sort_by(|a, b| b.cmp(a));
    let words: Vec<String> = all.iter().take(3).map(|(n, path)| format!("{path:?} ({n} {unit})")).collect();
    words.join(", ")
}

fn names(directory: &Path) -> Result<Vec<std::ffi::OsString>, ContextError> {
    let entries = fs::read_dir(directory).map_err(ContextError::read(directory))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    names.collect::<Result<_, _>>().map_err(ContextError::read(directory))
}
