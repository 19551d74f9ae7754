//! The proxy on the other host: host names and HTTPS there, switches under load, either side killed.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use crate::common::{Load, PATIENCE, PORT, Pair, Pebble, Way, eventually, nginx_image};

/// The ports of the proxy on the other host.
const HTTP: u16 = 8081;
const HTTPS: u16 = 8443;

/// A pair whose agent has a proxy, and its authority. Nothing is recorded yet.
fn fronted(more: &str) -> Option<(Pair, Pebble)> {
    let mut pair = Pair::apart()?;
    let image = pair.space.name("nginx");
    nginx_image(&image, &pair.space.label());
    pair.host.load(&image);
    let authority = Pebble::start_between(pair.host.gateway(), HTTP, pair.host.address());
    let policy = format!(
        "hostnames = [\"prod.example\"]\n{more}\n[front]\nimage = \"{image}\"\nhttp = {HTTP}\nhttps = {HTTPS}\n\
         drain = \"3s\"\nacme = {{ directory = \"https://{}:{}/dir\", ca_file = \"{}\", resolver = \"{}\" }}\n",
        pair.host.gateway(),
        authority.port(),
        authority.root().display(),
        authority.name_server(),
    );
    std::fs::write(pair.folder.join("policy.toml"), policy).unwrap();
    pair.declare("hostname = \"prod.example\"\nhttps = \"optional\"");
    pair.start_agent();
    pair.until("the agent is connected", |view| view["reason"] != "AgentAway");
    Some((pair, authority))
}

fn runs(pair: &Pair, words: &str) {
    let image = pair.push_image(words);
    pair.abide(&["set", "prod", &image]);
    pair.ready();
    pair.serves(words);
}

/// The issuer of the certificate that the other host presents for a name.
fn issuer(pair: &Pair, name: &str) -> String {
    let place = format!("{}:{HTTPS}", pair.host.address());
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &place, "-servername", name]).stdin(Stdio::null());
    let output = client.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("issuer=")).unwrap_or_default().to_owned()
}

#[test]
fn an_agents_proxy_switches_without_failed_requests() {
    let Some((mut pair, _authority)) = fronted("") else { return };
    runs(&pair, "page 0");
    eventually("its name has a certificate", PATIENCE, || issuer(&pair, "prod.example").contains("Pebble"));
    let view = pair.until("the end of it is known", |view| !view["certificate_expires"].is_null());
    assert_eq!(view["warnings"], serde_json::json!([]), "{view:#}");
    assert_eq!(issuer(&pair, "other.example"), "", "an unknown name is rejected in the handshake");

    let address: Ipv4Addr = pair.host.address().parse().unwrap();
    let way = |port, host, keeps| Way { port, host, path: "/", keeps };
    let ways = [
        way(HTTP, "prod.example", false),
        way(HTTP, "prod.example", true),
        way(PORT, "prod.example", false),
        way(PORT, "prod.example", true),
    ];
    let load = Load::start_at(address, &ways);
    for number in 1..=3 {
        runs(&pair, &format!("page {number}"));
    }
    let counted = "abide_http_requests_total{environment=\"prod\",method=\"GET\",status=\"200\"}";
    eventually("the controller counts its requests", PATIENCE, || {
        pair.ask("GET", "/metrics", &serde_json::Value::Null)
            .1
            .to_string()
            .contains(&counted.replace('"', "\\\""))
    });
    // Killed in the middle of an update, the agent completes it when it is back.
    let image = pair.push_image("page 4");
    pair.abide(&["set", "prod", &image]);
    pair.kill_agent();
    pair.start_agent();
    pair.ready();
    pair.serves("page 4");
    // Without the controller, the name is served on, and a killed proxy comes back.
    pair.kill_controller();
    pair.host.page(PORT).expect("prod is served without the controller");
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    assert_eq!(tally.pages.len(), 5, "{:?}", tally.pages);
    let front = pair.host.docker(&["ps", "--quiet", "--filter", "name=abide-front-"]);
    pair.host.docker(&["kill", &front]);
    eventually("the proxy is back", PATIENCE, || issuer(&pair, "prod.example").contains("Pebble"));
    pair.start_controller();
    pair.ready();
    eprintln!("good answers: {:?}; reopened: {}", tally.pages, tally.reopened);
}

#[test]
fn a_host_name_denied_by_the_policy_is_rejected() {
    let Some((pair, _authority)) = fronted("ports = [\"8088\"]") else { return };
    runs(&pair, "allowed");
    pair.declare("hostname = \"bank.example\"");
    let view = pair.until("the name is refused", |view| view["reason"] == "PolicyRefused");
    assert!(view["message"].as_str().unwrap().contains("bank.example"), "{view:#}");
    pair.serves("allowed");
}
