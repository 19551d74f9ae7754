//! A group whose members are services: needs, promotion as one, evidence, and metrics.

use serde_json::Value;

use crate::cluster::{Cluster, environment};
use crate::common::{PATIENCE, SITE_PORT, busybox, eventually, json};

/// `shop-test` and `shop-prod`, each with a database and a site that needs it. In `shop-prod`, images end as they say.
fn declare(cluster: &Cluster) {
    let mut text = String::new();
    for group in ["shop-test", "shop-prod"] {
        for member in ["db", "web"] {
            let service = format!("{}-{group}-{member}", cluster.name());
            let needs = if member == "web" { "needs = { db = \"healthy\" }\n" } else { "" };
            let rest = match group {
                "shop-test" => "env = { SITE_CRASH_AFTER = \"\" }\n".to_owned(),
                _ => format!("promote = {{ from = \"shop-test-{member}\", approvals = 1, soak = \"2s\" }}\n"),
            };
            let more = format!("group = \"{group}\"\n{needs}{rest}");
            let name = format!("{group}-{member}");
            text += &environment(&name, &service, "replicas = 1, ports = \"dynamic\"", &more);
        }
    }
    cluster.declare_all(&text);
}

fn set(cluster: &Cluster, member: &str, image: &str) {
    cluster.abide(&["set", &format!("shop-test-{member}"), image]);
}

/// Waits until a member is at rest with this image.
fn rests(cluster: &Cluster, member: &str, condition: &str, image: &str) -> Value {
    let digest = image.rsplit_once('@').unwrap().1;
    cluster.until_in(member, &format!("{member} is {condition} with the image"), |view| {
        view["status"] == condition
            && view["observed_generation"] == view["generation"]
            && view["image"]["digest"] == digest
    })
}

/// Waits until a container in the network of a group gets this page from a name.
fn serves_in_network(cluster: &Cluster, group: &str, name: &str, page: &str) {
    let Some(shell) = busybox(&cluster.space) else { return };
    let manager = cluster.swarm.manager();
    manager.load(&shell);
    let network = format!("{}-{group}", cluster.space.name("abide"));
    // A static program has no resolver.
    let script = format!(
        "address=$(busybox nslookup -type=a {name} | sed -n '/^Name/,$ s/^Address: //p' | head -n 1)\n\
         busybox wget -q -O - http://$address:{SITE_PORT}/"
    );
    let run = ["run", "--rm", "--network", &network, "--entrypoint", "/bin/sh", &shell, "-c", &script];
    eventually(&format!("{name} serves {page:?} in {network}"), PATIENCE, || {
        manager.try_docker(&run).as_deref() == Some(page)
    });
}

/// Promotes once the images of the group have soaked.
fn promote(cluster: &Cluster) {
    let daemon = cluster.daemon.as_ref().unwrap();
    cluster.abide(&["approve", "shop-test"]);
    eventually("the images have soaked", PATIENCE, || {
        daemon.abide(&["promote", "shop-test", "shop-prod", "--yes"]).code == 0
    });
}

#[test]
#[ignore = "takes minutes: .ci/slow"]
fn a_group_of_services_starts_in_order_and_is_promoted_and_rolled_back_as_one() {
    let Some(cluster) = Cluster::new(1) else { return };
    declare(&cluster);
    let first = cluster.push("first", "");
    set(&cluster, "web", &first);
    let view = cluster
        .until_in("shop-test-web", "it waits for the database", |view| view["reason"] == "AwaitingNeeds");
    assert!(view["message"].as_str().unwrap().contains("until shop-test-db is ready"), "{view:#}");
    assert_eq!(cluster.services(), [""; 0]);
    set(&cluster, "db", &first);
    cluster.abide(&["wait", "shop-test", "--timeout", "2m"]);
    serves_in_network(&cluster, "shop-test", "db", "first");

    let daemon = cluster.daemon.as_ref().unwrap();
    let closed = daemon.abide(&["promote", "shop-test", "shop-prod", "--yes"]);
    assert!(closed.code == 1 && closed.stderr.contains("approv"), "{closed:?}");
    promote(&cluster);
    cluster.abide(&["wait", "shop-prod", "--timeout", "2m"]);
    let evidence = json(&daemon.abide(&["evidence", "shop-test-web", "-o", "json"]));
    let found = |kind: &str| {
        let all = evidence["evidence"].as_array().unwrap();
        all.iter()
            .find(|found| found["kind"] == kind)
            .unwrap_or_else(|| panic!("{kind}: {evidence:#}"))
            .clone()
    };
    assert!(found("healthy")["millis"].as_u64().unwrap() >= 2_000, "{evidence:#}");
    assert!(found("approved").to_string().contains(first.rsplit_once(':').unwrap().1), "{evidence:#}");

    let [second, bad] =
        [("second", ""), ("bad", "ENV SITE_CRASH_AFTER=0s")].map(|(words, lines)| cluster.push(words, lines));
    set(&cluster, "db", &second);
    set(&cluster, "web", &bad);
    rests(&cluster, "shop-test-db", "Ready", &second);
    rests(&cluster, "shop-test-web", "Ready", &bad);
    promote(&cluster);
    let db = rests(&cluster, "shop-prod-db", "RolledBack", &first);
    let message = db["message"].as_str().unwrap();
    assert!(message.contains("shop-prod-web failed, so the group goes back together"), "{db:#}");
    rests(&cluster, "shop-prod-web", "RolledBack", &first);
    measured(&cluster);
}

/// The metrics know what the services went through.
fn measured(cluster: &Cluster) {
    let (status, page) = cluster.daemon.as_ref().unwrap().get("/metrics");
    assert_eq!(status, 200, "{page}");
    let deploys = |member: &str, result: &str| {
        format!("abide_deploy_duration_seconds_count{{environment=\"{member}\",result=\"{result}\"}}")
    };
    for expected in [
        format!("{} 2", deploys("shop-test-web", "ready")),
        format!("{} 1", deploys("shop-prod-web", "failed")),
        "abide_environment_status{environment=\"shop-test-db\",status=\"Ready\"} 1".to_owned(),
        "abide_environment_status{environment=\"shop-prod-db\",status=\"RolledBack\"} 1".to_owned(),
        "abide_environment_reason{environment=\"shop-prod-web\",reason=\"RolledBack\"} 1".to_owned(),
        "abide_environment_restarts_total{environment=\"shop-test-db\"} 0".to_owned(),
        "abide_engine_up 1".to_owned(),
    ] {
        assert!(page.lines().any(|line| line == expected), "{expected:?} is not in\n{page}");
    }
    // The members share an image, so one of them pulled it.
    assert!(page.contains("abide_pull_duration_seconds_count{environment=\"shop-test-"), "{page}");
}
