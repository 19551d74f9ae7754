//! Access: requests from the network, requests of local users, and the counters.

use std::collections::BTreeMap;

use crate::child::Place;
use crate::common::{SECRET, http_get, request};

#[test]
fn only_webhooks_and_health_checks_need_no_token() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    assert_eq!(http_get(place.port, "/healthz").unwrap(), (200, "ok\n".to_owned()));
    let (ready, why) = http_get(place.port, "/readyz").unwrap();
    assert!(ready == 503 && why.contains("Docker Engine"), "{ready} {why}");
    assert_eq!(place.push(SECRET, "dev", "a").0, 202);
    let paths = [
        "/metrics",
        "/api/v1/environments",
        "/api/v1/environments/dev",
        "/api/v1/environments/dev/logs",
        "/api/v1/export",
        "/api/v1/watch",
    ];
    for path in paths {
        assert_eq!(http_get(place.port, path).unwrap().0, 401, "{path}");
        for disguised in [format!("/{path}"), format!("/webhooks/..{path}"), path.replace('t', "%74")] {
            assert_eq!(http_get(place.port, &disguised).unwrap().0, 404, "{disguised}");
        }
    }
    for verb in ["set", "promote", "rollback", "hold", "resume", "maintenance", "canary", "sync"] {
        let path = format!("/api/v1/environments/dev/{verb}");
        assert_eq!(request(place.port, "POST", &path, &[], b"{}").unwrap().0, 401, "{path}");
    }
    // They exist for users of the socket; the event stream has no end to wait for.
    for path in paths.iter().filter(|path| !path.ends_with("watch") && !path.ends_with("logs")) {
        assert_eq!(place.get(path).0, 200, "{path}");
    }
}

/// Splits a line of the Prometheus text format into name, labels and value.
fn sample(line: &str) -> Option<(&str, &str, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series
        .split_once('{')
        .map_or(Some((series, "")), |(name, labels)| Some((name, labels.strip_suffix('}')?)))?;
    let is_word = |word: &str| {
        let rest = word.trim_start_matches(|first: char| first.is_ascii_alphabetic() || first == '_');
        !word.is_empty()
            && rest.len() < word.len()
            && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let is_label = |label: &str| {
        let quoted = label.split_once('=').filter(|(name, _)| is_word(name)).map(|(_, value)| value);
        quoted.is_some_and(|value| value.len() >= 2 && value.starts_with('"') && value.ends_with('"'))
    };
    let are_labels = labels.is_empty() || labels.split(',').all(is_label);
    (is_word(name) && are_labels).then_some((name, labels, value.parse().ok()?))
}

#[test]
fn metrics_are_valid_for_prometheus_and_count_deliveries() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    let pushes = [(SECRET, "dev"), ("someone-elses-secret", "dev"), (SECRET, "nobodys")];
    assert_eq!(pushes.map(|(secret, branch)| place.push(secret, branch, "a").0), [202, 401, 200]);
    let (status, page) = place.get("/metrics");
    assert_eq!(status, 200);
    let mut families = BTreeMap::new();
    for line in page.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name, kind).is_none(), "{name} is declared twice");
        } else if !line.starts_with("# HELP ") {
            let (name, _, value) = sample(line).unwrap_or_else(|| panic!("no sample: {line}"));
            let mut parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| name.strip_suffix(part));
            let is_part = parts.any(|family| families.get(family) == Some(&"histogram"));
            let is_complete = families.get(name).is_some_and(|kind| *kind != "histogram");
            assert!((is_complete || is_part) && value >= 0.0, "{line}");
        }
    }
    for line in [
        r#"abide_webhook_deliveries_total{repository="shop",result="recorded"} 1"#,
        r#"abide_webhook_deliveries_total{repository="shop",result="refused"} 1"#,
        r#"abide_webhook_deliveries_total{repository="shop",result="ignored"} 1"#,
        "abide_engine_up 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    let statuses = page.lines().filter(|line| line.starts_with("abide_environment_status{"));
    assert_eq!(
        statuses.filter(|line| line.ends_with(" 1")).count(),
        1,
        "one environment has one status\n{page}"
    );
}
