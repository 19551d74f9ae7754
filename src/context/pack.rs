//! Packs a build context for the engine, and a checkout for the `archive` step.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use rustix::fs::OFlags;
use tempfile::NamedTempFile;

pub use super::check::check_archive;
use super::error::ContextError;
use super::ignore::IgnoreRules;
use super::tree;
use super::walk::{EntryKind, TreeEntries, TreeEntry};
use super::write::{self, write};

/// The maximum length of a Dockerfile or an ignore file: 1 MiB, far more than people write.
const LARGEST_RECIPE: u64 = 1 << 20;

/// The limits of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLimits {
    /// Entries: files, directories and links.
    pub files: usize,
    /// Total content of all files, in bytes.
    pub bytes: u64,
    /// Nested directories.
    pub depth: usize,
}

impl Default for PackLimits {
    /// Far above the largest repositories, and far below the disk or memory of a small host: a listing takes
    /// some 200 bytes per entry.
    fn default() -> Self {
        Self { files: 500_000, bytes: 16 << 30, depth: 256 }
    }
}

/// A file outside the tree, such as a step's output. It replaces the tree's entry at its path, and no rule
/// ignores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraFile {
    /// Its path in the context.
    pub path: String,
    /// The regular file on this host.
    pub source: PathBuf,
}

/// The result of packing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Entries: files, directories and links.
    pub files: usize,
    /// The length of the tar stream in bytes, before any compression.
    pub bytes: u64,
    /// The SHA-256 of that stream as lower-case hex digits.
    pub digest: String,
}

/// Writes `context` to `out` as an uncompressed tar for the engine's build API.
///
/// The rules come from the ignore file beside the Dockerfile (`NAME.dockerignore`), or else from the
/// context's own `.dockerignore`. The Dockerfile and `.dockerignore` are always included, because the engine
/// reads them. Links stay links, and sockets are left out. The same tree gives the same bytes: entries are
/// sorted and belong to root, of the modes only the executable bit is kept, and entries without a meaningful
/// time (directories, extra files) get the newest time of the files.
///
/// `dockerfile` is relative to the context; [`resolve_dockerfile`] returns its name for the engine.
///
/// # Errors
/// Returns an error if the Dockerfile or the ignore file is invalid, if an entry cannot be packed, if the
/// content exceeds the limits, or if writing to `out` fails.
pub fn pack(
    context: &Path,
    dockerfile: &str,
    extra: &[ExtraFile],
    limits: PackLimits,
    out: impl Write,
) -> Result<Packed, ContextError> {
    write(&list(context, dockerfile, extra, limits)?, out)
}

/// The SHA-256 of the output of [`pack`] without times, as lower-case hex digits. Contexts with equal content
/// have equal fingerprints, regardless of modification times. A repository's own `.git` directory does not
/// count: its packs differ from one copy to the next.
///
/// # Errors
/// Returns the errors of [`pack`].
pub fn fingerprint(context: &Path, dockerfile: &str, limits: PackLimits) -> Result<String, ContextError> {
    write::fingerprint(&list(context, dockerfile, &[], limits)?)
}

/// Like [`fingerprint`], but for the whole `tree`, as packed by [`archive`].
///
/// # Errors
/// Returns the errors of [`archive`].
pub fn fingerprint_tree(tree: &Path, limits: PackLimits) -> Result<String, ContextError> {
    write::fingerprint(&TreeEntries::of(tree, &IgnoreRules::default(), None, limits)?)
}

/// The text of the Dockerfile that [`pack`] sends.
///
/// # Errors
/// Returns the errors of [`resolve_dockerfile`], and an error if the file cannot be read.
pub fn read_dockerfile(context: &Path, dockerfile: &str) -> Result<String, ContextError> {
    let path = context.join(resolve_dockerfile(context, dockerfile)?);
    let (file, _) = tree::open_file(&path, OFlags::NOFOLLOW)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_RECIPE).read_to_end(&mut bytes).map_err(ContextError::read(&path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lists the complete content of a context.
fn list(
    context: &Path,
    dockerfile: &str,
    extra: &[ExtraFile],
    limits: PackLimits,
) -> Result<TreeEntries, ContextError> {
    let recipe = find_recipe(context, dockerfile)?;
    let rules = rules(context, dockerfile)?;
    let mut listing = TreeEntries::of(context, &rules, None, limits)?;
    for file in extra {
        put_extra(&mut listing, context, file)?;
    }
    put_from_tree(&mut listing, context, Path::new(".dockerignore"))?;
    put_from_tree(&mut listing, context, &recipe)?;
    check_recipe(dockerfile, listing.entries.get(&recipe).map(|entry| &entry.kind))?;
    Ok(listing)
}

/// The path of a Dockerfile relative to its context, with links resolved. The engine gets this path, and
/// [`pack`] always sends the file.
///
/// # Errors
/// Returns an error if it is missing, not a regular file, outside the context (directly or by a link), larger
/// than 1 MiB, or not UTF-8.
pub fn resolve_dockerfile(context: &Path, dockerfile: &str) -> Result<String, ContextError> {
    let recipe = find_recipe(context, dockerfile)?;
    let path = context.join(&recipe);
    let entry = match tree::lstat(&path)? {
        Some(found) => TreeEntry::read(&path, &recipe, &found)?,
        None => None,
    };
    check_recipe(dockerfile, entry.as_ref().map(|entry| &entry.kind))?;
    recipe.to_str().map(str::to_owned).ok_or_else(|| unusable(dockerfile, "has a name that is not UTF-8"))
}

/// Packs all of `tree` into the file `output`: compressed if its name ends in `.tar.gz` or `.tgz`, plain if
/// it ends in `.tar`. Nothing is ignored except `output` itself, if it lies in the tree. The same tree gives
/// the same bytes, as with [`pack`].
///
/// The file is written atomically. Its directory must exist.
///
/// # Errors
/// Returns an error if the name has another ending, if an entry cannot be packed, if the content exceeds the
/// limits, or if `output` cannot be written.
pub fn archive(tree: &Path, output: &Path, limits: PackLimits) -> Result<Packed, ContextError> {
    let packing =
        Packing::by_name(output)?.ok_or_else(|| ContextError::ArchiveName { path: output.into() })?;
    let parent = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // List before the file is created, or the archive would contain itself.
    let listing =
        TreeEntries::of(tree, &IgnoreRules::default(), place_in(tree, parent, output).as_deref(), limits)?;
    let failed = || ContextError::write(output);
    let file = NamedTempFile::new_in(parent).map_err(failed())?;
    let packed = match packing {
        Packing::Plain => write(&listing, BufWriter::new(file.as_file()))?,
        Packing::Gzip => write_compressed(&listing, file.as_file(), output)?,
    };
    file.persist(output).map_err(|e| failed()(e.error))?;
    Ok(packed)
}

/// The format of an archive, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
}

impl Packing {
    /// The format; `None` if the name is not that of an archive.
    pub(super) fn by_name(path: &Path) -> Result<Option<Self>, ContextError> {
        let name = path.file_name().ok_or_else(|| ContextError::ArchiveName { path: path.into() })?;
        let name = name.as_encoded_bytes();
        let ends = |ending: &str| name.ends_with(ending.as_bytes());
        let gzip = (ends(".tar.gz") || ends(".tgz")).then_some(Self::Gzip);
        Ok(gzip.or_else(|| ends(".tar").then_some(Self::Plain)))
    }
}

fn write_compressed(listing: &TreeEntries, file: &File, output: &Path) -> Result<Packed, ContextError> {
    // Fast compression: the engine on this host unpacks the archive at once. The header has neither time nor
    // name, so that the bytes are always the same.
    let mut gzip = GzBuilder::new().mtime(0).write(BufWriter::new(file), Compression::fast());
    let packed = write(listing, &mut gzip)?;
    let flushed = gzip.finish().and_then(|mut file| file.flush());
    flushed.map_err(ContextError::write(output))?;
    Ok(packed)
}

/// The path of `output` in the tree, if it lies there.
fn place_in(tree: &Path, parent: &Path, output: &Path) -> Option<PathBuf> {
    let (tree, parent) = (tree.canonicalize().ok()?, parent.canonicalize().ok()?);
    Some(parent.strip_prefix(tree).ok()?.join(output.file_name()?))
}

/// The rules of a context's ignore file; none if it has no such file.
fn rules(context: &Path, dockerfile: &str) -> Result<IgnoreRules, ContextError> {
    for name in [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()] {
        let failed =
            |source| ContextError::IgnoreFile { path: name.clone().into(), source: Box::new(source) };
        if let Some(bytes) = read_ignore_file(context, &name).map_err(failed)? {
            return IgnoreRules::parse_bytes(&bytes).map_err(failed);
        }
    }
    Ok(IgnoreRules::default())
}

fn read_ignore_file(context: &Path, name: &str) -> Result<Option<Vec<u8>>, ContextError> {
    let path = tree::inside(context, name)?;
    if tree::lstat(&path)?.is_none() {
        return Ok(None);
    }
    let (file, found) = tree::open_file(&path, OFlags::NOFOLLOW)?;
    if found.len() > LARGEST_RECIPE {
        return Err(ContextError::TooLarge {
            what: format!("{name:?} has more than {LARGEST_RECIPE} bytes"),
        });
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_RECIPE).read_to_end(&mut bytes).map_err(ContextError::read(&path))?;
    Ok(Some(bytes))
}

fn put_extra(listing: &mut TreeEntries, context: &Path, extra: &ExtraFile) -> Result<(), ContextError> {
    let (_, found) = tree::open_file(&extra.source, OFlags::NOFOLLOW)?;
    let place = tree::place(context, &extra.path)?;
    let path = place.strip_prefix(context).unwrap_or(&place).to_path_buf();
    if tree::lstat(&place)?.is_some_and(|there| there.is_dir()) {
        return Err(ContextError::NotAFile { path });
    }
    let entry = TreeEntry::read(&extra.source, &path, &found)?;
    // Its time is that of this build, which would make the archives of equal content differ.
    entry.map_or(Ok(()), |entry| listing.put(path, TreeEntry { modified: None, ..entry }))
}

/// Adds a file that the rules may have ignored.
fn put_from_tree(listing: &mut TreeEntries, context: &Path, relative: &Path) -> Result<(), ContextError> {
    let path = context.join(relative);
    if listing.entries.contains_key(relative) || relative.as_os_str().is_empty() {
        return Ok(());
    }
    let Some(found) = tree::lstat(&path)?.filter(|found| found.is_file() || found.is_symlink()) else {
        return Ok(());
    };
    let entry = TreeEntry::read(&path, relative, &found)?;
    entry.map_or(Ok(()), |entry| listing.put(relative.to_path_buf(), entry))
}

fn check_recipe(dockerfile: &str, kind: Option<&EntryKind>) -> Result<(), ContextError> {
    match kind {
        Some(EntryKind::File { size, .. }) if *size <= LARGEST_RECIPE => Ok(()),
        Some(EntryKind::File { .. }) => Err(unusable(dockerfile, "is larger than 1 MiB")),
        Some(_) => Err(unusable(dockerfile, "is not a regular file")),
        None => Err(unusable(dockerfile, "is not in the context")),
    }
}

/// The real path of the Dockerfile, relative to the context.
fn find_recipe(context: &Path, dockerfile: &str) -> Result<PathBuf, ContextError> {
    tree::resolve(context, dockerfile).map_err(|error| match error {
        ContextError::OutsideTree { .. } => {
            unusable(dockerfile, "is outside the context, by its path or through a link")
        }
        other => other,
    })
}

fn unusable(dockerfile: &str, rule: &'static str) -> ContextError {
    ContextError::Dockerfile { path: dockerfile.into(), rule }
}

#[cfg(test)]
mod tests;
