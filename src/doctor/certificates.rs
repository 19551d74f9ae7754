//! Certificates that run out.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Finding;
use crate::model::spec::{CertificateFiles, FrontSpec, Manifest};
use crate::tls::certificate::check_files;
use crate::tls::expiry;

/// How long before the end of a certificate it is warned of, in days.
const SOON: i64 = 21;
const DAY: i64 = 24 * 60 * 60;

pub(super) fn judge(manifest: &Manifest, desired_state: &Path) -> Vec<Finding> {
    let default = |front: &FrontSpec| front.https.as_ref()?.default.clone();
    let front = manifest.front.iter().flat_map(|front| {
        default(front).into_iter().chain(front.certificates.iter().map(|one| one.files.clone()))
    });
    let own = desired_state.join("tls/certificate.pem");
    let files = front.map(|files| files.certificate).chain(own.exists().then_some(own));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let pairs = manifest.front.iter().flat_map(FrontSpec::certificate_files).map(|(_, _, files)| files);
    let mismatched = pairs.filter_map(judge_pair);
    files.map(|file| judge_one(&file, expiry(&file), now)).chain(mismatched).collect()
}

/// Checks that a certificate and its key belong together; `None`: they do, or cannot be read, which is another finding.
fn judge_pair(files: &CertificateFiles) -> Option<Finding> {
    let (chain, key) = (std::fs::read(&files.certificate).ok()?, std::fs::read(&files.key).ok()?);
    let mismatch = check_files(files, &chain, &key).err()?;
    Some(Finding::problem("certificate", mismatch, "replace them with a pair that belongs together"))
}

fn judge_one(file: &Path, ends: Result<i64, String>, now: i64) -> Finding {
    let shown = file.display();
    match ends {
        Err(why) => Finding::problem(
            "certificate",
            format!("{shown} {why}"),
            "replace it with a certificate in \
                PEM format",
        ),
        Ok(ends) if ends <= now => Finding::problem(
            "certificate",
            format!("{shown} has expired"),
            "renew it; abide loads a new file by itself",
        ),
        Ok(ends) => {
            let days = (ends - now) / DAY;
            let message = format!("{shown} is valid for another {days} days");
            match days {
                SOON.. => Finding::ok("certificate", message),
                _ => Finding::warning("certificate", message, "renew it; abide loads a new file by itself"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn doctor_warns_of_a_certificate_before_it_expires() {
        let judged = |ends| judge_one(Path::new("/c.pem"), ends, 1_000 * DAY).severity;
        assert_eq!(judged(Ok(1_100 * DAY)), Severity::Ok);
        assert_eq!(judged(Ok(1_005 * DAY)), Severity::Warning);
        assert_eq!(judged(Ok(999 * DAY)), Severity::Problem);
        assert_eq!(judged(Err("cannot be read".into())), Severity::Problem);
    }
}
