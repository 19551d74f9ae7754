//! The web page as browsers and attackers use it: each rule about sessions, cookies, origins and hosts.

mod activity;
mod evidence;
mod groups;
mod logs;

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

// Sessions.

#[tokio::test]
async fn a_session_id_is_not_a_token_and_only_its_hash_is_stored() {
    let site = local();
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let cookie = site.sign_in(&credential).await;
    let value = cookie.split_once('=').unwrap().1;
    assert_eq!(value.len(), 43, "256 bits");
    assert!(!credential.text().expose().contains(value));
    assert_eq!(site.get("/").cookie(&cookie).send().await.status, 200);
    let export = serde_json::to_string(&site.api.handles.desired.export().unwrap()).unwrap();
    assert!(!export.contains("session") && !export.contains(value));
    let sessions = site.api.handles.tokens.sessions(at(1_000)).unwrap();
    assert_eq!(sessions.len(), 1);
    assert!(!serde_json::to_string(&sessions).unwrap().contains(value));
}

#[tokio::test]
async fn each_login_starts_a_new_session_and_ends_the_old_one() {
    let site = local();
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let old = site.sign_in(&credential).await;
    let answer = site.post("/login", &login_form(&credential)).cookie(&old).send().await;
    let new = answer.cookie().unwrap();
    assert_ne!(old, new);
    assert_eq!(site.get("/").cookie(&old).send().await.status, 303);
    assert_eq!(site.get("/").cookie(&new).send().await.status, 200);
}

#[tokio::test]
async fn a_logout_ends_the_session_on_the_server() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    let answer = site.post("/logout", "").cookie(&cookie).send().await;
    assert_eq!((answer.status, answer.header("location")), (303, "/login?out=1"));
    assert!(answer.header("set-cookie").contains("Max-Age=0"), "{answer:?}");
    assert_eq!(
        site.get("/").cookie(&cookie).send().await.status,
        303,
        "the browser may have kept the cookie"
    );
    assert!(site.get("/login?out=1").send().await.text.contains("signed out"));
}

#[tokio::test]
async fn a_session_ends_when_its_token_is_revoked() {
    let site = local();
    let (token, cookie) = site.visitor("anna", Role::Viewer).await;
    let (_, other) = site.visitor("bob", Role::Viewer).await;
    let stamp = AuditStamp { at: at(1_000), by: "alice".into() };
    site.api.handles.token_writer.revoke(&token.id, stamp).await.unwrap();
    assert_eq!(site.get("/").cookie(&cookie).send().await.status, 303);
    assert_eq!(site.get("/").cookie(&other).send().await.status, 200);
}

#[tokio::test]
async fn an_open_stream_ends_with_the_session() {
    for end in ["revoke", "logout"] {
        let site = local();
        let (token, cookie) = site.visitor("anna", Role::Viewer).await;
        let stream = site.get("/hints").cookie(&cookie).raw().await;
        assert_eq!(stream.status(), 200);
        assert_eq!(stream.headers()["x-accel-buffering"], "no");
        if end == "revoke" {
            let stamp = AuditStamp { at: at(1_000), by: "alice".into() };
            site.api.handles.token_writer.revoke(&token.id, stamp).await.unwrap();
        } else {
            site.post("/logout", "").cookie(&cookie).send().await;
        }
        let ended =
            tokio::time::timeout(Duration::from_secs(20), to_bytes(stream.into_body(), 1 << 20)).await;
        assert!(ended.unwrap().is_err(), "{end}");
        assert_eq!(site.get("/hints").cookie(&cookie).send().await.status, 401);
    }
}

#[tokio::test]
async fn sessions_have_an_idle_and_an_absolute_expiry() {
    let site = local();
    const HOUR: u64 = 3_600;
    let ends_at = [(Role::Viewer, 30 * 24 * HOUR, 30 * 24 * HOUR), (Role::Admin, 12 * HOUR, 7 * 24 * HOUR)];
    for (role, idle, absolute) in ends_at {
        let (_, credential) = site.token(&format!("{role}"), role, None).await;
        site.sign_in(&credential).await;
        let session = site.api.handles.tokens.sessions(at(1_000)).unwrap().remove(0);
        assert_eq!(session.idle_seconds, idle);
        assert_eq!(session.expires, at(1_000 + absolute));
        assert!(session.is_in_force(at(1_000 + idle - 1)) && !session.is_in_force(at(1_000 + idle)));
        site.api.handles.token_writer.end_session(&session.id).await.unwrap();
    }
    let (_, short) = site.token("short", Role::Admin, Some(at(1_060))).await;
    site.sign_in(&short).await;
    let session = site.api.handles.tokens.sessions(at(1_000)).unwrap().remove(0);
    assert_eq!(session.expires, at(1_060), "never beyond the token");
}

#[tokio::test]
async fn the_cookie_does_not_authenticate_api_routes() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    for route in table().iter().filter(|route| !route.is_page && route.path.starts_with("/api/")) {
        let path = route.path.replace("{environment}", "dev").replace("{token}", "x").replace("{id}", "x");
        let mut ask = site.post(&path, "").cookie(&cookie);
        ask.method = route.method.clone();
        let status = ask.send().await.status;
        // So many requests without a token are finally slowed down.
        assert!(matches!(status, 401 | 429), "{} {path}: {status}", route.method);
    }
    let status = site.get("/metrics").cookie(&cookie).send().await.status;
    assert!(matches!(status, 401 | 429), "{status}");
}

#[tokio::test]
async fn a_session_records_the_address_it_was_opened_from() {
    let site = local();
    site.visitor("anna", Role::Admin).await;
    let session = site.api.handles.tokens.sessions(at(1_000)).unwrap().remove(0);
    assert_eq!(session.from.as_deref(), Some("192.0.2.7"));
}

// The cookie.

#[tokio::test]
async fn the_cookie_attributes_match_the_site() {
    for (site, expected) in [
        (local(), ("abide_session", "/", false)),
        (public("https://ci.example.com"), ("__Host-abide", "/", true)),
        (public("https://ci.example.com/abide/"), ("__Secure-abide", "/abide/", true)),
        (public("http://ci.example.com"), ("abide_session", "/", false)),
        (site(None, "192.0.2.1:8443", true, "ci.lan:8443"), ("__Host-abide", "/", true)),
    ] {
        let (name, path, is_secure) = expected;
        let (_, credential) = site.token("anna", Role::Admin, None).await;
        let answer = site.post("/login", &login_form(&credential)).send().await;
        let cookie = answer.header("set-cookie");
        let flags: Vec<&str> = cookie.split("; ").collect();
        assert!(flags[0].starts_with(&format!("{name}=")), "{cookie}");
        assert!(flags.contains(&format!("Path={path}").as_str()), "{cookie}");
        assert!(flags.contains(&"HttpOnly") && flags.contains(&"SameSite=Lax"), "{cookie}");
        assert_eq!(flags.contains(&"Secure"), is_secure, "{cookie}");
        assert!(!cookie.contains("Domain"), "{cookie}");
        let other = answer.cookie().unwrap().replace(name, "other");
        assert_eq!(site.get("/").cookie(&other).send().await.status, 303);
        assert_eq!(site.get("/").cookie(&answer.cookie().unwrap()).send().await.status, 200);
    }
}

#[tokio::test]
async fn request_headers_cannot_change_the_cookie_or_the_links() {
    let site = public("https://ci.example.com/abide");
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let ask = site.post("/login", &login_form(&credential));
    let ask = ask.with("x-forwarded-proto", "http").with("x-forwarded-host", "evil.example");
    let answer = ask.with("x-forwarded-prefix", "/evil").send().await;
    assert_eq!(answer.header("location"), "/abide/");
    assert!(answer.cookie().unwrap().starts_with("__Secure-abide="));
    let page =
        site.get("/").cookie(&answer.cookie().unwrap()).with("x-forwarded-prefix", "/evil").send().await;
    assert!(
        page.text.contains("href=\"/abide/environments/dev\"") && !page.text.contains("evil"),
        "{}",
        page.text
    );
}

// Requests of other sites.

#[tokio::test]
async fn a_form_from_another_site_or_port_is_rejected() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    let post = || site.post("/logout", "").cookie(&cookie).without("sec-fetch-site");
    let refused = [
        post(),
        post().with("sec-fetch-site", "cross-site"),
        post().with("sec-fetch-site", "same-site"),
        post().with("sec-fetch-site", "same-site").with("origin", format!("http://{LOCAL}")),
        post().with("sec-fetch-site", "nonsense"),
        post().with("origin", "null"),
        post().with("origin", "http://evil.example"),
        post().with("origin", "http://abide.localhost:9090"),
        post().with("origin", "http://abide.localhost"),
        post().with("origin", LOCAL),
    ];
    for ask in refused {
        let headers = format!("{:?}", ask.headers);
        let answer = ask.send().await;
        assert_eq!(answer.status, 403, "{headers}");
        assert!(answer.text.contains("was not sent by a page of abide"), "{}", answer.text);
        assert_eq!(site.get("/").cookie(&cookie).send().await.status, 200, "{headers}");
    }
    assert_eq!(post().with("origin", format!("http://{LOCAL}")).send().await.status, 303);
}

#[tokio::test]
async fn behind_a_reverse_proxy_the_origin_must_match_the_public_url() {
    let site = public("https://ci.example.com:8443");
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let login = |origin: &str| {
        // This proxy drops the port of the host name.
        site.post("/login", &login_form(&credential)).without("sec-fetch-site").with("origin", origin)
    };
    assert_eq!(login("https://ci.example.com").send().await.status, 403);
    assert_eq!(login("http://ci.example.com:8443").send().await.status, 403);
    assert_eq!(login("https://ci.example.com:8443").send().await.status, 303);
}

#[tokio::test]
async fn no_get_request_changes_anything() {
    for route in table().iter().filter(|route| route.is_page) {
        assert!(matches!(route.method, Method::GET | Method::POST), "{}", route.path);
    }
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    assert_eq!(site.get("/logout").cookie(&cookie).send().await.status, 405);
    assert_eq!(site.get("/").cookie(&cookie).send().await.status, 200);
}

// Headers.

#[tokio::test]
async fn every_page_has_its_security_headers() {
    let site = public("https://ci.example.com");
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    for path in [
        "/",
        "/environments/dev",
        "/environments/nowhere",
        "/login",
        "/assets/none",
        "/activity",
        "/hosts",
        "/outbox",
        "/tokens",
        "/environments/dev/logs",
        "/environments/dev/logs.txt",
        "/environments/dev/builds",
        "/environments/dev/logs/follow",
        "/environments/dev/history",
        "/environments/dev/events",
        "/groups/shop-prod",
        "/promotions/shop-prod",
    ] {
        let answer = site.get(path).cookie(&cookie).send().await;
        let policy = answer.header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(part), "{path}: {part}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert!(answer.header("strict-transport-security").starts_with("max-age="), "{path}");
    }
    assert_eq!(local().get("/login").send().await.header("strict-transport-security"), "");
}

#[tokio::test]
async fn a_page_has_no_inline_code_and_no_external_sources() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    site.api.ready("dev", 2).await;
    for path in ["/", "/environments/dev", "/login", "/environments/nowhere"] {
        let text = site.get(path).cookie(&cookie).send().await.text;
        for inline in [" style=", "<style", " onclick", " onload", "javascript:", "<script>"] {
            assert!(!text.contains(inline), "{path} has {inline}");
        }
        for (at, _) in text.match_indices("src=\"") {
            assert!(text[at..].starts_with("src=\"/assets/"), "{path}: {}", &text[at..at + 40]);
        }
    }
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

// Names that point here.

#[tokio::test]
async fn an_unknown_host_header_gets_no_page() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    let status = async |host: &str| site.get("/").cookie(&cookie).with("host", host).send().await.status;
    for host in [
        "evil.example",
        "evil.example:8080",
        "192.0.2.7",
        "localhost.evil.example",
        "",
        "0.0.0.0:8080",
        PUBLIC,
    ] {
        assert_eq!(status(host).await, 421, "{host}");
        let login = site.get("/login").with("host", host).send().await;
        assert_eq!(login.status, 421, "{host}");
    }
    for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:9000", "ABIDE.localhost.:8080"] {
        assert_eq!(status(host).await, 200, "{host}");
    }
    assert_eq!(site.get("/").cookie(&cookie).without("host").send().await.status, 421);
    let behind = public("https://ci.example.com");
    assert_eq!(behind.get("/login").send().await.status, 200);
    assert_eq!(behind.get("/login").with("host", "evil.example").send().await.status, 421);
    assert_eq!(site.get("/healthz").with("host", "evil.example").send().await.status, 200, "not a page");
}

// The login.

#[tokio::test]
async fn every_failed_login_gets_the_same_response() {
    let site = local();
    let (revoked, of_revoked) = site.token("revoked", Role::Admin, None).await;
    let stamp = AuditStamp { at: at(1), by: "alice".into() };
    site.api.handles.token_writer.revoke(&revoked.id, stamp).await.unwrap();
    let (_, of_agent) = site.token("agent", agent("online"), None).await;
    let (_, of_expired) = site.token("expired", Role::Admin, Some(at(1_000))).await;
    let (good, _) = site.token("good", Role::Admin, None).await;
    let forms = [
        login_form(&of_revoked),
        login_form(&of_agent),
        login_form(&of_expired),
        login_form(&Credential::new(good.id.clone(), [0; 32])),
        "next=%2F&token=abide_x".to_owned(),
        "next=%2F&token=".to_owned(),
        "next=%2F&token=AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        "next=%2F".to_owned(),
    ];
    let mut answers = Vec::new();
    for form in &forms {
        let answer = site.post("/login", form).send().await;
        assert_eq!((answer.status, answer.cookie()), (401, None), "{form}");
        answers.push(answer.text);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert!(!answers[0].contains("good") && !answers[0].contains("online"), "it names nothing");
}

#[tokio::test]
async fn repeated_login_failures_are_rate_limited_but_a_valid_token_is_not() {
    let site = local();
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let mut last = 0;
    for _ in 0..25 {
        last = site.post("/login", "token=abide_x").send().await.status;
    }
    assert_eq!(last, 429);
    site.sign_in(&credential).await;
}

#[tokio::test]
async fn a_login_continues_to_the_requested_page() {
    let site = public("https://ci.example.com/abide");
    let answer = site.get("/environments/dev?moved=3").send().await;
    let expected = "/abide/login?next=%2Fenvironments%2Fdev%3Fmoved%3D3";
    assert_eq!((answer.status, answer.header("location")), (303, expected));
    let page = site.get("/login?next=%2Fenvironments%2Fdev%3Fmoved%3D3").send().await;
    assert!(page.text.contains("value=\"/environments/dev?moved=3\""), "{}", page.text);
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let token = credential.text();
    for (next, expected) in [
        ("%2Fenvironments%2Fdev", "/abide/environments/dev"),
        ("%2F%2Fevil.example", "/abide/"),
        ("https%3A%2F%2Fevil.example", "/abide/"),
        ("%2F%5Cevil.example", "/abide/"),
        ("%2Fx%0D%0ASet-Cookie%3A%20a%3Db", "/abide/"),
        ("", "/abide/"),
    ] {
        let form = format!("next={next}&token={}", token.expose());
        assert_eq!(site.post("/login", &form).send().await.header("location"), expected, "{next}");
    }
}

#[tokio::test]
async fn the_login_page_reveals_no_names() {
    let site = local();
    site.api.ready("dev", 1).await;
    for ask in [site.get("/login"), site.get("/login?next=%2Fenvironments%2Fprod")] {
        let text = ask.send().await.text.replace("/environments/prod", "");
        for known in ["dev", "test", "prod", "lab", "keepwork", "Board"] {
            assert!(!text.split(|c: char| !c.is_alphanumeric()).any(|word| word == known), "{known}: {text}");
        }
    }
}

// Users of this host.

#[tokio::test]
async fn a_one_time_link_is_for_users_of_this_host_and_works_once() {
    let site = local();
    let socket = site.api.router().layer(from_fn(name_caller));
    let request = Request::post("/api/v1/login").body(Body::empty()).unwrap();
    let answer = socket.oneshot(request).await.unwrap();
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    let body = to_bytes(answer.into_body(), 1 << 16).await.unwrap();
    let link: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let url = link["url"].as_str().unwrap();
    let code = url.strip_prefix("http://abide.localhost:8080/login#code=").unwrap();
    let form = format!("next=%2F&token={code}");
    let cookie = site.post("/login", &form).send().await.cookie().unwrap();
    let page = site.get("/").cookie(&cookie).send().await;
    assert!(page.text.contains("local · admin"), "{}", page.text);
    let session = site.api.handles.tokens.sessions(at(1_000)).unwrap().remove(0);
    assert_eq!(session.expires, at(1_000 + 12 * 3_600));
    assert_eq!(site.post("/login", &form).send().await.status, 401, "it was used");

    let (_, admin) = site.token("admin", Role::Admin, None).await;
    let bearer = format!("Bearer {}", admin.bearer().expose());
    assert_eq!(site.post("/api/v1/login", "").with("authorization", bearer).send().await.status, 403);
}

#[tokio::test]
async fn a_login_link_uses_the_public_url_if_configured() {
    let site = public("https://ci.example.com/abide");
    let url = PublicUrl::parse("https://ci.example.com/abide").unwrap();
    let (link, local) = site.api.state.pages.link(Some(&url), "alice", Duration::from_secs(60)).unwrap();
    assert!(link.expose().starts_with("https://ci.example.com/abide/login#code="));
    assert!(local.expose().starts_with("http://abide.localhost:8080/login#code="));
}

// Roles, and what is on the pages.

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

// The forms.

/// The generation of an environment now.
fn generation(site: &Site, environment: &str) -> u64 {
    site.api.handles.desired.get(&name(environment)).unwrap().entry.generation.0
}

#[tokio::test]
async fn a_rollback_notice_is_built_from_the_record() {
    let site = local();
    let (_, cookie) = site.visitor("anna", deployer(&["dev"])).await;
    site.api.ready("dev", 3).await;
    let page = site.get("/environments/dev").cookie(&cookie).send().await.text;
    assert!(page.contains("<option value=\"2\" selected>"), "{page}");
    let form = "seen=3&to=1&reason=out%20of%20memory%20%3Cb%3E";
    let answer = site.post("/environments/dev/rollback", form).cookie(&cookie).send().await;
    assert_eq!((answer.status, answer.header("location")), (303, "/environments/dev?moved=4"));
    let desired = site.api.handles.desired.get(&name("dev")).unwrap();
    assert_eq!(desired.entry.by.as_deref(), Some("token anna (192.0.2.7, page)"));
    assert_eq!(desired.entry.note.as_deref(), Some("rolled back to generation 1: out of memory <b>"));
    assert!(desired.hold.is_some());
    let page = site.get("/environments/dev?moved=4").cookie(&cookie).send().await.text;
    assert!(page.contains("dev: generation 4 is recorded, rolled back by anna"), "{page}");
    assert!(page.contains("out of memory &lt;b&gt;") && page.contains("Resume dev"), "{page}");
    let page = site.get("/environments/dev?moved=99").cookie(&cookie).send().await.text;
    assert!(!page.contains("is recorded, "), "the record has no such generation");
}

#[tokio::test]
async fn a_repeated_or_stale_form_changes_nothing_and_keeps_its_input() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    site.api.ready("dev", 3).await;
    let send = async |form: &str| site.post("/environments/dev/rollback", form).cookie(&cookie).send().await;
    assert_eq!(send("seen=3&to=1&reason=slow").await.status, 303);
    let again = send("seen=3&to=1&reason=slow%20%22quoted%22").await;
    assert_eq!((again.status, generation(&site, "dev")), (409, 4));
    assert!(again.text.contains("Nothing was changed."), "{}", again.text);
    assert!(again.text.contains("You saw generation 3, image 000000000000"), "{}", again.text);
    assert!(
        again.text.contains("Now it is generation 4") && again.text.contains("rolled back by you"),
        "{}",
        again.text
    );
    assert!(again.text.contains("value=\"slow &quot;quoted&quot;\""), "{}", again.text);
    assert!(again.text.contains("name=\"seen\" value=\"4\""), "{}", again.text);
    assert_eq!(send("to=1").await.status, 400, "the form must say what was seen");
    assert_eq!(send("seen=x&to=1").await.status, 400);
    assert_eq!(generation(&site, "dev"), 4);
}

#[tokio::test]
async fn a_hold_needs_a_reason_and_a_resume_ends_it() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    site.api.ready("dev", 1).await;
    let refused = site.post("/environments/dev/hold", "seen=1&reason=%20").cookie(&cookie).send().await;
    assert_eq!(refused.status, 400);
    assert!(refused.text.contains("issing `reason`"), "{}", refused.text);
    let held = site.post("/environments/dev/hold", "seen=1&reason=demo").cookie(&cookie).send().await;
    assert_eq!(held.header("location"), "/environments/dev?did=hold");
    let page = site.get("/environments/dev?did=hold").cookie(&cookie).send().await.text;
    assert!(page.contains("dev is held"), "{page}");
    let resumed = site.post("/environments/dev/resume", "seen=1").cookie(&cookie).send().await;
    assert_eq!(resumed.header("location"), "/environments/dev?did=resume");
    assert!(site.api.handles.desired.get(&name("dev")).unwrap().hold.is_none());
    let page = site.get("/environments/dev?did=hold").cookie(&cookie).send().await.text;
    assert!(!page.contains("dev is held"), "a notice is made from the record: {page}");
}

#[tokio::test]
async fn the_set_form_matches_how_the_environment_is_supplied() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    site.api.ready("dev", 1).await;
    let page = site.get("/environments/dev").cookie(&cookie).send().await.text;
    assert!(page.contains("name=\"commit\"") && !page.contains("name=\"image\""));
    let page = site.get("/environments/lab").cookie(&cookie).send().await.text;
    assert!(page.contains("name=\"image\"") && !page.contains("name=\"commit\""));
    let commit = "a".repeat(40);
    let set =
        site.post("/environments/dev/set", &format!("seen=1&commit={commit}")).cookie(&cookie).send().await;
    assert_eq!(set.header("location"), "/environments/dev?moved=2");
    let wrong =
        site.post("/environments/lab/set", "seen=0&image=nginx%3Alatest").cookie(&cookie).send().await;
    assert_eq!(wrong.status, 400);
    assert!(
        wrong.text.contains("has no digest") && wrong.text.contains("value=\"nginx:latest\""),
        "{}",
        wrong.text
    );
}

#[tokio::test]
async fn a_promotion_is_rejected_if_either_side_changed() {
    let site = local();
    let (_, cookie) = site.visitor("anna", deployer(&["prod"])).await;
    site.api.ready("test", 2).await;
    let page = site.get("/promotions/prod").cookie(&cookie).send().await;
    assert_eq!(page.status, 200);
    let digest = format!("sha256:{:064x}", 2);
    assert!(page.text.contains(&format!("name=\"digest\" value=\"{digest}\"")), "{}", page.text);
    assert!(page.text.contains("The two versions cannot be compared"), "{}", page.text);
    let old = format!("from=test&seen=0&digest=sha256%3A{:064x}", 1);
    let stale = site.post("/environments/prod/promote", &old).cookie(&cookie).send().await;
    assert_eq!((stale.status, generation(&site, "prod")), (409, 0));
    assert!(stale.text.contains("href=\"/promotions/prod\""), "{}", stale.text);
    let form = format!("from=test&seen=0&digest={}", digest.replace(':', "%3A"));
    let done = site.post("/environments/prod/promote", &form).cookie(&cookie).send().await;
    assert_eq!(done.header("location"), "/environments/prod?moved=1");
    let twice = site.post("/environments/prod/promote", &form).cookie(&cookie).send().await;
    assert_eq!((twice.status, generation(&site, "prod")), (409, 1));
    let page = site.get("/promotions/prod").cookie(&cookie).send().await.text;
    assert!(page.contains("prod has this image already, as generation 1."), "{page}");
    assert_eq!(site.get("/promotions/dev").cookie(&cookie).send().await.status, 404);
}

#[tokio::test]
async fn a_visitor_without_write_access_gets_no_forms() {
    let site = local();
    site.api.ready("test", 2).await;
    let (_, viewer) = site.visitor("viewer", Role::Viewer).await;
    let (_, of_dev) = site.visitor("deployer", deployer(&["dev"])).await;
    for cookie in [&viewer, &of_dev] {
        for path in ["/environments/test", "/promotions/prod"] {
            let text = site.get(path).cookie(cookie).send().await.text;
            assert_eq!(text.matches("<form").count(), 1, "only the logout: {path}: {text}");
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

fn hostile(environment: &str) -> Status {
    let message = "<script>alert(1)</script> \u{202e}txt.exe & \"quoted\" \u{1b}[31m".to_owned();
    let (condition, reason) = (Condition::Degraded, Reason::CrashLoop);
    Status { condition, reason, message, ..status(environment, 1) }
}

#[tokio::test]
async fn untrusted_text_is_escaped_on_pages() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    site.api.ready("dev", 1).await;
    site.api.report(&hostile("dev")).await;
    for path in ["/", "/environments/dev"] {
        let text = site.get(path).cookie(&cookie).send().await.text;
        assert!(text.contains("&lt;script&gt;alert(1)&lt;/script&gt; ⟨U+202E⟩txt.exe"), "{path}: {text}");
        assert!(
            !text.contains("<script>") && !text.contains('\u{202e}') && !text.contains('\u{1b}'),
            "{path}"
        );
    }
    let text = site.get("/environments/%3Cscript%3E").cookie(&cookie).send().await.text;
    assert!(text.contains("&lt;script&gt;") && !text.contains("<script>"), "{text}");
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
