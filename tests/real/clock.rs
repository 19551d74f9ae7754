//! A host whose clock is set while the daemon runs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::commands::versioned;
use crate::common::{Daemon, FakeClock, PATIENCE, SITE_PORT, Space, Spot, busybox, eventually, free_ports};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn hours(time: u64) -> String {
    format!("{:02}:{:02}", time / 3600 % 24, time / 60 % 60)
}

#[test]
fn schedules_and_windows_follow_a_clock_that_is_set_back() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let minute = now() / 60 * 60;
    let clock = FakeClock::new(space.dir());
    // The clock shows so many seconds after the beginning of that minute.
    let show = |seconds: u64| clock.set((minute + seconds).cast_signed() - now().cast_signed());
    let ([port], prod) = (free_ports(), space.name("prod"));
    let window = format!("{}-{}", hours(minute + 60), hours(minute + 600));
    let spot = Spot::new(
        &space,
        &format!(
            "[job.counted]\nenvironment = \"dev\"\nentrypoint = [\"/bin/true\"]\nschedule = \"* * * * *\"\n\
             [environment.prod]\ncontainer = \"{prod}\"\nport = {SITE_PORT}\npublish = \"127.0.0.1:{port}\"\n\
             promote = {{ from = \"dev\", windows = [{{ days = \"mon-sun\", hours = \"{window}\", zone = \"UTC\" }}] }}\n"
        ),
    );
    let variables = clock.variables();
    let mut env: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env.push(("ABIDE_RESYNC", "1s"));
    show(5);
    let _daemon = Daemon::start(&spot.desired_state, &env);
    assert_eq!(spot.set(&versioned(&space, &shell, "one", "")).code, 0);
    spot.await_ready();
    let runs = || {
        let ran = spot.abide(&["jobs", "history", "counted", "-o", "json"]);
        let all: Vec<Value> =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        all.iter()
            .filter(|run| run["result"] == "succeeded")
            .map(|run| run["scheduled"].clone())
            .collect::<Vec<_>>()
    };
    let is_open = || spot.abide(&["evidence", "dev", "-o", "json"]).stdout.contains("window open until");

    show(58);
    eventually("it runs in the next minute", PATIENCE, || runs().len() == 1);
    assert!(is_open());
    show(58);
    assert!(!is_open(), "the window has not opened yet");
    let refused = spot.abide(&["promote", "dev", "prod", "--yes"]);
    assert!(refused.code == 1 && refused.stderr.contains("window opens"), "{refused:?}");
    let (began, again) = (Instant::now(), Duration::from_secs(4));
    eventually("the minute comes again", PATIENCE, || began.elapsed() > again);
    assert_eq!(runs().len(), 1, "{:?}", runs());
    show(118);
    eventually("it runs in the minute after that", PATIENCE, || runs().len() == 2);
    assert_ne!(runs()[0], runs()[1]);
    assert_eq!(spot.abide(&["promote", "dev", "prod", "--yes"]).code, 0);
}
