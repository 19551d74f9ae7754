//! Environments that an orchestrator runs, in a small cluster that obeys every step.

use std::net::SocketAddr;
use std::time::Duration;

use super::cluster::{BOOT, Cluster, Fate, image};
use super::world::digest;
use crate::model::desired::{Hold, Image, Origin, Outcome};
use crate::model::front::FrontSeen;
use crate::model::group::{MemberState, NeedCondition};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::spec::Update;
use crate::model::status::{Condition, Reason};
use crate::model::workload::{NodeState, PortMode, Workload, WorkloadSight};
use crate::plan::{Step, StepFailure, after_failure, must_be_stored, plan};

#[test]
fn the_recorded_image_becomes_a_service_and_is_ready_once_its_replicas_are() {
    let mut cluster = Cluster::new();
    cluster.set(1);
    cluster.reconcile();
    assert!(cluster.runs(1));
    assert_eq!(cluster.status(), (Condition::Progressing, Reason::AwaitingHealth));
    assert_eq!(cluster.outcome, None);
    cluster.rest();
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    assert_eq!(cluster.outcome, Some((Generation(1), Outcome::Ready)));
    assert_eq!(cluster.writes(), 1);
    assert!(
        cluster.plan().verdict.message.contains("3 replicas on n1"),
        "{}",
        cluster.plan().verdict.message
    );
}

/// A request to forget the environment looks for services only if this is remembered.
#[test]
fn a_service_is_remembered_before_it_is_created() {
    let mut cluster = Cluster::new();
    cluster.set(1);
    let plan = cluster.plan();
    assert!(matches!(plan.steps[0].step, Step::ApplyWorkload { .. }));
    assert!(plan.memory.workload.is_some() && must_be_stored(&cluster.memory, &plan.memory));
}

#[test]
fn a_new_image_replaces_exactly_the_observed_service() {
    let mut cluster = Cluster::running();
    cluster.set(2);
    cluster.rest();
    assert!(cluster.runs(2) && cluster.writes() == 1);
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    let good = cluster.memory.good.clone().unwrap();
    assert!(good.image.is_same(&image(2)) && cluster.memory.before.unwrap().image.is_same(&image(1)));
}

#[test]
fn a_failed_update_gets_the_previous_version_back_at_once_and_the_record_follows() {
    let mut cluster = Cluster::running();
    let before = cluster.service.clone().unwrap();
    cluster.fail(2, Fate::Crashes);
    cluster.set(2);
    cluster.reconcile();
    assert!(cluster.runs(2));
    cluster.now = cluster.now.after(BOOT);
    cluster.reconcile();
    assert_eq!(cluster.service.as_ref().map(Workload::fingerprint), Some(before.fingerprint()), "at once");
    assert_eq!(cluster.intent.entry.generation, Generation(2), "the record waits until it serves");
    assert_eq!(cluster.status(), (Condition::Progressing, Reason::RolledBack));
    assert!(matches!(cluster.outcome, Some((Generation(2), Outcome::Failed(_)))), "{:?}", cluster.outcome);
    cluster.rest();
    assert_eq!(cluster.intent.entry.origin, Some(Origin::AutomaticRollback));
    assert_eq!(cluster.status(), (Condition::RolledBack, Reason::RolledBack));
    assert!(
        cluster.plan().verdict.message.contains("non-zero exit (3)"),
        "{}",
        cluster.plan().verdict.message
    );
    assert_eq!(cluster.writes(), 2, "there and back");
}

#[test]
fn a_digest_that_failed_is_not_tried_again_until_a_person_names_it() {
    let mut cluster = Cluster::running();
    cluster.fail(2, Fate::Crashes);
    cluster.set(2);
    cluster.rest();
    cluster.wait(20);
    let writes = cluster.writes();
    cluster.record(image(2), Origin::Push);
    cluster.rest();
    assert_eq!(cluster.writes(), writes, "not even once");
    assert!(cluster.runs(1));
    cluster.fates.clear();
    cluster.intent.bad.clear();
    cluster.set(2);
    cluster.rest();
    assert!(cluster.runs(2));
}

#[test]
fn a_version_that_is_never_ready_is_given_up_at_its_deadline() {
    let mut cluster = Cluster::running();
    cluster.fail(2, Fate::NeverReady);
    cluster.set(2);
    cluster.reconcile();
    let deadline = cluster.service.as_ref().unwrap().deadline();
    cluster.now = cluster.now.after(deadline).after(Duration::from_millis(1));
    cluster.rest();
    assert!(cluster.runs(1));
    assert_eq!(cluster.status(), (Condition::RolledBack, Reason::RolledBack));
}

#[test]
fn an_update_that_finds_no_node_or_is_killed_goes_back_without_a_verdict_and_is_tried_again() {
    for fate in [Fate::FindsNoNode, Fate::Killed] {
        let mut cluster = Cluster::running();
        cluster.fail(2, fate);
        cluster.set(2);
        cluster.rest();
        assert!(cluster.runs(1), "{fate:?}");
        assert_eq!(cluster.intent.entry.generation, Generation(2), "{fate:?}: the record keeps its wish");
        assert_eq!(cluster.status().0, Condition::Degraded, "{fate:?}");
        assert!(cluster.intent.bad.is_empty());
        cluster.fates.clear();
        cluster.wait(700);
        assert!(cluster.runs(2), "{fate:?}");
        assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    }
}

#[test]
fn a_failed_first_version_stays_and_the_status_names_the_reason() {
    let mut cluster = Cluster::new();
    cluster.fail(1, Fate::Crashes);
    cluster.set(1);
    cluster.rest();
    assert!(cluster.runs(1));
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::CrashLoop));
    assert!(matches!(cluster.outcome, Some((Generation(1), Outcome::Failed(_)))));
    let writes = cluster.writes();
    cluster.wait(120);
    assert_eq!(
        cluster.writes(),
        writes + 1,
        "a paused update replaces nothing, so it is written again after a minute"
    );
}

#[test]
fn a_failing_edit_returns_to_the_previous_options_and_rolls_nothing_back() {
    let mut cluster = Cluster::running();
    let before = cluster.service.clone().unwrap();
    cluster.edit("BREAKS_IT");
    cluster.fail(1, Fate::Crashes);
    cluster.reconcile();
    assert_ne!(cluster.service.as_ref().unwrap().fingerprint(), before.fingerprint());
    cluster.now = cluster.now.after(BOOT);
    cluster.reconcile();
    assert_eq!(cluster.service.as_ref().unwrap().fingerprint(), before.fingerprint());
    cluster.fates.clear();
    cluster.rest();
    assert_eq!(cluster.intent.entry.generation, Generation(1));
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::CrashLoop));
    assert_eq!(cluster.writes(), 2);
}

#[test]
fn other_replicas_are_no_other_version() {
    let mut cluster = Cluster::running();
    let version = cluster.service.as_ref().unwrap().version();
    cluster.intent.workload.as_mut().unwrap().placement.replicas = 5;
    cluster.rest();
    let service = cluster.service.clone().unwrap();
    assert_eq!((service.placement.replicas, service.version()), (5, version));
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
}

#[test]
fn an_earlier_failure_does_not_undo_another_number_of_replicas() {
    let mut cluster = Cluster::running();
    cluster.intent.workload.as_mut().unwrap().placement.replicas = 5;
    cluster.fail(1, Fate::Killed);
    cluster.rest();
    assert_eq!(cluster.service.as_ref().map(|service| service.placement.replicas), Some(5));
    cluster.fates.clear();
    cluster.rest();
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    // A number for which there is no place is undone.
    let mut cluster = Cluster::running();
    cluster.intent.workload.as_mut().unwrap().placement.replicas = 9;
    cluster.fail(1, Fate::FindsNoNode);
    cluster.rest();
    assert_eq!(cluster.service.as_ref().map(|service| service.placement.replicas), Some(3));
}

#[test]
fn changes_by_somebody_else_are_overwritten_and_after_three_reported() {
    let mut cluster = Cluster::running();
    for round in 1..=3 {
        cluster.changes.insert("the number of replicas".to_owned());
        cluster.rest();
        assert_eq!(cluster.writes(), round);
        assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    }
    cluster.changes.insert("the number of replicas".to_owned());
    cluster.reconcile();
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::NotConverging));
    assert_eq!(cluster.writes(), 3);
    cluster.intent.sync = Some(cluster.now);
    cluster.rest();
    assert_eq!(cluster.writes(), 4, "a sync clears it");
}

#[test]
fn a_removed_service_is_created_again() {
    let mut cluster = Cluster::running();
    cluster.service = None;
    cluster.rest();
    assert!(cluster.runs(1) && cluster.writes() == 1);
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
}

#[test]
fn a_service_gets_another_name_without_a_gap_and_as_often_as_the_manifest_says() {
    let mut cluster = Cluster::new();
    cluster.intent.options.as_mut().unwrap().publish = None;
    cluster.set(1);
    cluster.rest();
    for name in ["one", "two", "three", "four", "five"] {
        cluster.rename(name);
        cluster.reconcile();
        assert_eq!(cluster.status(), (Condition::Progressing, Reason::Updating), "{name}");
        assert!(cluster.renamed.is_some(), "{name}: the earlier service serves until this one is ready");
        cluster.rest();
        assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded), "{name}");
        assert_eq!(cluster.service.as_ref().map(|service| service.name().as_str()), Some(name));
        assert_eq!(cluster.renamed, None, "{name}");
    }
    // Nobody else has changed anything, so a removal by hand is the first such change.
    cluster.service = None;
    cluster.rest();
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
}

#[test]
fn a_service_with_a_port_or_volume_that_only_one_can_have_ends_before_it_gets_another_name() {
    for (ports, publish, update, ends_first) in [
        (PortMode::Ingress, true, None, true),
        (PortMode::Host, true, Some(Update::StartFirst), true),
        (PortMode::Ingress, false, Some(Update::StopFirst), true),
        (PortMode::Ingress, false, None, false),
        (PortMode::Dynamic, false, None, false),
    ] {
        let mut cluster = Cluster::new();
        cluster.intent.workload.as_mut().unwrap().placement.ports = ports;
        cluster.intent.update = update;
        let options = cluster.intent.options.as_mut().unwrap();
        options.publish = options.publish.filter(|_| publish);
        cluster.set(1);
        cluster.rest();
        cluster.done.clear();
        cluster.rename("another");
        cluster.reconcile();
        let is_removal = |step: &Step| matches!(step, Step::RemoveWorkload { .. });
        assert_eq!(cluster.done.first().is_some_and(is_removal), ends_first, "{ports:?} {:?}", cluster.done);
        cluster.rest();
        assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded), "{ports:?}");
    }
}

#[test]
fn nothing_is_decided_while_the_cluster_does_not_answer() {
    let mut cluster = Cluster::running();
    cluster.is_silent = true;
    cluster.set(2);
    let memory = cluster.memory.clone();
    cluster.rest();
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::EngineUnavailable));
    assert!(cluster.done.is_empty());
    assert_eq!(cluster.memory.good, memory.good);
    cluster.is_silent = false;
    cluster.rest();
    assert!(cluster.runs(2));
}

#[test]
fn a_foreign_service_of_the_name_is_never_touched() {
    let mut cluster = Cluster::new();
    cluster.set(1);
    cluster.observed.workload = Some(WorkloadSight::Foreign("was not created by abide".to_owned()));
    let plan = plan(&cluster.intent, &cluster.observed, &cluster.memory, cluster.now);
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Blocked, Reason::NameConflict));
    assert!(plan.steps.is_empty());
}

#[test]
fn an_update_waits_for_other_members_once_and_goes_through_after_it_began() {
    let mut cluster = Cluster::running();
    let db = EnvironmentName::new("db").unwrap();
    cluster.intent.needs.insert(db.clone(), NeedCondition::Healthy);
    cluster.set(2);
    cluster.rest();
    assert_eq!(cluster.status(), (Condition::Progressing, Reason::AwaitingNeeds));
    assert!(cluster.runs(1) && cluster.done.is_empty());
    let well = MemberState { is_started: true, is_healthy: true, is_completed: false };
    cluster.observed.members.insert(db, well);
    cluster.reconcile();
    assert!(cluster.runs(2));
    cluster.observed.members.clear();
    cluster.rest();
    assert!(cluster.runs(2), "the member is not ready for a moment");
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    assert_eq!(cluster.writes(), 1);
}

#[test]
fn a_version_that_crashes_soon_after_it_was_ready_is_given_up() {
    let mut cluster = Cluster::running();
    cluster.set(2);
    cluster.rest();
    for _ in 0..3 {
        cluster.now = cluster.now.after(Duration::from_secs(1));
        cluster.crashes.push(cluster.now);
    }
    cluster.reconcile();
    assert!(cluster.runs(1));
    cluster.crashes.clear();
    cluster.rest();
    assert_eq!(cluster.status(), (Condition::RolledBack, Reason::RolledBack));
}

#[test]
fn a_crash_long_after_is_healed_by_the_orchestrator_and_reported() {
    let mut cluster = Cluster::running();
    cluster.crashes = vec![cluster.now; 3];
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::CrashLoop));
    cluster.reconcile();
    assert!(cluster.done.is_empty(), "Swarm replaces it");
}

#[test]
fn a_held_environment_is_healed_and_keeps_its_version() {
    let mut cluster = Cluster::running();
    let (reason, by) = ("a look".to_owned(), "alice".to_owned());
    cluster.intent.hold = Some(Hold { reason, by, since: cluster.now, generation: Some(Generation(1)) });
    assert_eq!(cluster.status(), (Condition::Held, Reason::HeldByPerson));
    cluster.service = None;
    cluster.rest();
    assert!(cluster.runs(1));
}

#[test]
fn an_image_in_one_engine_only_is_blocked_with_what_to_do() {
    let mut cluster = Cluster::new();
    cluster.record(Image { reference: None, digest: None, id: Some(digest(1)) }, Origin::Set);
    assert_eq!(cluster.status(), (Condition::Blocked, Reason::ImageNotFound));
    assert!(cluster.plan().verdict.message.contains("abide set dev REPOSITORY@sha256:DIGEST"));
}

#[test]
fn ports_of_nodes_and_volumes_are_replaced_stop_first() {
    let mut cluster = Cluster::new();
    cluster.set(1);
    let order = |cluster: &mut Cluster| {
        let plan = cluster.plan();
        let Some(Step::ApplyWorkload { workload, .. }) = plan.steps.first().map(|planned| &planned.step)
        else {
            panic!("{plan:?}");
        };
        workload.update
    };
    assert_eq!(order(&mut cluster), Update::StartFirst);
    cluster.intent.workload.as_mut().unwrap().placement.ports = PortMode::Host;
    assert_eq!(order(&mut cluster), Update::StopFirst);
    cluster.intent.update = Some(Update::StartFirst);
    assert_eq!(order(&mut cluster), Update::StartFirst);
}

#[test]
fn nodes_that_take_no_replicas_and_drains_that_would_stop_the_last_one_are_warned_of() {
    let mut cluster = Cluster::running();
    let warnings = |cluster: &mut Cluster, places: &[&'static str]| {
        cluster.places = places.to_vec();
        cluster.plan().warnings
    };
    assert_eq!(warnings(&mut cluster, &["n1", "n2", "n2"]), [""; 0]);
    assert_eq!(
        warnings(&mut cluster, &["n1", "n1", "n1"]),
        ["all 3 ready replicas are on node n1: draining it would stop the last one"]
    );
    assert_eq!(
        warnings(&mut cluster, &["n2"]),
        ["the only ready replica is on node n2: draining it would stop the last one"]
    );
    for (state, expected) in [
        (NodeState::Down, "node n2 is down"),
        (NodeState::Drained, "node n2 is drained and runs no replicas"),
        (NodeState::Paused, "node n2 is paused and takes no new replicas"),
    ] {
        cluster.nodes.insert("n2", state);
        assert_eq!(warnings(&mut cluster, &["n1", "n1", "n1"]), [expected], "no other node could run them");
    }
    let nodes = crate::plan::workload_nodes(&cluster.observed);
    let shown: Vec<_> = nodes.iter().map(|node| format!("{}: {}", node.name, node.describe())).collect();
    assert_eq!(shown, ["n1: ready, 3 replicas", "n2: paused, no replica"]);
}

#[test]
fn behind_the_proxy_a_service_is_ready_once_its_replicas_get_the_requests() {
    let mut cluster = Cluster::new();
    cluster.intent.workload.as_mut().unwrap().placement.ports = PortMode::Dynamic;
    cluster.serving = vec!["10.0.0.11:32768".parse().unwrap()];
    let front = |addresses: Option<&[SocketAddr]>| {
        Some(FrontSeen { addresses: addresses.map(<[_]>::to_vec), ..FrontSeen::default() })
    };
    cluster.observed.front = front(Some(&[]));
    cluster.set(1);
    cluster.rest();
    assert_eq!(cluster.status(), (Condition::Progressing, Reason::Updating));
    cluster.observed.front = front(Some(&cluster.serving));
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    cluster.observed.front = front(None);
    assert_eq!(
        cluster.status(),
        (Condition::Ready, Reason::AsRecorded),
        "nothing reaches it through the proxy"
    );
    let trouble = Some("nginx does not start".to_owned());
    cluster.observed.front = Some(FrontSeen { trouble, ..FrontSeen::default() });
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::FrontUnavailable));
    // Ports of the swarm do not need the proxy.
    let mut ingress = Cluster::running();
    ingress.observed.front = cluster.observed.front.clone();
    assert_eq!(ingress.status(), (Condition::Ready, Reason::AsRecorded));
}

#[test]
fn a_failed_call_is_repeated_with_backoff() {
    let mut cluster = Cluster::new();
    cluster.set(1);
    let plan = cluster.plan();
    let failure = StepFailure { cause: crate::model::cause::Cause::Unknown, message: "a port is in use" };
    cluster.memory = after_failure(&plan, &plan.steps[0].step, failure, &cluster.intent, cluster.now);
    assert_eq!(cluster.status().0, Condition::Degraded);
    assert!(cluster.plan().steps.is_empty());
    cluster.wait(10);
    assert!(cluster.runs(1));
}
