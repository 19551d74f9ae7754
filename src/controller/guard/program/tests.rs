//! Tests of the guard's program that need no engine.

use super::containers::{archive, is_left_behind, replaced};
use super::engine::{GuardedState, address_in, comparable};
use super::lists::ListedFront;
use super::*;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

#[test]
fn only_complete_container_ids_are_accepted() {
    let group =
        ListedGroup::parse("environment.dev", &format!("container {A}\nsandbox {B}\nbeside\n")).unwrap();
    assert_eq!(group.environment.as_deref(), Some("dev"));
    assert_eq!((group.container.as_str(), group.sandbox.as_deref(), group.is_beside), (A, Some(B), true));
    for text in ["", "container x\n", "container ../../images\n", &format!("container {A}\nmore\n")] {
        assert_eq!(ListedGroup::parse("environment.dev", text), None, "{text}");
    }
}

#[test]
fn addresses_are_replaced_simultaneously_and_only_as_whole_tokens() {
    let addresses = [
        ("172.18.0.4:80".to_owned(), "172.18.0.5:80".to_owned()),
        ("172.18.0.5:80".to_owned(), "172.18.0.4:80".to_owned()),
    ];
    let text = "server 172.18.0.4:80; server 172.18.0.5:80; server 172.18.0.4:8080; 1172.18.0.4:80; é";
    let expected = "server 172.18.0.5:80; server 172.18.0.4:80; server 172.18.0.4:8080; 1172.18.0.4:80; é";
    assert_eq!(replaced(text, &addresses), expected);
}

#[test]
fn inspect_output_is_parsed_despite_lookalike_strings() {
    let state = r#""State":{"Status":"exited","Running":false,"Paused":false,"Restarting":false,"ExitCode":137,"Error":"cannot join network of a non running container","StartedAt":"2026-01-02T03:04:05.5Z","FinishedAt":"x"}"#;
    let text = format!(
        r#"{{"Args":["\"State\":{{\"Running\":true"],{state},"HostConfig":{{"NetworkMode":"abide","RestartPolicy":{{"Name":"always","MaximumRetryCount":0}}}},"NetworkSettings":{{"Networks":{{"abide":{{"IPAMConfig":null,"IPAddress":"172.18.0.4"}}}}}}}}"#
    );
    assert_eq!(address_in(&text, "abide").as_deref(), Some("172.18.0.4"));
    assert_eq!(address_in(&text, "other"), None);
    let seen = GuardedState::parse(text);
    assert!(!seen.is_up && seen.has_policy && seen.has_failed);
    assert_eq!(seen.exit_code, 137);
    assert!(comparable("2026-01-02T03:04:05.12Z") < seen.started_at);
    assert!(comparable("2026-01-02T03:04:05Z") < seen.started_at);
    assert!(comparable("2026-01-02T03:04:05.500000001Z") > seen.started_at);
}

#[test]
fn the_guard_parses_the_proxy_list_that_abide_writes() {
    let text = format!(
        "container {A}\npath etc/nginx.conf\nroute dev {B} 172.18.0.4:80 abide-shop\n\n# sites\n\nserver;"
    );
    let front = ListedFront::parse(&text).unwrap();
    assert_eq!(front.configuration, "# sites\n\nserver;");
    assert_eq!(front.routes[0].address, "172.18.0.4:80");
    assert_eq!(front.routes[0].network, "abide-shop");
    assert_eq!(ListedFront::parse("container x\n\nserver;"), None);
}

#[test]
fn the_archive_is_readable_by_tar() {
    let bytes = archive("etc/abide-front/nginx.conf", b"server;");
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap().to_str(), Some("etc/abide-front/nginx.conf"));
    let mut content = String::new();
    entry.read_to_string(&mut content).unwrap();
    assert_eq!(content, "server;");
}

#[test]
fn pauses_grow_up_to_a_minute() {
    let mut retry = Retry::default();
    assert!(!retry.is_due());
    for _ in 0..20 {
        retry.failed();
        assert!(retry.at.unwrap() <= Instant::now() + LONGEST_PAUSE);
    }
}

#[test]
fn a_copy_mirrors_the_lists_and_ignores_other_files() {
    let [from, to] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    fs::write(from.path().join("environment.dev"), "one").unwrap();
    fs::write(from.path().join(ALIVE), "").unwrap();
    copy(from.path(), to.path()).unwrap();
    assert_eq!(fs::read_to_string(to.path().join("environment.dev")).unwrap(), "one");
    assert!(!to.path().join(ALIVE).exists());
    fs::remove_file(from.path().join("environment.dev")).unwrap();
    copy(from.path(), to.path()).unwrap();
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}

#[test]
fn a_restarted_sandbox_is_detected_after_the_clock_is_set_back() {
    let starts = |container: &str, sandbox: &str| (container.to_owned(), sandbox.to_owned());
    assert!(!is_left_behind(&starts("2", "1"), None));
    assert!(is_left_behind(&starts("2", "3"), None));
    assert!(!is_left_behind(&starts("2", "3"), Some(&starts("2", "3"))), "they were seen together");
    assert!(is_left_behind(&starts("2", "1"), Some(&starts("2", "3"))), "another start, on an earlier day");
    assert!(!is_left_behind(&starts("4", "1"), Some(&starts("2", "3"))), "the container was started since");
}
