//! A git that answers when and as a test wants.

use std::path::{Path, PathBuf};

use super::docker::Space;

/// A program called `git` before the real one in the path: a question for the heads of a remote waits
/// or fails as the test says; everything else is passed on.
pub(crate) struct SlowGit {
    dir: PathBuf,
}

impl SlowGit {
    /// Lays it out in `space`. At first it is as fast as git is.
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

    /// The path in which a daemon finds it.
    pub(crate) fn path(&self) -> String {
        format!("{}:{}", self.dir.display(), std::env::var("PATH").unwrap())
    }

    /// Answers after so many seconds from now on.
    pub(crate) fn takes(&self, seconds: u32) {
        put(&self.dir.join("slow"), &seconds.to_string());
    }

    /// Fails with these words from now on.
    pub(crate) fn fails(&self, words: &str) {
        put(&self.dir.join("fails"), words);
    }

    /// Is git again.
    pub(crate) fn is_well(&self) {
        for name in ["slow", "fails"] {
            let _ = std::fs::remove_file(self.dir.join(name));
        }
    }
}

/// In one step: the script never reads half of it.
fn put(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, path).unwrap();
}
