//! A service that an agent on a manager runs.

use crate::cluster::Cluster;
use crate::common::{Agent, AgentPlace, Daemon, PATIENCE, TUNNEL, eventually, free_port};

#[test]
#[ignore = "takes minutes: .ci/slow"]
fn an_agent_on_a_manager_runs_a_service_if_its_policy_allows_it() {
    let Some(mut cluster) = Cluster::new(1) else { return };
    cluster.kill();
    cluster.declare("replicas = 2, ports = \"dynamic\"", "host = \"online\"");
    let controller = format!("{}:{}", cluster.swarm.gateway(), free_port());
    cluster.daemon = Some(Daemon::start_at(&cluster.desired_state, &controller, &[]));
    let token = cluster.abide(&["token", "create", "--agent", "online"]);
    let folder = cluster.space.dir().join("agent");
    std::fs::create_dir(&folder).unwrap();
    let start = |cluster: &Cluster| {
        let manager = cluster.swarm.manager();
        let place = AgentPlace {
            controller: &controller,
            token: token.trim(),
            engine: &manager.engine(),
            folder: &folder,
            tunnel: TUNNEL,
        };
        Agent::start(manager.command(env!("CARGO_BIN_EXE_abide")), &place)
    };

    let first = cluster.push("first", "");
    let agent = start(&cluster);
    cluster.abide(&["set", "prod", &first]);
    let view = cluster.until_is("Blocked", "PolicyRefused");
    assert!(view["message"].as_str().unwrap().contains("services of a swarm"), "{view:#}");
    assert_eq!(cluster.services(), [""; 0]);
    agent.kill();

    std::fs::write(folder.join("policy.toml"), "swarm = true\n").unwrap();
    let agent = start(&cluster);
    let view = cluster.ready_with(&first);
    assert_eq!((&view["host"], &view["nodes"][0]["state"]), (&"online".into(), &"ready".into()), "{view:#}");
    cluster.serve("first", 2);
    // The nodes pull from the registry itself: not through the agent, which serves only its own node.
    assert_eq!(cluster.inspect("{{.Spec.TaskTemplate.ContainerSpec.Image}}"), first);
    let second = cluster.push("second", "");
    cluster.deploy(&second);
    cluster.serve("second", 2);
    assert!(!cluster.abide(&["logs", "prod"]).is_empty(), "the output of the replicas");

    let bad = cluster.push("bad", "ENV SITE_CRASH_AFTER=0s SITE_EXIT_CODE=3");
    cluster.abide(&["set", "prod", &bad]);
    let view = cluster.until_is("RolledBack", "RolledBack");
    assert_eq!(view["image"]["digest"], second.rsplit_once('@').unwrap().1, "{view:#}");

    // Without the agent the service runs on, and the swarm repairs it.
    agent.kill();
    let (_, victim) = cluster.containers().remove(0);
    cluster.swarm.manager().docker(&["kill", &victim]);
    eventually("the task is replaced", PATIENCE, || {
        let now = cluster.containers();
        now.len() == 2 && now.iter().all(|(_, id)| *id != victim)
    });
    cluster.until("the agent is away", |view| view["reason"] == "AgentAway");
    let _agent = start(&cluster);
    cluster.until_is("RolledBack", "RolledBack");
}
