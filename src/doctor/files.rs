//! The record's folder, and the room on its disk.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::statvfs;
use rustix::process::geteuid;

use super::Finding;

/// The most files of the record to check: enough to find those of another user.
const LOOKED_AT: usize = 10_000;
/// Less free room than this, in bytes, is not enough for a build.
const LITTLE: u64 = 1 << 30;
/// Less free room than this, in bytes, is not enough for the record.
const HARDLY_ANY: u64 = 64 << 20;

/// Returns the id of the record in a folder; `None` if there is none, or it cannot be read.
pub(super) fn record_id(folder: &Path) -> Option<String> {
    fs::read_to_string(folder.join("id")).ok().map(|id| id.trim().to_owned())
}

/// A user who may write to the record decides what runs, and a user who may read it sees tokens' hashes and history.
pub(super) fn record(folder: &Path) -> Vec<Finding> {
    let Ok(metadata) = fs::metadata(folder) else {
        return vec![Finding::ok(
            "record",
            format!("{} does not exist yet: the daemon creates it", folder.display()),
        )];
    };
    let mut findings = Vec::new();
    if metadata.mode() & 0o077 != 0 {
        findings.push(Finding::problem(
            "record",
            format!(
                "other users can read or write {} (mode {:o})",
                folder.display(),
                metadata.mode() & 0o777
            ),
            format!("`chmod 700 {}`", folder.display()),
        ));
    }
    let owner = metadata.uid();
    if let Some(foreign) = foreign(folder, owner) {
        findings.push(Finding::problem(
            "record",
            format!("{foreign} has another owner than the folder, so the daemon may fail to open it"),
            format!("`chown --recursive {owner} {}`", folder.display()),
        ));
    }
    let user = geteuid().as_raw();
    if user != owner && user != 0 {
        findings.push(Finding::warning(
            "record",
            format!("{} belongs to another user (uid {owner})", folder.display()),
            "run this as root or as the user that runs abide, to check everything",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("record", format!("only uid {owner} can access {}", folder.display())));
    }
    findings
}

/// A file below `folder` that another user owns.
fn foreign(folder: &Path, owner: u32) -> Option<String> {
    let mut folders = vec![folder.to_owned()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        // A daemon that runs removes files meanwhile.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            seen += 1;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.uid() != owner {
                return Some(entry.path().display().to_string());
            }
            if metadata.is_dir() && seen < LOOKED_AT {
                folders.push(entry.path());
            }
        }
    }
    None
}

/// The room on the disks of the record and of the engine.
pub(super) fn disks(desired_state: &Path, engine_root: Option<&Path>) -> Vec<Finding> {
    let places = [("record", Some(desired_state)), ("engine", engine_root)];
    let free = |path: &Path| statvfs(path).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    places.into_iter().filter_map(|(what, path)| Some(judge_disk(what, path?, free(path?)?))).collect()
}

fn judge_disk(what: &str, path: &Path, free: u64) -> Finding {
    let message = format!("{} MiB free for the {what} ({})", free >> 20, path.display());
    let remedy = "free some space: `docker system df` shows the size of images and build caches";
    match free {
        HARDLY_ANY.. if free >= LITTLE => Finding::ok("disk", message),
        HARDLY_ANY.. => Finding::warning("disk", message, remedy),
        _ => Finding::problem("disk", message, remedy),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Severity;
    use super::*;

    #[test]
    fn a_record_that_others_can_read_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("db"), "").unwrap();
        for (mode, expected) in
            [(0o700, Severity::Ok), (0o755, Severity::Problem), (0o770, Severity::Problem)]
        {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let found = record(dir.path());
            assert_eq!((found.len(), found[0].severity), (1, expected), "{mode:o}: {found:?}");
        }
        assert!(foreign(dir.path(), u32::MAX).unwrap().ends_with("/db"));
        assert_eq!(record(&dir.path().join("none"))[0].severity, Severity::Ok);
    }

    #[test]
    fn low_disk_space_is_a_warning_and_very_low_space_a_problem() {
        let judged = |free| judge_disk("record", Path::new("/x"), free).severity;
        assert_eq!(judged(2 << 30), Severity::Ok);
        assert_eq!(judged(500 << 20), Severity::Warning);
        assert_eq!(judged(10 << 20), Severity::Problem);
        assert_eq!(disks(Path::new("/"), None).len(), 1);
    }
}
