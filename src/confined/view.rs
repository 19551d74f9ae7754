//! The program's view of the file system.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};

use super::Order;

/// Gives this process its own `/proc` and hides the paths in the order.
///
/// # Errors
/// Returns the failed operation, and its error.
pub(super) fn narrow(order: &Order) -> Result<(), (String, io::Error)> {
    let at = |step: &str| {
        let step = step.to_owned();
        move |error| (step, error)
    };
    // Mounts from here on are not visible outside.
    let own = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", own).map_err(|error| at("separate the mounts")(error.into()))?;
    let directory = open_directory(&order.directory).map_err(at("open the directory"))?;
    let harmless = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", harmless, None).map_err(|error| at("mount /proc")(error.into()))?;
    for path in &order.hidden {
        hide(Path::new(path)).map_err(|error| (format!("hide {}", path.display()), error))?;
    }
    show_again(&directory, Path::new(&order.directory)).map_err(at("keep the directory"))
}

fn open_directory(path: &OsStr) -> io::Result<File> {
    let flags = i32::try_from((OFlags::PATH | OFlags::DIRECTORY).bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Mounts an empty file or folder over `path`. A missing path needs no hiding, and a path that this user
/// cannot access is inaccessible to the program as well.
fn hide(path: &Path) -> io::Result<()> {
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
