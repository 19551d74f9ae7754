//! `[job.NAME]`.

use std::time::Duration;

use super::table::{ManifestField, Table};
use super::{gates, keys, one_off};
use crate::model::backup::{BackupSpec, FOLDER, MOST_KEPT};
use crate::model::gates::Zone;
use crate::model::job::{JobSpec, LONGEST_CATCH_UP, MOST_RETRIES, Overlap};
use crate::model::mount::{AbsolutePath, VolumeName};
use crate::model::name::EnvironmentName;
use crate::model::schedule::Schedule;

/// The default of `timeout` and `catch_up`.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// The readable part of a job.
#[derive(Clone, Debug, Default)]
pub(super) struct PartialJob {
    pub(super) environment: Option<EnvironmentName>,
    /// The complete job; `None` if something required is missing or wrong.
    pub(super) spec: Option<JobSpec>,
}

pub(super) fn read(field: &ManifestField<'_>) -> PartialJob {
    let Some(table) = field.table(&keys::JOB) else { return PartialJob::default() };
    let environment = table.required("environment").and_then(|field| field.name());
    PartialJob { environment, spec: read_spec(field, &table) }
}

fn read_spec(field: &ManifestField<'_>, table: &Table<'_>) -> Option<JobSpec> {
    let words = one_off::read_words(table);
    let backup = table.get("backup").map(|field| read_backup(&field));
    let beside = table.present(&["command", "entrypoint"]);
    for field in beside.iter().filter(|_| backup.is_some()) {
        field.must("does not go with `backup`: the command before a backup is `command` in it");
    }
    let has_words = !beside.is_empty() || backup.is_some();
    if !has_words {
        field.must("needs a `command`, such as command = [\"./manage.py\", \"clearsessions\"]");
    }
    let zone = match table.get("zone") {
        Some(field) => gates::read_zone(&field),
        None => Zone::named("UTC").ok(),
    };
    let schedule = table.required("schedule").and_then(|field| {
        let utc = Zone::named("UTC").ok()?;
        let zone = zone.clone().unwrap_or(utc);
        field.parsed("a text such as \"0 3 * * *\"", |text| Schedule::new(text, zone))
    });
    let timeout = table.get("timeout").map_or(Some(HOUR), |field| one_off::read_timeout(&field));
    let overlap = table
        .get("overlap")
        .map_or(Some(Overlap::default()), |field| field.parsed("a text in quotes", read_overlap));
    if let (Some(field), Some(Overlap::Allow | Overlap::Replace), Some(_)) =
        (table.get("overlap"), overlap, &backup)
    {
        field.must("must be \"forbid\" for a `backup`");
    }
    let retries = match table.get("retries") {
        Some(field) => field.integer(0, u64::from(MOST_RETRIES)).and_then(|count| u32::try_from(count).ok()),
        None => Some(0),
    };
    let catch_up = table.get("catch_up").map_or(Some(HOUR), |field| read_catch_up(&field));
    Some(JobSpec {
        words: Some(words).filter(|_| has_words)?,
        backup: match backup {
            Some(backup) => Some(backup?),
            None => None,
        },
        schedule: schedule.filter(|_| zone.is_some())?,
        timeout: timeout?,
        overlap: overlap?,
        retries: retries?,
        catch_up: catch_up?,
    })
}

fn read_backup(field: &ManifestField<'_>) -> Option<BackupSpec> {
    let table = field.table(&keys::BACKUP)?;
    let dump = one_off::read_words(&table);
    let volume = table.required("volume").and_then(|field| {
        field.parsed("the name of a volume", |text| {
            text.parse::<VolumeName>().map_err(|error| error.to_string())
        })
    });
    let absolute = |text: &str| AbsolutePath::parse("the path", text).map_err(|error| error.to_string());
    let folder = match table.get("folder") {
        Some(field) => field.parsed("an absolute path of the host", absolute),
        None => absolute(FOLDER).ok(),
    };
    let keep = match table.get("keep") {
        Some(field) => field.integer(1, u64::from(MOST_KEPT)).and_then(|count| u32::try_from(count).ok()),
        None => Some(0),
    };
    Some(BackupSpec { volume: volume?, dump, folder: folder?, keep: keep? })
}

fn read_overlap(text: &str) -> Result<Overlap, String> {
    Overlap::ALL
        .into_iter()
        .find(|overlap| overlap.as_str() == text)
        .ok_or_else(|| "must be \"forbid\", \"allow\" or \"replace\"".to_owned())
}

fn read_catch_up(field: &ManifestField<'_>) -> Option<Duration> {
    let duration = field.duration()?;
    if duration > LONGEST_CATCH_UP {
        field.must("must be at most 7 days, such as \"6h\"");
        return None;
    }
    Some(duration)
}
