//! Which token may act as which agent.

use std::time::Duration;

use serde_json::Value;

use crate::common::{Pair, TUNNEL, list};

#[test]
fn of_two_agents_with_one_token_only_the_later_stays_connected() {
    let Some(mut pair) = Pair::new() else { return };
    let folder = pair.space.dir().join("second");
    std::fs::create_dir(&folder).unwrap();
    let second = pair.another_agent(&folder, &pair.token, TUNNEL + 1);
    second.await_log("connected");
    pair.agent.as_ref().unwrap().await_log("another agent with the same token");
    // Long enough for a storm of reconnections to show.
    std::thread::sleep(Duration::from_secs(5));
    let connections = |log: String| log.matches("\"connected\"").count();
    assert_eq!(connections(second.log()), 1, "{}", second.log());
    assert_eq!(connections(pair.agent.as_ref().unwrap().log()), 1);
    let image = pair.push_image("by the second");
    pair.abide(&["set", "prod", &image]);
    pair.ready();
    drop(second);
    pair.kill_agent();
    pair.start_agent();
    pair.until("the first is back", |view| view["reason"] != "AgentAway");
}

#[test]
fn a_wrong_or_revoked_agent_token_is_rejected() {
    let Some(pair) = Pair::new() else { return };
    let folder = pair.space.dir().join("stranger");
    std::fs::create_dir(&folder).unwrap();
    // Another secret, with the right key of the server.
    let wrong = pair.token.replacen(&pair.token[20..24], "AAAA", 1);
    let stranger = pair.another_agent(&folder, &wrong, TUNNEL + 2);
    stranger.await_log("the controller rejected this agent");
    assert!(!stranger.log().contains(&wrong), "a token is in the log");

    let tokens = list(pair.ask("GET", "/api/v1/tokens", &Value::Null).1);
    let id = tokens[0]["id"].as_str().unwrap();
    pair.ask("DELETE", &format!("/api/v1/tokens/{id}"), &Value::Null);
    pair.agent.as_ref().unwrap().await_log("the controller rejected this agent");
    pair.until("it is away", |view| view["reason"] == "AgentAway");
}

#[test]
fn an_agent_cannot_access_other_environments() {
    let Some(pair) = Pair::new() else { return };
    let image = pair.push_image("only prod's");
    pair.abide(&["set", "prod", &image]);
    pair.ready();
    let other = pair.new_token("elsewhere");
    let folder = pair.space.dir().join("other");
    std::fs::create_dir(&folder).unwrap();
    let agent = pair.another_agent(&folder, &other, TUNNEL + 3);
    agent.await_log("connected");
    // The other agent's tunnel gives no access to prod's images, nor to any tag.
    let (repository, digest) = image.split_once('@').unwrap();
    let path = repository.split_once('/').unwrap().1;
    for part in [format!("manifests/{digest}"), "manifests/latest".to_owned(), "tags/list".to_owned()] {
        let (status, body) = pair.host.get(TUNNEL + 3, &format!("/v2/{path}/{part}")).unwrap();
        assert_eq!(status, 404, "{part}: {body}");
        assert!(!body.contains("prod"), "{part}: {body}");
    }
    let (status, body) = pair.host.get(TUNNEL, &format!("/v2/{path}/manifests/{digest}")).unwrap();
    assert_eq!(status, 200, "{body}");
}
