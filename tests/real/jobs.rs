//! Jobs: commands that run at scheduled times, and when a person asks for them.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::commands::{runs, typed, versioned};
use crate::common::{PATIENCE, Pair, ServedAnswer, Space, Spot, busybox, docker, eventually, serve};

/// A volume at `/data`, and a job that leaves a line there for every run.
fn declared(space: &Space, environment: &str, schedule: &str, command: &str) -> String {
    format!(
        "volumes = [\"{}:/data\"]\nenv = {{ GREETING = \"hello\" }}\n[job.nightly]\nenvironment = \"{environment}\"\n\
         entrypoint = [\"/bin/sh\", \"-c\"]\ncommand = [\"{command}\"]\nschedule = \"{schedule}\"\n",
        space.name("data")
    )
}

/// A schedule that does not come during a test.
const RARELY: &str = "0 0 29 2 *";
const COUNT: &str = "echo ran $VERSION >> /data/runs; echo $GREETING from $VERSION; exit ${FAILS:-0}";

fn history(json: &str) -> Vec<Value> {
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_manual_job_run_uses_the_last_good_image() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let spot = Spot::new(&space, &declared(&space, "dev", RARELY, COUNT));
    let daemon = spot.daemon();
    let early = spot.abide(&["jobs", "run", "nightly"]);
    assert!(
        early.code == 255 && early.stderr.contains("no version of dev has become ready yet"),
        "{early:?}"
    );
    assert_eq!(spot.set(&versioned(&space, &shell, "one", "")).code, 0);
    spot.await_ready();
    let ran = spot.abide(&["jobs", "run", "nightly"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "hello from one\n"), "{ran:?}");
    assert_eq!(runs(&spot.name, "one"), 1);
    assert_eq!(spot.abide(&["jobs", "logs", "nightly"]).stdout, "hello from one\n");
    assert_eq!(spot.abide(&["diff", "dev"]).code, 0, "nothing is left to do");
    let listed = spot.abide(&["jobs"]).stdout;
    assert!(
        listed.contains("nightly") && listed.contains("succeeded") && listed.contains(RARELY),
        "{listed}"
    );

    let lines = declared(&space, "dev", RARELY, "echo out of space; exit 7");
    spot.declare(&lines);
    let failed = || {
        let ran = spot.abide(&["jobs", "run", "nightly"]);
        (ran.code, ran.stdout) == (7, "out of space\n".to_owned())
    };
    eventually("the edited job fails", PATIENCE, failed);
    let newest = &history(&spot.abide(&["jobs", "history", "nightly", "-o", "json"]).stdout)[0];
    assert_eq!((&newest["result"], &newest["exit_code"]), (&"failed".into(), &7.into()), "{newest}");
    assert_eq!(newest["output"], "out of space", "{newest}");
    let events = spot.abide(&["events", "dev"]).stdout;
    assert!(
        events.contains("job nightly was started by") && events.contains("job nightly failed"),
        "{events}"
    );
    assert_eq!(spot.status().unwrap()["status"], "Ready", "the service is not at fault");

    daemon.kill();
    let _daemon = spot.daemon();
    let kept = history(&spot.abide(&["jobs", "history", "nightly", "-o", "json"]).stdout);
    assert_eq!(kept[0]["exit_code"], 7, "{kept:?}");
    let unknown = spot.abide(&["jobs", "run", "nigthly"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("did you mean `nightly`?"), "{unknown:?}");
}

#[test]
fn a_scheduled_job_runs_once_despite_a_daemon_kill() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let slow = "echo ran $VERSION >> /data/runs; while [ ! -e /data/open ]; do sleep 0.1; done; echo done";
    let spot = Spot::new(&space, &declared(&space, "dev", "* * * * *", slow));
    let daemon = spot.daemon();
    assert_eq!(spot.set(&versioned(&space, &shell, "one", "")).code, 0);
    spot.await_ready();
    eventually("the next minute has come", PATIENCE * 2, || runs(&spot.name, "one") == 1);
    daemon.kill();
    let _daemon = spot.daemon();
    let skipped = || {
        let kept = history(&spot.abide(&["jobs", "history", "nightly", "-o", "json"]).stdout);
        kept.iter().any(|run| run["result"] == "skipped")
    };
    eventually("the minute after it is skipped", PATIENCE * 2, skipped);
    assert_eq!(runs(&spot.name, "one"), 1, "two runs at once");
    spot.declare(&declared(&space, "dev", RARELY, slow));
    docker(&["exec", &spot.name, "sh", "-c", ": > /data/open"]);
    let ended = || {
        let kept = history(&spot.abide(&["jobs", "history", "nightly", "-o", "json"]).stdout);
        kept.iter().any(|run| run["result"] == "succeeded" && run["exit_code"] == 0)
    };
    eventually("the result of the container is read", PATIENCE, ended);
    assert_eq!(spot.abide(&["jobs", "logs", "nightly"]).stdout, "done\n");
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_scheduled_job_that_fails_is_announced_once_until_it_succeeds() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let messages = Arc::<Mutex<Vec<Value>>>::default();
    let received = Arc::clone(&messages);
    let port = serve(move |request| {
        received.lock().unwrap().push(request.json());
        ServedAnswer::empty(204)
    });
    let key = space.dir().join("key");
    std::fs::write(&key, "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    let command = "[ -e /data/room ] || { echo ran $VERSION >> /data/runs; echo out of space; exit 7; }";
    let channel = format!(
        "[notify.team]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/\"\nsecret_file = {key:?}\n\
         allow_private = true\nenvironments = [\"dev\"]\n"
    );
    let spot = Spot::new(&space, &format!("{}{channel}", declared(&space, "dev", "* * * * *", command)));
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&versioned(&space, &shell, "one", "")).code, 0);
    spot.await_ready();
    let of_kind = |kind: &str| {
        let messages = messages.lock().unwrap();
        messages.iter().filter(|message| message["type"] == kind).cloned().collect::<Vec<_>>()
    };
    // A run that a person asked for is not announced: that person sees its end.
    let run_ends_with = |code| spot.abide(&["jobs", "run", "nightly"]).code == code;
    // While a scheduled run lasts, no other starts.
    eventually("a run fails", PATIENCE, || run_ends_with(7));
    eventually("two scheduled runs failed", PATIENCE * 3, || runs(&spot.name, "one") >= 3);
    eventually("the failure is announced", PATIENCE, || !of_kind("job.failed").is_empty());
    docker(&["exec", &spot.name, "sh", "-c", ": > /data/room"]);
    eventually("a run succeeds", PATIENCE, || run_ends_with(0));
    eventually("its end is announced", PATIENCE, || !of_kind("job.recovered").is_empty());
    let failed = &of_kind("job.failed")[0]["data"];
    assert_eq!(of_kind("job.failed").len(), 1, "{messages:?}");
    assert_eq!(
        (&failed["title"], &failed["environment"]),
        (&"job nightly of dev failed".into(), &"dev".into())
    );
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("exited with code 7; its output ends with: out of space"), "{message}");
    assert_eq!(failed["incident"], of_kind("job.recovered")[0]["data"]["incident"]);
}

#[test]
fn a_job_runs_on_the_host_of_an_agent() {
    let Some(pair) = Pair::new() else { return };
    let Some(shell) = busybox(&pair.space) else { return };
    pair.declare(&declared(&pair.space, "prod", RARELY, COUNT));
    let image = pair.push(&versioned(&pair.space, &shell, "one", "FAILS=4"));
    pair.abide(&["set", "prod", &image]);
    pair.ready();
    let (code, out, error) = typed(&pair.desired_state, &["jobs", "run", "nightly"], "");
    assert_eq!((code, out.as_str()), (4, "hello from one\n"), "{error}");
    let known = || {
        let kept = history(&pair.abide(&["jobs", "history", "nightly", "-o", "json"]).stdout);
        kept.first().is_some_and(|run| run["exit_code"] == 4 && run["host"] == "online")
    };
    eventually("the controller knows the result", PATIENCE, known);
    assert_eq!(pair.abide(&["jobs", "logs", "nightly"]).stdout, "hello from one\n");
}

/// The engine creates one container after the other, which takes seconds for many jobs.
#[test]
fn healing_comes_before_jobs_that_are_still_to_begin() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let jobs: String = (0..20)
        .map(|number| {
            format!(
                "[job.j{number}]\nenvironment = \"dev\"\nentrypoint = [\"/bin/sh\", \"-c\"]\ncommand = [\"true\"]\n\
                 schedule = \"* * * * *\"\n"
            )
        })
        .collect();
    let spot = Spot::new(&space, &jobs);
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&versioned(&space, &shell, "one", "")).code, 0);
    spot.await_ready();
    eventually("the next minute has come", PATIENCE * 2, || {
        let filter = format!("name=^/{}\\.job-", spot.name);
        !docker(&["ps", "--all", "--quiet", "--filter", &filter]).is_empty()
    });
    docker(&["kill", &spot.name]);
    let steps = || {
        let ran = spot.abide(&["events", "dev", "--limit", "1000", "-o", "json"]);
        let mut events = history(&ran.stdout);
        events.sort_by_key(|event| event["sequence"].as_u64());
        let steps = events.iter().filter(|event| event["kind"] == "step");
        steps.map(|event| event["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let created =
        |step: &String| step.starts_with("create container") && step.contains("for the job command");
    eventually("every job has its container", PATIENCE, || {
        steps().iter().filter(|step| created(step)).count() >= 20
    });
    let steps = steps();
    let healed = steps.iter().position(|step| step.starts_with("start container")).unwrap();
    let last = steps.iter().rposition(created).unwrap();
    assert!(healed < last, "{steps:#?}");
}
