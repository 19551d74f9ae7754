//! Secrets: a secret named in a manifest appears only in the container that it is for.

use std::path::Path;

use crate::child::{PATIENCE, get};
use crate::common::{Daemon, SECRET, Space, Standard, docker, eventually, signed_push};

const IN_VARIABLE: &str = "canary-in-a-variable-5e1f";
const IN_FILE: &str = "canary-in-a-file-77ab";
const ROTATED: &str = "canary-after-a-rotation-c0de";

/// The concatenated content of all files in a folder.
fn bytes_below(folder: &Path) -> Vec<u8> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let contents = entries.map(|path| match path.is_dir() {
        true => bytes_below(&path),
        false => std::fs::read(&path).unwrap_or_default(),
    });
    contents.collect::<Vec<_>>().concat()
}

fn is_in(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

/// Everything that users and programs can read from abide.
fn everything_readable(standard: &Standard, daemon: &Daemon) -> Vec<(String, Vec<u8>)> {
    let verbs: [&[&str]; 9] = [
        &["status"],
        &["status", "-o", "json"],
        &["events", "dev"],
        &["history", "dev", "-o", "json"],
        &["why", "dev"],
        &["diff", "dev"],
        &["logs", "dev", "--build"],
        &["check"],
        &["export"],
    ];
    let outputs = verbs.iter().map(|words| {
        let ran = daemon.abide(words);
        (words.join(" "), [ran.stdout, ran.stderr].concat().into_bytes())
    });
    let (status, metrics) = get(&standard.desired_state.join("abide.sock"), "/metrics");
    assert_eq!(status, 200);
    let more = [
        ("the log".to_owned(), daemon.log().into_bytes()),
        ("the record's folder".to_owned(), bytes_below(&standard.desired_state.join("record"))),
        ("the metrics".to_owned(), metrics.into_bytes()),
        ("a command line".to_owned(), command_lines()),
    ];
    outputs.chain(more).collect()
}

/// The command lines of all processes, including git and everything else that abide starts.
fn command_lines() -> Vec<u8> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .collect::<Vec<_>>()
        .concat()
}

#[test]
fn secrets_appear_only_in_their_container() {
    let Some(space) = Space::new() else { return };
    let standard = Standard::new(&space);
    let file = space.dir().join("token");
    std::fs::write(&file, IN_FILE).unwrap();
    let env = format!(
        "env = {{ ONE = {{ secret_env = \"ABIDE_TEST_CANARY\" }}, TWO = {{ secret_file = \"{}\" }} }}\n",
        file.display()
    );
    standard
        .declare(&standard.manifest().replace("[environment.dev]\n", &format!("[environment.dev]\n{env}")));
    // The most verbose settings.
    let settings =
        [("ABIDE_TEST_WEBHOOK_SECRET", SECRET), ("ABIDE_TEST_CANARY", IN_VARIABLE), ("RUST_LOG", "trace")];
    let daemon = Daemon::start(&standard.desired_state, &settings);
    signed_push(daemon.port(), "keepwork", SECRET, "dev", &standard.repo.head("dev")).unwrap();
    signed_push(daemon.port(), "keepwork", "a-guess-of-the-secret", "dev", &standard.repo.head("dev"))
        .unwrap();
    assert_eq!(daemon.abide(&["wait", "dev", "--timeout", "60s"]).code, 0);
    let container = space.name("dev-server");
    let given = || docker(&["inspect", "--format", "{{.Config.Env}}", &container]);
    assert!(
        given().contains(IN_VARIABLE) && given().contains(IN_FILE),
        "the secrets did not get where they belong"
    );

    // A changed secret is reported and applied too.
    std::fs::write(&file, ROTATED).unwrap();
    assert_eq!(daemon.abide(&["sync", "dev"]).code, 0);
    eventually("the rotated secret is given", PATIENCE, || {
        crate::common::try_docker(&["inspect", "--format", "{{.Config.Env}}", &container])
            .is_some_and(|env| env.contains(ROTATED))
    });
    for (place, outputs) in everything_readable(&standard, &daemon) {
        for secret in [SECRET, IN_VARIABLE, IN_FILE, ROTATED] {
            assert!(!is_in(&outputs, secret), "{secret} is in {place}");
        }
    }
}
