//! The exact output of `abide status`.

use super::*;
use crate::cli::output::console::{Format, testing};
use crate::cli::tests::{NOW, digest, ready, view};
use crate::model::desired::Hold;
use crate::model::name::Generation;
use crate::model::status::{Condition, Reason, RunningContainer};
use crate::model::workload::{NodeState, NodeView};

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

fn nothing_known(name: &str) -> EnvironmentView {
    let mut view = view(name, Condition::Progressing, Reason::Unknown);
    view.message = "not reconciled yet".into();
    view.generation = Generation(0);
    view.observed_generation = None;
    (view.container, view.port, view.since, view.revision, view.image) = (None, None, None, None, None);
    view.origin = None;
    view
}

#[test]
fn the_table_shows_a_line_for_each_environment() {
    let text = plain(&table(&[ready("dev"), nothing_known("production")], NOW, None));
    let expected = "\
ENVIRONMENT  STATUS       GEN  REVISION      IMAGE         CONTAINER   PORT  SINCE   MESSAGE
dev          Ready        4    5f0c5f0c5f0c  ab12ab12ab12  dev-server  8900  3m ago  generation 4 runs
production   Progressing  0    -             -             -           -     -       not reconciled yet
";
    assert_eq!(text, expected);
}

#[test]
fn a_multiline_message_is_fitted_to_the_terminal() {
    let mut view = view("dev", Condition::Degraded, Reason::NeverReady);
    view.message = "it never answered:\nError: listen EADDRINUSE: address already in use :::8900".into();
    let wide = plain(&table(std::slice::from_ref(&view), NOW, Some(140)));
    assert_eq!(wide.lines().count(), 2, "{wide}");
    assert!(wide.lines().all(|line| line.chars().count() <= 140), "{wide}");
    assert!(wide.trim_end().ends_with('…'), "{wide}");
    let narrow = plain(&table(&[view], NOW, Some(80)));
    assert!(narrow.lines().all(|line| line.chars().count() <= 110), "{narrow}");
    assert!(
        narrow.ends_with("  it never answered: Error: listen EADDRINUSE: address already in use :::8900\n"),
        "{narrow}"
    );
}

#[test]
fn the_detail_shows_all_that_is_known() {
    let mut view = view("prod", Condition::Held, Reason::HeldByPerson);
    view.observed_generation = Some(Generation(3));
    view.message = "held: the migration runs\nuntil noon".into();
    let (id, image_id) = ("3f2a".repeat(16), Some(digest()));
    view.running = Some(RunningContainer { container_id: id, image_id, started_at: view.since, restarts: 2 });
    view.held = Some(Hold {
        reason: "the migration runs".into(),
        by: "alice".into(),
        since: NOW,
        generation: Some(Generation(3)),
    });
    view.next_retry = Some(NOW.after(std::time::Duration::from_secs(27)));
    view.nodes = vec![NodeView { name: "n1".to_owned(), state: NodeState::Down, replicas: 0 }];
    let expected = format!(
        "\
prod  Held (HeldByPerson), since 3m ago
  held: the migration runs
  until noon

  generation  4 (status of generation 3)
  origin      push
  revision    {}
  image       shop/web
  image id    {}
  container   prod-server
  running     3f2a3f2a3f2a, started 3m ago, restarted 2 times
  port        8900
  host        this host
  held        by alice now, at generation 3: the migration runs
  next retry  in 27s
  node        n1: down, no replica
",
        "5f0c".repeat(10),
        digest()
    );
    assert_eq!(plain(&detail(&view, NOW)), expected);
}

#[test]
fn the_detail_of_an_unknown_state_is_short() {
    let expected = "\
dev  Progressing (Unknown)
  not reconciled yet

  generation  0 (not reconciled yet)
  running     nothing
  host        this host
";
    assert_eq!(plain(&detail(&nothing_known("dev"), NOW)), expected);
}

#[test]
fn a_running_image_that_differs_from_the_record_is_shown() {
    let mut view = ready("dev");
    let image_id = Some(Digest::new(format!("sha256:{}", "0f".repeat(32))).unwrap());
    let running = RunningContainer { container_id: "c1".into(), image_id, started_at: None, restarts: 1 };
    view.running = Some(running);
    let text = plain(&detail(&view, NOW));
    assert!(text.contains("  running     c1, with image 0f0f0f0f0f0f, restarted once\n"), "{text}");
}

#[test]
fn a_watch_prints_only_changed_environments() {
    let (mut console, data, _) = testing::console(Format::Table, None);
    let mut seen = watch::PrintedStates::default();
    seen.print_changes(&mut console, vec![ready("dev"), ready("prod")], NOW).unwrap();
    let failed = view("prod", Condition::Degraded, Reason::CrashLoop);
    seen.print_changes(&mut console, vec![ready("dev"), failed], NOW).unwrap();
    let expected = "\
2026-11-23T14:00:00.000Z dev generation 4: Ready (AsRecorded): generation 4 runs
2026-11-23T14:00:00.000Z prod generation 4: Ready (AsRecorded): generation 4 runs
2026-11-23T14:00:00.000Z prod generation 4: Degraded (CrashLoop): generation 4 runs
";
    assert_eq!(data.text(), expected);
}

#[test]
fn a_table_counts_undeclared_volumes_and_shows_other_warnings() {
    let volume = |path: &str| format!("{UNDECLARED_VOLUME}{path}, but the manifest declares no volume there");
    let with = |name: &str, warnings: Vec<String>| EnvironmentView { warnings, ..ready(name) };
    let mut overview = Overview {
        environments: vec![with("dev", vec![volume("/a"), "a pointer file".into(), volume("/b")])],
        warnings: vec!["the engine is slow".into()],
        daemon: true,
        groups: Vec::new(),
    };
    assert_eq!(
        warnings(&overview, false),
        [
            "the engine is slow",
            "dev: a pointer file",
            "dev: the image has 2 VOLUMEs that the manifest does not declare: `abide status dev` shows details",
        ]
    );
    assert_eq!(warnings(&overview, true).len(), 4);
    overview.environments.extend((1..200).map(|number| with(&format!("e{number}"), vec![volume("/a")])));
    assert_eq!(
        warnings(&overview, false)[2..],
        [
            "the images of 200 environments have 201 VOLUMEs that the manifest does not declare: `abide status dev` \
          shows those of `dev`"
        ]
    );
    overview.environments.truncate(0);
    assert_eq!(warnings(&overview, false), ["the engine is slow"]);
}
