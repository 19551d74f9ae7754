//! Backups of volumes: archives in a folder of the host.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::mount::{AbsolutePath, VolumeName};
use super::name::{EnvironmentName, JobName};
use super::one_off::CommandWords;
use super::time::Timestamp;

/// The folder of archives, unless the manifest names another one.
pub const FOLDER: &str = "/var/lib/abide/backups";
/// The most archives that `keep` can name.
pub const MOST_KEPT: u32 = 1000;
/// The longest name of an archive, in bytes.
const LONGEST_NAME: usize = 200;
/// The end of the name of an archive.
const ENDING: &str = ".tar";

/// A job that writes a volume into an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawBackupSpec")]
pub struct BackupSpec {
    /// The volume.
    pub volume: VolumeName,
    /// The command that runs first, such as a dump of a database into the volume; without one, the container
    /// is paused while the volume is read.
    #[serde(flatten)]
    pub dump: CommandWords,
    /// The folder of the host.
    pub folder: AbsolutePath,
    /// How many archives are kept; zero: all.
    pub keep: u32,
}

/// The raw form of a backup.
#[derive(Deserialize)]
struct RawBackupSpec {
    volume: String,
    #[serde(flatten)]
    dump: CommandWords,
    folder: String,
    #[serde(default)]
    keep: u32,
}

impl TryFrom<RawBackupSpec> for BackupSpec {
    type Error = String;

    fn try_from(raw: RawBackupSpec) -> Result<Self, String> {
        let RawBackupSpec { volume, dump, folder, keep } = raw;
        if keep > MOST_KEPT {
            return Err(format!("a backup keeps more than {MOST_KEPT} archives"));
        }
        let volume = volume.parse().map_err(|error| format!("`volume` {error}"))?;
        let folder =
            AbsolutePath::parse("the folder", &folder).map_err(|error| format!("`folder` {error}"))?;
        Ok(Self { volume, dump, folder, keep })
    }
}

impl BackupSpec {
    /// Whether a command runs first.
    pub fn has_dump(&self) -> bool {
        self.dump != CommandWords::default()
    }
}

/// The file name of an archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArchiveName(String);

impl ArchiveName {
    /// The beginning of the names of a job's archives.
    pub fn prefix(environment: &EnvironmentName, job: &JobName) -> String {
        format!("{environment}-{job}-")
    }

    /// The archive of the run of this time.
    pub fn of_run(environment: &EnvironmentName, job: &JobName, at: Timestamp) -> Self {
        Self(format!("{}{}{ENDING}", Self::prefix(environment, job), plain(at)))
    }

    /// The archive of the content before the restore of this time.
    pub fn before_restore(environment: &EnvironmentName, job: &JobName, at: Timestamp) -> Self {
        Self(format!("{}before-{}{ENDING}", Self::prefix(environment, job), plain(at)))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A time without colons, whose text sorts like the time.
fn plain(at: Timestamp) -> String {
    at.to_string().replace(':', "")
}

impl FromStr for ArchiveName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let is_valid = text.ends_with(ENDING)
            && text.len() <= LONGEST_NAME
            && !text.starts_with('.')
            && text.bytes().all(is_plain);
        if is_valid {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("must be the file name of an archive, such as `prod-nightly-2026-11-29T030000Z{ENDING}`"))
    }
}

impl TryFrom<String> for ArchiveName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ArchiveName> for String {
    fn from(name: ArchiveName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        let name = |text: &str| text.parse::<ArchiveName>();
        assert!(name("prod-nightly-2026-11-29T030000Z.tar").is_ok());
        for wrong in
            ["../a.tar", "a/b.tar", ".a.tar", "a.tgz", "", "a b.tar", &format!("{}.tar", "a".repeat(200))]
        {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_job_makes_valid_names_that_sort_by_time() {
        let (environment, job) = (EnvironmentName::new("prod").unwrap(), JobName::new("nightly").unwrap());
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let early = ArchiveName::of_run(&environment, &job, at("2026-11-29T03:00:00Z"));
        let late = ArchiveName::of_run(&environment, &job, at("2026-11-29T15:00:00Z"));
        assert!(early < late);
        for name in [early, late, ArchiveName::before_restore(&environment, &job, at("2026-11-29T03:00:00Z"))]
        {
            assert_eq!(name.as_str().parse(), Ok(name.clone()));
        }
    }

    #[test]
    fn a_backup_from_a_wire_is_checked() {
        let read = |json: &str| serde_json::from_str::<BackupSpec>(json).map_err(|error| error.to_string());
        let good = read(r#"{"volume":"data","folder":"/srv/backups","keep":3,"command":["dump"]}"#).unwrap();
        assert!(good.has_dump());
        assert_eq!(read(&serde_json::to_string(&good).unwrap()), Ok(good));
        assert!(read(r#"{"volume":"/etc","folder":"/srv/backups"}"#).is_err());
        assert!(read(r#"{"volume":"data","folder":"../backups"}"#).is_err());
        assert!(read(r#"{"volume":"data","folder":"/b","keep":100000}"#).is_err());
    }
}
