//! Whole command lines against an API that records its requests.

mod fake;

use std::path::Path;

use clap::Parser as _;
use serde_json::{Value, json};

use super::args::Cli;
use super::entry::{CheckSummary, Entrypoints};
use super::exit::CliExit;
use super::output::console::{Console, testing};
use super::session::CliSession;
use crate::model::container::Secret;
use crate::model::desired::{Image, Origin, Outcome};
use crate::model::event::{Event, EventKind};
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, HistoryView};
use fake::Daemon;

/// 2026-11-23 14:00 UTC.
pub(super) const NOW: Timestamp = Timestamp::from_millis(1_795_442_400_000);
/// Three minutes earlier.
const EARLIER: Timestamp = Timestamp::from_millis(1_795_442_220_000);

pub(super) fn digest() -> Digest {
    Digest::new(format!("sha256:{}", "ab12".repeat(16))).unwrap()
}

fn commit() -> CommitId {
    CommitId::new("5f0c".repeat(10)).unwrap()
}

pub(super) fn image() -> Image {
    Image { reference: Some("shop/web".into()), digest: None, id: Some(digest()) }
}

/// An environment at generation 4, checked three minutes ago.
pub(super) fn view(name: &str, status: Condition, reason: Reason) -> EnvironmentView {
    EnvironmentView {
        environment: EnvironmentName::new(name).unwrap(),
        group: None,
        needs: Default::default(),
        container: Some(format!("{name}-server")),
        port: Some(8900),
        host: None,
        last_seen: None,
        generation: Generation(4),
        observed_generation: Some(Generation(4)),
        status,
        reason,
        message: "generation 4 runs".into(),
        since: Some(EARLIER),
        origin: Some(Origin::Push),
        revision: Some(commit()),
        image: Some(image()),
        running: None,
        held: None,
        maintenance: None,
        next_retry: None,
        sync: None,
        observed_sync: None,
        certificate_expires: None,
        volumes: Vec::new(),
        nodes: Vec::new(),
        forgetting: Vec::new(),
        warnings: Vec::new(),
        build: None,
        canary: None,
        waiting: None,
    }
}

pub(super) fn ready(name: &str) -> EnvironmentView {
    view(name, Condition::Ready, Reason::AsRecorded)
}

pub(super) fn generation(number: u64, origin: &str) -> HistoryView {
    HistoryView {
        generation: Generation(number),
        image: Some(image()),
        revision: Some(commit()),
        origin: serde_json::from_value(json!(origin)).unwrap(),
        by: Some("alice".into()),
        note: Some("from test generation 4".into()),
        at: EARLIER,
        outcome: Some(Outcome::Ready),
    }
}

pub(super) fn event(sequence: u64, kind: EventKind, message: &str) -> Event {
    let environment = EnvironmentName::new("dev").unwrap();
    Event { sequence, environment, at: EARLIER, kind, message: message.into(), count: 1 }
}

fn offline(folder: &Path) -> anyhow::Result<axum::Router> {
    anyhow::ensure!(!folder.ends_with("locked"), "the record is in use by another abide process");
    Ok(fake::Api::of([ready("dev"), ready("prod")]).router())
}

fn entry() -> Entrypoints {
    Entrypoints {
        doctor: |_| Box::pin(std::future::ready(Vec::new())),
        compose_containers: || Box::pin(std::future::ready(Ok(Vec::new()))),
        set_aside: |_| Box::pin(std::future::ready(Err("no engine".to_owned()))),
        put_back: |_, _| Box::pin(std::future::ready(Err("no engine".to_owned()))),
        telemetry: |_| {},
        offline_router: offline,
        offline_reading_router: offline,
        daemon: |_, options| {
            Box::pin(
                async move { Err(anyhow::anyhow!("{} is taken", options.listen).context("cannot listen")) },
            )
        },
        demo: |_| Box::pin(async { Ok(()) }),
        agent: |_, _| Box::pin(async { Ok(()) }),
        check: |folder| {
            if folder.ends_with("bad") {
                return Err(vec!["a.toml:3: unknown key `prot`; did you mean `port`?".into()]);
            }
            Ok(CheckSummary { environments: vec!["dev".into(), "prod".into()], repositories: vec![] })
        },
    }
}

/// The result of a command line.
struct Outcomes {
    exit: CliExit,
    data: String,
    talk: String,
}

impl Outcomes {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }
}

fn typed(line: &str, answers: Option<&'static str>) -> Outcomes {
    let words: Vec<&str> = std::iter::once("abide").chain(line.split_whitespace()).collect();
    let cli = Cli::try_parse_from(words).unwrap();
    let (console, data, talk) = testing::console(cli.globals.output, answers);
    let exit = run_with(&cli, console);
    Outcomes { exit, data: data.text(), talk: talk.text() }
}

fn run_with(cli: &Cli, console: Console) -> CliExit {
    let token = Some(Secret::new("s3cret"));
    super::run(&cli.verb, &mut CliSession::new(&cli.globals, token, entry(), console))
}

fn in_folder(folder: &tempfile::TempDir, line: &str) -> Outcomes {
    typed(&format!("{line} --desired-state {}", folder.path().display()), None)
}

#[test]
fn without_a_daemon_the_record_is_read_with_a_notice() {
    let folder = tempfile::tempdir().unwrap();
    let output = in_folder(&folder, "status");
    assert_eq!(output.exit, CliExit::Done);
    assert_eq!(output.talk, "no daemon is running; using the record directly\n");
    assert!(output.data.starts_with("ENVIRONMENT  STATUS"), "{}", output.data);
}

#[test]
fn a_stale_socket_is_treated_as_no_daemon() {
    let folder = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("abide.sock")).unwrap());
    let output = in_folder(&folder, "status dev");
    assert_eq!(output.exit, CliExit::Done);
    assert!(output.talk.contains("no daemon is running"), "{}", output.talk);
}

#[test]
fn a_record_that_cannot_be_opened_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let output = typed(&format!("status --desired-state {}/locked", folder.path().display()), None);
    assert_eq!(output.exit, CliExit::No);
    assert!(
        output.talk.contains("caused by: the record is in use by another abide process"),
        "{}",
        output.talk
    );
}

#[test]
fn commands_that_need_the_daemon_explain_how_to_start_it() {
    let folder = tempfile::tempdir().unwrap();
    for line in ["sync", "wait dev", "diff", "logs dev", "why dev", "events -f", "status --watch"] {
        let output = in_folder(&folder, line);
        assert_eq!(output.exit, CliExit::Unreachable, "{line}");
        assert!(output.talk.contains("abide daemon") && output.data.is_empty(), "{line}: {}", output.talk);
    }
}

#[test]
fn an_unreachable_server_is_reported_without_falling_back_to_the_record() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let output = typed(&format!("status --server http://127.0.0.1:{port}"), None);
    assert_eq!((output.exit, output.data.as_str()), (CliExit::Unreachable, ""));
    assert!(output.talk.starts_with("error: cannot reach the daemon"), "{}", output.talk);
    assert!(output.talk.contains("\ncaused by: "), "{}", output.talk);
}

#[test]
fn an_unusable_server_address_is_a_usage_error() {
    let output = typed("status --server ftp://abide.example", None);
    assert_eq!(output.exit, CliExit::Usage);
    assert!(output.talk.contains("must begin with `https://`"), "{}", output.talk);
}

#[test]
fn a_token_is_not_sent_unencrypted_to_another_host() {
    // An address reserved for documentation: the command must not even try to connect.
    let output = typed("status --server http://192.0.2.1:8080", None);
    assert_eq!(output.exit, CliExit::Usage);
    assert!(output.talk.contains("refusing to send the token to http://192.0.2.1:8080"), "{}", output.talk);
    assert!(!output.talk.contains("s3cret"), "{}", output.talk);
}

#[test]
fn a_rejected_token_is_reported_as_unknown_expired_or_revoked() {
    let daemon = Daemon::with([]);
    let refusal = json!({ "error": "unauthorized", "message": "show a token" });
    daemon.answer("GET /api/v1/environments", 401, &refusal);
    let output = daemon.typed("status", None);
    assert_eq!(output.exit, CliExit::No);
    assert!(output.talk.contains("rejected the token: unknown, expired or revoked"), "{}", output.talk);
}

#[test]
fn a_token_is_created_printed_by_itself_and_revoked() {
    let daemon = Daemon::with([]);
    let text = "abide_0123456789ab_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let about = json!({
        "id": "0123456789ab", "name": "ci", "role": "deployer", "environments": ["dev", "test"],
        "created": {"at": NOW, "by": "alice"}, "expires": null, "used": null, "revoked": null,
    });
    let mut issued = about.clone();
    issued["token"] = json!(text);
    daemon.answer("POST /api/v1/tokens", 200, &issued);
    daemon.answer("GET /api/v1/tokens", 200, &json!([about]));
    daemon.answer("DELETE /api/v1/tokens/0123456789ab", 200, &about);
    let made = daemon.typed("token create --role deployer --environment dev,test --expires 90d ci", None);
    assert_eq!(made.data, format!("{text}\n"), "{}", made.talk);
    assert!(
        made.talk.contains("token ci (0123456789ab): deployer of dev, test; valid until revoked"),
        "{}",
        made.talk
    );
    assert!(!made.talk.contains(text), "{}", made.talk);
    let body = json!({
        "name": "ci", "role": "deployer", "agent": null, "environments": ["dev", "test"], "expires": "90d",
    });
    let sent = daemon.asked().remove(0);
    let (head, sent) = sent.split_at(sent.find('{').unwrap());
    assert_eq!(head, "POST /api/v1/tokens [Bearer s3cret] ");
    assert_eq!(serde_json::from_str::<Value>(sent).unwrap(), body);
    assert!(daemon.typed("token list", None).data.contains("deployer of dev, test"));
    assert_eq!(daemon.typed("token list -o json", None).json(), json!([about]));
    let revoked = daemon.typed(&format!("token revoke {text}"), None);
    assert_eq!(revoked.data, "token ci (0123456789ab) is revoked\n", "{}", revoked.talk);
}

#[test]
fn json_is_an_array_for_one_environment_too() {
    let daemon = Daemon::with([ready("dev"), ready("prod")]);
    let one = daemon.typed("status dev -o json", None);
    assert_eq!(one.json().as_array().map(Vec::len), Some(1));
    assert_eq!(one.json()[0]["held"], Value::Null);
    assert_eq!(daemon.typed("status -o json", None).json().as_array().map(Vec::len), Some(2));
    assert_eq!(one.talk, "");
}

#[test]
fn an_unknown_environment_is_a_usage_error_with_the_daemons_message() {
    let daemon = Daemon::with([ready("dev")]);
    let output = daemon.typed("status dve", None);
    assert_eq!(output.exit, CliExit::Usage);
    assert_eq!(output.talk, "error: nothing at GET /api/v1/environments?environment=dve\n");
}

#[test]
fn the_token_is_sent_over_both_the_socket_and_tcp() {
    let daemon = Daemon::with([ready("dev")]);
    assert_eq!(daemon.typed("status dev", None).exit, CliExit::Done);
    let over_tcp = typed(&format!("status dev --server http://{}", daemon.listens()), None);
    assert_eq!(over_tcp.exit, CliExit::Done, "{}", over_tcp.talk);
    let asked = "GET /api/v1/environments?environment=dev [Bearer s3cret] ";
    assert_eq!(daemon.asked(), [asked, asked]);
}

#[test]
fn warnings_go_to_stderr_not_to_stdout() {
    let daemon = Daemon::with([ready("dev")]);
    daemon.answer("GET /api/v1/environments", 200, &json!({
        "environments": [ready("dev")], "warnings": ["the manifest edit is not taken\u{7}"], "daemon": true,
    }));
    let output = daemon.typed("status", None);
    assert_eq!(output.talk, "warning: the manifest edit is not taken\u{fffd}\n");
    assert!(!output.data.contains("edit"));
}

fn moved(environment: &str) -> Value {
    json!({ "environment": environment, "generation": 5, "changed": true, "message": "moved" })
}

fn promotable() -> Daemon {
    let daemon = Daemon::with([ready("test"), ready("prod")]);
    daemon.answer("POST /api/v1/environments/prod/promote", 200, &moved("prod"));
    daemon
}

fn posted(daemon: &Daemon) -> Vec<String> {
    daemon.asked().into_iter().filter(|asked| asked.starts_with("POST")).collect()
}

#[test]
fn promote_without_a_terminal_requires_yes() {
    let daemon = promotable();
    let output = daemon.typed("promote test prod", None);
    assert_eq!(output.exit, CliExit::Usage);
    assert!(output.talk.contains("--yes"), "{}", output.talk);
    assert_eq!(posted(&daemon), Vec::<String>::new());
}

#[test]
fn a_declined_promotion_sends_nothing() {
    let daemon = promotable();
    for answer in ["n\n", "\n", "", "yikes\n"] {
        assert_eq!(daemon.typed("promote test prod", Some(answer)).exit, CliExit::No, "{answer:?}");
    }
    assert_eq!(posted(&daemon), Vec::<String>::new());
}

#[test]
fn a_promotion_sends_the_digest_that_was_shown() {
    let daemon = promotable();
    let output = daemon.typed("promote test prod", Some("y\n"));
    assert_eq!((output.exit, output.data.as_str()), (CliExit::Done, "prod generation 5: moved\n"));
    assert!(output.talk.contains("Promote ab12ab12ab12 from test to prod? [y/N]"), "{}", output.talk);
    let body = json!({ "from": "test", "seen": digest() });
    let expected = format!("POST /api/v1/environments/prod/promote [Bearer s3cret] {body}");
    let sent: Vec<String> = posted(&daemon);
    let (head, sent_body) = sent[0].split_at(expected.find('{').unwrap());
    assert!(expected.starts_with(head), "{head}");
    assert_eq!(serde_json::from_str::<Value>(sent_body).unwrap(), body);
}

#[test]
fn a_rejected_promotion_exits_with_1() {
    let daemon = promotable();
    let refusal = json!({ "error": "conflict", "message": "test runs another image" });
    daemon.answer("POST /api/v1/environments/prod/promote", 409, &refusal);
    let output = daemon.typed("promote test prod --yes", None);
    assert_eq!(output.exit, CliExit::No);
    assert!(output.talk.ends_with("error: test runs another image\n"), "{}", output.talk);
}

#[test]
fn promote_can_wait_until_the_rollout_ends() {
    let daemon = promotable();
    let output = daemon.typed("promote test prod --yes --wait", None);
    assert_eq!(output.exit, CliExit::Done);
    assert!(output.talk.contains("\nprod generation 4: Ready"), "{}", output.talk);
    let mut failed = view("prod", Condition::RolledBack, Reason::RolledBack);
    failed.generation = Generation(6);
    failed.observed_generation = Some(Generation(6));
    daemon.show(&failed);
    let output = daemon.typed("promote test prod --yes --wait", None);
    assert_eq!(output.exit, CliExit::No);
    assert!(output.talk.contains("error: prod generation 6: RolledBack"), "{}", output.talk);
}

#[test]
fn commands_that_change_the_record_send_their_arguments() {
    let daemon = Daemon::with([ready("dev")]);
    for verb in ["set", "rollback", "hold", "resume", "maintenance", "canary", "sync"] {
        daemon.answer(&format!("POST /api/v1/environments/dev/{verb}"), 200, &moved("dev"));
    }
    let commit = "5f0c".repeat(10);
    for line in [
        &format!("set dev --commit {commit} --reason why") as &str,
        &format!("set dev {}", digest()),
        "rollback dev",
        "rollback dev --to 2",
        "hold dev --reason audit",
        "resume dev",
        "maintenance dev on --reason disk --seen 5",
        "maintenance dev off",
        "canary dev promote",
        "canary dev abort --reason slow --seen 5",
        "sync dev",
    ] {
        assert_eq!(daemon.typed(line, None).data, "dev generation 5: moved\n", "{line}");
    }
    let bodies: Vec<Value> = posted(&daemon)
        .iter()
        .map(|asked| serde_json::from_str(&asked[asked.find("] ").unwrap() + 2..]).unwrap())
        .collect();
    let expected = [
        json!({ "commit": commit, "reason": "why" }),
        json!({ "image": digest() }),
        json!({}),
        json!({ "to": 2 }),
        json!({ "reason": "audit" }),
        json!({}),
        json!({ "on": true, "reason": "disk", "seen": 5 }),
        json!({ "on": false }),
        json!({ "decision": "promote" }),
        json!({ "decision": "abort", "reason": "slow", "seen": 5 }),
        json!({}),
    ];
    assert_eq!(bodies, expected);
}

#[test]
fn sync_without_arguments_syncs_all_environments() {
    let daemon = Daemon::with([ready("dev"), ready("prod")]);
    daemon.answer("POST /api/v1/sync", 200, &json!([moved("dev"), moved("prod")]));
    let output = daemon.typed("sync --wait", None);
    assert_eq!((output.exit, output.data.lines().count()), (CliExit::Done, 2), "{}", output.talk);
    daemon.show(&view("prod", Condition::Blocked, Reason::NameConflict));
    let output = daemon.typed("sync --wait -o json", None);
    assert_eq!((output.exit, output.json()[1]["environment"].clone()), (CliExit::No, json!("prod")));
    assert!(output.talk.contains("prod generation 4: Blocked (NameConflict)"), "{}", output.talk);
}

#[test]
fn wait_ends_on_an_event_from_the_watch_stream() {
    let daemon = Daemon::with([view("dev", Condition::Progressing, Reason::Building)]);
    daemon.once_watched(&ready("dev"));
    let output = daemon.typed("wait dev --timeout 30s", None);
    assert_eq!(output.exit, CliExit::Done, "{}", output.talk);
    assert_eq!(output.talk, "dev generation 4: Progressing (Building): generation 4 runs\n");
    assert_eq!(output.data, "dev generation 4: Ready (AsRecorded): generation 4 runs\n");
}

#[test]
fn wait_polls_if_the_watch_stream_is_unavailable() {
    let daemon = Daemon::with([view("dev", Condition::Progressing, Reason::Building)]);
    daemon.once_asked("GET /api/v1/watch", &ready("dev"));
    assert_eq!(daemon.typed("wait dev --timeout 30s -o json", None).json()["status"], "Ready");
}

#[test]
fn wait_times_out_and_reports_the_last_status() {
    let daemon = Daemon::with([view("dev", Condition::Progressing, Reason::Pulling)]);
    let output = daemon.typed("wait dev --timeout 50ms", None);
    assert_eq!(output.exit, CliExit::No);
    assert!(
        output.talk.contains("error: timed out: dev generation 4: Progressing (Pulling)"),
        "{}",
        output.talk
    );
}

#[test]
fn logs_are_stripped_of_control_sequences_unless_raw() {
    let daemon = Daemon::with([ready("dev")]);
    let path = "GET /api/v1/environments/dev/logs?follow=true&tail=5";
    for (typed, expected) in
        [("logs dev -f --tail 5", "ared"), ("logs dev -f --tail 5 --raw", "a\u{1b}[31mred\u{7}")]
    {
        daemon.answer_text(path, "a\u{1b}[31mred\u{7}");
        let cli = Cli::try_parse_from(daemon.words(typed)).unwrap();
        let (console, data, _) = testing::console(cli.globals.output, None);
        assert_eq!(run_with(&cli, console), CliExit::Done);
        assert_eq!(String::from_utf8(data.bytes().to_vec()).unwrap(), expected, "{typed}");
    }
}

#[test]
fn import_accepts_the_output_of_export() {
    let daemon = Daemon::with([ready("dev")]);
    daemon.answer_text("GET /api/v1/export", "{\"format\": 1}");
    daemon.answer("POST /api/v1/import", 200, &json!({ "message": "1 environment is imported" }));
    let export = daemon.typed("export", None);
    assert_eq!(export.data, "{\"format\": 1}\n");
    let file = daemon.folder().join("record.json");
    std::fs::write(&file, &export.data).unwrap();
    let import = daemon.typed(&format!("import {}", file.display()), None);
    assert_eq!(import.data, "1 environment is imported\n");
    assert_eq!(posted(&daemon), ["POST /api/v1/import [Bearer s3cret] {\"format\": 1}\n"]);
}

#[test]
fn importing_a_missing_or_non_json_file_is_a_usage_error() {
    let daemon = Daemon::with([ready("dev")]);
    let file = daemon.folder().join("record.json");
    let line = format!("import {}", file.display());
    assert_eq!(daemon.typed(&line, None).exit, CliExit::Usage);
    std::fs::write(&file, "format: 1").unwrap();
    assert_eq!(daemon.typed(&line, None).exit, CliExit::Usage);
    assert_eq!(posted(&daemon), Vec::<String>::new());
}

#[test]
fn diff_exits_with_1_if_there_is_a_difference() {
    let daemon = Daemon::with([ready("dev")]);
    let plan =
        |steps: &[&str]| json!({ "environment": "dev", "differences": [], "steps": steps, "message": "" });
    daemon.answer("GET /api/v1/environments/dev/plan", 200, &plan(&[]));
    let same = daemon.typed("diff", None);
    assert_eq!((same.exit, same.data.as_str()), (CliExit::Done, "dev  nothing to do\n"));
    daemon.answer("GET /api/v1/environments/dev/plan", 200, &plan(&["start dev-server"]));
    let other = daemon.typed("diff dev -o json", None);
    assert_eq!((other.exit, other.json()[0]["steps"][0].clone()), (CliExit::No, json!("start dev-server")));
}

#[test]
fn followed_events_are_each_printed_once() {
    let daemon = Daemon::with([ready("dev")]);
    let (first, second) = (event(7, EventKind::Step, "one"), event(9, EventKind::Step, "two"));
    daemon.answer("GET /api/v1/events?limit=50", 200, &json!([first]));
    daemon.answer("GET /api/v1/events?limit=1000&after=7", 200, &json!([second]));
    // The daemon fails after the second event, which ends a command that otherwise runs for ever.
    let output = daemon.typed("events -f -o json", None);
    let sequences: Vec<Value> = output
        .data
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["sequence"].clone())
        .collect();
    assert_eq!(sequences, [json!(7), json!(9)]);
    assert_eq!(output.exit, CliExit::Usage, "{}", output.talk);
}

#[test]
fn following_events_can_skip_past_events() {
    let daemon = Daemon::with([ready("dev")]);
    daemon.answer("GET /api/v1/events?limit=1", 200, &json!([event(7, EventKind::Step, "one")]));
    let new_events = json!([event(9, EventKind::Step, "two")]);
    daemon.answer("GET /api/v1/events?limit=1000&after=7", 200, &new_events);
    let output = daemon.typed("events -f --limit 0", None);
    assert!(
        output.data.ends_with(" dev step       two\n") && output.data.lines().count() == 1,
        "{}",
        output.data
    );
}

#[test]
fn a_command_exits_successfully_when_its_output_pipe_closes() {
    let daemon = Daemon::with([ready("dev")]);
    for line in ["status", "status dev -o json", "status --watch", "completions bash"] {
        let cli = Cli::try_parse_from(daemon.words(line)).unwrap();
        assert_eq!(run_with(&cli, testing::closed(cli.globals.output)), CliExit::Done, "{line}");
    }
}

#[test]
fn check_reports_a_valid_manifest_or_every_problem() {
    let good = typed("check --desired-state good", None);
    assert_eq!(good.data, "the manifest is valid: 2 environments (dev, prod), 0 repositories\n");
    let bad = typed("check --desired-state bad", None);
    assert_eq!(bad.exit, CliExit::No);
    assert_eq!(bad.data, "a.toml:3: unknown key `prot`; did you mean `port`?\n");
    assert_eq!(bad.talk, "error: invalid manifest: 1 problem\n");
    let json = typed("check --desired-state bad -o json", None).json();
    assert_eq!(json["problems"].as_array().map(Vec::len), Some(1));
}

#[test]
fn services_receive_their_options_and_their_errors_are_printed() {
    let output = typed("daemon --listen 127.0.0.1:9", None);
    assert_eq!(output.exit, CliExit::No);
    assert_eq!(output.talk, "error: cannot listen\ncaused by: 127.0.0.1:9 is taken\n");
    assert_eq!(typed("demo --port-offset 100", None).exit, CliExit::Done);
}

#[test]
fn completions_include_the_commands() {
    let script = typed("completions bash", None).data;
    for verb in ["status", "promote", "completions"] {
        assert!(script.contains(verb), "{verb} is missing");
    }
}
