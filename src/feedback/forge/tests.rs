//! The forges against a fake that follows their documents, with the daemon killed between any two steps.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::feedback::lane::Then;
use crate::model::forge::ForgeToken;
use crate::model::name::{CommitId, Generation};
use crate::model::outbox::DeliveryAttempts;
use crate::model::spec::SecretRef;

/// Method, path with query, headers of interest, body.
type Received = (Method, String, Vec<(String, String)>, Value);
/// Status, headers, body, and whether the write is stored all the same.
type Planned = (u16, Vec<(&'static str, String)>, String, bool);

/// What a fake forge stores, and what it does with the next write.
#[derive(Default)]
struct Fake {
    /// Each request: method, path with query, headers of interest, body.
    requests: Vec<Received>,
    /// (context or key, state, description), oldest first.
    statuses: Vec<(String, String, String)>,
    deployments: Vec<Value>,
    deployment_statuses: Vec<(u64, Value)>,
    /// The URL of GitLab's environment.
    external_url: Value,
    /// An answer instead of the next write: status, headers, body; and whether the write is stored all the same.
    next: Vec<Planned>,
    /// An old version: GitLab that refuses a repeated `running`, or Bitbucket Data Center without today's path.
    is_old: bool,
}

impl Fake {
    fn answer(
        &mut self,
        method: &Method,
        path: &str,
        body: Value,
    ) -> (u16, Vec<(&'static str, String)>, String) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let is_write = *method != Method::GET;
        let instead = if is_write { self.next.pop() } else { None };
        if let Some((status, headers, text, is_stored)) = instead {
            if is_stored {
                self.store(method, path, &body).unwrap();
            }
            return (status, headers, text);
        }
        if self.is_old && path.ends_with("/builds") {
            return (404, Vec::new(), String::new());
        }
        if is_write {
            return match self.store(method, path, &body) {
                Ok(answer) => {
                    (if *method == Method::POST { 201 } else { 200 }, Vec::new(), answer.to_string())
                }
                Err(message) => (400, Vec::new(), json!({ "message": message }).to_string()),
            };
        }
        (200, Vec::new(), self.read(path, query).to_string())
    }

    fn read(&self, path: &str, query: &str) -> Value {
        if path.ends_with("/deployments") {
            return self.deployments.iter().rev().cloned().collect();
        }
        if let Some((_, rest)) = path.split_once("/deployments/") {
            let (id, is_of_github) = rest.split_once('/').map_or((rest, false), |(id, _)| (id, true));
            let id: u64 = id.parse().unwrap();
            let row = |(number, (_, body)): (usize, &(u64, Value))| {
                let mut row = body.clone();
                row["id"] = number.into();
                row
            };
            let statuses = self.deployment_statuses.iter().enumerate().rev().filter(|(_, (of, _))| *of == id);
            return match is_of_github {
                true => statuses.map(row).collect(),
                false => self.deployments[id as usize - 1].clone(),
            };
        }
        let key = query.strip_prefix("key=").or_else(|| Some(path.rsplit_once("/build/")?.1));
        if let Some(key) = key {
            let found = self.statuses.iter().rev().find(|(known, ..)| known == key);
            return found.map_or_else(
                || json!({}),
                |(key, state, description)| json!({ "key": key, "state": state, "description": description }),
            );
        }
        let status = |(id, (context, state, description)): (usize, &(String, String, String))| {
            json!({
                "id": id, "context": context, "name": context, "state": state, "status": state,
                "description": description,
            })
        };
        self.statuses.iter().enumerate().map(status).rev().collect()
    }

    fn store(&mut self, method: &Method, path: &str, body: &Value) -> Result<Value, String> {
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        if path.ends_with("/environments/9") {
            self.external_url = body["external_url"].clone();
            for deployment in &mut self.deployments {
                deployment["environment"]["external_url"] = self.external_url.clone();
            }
            return Ok(json!({}));
        }
        if path.contains("/deployments") {
            let parts: Vec<&str> = path.rsplit('/').collect();
            return match (method.as_str(), &parts[..]) {
                ("POST", ["deployments", ..]) => {
                    let id = self.deployments.len() as u64 + 1;
                    let mut deployment = body.clone();
                    deployment["id"] = id.into();
                    let name = body["environment"].clone();
                    deployment["environment"] = match path.starts_with("/projects/") {
                        true => json!({ "id": 9, "name": name, "external_url": self.external_url }),
                        false => name,
                    };
                    self.deployments.push(deployment.clone());
                    Ok(deployment)
                }
                ("POST", ["statuses", id, ..]) | ("PUT", [id, ..]) => {
                    let id: u64 = id.parse().map_err(|_| "no id".to_owned())?;
                    let known = self.deployments.get_mut(id as usize - 1).ok_or("no deployment")?;
                    // GitLab begins no deployment again, and ends none twice in the same way.
                    if method == Method::PUT
                        && (known["status"] == body["status"] || text("status") == "running")
                    {
                        return Err("status: cannot transition".to_owned());
                    }
                    known["status"] = body["status"].clone();
                    self.deployment_statuses.push((id, body.clone()));
                    Ok(json!({}))
                }
                other => Err(format!("unexpected {other:?}")),
            };
        }
        let context = [text("context"), text("name"), text("key")];
        let is_gitlab = path.contains("/projects/") && !path.contains("/rest/");
        let context = if path.contains("/build") || path.contains("/build-status/") {
            context[2].clone()
        } else if is_gitlab {
            context[1].clone()
        } else {
            context[0].clone()
        };
        let (state, description) = (text("state"), text("description"));
        let before = self
            .statuses
            .iter()
            .rev()
            .find(|(known, ..)| *known == context)
            .map(|(_, state, _)| state.as_str());
        if description.chars().count() > 255 {
            return Err("description is too long".to_owned());
        }
        // GitLab changes a row that has not ended, by its own rules, and otherwise adds one.
        if let (true, Some(before @ ("pending" | "running"))) = (is_gitlab, before) {
            let event = match state.as_str() {
                "pending" => Some("enqueue"),
                "running" if self.is_old && before == "running" => Some("run"),
                _ => None,
            };
            if let Some(event) = event {
                return Err(format!(
                    "Cannot transition status via :{event} from :{before} (Reason(s): Status cannot transition \
                     via \"{event}\")"
                ));
            }
            let row = self.statuses.iter_mut().rev().find(|(known, ..)| *known == context);
            *row.ok_or("no row")? = (context, state, description);
            return Ok(json!({ "id": 1 }));
        }
        self.statuses.push((context, state, description));
        Ok(json!({ "id": 1 }))
    }
}

struct Server {
    fake: Arc<Mutex<Fake>>,
    forge: Arc<dyn Deliver>,
}

async fn server(kind: ForgeKind) -> Server {
    let fake: Arc<Mutex<Fake>> = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shared = Arc::clone(&fake);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let fake = Arc::clone(&shared);
            let service = service_fn(move |request: Request<Incoming>| {
                let fake = Arc::clone(&fake);
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let body = serde_json::from_slice(&body).unwrap_or_default();
                    let path = head.uri.path_and_query().unwrap().to_string();
                    let headers = head.headers.iter();
                    let headers =
                        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
                    let mut fake = fake.lock().unwrap();
                    fake.requests.push((
                        head.method.clone(),
                        path.clone(),
                        headers.collect(),
                        Value::clone(&body),
                    ));
                    let (status, headers, text) = fake.answer(&head.method, &path, body);
                    let mut response = Response::builder().status(status);
                    for (name, value) in headers {
                        response = response.header(name, value);
                    }
                    Ok::<_, Infallible>(response.body(Full::new(Bytes::from(text))).unwrap())
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let dir = tempfile::tempdir().unwrap().keep();
    let token = dir.join("token");
    std::fs::write(&token, "sesame-token\n").unwrap();
    let spec = ForgeSpec {
        kind,
        api: format!("http://{address}"),
        repository: if kind == ForgeKind::Gitlab { "group/sub/app".into() } else { "team/app".into() },
        token: ForgeToken::Token(SecretRef::SecretFile(token)),
        statuses: true,
        deployments: kind.has_deployments(),
        allow_private: true,
    };
    let place = ForgeEnvironment {
        page: Some("https://ci.example.com/environments/prod".to_owned()),
        url: Some("https://www.example.com".to_owned()),
        branch: Some(BranchName::new("main").unwrap()),
    };
    let places = BTreeMap::from([(EnvironmentName::new("prod").unwrap(), place)]);
    Server { fake, forge: deliver(spec, places) }
}

fn row(phase: Phase, description: &str, has_deployment: bool) -> Projection {
    let generation = Generation(41);
    Projection {
        target: "repository.app".parse().unwrap(),
        environment: EnvironmentName::new("prod").unwrap(),
        revision: CommitId::new("a41d90be77c2a41d90be77c2a41d90be77c2a41d").unwrap(),
        generation,
        wanted: CommitState::new(phase, description),
        shown: None,
        deployment: has_deployment.then_some(Deployment { generation, id: None, shown: None }),
        attempts: DeliveryAttempts::default(),
    }
}

/// Takes steps until everything is shown, as a lane does. With `forgetful`, the result of each step is lost once,
/// as if the daemon had been killed after the request.
async fn settle(server: &Server, row: &mut Projection, forgetful: bool) {
    for step in 0..20 {
        if row.is_shown() {
            return;
        }
        let shown = server.forge.project(row).await.unwrap();
        if forgetful && step % 2 == 0 {
            continue;
        }
        match shown {
            ProjectionStep::Status(state) => row.shown = Some(state),
            ProjectionStep::Created(deployment) => row.deployment = Some(deployment),
            ProjectionStep::Deployment(state) => row.deployment.as_mut().unwrap().shown = Some(state),
        }
    }
    panic!("never shown: {row:?}");
}

#[tokio::test]
async fn each_forge_gets_states_in_its_own_terms() {
    let words = [
        (ForgeKind::Github, "abide/prod", ["pending", "pending", "success", "failure", "error", "error"]),
        (ForgeKind::Gitea, "abide/prod", ["pending", "pending", "success", "failure", "error", "error"]),
        (ForgeKind::Gitlab, "abide/prod", ["pending", "running", "success", "failed", "failed", "canceled"]),
        (
            ForgeKind::Bitbucket,
            "abide-prod",
            ["INPROGRESS", "INPROGRESS", "SUCCESSFUL", "FAILED", "FAILED", "STOPPED"],
        ),
        (
            ForgeKind::BitbucketServer,
            "abide-prod",
            ["INPROGRESS", "INPROGRESS", "SUCCESSFUL", "FAILED", "FAILED", "CANCELLED"],
        ),
    ];
    let phases =
        [Phase::Pending, Phase::Running, Phase::Success, Phase::Failure, Phase::Error, Phase::Superseded];
    for (kind, context, words) in words {
        let server = server(kind).await;
        for (phase, word) in phases.into_iter().zip(words) {
            let mut row = row(phase, &format!("because {}", phase.as_str()), false);
            settle(&server, &mut row, false).await;
            let last = server.fake.lock().unwrap().statuses.last().cloned().unwrap();
            assert_eq!(
                last,
                (context.to_owned(), word.to_owned(), format!("because {}", phase.as_str())),
                "{kind:?}"
            );
        }
    }
}

#[tokio::test]
async fn forge_requests_use_the_documented_paths_and_headers() {
    let sha = "a41d90be77c2a41d90be77c2a41d90be77c2a41d";
    let cases = [
        (
            ForgeKind::Github,
            format!("/repos/team/app/statuses/{sha}"),
            ("authorization", "Bearer sesame-token"),
        ),
        (
            ForgeKind::Gitea,
            format!("/repos/team/app/statuses/{sha}"),
            ("authorization", "token sesame-token"),
        ),
        (
            ForgeKind::Gitlab,
            format!("/projects/group%2Fsub%2Fapp/statuses/{sha}"),
            ("private-token", "sesame-token"),
        ),
        (
            ForgeKind::Bitbucket,
            format!("/repositories/team/app/commit/{sha}/statuses/build"),
            ("authorization", "Bearer sesame-token"),
        ),
        (
            ForgeKind::BitbucketServer,
            format!("/rest/api/latest/projects/team/repos/app/commits/{sha}/builds"),
            ("authorization", "Bearer sesame-token"),
        ),
    ];
    for (kind, path, header) in cases {
        let server = server(kind).await;
        let long = "x".repeat(1000);
        settle(&server, &mut row(Phase::Running, &long, false), false).await;
        let requests = &server.fake.lock().unwrap().requests;
        let (method, sent, headers, body) = requests.last().unwrap();
        assert_eq!((method, sent), (&Method::POST, &path), "{kind:?}");
        assert!(headers.iter().any(|(name, value)| (name.as_str(), value.as_str()) == header), "{headers:?}");
        assert!(headers.iter().any(|(name, _)| name == "user-agent"));
        let accept = headers.iter().find(|(name, _)| name == "accept").map(|(_, value)| value.as_str());
        let is_github = kind == ForgeKind::Github;
        assert_eq!(accept, Some(if is_github { "application/vnd.github+json" } else { "application/json" }));
        let url = body["target_url"].as_str().or(body["url"].as_str()).unwrap();
        assert_eq!(url, "https://ci.example.com/environments/prod");
        let longest = if matches!(kind, ForgeKind::Github | ForgeKind::Gitea) { 140 } else { 255 };
        assert!(body["description"].as_str().unwrap().len() <= longest, "{kind:?}");
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_after_each_request_writes_nothing_twice() {
    for kind in [ForgeKind::Github, ForgeKind::Gitlab] {
        let server = server(kind).await;
        let mut row = row(Phase::Running, "building", true);
        settle(&server, &mut row, true).await;
        row.wanted = CommitState::new(Phase::Success, "ready after 14 s");
        settle(&server, &mut row, true).await;
        let fake = server.fake.lock().unwrap();
        let is_status = |(method, path, ..): &&Received| {
            *method == Method::POST && path.contains("/statuses/a41d90be77c2")
        };
        let writes: Vec<&Received> = fake.requests.iter().filter(is_status).collect();
        assert_eq!(writes.len(), 2, "{kind:?}: {writes:?}");
        assert_eq!(fake.deployments.len(), 1, "{kind:?}: {:?}", fake.deployments);
        let last = &fake.deployment_statuses.last().unwrap().1;
        assert_eq!(last["state"].as_str().or(last["status"].as_str()), Some("success"), "{kind:?}");
        // GitLab's deployments begin with a state.
        let states = if kind == ForgeKind::Github { 2 } else { 1 };
        assert_eq!(fake.deployment_statuses.len(), states, "{kind:?}: {:?}", fake.deployment_statuses);
        let is_url =
            |(method, path, ..): &&Received| *method == Method::PUT && path.contains("/environments/");
        let urls = fake.requests.iter().filter(is_url).count();
        assert_eq!(urls, usize::from(kind == ForgeKind::Gitlab), "the environment's URL is set once");
        if kind == ForgeKind::Gitlab {
            assert_eq!(fake.external_url, "https://www.example.com");
        }
    }
}

#[tokio::test]
async fn a_github_deployment_disables_auto_merge_and_ends_inactive() {
    let server = server(ForgeKind::Github).await;
    let mut row = row(Phase::Success, "ready", true);
    settle(&server, &mut row, false).await;
    row.wanted = CommitState::new(Phase::Replaced, "replaced by b");
    settle(&server, &mut row, false).await;
    let fake = server.fake.lock().unwrap();
    let made = &fake.deployments[0];
    assert_eq!((&made["auto_merge"], &made["required_contexts"]), (&json!(false), &json!([])));
    assert_eq!(
        (&made["payload"]["abide_id"], &made["production_environment"]),
        (&json!("prod-41"), &json!(true))
    );
    let states: Vec<&Value> = fake.deployment_statuses.iter().map(|(_, body)| &body["state"]).collect();
    assert_eq!(states, ["success", "inactive"]);
    assert_eq!(fake.deployment_statuses[0].1["environment_url"], "https://www.example.com");
    // The commit was deployed: its status stays.
    assert_eq!(fake.statuses.last().unwrap().1, "success");
}

#[tokio::test]
async fn a_state_transition_rejected_by_gitlab_is_not_a_failure() {
    let server = server(ForgeKind::Gitlab).await;
    settle(&server, &mut row(Phase::Running, "building", false), false).await;
    settle(&server, &mut row(Phase::Pending, "held by alice", false), false).await;
    settle(&server, &mut row(Phase::Pending, "held by bob", false), false).await;
    let of = |server: &Server| {
        let states = server.fake.lock().unwrap().statuses.clone();
        states.into_iter().map(|(_, state, description)| (state, description)).collect::<Vec<_>>()
    };
    assert_eq!(of(&server), [("running".to_owned(), "building".to_owned())]);
    // Old versions refuse this too.
    server.fake.lock().unwrap().is_old = true;
    settle(&server, &mut row(Phase::Running, "starting", false), false).await;
    assert_eq!(of(&server).len(), 1);
    // Ended rows stay: the commit goes back to pending, and a commit that waits can be closed.
    settle(&server, &mut row(Phase::Success, "ready", false), false).await;
    settle(&server, &mut row(Phase::Pending, "waiting for CI: 1 of 2 checks", false), false).await;
    settle(&server, &mut row(Phase::Pending, "waiting for CI: 2 of 2 checks", false), false).await;
    settle(&server, &mut row(Phase::Superseded, "superseded by b", false), false).await;
    let states: Vec<String> = of(&server).into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, ["success", "canceled"]);
    // Another 400 is a failure.
    let refusal = r#"{"message":"400 Bad request"}"#.to_owned();
    server.fake.lock().unwrap().next.push((400, Vec::new(), refusal, false));
    let refused = server.forge.project(&row(Phase::Success, "ready", false)).await.unwrap_err();
    assert_eq!(refused.then, Then::GiveUp);
}

#[tokio::test]
async fn an_old_bitbucket_server_gets_its_own_path_and_states() {
    let server = server(ForgeKind::BitbucketServer).await;
    server.fake.lock().unwrap().is_old = true;
    settle(&server, &mut row(Phase::Superseded, "superseded by b", false), false).await;
    let fake = server.fake.lock().unwrap();
    let sha = "a41d90be77c2a41d90be77c2a41d90be77c2a41d";
    let (_, path, headers, _) = fake.requests.last().unwrap();
    assert_eq!(path, &format!("/rest/build-status/1.0/commits/{sha}"));
    assert!(headers.contains(&("x-atlassian-token".to_owned(), "no-check".to_owned())), "{headers:?}");
    assert_eq!(fake.statuses.last().unwrap().1, "FAILED");
}

#[tokio::test]
async fn a_status_stored_despite_a_500_is_not_sent_twice() {
    for kind in [ForgeKind::Github, ForgeKind::Gitlab, ForgeKind::Gitea, ForgeKind::Bitbucket] {
        let server = server(kind).await;
        server.fake.lock().unwrap().next.push((500, Vec::new(), String::new(), true));
        let mut row = row(Phase::Success, "ready", false);
        assert_eq!(server.forge.project(&row).await.unwrap_err().then, Then::Retry);
        settle(&server, &mut row, false).await;
        assert_eq!(server.fake.lock().unwrap().statuses.len(), 1, "{kind:?}");
    }
}

#[tokio::test]
async fn rate_limits_are_respected_and_missing_permissions_reported() {
    let refused = async |answer: (u16, Vec<(&'static str, String)>, String, bool)| {
        let server = server(ForgeKind::Github).await;
        server.fake.lock().unwrap().next.push(answer);
        server.forge.project(&row(Phase::Success, "ready", false)).await.unwrap_err()
    };
    let header = |name, value: &str| vec![(name, value.to_owned())];
    let limited = refused((403, header("retry-after", "60"), String::new(), false)).await;
    assert_eq!(limited.then, Then::Wait(Duration::from_secs(60)));
    let secondary = r#"{"message":"You have exceeded a secondary rate limit"}"#.to_owned();
    let unnamed = Then::WaitLonger(Duration::from_secs(60));
    assert_eq!(refused((403, Vec::new(), secondary, false)).await.then, unnamed);
    assert_eq!(refused((429, Vec::new(), String::new(), false)).await.then, unnamed);
    let reset = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 900;
    let mut primary = header("x-ratelimit-remaining", "0");
    primary.extend(header("x-ratelimit-reset", &reset.to_string()));
    let Then::Wait(pause) = refused((403, primary, String::new(), false)).await.then else {
        panic!("no wait")
    };
    assert!((Duration::from_secs(800)..=Duration::from_secs(902)).contains(&pause), "{pause:?}");
    let missing = r#"{"message":"Resource not accessible by personal access token"}"#.to_owned();
    let missing =
        refused((403, header("x-accepted-github-permissions", "statuses=write"), missing, false)).await;
    assert!(missing.then == Then::Denied && missing.why.contains("statuses=write"), "{missing}");
    let hidden = refused((404, Vec::new(), String::new(), false)).await;
    assert!(hidden.then == Then::Denied && hidden.why.contains("or the token may not see it"), "{hidden}");
    let invalid = r#"{"message":"Validation Failed sesame-token"}"#.to_owned();
    let invalid = refused((422, Vec::new(), invalid, false)).await;
    assert!(invalid.then == Then::GiveUp && !invalid.why.contains("sesame"), "{invalid}");
    let wrong = refused((401, Vec::new(), String::new(), false)).await;
    assert_eq!(wrong.then, Then::Denied);
    let moved = refused((301, header("location", "/repositories/1/statuses/a"), String::new(), false)).await;
    assert!(moved.then == Then::Denied && moved.why.contains("was renamed or moved"), "{moved}");
}
