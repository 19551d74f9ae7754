//! Gates of promotions, with real checks and real time.

use serde_json::Value;

use crate::common::{Daemon, PATIENCE, Ran, Solo, Space, abide, busybox, eventually_some, free_ports};

/// `dev`, whose page is checked for the word `good`, and `prod`, which is promoted from it through `gates`.
struct Gated {
    daemon: Daemon,
    solo: Solo,
    _space: Space,
}

impl Gated {
    /// `None` on a host without an engine or busybox.
    fn new(gates: &str) -> Option<Self> {
        let space = Space::new()?;
        let image = busybox(&space)?;
        let mut solo = Solo::undeclared(&space);
        let ([port], prod) = (free_ports(), space.name("prod"));
        solo.build.push_str(&format!(
            "\n[environment.prod]\ncontainer = \"{prod}\"\nport = 8900\npublish = \"127.0.0.1:{port}\"\n\
             command = [\"prod\", \"--port\", \"8900\"]\nhealth = {{ {} }}\npromote = {{ from = \"dev\", {gates} }}\n",
            solo.health
        ));
        solo.repo.commit_and_push("dev", &[("www/check.html", "good\n")]);
        let check = "busybox wget -q -O - {url}/check.html | tee /dev/stderr | grep -q good";
        solo.declare(&format!(
            "verify = {{ command = [\"sh\", \"-c\", \"{check}\"], image = \"{image}\", timeout = \"30s\" }}"
        ));
        let daemon = solo.daemon(&[("ABIDE_RESYNC", "1s")]);
        Some(Self { daemon, solo, _space: space })
    }

    fn abide(&self, arguments: &[&str]) -> Ran {
        abide(&self.solo.desired_state, arguments)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.abide(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    fn view(&self, environment: &str) -> Value {
        self.json(&["status", environment])[0].clone()
    }

    /// For how long `dev` was healthy with this image, in milliseconds, as the record knows.
    fn soaked(&self, image: &str) -> Option<u64> {
        let evidence = self.json(&["evidence", "dev"])["evidence"].as_array()?.clone();
        let of_image = |found: &&Value| found["kind"] == "healthy" && found.to_string().contains(image);
        evidence.iter().find(of_image)?["millis"].as_u64()
    }

    /// Waits until `prod` runs the image that `dev` runs now.
    fn await_promoted(&self) -> Value {
        let image = self.solo.await_ready().image;
        eventually_some("prod runs the image of dev", PATIENCE, || {
            let view = self.view("prod");
            (view["status"] == "Ready" && view["image"]["id"] == image.as_str()).then_some(view)
        })
    }

    /// Waits until the state of the promotion to `prod` has these words.
    fn await_message(&self, words: &str) {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some(words, PATIENCE, || {
                last = self.json(&["evidence", "dev"])["onward"][0]["message"].to_string();
                last.contains(words).then_some(())
            });
        }));
        assert!(found.is_ok(), "{words:?} is not in {last}");
    }
}

#[test]
fn auto_promotion_requires_verification_and_soak_time() {
    let Some(gated) = Gated::new("soak = \"3s\", verified = true, auto = true") else { return };
    let first = gated.await_promoted();
    assert_eq!((&first["origin"], &first["generation"]), (&"promotion".into(), &1.into()));
    let evidence = gated.json(&["evidence", "dev"])["evidence"].as_array().unwrap().clone();
    let of = |kind: &str| evidence.iter().find(|found| found["kind"] == kind).unwrap().clone();
    assert!(of("healthy")["millis"].as_u64().unwrap() >= 3_000, "{evidence:?}");
    assert_eq!((&of("verified")["passed"], &of("verified")["output"]), (&true.into(), &"good\n".into()));

    // A version that fails its check is not promoted, and the output of the check is kept.
    gated.solo.push(&gated.daemon, &[("www/check.html", "broken\n")]);
    gated.solo.await_ready();
    gated.await_message("verification in dev failed: exit code 1");
    let refused = gated.abide(&["promote", "dev", "prod", "--yes"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("verification in dev failed"), "{refused:?}");
    let shown = gated.abide(&["evidence", "dev"]).stdout;
    assert!(shown.contains("failed: exit code 1") && shown.contains("  broken\n"), "{shown}");
    assert_eq!(gated.view("prod")["generation"], 1);

    // A good one goes on; after a rollback, which no gate stops, it is not promoted again.
    gated.solo.push(&gated.daemon, &[("www/check.html", "good again\n")]);
    let second = gated.await_promoted();
    assert_eq!(second["generation"], 2);
    let back = gated.abide(&["rollback", "prod", "--yes", "--wait", "--timeout", "60s"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(gated.abide(&["resume", "prod", "--wait", "--timeout", "60s"]).code, 0);
    gated.await_message("prod can be promoted; not by abide alone, because it had this image before");
    let view = gated.view("prod");
    assert_eq!((&view["generation"], &view["image"]), (&3.into(), &first["image"]));
}

#[test]
fn only_an_approved_version_is_promoted_to_prod() {
    let Some(gated) = Gated::new("approvals = 1") else { return };
    gated.solo.await_ready();
    let promote = |more: &[&str]| gated.abide(&[&["promote", "dev", "prod", "--yes"], more].concat());
    assert!(promote(&[]).stderr.contains("0 of 1 approval"));
    assert_eq!(gated.abide(&["reject", "dev", "--reason", "no-logo"]).code, 0);
    let refused = promote(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("no-logo"), "{refused:?}");
    assert!(gated.abide(&["status", "dev"]).stderr.contains("no-logo"));

    gated.solo.push(&gated.daemon, &[("www/check.html", "good, with a logo\n")]);
    gated.solo.await_ready();
    assert_eq!(gated.abide(&["approve", "dev", "--note", "fine"]).code, 0);
    let stale = promote(&["--seen", "7"]);
    assert!(stale.code == 1 && stale.stderr.contains("you looked at generation 7"), "{stale:?}");
    let promoted = promote(&["--seen", "0", "--note", "for-the-fair", "--wait", "--timeout", "60s"]);
    assert_eq!(promoted.code, 0, "{promoted:?}");

    // The next version has no approval, and an admin may pass the gate with a reason.
    gated.solo.push(&gated.daemon, &[("www/check.html", "good, and urgent\n")]);
    gated.solo.await_ready();
    assert!(promote(&[]).stderr.contains("0 of 1 approval"));
    let passed = promote(&["--override", "--reason", "outage", "--wait", "--timeout", "60s"]);
    assert_eq!(passed.code, 0, "{passed:?}");
    let events = gated.abide(&["events", "prod"]).stdout;
    assert!(events.contains("overrode the gates (0 of 1 approval): outage"), "{events}");
}

#[test]
fn soak_time_survives_a_daemon_kill() {
    let Some(gated) = Gated::new("soak = \"30s\", auto = true") else { return };
    let image = gated.solo.await_ready().image;
    let before = eventually_some("dev has soaked for a while", PATIENCE, || {
        gated.soaked(&image).filter(|millis| *millis >= 8_000)
    });
    gated.await_message("soak");
    let Gated { daemon, solo, _space } = gated;
    daemon.kill();
    let gated = Gated { daemon: solo.daemon(&[("ABIDE_RESYNC", "1s")]), solo, _space };
    let after = eventually_some("dev has soaked", PATIENCE, || gated.soaked(&image));
    assert!(after >= before, "the time before the restart counts: {before} ms, then {after} ms");
    let promoted = gated.await_promoted();
    assert_eq!((&promoted["origin"], &promoted["generation"]), (&"promotion".into(), &1.into()));
    assert!(gated.soaked(&image) >= Some(30_000), "it was not promoted early");
}
