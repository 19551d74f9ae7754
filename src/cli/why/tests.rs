//! The exact output of `abide why`.

use super::*;
use crate::cli::tests::{NOW, event, generation, ready, view};
use crate::model::event::EventKind;
use crate::model::status::{Condition, Reason};
use crate::model::view::{EnvironmentView, PlanView};

fn evidence(environment: EnvironmentView) -> WhyEvidence {
    let plan = PlanView {
        environment: environment.environment.clone(),
        differences: Vec::new(),
        upkeep: Vec::new(),
        steps: Vec::new(),
        message: String::new(),
        differs: false,
    };
    WhyEvidence {
        environment,
        record: Some(generation(4, "push")),
        plan: Some(plan),
        plan_error: None,
        warnings: Vec::new(),
        events: vec![
            event(1, EventKind::Record, "github (alice) pushed 5f0c5f0c5f0c to dev"),
            event(2, EventKind::Difference, "the image differs"),
            event(3, EventKind::Step, "started dev-server"),
            event(4, EventKind::Failure, "dev-server exited with 1"),
        ],
    }
}

fn plain(evidence: &WhyEvidence) -> String {
    anstream::adapter::strip_str(&render(evidence, NOW)).to_string()
}

#[test]
fn a_failure_is_traced_from_its_event_to_the_next_retry() {
    let mut environment = view("dev", Condition::Degraded, Reason::CrashLoop);
    environment.message = "dev-server ended 3 times".into();
    environment.next_retry = Some(NOW.after(std::time::Duration::from_secs(8)));
    let mut evidence = evidence(environment);
    if let Some(plan) = &mut evidence.plan {
        plan.differences = vec!["dev-server is not running".into(), "nothing answers on 8900".into()];
        plan.steps = vec!["start dev-server".into()];
    }
    let expected = "\
dev  Degraded (CrashLoop), since 3m ago
  event       3m ago: github (alice) pushed 5f0c5f0c5f0c to dev
  record      generation 4: push by alice 3m ago, from test generation 4
              revision 5f0c5f0c5f0c, image ab12ab12ab12
  difference  dev-server is not running
              nothing answers on 8900
  step        to do: start dev-server
  result      Degraded (CrashLoop): dev-server ended 3 times
              3m ago: dev-server exited with 1
  next retry  in 8s
";
    assert_eq!(plain(&evidence), expected);
}

#[test]
fn the_chain_of_a_ready_environment_shows_how_it_got_there() {
    let text = plain(&evidence(ready("dev")));
    assert!(text.contains("difference  3m ago: the image differs\n"), "{text}");
    assert!(text.contains("step        3m ago: started dev-server\n"), "{text}");
    assert!(text.contains("next retry  none is needed\n"), "{text}");
    assert!(!text.contains("exited with 1"), "an old failure is told of what is Ready: {text}");
}

#[test]
fn events_before_the_last_record_change_are_left_out_of_the_chain() {
    let mut evidence = evidence(view("dev", Condition::Degraded, Reason::BuildFailed));
    evidence.record.as_mut().unwrap().at = NOW;
    let text = plain(&evidence);
    assert!(text.contains("difference  none\n") && text.contains("step        none\n"), "{text}");
    assert!(!text.contains("exited with 1"), "{text}");
    assert!(text.contains("then `abide sync dev` retries"), "{text}");
    let by_itself = plain(&self::evidence(view("dev", Condition::Blocked, Reason::SecretMissing)));
    assert!(by_itself.contains("next retry  automatic") && !by_itself.contains("someone"), "{by_itself}");
}

#[test]
fn a_failed_plan_affects_only_its_part_of_the_chain() {
    let mut evidence = evidence(view("dev", Condition::Degraded, Reason::EngineUnavailable));
    (evidence.plan, evidence.plan_error) = (None, Some("the engine does not answer".into()));
    evidence.record = None;
    evidence.events.clear();
    let text = plain(&evidence);
    assert!(text.contains("event       none recorded\n"), "{text}");
    assert!(text.contains("record      nothing was ever recorded\n"), "{text}");
    assert!(text.contains("difference  cannot be computed: the engine does not answer\n"), "{text}");
}

#[test]
fn why_explains_what_ends_a_rollback() {
    let text = plain(&evidence(view("dev", Condition::RolledBack, Reason::RolledBack)));
    assert!(text.contains("next retry  none until the next version; `abide set dev`"), "{text}");
    assert!(!text.contains("abide sync"), "which would try nothing again: {text}");
}
