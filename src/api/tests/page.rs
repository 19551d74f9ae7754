//! The web page as browsers and attackers use it: each rule about sessions, cookies, origins and hosts.

mod activity;
mod evidence;
mod forms;
mod groups;
mod logs;
mod protection;
mod sessions;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::{Extension, Router};
use futures::future::BoxFuture;
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::access::{agent, deployer};
use super::{Api, FakeController, api, at, manifest, name, status};
use crate::api::ControllerError;
use crate::api::access::gate::{Gate, authenticate};
use crate::api::access::socket::name_caller;
use crate::api::page::{CommitHistory, Pages};
use crate::api::routes::table;
use crate::api::serve::Peer;
use crate::model::access::{AuditStamp, Role, Token};
use crate::model::commits::{CommitLine, Comparison};
use crate::model::credential::Credential;
use crate::model::listener::DaemonListener;
use crate::model::name::{CommitId, EnvironmentName, TokenName};
use crate::model::public_url::PublicUrl;
use crate::model::spec::PageSpec;
use crate::model::status::{Condition, Reason, Status};
use crate::model::time::Timestamp;
use crate::model::workload::{NodeState, NodeView};
use crate::record::NewToken;

/// The host that browsers use without a public URL.
const LOCAL: &str = "abide.localhost:8080";
/// The host of the public URL.
const PUBLIC: &str = "ci.example.com";

/// A repository without any commit that is asked for.
struct NoHistory;

impl CommitHistory for NoHistory {
    fn lines(
        &self,
        _: EnvironmentName,
        _: Vec<CommitId>,
    ) -> BoxFuture<'static, Result<Vec<CommitLine>, ControllerError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn compare(
        &self,
        _: EnvironmentName,
        _: CommitId,
        _: CommitId,
    ) -> BoxFuture<'static, Result<Comparison, ControllerError>> {
        Box::pin(std::future::ready(Err(ControllerError("the mirror has neither of them".to_owned()))))
    }
}

struct Site {
    api: Api,
    router: Router,
    host: &'static str,
}

/// A loopback listener without a public URL.
fn local() -> Site {
    site(None, "127.0.0.1:8080", false, LOCAL)
}

/// A loopback listener behind a proxy.
fn public(url: &str) -> Site {
    site(Some(url), "127.0.0.1:8080", false, PUBLIC)
}

fn site(url: Option<&str>, listen: &str, is_tls: bool, host: &'static str) -> Site {
    let mut api = api();
    let mut declared = manifest();
    declared.manifest.page = url.map(|url| PageSpec { url: PublicUrl::parse(url).unwrap(), on_front: false });
    let (sender, receiver) = watch::channel(Arc::new(declared));
    api.state.manifest = receiver;
    api.manifest = sender;
    let listener = DaemonListener { address: listen.parse().unwrap(), is_tls };
    api.state.pages = Arc::new(Pages::new(listener, Arc::new(NoHistory)));
    let gate = Gate::new(&api.state);
    let router = api.router().layer(from_fn_with_state(gate, authenticate)).layer(Extension(listener));
    Site { api, router, host }
}

/// A request that is built step by step.
struct Ask<'a> {
    site: &'a Site,
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Site {
    fn get(&self, path: &str) -> Ask<'_> {
        let headers = vec![("host", self.host.to_owned())];
        Ask { site: self, method: Method::GET, path: path.to_owned(), headers, body: String::new() }
    }

    /// A form that a page of this site sends.
    fn post(&self, path: &str, form: &str) -> Ask<'_> {
        let ask = Ask { method: Method::POST, body: form.to_owned(), ..self.get(path) };
        ask.with("content-type", "application/x-www-form-urlencoded").with("sec-fetch-site", "same-origin")
    }

    async fn token(&self, called: &str, role: Role, expires: Option<Timestamp>) -> (Token, Credential) {
        let new = NewToken { name: TokenName::new(called).unwrap(), role, expires };
        self.api.handles.token_writer.create(new, AuditStamp { at: at(0), by: "alice".into() }).await.unwrap()
    }

    /// Signs in and returns the cookie as browsers send it.
    async fn sign_in(&self, credential: &Credential) -> String {
        let answer = self.post("/login", &login_form(credential)).send().await;
        assert_eq!(answer.status, 303, "{answer:?}");
        answer.cookie().unwrap()
    }

    /// A new token of `role` and the cookie of its session.
    async fn visitor(&self, called: &str, role: Role) -> (Token, String) {
        let (token, credential) = self.token(called, role, None).await;
        let cookie = self.sign_in(&credential).await;
        (token, cookie)
    }
}

fn login_form(credential: &Credential) -> String {
    format!("username=abide&next=%2F&token={}", credential.text().expose())
}

impl Ask<'_> {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    fn without(mut self, name: &'static str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    fn cookie(self, cookie: &str) -> Self {
        self.with("cookie", cookie)
    }

    async fn raw(self) -> Response {
        let address = SocketAddr::from(([192, 0, 2, 7], 40_000));
        let request = Request::builder().method(self.method).uri(self.path);
        let request = request.extension(Peer { uid: None, address: Some(address) });
        let request =
            self.headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        self.site.router.clone().oneshot(request.body(Body::from(self.body)).unwrap()).await.unwrap()
    }

    async fn send(self) -> Answer {
        let response = self.raw().await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = to_bytes(response.into_body(), 8 << 20).await.unwrap();
        Answer { status, headers, text: String::from_utf8_lossy(&body).into_owned() }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The cookie that it sets, as browsers send it back.
    fn cookie(&self) -> Option<String> {
        self.header("set-cookie").split(';').next().filter(|pair| !pair.is_empty()).map(str::to_owned)
    }
}

fn hostile(environment: &str) -> Status {
    let message = "<script>alert(1)</script> \u{202e}txt.exe & \"quoted\" \u{1b}[31m".to_owned();
    let (condition, reason) = (Condition::Degraded, Reason::CrashLoop);
    Status { condition, reason, message, ..status(environment, 1) }
}

/// The generation of an environment now.
fn generation(site: &Site, environment: &str) -> u64 {
    site.api.handles.desired.get(&name(environment)).unwrap().entry.generation.0
}

#[tokio::test]
async fn assets_are_cached_forever_under_their_content_hash() {
    let site = local();
    let page = site.get("/login").send().await.text;
    let at = page.find("/assets/page-").unwrap();
    let path = page[at..].split('"').next().unwrap();
    let answer = site.get(path).with("accept-encoding", "br, gzip").send().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(
        (answer.header("content-encoding"), answer.header("content-type")),
        ("gzip", "text/css; charset=utf-8")
    );
    assert_eq!(
        site.get(path).with("accept-encoding", "gzip;q=0").send().await.header("content-encoding"),
        ""
    );
    assert_eq!(site.get("/assets/page.css").send().await.status, 404);
}

#[tokio::test]
async fn every_page_checks_the_visitors_role() {
    let site = local();
    let (_, viewer) = site.visitor("viewer", Role::Viewer).await;
    let (_, of_dev) = site.visitor("deployer", deployer(&["dev"])).await;
    let (_, admin) = site.visitor("admin", Role::Admin).await;
    let (_, tester) = site.visitor("tester", Role::Tester { environments: [name("test")].into() }).await;
    // Nobody, a viewer, a deployer of dev who names dev and prod, a tester of test who names test and prod, an
    // admin. 0: the page answers.
    let look = [303, 0, 0, 0, 0, 0, 0];
    let moves = [303, 403, 0, 403, 403, 403, 0];
    let judges = [303, 403, 403, 403, 0, 403, 0];
    let administers = [303, 403, 403, 403, 403, 403, 0];
    let anyone = [0; 7];
    let expected = [
        ("GET", "/", look),
        ("GET", "/environments/{environment}", look),
        ("GET", "/groups/{environment}", look),
        ("GET", "/promotions/{environment}", look),
        ("GET", "/environments/{environment}/logs", look),
        ("GET", "/environments/{environment}/logs.txt", look),
        ("GET", "/environments/{environment}/logs/follow", [401, 0, 0, 0, 0, 0, 0]),
        ("GET", "/environments/{environment}/builds", look),
        ("GET", "/environments/{environment}/builds/{number}", look),
        ("GET", "/environments/{environment}/builds/{number}/log.txt", look),
        ("GET", "/environments/{environment}/builds/{number}/follow", [401, 0, 0, 0, 0, 0, 0]),
        ("GET", "/environments/{environment}/history", look),
        ("GET", "/environments/{environment}/events", look),
        ("GET", "/activity", look),
        ("GET", "/hosts", look),
        ("GET", "/outbox", look),
        ("POST", "/outbox/retry", administers),
        ("GET", "/tokens", administers),
        ("POST", "/tokens", administers),
        ("POST", "/tokens/revoke", administers),
        ("POST", "/sessions/end", administers),
        ("POST", "/environments/{environment}/promote", moves),
        ("POST", "/environments/{environment}/rollback", moves),
        ("POST", "/environments/{environment}/hold", moves),
        ("POST", "/environments/{environment}/resume", moves),
        ("POST", "/environments/{environment}/canary-promote", moves),
        ("POST", "/environments/{environment}/canary-abort", moves),
        ("POST", "/environments/{environment}/set", moves),
        ("POST", "/environments/{environment}/sync", moves),
        ("POST", "/environments/{environment}/approve", judges),
        ("POST", "/environments/{environment}/reject", judges),
        ("POST", "/environments/{environment}/withdraw", judges),
        ("GET", "/hints", [401, 0, 0, 0, 0, 0, 0]),
        ("GET", "/assets/{name}", anyone),
        ("GET", "/login", anyone),
        ("POST", "/login", anyone),
    ];
    let askers = [
        (None, "dev"),
        (Some(&viewer), "dev"),
        (Some(&of_dev), "dev"),
        (Some(&of_dev), "prod"),
        (Some(&tester), "test"),
        (Some(&tester), "prod"),
        (Some(&admin), "prod"),
    ];
    let known: Vec<_> = expected.iter().map(|(method, path, _)| (*method, *path)).collect();
    for route in table().iter().filter(|route| route.is_page && route.path != "/logout") {
        assert!(known.contains(&(route.method.as_str(), route.path)), "{} {}", route.method, route.path);
    }
    for (method, path, statuses) in expected {
        for ((cookie, environment), status) in askers.iter().zip(statuses) {
            let path =
                path.replace("{environment}", environment).replace("{name}", "x").replace("{number}", "7");
            let mut ask = site.post(&path, "");
            ask.method = method.parse().unwrap();
            if let Some(cookie) = cookie {
                ask = ask.cookie(cookie);
            }
            let found = ask.raw().await.status().as_u16();
            let is_right = match status {
                0 => !(method == "GET" && found == 303 && cookie.is_none()) && found != 403,
                other => found == other,
            };
            assert!(is_right, "{method} {path} as {cookie:?}: {found}, not {status}");
        }
    }
}

#[tokio::test]
async fn manifest_differences_show_names_but_never_values() {
    let site = local();
    site.api.ready("test", 1).await;
    let mut declared = manifest();
    let secret = crate::model::spec::EnvValue::Plain("s3cret".to_owned());
    let prod = declared.manifest.environments.get_mut(&name("prod")).unwrap();
    prod.env.insert("API_KEY".to_owned(), secret);
    prod.memory = Some(512 << 20);
    site.api.manifest.send_replace(Arc::new(declared));
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    let text = site.get("/promotions/prod").cookie(&cookie).send().await.text;
    assert!(text.contains("<code>env.API_KEY</code>") && text.contains("<code>memory</code>"), "{text}");
    assert!(!text.contains("s3cret"));
}

#[tokio::test]
async fn the_page_shows_the_causal_chain() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    site.api.ready("dev", 1).await;
    site.api.report(&hostile("dev")).await;
    let text = site.get("/environments/dev").cookie(&cookie).send().await.text;
    for label in ["Event", "Record", "Difference", "Step", "Result", "Next retry"] {
        assert!(text.contains(&format!("<span class=\"k\">{label}</span>")), "{label}: {text}");
    }
    assert!(text.contains("to do: start it"), "{text}");
}

#[tokio::test]
async fn the_page_shows_the_nodes_of_a_swarm() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    site.api.ready("dev", 1).await;
    let nodes = vec![
        NodeView { name: "n1".to_owned(), state: NodeState::Ready, replicas: 3 },
        NodeView { name: "n2".to_owned(), state: NodeState::Drained, replicas: 0 },
    ];
    site.api.report(&Status { nodes, ..status("dev", 1) }).await;
    let text = site.get("/environments/dev").cookie(&cookie).send().await.text;
    for row in ["n1: ready, 3 replicas", "n2: drained, no replica"] {
        assert!(text.contains(&format!("<dt>Node</dt><dd>{row}</dd>")), "{row}: {text}");
    }
}

#[tokio::test]
async fn problems_appear_in_the_title_and_first_on_the_board() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    site.api.ready("dev", 1).await;
    let calm = site.get("/").cookie(&cookie).send().await.text;
    assert!(calm.contains("<title>Board · abide</title>") && calm.contains("/assets/calm-"), "{calm}");
    site.api.report(&hostile("dev")).await;
    let bad = site.get("/").cookie(&cookie).send().await.text;
    assert!(bad.contains("<title>(1!) Board · abide</title>") && bad.contains("/assets/trouble-"), "{bad}");
    assert!(bad.find("1 environment needs a look").unwrap() < bad.find("id=\"lane-").unwrap());
    let page = site.get("/environments/dev").cookie(&cookie).send().await.text;
    assert!(page.contains("<title>! dev Degraded · abide</title>"), "{page}");
}

#[tokio::test]
async fn a_page_that_the_browser_has_is_not_sent_again() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    site.api.ready("dev", 1).await;
    for path in ["/", "/environments/dev"] {
        let first = site.get(path).cookie(&cookie).with("accept-encoding", "gzip").send().await;
        assert_eq!(first.header("content-encoding"), "gzip");
        let again = site.get(path).cookie(&cookie).with("if-none-match", first.header("etag")).send().await;
        assert_eq!((again.status, again.text.as_str()), (304, ""), "{path}");
        site.api.report(&hostile("dev")).await;
        let changed = site.get(path).cookie(&cookie).with("if-none-match", first.header("etag")).send().await;
        assert_eq!(changed.status, 200, "{path}");
        site.api.report(&status("dev", 1)).await;
    }
}

#[tokio::test]
async fn the_board_reports_a_missing_daemon() {
    let mut site = local();
    site.api.state.controller = None;
    let gate = Gate::new(&site.api.state);
    let listener = DaemonListener { address: "127.0.0.1:8080".parse().unwrap(), is_tls: false };
    site.router = site.api.router().layer(from_fn_with_state(gate, authenticate)).layer(Extension(listener));
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    let text = site.get("/").cookie(&cookie).send().await.text;
    assert!(text.contains("No daemon is running"), "{text}");
}

#[tokio::test]
async fn hints_name_only_the_changed_environment() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    let mut all = site.get("/hints").cookie(&cookie).raw().await.into_body();
    let mut of_prod = site.get("/hints?environment=prod").cookie(&cookie).raw().await.into_body();
    // nginx passes on the headers only with the first piece.
    assert_eq!((sent(&mut all).await, sent(&mut of_prod).await), (": \n\n".to_owned(), ": \n\n".to_owned()));
    site.api.record("dev", 1).await;
    assert_eq!(sent(&mut all).await, "event: changed\ndata: dev\n\n");
    site.api.record("prod", 1).await;
    assert_eq!(sent(&mut of_prod).await, "event: changed\ndata: prod\n\n");
}

/// The next piece of a stream.
async fn sent(stream: &mut Body) -> String {
    use http_body_util::BodyExt as _;
    let frame =
        tokio::time::timeout(Duration::from_secs(20), stream.frame()).await.unwrap().unwrap().unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn unknown_paths_are_pages_for_browsers_and_json_for_programs() {
    let site = local();
    let page = site.get("/nowhere").with("accept", "text/html,*/*").send().await;
    assert_eq!(page.status, 404);
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    assert!(site.get("/nowhere").send().await.text.contains("\"error\""));
    let _ = (FakeController::default(), name("dev"));
}
