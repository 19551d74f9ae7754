//! Invariants of a controller's record and an agent's copy, whatever is lost, repeated or reordered in
//! transit.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::watch;

use super::assign::{Assigner, RefusedEnvironments};
use super::policy::Policy;
use super::reporter;
use crate::model::desired::{Entry, Forget, Hold, Image, LeftOn, Origin, Outcome, RollbackRequest};
use crate::model::event::{Event, EventKind};
use crate::model::link::{AgentReport, Assigned, Assignment, ForgetThere, ReportCursor, Reported, ToAgent};
use crate::model::name::{CommitId, ContainerName, Digest, EnvironmentName, Generation, NetworkName};
use crate::model::spec::{EnvironmentSpec, HealthSpec, Manifest, Probe, RestartMode, Supply};
use crate::model::status::{Condition, Reason, RunningContainer, Status};
use crate::model::time::Timestamp;
use crate::record::{Change, Handles, ReplicaRejection, open};

fn prod() -> EnvironmentName {
    EnvironmentName::new("prod").unwrap()
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000 + second * 1_000)
}

fn image(number: u64) -> Image {
    let digest = |kind: u64| Digest::new(format!("sha256:{:064x}", kind << 32 | number)).unwrap();
    let reference = Some("registry.example.com/prod".to_owned());
    Image { reference, digest: Some(digest(1)), id: Some(digest(2)) }
}

/// The same content under the ID of another engine.
fn pulled(number: u64) -> Image {
    let id = Digest::new(format!("sha256:{:064x}", 3_u64 << 32 | number)).unwrap();
    Image { id: Some(id), ..image(number) }
}

fn set(number: u64) -> Change {
    let by = Some("alice".to_owned());
    Change {
        revision: None,
        image: Some(image(number)),
        origin: Origin::Set,
        by,
        token: None,
        note: None,
        at: at(number),
        hold: None,
    }
}

fn spec() -> EnvironmentSpec {
    let second = std::time::Duration::from_secs(1);
    EnvironmentSpec {
        group: None,
        replica: None,
        needs: std::collections::BTreeMap::new(),
        container: ContainerName::new("prod-server").unwrap(),
        port: Some(8088),
        publish: None,
        hostnames: Vec::new(),
        https: None,
        site: crate::model::site::SiteSettings::default(),
        run: Default::default(),
        supply: Supply::Manual,
        pull_policy: Default::default(),
        command: None,
        env: Default::default(),
        volumes: Vec::new(),
        extra_hosts: Vec::new(),
        memory: None,
        nano_cpus: None,
        pids: None,
        init: true,
        stop_timeout: second,
        update: None,
        restart: RestartMode::Always,
        health: HealthSpec {
            probe: Probe::Tcp,
            interval: second,
            timeout: second,
            start_deadline: second * 30,
            healthy_for: second,
            ..HealthSpec::default()
        },
        build: None,
        swarm: None,
        host: None,
        mark: None,
        push: None,
        canary: None,
        gates: Default::default(),
        verify: None,
        release: None,
        after: None,
        jobs: std::collections::BTreeMap::new(),
        checks: None,
    }
}

/// A record in its own folder.
struct Home {
    handles: Handles,
    _dir: TempDir,
}

fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    Home { handles: open(dir.path()).unwrap(), _dir: dir }
}

/// The environments that an agent's loop runs after it applied `line`, and why others are refused.
async fn taken(agent: &Home, line: &str) -> (Vec<String>, Vec<String>) {
    let (manifests, manifest) = watch::channel(Arc::new(Manifest::default()));
    let refusals = RefusedEnvironments::default();
    let policy = Arc::new(Policy::standard(Vec::new()));
    let replica = agent.handles.replica.clone();
    let assigner = Assigner { replica, policy, manifests, refusals: refusals.clone() };
    let Ok(ToAgent::Assignment(assignment)) = serde_json::from_str(line) else { panic!("{line}") };
    let names = assigner.take(*assignment).await.unwrap();
    let why = names.iter().filter_map(|name| Some(format!("{name}: {}", refusals.of(name)?.message)));
    let runs = manifest.borrow().environments.keys().map(ToString::to_string).collect();
    (runs, why.collect())
}

#[tokio::test]
async fn a_malformed_assignment_reaches_neither_the_record_nor_the_loop() {
    let (controller, agent) = (home(), home());
    controller.handles.writer.submit(&prod(), set(1), &[]).await.unwrap();
    let sent = serde_json::to_value(assignment(&controller.handles)).unwrap();
    let mut evil = sent["environments"][0].clone();
    evil["desired"]["environment"] = "evil".into();
    evil["spec"]["container"] = "evil-server".into();
    evil["spec"]["volumes"] = serde_json::json!([{ "source": "/srv/allowed/..:/host", "target": "rw" }]);
    let mut both = sent;
    both["environments"].as_array_mut().unwrap().push(evil);
    let line = serde_json::json!({ "assignment": both }).to_string();
    let (runs, refused) = taken(&agent, &line).await;
    assert_eq!(runs, ["prod"]);
    let [why] = refused.as_slice() else { panic!("{refused:?}") };
    assert!(why.starts_with("evil: this agent cannot read the declaration of the controller"), "{why}");
    assert!(!agent.handles.replica.kept().unwrap().environments.keys().any(|name| name.as_str() == "evil"));
}

/// The assignment that the controller would send now.
fn assignment(of: &Handles) -> Assignment {
    let desired = of.desired.get(&prod()).unwrap();
    let held = desired.hold.as_ref().and_then(|hold| hold.generation);
    let held = held.and_then(|held| of.desired.entry(&prod(), held).unwrap());
    let cursor = of.reports.cursor(&prod()).unwrap();
    let environments = vec![Assigned { spec: spec(), desired, held, heard: cursor }];
    // As decoded from the wire.
    let sent =
        Assignment { network: NetworkName::default(), environments, forget: Vec::new(), misread: Vec::new() };
    serde_json::from_slice(&serde_json::to_vec(&sent).unwrap()).unwrap()
}

fn hold(generation: Option<u64>) -> Hold {
    Hold { reason: "r".into(), by: "b".into(), since: at(0), generation: generation.map(Generation) }
}

fn status(observed: u64, reason: Reason) -> Status {
    let why = (Condition::Progressing, reason);
    Status::new(prod(), Generation(observed), why, reason.as_str(), at(observed))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[tokio::test]
async fn a_replica_accepts_only_newer_generations_and_keeps_its_own_image_ids() {
    let (controller, agent) = (home(), home());
    controller.handles.writer.submit(&prod(), set(1), &[]).await.unwrap();
    let first = assignment(&controller.handles);
    let replica = &agent.handles.replica;
    let take = async |one: &Assignment| replica.accept(one.clone(), BTreeSet::new()).await.unwrap().not_taken;
    assert!(take(&first).await.is_empty());
    let copied = || agent.handles.desired.get(&prod()).unwrap().entry;
    assert_eq!(copied().image.unwrap().id, None, "an ID of another engine says nothing here");
    agent.handles.resolver.resolve_image(&prod(), Generation(1), pulled(1)).await.unwrap();
    assert!(take(&first).await.is_empty());
    assert_eq!(copied().image, Some(pulled(1)), "what was found out stays");

    controller.handles.writer.submit(&prod(), set(2), &[]).await.unwrap();
    controller.handles.writer.submit(&prod(), set(1), &[]).await.unwrap();
    let third = assignment(&controller.handles);
    assert!(take(&third).await.is_empty());
    assert_eq!(copied().image, Some(pulled(1)), "an image that was met is known at once");
    let behind = ReplicaRejection::Behind { here: Generation(3), sent: Generation(1) };
    assert_eq!(take(&first).await.get(&prod()), Some(&behind));
    assert_eq!(copied().generation, Generation(3));

    let fork = home();
    for number in [1, 2, 9] {
        fork.handles.writer.submit(&prod(), set(number), &[]).await.unwrap();
    }
    let forked = take(&assignment(&fork.handles)).await;
    assert_eq!(forked.get(&prod()), Some(&ReplicaRejection::Forked(Generation(3))));
    assert_eq!(copied().image, Some(pulled(1)));
}

#[tokio::test]
async fn an_id_sent_with_a_digest_is_never_trusted_as_a_local_image() {
    let (controller, agent) = (home(), home());
    let replica = &agent.handles.replica;
    for number in [1, 2] {
        controller.handles.writer.submit(&prod(), set(number), &[]).await.unwrap();
        let mut sent = assignment(&controller.handles);
        // An image of this engine, under the name of an allowed image.
        sent.environments[0].desired.entry.image = Some(Image { id: pulled(9).id, ..image(number) });
        if number == 2 {
            let first = controller.handles.desired.entry(&prod(), Generation(1)).unwrap().unwrap();
            sent.environments[0].held =
                Some(Entry { image: Some(Image { id: pulled(9).id, ..image(1) }), ..first });
        }
        replica.accept(sent, BTreeSet::new()).await.unwrap();
        let here = agent.handles.desired.get(&prod()).unwrap().entry.image;
        assert_eq!(here, Some(Image { id: None, ..image(number) }), "it has to be pulled by its digest");
    }
    let held = agent.handles.desired.entry(&prod(), Generation(1)).unwrap().unwrap();
    assert_eq!(held.image, Some(Image { id: None, ..image(1) }));
}

#[tokio::test]
async fn an_unassigned_environment_is_dropped_except_for_its_record() {
    let (controller, agent) = (home(), home());
    controller.handles.writer.submit(&prod(), set(1), &[]).await.unwrap();
    let replica = &agent.handles.replica;
    replica.accept(assignment(&controller.handles), BTreeSet::new()).await.unwrap();
    assert_eq!(replica.kept().unwrap().environments.len(), 1);
    let none = || Assignment {
        network: NetworkName::default(),
        environments: Vec::new(),
        forget: Vec::new(),
        misread: Vec::new(),
    };
    replica.accept(none(), BTreeSet::from([prod()])).await.unwrap();
    assert_eq!(replica.kept().unwrap().environments.len(), 1, "what is refused stays as it was");
    replica.accept(none(), BTreeSet::new()).await.unwrap();
    assert_eq!(replica.kept().unwrap().environments.len(), 0);
    assert_eq!(agent.handles.desired.get(&prod()).unwrap().entry.generation, Generation(1));
}

#[tokio::test]
async fn a_forget_request_reaches_its_host_and_lapses_on_reassignment() {
    let (controller, agent) = (home(), home());
    let replica = &agent.handles.replica;
    controller.handles.writer.submit(&prod(), set(1), &[]).await.unwrap();
    let request = Forget { stop: true, left: Some(LeftOn::default()), by: "alice".into(), at: at(2) };
    controller.handles.writer.forget(&prod(), request).await.unwrap();
    let requested = || agent.handles.desired.get(&prod()).unwrap().forget;
    replica.accept(assignment(&controller.handles), BTreeSet::new()).await.unwrap();
    assert_eq!(requested(), None, "it is about other hosts than the one that runs it");

    let there = ForgetThere { environment: prod(), stop: true, by: "alice".into(), at: at(2) };
    let gone = Assignment {
        network: NetworkName::default(),
        environments: Vec::new(),
        forget: vec![there.clone()],
        misread: Vec::new(),
    };
    let gone: Assignment = serde_json::from_slice(&serde_json::to_vec(&gone).unwrap()).unwrap();
    replica.accept(gone.clone(), BTreeSet::from([prod()])).await.unwrap();
    assert_eq!(requested(), None, "it is refused here, and keeps running");
    replica.accept(gone.clone(), BTreeSet::new()).await.unwrap();
    assert_eq!(requested(), Some(Forget { stop: true, left: None, by: "alice".into(), at: at(2) }));

    replica.accept(assignment(&controller.handles), BTreeSet::new()).await.unwrap();
    assert_eq!(requested(), None, "it runs here again");
    replica.accept(gone, BTreeSet::new()).await.unwrap();
    assert!(requested().is_some());
    let mut refused = assignment(&controller.handles);
    refused.environments.clear();
    replica.accept(refused, BTreeSet::from([prod()])).await.unwrap();
    assert_eq!(requested(), None, "an environment that is assigned and refused keeps what it has");
}

#[tokio::test]
async fn epochs_rise_with_every_process_regardless_of_the_clock() {
    let agent = home();
    let first = agent.handles.replica.next_epoch(5_000).await.unwrap();
    let second = agent.handles.replica.next_epoch(10).await.unwrap();
    assert_eq!(first, 5_000);
    assert!(second >= first + crate::record::SESSIONS, "sessions of the first could have that number");
}

#[tokio::test]
async fn a_replica_proposes_a_rollback_and_it_is_recorded_once() {
    let (controller, agent) = (home(), home());
    for number in [1, 2] {
        controller.handles.writer.submit(&prod(), set(number), &[]).await.unwrap();
    }
    agent.handles.replica.accept(assignment(&controller.handles), BTreeSet::new()).await.unwrap();
    let back = RollbackRequest {
        from: Generation(2),
        image: pulled(1),
        revision: None,
        note: "generation 2 failed".into(),
        reason: Reason::NeverReady,
        message: "it never answered".into(),
        at: at(9),
    };
    assert!(agent.handles.resolver.clone().of_replica().roll_back(&prod(), back).await.unwrap());
    let here = agent.handles.desired.get(&prod()).unwrap();
    assert_eq!(here.entry.generation, Generation(2), "the copy does not move by itself");
    agent.handles.status_writer.report(&status(2, Reason::RolledBack), &Default::default()).await.unwrap();
    for sequence in [1, 1, 2, 3] {
        deliver(&controller.handles, report(&agent.handles, &ReportCursor::default(), sequence)).await;
    }
    let recorded = controller.handles.desired.get(&prod()).unwrap();
    assert_eq!(recorded.entry.generation, Generation(3));
    assert_eq!(recorded.entry.image, Some(image(1)), "under the name that it has there");
    agent.handles.replica.accept(assignment(&controller.handles), BTreeSet::new()).await.unwrap();
    assert_eq!(agent.handles.desired.proposed(&prod()).unwrap(), None);
}

#[tokio::test]
async fn a_proposed_rollback_must_name_a_recorded_image() {
    let controller = home();
    for number in [1, 2] {
        controller.handles.writer.submit(&prod(), set(number), &[]).await.unwrap();
    }
    let back = |image: Image| RollbackRequest {
        from: Generation(2),
        image,
        revision: Some(CommitId::new("a".repeat(40)).unwrap()),
        note: "generation 2 failed".into(),
        reason: Reason::NeverReady,
        message: "it never answered".into(),
        at: at(9),
    };
    let elsewhere = |image: Image| Image { reference: Some("registry.example.com/private".into()), ..image };
    deliver(&controller.handles, rolling_back(1, back(elsewhere(image(7))))).await;
    let recorded = || controller.handles.desired.get(&prod()).unwrap().entry;
    assert_eq!(recorded().generation, Generation(2), "an image that was never recorded");
    deliver(&controller.handles, rolling_back(2, back(elsewhere(pulled(1))))).await;
    assert_eq!(recorded().generation, Generation(3));
    assert_eq!((recorded().image, recorded().revision), (Some(image(1)), None), "as it was recorded");
}

fn rolling_back(sequence: u64, back: RollbackRequest) -> AgentReport {
    let status = status(2, Reason::RolledBack);
    hostile(sequence, Reported { status, outcomes: Vec::new(), events: Vec::new(), rollback: Some(back) })
}

/// A report that no agent of ours sends.
fn hostile(sequence: u64, reported: Reported) -> AgentReport {
    AgentReport {
        instance: "evil".into(),
        epoch: 1,
        sequence,
        environments: vec![reported],
        left: None,
        left_volumes: None,
        requests: Vec::new(),
    }
}

#[tokio::test]
async fn a_report_far_ahead_of_the_record_is_rejected() {
    let controller = home();
    controller.handles.writer.submit(&prod(), set(1), &[]).await.unwrap();
    let of = |sequence, observed| {
        let observed_generation = Generation(observed);
        let status = Status { observed_generation, ..status(0, Reason::RecordBehind) };
        hostile(sequence, Reported { status, outcomes: Vec::new(), events: Vec::new(), rollback: None })
    };
    for (sequence, observed) in [(1, u64::MAX), (2, u64::MAX / 2)] {
        assert_eq!(deliver(&controller.handles, of(sequence, observed)).await, None);
        assert_eq!(controller.handles.status.status(&prod()).unwrap(), None);
    }
    assert!(deliver(&controller.handles, of(3, 5_000)).await.is_some());
    controller.handles.writer.submit(&prod(), set(2), &[]).await.unwrap();
    assert_eq!(controller.handles.desired.get(&prod()).unwrap().entry.generation, Generation(5_001));
}

#[tokio::test]
async fn long_texts_in_a_report_are_truncated_to_the_records_limits() {
    let controller = home();
    for number in [1, 2] {
        controller.handles.writer.submit(&prod(), set(number), &[]).await.unwrap();
    }
    let long = || "x".repeat(100_000);
    let event = |sequence: u64| Event {
        sequence,
        environment: prod(),
        at: at(1),
        kind: EventKind::Step,
        message: if sequence == 1_000 { long() } else { format!("event {sequence}") },
        count: 1,
    };
    let running = RunningContainer { container_id: long(), image_id: None, started_at: None, restarts: 0 };
    let status = Status {
        message: long(),
        plan: vec![long(); 1_000],
        running: Some(running),
        ..status(2, Reason::NeverReady)
    };
    let back = RollbackRequest {
        from: Generation(2),
        image: image(1),
        revision: None,
        note: long(),
        reason: Reason::NeverReady,
        message: long(),
        at: at(9),
    };
    let reported = Reported {
        status,
        outcomes: vec![(Generation(1), Outcome::Failed(long())), (Generation(2), Outcome::Failed(long()))],
        events: (1..=1_500).map(event).collect(),
        rollback: Some(back),
    };
    let report = AgentReport {
        instance: "evil".into(),
        epoch: 1,
        sequence: 1,
        environments: vec![reported],
        left: None,
        left_volumes: None,
        requests: Vec::new(),
    };
    let cursor = deliver(&controller.handles, report).await.unwrap();
    assert_eq!(cursor.event, 1_000, "the others come in the next report");
    let status = &controller.handles.status;
    let kept = serde_json::to_string(&(
        status.status(&prod()).unwrap(),
        status.history(&prod()).unwrap(),
        controller.handles.desired.get(&prod()).unwrap(),
        status.events(Some(&prod()), Some(cursor.event - 1), usize::MAX).unwrap(),
    ));
    let longest = kept.unwrap().split(|c| c != 'x').map(str::len).max();
    assert_eq!(longest, Some(4 * 1_024));
    assert!(status.status(&prod()).unwrap().unwrap().plan.len() < 1_000);
}

#[tokio::test]
async fn a_failed_generation_may_still_become_ready_while_it_is_current() {
    let controller = home();
    let of = |sequence, generation, outcome| {
        let status = status(generation, Reason::Updating);
        let outcomes = vec![(Generation(generation), outcome)];
        let reported = Reported { status, outcomes, events: Vec::new(), rollback: None };
        AgentReport {
            instance: "one".into(),
            epoch: 1,
            sequence,
            environments: vec![reported],
            left: None,
            left_volumes: None,
            requests: Vec::new(),
        }
    };
    let failed = || Outcome::Failed("the registry has no such image".to_owned());
    let kept = || {
        let history = controller.handles.status.history(&prod()).unwrap();
        history.into_iter().map(|kept| kept.outcome).collect::<Vec<_>>()
    };
    controller.handles.writer.submit(&prod(), set(1), &[]).await.unwrap();
    deliver(&controller.handles, of(1, 1, failed())).await;
    deliver(&controller.handles, of(2, 1, Outcome::Ready)).await;
    assert_eq!(kept(), [Some(Outcome::Ready)]);
    deliver(&controller.handles, of(3, 1, failed())).await;
    assert_eq!(kept(), [Some(Outcome::Ready)], "what became ready was ready");
    controller.handles.writer.submit(&prod(), set(2), &[]).await.unwrap();
    deliver(&controller.handles, of(4, 2, failed())).await;
    controller.handles.writer.submit(&prod(), set(3), &[]).await.unwrap();
    deliver(&controller.handles, of(5, 2, Outcome::Ready)).await;
    assert_eq!(kept(), [None, Some(failed()), Some(Outcome::Ready)], "its time is over");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let copied = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &copied);
        } else {
            std::fs::copy(entry.path(), copied).unwrap();
        }
    }
}

#[tokio::test]
async fn a_restored_agent_loses_and_repeats_no_event() {
    let (controller, folder) = (home(), tempfile::tempdir().unwrap());
    let (own, backup) = (folder.path().join("own"), folder.path().join("backup"));
    controller.handles.writer.submit(&prod(), set(1), &[]).await.unwrap();
    let happen = async |agent: &Handles, text: &str, second: u64| {
        let writer = &agent.status_writer;
        writer.report(&status(0, Reason::Unknown), &Default::default()).await.unwrap();
        writer.event(&prod(), EventKind::Step, text, at(second)).await.unwrap();
    };
    // Catches up as at the start of a session, and reports everything.
    let mut sequence = 0;
    let mut catch_up = async |agent: &Handles| {
        let cursor = controller.handles.reports.cursor(&prod()).unwrap().unwrap_or_default();
        let received = (cursor.instance == agent.id).then(|| (prod(), cursor.clone()));
        let renumbered = agent.replica.renumber(received.into_iter().collect()).await.unwrap();
        sequence += 1;
        deliver(&controller.handles, report(agent, &cursor, sequence)).await;
        renumbered
    };
    let agent = open(&own).unwrap();
    happen(&agent, "one", 1).await;
    agent.close().await.unwrap();
    copy(&own, &backup);
    let agent = open(&own).unwrap();
    for (text, second) in [("two", 2), ("three", 3)] {
        happen(&agent, text, second).await;
    }
    assert_eq!(catch_up(&agent).await, 0);
    agent.close().await.unwrap();

    let agent = open(&backup).unwrap();
    // Before the first session, with the numbers of the two others and one more.
    for (text, second) in [("four", 4), ("five", 5), ("six", 6)] {
        happen(&agent, text, second).await;
    }
    assert_eq!(catch_up(&agent).await, 3);
    happen(&agent, "seven", 7).await;
    assert_eq!(catch_up(&agent).await, 0);
    let events = controller.handles.status.events(Some(&prod()), None, usize::MAX).unwrap();
    let texts: Vec<_> = events.iter().filter(|event| event.kind == EventKind::Step).collect();
    let texts: Vec<_> = texts.iter().map(|event| (event.message.as_str(), event.count)).collect();
    let expected = ["one", "two", "three", "four", "five", "six", "seven"].map(|text| (text, 1));
    assert_eq!(texts, expected);
    agent.close().await.unwrap();

    // Nothing happened since the copy: the next event gets a number above the received ones.
    std::fs::remove_dir_all(&own).unwrap();
    copy(&backup, &own);
    let agent = open(&own).unwrap();
    let cursor =
        ReportCursor { event: 1_000, ..controller.handles.reports.cursor(&prod()).unwrap().unwrap() };
    let beyond = ReportCursor { event: u64::MAX, ..cursor.clone() };
    for received in [cursor, beyond] {
        agent.replica.renumber(vec![(prod(), received)]).await.unwrap();
    }
    agent.close().await.unwrap();
    let agent = open(&own).unwrap();
    happen(&agent, "eight", 8).await;
    let last = agent.status.events(Some(&prod()), None, 1).unwrap();
    assert!((1_000..2_000).contains(&last[0].sequence), "{last:?}");
}

fn report(agent: &Handles, cursor: &ReportCursor, sequence: u64) -> AgentReport {
    let reported = reporter::of(&agent.status, &agent.desired, &prod(), cursor, &agent.id).unwrap();
    let environments = reported.into_iter().collect();
    AgentReport {
        instance: agent.id.clone(),
        epoch: 1,
        sequence,
        environments,
        left: None,
        left_volumes: None,
        requests: Vec::new(),
    }
}

async fn deliver(controller: &Handles, report: AgentReport) -> Option<ReportCursor> {
    let bytes = serde_json::to_vec(&report).unwrap();
    // A truncated document is invalid, and so changes nothing.
    assert!(serde_json::from_slice::<AgentReport>(&bytes[..bytes.len() - 1]).is_err());
    let report = serde_json::from_slice(&bytes).unwrap();
    let receipt = controller.reports.record(BTreeSet::from([prod()]), report, at(0)).await.unwrap();
    receipt.heard.get(&prod()).cloned()
}

/// Events on the agent, and the delivery of its reports.
#[derive(Clone, Debug)]
enum Happening {
    /// An event with one of a few texts, so that some repeat the previous one.
    Event(u8),
    Status(u8),
    /// Makes a report; whether it arrives at once, and whether its receipt comes back.
    Report {
        arrives: bool,
        is_acknowledged: bool,
    },
    /// One of the reports so far arrives, again or late.
    Again(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..3_u8).prop_map(Happening::Event),
        (0..4_u8).prop_map(Happening::Status),
        (any::<bool>(), any::<bool>())
            .prop_map(|(arrives, is_acknowledged)| Happening::Report { arrives, is_acknowledged }),
        (0..8_usize).prop_map(Happening::Again),
    ]
}

/// Actions of users on the controller, and the delivery of assignments.
#[derive(Clone, Debug)]
enum Move {
    Set(u64),
    Hold,
    Resume,
    /// Makes an assignment; whether it arrives at once.
    Assign(bool),
    /// One of the assignments so far arrives, again or late.
    Again(usize),
}

fn a_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        (1..5_u64).prop_map(Move::Set),
        Just(Move::Hold),
        Just(Move::Resume),
        any::<bool>().prop_map(Move::Assign),
        (0..8_usize).prop_map(Move::Again),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_controller_catches_up_despite_lost_repeated_or_late_reports(
        happenings in proptest::collection::vec(happening(), 1..30),
    ) {
        let runtime = runtime();
        let (controller, agent) = (home(), home());
        runtime.block_on(async {
            let (mut cursor, mut sent) = (ReportCursor::default(), Vec::new());
            agent.handles.status_writer.report(&status(0, Reason::Unknown), &Default::default()).await.unwrap();
            for happening in happenings {
                match happening {
                    Happening::Event(number) => {
                        let text = format!("event {number}");
                        agent.handles.status_writer.event(&prod(), EventKind::Step, text, at(1)).await.unwrap();
                    }
                    Happening::Status(number) => {
                        let status = status(u64::from(number), Reason::Updating);
                        agent.handles.status_writer.report(&status, &Default::default()).await.unwrap();
                    }
                    Happening::Report { arrives, is_acknowledged } => {
                        let report = report(&agent.handles, &cursor, sent.len() as u64 + 1);
                        if arrives {
                            let receipt = deliver(&controller.handles, report.clone()).await;
                            cursor = receipt.filter(|_| is_acknowledged).unwrap_or(cursor);
                        }
                        sent.push(report);
                    }
                    Happening::Again(which) => {
                        if let Some(report) = sent.get(which) {
                            deliver(&controller.handles, report.clone()).await;
                        }
                    }
                }
            }
            deliver(&controller.handles, report(&agent.handles, &cursor, sent.len() as u64 + 1)).await;
            // Then the late ones.
            for report in sent {
                deliver(&controller.handles, report).await;
            }
        });
        let reported_events = |handles: &Handles| {
            let events = handles.status.events(Some(&prod()), None, usize::MAX).unwrap();
            events.into_iter().map(|event| (event.message, event.count)).collect::<Vec<_>>()
        };
        prop_assert_eq!(reported_events(&controller.handles), reported_events(&agent.handles));
        prop_assert_eq!(
            controller.handles.status.status(&prod()).unwrap(),
            agent.handles.status.status(&prod()).unwrap()
        );
    }

    #[test]
    fn lost_repeated_or_late_assignments_never_move_a_replica_back(
        moves in proptest::collection::vec(a_move(), 1..30),
    ) {
        let runtime = runtime();
        let (controller, agent) = (home(), home());
        let taken = |assignment: Assignment| {
            let before = agent.handles.desired.get(&prod()).unwrap().entry.generation;
            runtime.block_on(agent.handles.replica.accept(assignment, BTreeSet::new())).unwrap();
            let after = agent.handles.desired.get(&prod()).unwrap().entry.generation;
            assert!(after >= before, "the copy went from {before} to {after}");
        };
        let mut sent = Vec::new();
        for one in moves {
            let writer = &controller.handles.writer;
            match one {
                Move::Set(number) => drop(runtime.block_on(writer.submit(&prod(), set(number), &[])).unwrap()),
                Move::Hold => {
                    let current = controller.handles.desired.get(&prod()).unwrap().entry.generation.0;
                    let held = (current > 1).then(|| current - 1);
                    drop(runtime.block_on(writer.hold(&prod(), hold(held))).unwrap());
                }
                Move::Resume => drop(runtime.block_on(writer.resume(&prod(), at(1), None)).unwrap()),
                Move::Assign(arrives) => {
                    let assignment = assignment(&controller.handles);
                    sent.push(assignment.clone());
                    if arrives {
                        taken(assignment);
                    }
                }
                Move::Again(which) => {
                    if let Some(assignment) = sent.get(which) {
                        taken(assignment.clone());
                    }
                }
            }
        }
        taken(assignment(&controller.handles));
        let (here, there) =
            (agent.handles.desired.get(&prod()).unwrap(), controller.handles.desired.get(&prod()).unwrap());
        prop_assert_eq!(here.entry.generation, there.entry.generation);
        prop_assert_eq!(&here.hold, &there.hold);
        let content = |image: &Option<Image>| image.as_ref().and_then(|image| image.digest.clone());
        prop_assert_eq!(content(&here.entry.image), content(&there.entry.image));
        if let Some(held) = there.hold.and_then(|hold| hold.generation) {
            prop_assert!(agent.handles.desired.entry(&prod(), held).unwrap().is_some(), "what is held is known");
        }
    }
}
