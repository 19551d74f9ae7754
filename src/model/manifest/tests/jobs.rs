//! `[job.NAME]`.

use std::time::Duration;

use super::*;
use crate::model::job::Overlap;
use crate::model::name::JobName;

const JOB: &str = "[job.nightly]\nenvironment = \"dev\"\ncommand = [\"clean\"]\nschedule = \"0 3 * * *\"\n";

#[test]
fn a_job_changes_the_mark_of_its_environment() {
    let text =
        format!("{DEV}{JOB}zone = \"Asia/Shanghai\"\ntimeout = \"5m\"\noverlap = \"replace\"\nretries = 2\n");
    let manifest = parse(&[file("m.toml", text)]).unwrap();
    let spec = environment(&manifest, "dev");
    let job = &spec.jobs[&JobName::new("nightly").unwrap()];
    assert_eq!(job.schedule.to_string(), "0 3 * * * Asia/Shanghai");
    assert_eq!((job.timeout, job.overlap, job.retries), (Duration::from_secs(300), Overlap::Replace, 2));
    assert_eq!(job.catch_up, Duration::from_secs(3600));
    let written = serde_json::to_string(&spec).unwrap();
    assert_eq!(
        serde_json::from_str::<EnvironmentSpec>(&written).unwrap().jobs,
        spec.jobs,
        "as agents read it"
    );
    let plain = parse(&[file("m.toml", DEV.to_owned())]).unwrap();
    let dev = EnvironmentName::new("dev").unwrap();
    assert_ne!(manifest.mark(&dev), plain.mark(&dev));
}

#[test]
fn invalid_jobs_are_rejected_with_a_remedy() {
    let cases = [
        ("schedule = \"0 3 * * *\"", "schedule = \"61 3 * * *\"", "wrong minute `61`"),
        ("schedule = \"0 3 * * *\"", "schedule = \"@daily\"", "write \"0 0 * * *\""),
        (
            "schedule = \"0 3 * * *\"",
            "",
            "`job.nightly` needs `schedule`, such as `schedule = \"0 3 * * *\"`",
        ),
        ("\"0 3 * * *\"", "\"0 3 * * *\"\nzone = \"Mars\"", "this host knows no `Mars`"),
        ("environment = \"dev\"", "environment = \"dve\"", "unknown environment `dve`; did you mean `dev`?"),
        ("environment = \"dev\"", "", "`job.nightly` needs `environment`, such as `environment = \"prod\"`"),
        ("command = [\"clean\"]", "", "needs a `command`, such as"),
        ("command", "overlap = \"never\"\ncommand", "must be \"forbid\", \"allow\" or \"replace\""),
        ("command", "retries = 11\ncommand", "a whole number from 0 to 10"),
        ("command", "catch_up = \"8d\"\ncommand", "must be at most 7 days"),
        ("command", "timeout = \"0s\"\ncommand", "must be more than zero"),
        ("command", "comand = [\"x\"]\ncommand", "did you mean `command`?"),
    ];
    for (from, to, expected) in cases {
        let text = format!("{DEV}{}", JOB.replacen(from, to, 1));
        let problems = parse(&[file("m.toml", text)]).unwrap_err();
        let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(matches!(messages.as_slice(), [one] if one.contains(expected)), "{to}: {messages:?}");
    }
}
