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
use super::walk::{Entry, Kind, Listing};
use super::write::{self, write};

/// The most that is read of a Dockerfile or an ignore file: one MiB, far more than people write.
const LARGEST_RECIPE: u64 = 1 << 20;

/// How much may be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries: files, directories and links.
    pub files: usize,
    /// Content of all files together, in bytes.
    pub bytes: u64,
    /// Directories within directories.
    pub depth: usize,
}

impl Default for Limits {
    /// Far above what the largest repositories hold, and far below what fills a disk or takes the
    /// memory of a small host: a listing takes some 200 bytes an entry.
    fn default() -> Self {
        Self { files: 500_000, bytes: 16 << 30, depth: 256 }
    }
}

/// A file that is no part of the tree, such as a step's output. It takes the place of what the tree
/// has at its path, and no rule ignores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraFile {
    /// Where it goes, relative to the context.
    pub path: String,
    /// The regular file on this host that it is.
    pub source: PathBuf,
}

/// What was packed.
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
/// The ignore file beside the Dockerfile (`NAME.dockerignore`) rules, or else the context's own
/// `.dockerignore`. The Dockerfile and `.dockerignore` go in whatever the rules say, since the
/// engine reads them. Links stay links, sockets are left out. The same tree gives the same bytes:
/// entries are sorted, all belong to root, of the modes only the executable bit is kept, and what
/// has no time of its own (directories, extra files) has the newest time of the files.
///
/// `dockerfile` is relative to the context; [`resolve_dockerfile`] gives the name for the engine.
///
/// # Errors
/// Where the Dockerfile or the ignore file cannot be used, where something cannot be packed or is
/// too much, where `out` fails.
pub fn pack(
    context: &Path,
    dockerfile: &str,
    extra: &[ExtraFile],
    limits: Limits,
    out: impl Write,
) -> Result<Packed, ContextError> {
    write(&list(context, dockerfile, extra, limits)?, out)
}

/// The SHA-256 of what [`pack`] would send, but for times, as lower-case hex digits. Two contexts of
/// one content have one fingerprint, whenever their files were last changed. A repository's own `.git`
/// directory does not count: its packs differ from one copy to the next.
///
/// # Errors
/// As [`pack`].
pub fn fingerprint(context: &Path, dockerfile: &str, limits: Limits) -> Result<String, ContextError> {
    write::fingerprint(&list(context, dockerfile, &[], limits)?)
}

/// As [`fingerprint`], of all of `tree`: of what [`archive`] packs.
///
/// # Errors
/// As [`archive`].
pub fn fingerprint_tree(tree: &Path, limits: Limits) -> Result<String, ContextError> {
    write::fingerprint(&Listing::of(tree, &IgnoreRules::default(), None, limits)?)
}

/// The text of the Dockerfile that [`pack`] sends.
///
/// # Errors
/// As [`resolve_dockerfile`], and if it cannot be read.
pub fn read_dockerfile(context: &Path, dockerfile: &str) -> Result<String, ContextError> {
    let path = context.join(resolve_dockerfile(context, dockerfile)?);
    let (file, _) = tree::open_file(&path, OFlags::NOFOLLOW)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_RECIPE).read_to_end(&mut bytes).map_err(ContextError::read(&path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// All that goes into a context.
fn list(
    context: &Path,
    dockerfile: &str,
    extra: &[ExtraFile],
    limits: Limits,
) -> Result<Listing, ContextError> {
    let recipe = find_recipe(context, dockerfile)?;
    let rules = rules(context, dockerfile)?;
    let mut listing = Listing::of(context, &rules, None, limits)?;
    for file in extra {
        put_extra(&mut listing, context, file)?;
    }
    put_from_tree(&mut listing, context, Path::new(".dockerignore"))?;
    put_from_tree(&mut listing, context, &recipe)?;
    check_recipe(dockerfile, listing.entries.get(&recipe).map(|entry| &entry.kind))?;
    Ok(listing)
}

/// The path of a Dockerfile relative to its context, links resolved: what the engine is told, and
/// what [`pack`] always sends.
///
/// # Errors
/// Where it is not there, no regular file, not in the context (by itself or by a link), larger than
/// 1 MiB, or not UTF-8.
pub fn resolve_dockerfile(context: &Path, dockerfile: &str) -> Result<String, ContextError> {
    let recipe = find_recipe(context, dockerfile)?;
    let path = context.join(&recipe);
    let entry = match tree::lstat(&path)? {
        Some(found) => Entry::read(&path, &recipe, &found)?,
        None => None,
    };
    check_recipe(dockerfile, entry.as_ref().map(|entry| &entry.kind))?;
    recipe.to_str().map(str::to_owned).ok_or_else(|| unusable(dockerfile, "has a name that is not UTF-8"))
}

/// Packs all of `tree` into the file `output`: compressed where its name ends in `.tar.gz` or
/// `.tgz`, plain where it ends in `.tar`. No rule ignores anything; only `output` itself is left out
/// where it lies in the tree. The same tree gives the same bytes, as with [`pack`].
///
/// The file appears whole or not at all. Its directory has to exist.
///
/// # Errors
/// Where the name has another ending, where something cannot be packed or is too much, where
/// `output` cannot be written.
pub fn archive(tree: &Path, output: &Path, limits: Limits) -> Result<Packed, ContextError> {
    let packing =
        Packing::by_name(output)?.ok_or_else(|| ContextError::ArchiveName { path: output.into() })?;
    let parent = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Listed before the file is made, or else it would list itself.
    let listing =
        Listing::of(tree, &IgnoreRules::default(), place_in(tree, parent, output).as_deref(), limits)?;
    let failed = || ContextError::write(output);
    let file = NamedTempFile::new_in(parent).map_err(failed())?;
    let packed = match packing {
        Packing::Plain => write(&listing, BufWriter::new(file.as_file()))?,
        Packing::Gzip => write_compressed(&listing, file.as_file(), output)?,
    };
    file.persist(output).map_err(|e| failed()(e.error))?;
    Ok(packed)
}

/// How an archive is packed, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
}

impl Packing {
    /// `None` where the name is none of an archive.
    pub(super) fn by_name(path: &Path) -> Result<Option<Self>, ContextError> {
        let name = path.file_name().ok_or_else(|| ContextError::ArchiveName { path: path.into() })?;
        let name = name.as_encoded_bytes();
        let ends = |ending: &str| name.ends_with(ending.as_bytes());
        let gzip = (ends(".tar.gz") || ends(".tgz")).then_some(Self::Gzip);
        Ok(gzip.or_else(|| ends(".tar").then_some(Self::Plain)))
    }
}

fn write_compressed(listing: &Listing, file: &File, output: &Path) -> Result<Packed, ContextError> {
    // Fast: the archive travels to the engine on this host and is unpacked there at once. No time
    // and no name in the header, so that the bytes are the same each time.
    let mut gzip = GzBuilder::new().mtime(0).write(BufWriter::new(file), Compression::fast());
    let packed = write(listing, &mut gzip)?;
    let flushed = gzip.finish().and_then(|mut file| file.flush());
    flushed.map_err(ContextError::write(output))?;
    Ok(packed)
}

/// Where `output` lies in the tree, if it does.
fn place_in(tree: &Path, parent: &Path, output: &Path) -> Option<PathBuf> {
    let (tree, parent) = (tree.canonicalize().ok()?, parent.canonicalize().ok()?);
    Some(parent.strip_prefix(tree).ok()?.join(output.file_name()?))
}

/// The rules that a context's ignore file declares; none where it has no such file.
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

fn put_extra(listing: &mut Listing, context: &Path, extra: &ExtraFile) -> Result<(), ContextError> {
    let (_, found) = tree::open_file(&extra.source, OFlags::NOFOLLOW)?;
    let place = tree::place(context, &extra.path)?;
    let path = place.strip_prefix(context).unwrap_or(&place).to_path_buf();
    if tree::lstat(&place)?.is_some_and(|there| there.is_dir()) {
        return Err(ContextError::NotAFile { path });
    }
    let entry = Entry::read(&extra.source, &path, &found)?;
    // Its time is that of this build, which would make each archive of the same content another.
    entry.map_or(Ok(()), |entry| listing.put(path, Entry { modified: None, ..entry }))
}

/// Adds a file that the rules may have left out.
fn put_from_tree(listing: &mut Listing, context: &Path, relative: &Path) -> Result<(), ContextError> {
    let path = context.join(relative);
    if listing.entries.contains_key(relative) || relative.as_os_str().is_empty() {
        return Ok(());
    }
    let Some(found) = tree::lstat(&path)?.filter(|found| found.is_file() || found.is_symlink()) else {
        return Ok(());
    };
    let entry = Entry::read(&path, relative, &found)?;
    entry.map_or(Ok(()), |entry| listing.put(relative.to_path_buf(), entry))
}

fn check_recipe(dockerfile: &str, kind: Option<&Kind>) -> Result<(), ContextError> {
    match kind {
        Some(Kind::File { size, .. }) if *size <= LARGEST_RECIPE => Ok(()),
        Some(Kind::File { .. }) => Err(unusable(dockerfile, "is larger than 1 MiB")),
        Some(_) => Err(unusable(dockerfile, "is no regular file")),
        None => Err(unusable(dockerfile, "is not in the context")),
    }
}

/// Where the Dockerfile really lies, relative to the context.
fn find_recipe(context: &Path, dockerfile: &str) -> Result<PathBuf, ContextError> {
    tree::resolve(context, dockerfile).map_err(|error| match error {
        ContextError::OutsideTree { .. } => {
            unusable(dockerfile, "is not in the context: its path or a link leads out of it")
        }
        other => other,
    })
}

fn unusable(dockerfile: &str, rule: &'static str) -> ContextError {
    ContextError::Dockerfile { path: dockerfile.into(), rule }
}

#[cfg(test)]
mod tests;
