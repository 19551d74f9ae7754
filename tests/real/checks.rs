//! Green commits only, with a real daemon, real git and a fake forge.

use serde_json::{Value, json};

use crate::common::{Forge, PATIENCE, SECRET, Scene, eventually, signed_post};

/// `dev` of the example, which needs checks of a forge.
struct Checked {
    scene: Scene,
    forge: Forge,
}

impl Checked {
    /// `None` if the tests on Docker are disabled.
    fn new(checks: &str) -> Option<Self> {
        let (forge, token) = (Forge::start(), tempfile::NamedTempFile::new().unwrap().into_temp_path());
        let token = token.keep().unwrap();
        let scene = Scene::new(&["dev"], |manifest| {
            let needing =
                manifest.replace("branch = \"dev\"", &format!("branch = \"dev\", checks = {checks}"));
            assert_ne!(needing, manifest);
            let table = "[repository.keepwork]\n";
            needing.replace(table, &format!("{table}{}", forge.declared(&token)))
        })?;
        Some(Self { scene, forge })
    }

    /// Commits and announces a page.
    fn push(&self, words: &str) -> String {
        let commit = self.scene.push_page("dev", words);
        assert_eq!(self.scene.announce("dev").0, 202);
        commit
    }

    /// Reports the results of checks, and announces it in GitHub's format.
    fn report(&self, commit: &str, results: &[(&str, Option<&str>)]) {
        for (name, conclusion) in results {
            self.forge.report(commit, name, *conclusion);
        }
        assert_eq!(self.announce("check_suite", json!({ "check_suite": { "head_sha": commit } })).0, 202);
    }

    fn announce(&self, event: &str, body: Value) -> (u16, String) {
        signed_post(self.scene.daemon.port(), "keepwork", SECRET, event, body.to_string().as_bytes()).unwrap()
    }

    /// Waits until the forge shows this state of a commit in `dev`.
    fn shown(&self, commit: &str, state: &str, words: &str) {
        eventually(&format!("the forge shows {state}: {words}"), PATIENCE, || {
            let shown = self.forge.described(commit, "abide/dev");
            shown.is_some_and(|(shown, description)| shown == state && description.contains(words))
        });
    }

    fn await_words(&self, words: &str) -> Value {
        self.scene.until(words, "dev", |view| view.to_string().contains(words))
    }
}

#[test]
fn only_the_newest_green_commit_is_deployed() {
    let Some(checked) = Checked::new("[\"ci/build\", \"ci/test\"]") else { return };
    let scene = &checked.scene;
    let first = scene.site.repo.head("dev");
    let view = checked.await_words("waiting for CI: 0 of 2 checks");
    assert_eq!((&view["status"], &view["reason"]), (&"Progressing".into(), &"WaitingForChecks".into()));

    checked.shown(&first, "pending", "waiting for CI: 0 of 2 checks");

    // One check, then the other. What abide itself and others report does not count.
    checked.report(&first, &[("ci/build", Some("success")), ("ci/test", None), ("lint", Some("failure"))]);
    checked.await_words("waiting for CI: 1 of 2 checks");
    let why = scene.abide(&["why", "dev"]).stdout;
    assert!(why.contains("waiting for CI: 1 of 2 checks") && why.contains("ci/test is running"), "{why}");
    let own = checked.announce("status", json!({ "sha": first, "context": "abide/dev", "state": "pending" }));
    assert!(own.0 == 200 && own.1.contains("status of abide"), "{own:?}");
    checked.report(&first, &[("ci/test", Some("skipped"))]);
    scene.ready_at("dev", &first);
    assert_eq!(scene.history("dev")[0]["note"], "passed ci/build, ci/test");

    // A red commit is not deployed. The serving version stays, and `wait` does not succeed.
    let red = checked.push("red");
    checked.report(&red, &[("ci/build", Some("failure")), ("ci/test", Some("success"))]);
    let view = checked.await_words("check ci/build of commit");
    assert_eq!((&view["status"], &view["revision"]), (&"Ready".into(), &first.clone().into()));
    let waited = scene.daemon.abide(&["wait", "dev", "--timeout", "30s"]);
    assert!(waited.code == 1 && waited.stderr.contains("ci/build"), "{waited:?}");
    checked.shown(&red, "error", "check ci/build of commit");

    // One that still waits is closed when a newer one is deployed.
    let waiting = checked.push("waiting");
    checked.shown(&waiting, "pending", "waiting for CI");

    // While the head waits, the newest green commit is deployed, even after a repeated check.
    let head = checked.push("head");
    checked.await_words("waiting for CI: 0 of 2 checks");
    checked.report(&red, &[("ci/build", Some("success"))]);
    scene.until("the repeated one runs", "dev", |view| view["revision"] == red.as_str());
    eventually("the repeated one serves", PATIENCE, || scene.serves("dev", "red"));
    assert_eq!(scene.history("dev")[0]["by"], "github (alice)", "the author of the push is kept");

    // A forge that is away is reported, and keeps nothing from healing or serving.
    checked.forge.break_with(Some((503, "down for maintenance")));
    checked.report(&head, &[("ci/build", Some("success")), ("ci/test", Some("success"))]);
    let view = checked.await_words("down for maintenance");
    assert_eq!(view["revision"], red.as_str());
    checked.shown(&head, "pending", "waiting for CI");
    checked.forge.break_with(None);
    scene.ready_at("dev", &head);
    checked.shown(&head, "success", "");
    checked.shown(&waiting, "error", "superseded by");
    assert_eq!(scene.page("dev"), "head");
    assert!(checked.forge.unchanged() > 0, "requests are conditional");

    // What passed stays deployed, and a person passes the checks.
    checked.report(&head, &[("ci/build", Some("failure"))]);
    scene.abide(&["sync", "dev"]);
    scene.ready_at("dev", &head);
    let wild = checked.push("wild");
    checked.await_words("waiting for CI: 0 of 2 checks");
    scene.abide(&["set", "dev", "--commit", &wild]);
    scene.until("it is set", "dev", |view| view["revision"] == wild.as_str());
    eventually("abide reports the state of the commit", PATIENCE, || {
        checked.forge.status(&wild, "abide/dev").as_deref() == Some("success")
    });
}

#[test]
fn required_checks_are_taken_from_the_forge() {
    let Some(checked) = Checked::new("\"required\"") else { return };
    let first = checked.scene.site.repo.head("dev");
    checked.forge.require(&["must", "abide/dev"]);
    checked.await_words("waiting for CI");
    checked.report(&first, &[("must", Some("success")), ("other", Some("failure"))]);
    checked.scene.ready_at("dev", &first);
    assert_eq!(checked.scene.history("dev")[0]["note"], "passed must");
}
