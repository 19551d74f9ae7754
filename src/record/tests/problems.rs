//! Problems that last: announced once, also across restarts, and their end once.

use std::collections::BTreeMap;

use super::*;
use crate::model::name::{AgentName, ChannelName};
use crate::model::outbox::{ChannelRule, News, OpenProblem, OutboxRules, Subject};
use crate::record::Outbox;

fn rules() -> OutboxRules {
    let rule = ChannelRule { on: News::DEFAULT.into(), environments: None };
    OutboxRules {
        channels: BTreeMap::from([(ChannelName::new("team").unwrap(), rule)]),
        forges: BTreeMap::new(),
    }
}

fn away() -> OpenProblem {
    OpenProblem::new(News::AgentAway, Subject::Agent(AgentName::new("online").unwrap()), "last seen today")
}

fn rejected(about: &str, is_old: bool) -> OpenProblem {
    let subject = Subject::Environment(EnvironmentName::new("test").unwrap());
    OpenProblem { is_old, ..OpenProblem::new(News::Rejected, subject, "no logo").about(about) }
}

fn titles(outbox: &Outbox) -> Vec<String> {
    outbox.items().unwrap().into_iter().map(|item| item.title).collect()
}

#[tokio::test]
async fn a_problem_and_its_end_are_announced_once_even_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let handles = open(home.path()).unwrap();
    let at = |minutes: u64| Timestamp::from_millis(1_000_000_000_000 + minutes * 60_000);
    let outbox = &handles.outbox;
    outbox.announce_problems(vec![away()], at(0)).await.unwrap();
    assert!(titles(outbox).is_empty(), "without rules, nothing is announced or remembered");
    outbox.follow(rules()).await.unwrap();
    let current = || vec![away(), rejected("1", false), rejected("2", true)];
    outbox.announce_problems(current(), at(1)).await.unwrap();
    outbox.announce_problems(current(), at(2)).await.unwrap();
    let begun = ["agent online is disconnected", "test: its image was rejected"];
    assert_eq!(titles(outbox), begun, "an old rejection is no news");
    handles.close().await.unwrap();

    let handles = open(home.path()).unwrap();
    let outbox = &handles.outbox;
    outbox.follow(rules()).await.unwrap();
    outbox.announce_problems(current(), at(3)).await.unwrap();
    assert_eq!(titles(outbox), begun, "nothing is repeated after a restart");
    outbox.announce_problems(Vec::new(), at(5)).await.unwrap();
    outbox.announce_problems(Vec::new(), at(6)).await.unwrap();
    let ended = ["agent online is connected again", "test: the rejection of its image ended"];
    assert_eq!(titles(outbox), [begun, ended].concat());
    let again = vec![away()];
    outbox.announce_problems(again, at(7)).await.unwrap();
    assert_eq!(titles(outbox).len(), 5, "the next one is news");
}

#[tokio::test]
async fn a_problem_that_passes_within_a_minute_is_not_announced() {
    let home = tempfile::tempdir().unwrap();
    let handles = open(home.path()).unwrap();
    let outbox = &handles.outbox;
    outbox.follow(rules()).await.unwrap();
    let at = Timestamp::from_millis(1_000_000_000_000);
    outbox.announce_problems(vec![away()], at).await.unwrap();
    assert_eq!(titles(outbox).len(), 1);
    outbox.announce_problems(Vec::new(), at.after(std::time::Duration::from_secs(5))).await.unwrap();
    assert!(titles(outbox).is_empty(), "{:?}", titles(outbox));
}
