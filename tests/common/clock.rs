//! A process whose wall clock is set, while its monotonic clock runs on.

use std::path::{Path, PathBuf};

/// Debian's and Ubuntu's library that fakes the wall clock of a process.
const FAKETIME: &str = "libfaketimeMT.so.1";

/// The wall clock of a process, for as long as its folder exists.
pub(crate) struct FakeClock {
    /// The file with the difference from the real clock.
    file: PathBuf,
}

impl FakeClock {
    /// Makes a right clock, with its file in the folder `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        let clock = Self { file: dir.join("clock") };
        clock.set(0);
        clock
    }

    /// Sets it so many seconds off the real one.
    pub(crate) fn set(&self, seconds: i64) {
        // Replaced atomically: the process reads it at every look at its clock.
        let fresh = self.file.with_extension("new");
        std::fs::write(&fresh, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(fresh, &self.file).unwrap();
    }

    /// The variables of a process that goes by it.
    pub(crate) fn variables(&self) -> [(&'static str, String); 5] {
        let on = || "1".to_owned();
        [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", on()),
            ("DONT_FAKE_MONOTONIC", on()),
            ("NO_FAKE_STAT", on()),
        ]
    }
}

fn library() -> PathBuf {
    let arch = std::env::consts::ARCH;
    let folders = [format!("/usr/lib/{arch}-linux-gnu/faketime"), "/usr/lib64/faketime".to_owned()];
    let found = folders.iter().map(|folder| Path::new(folder).join(FAKETIME)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {FAKETIME} (Debian and Ubuntu: libfaketime)"))
}
