//! The program's view of the file system.
//!
//! To hide a path, its folder is replaced by a copy of mounts: everything that was in it, except the hidden
//! names. So a hidden file stays hidden if it is replaced by another file, or appears only later: whoever
//! writes it writes to the folder itself, which the program cannot see.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};

use super::ScriptOrder;

/// The most entries that a folder with a hidden name keeps. A fuller folder is hidden as a whole.
const MOST_ENTRIES: usize = 4096;

/// Gives this process its own `/proc` and hides the paths in the order.
///
/// # Errors
/// Returns the failed operation, and its error.
pub(super) fn narrow(order: &ScriptOrder) -> Result<(), (String, io::Error)> {
    let at = |step: &str| {
        let step = step.to_owned();
        move |error| (step, error)
    };
    // Mounts from here on are not visible outside.
    let own = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", own).map_err(|error| at("separate the mounts")(error.into()))?;
    let directory = open_directory(order.directory.as_ref()).map_err(at("open the directory"))?;
    let harmless = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", harmless, None).map_err(|error| at("mount /proc")(error.into()))?;
    // A folder comes before those below it, which are then replaced inside its copy.
    for (folder, names) in by_folder(&order.hidden) {
        hide(&folder, &names).map_err(|error| (format!("hide files in {}", folder.display()), error))?;
    }
    show_again(&directory, Path::new(&order.directory)).map_err(at("keep the directory"))
}

/// The hidden names by their folder. Of a link, both the link and its target are hidden.
fn by_folder(hidden: &[OsString]) -> BTreeMap<PathBuf, BTreeSet<OsString>> {
    let mut found: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
    for path in hidden.iter().map(Path::new) {
        let targets = [Some(path.to_owned()), fs::canonicalize(path).ok()];
        for (folder, name) in targets.iter().flatten().filter_map(|path| existing(path)) {
            found.entry(folder).or_default().insert(name);
        }
    }
    found
}

/// The deepest folder of a path that exists, and the name in it. A folder that this user cannot access is
/// inaccessible to the program as well.
fn existing(path: &Path) -> Option<(PathBuf, OsString)> {
    let mut path = path;
    loop {
        let (folder, name) = (path.parent()?, path.file_name()?);
        match fs::canonicalize(folder) {
            Ok(folder) => return Some((folder, name.to_owned())),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return None,
            Err(_) => path = folder,
        }
    }
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::PATH | OFlags::DIRECTORY).bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Replaces a folder by a copy of mounts in which these names are empty.
fn hide(folder: &Path, names: &BTreeSet<OsString>) -> io::Result<()> {
    if folder.parent().is_none() {
        // The root itself cannot be replaced.
        return names.iter().try_for_each(|name| cover(&folder.join(name)));
    }
    let original = open_directory(folder)?;
    let mode = original.metadata()?.permissions().mode() & 0o1777;
    let entries = entries(folder)?;
    let options = CString::new(format!("mode={mode:o},size=16m")).map_err(io::Error::other)?;
    mount("tmpfs", folder, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
    let inside = PathBuf::from(format!("/proc/self/fd/{}", original.as_raw_fd()));
    for name in entries {
        let (entry, copy) = (inside.join(&name), folder.join(&name));
        let copied = if names.contains(&name) { make_empty(&entry, &copy) } else { show(&entry, &copy) };
        match copied {
            // It was removed meanwhile, or this user cannot access it, so the program could not either.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {}
            other => other?,
        }
    }
    Ok(())
}

/// The names in a folder. A folder that cannot be listed, or that has too many, is hidden as a whole.
fn entries(folder: &Path) -> io::Result<Vec<OsString>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = listed.map(|entry| Ok(entry?.file_name())).take(MOST_ENTRIES + 1);
    let names = names.collect::<io::Result<Vec<_>>>()?;
    Ok(if names.len() > MOST_ENTRIES { Vec::new() } else { names })
}

/// Makes an empty file or folder in place of a hidden one.
fn make_empty(entry: &Path, copy: &Path) -> io::Result<()> {
    match fs::metadata(entry)?.is_dir() {
        true => fs::create_dir(copy),
        false => File::create(copy).map(drop),
    }
}

/// Shows an entry of the original folder in its copy.
fn show(entry: &Path, copy: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(entry)?.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(entry)?, copy);
    }
    if kind.is_dir() {
        fs::create_dir(copy)?;
    } else {
        File::create(copy)?;
    }
    Ok(mount_bind_recursive(entry, copy)?)
}

/// Mounts an empty file or folder over `path`.
fn cover(path: &Path) -> io::Result<()> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if found.is_dir() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", path, "tmpfs", flags, c"mode=0755,size=1m")?;
    } else {
        mount_bind("/dev/null", path)?;
    }
    Ok(())
}

/// Mounts the directory at its path again, if it is hidden now.
fn show_again(directory: &File, path: &Path) -> io::Result<()> {
    let own = directory.metadata()?;
    if fs::metadata(path).is_ok_and(|seen| (seen.dev(), seen.ino()) == (own.dev(), own.ino())) {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    Ok(mount_bind_recursive(format!("/proc/self/fd/{}", directory.as_raw_fd()), path)?)
}
