//! Canaries on the other host: the agent's proxy divides the visitors, the controller decides and keeps the evidence.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::common::{Load, PATIENCE, PORT, Pair, Way, eventually, eventually_some, nginx_image};

/// The port of the proxy on the other host.
const HTTP: u16 = 8081;
const HOST: &str = "prod.example";

/// A pair whose agent has a proxy. prod sends half of the visitors to a new version. Nothing is recorded yet.
fn halves() -> Option<Pair> {
    let mut pair = Pair::apart()?;
    let image = pair.space.name("nginx");
    nginx_image(&image, &pair.space.label());
    pair.host.load(&image);
    let policy =
        format!("hostnames = [\"{HOST}\"]\n[front]\nimage = \"{image}\"\nhttp = {HTTP}\ndrain = \"1s\"\n");
    std::fs::write(pair.folder.join("policy.toml"), policy).unwrap();
    pair.declare(&format!(
        "hostname = \"{HOST}\"\ncanary = {{ percent = 50, for = \"1h\", fail_on = \"5xx > 1%\" }}"
    ));
    // A program that answers with errors is ready, too.
    let manifest = pair.desired_state.join("prod.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("http = \"/\"", "tcp = true")).unwrap();
    pair.start_agent();
    pair.until("the agent is connected", |view| view["reason"] != "AgentAway");
    Some(pair)
}

/// Clients of the other host without cookies.
fn load(pair: &Pair) -> Load {
    let address: Ipv4Addr = pair.host.address().parse().unwrap();
    let way = |port, keeps| Way { port, host: HOST, path: "/", keeps };
    Load::start_at(address, &[way(HTTP, false), way(HTTP, true), way(PORT, false), way(PORT, true)])
}

/// Records `image` and waits until it serves as a canary.
fn begin(pair: &Pair, image: &str) -> Value {
    pair.abide(&["set", "prod", image]);
    under_way(pair)
}

fn under_way(pair: &Pair) -> Value {
    pair.until("it serves as a canary", |view| {
        view["reason"] == "Canary"
            && view["observed_generation"] == view["generation"]
            && view["canary"]["state"] == "under_way"
            && view["canary"]["requests"].as_u64() > Some(0)
    })
}

fn rolled_back(pair: &Pair) -> Value {
    pair.until("it is rolled back", |view| {
        view["status"] == "RolledBack" && view["observed_generation"] == view["generation"]
    })
}

/// Waits until the controller has this number of canaries as evidence, and returns the last one.
fn evidence(pair: &Pair, count: usize) -> Value {
    eventually_some("the canary's figures are evidence", PATIENCE, || {
        let view: Value =
            serde_json::from_str(&pair.abide(&["evidence", "prod", "-o", "json"]).stdout).ok()?;
        let mut found = view["evidence"].as_array()?.iter().filter(|found| found["kind"] == "canary");
        found.nth(count - 1).cloned()
    })
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn an_agents_canary_is_promoted_aborted_and_judged_by_its_own_proxy() {
    let Some(mut pair) = halves() else { return };
    let [one, two, three] = ["one", "two", "three"].map(|words| pair.push_image(words));
    let bad = pair.push_image_with("bad", "ENV SITE_HTTP_STATUS=500");
    pair.abide(&["set", "prod", &one]);
    pair.ready();
    pair.serves("one");
    let clients = load(&pair);

    // A person promotes it, on the controller. It waits for that while the agent is killed, too.
    let before = begin(&pair, &two);
    pair.kill_agent();
    pair.start_agent();
    let served = |view: &Value| view["canary"]["served_millis"].as_u64();
    pair.until("its time continues", |view| view["reason"] == "Canary" && served(view) > served(&before));
    pair.abide(&["canary", "prod", "promote", "--reason", "a look"]);
    pair.ready();
    pair.serves("two");
    let passed = evidence(&pair, 1);
    assert_eq!((&passed["passed"], &passed["image"]["digest"]), (&true.into(), &digest(&two)), "{passed}");

    begin(&pair, &three);
    pair.abide(&["canary", "prod", "abort", "--reason", "a look"]);
    let view = rolled_back(&pair);
    assert!(view["message"].as_str().unwrap().contains("it was aborted by"), "{view:#}");
    pair.serves("two");
    let aborted = evidence(&pair, 2);
    assert_eq!(
        (&aborted["passed"], &aborted["image"]["digest"]),
        (&false.into(), &digest(&three)),
        "{aborted}"
    );
    let tally = clients.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    assert!(["one", "two", "three"].iter().all(|page| tally.pages.contains_key(*page)), "{:?}", tally.pages);

    // Without the controller, the agent judges it and goes back.
    let clients = load(&pair);
    pair.abide(&["set", "prod", &bad]);
    pair.until("it is on the other host", |view| {
        view["reason"] == "Canary" || view["status"] == "RolledBack"
    });
    pair.kill_controller();
    pair.start_controller();
    let view = rolled_back(&pair);
    assert!(view["message"].as_str().unwrap().contains("it met `5xx > 1%`"), "{view:#}");
    let failed = evidence(&pair, 3);
    assert!(failed["failed"].as_u64() >= Some(2), "{failed}");
    let tally = clients.finish();
    let is_of_canary = |(_, _, why): &(_, _, String)| why.starts_with("500 ");
    assert!(!tally.failed.is_empty() && tally.failed.iter().all(is_of_canary), "{tally:#?}");
    eventually("only the version of before is left", PATIENCE, || {
        let filters = ["--filter", "label=abide.environment=prod", "--format", "{{.Names}}"];
        let names = pair.host.docker(&[&["ps", "--all"], &filters[..]].concat());
        names.lines().filter(|name| !name.contains(".net")).count() == 1
    });
}

/// The digest in the name of an image.
fn digest(image: &str) -> Value {
    image.split_once('@').unwrap().1.into()
}
