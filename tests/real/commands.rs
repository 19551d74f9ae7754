//! Commands that run once in a separate container: before and after a release.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{
    Daemon, PATIENCE, Pair, Space, Spot, busybox, docker, eventually, made_image, try_docker,
};

/// Declares `release` as a shell command, with a volume at `/data`.
pub(super) fn declared(space: &Space, key: &str, command: &str) -> String {
    format!(
        "volumes = [\"{}:/data\"]\n{key} = {{ entrypoint = [\"/bin/sh\", \"-c\"], command = [\"{command}\"] }}",
        space.name("data")
    )
}

/// Writes a line into the volume for every run, and fails in images with `FAILS`.
pub(super) const MIGRATE: &str = "echo ran $VERSION >> /data/runs; echo migrating $VERSION; exit ${FAILS:-0}";

/// Returns an image of this version with a shell.
pub(super) fn versioned(space: &Space, shell: &str, version: &str, more: &str) -> String {
    let lines = format!("COPY --from={shell} /bin /bin\nENV PATH=/bin VERSION={version} {more}");
    made_image(space, version, &lines)
}

/// The number of runs that left a line of this version in the volume.
pub(super) fn runs(container: &str, version: &str) -> usize {
    let file = try_docker(&["cp", &format!("{container}:/data/runs"), "-"]).unwrap_or_default();
    file.matches(&format!("ran {version}\n")).count()
}

fn message(status: &Value) -> &str {
    status["message"].as_str().unwrap()
}

#[test]
fn a_release_command_runs_once_per_image() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let lines = declared(&space, "release", MIGRATE);
    let spot = Spot::new(&space, &lines);
    let _daemon = spot.daemon();
    let [one, two] = ["one", "two"].map(|version| versioned(&space, &shell, version, ""));
    let ran = || [runs(&spot.name, "one"), runs(&spot.name, "two"), runs(&spot.name, "three")];

    assert_eq!(spot.set(&one).code, 0);
    spot.await_ready();
    assert_eq!(ran(), [1, 0, 0]);
    docker(&["rm", "--force", &spot.name]);
    eventually("it is healed", PATIENCE, || spot.page().as_deref() == Some("one"));
    spot.declare(&format!("{lines}\nenv = {{ EDITED = \"yes\" }}"));
    spot.until("the edit is applied", |status| {
        status["status"] == "Ready"
            && try_docker(&["inspect", "--format", "{{.Config.Env}}", &spot.name])
                .is_some_and(|env| env.contains("EDITED=yes"))
    });
    assert_eq!(ran(), [1, 0, 0], "neither a repair nor an edit is a release");

    assert_eq!(spot.set(&two).code, 0);
    spot.await_ready();
    assert_eq!(ran(), [1, 1, 0]);
    assert_eq!(spot.abide(&["rollback", "dev"]).code, 0);
    spot.until("it is rolled back", |status| {
        status["image"]["id"] == one.as_str() && spot.page().as_deref() == Some("one")
    });
    assert_eq!(spot.abide(&["resume", "dev"]).code, 0);
    spot.await_ready();
    assert_eq!(ran(), [1, 1, 0], "a rollback releases nothing");

    let container = spot.container();
    let three = versioned(&space, &shell, "three", "FAILS=3");
    assert_eq!(spot.set(&three).code, 0);
    let status = spot.until("the version is given up", |status| {
        status["status"] == "RolledBack" && status["observed_generation"] == status["generation"]
    });
    assert!(
        message(&status).contains("the release command of generation")
            && message(&status).contains("exited with code 3"),
        "{status}"
    );
    assert_eq!(spot.container(), container, "what serves was touched");
    assert_eq!(ran(), [1, 1, 1]);
    let why = spot.abide(&["why", "dev"]).stdout;
    assert!(why.contains("migrating three"), "{why}");
    let output = spot.abide(&["logs", "dev", "--release"]);
    assert_eq!((output.code, output.stdout.as_str()), (0, "migrating three\n"), "{output:?}");
    assert_eq!(spot.abide(&["sync", "dev"]).code, 0);
    spot.until("it is at rest", |status| {
        status["status"] == "RolledBack" && status["observed_sync"] == status["sync"]
    });
    assert_eq!(ran(), [1, 1, 1], "only a person tries it again");
    assert_eq!(spot.set(&three).code, 0);
    eventually("a person tries it again", PATIENCE, || ran() == [1, 1, 2]);
}

#[test]
fn a_first_version_waits_for_its_release_command() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let gate = space.dir().join("gate");
    std::fs::create_dir(&gate).unwrap();
    let wait = "while [ ! -e /gate/open ]; do sleep 0.1; done; echo ran release >> /data/runs";
    let lines = format!(
        "volumes = [\"{}:/data\", \"{}:/gate\"]\nrelease = {{ command = [\"-c\", \"{wait}\"], entrypoint = [\"sh\"], timeout = \"1m\" }}\n\
         after = {{ entrypoint = [\"/bin/sh\", \"-c\", \"echo ran after >> /data/runs; echo warmed\"] }}",
        space.name("data"),
        gate.display()
    );
    let spot = Spot::new(&space, &lines);
    let _daemon = spot.daemon();
    let image = versioned(&space, &shell, "one", "");
    assert_eq!(spot.set(&image).code, 0);
    let status = spot.until("the command runs", |status| {
        status["reason"] == "Releasing" && message(status).contains("is running")
    });
    assert_eq!(status["status"], "Progressing");
    assert_eq!(spot.container(), None, "the version has no container yet");
    std::fs::write(gate.join("open"), "").unwrap();
    spot.await_ready();
    eventually("the command after the release has run", PATIENCE, || runs(&spot.name, "after") == 1);
    assert_eq!(runs(&spot.name, "release"), 1);
    spot.await_ready();
    assert_eq!(spot.abide(&["logs", "dev", "--after"]).stdout, "warmed\n");
    assert_eq!(spot.abide(&["diff", "dev"]).code, 0, "nothing is left to do");
}

#[test]
fn an_agent_runs_release_commands_and_reports_their_failures() {
    let Some(pair) = Pair::new() else { return };
    let Some(shell) = busybox(&pair.space) else { return };
    pair.declare(&declared(&pair.space, "release", MIGRATE));
    let ran = |version: &str| {
        let output = pair.host.docker(&[
            "run",
            "--rm",
            "--volumes-from",
            &pair.name(),
            "--entrypoint",
            "/bin/cat",
            &image_of(&pair),
            "/data/runs",
        ]);
        output.matches(&format!("ran {version}")).count()
    };
    let one = pair.push(&versioned(&pair.space, &shell, "one", ""));
    pair.abide(&["set", "prod", &one]);
    pair.ready();
    pair.serves("one");
    assert_eq!(ran("one"), 1);
    let two = pair.push(&versioned(&pair.space, &shell, "two", "FAILS=4"));
    pair.abide(&["set", "prod", &two]);
    let view = pair.until("the version is given up", |view| {
        view["status"] == "RolledBack" && view["observed_generation"] == view["generation"]
    });
    assert!(message(&view).contains("exited with code 4"), "{view}");
    pair.serves("one");
    assert_eq!((ran("one"), ran("two")), (1, 1));
    assert_eq!(pair.abide(&["logs", "prod", "--release"]).stdout, "migrating two\n");
}

/// The image that runs on the other host.
fn image_of(pair: &Pair) -> String {
    pair.host.docker(&["inspect", "--format", "{{.Image}}", &pair.name()])
}

/// An environment with a shell, ready, and its daemon.
fn with_shell(space: &Space, options: &str) -> Option<(Spot, Daemon)> {
    let shell = busybox(space)?;
    let spot = Spot::new(space, options);
    let daemon = spot.daemon();
    let image = versioned(space, &shell, "one", "");
    assert_eq!(spot.set(&image).code, 0);
    spot.await_ready();
    Some((spot, daemon))
}

/// Runs `abide` with this standard input; returns its exit code and its output.
pub(super) fn typed(folder: &std::path::Path, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_abide"));
    command.env("ABIDE_DESIRED_STATE", folder).args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that reads nothing may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let ran = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (ran.status.code().unwrap(), text(ran.stdout), text(ran.stderr))
}

/// The containers of commands that people run.
fn run_containers(spot: &Spot) -> Vec<String> {
    let filter = format!("name={}.run-", spot.name);
    let listed = docker(&["ps", "--all", "--quiet", "--filter", &filter]);
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn exec_forwards_input_output_and_exit_code_and_is_logged() {
    let Some(space) = Space::new() else { return };
    let Some((spot, _daemon)) = with_shell(&space, "env = { TOKEN = { secret_file = \"/etc/hostname\" } }")
    else {
        return;
    };
    let run = |words: &[&str], input: &str| {
        typed(&spot.desired_state, &[&["exec", "dev", "--"], words].concat(), input)
    };
    let script = "cat; echo to error >&2; exit 7";
    assert_eq!(run(&["sh", "-c", script], "typed\n"), (7, "typed\n".into(), "to error\n".into()));
    let long = "x".repeat(300_000);
    assert_eq!(run(&["cat"], &long), (0, long, String::new()));
    let (code, out, _) = run(&["sh", "-c", "hostname_of=$TOKEN; echo ${#TOKEN} $VERSION"], "");
    assert!(code == 0 && out.ends_with(" one\n"), "{out}");
    let events = spot.abide(&["events", "dev"]).stdout;
    assert!(
        events.contains("runs `cat` in the container") && events.contains("ended with exit code 7"),
        "{events}"
    );
    let secret = std::fs::read_to_string("/etc/hostname").unwrap();
    run(&["echo", secret.trim()], "");
    if secret.trim().len() >= 4 {
        let events = spot.abide(&["events", "dev"]).stdout;
        assert!(events.contains("runs `echo [redacted]`"), "{events}");
    }
    let (code, _, error) = run(&["no-such-program"], "");
    assert_ne!(code, 0, "{error}");
}

#[test]
fn exec_and_run_allocate_a_terminal() {
    let Some(space) = Space::new() else { return };
    let Some((spot, _daemon)) = with_shell(&space, "") else { return };
    for verb in ["exec dev -- sh -c", "run --entrypoint sh dev -- -c"] {
        let line = format!(
            "stty rows 33 cols 77; {} {verb} 'test -t 0 && test -t 1 && echo a terminal; exit 3'",
            env!("CARGO_BIN_EXE_abide")
        );
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        script.env("ABIDE_DESIRED_STATE", &spot.desired_state).env("SHELL", "/bin/sh");
        let ran = script.stdin(Stdio::null()).output().unwrap();
        let out = String::from_utf8_lossy(&ran.stdout);
        assert!(out.contains("a terminal") && ran.status.code() == Some(3), "{verb}: {out} {ran:?}");
    }
}

#[test]
fn run_uses_the_environments_options_and_removes_its_container() {
    let Some(space) = Space::new() else { return };
    let volume = space.name("data");
    let options = format!("env = {{ GREETING = \"hello\" }}\nvolumes = [\"{volume}:/data\"]");
    let Some((spot, daemon)) = with_shell(&space, &options) else { return };
    let run = |words: &[&str]| typed(&spot.desired_state, &[&["run"], words].concat(), "");
    let script = "echo $GREETING; echo kept > /data/left; exit 5";
    assert_eq!(run(&["--entrypoint", "sh", "dev", "--", "-c", script]), (5, "hello\n".into(), String::new()));
    assert_eq!(spot.abide(&["exec", "dev", "--", "cat", "/data/left"]).stdout, "kept\n");
    eventually("its container is removed", PATIENCE, || run_containers(&spot).is_empty());
    // Arguments follow the entrypoint of the image, which knows no such option.
    let (code, out, error) = run(&["dev", "--", "--no-such-option"]);
    assert!(code != 0 && format!("{out}{error}").contains("no-such-option"), "{code} {out} {error}");

    let shown = space.dir().join("shown");
    let begin = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_abide"));
        command.env("ABIDE_DESIRED_STATE", &spot.desired_state);
        command.args(["run", "--entrypoint", "sh", "dev", "--", "-c", "echo begun; sleep 600"]);
        let file = std::fs::File::create(&shown).unwrap();
        let child = command.stdin(Stdio::piped()).stdout(file).stderr(Stdio::null()).spawn().unwrap();
        eventually("the command runs", PATIENCE, || std::fs::read_to_string(&shown).unwrap() == "begun\n");
        child
    };
    let mut client = begin();
    assert_eq!(spot.abide(&["diff", "dev"]).code, 0, "a command that somebody runs is left alone");
    client.kill().unwrap();
    client.wait().unwrap();
    eventually("the container of a client that is gone is removed", PATIENCE, || {
        run_containers(&spot).is_empty()
    });
    let mut client = begin();
    daemon.kill();
    let code = client.wait().unwrap().code();
    assert_eq!(code, Some(255), "the session was cut off");
    assert_eq!(run_containers(&spot).len(), 1);
    let _daemon = spot.daemon();
    eventually("the next daemon removes it", PATIENCE, || run_containers(&spot).is_empty());
    assert_eq!(spot.page().as_deref(), Some("one"));
}

#[test]
fn commands_run_on_the_host_of_an_agent_through_the_link() {
    let Some(pair) = Pair::new() else { return };
    let Some(shell) = busybox(&pair.space) else { return };
    let image = pair.push(&versioned(&pair.space, &shell, "one", ""));
    pair.abide(&["set", "prod", &image]);
    pair.ready();
    let run = |words: &[&str], input: &str| typed(&pair.desired_state, words, input);
    let ran = run(&["exec", "prod", "--", "sh", "-c", "cat; echo bad >&2; exit 9"], "typed\n");
    assert_eq!(ran, (9, "typed\n".into(), "bad\n".into()));
    let ran = run(&["run", "--entrypoint", "sh", "prod", "--", "-c", "echo $VERSION; exit 2"], "");
    assert_eq!(ran, (2, "one\n".into(), String::new()));
    let name = format!("name={}.run-", pair.name());
    eventually("its container is removed", PATIENCE, || {
        pair.host.docker(&["ps", "--all", "--quiet", "--filter", &name]).is_empty()
    });
    let events = pair.abide(&["events", "prod"]).stdout;
    assert!(events.contains("in a new container") && events.contains("ended with exit code 2"), "{events}");
}
