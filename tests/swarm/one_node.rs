//! A swarm of one node.

use crate::cluster::Cluster;
use crate::common::{PATIENCE, eventually};

/// Deploys, updates, fails, heals and removes: one test, because an engine takes seconds to start.
#[test]
#[ignore = "takes minutes: .ci/slow"]
fn an_environment_is_a_service_that_follows_the_record() {
    let Some(cluster) = Cluster::new(1) else { return };
    let first = cluster.push("first", "");
    cluster.deploy(&first);
    cluster.serve("first", 3);
    assert_eq!(cluster.inspect("{{.Spec.TaskTemplate.ContainerSpec.Image}}"), first);
    let tasks = cluster.tasks();

    // Nothing is written again while nothing changes.
    let version = cluster.inspect("{{.Version.Index}}");
    cluster.abide(&["sync", "prod"]);
    cluster.ready_with(&first);
    assert_eq!((cluster.inspect("{{.Version.Index}}"), cluster.tasks()), (version, tasks.clone()));

    let output = cluster.abide(&["logs", "prod"]);
    assert!(!output.is_empty(), "the output of the replicas");
    let why = cluster.abide(&["why", "prod"]);
    assert!(why.contains("create service"), "{why}");

    // The number of replicas alone replaces none.
    cluster.declare("replicas = 2, ports = \"dynamic\"", "");
    cluster.until("two replicas are ready", |view| {
        view["status"] == "Ready" && view["message"].as_str().unwrap().contains("2 replicas on")
    });
    let fewer = cluster.tasks();
    assert!(fewer.len() == 2 && fewer.iter().all(|task| tasks.contains(task)), "{fewer:?} of {tasks:?}");

    let second = cluster.push("second", "");
    cluster.deploy(&second);
    cluster.serve("second", 2);
    failures(&cluster, &second);
    // An update is superseded before it ends.
    let [silent, third] = [("superseded", "ENV SITE_NEVER_LISTEN=1"), ("third", "")]
        .map(|(words, lines)| cluster.push(words, lines));
    cluster.abide(&["set", "prod", &silent]);
    eventually("the update has begun", PATIENCE, || cluster.tasks_ever(&silent) > 0);
    cluster.deploy(&third);
    by_hand(&cluster, &third);
    end(&cluster);
}

/// A secret file reaches the replicas, and an edited one replaces them; the previous content is removed in the end.
#[test]
#[ignore = "takes minutes: .ci/slow"]
fn secret_files_are_secrets_of_the_swarm() {
    let Some(cluster) = Cluster::new(1) else { return };
    let file = cluster.space.dir().join("token");
    let declared = format!(
        "secrets = {{ token = {{ secret_file = \"{}\", target = \"/www/index.html\", mode = \"0400\" }} }}",
        file.display()
    );
    let secrets = || cluster.swarm.manager().docker(&["secret", "ls", "--quiet"]).lines().count();
    std::fs::write(&file, "s3cret-one").unwrap();
    cluster.declare("replicas = 2, ports = \"dynamic\"", &declared);
    let image = cluster.push("hidden by the secret", "");
    cluster.deploy(&image);
    cluster.serve("s3cret-one", 2);
    for content in ["s3cret-two", "s3cret-three"] {
        std::fs::write(&file, content).unwrap();
        cluster.abide(&["sync", "prod"]);
        cluster.serve(content, 2);
        cluster.ready_with(&image);
    }
    assert_eq!(secrets(), 2, "the current one, and the one before");
    let shown = [&["why", "prod"][..], &["events", "prod"], &["status", "prod", "-o", "json"]];
    let log = cluster.daemon.as_ref().unwrap().log() + &cluster.inspect("{{json .Spec}}");
    for text in shown.map(|arguments| cluster.abide(arguments)).iter().chain([&log]) {
        assert!(!text.contains("s3cret"), "{text}");
    }
    end(&cluster);
    assert_eq!(secrets(), 0);
}

/// Versions that fail leave the tasks of the previous one alone.
fn failures(cluster: &Cluster, good: &str) {
    let tasks = cluster.tasks();
    for (words, lines) in [
        ("ends", "ENV SITE_CRASH_AFTER=0s SITE_EXIT_CODE=3"),
        ("brief", "ENV SITE_CRASH_AFTER=800ms"),
        ("silent", "ENV SITE_NEVER_LISTEN=1"),
    ] {
        let bad = cluster.push(words, lines);
        cluster.abide(&["set", "prod", &bad]);
        let view = cluster.until_is("RolledBack", "RolledBack");
        assert_eq!(view["image"]["digest"], good.rsplit_once('@').unwrap().1, "{view:#}");
        assert_eq!(cluster.tasks(), tasks, "the same tasks serve all the time");
    }
    cluster.serve("second", 2);
}

/// What people do to the service is put right.
fn by_hand(cluster: &Cluster, image: &str) {
    let manager = cluster.swarm.manager();
    let name = cluster.name();
    manager.docker(&["service", "scale", "--detach", &format!("{name}=5")]);
    eventually("the number of replicas is put right", PATIENCE, || {
        cluster.inspect("{{.Spec.Mode.Replicated.Replicas}}") == "2"
    });
    manager.docker(&["service", "update", "--detach", "--env-add", "BY_HAND=1", &name]);
    eventually("the variables are put right", PATIENCE, || !cluster.inspect("{{.Spec}}").contains("BY_HAND"));
    cluster.ready_with(image);
    manager.docker(&["service", "rm", &name]);
    eventually("the service is created again", PATIENCE, || cluster.tasks().len() == 2);
    cluster.ready_with(image);

    // A killed task is Swarm's business, and reported.
    let (_, victim) = cluster.containers().remove(0);
    manager.docker(&["kill", &victim]);
    eventually("the task is replaced", PATIENCE, || {
        let now = cluster.containers();
        now.len() == 2 && now.iter().all(|(_, id)| *id != victim)
    });
    cluster.ready_with(image);
    cluster.serve("third", 2);
}

/// An environment that leaves the manifest keeps its service until somebody forgets it.
fn end(cluster: &Cluster) {
    cluster.declare_all("[environment.other]\ncontainer = \"other\"\nport = 1\nhealth = { none = true }\n");
    eventually("the edit is read, and the environment forgotten", PATIENCE, || {
        cluster.daemon.as_ref().unwrap().abide(&["forget", "prod", "--stop", "--yes"]).code == 0
    });
    let filter = format!("name={}", cluster.name());
    eventually("the service is removed", PATIENCE, || {
        cluster.swarm.manager().docker(&["service", "ls", "--quiet", "--filter", &filter]).is_empty()
    });
}
