//! Builds without a result, such as one that a newer push replaced. The record does not know them; their logs are kept
//! as those of any build are.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use crate::model::build::log_heading;
use crate::model::name::{CommitId, EnvironmentName};
use crate::model::time::Timestamp;

/// The most bytes of the first line of a log.
const LONGEST: u64 = 4 * 1024;

/// A build that has a log and no result.
pub(super) struct StoppedBuild {
    pub(super) number: u64,
    pub(super) revision: CommitId,
    /// The environment that it was for.
    pub(super) environment: EnvironmentName,
    /// When its log was last written.
    pub(super) ended: Timestamp,
}

impl StoppedBuild {
    /// Reads the beginning of the log of a build; `None`: there is none, or it is not one of a build.
    pub(super) fn read(logs: &Path, number: u64) -> Option<Self> {
        let file = File::open(logs.join(format!("{number}.log"))).ok()?;
        let ended = file.metadata().and_then(|file| file.modified()).ok()?.into();
        let mut line = String::new();
        BufReader::new(file.take(LONGEST)).read_line(&mut line).ok()?;
        let (_, revision, environment) =
            log_heading(line.trim_end()).filter(|(logged, ..)| *logged == number)?;
        Some(Self { number, revision, environment, ended })
    }

    /// The builds of an environment that have a log, newest first, without those in `known`.
    pub(super) fn all(logs: &Path, environment: &EnvironmentName, known: impl Fn(u64) -> bool) -> Vec<Self> {
        let Ok(files) = fs::read_dir(logs) else { return Vec::new() };
        let names = files.flatten().map(|file| file.file_name());
        let mut numbers: Vec<u64> =
            names.filter_map(|name| name.to_str()?.strip_suffix(".log")?.parse().ok()).collect();
        numbers.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
        let unknown = numbers.into_iter().filter(|number| !known(*number));
        unknown
            .filter_map(|number| Self::read(logs, number))
            .filter(|build| build.environment == *environment)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_listed_from_their_logs_and_other_files_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let dev = EnvironmentName::new("dev").unwrap();
        let commit = "a".repeat(40);
        for (name, text) in [
            ("3.log", format!("build 3: commit {commit} for dev\nmore\n")),
            ("7.log", format!("build 7: commit {commit} for dev\n")),
            ("5.log", format!("build 5: commit {commit} for dev\n")),
            ("8.log", format!("build 8: commit {commit} for test\n")),
            ("9.log", format!("build 4: commit {commit} for dev\n")),
            ("10.log", "x".repeat(10_000)),
            ("11.log", String::new()),
            ("notes.txt", format!("build 12: commit {commit} for dev\n")),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let found = StoppedBuild::all(dir.path(), &dev, |number| number == 5);
        assert_eq!(found.iter().map(|build| build.number).collect::<Vec<_>>(), [7, 3]);
        assert_eq!(StoppedBuild::read(dir.path(), 8).unwrap().environment.as_str(), "test");
        assert!(StoppedBuild::read(dir.path(), 12).is_none());
    }
}
