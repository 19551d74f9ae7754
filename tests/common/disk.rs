//! A small disk that can fill up.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, unmounted when dropped.
pub(crate) struct SmallDisk {
    /// Its folder.
    pub(crate) path: PathBuf,
}

impl SmallDisk {
    const BALLAST: &str = "ballast";

    /// Mounts a disk of `size`, such as `24m`, in the new folder `path`; `None` if this user may not mount.
    pub(crate) fn mount(path: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        let options = format!("size={size},mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "abide-test"]).arg(path);
        mount.output().unwrap().status.success().then(|| Self { path: path.to_owned() })
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.path.join(Self::BALLAST)).unwrap();
        let full = std::io::copy(&mut std::io::repeat(1), &mut file).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    /// Gives the room back.
    pub(crate) fn free(&self) {
        let _ = std::fs::remove_file(self.path.join(Self::BALLAST));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
