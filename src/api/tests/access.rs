//! Every route against every role, and every kind of invalid token.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tower::ServiceExt as _;

use super::{Api, api, at, name};
use crate::api::ControllerError;
use crate::api::access::gate::{Gate, authenticate};
use crate::api::agent::{Images, TunnelRequest};
use crate::api::routes::table;
use crate::api::serve::Peer;
use crate::model::access::{AuditStamp, Role, Token};
use crate::model::credential::{Credential, Pin};
use crate::model::desired::{Image, Origin};
use crate::model::link::{Hello, ReportedProxy, VERSION};
use crate::model::name::{AgentName, Digest, TokenId, TokenName};
use crate::model::time::Timestamp;
use crate::record::{Change, NewToken};

/// Long enough for a busy host; a test that waits this long fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Access is granted; the handler may then answer anything.
const IN: u16 = 0;

/// The expected answer of each route to: no token, a viewer, a deployer of dev who names dev, the
/// same who names prod, an agent, an admin, a tester of dev who names dev, the same who names prod.
const EXPECTED: [(&str, &str, [u16; 8]); 46] = [
    ("GET", "/healthz", [IN, IN, IN, IN, IN, IN, IN, IN]),
    ("GET", "/readyz", [IN, IN, IN, IN, IN, IN, IN, IN]),
    ("GET", "/metrics", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/environments", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/environments/{environment}", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/environments/{environment}/history", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/environments/{environment}/events", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/environments/{environment}/plan", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/environments/{environment}/stats", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/environments/{environment}/logs", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/environments/{environment}/wait", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/environments/{environment}/evidence", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("POST", "/api/v1/environments/{environment}/approve", [401, 403, 403, 403, 403, IN, IN, 403]),
    ("POST", "/api/v1/environments/{environment}/reject", [401, 403, 403, 403, 403, IN, IN, 403]),
    ("POST", "/api/v1/environments/{environment}/withdraw", [401, 403, 403, 403, 403, IN, IN, 403]),
    ("POST", "/api/v1/environments/{environment}/set", [401, 403, IN, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/environments/{environment}/promote", [401, 403, IN, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/environments/{environment}/rollback", [401, 403, IN, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/environments/{environment}/hold", [401, 403, IN, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/environments/{environment}/maintenance", [401, 403, IN, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/environments/{environment}/canary", [401, 403, IN, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/environments/{environment}/resume", [401, 403, IN, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/environments/{environment}/sync", [401, 403, IN, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/environments/{environment}/attach", [401, 403, 403, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/environments/{environment}/forget", [401, 403, 403, 403, 403, IN, 403, 403]),
    ("GET", "/api/v1/events", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/watch", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/export", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("POST", "/api/v1/import", [401, 403, 403, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/sync", [401, 403, 403, 403, 403, IN, 403, 403]),
    ("GET", "/api/v1/jobs", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/jobs/{job}", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/jobs/{job}/logs", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("GET", "/api/v1/outbox", [401, IN, IN, IN, 403, IN, IN, IN]),
    ("POST", "/api/v1/outbox/retry", [401, 403, 403, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/notify/{channel}/test", [401, 403, 403, 403, 403, IN, 403, 403]),
    ("GET", "/api/v1/tokens", [401, 403, 403, 403, 403, IN, 403, 403]),
    ("POST", "/api/v1/tokens", [401, 403, 403, 403, 403, IN, 403, 403]),
    ("DELETE", "/api/v1/tokens/{token}", [401, 403, 403, 403, 403, IN, 403, 403]),
    ("GET", "/api/v1/agent/self", [401, 403, 403, 403, IN, 403, 403, 403]),
    ("POST", "/api/v1/agent/session", [401, 403, 403, 403, IN, 403, 403, 403]),
    ("POST", "/api/v1/agent/report", [401, 403, 403, 403, IN, 403, 403, 403]),
    ("POST", "/api/v1/agent/answers/{id}", [401, 403, 403, 403, IN, 403, 403, 403]),
    ("GET", "/api/v1/agent/inputs/{id}", [401, 403, 403, 403, IN, 403, 403, 403]),
    ("GET", "/v2/{*path}", [401, 403, 403, 403, IN, 403, 403, 403]),
    ("POST", "/api/v1/login", [401, 403, 403, 403, 403, 403, 403, 403]),
];

/// The API as a network client sees it.
struct GatedApi {
    api: Api,
    router: Router,
}

fn gated() -> GatedApi {
    gated_by(api())
}

fn gated_by(api: Api) -> GatedApi {
    let gate = Gate::new(&api.state);
    let router = api.router().layer(from_fn_with_state(gate, authenticate));
    GatedApi { api, router }
}

impl GatedApi {
    async fn token(&self, called: &str, role: Role) -> (Token, Credential) {
        self.token_until(called, role, None).await
    }

    async fn token_until(&self, called: &str, role: Role, expires: Option<Timestamp>) -> (Token, Credential) {
        let new = NewToken { name: TokenName::new(called).unwrap(), role, expires };
        let stamp = AuditStamp { at: at(0), by: "alice".into() };
        self.api.handles.token_writer.create(new, stamp).await.unwrap()
    }

    async fn revoke(&self, token: &Token) {
        let stamp = AuditStamp { at: at(1), by: "alice".into() };
        self.api.handles.token_writer.revoke(&token.id, stamp).await.unwrap();
    }

    /// Sends a request from `192.0.2.<last>`, with the given `Authorization` headers.
    async fn ask(&self, method: Method, uri: &str, from: u8, authorization: &[String]) -> Response {
        let address = SocketAddr::from(([192, 0, 2, from], 40_000));
        let request = Request::builder().method(method).uri(uri);
        let request = request.extension(Peer { uid: None, address: Some(address) });
        let request =
            authorization.iter().fold(request, |request, value| request.header(header::AUTHORIZATION, value));
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn status(&self, method: &str, uri: &str, credential: Option<&Credential>) -> u16 {
        let method = method.parse().unwrap();
        let authorization: Vec<_> = credential.map(bearer).into_iter().collect();
        self.ask(method, uri, 7, &authorization).await.status().as_u16()
    }
}

fn bearer(credential: &Credential) -> String {
    format!("Bearer {}", credential.bearer().expose())
}

pub(super) fn deployer(environments: &[&str]) -> Role {
    Role::Deployer { environments: environments.iter().map(|text| name(text)).collect() }
}

pub(super) fn agent(text: &str) -> Role {
    Role::Agent { agent: AgentName::new(text).unwrap() }
}

#[test]
fn every_route_is_in_the_table_of_this_test() {
    let routes = table().into_iter().filter(|route| !route.is_page).collect::<Vec<_>>();
    let count = routes.len();
    let routes: BTreeSet<_> = routes.iter().map(|route| (route.method.to_string(), route.path)).collect();
    let expected = EXPECTED.map(|(method, path, _)| (method.to_owned(), path));
    assert_eq!(routes, BTreeSet::from(expected));
    assert_eq!(count, EXPECTED.len(), "a route is there twice");
}

#[tokio::test]
async fn every_route_allows_exactly_the_expected_roles() {
    let gated = gated();
    let viewer = gated.token("viewer", Role::Viewer).await.1;
    let of_dev = gated.token("deployer", deployer(&["dev", "test"])).await.1;
    let online = gated.token("online", agent("online")).await.1;
    let admin = gated.token("admin", Role::Admin).await.1;
    let environments = ["dev", "test"].map(name).into();
    let tester = gated.token("tester", Role::Tester { environments }).await.1;
    let askers = [
        (None, "dev"),
        (Some(&viewer), "dev"),
        (Some(&of_dev), "dev"),
        (Some(&of_dev), "prod"),
        (Some(&online), "dev"),
        (Some(&admin), "prod"),
        (Some(&tester), "dev"),
        (Some(&tester), "prod"),
    ];
    let mut wrong = Vec::new();
    for (method, path, expected) in EXPECTED {
        for ((credential, environment), expected) in askers.iter().zip(expected) {
            let uri = path.replace("{environment}", environment).replace("{token}", "nobody");
            let status = gated.status(method, &uri, *credential).await;
            let is_right = match expected {
                IN => !matches!(status, 401 | 403 | 429),
                // This client sends so many requests that it is finally rate limited.
                401 => matches!(status, 401 | 429),
                refused => status == refused,
            };
            if !is_right {
                wrong.push(format!("{method} {uri} as {credential:?}: {status}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_runner_runs_commands_in_its_environments_and_changes_nothing() {
    let gated = gated();
    let runner = gated.token("runner", Role::Runner { environments: [name("dev")].into() }).await.1;
    let cases =
        [("attach", "dev", 400), ("attach", "prod", 403), ("sync", "dev", 403), ("approve", "dev", 403)];
    for (verb, environment, expected) in cases {
        let uri = format!("/api/v1/environments/{environment}/{verb}");
        assert_eq!(gated.status("POST", &uri, Some(&runner)).await, expected, "{verb} {environment}");
    }
    assert_eq!(gated.status("GET", "/api/v1/environments", Some(&runner)).await, 200);
}

#[tokio::test]
async fn another_spelling_does_not_widen_a_deployers_access() {
    let gated = gated();
    let of_dev = gated.token("deployer", deployer(&["dev"])).await.1;
    for environment in ["prod", "DEV", "dev%2f..%2fprod", "%70rod", "nowhere", "dev2", "%00"] {
        let uri = format!("/api/v1/environments/{environment}/sync");
        assert_eq!(gated.status("POST", &uri, Some(&of_dev)).await, 403, "{environment}");
    }
    assert_eq!(gated.status("POST", "/api/v1/environments/%64ev/sync", Some(&of_dev)).await, 200);
}

/// Everything in an answer that the client can see.
async fn seen(response: Response) -> (u16, BTreeMap<String, String>, String) {
    let status = response.status().as_u16();
    let headers: &HeaderMap = response.headers();
    let headers =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, headers, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn every_invalid_token_gets_the_same_response() {
    let gated = gated();
    let (good, credential) = gated.token("good", Role::Admin).await;
    let (revoked, of_revoked) = gated.token("revoked", Role::Admin).await;
    gated.revoke(&revoked).await;
    let of_expired = gated.token_until("expired", Role::Admin, Some(at(1_000))).await.1;
    let bearer_token = credential.bearer().expose().to_owned();
    let wrong: Vec<Vec<String>> = vec![
        vec![],
        vec![bearer(&of_revoked)],
        vec![bearer(&of_expired)],
        vec![bearer(&Credential::new(good.id.clone(), [0; 32]))],
        vec![bearer(&Credential::new(TokenId::new("0".repeat(12)).unwrap(), [0; 32]))],
        vec![format!("Bearer {}", good.id)],
        vec![format!("Bearer {}", hex::encode(credential.hash()))],
        vec![format!("Basic {bearer_token}")],
        vec![bearer_token.clone()],
        vec![format!("Bearer{bearer_token}")],
        vec![format!("Bearer {bearer_token} x")],
        vec!["Bearer ".to_owned()],
        vec![format!("Bearer {}", bearer_token.to_uppercase())],
        vec![bearer(&credential), bearer(&credential)],
        vec![bearer(&of_revoked), bearer(&credential)],
    ];
    let uri = "/api/v1/environments/dev";
    let mut answers = Vec::new();
    for (number, authorization) in wrong.iter().enumerate() {
        answers.push(
            seen(gated.ask(Method::GET, uri, u8::try_from(number).unwrap(), authorization).await).await,
        );
    }
    for place in ["?token=", "?access_token=", "?authorization=Bearer%20", "?"] {
        answers
            .push(seen(gated.ask(Method::GET, &format!("{uri}{place}{bearer_token}"), 99, &[]).await).await);
    }
    assert_eq!(answers[0].0, 401);
    assert_eq!(answers[0].1["www-authenticate"], "Bearer");
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer, &answers[0], "{number}");
    }
    for authorization in [
        bearer(&credential),
        bearer(&credential).replace("Bearer", "bearer"),
        format!("Bearer {}", credential.pinned(Pin::of_public_key(b"a key")).text().expose()),
    ] {
        assert_eq!(gated.ask(Method::GET, uri, 7, &[authorization]).await.status(), 200);
    }
}

#[tokio::test]
async fn a_403_does_not_reveal_whether_an_environment_exists() {
    let gated = gated();
    let of_dev = gated.token("deployer", deployer(&["dev"])).await.1;
    let ask = async |environment: &str| {
        let uri = format!("/api/v1/environments/{environment}/hold");
        seen(gated.ask(Method::POST, &uri, 7, &[bearer(&of_dev)]).await).await
    };
    let (there, not_there) = (ask("prod").await, ask("nowhere").await);
    assert_eq!(there.0, 403);
    assert_eq!(there, not_there);
}

#[tokio::test]
async fn an_address_that_fails_too_often_waits_but_a_good_token_never_does() {
    let gated = gated();
    let viewer = gated.token("viewer", Role::Viewer).await.1;
    let uri = "/api/v1/environments";
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(gated.ask(Method::GET, uri, 7, &[]).await.status().as_u16());
    }
    assert_eq!(statuses[..20], [401; 20]);
    let late = gated.ask(Method::GET, uri, 7, &["Bearer x".to_owned()]).await;
    assert_eq!(late.status(), 429);
    assert!(late.headers()[header::RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(gated.status("GET", uri, Some(&viewer)).await, 200);
    assert_eq!(gated.ask(Method::GET, uri, 8, &[]).await.status(), 401, "another address");
    assert_eq!(gated.status("GET", "/healthz", None).await, 200);
}

#[tokio::test]
async fn the_record_names_the_token_and_address_of_a_change() {
    let gated = gated();
    let of_dev = gated.token("ci", deployer(&["dev"])).await.1;
    gated.api.record("dev", 1).await;
    let moved = gated.status("POST", "/api/v1/environments/dev/rollback", Some(&of_dev)).await;
    assert_eq!(moved, 409, "there is nothing to go back to");
    let body = Body::from(format!(r#"{{"image":"{}"}}"#, super::digest(2)));
    let address = SocketAddr::from(([192, 0, 2, 9], 40_000));
    let request = Request::post("/api/v1/environments/dev/set")
        .header(header::AUTHORIZATION, bearer(&of_dev))
        .extension(Peer { uid: None, address: Some(address) });
    let answer = gated.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let entry = gated.api.handles.desired.get(&name("dev")).unwrap().entry;
    assert_eq!(entry.by.as_deref(), Some("token ci (192.0.2.9)"));
}

#[tokio::test]
async fn the_use_of_a_token_is_recorded() {
    let gated = gated();
    let (token, viewer) = gated.token("viewer", Role::Viewer).await;
    let tokens = &gated.api.handles.tokens;
    assert_eq!(gated.status("GET", "/api/v1/environments", Some(&viewer)).await, 200);
    let noted = async {
        while tokens.get(&token.id).unwrap().unwrap().used.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noted).await.unwrap();
    assert_eq!(tokens.get(&token.id).unwrap().unwrap().used, Some(at(1_000)));
}

/// Whether the stream breaks off instead of ending normally.
async fn breaks_off(response: Response) -> bool {
    assert_eq!(response.status(), 200);
    tokio::time::timeout(PATIENCE, to_bytes(response.into_body(), 1 << 20)).await.unwrap().is_err()
}

#[tokio::test]
async fn revoking_a_token_ends_only_its_own_streams() {
    let gated = gated();
    let (token, viewer) = gated.token("viewer", Role::Viewer).await;
    let other = gated.token("other", Role::Viewer).await.1;
    let open = async |credential| gated.ask(Method::GET, "/api/v1/watch", 7, &[bearer(credential)]).await;
    let (stream, others) = (open(&viewer).await, open(&other).await);
    let others = tokio::spawn(breaks_off(others));
    gated.revoke(&token).await;
    assert!(breaks_off(stream).await);
    assert!(!others.is_finished());
    assert_eq!(gated.status("GET", "/api/v1/watch", Some(&viewer)).await, 401);
    others.abort();
}

#[tokio::test]
async fn revoking_the_callers_own_token_still_returns_a_response() {
    let gated = gated();
    let (token, admin) = gated.token("admin", Role::Admin).await;
    let uri = format!("/api/v1/tokens/{}", token.id);
    let (status, _, body) = seen(gated.ask(Method::DELETE, &uri, 7, &[bearer(&admin)]).await).await;
    assert!(status == 200 && body.contains("token admin (192.0.2.7)"), "{status} {body}");
    assert_eq!(gated.status("DELETE", &uri, Some(&admin)).await, 401);
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let mut api = api();
    api.state.clock = || SystemTime::now().into();
    let gated = gated_by(api);
    let soon = Timestamp::from(SystemTime::now()).after(Duration::from_millis(500));
    let viewer = gated.token_until("short", Role::Viewer, Some(soon)).await.1;
    let stream = gated.ask(Method::GET, "/api/v1/watch", 7, &[bearer(&viewer)]).await;
    assert!(breaks_off(stream).await);
}

#[tokio::test]
async fn a_response_has_a_content_length() {
    let gated = gated();
    let viewer = gated.token("viewer", Role::Viewer).await.1;
    let (_, headers, body) =
        seen(gated.ask(Method::GET, "/api/v1/environments", 7, &[bearer(&viewer)]).await).await;
    assert_eq!(headers["content-length"], body.len().to_string());
}

#[tokio::test]
async fn an_agent_can_look_up_its_own_identity() {
    let gated = gated();
    let (token, online) = gated.token("online", agent("online")).await;
    let (_, _, body) = seen(gated.ask(Method::GET, "/api/v1/agent/self", 7, &[bearer(&online)]).await).await;
    let expected = serde_json::json!({ "agent": "online", "token": token.id });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap(), expected);
}

/// Opens the session of an agent.
async fn connect(gated: &GatedApi, credential: &Credential, hello: &Hello) -> Response {
    let request = Request::post("/api/v1/agent/session")
        .extension(Peer { uid: None, address: None })
        .header(header::AUTHORIZATION, bearer(credential))
        .body(Body::from(serde_json::to_vec(hello).unwrap()));
    gated.router.clone().oneshot(request.unwrap()).await.unwrap()
}

fn hello(instance: String, epoch: u64, proxy: Option<ReportedProxy>) -> Hello {
    Hello { version: VERSION, instance, epoch, software: String::new(), engine: None, proxy }
}

#[tokio::test]
async fn an_overlong_agent_record_id_is_rejected() {
    let gated = gated();
    let online = gated.token("online", agent("online")).await.1;
    for (length, expected) in [(128, 200), (129, 422)] {
        let answer = connect(&gated, &online, &hello("x".repeat(length), length as u64, None)).await;
        assert_eq!(answer.status().as_u16(), expected, "{length}");
    }
}

#[tokio::test]
async fn maintenance_on_a_host_without_a_proxy_is_rejected() {
    let gated = gated();
    let online = gated.token("online", agent("online")).await.1;
    let mut state = (**gated.api.manifest.borrow()).clone();
    state.manifest.environments.get_mut(&name("dev")).unwrap().host = Some(AgentName::new("online").unwrap());
    gated.api.manifest.send_replace(Arc::new(state));
    let maintain = async |on: bool| gated.api.post("dev/maintenance", serde_json::json!({ "on": on })).await;
    let awaited = maintain(true).await.moved();
    assert!(
        awaited["message"].as_str().unwrap().contains("as soon as the agent online is connected"),
        "{awaited}"
    );
    let session = connect(&gated, &online, &hello("i".to_owned(), 1, Some(ReportedProxy::default()))).await;
    maintain(true).await.refuses(422, "declare `[front]` in `policy.toml` of the agent online");
    maintain(false).await.moved();
    drop(session);
    for (epoch, proxy) in [(2, Some(ReportedProxy { http: Some(80), https: None })), (3, None)] {
        let session = connect(&gated, &online, &hello("i".to_owned(), epoch, proxy)).await;
        assert_eq!(session.status(), 200);
        maintain(true).await.moved();
        maintain(false).await.moved();
    }
}

/// Fake registries; each answers with its own status, by host.
struct FakeImages(BTreeMap<&'static str, u16>);

impl Images for FakeImages {
    fn fetch(&self, wanted: TunnelRequest) -> BoxFuture<'static, Result<Response, ControllerError>> {
        let status = self.0[wanted.repository.host().as_str()];
        let answer = Response::builder().status(status).body(Body::empty()).unwrap();
        async move { Ok(answer) }.boxed()
    }
}

#[tokio::test]
async fn a_registry_denial_is_not_reported_to_an_agent_as_not_found() {
    let digest = Digest::new(format!("sha256:{}", "a".repeat(64))).unwrap();
    for (one, other, expected) in
        [(401, 404, 503), (404, 403, 503), (404, 404, 404), (401, 200, 200), (500, 404, 500)]
    {
        let mut api = api();
        api.state.images = Some(Arc::new(FakeImages(BTreeMap::from([
            ("one.example.com", one),
            ("other.example.com", other),
        ]))));
        api.manifest.send_modify(|state| {
            for spec in Arc::make_mut(state).manifest.environments.values_mut() {
                spec.host = Some(AgentName::new("online").unwrap());
            }
        });
        for (environment, host) in [("dev", "one"), ("prod", "other")] {
            let reference = Some(format!("{host}.example.com/shop/app"));
            let image = Image { reference, digest: Some(digest.clone()), id: None };
            let change = Change {
                revision: None,
                image: Some(image),
                origin: Origin::Set,
                by: None,
                token: None,
                note: None,
                at: at(0),
                hold: None,
            };
            api.handles.writer.submit(&name(environment), change, &[]).await.unwrap();
        }
        let gated = gated_by(api);
        let online = gated.token("online", agent("online")).await.1;
        let uri = format!("/v2/shop/app/manifests/{digest}");
        assert_eq!(gated.status("GET", &uri, Some(&online)).await, expected, "{one} and {other}");
        let uri = format!("/v2/shop/private/manifests/{digest}");
        assert_eq!(gated.status("GET", &uri, Some(&online)).await, 404, "nothing of it is recorded");
    }
}

#[tokio::test]
async fn a_request_without_an_identified_caller_is_rejected() {
    let api = api();
    for (method, path, expected) in EXPECTED {
        let uri = path.replace("{environment}", "dev").replace("{token}", "nobody");
        let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
        let status = api.router().oneshot(request).await.unwrap().status().as_u16();
        assert_eq!(status == 401, expected[0] == 401, "{method} {path}");
    }
}
