//! The daemon is killed before and after each of its steps for a service, and the next one continues.

use abide::failpoint::Point;

use crate::cluster::Cluster;
use crate::common::{PATIENCE, around, eventually};

/// The steps of a deployment, the last of which writes the service.
const DEPLOYMENT: &[Point] = &[Point::Acquire, Point::Pull, Point::RecordImage, Point::ApplyWorkload];

#[test]
#[ignore = "takes minutes: .ci/slow"]
fn a_service_follows_the_record_after_a_kill_at_any_failpoint() {
    let Some(mut cluster) = Cluster::new(1) else { return };
    let mut good = String::new();
    // The service does not exist at first, so it is created.
    for failpoint in around(&[Point::ApplyWorkload]) {
        remove_service(&mut cluster);
        good = deploy(&mut cluster, &failpoint, &format!("created {failpoint}"));
    }
    for failpoint in around(DEPLOYMENT) {
        good = deploy(&mut cluster, &failpoint, &failpoint);
    }
    roll_back(&mut cluster, &good);
    rename(&mut cluster);
}

fn remove_service(cluster: &mut Cluster) {
    cluster.kill();
    let name = cluster.name();
    if cluster.services().contains(&name) {
        cluster.swarm.manager().docker(&["service", "rm", &name]);
    }
}

/// Deploys an image that serves these words, with a daemon that is killed on the way. Returns the image.
fn deploy(cluster: &mut Cluster, failpoint: &str, words: &str) -> String {
    let image = cluster.push(words, "");
    // The daemon may be killed before it answers; the record has the image then, too.
    cluster.cut_short(failpoint, |daemon| drop(daemon.abide(&["set", "prod", &image])));
    cluster.start();
    cluster.ready_with(&image);
    cluster.serve(words, 3);
    assert_eq!(cluster.tasks_ever(&image), 3, "{failpoint}: no replica was replaced twice");
    image
}

/// A version that fails: the first write is that of the bad version, the second that of the good one.
fn roll_back(cluster: &mut Cluster, good: &str) {
    let tasks = cluster.tasks();
    let mut failpoints: Vec<String> =
        around(&[Point::ApplyWorkload]).iter().map(|failpoint| format!("{failpoint}:2")).collect();
    failpoints.extend(around(&[Point::RollBack]));
    for failpoint in failpoints {
        let bad = cluster.push(&format!("bad {failpoint}"), "ENV SITE_CRASH_AFTER=0s SITE_EXIT_CODE=3");
        cluster.cut_short(&failpoint, |daemon| drop(daemon.abide(&["set", "prod", &bad])));
        cluster.start();
        let view = cluster.until("prod is rolled back", |view| {
            view["reason"] == "RolledBack"
                && view["status"] == "RolledBack"
                && view["observed_generation"] == view["generation"]
        });
        assert_eq!(view["image"]["digest"], good.rsplit_once('@').unwrap().1, "{failpoint}: {view:#}");
        assert_eq!(cluster.tasks(), tasks, "{failpoint}: the same tasks serve all the time");
        // The next round begins with a state that no rollback led to.
        cluster.abide(&["set", "prod", good]);
        cluster.until_is("Ready", "AsRecorded");
    }
}

/// A service under an earlier name is removed once the one with the new name is ready.
fn rename(cluster: &mut Cluster) {
    let (name, declared) = (cluster.name(), cluster.prod("replicas = 3, ports = \"dynamic\"", ""));
    for (failpoint, place) in around(&[Point::RemoveWorkload]).iter().zip([format!("{name}-b"), name.clone()])
    {
        cluster.kill();
        cluster.declare_all(&declared.replace(&format!("{name:?}"), &format!("{place:?}")));
        cluster.cut_short(failpoint, |_| {});
        cluster.start();
        eventually(&format!("{failpoint}: only {place} is left"), PATIENCE, || {
            cluster.services() == std::slice::from_ref(&place)
        });
        cluster.until_is("Ready", "AsRecorded");
    }
    cluster.serve("after-apply-workload", 3);
}
