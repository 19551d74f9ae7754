//! Interrupted reports to forges and channels.

use std::sync::{Arc, Mutex};

use abide::failpoint::Point;

use super::around;
use crate::common::{
    Daemon, Forge, PATIENCE, SECRET, Scene, ServedAnswer, Space, Spot, Standard, eventually, made_image,
    serve, signed_push,
};

/// The actions of a report. One delivery to a forge has several requests, and a report several deliveries.
pub(super) const REPORTS: &[Point] = &[Point::Deliver, Point::Request];

/// A receiver of webhooks: accepts all of them, and returns their ids as they come.
fn receiver() -> (u16, Arc<Mutex<Vec<String>>>) {
    let ids = Arc::<Mutex<Vec<String>>>::default();
    let received = Arc::clone(&ids);
    let port = serve(move |request| {
        received.lock().unwrap().push(request.header("webhook-id").unwrap().to_owned());
        ServedAnswer::empty(204)
    });
    (port, ids)
}

#[test]
fn a_notification_is_delivered_after_a_kill_at_any_failpoint() {
    let Some(space) = Space::new() else { return };
    let (port, ids) = receiver();
    let key = space.dir().join("key");
    std::fs::write(&key, "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    let spot = Spot::new(
        &space,
        &format!(
            "[notify.team]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/\"\n\
             secret_file = \"{}\"\nallow_private = true\non = [\"ready\"]",
            key.display()
        ),
    );
    let mut announced = 0;
    for failpoint in around(REPORTS) {
        let image = made_image(&space, &format!("announced {announced}"), "");
        assert_eq!(spot.set(&image).code, 0);
        Daemon::start_doomed(&spot.desired_state, &failpoint, &[]).await_doom(&failpoint);
        let daemon = spot.daemon();
        assert_eq!(spot.await_ready(), image, "{failpoint}");
        eventually("the notification arrives", PATIENCE, || {
            spot.abide(&["outbox", "-o", "json"]).stdout.trim() == "[]"
        });
        announced += 1;
        let mut ids = ids.lock().unwrap().clone();
        ids.dedup();
        assert_eq!(ids.len(), announced, "{failpoint}: one message, whatever its attempts: {ids:?}");
        daemon.kill();
    }
}

/// The requests and deliveries of a deployment after which the daemon is killed: each request of its first and last
/// reports, and some of the writes of their progress.
fn kills() -> Vec<String> {
    let requests = (1..=8).map(|nth| format!("after-request:{nth}"));
    let deliveries = (1..=4).map(|nth| format!("after-deliver:{nth}"));
    ["before-deliver".to_owned(), "before-request".to_owned()]
        .into_iter()
        .chain(requests)
        .chain(deliveries)
        .collect()
}

/// Starts a daemon that is killed at `failpoint`, while it deploys a new commit.
fn deploy_and_kill(site: &Standard, failpoint: &str) -> String {
    let doomed = site.doomed(failpoint);
    let commit = site.repo.commit_and_push("dev", &[("www/index.html", failpoint)]);
    assert_eq!(signed_push(doomed.port(), "keepwork", SECRET, "dev", &commit).unwrap().0, 202);
    doomed.await_doom(failpoint);
    commit
}

/// Kills the daemon after each request to `forge`. `former` is the final state of a deployment on it, once another
/// version serves.
fn the_last_state_is_the_last_true_one(forge: &Forge, former: &str) {
    let token = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let Some(mut scene) = Scene::new(&["dev"], |manifest| {
        let declared = forge.declared(&token).replace("deployments = false", "deployments = true");
        let table = "[repository.keepwork]\n";
        manifest.replace(table, &format!("{table}{declared}"))
    }) else {
        return;
    };
    let is_shown = |scene: &Scene| scene.abide(&["outbox", "-o", "json"]).stdout.trim() == "[]";
    let mut serving = scene.site.repo.head("dev");
    scene.ready_at("dev", &serving);
    eventually("the forge shows the first version", PATIENCE, || is_shown(&scene));
    for failpoint in kills() {
        let Scene { daemon, site, space } = scene;
        daemon.kill();
        let commit = deploy_and_kill(&site, &failpoint);
        scene = Scene { daemon: site.daemon(), site, space };
        scene.ready_at("dev", &commit);
        eventually(&format!("{failpoint}: the forge shows it"), PATIENCE, || is_shown(&scene));
        assert_eq!(forge.status(&commit, "abide/dev").as_deref(), Some("success"), "{failpoint}");
        assert_eq!(forge.deployed(&commit), ["success"], "{failpoint}");
        assert_eq!(forge.deployed(&serving), [former], "{failpoint}");
        assert_eq!(forge.repetitions(), [], "{failpoint}");
        serving = commit;
    }
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn github_shows_the_last_true_state_wherever_its_report_was_cut_short() {
    the_last_state_is_the_last_true_one(&Forge::start(), "inactive");
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn gitlab_shows_the_last_true_state_wherever_its_report_was_cut_short() {
    the_last_state_is_the_last_true_one(&Forge::gitlab(), "success");
}
