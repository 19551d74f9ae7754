//! A git whose answers a test controls.

use std::path::{Path, PathBuf};

use super::docker::Space;

/// A program called `git` before the real one in the path. A query for the heads of a remote waits
/// or fails as the test demands; everything else is passed on.
pub(crate) struct SlowGit {
    dir: PathBuf,
}

impl SlowGit {
    /// Installs it in `space`. At first it is as fast as git.
    pub(crate) fn new(space: &Space) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = space.dir().join("slow-git");
        std::fs::create_dir(&dir).unwrap();
        let path = std::env::var("PATH").unwrap();
        let here = dir.display();
        let script = format!(
            "#!/bin/sh\nPATH='{path}'\ncase \" $* \" in *' ls-remote '*)\n\
             [ -f '{here}/slow' ] && sleep \"$(cat '{here}/slow')\"\n\
             [ -f '{here}/fails' ] && {{ cat '{here}/fails' >&2; exit 128; }};;\nesac\nexec git \"$@\"\n"
        );
        let program = dir.join("git");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    /// The `PATH` for a daemon.
    pub(crate) fn path(&self) -> String {
        format!("{}:{}", self.dir.display(), std::env::var("PATH").unwrap())
    }

    /// Delays all further answers by so many seconds.
    pub(crate) fn takes(&self, seconds: u32) {
        put(&self.dir.join("slow"), &seconds.to_string());
    }

    /// Fails all further queries with these words.
    pub(crate) fn fails(&self, words: &str) {
        put(&self.dir.join("fails"), words);
    }

    /// Behaves like git again.
    pub(crate) fn is_well(&self) {
        for name in ["slow", "fails"] {
            let _ = std::fs::remove_file(self.dir.join(name));
        }
    }
}

/// Replaced atomically, so that the script never reads a partial file.
fn put(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, path).unwrap();
}
