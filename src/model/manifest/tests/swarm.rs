//! Environments on Docker Swarm.

use super::*;
use crate::model::workload::{PortMode, SwarmSpec};

fn problems(text: String) -> String {
    match parse(&[file("m.toml", text)]) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string().replace("m.toml:", ""),
    }
}

#[test]
fn a_service_has_defaults_for_everything() {
    let of = |lines| dev(lines).swarm.unwrap();
    let bare = SwarmSpec {
        replicas: 1,
        constraints: Vec::new(),
        spread: None,
        per_node: None,
        parallel: 1,
        ports: PortMode::Ingress,
    };
    assert_eq!(of("swarm = {}"), bare);
    let all = of(
        "swarm = { replicas = 6, constraints = [\"node.role == worker\"], spread = \"node.labels.zone\", per_node = 2, \
         parallel = 0, ports = \"host\" }",
    );
    assert_eq!((all.replicas, all.per_node, all.parallel, all.ports), (6, Some(2), 0, PortMode::Host));
    assert_eq!(all.spread.unwrap().as_str(), "node.labels.zone");
    assert!(!all.constraints[0].is_one_node());
    let on_agent = dev("swarm = {}\nhost = \"online\"");
    assert_eq!(on_agent.host.map(|host| host.to_string()).as_deref(), Some("online"), "a manager");
    assert_eq!(dev("swarm = { ports = \"dynamic\" }").publish, None);
    assert_eq!(
        dev("swarm = {}\nupdate = \"start-first\"").update,
        Some(Update::StartFirst),
        "without a proxy"
    );
    assert_eq!(dev("swarm = {}").publish, Some(Publish { address: None, port: 8900 }));
}

#[test]
fn what_a_service_cannot_have_is_refused_with_what_to_type() {
    let source = "source = { repository = \"r\", branch = \"b\" }\n[repository.r]\nurl = \"/srv/r.git\"";
    let cases = [
        (
            source,
            "4: `source` needs `push` beside `swarm`, because the nodes pull the image from a registry: add push = \"registry.example.com/app\"",
        ),
        (
            "publish = \"127.0.0.1:80\"",
            "4: `publish` must be a port without an address beside `swarm`: a service is published on all addresses",
        ),
        (
            "volumes = [\"data:/data\"]",
            "4: `volumes` needs a node of its own beside `swarm`, because each node has another volume of that name: add constraints = [\"node.hostname == NODE\"] to `swarm`",
        ),
        ("privileged = true", "4: `privileged` does not go with `swarm`: a service cannot have it"),
        ("restart = \"on-failure\"", "4: `restart` must be \"always\" beside `swarm`"),
        (
            "health = { http = \"/\", headers = { A = \"1\" } }",
            "4: `health` must have no `headers` beside `swarm`: the probe runs in the container, where others could read them",
        ),
    ];
    for (lines, expected) in cases {
        let (first, rest) = lines.split_once('\n').unwrap_or((lines, ""));
        assert_eq!(problems(format!("{DEV}{first}\nswarm = {{}}\n{rest}\n")), expected, "{lines}");
    }
    let named = DEV.replace("dev-server", "dev.server");
    let expected = "2: `container` must be a DNS label beside `swarm`: 1 to 63 characters of a-z 0-9 and -, without - at \
                    the ends";
    assert_eq!(problems(format!("{named}swarm = {{}}\n")), expected);
}

#[test]
fn the_values_of_a_service_are_checked() {
    for (keys, expected) in [
        ("replicas = 0", "4: `replicas` must be a whole number from 1 to 1000, not 0"),
        (
            "constraints = [\"worker\"]",
            "4: invalid constraint `worker`: must be such as \"node.role == worker\" or \"node.labels.zone != east\"",
        ),
        ("spread = \"zone\"", "4: invalid label to spread over `zone`: must be such as \"node.labels.zone\""),
        ("ports = \"all\"", "4: `ports` must be \"ingress\", \"host\" or \"dynamic\""),
        ("replica = 3", "4: unknown key `replica`; did you mean `replicas`?"),
    ] {
        assert_eq!(problems(format!("{DEV}swarm = {{ {keys} }}\n")), expected, "{keys}");
    }
}

#[test]
fn the_proxy_forwards_only_to_replicas_with_ports_of_their_own() {
    let needs = "needs a port of each replica beside `swarm`, to which the proxy forwards: add ports = \"dynamic\" to `swarm`";
    let ingress = format!("{DEV}hostname = \"a.example\"\nswarm = {{}}\n[front]\n");
    assert_eq!(problems(ingress), format!("4: `hostname` {needs}"));
    let dynamic = |publish: &str| {
        format!("{DEV}hostname = \"a.example\"\npublish = {publish}\nswarm = {{ ports = \"dynamic\" }}\n")
    };
    for publish in ["80", "\"127.0.0.1:8080\"", "false"] {
        assert_eq!(problems(format!("{}[front]\nhttp = 8081\n", dynamic(publish))), "", "{publish}");
    }
    let without = format!("{DEV}publish = 80\nswarm = {{ ports = \"dynamic\" }}\n");
    assert_eq!(
        problems(without),
        "4: `publish` beside ports = \"dynamic\" of `swarm` needs the proxy, which forwards to the port of each replica: \
         add `[front]`, or remove `publish`"
    );
}

#[test]
fn a_volume_needs_one_node() {
    let pinned = "volumes = [\"data:/data\"]\nswarm = { constraints = [\"node.hostname == db1\"] }";
    assert!(dev(pinned).swarm.unwrap().constraints[0].is_one_node());
}

#[test]
fn an_image_that_is_not_pushed_cannot_be_promoted_to_a_swarm() {
    let test = "[environment.test]\ncontainer = \"test\"\nport = 1\nsource = { repository = \"r\", branch = \"b\" }\n";
    let prod = "[environment.prod]\ncontainer = \"prod\"\nport = 2\npromote_from = \"test\"\nswarm = { replicas = 2 }\n";
    let url = "[repository.r]\nurl = \"/srv/r.git\"\n";
    let found = problems(format!("{test}{prod}{url}"));
    assert_eq!(
        found,
        "9: the nodes of a swarm pull the image from a registry: add push = \"registry.example.com/app\" to \
         `environment.test`, which builds it"
    );
    let pushed = format!("{test}push = \"registry.example.com/app\"\n{prod}{url}");
    assert_eq!(problems(pushed), "");
}

#[test]
fn a_job_does_not_run_in_a_service() {
    let job = "[job.n]\nenvironment = \"dev\"\nschedule = \"0 3 * * *\"\ncommand = [\"a\"]\n";
    assert_eq!(
        problems(format!("{DEV}swarm = {{}}\n{job}")),
        "6: `job.n` cannot run in `environment.dev`, which runs on a swarm: declare it for an environment of one container"
    );
}
