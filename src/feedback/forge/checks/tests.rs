//! Checks of commits as each forge reports them.

use std::convert::Infallible;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::model::checks::CheckResult::{self, Failed, Passed, Pending, Skipped};
use crate::model::checks::RequiredCheck;
use crate::model::forge::ForgeToken;
use crate::model::name::{BranchName, CommitId};
use crate::model::spec::SecretRef;

const SHA: &str = "a41d90be77c2a41d90be77c2a41d90be77c2a41d";

/// Status, headers and body of an answer.
type Page = (u16, Vec<(&'static str, String)>, String);

/// A request.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    validator: Option<String>,
    authorization: Option<String>,
}

/// A forge whose answers are fixed, by path with query.
#[derive(Clone, Default)]
struct Pages {
    pages: Arc<Mutex<BTreeMap<String, Page>>>,
    /// Each request.
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Tokens that begin like this are answered with 401.
    revoked: Arc<Mutex<Option<String>>>,
}

impl Pages {
    fn set(&self, path: &str, body: Value) {
        self.set_page(path, (200, Vec::new(), body.to_string()));
    }

    fn set_page(&self, path: &str, page: Page) {
        self.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    async fn serve(&self, kind: ForgeKind) -> ForgeSpec {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let pages = pages.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let path = request.uri().path_and_query().unwrap().to_string();
                    let header = |name: &str| {
                        request.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
                    };
                    let (validator, authorization) = (header("if-none-match"), header("authorization"));
                    let revoked = pages.revoked.lock().unwrap().clone();
                    let is_revoked = revoked.is_some_and(|revoked| {
                        authorization
                            .as_ref()
                            .is_some_and(|sent| sent.starts_with(&format!("Bearer {revoked}")))
                    });
                    let asked = Asked { path: path.clone(), validator: validator.clone(), authorization };
                    pages.asked.lock().unwrap().push(asked);
                    let page = pages.pages.lock().unwrap().get(&path).cloned();
                    let missing = || (404, Vec::new(), json!({ "message": "Not Found" }).to_string());
                    let (mut status, headers, mut text) = page.unwrap_or_else(missing);
                    if is_revoked {
                        (status, text) = (401, json!({ "message": "Bad credentials" }).to_string());
                    }
                    let etag = headers.iter().find(|(name, _)| *name == "etag").map(|(_, etag)| etag.clone());
                    if !is_revoked && etag.is_some() && etag == validator {
                        (status, text) = (304, String::new());
                    }
                    let mut response = Response::builder().status(status);
                    for (name, value) in headers {
                        response = response.header(name, value);
                    }
                    let response = response.body(Full::new(Bytes::from(text))).unwrap();
                    async move { Ok::<_, Infallible>(response) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        let token = tempfile::tempdir().unwrap().keep().join("token");
        std::fs::write(&token, "sesame-token\n").unwrap();
        ForgeSpec {
            kind,
            api: format!("http://{address}"),
            repository: if kind == ForgeKind::Gitlab { "group/sub/app".into() } else { "team/app".into() },
            token: ForgeToken::Token(SecretRef::SecretFile(token)),
            statuses: true,
            deployments: false,
            allow_private: true,
        }
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn query(spec: &ForgeSpec) -> ChecksQuery {
    let (branch, commit) = (BranchName::new("rel/1").unwrap(), CommitId::new(SHA).unwrap());
    ChecksQuery { forge: spec.clone(), branch, commit, with_required: true }
}

async fn read(reader: &CheckReader, spec: &ForgeSpec) -> Result<CommitChecks, ChecksUnknown> {
    reader.read(&query(spec)).await
}

fn results(checks: &CommitChecks) -> Vec<(&str, CheckResult)> {
    checks.found.iter().map(|found| (found.name.as_str(), found.result)).collect()
}

/// GitHub's lists without any check.
fn empty_github(pages: &Pages) {
    pages.set(
        &format!("/repos/team/app/commits/{SHA}/check-runs?filter=latest&per_page=100"),
        json!({ "check_runs": [] }),
    );
    pages.set(
        &format!("/repos/team/app/commits/{SHA}/status?per_page=100"),
        json!({ "state": "pending", "statuses": [] }),
    );
    pages.set("/repos/team/app/rules/branches/rel%2F1?per_page=100", json!([]));
    pages.set("/repos/team/app/branches/rel%2F1", json!({ "protected": false }));
}

#[tokio::test]
async fn github_checks_include_all_pages_statuses_and_required_checks() {
    let pages = Pages::default();
    let spec = pages.serve(ForgeKind::Github).await;
    empty_github(&pages);
    let runs = format!("/repos/team/app/commits/{SHA}/check-runs?filter=latest&per_page=100");
    let run = |name: &str, status: &str, conclusion: Option<&str>| json!({ "name": name, "status": status, "conclusion": conclusion, "app": { "id": 7 } });
    let first = json!({ "check_runs": [
        run("a", "completed", Some("success")), run("b", "completed", Some("neutral")), run("c", "waiting", None),
        run("d", "completed", Some("stale")), run("e", "completed", Some("a-new-word")), run("f", "a-new-word", None),
    ] });
    let second = format!("{runs}&page=2");
    let link = format!("<{}{second}>; rel=\"next\", <{}{second}>; rel=\"last\"", spec.api, spec.api);
    pages.set_page(&runs, (200, vec![("link", link)], first.to_string()));
    pages.set(&second, json!({ "check_runs": [run("late", "completed", Some("failure"))] }));
    let statuses = json!({ "state": "pending", "statuses": [
        { "context": "ci/s", "state": "success" }, { "context": "ci/p", "state": "pending" },
        { "context": "ci/e", "state": "error" }, { "context": "Abide/prod", "state": "pending" },
    ] });
    pages.set(&format!("/repos/team/app/commits/{SHA}/status?per_page=100"), statuses);
    let rules = json!([
        { "type": "deletion" },
        { "type": "required_status_checks", "parameters": { "required_status_checks": [
            { "context": "a", "integration_id": 7 }, { "context": "abide/prod" },
        ] } },
    ]);
    pages.set("/repos/team/app/rules/branches/rel%2F1?per_page=100", rules);
    let protection =
        json!({ "protection": { "required_status_checks": { "contexts": ["a", "ci/s"], "checks": [] } } });
    pages.set("/repos/team/app/branches/rel%2F1", protection);
    let found = read(&CheckReader::new(|| at(0)), &spec).await.unwrap();
    let expected = [
        ("a", Passed),
        ("b", Skipped),
        ("c", Pending),
        ("d", Failed),
        ("e", Failed),
        ("f", Pending),
        ("late", Failed),
        ("ci/s", Passed),
        ("ci/p", Pending),
        ("ci/e", Failed),
    ];
    assert_eq!(results(&found), expected);
    let required: Vec<_> = found.required.iter().map(|check| (check.name.as_str(), check.app)).collect();
    assert_eq!(required, [("a", Some(7)), ("ci/s", None)]);
}

#[tokio::test]
async fn required_checks_are_queried_only_if_needed() {
    for (kind, asked) in [(ForgeKind::Github, 2), (ForgeKind::Gitea, 1)] {
        let pages = Pages::default();
        let spec = pages.serve(kind).await;
        empty_github(&pages);
        pages.set(&format!("/repos/team/app/commits/{SHA}/statuses?limit=50&page=1"), json!([]));
        let named = ChecksQuery { with_required: false, ..query(&spec) };
        assert_eq!(CheckReader::new(|| at(0)).read(&named).await.unwrap(), CommitChecks::default());
        assert_eq!(pages.asked().len(), asked, "{kind:?}: {:?}", pages.asked());
    }
}

#[tokio::test]
async fn a_repeated_request_for_checks_sends_its_validator() {
    let pages = Pages::default();
    let spec = pages.serve(ForgeKind::Github).await;
    empty_github(&pages);
    let statuses = format!("/repos/team/app/commits/{SHA}/status?per_page=100");
    let body = json!({ "statuses": [{ "context": "ci", "state": "success" }] }).to_string();
    pages.set_page(&statuses, (200, vec![("etag", "\"one\"".to_owned())], body));
    let reader = CheckReader::new(|| at(0));
    let first = read(&reader, &spec).await.unwrap();
    assert_eq!(read(&reader, &spec).await.unwrap(), first);
    let asked = pages.asked().into_iter().filter(|asked| asked.path == statuses);
    let asked: Vec<_> = asked.map(|asked| asked.validator).collect();
    assert_eq!(asked, [None, Some("\"one\"".to_owned())]);
}

#[tokio::test]
async fn an_endless_list_of_checks_is_an_error() {
    let pages = Pages::default();
    let spec = pages.serve(ForgeKind::Github).await;
    empty_github(&pages);
    let runs = format!("/repos/team/app/commits/{SHA}/check-runs?filter=latest&per_page=100");
    let link = format!("<{}{runs}>; rel=\"next\"", spec.api);
    pages.set_page(&runs, (200, vec![("link", link)], json!({ "check_runs": [] }).to_string()));
    let unknown = read(&CheckReader::new(|| at(0)), &spec).await.unwrap_err();
    assert!(unknown.why.contains("more than 1000 rows"), "{unknown}");
    assert!(pages.asked().len() <= MOST_PAGES);
}

#[tokio::test]
async fn checks_back_off_after_a_forge_refuses() {
    static NOW: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let runs = format!("/repos/team/app/commits/{SHA}/check-runs?filter=latest&per_page=100");
    let limit = ("retry-after", "30".to_owned());
    let cases = [
        (401, Vec::new(), "Bad credentials", true, 60_000),
        (404, Vec::new(), "Not Found", true, 60_000),
        (403, vec![limit.clone()], "You have exceeded a secondary rate limit", false, 30_000),
        (429, vec![limit], "", false, 30_000),
    ];
    for (status, headers, message, is_denied, pause) in cases {
        NOW.store(0, std::sync::atomic::Ordering::Relaxed);
        let pages = Pages::default();
        let spec = pages.serve(ForgeKind::Github).await;
        empty_github(&pages);
        let page = pages.pages.lock().unwrap()[&runs].clone();
        pages.set_page(&runs, (status, headers, json!({ "message": message }).to_string()));
        let reader = CheckReader::new(|| at(NOW.load(std::sync::atomic::Ordering::Relaxed)));
        let unknown = read(&reader, &spec).await.unwrap_err();
        assert_eq!((unknown.is_denied, unknown.not_before), (is_denied, Some(at(pause))), "{unknown}");
        assert!(unknown.why.contains("team/app") && !unknown.why.contains("sesame"), "{unknown}");
        pages.set_page(&runs, page);
        NOW.store(pause - 1, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(read(&reader, &spec).await.unwrap_err(), unknown);
        assert_eq!(pages.asked().len(), 1, "nothing was asked meanwhile");
        NOW.store(pause, std::sync::atomic::Ordering::Relaxed);
        assert!(read(&reader, &spec).await.is_ok());
    }
}

#[tokio::test]
async fn gitlab_reports_its_newest_pipeline_and_jobs_by_name() {
    let pages = Pages::default();
    let spec = pages.serve(ForgeKind::Gitlab).await;
    let pipelines = format!("/projects/group%2Fsub%2Fapp/pipelines?sha={SHA}&ref=rel%2F1&per_page=100");
    let jobs =
        format!("/projects/group%2Fsub%2Fapp/repository/commits/{SHA}/statuses?ref=rel%2F1&per_page=100");
    pages.set(
        &pipelines,
        json!([
            { "id": 9, "status": "success", "source": "external" },
            { "id": 8, "status": "manual", "source": "push" },
            { "id": 7, "status": "success", "source": "push" },
        ]),
    );
    let page = json!([
        { "id": 1, "name": "test", "status": "failed" }, { "id": 3, "name": "test", "status": "success" },
        { "id": 2, "name": "abide/dev", "status": "running", "pipeline_id": 9 },
    ]);
    pages.set_page(&jobs, (200, vec![("x-next-page", "2".to_owned())], page.to_string()));
    pages.set(&format!("{jobs}&page=2"), json!([{ "id": 4, "name": "lint", "status": "skipped" }]));
    let found = read(&CheckReader::new(|| at(0)), &spec).await.unwrap();
    assert_eq!(results(&found), [("pipeline", Pending), ("test", Passed), ("lint", Failed)]);
    assert_eq!(found.required, [RequiredCheck::named("pipeline")]);
}

/// GitLab adds a status of abide to the pipeline of the commit, which then waits for abide.
#[tokio::test]
async fn gitlab_pipelines_do_not_wait_for_statuses_of_abide() {
    let pages = Pages::default();
    let spec = pages.serve(ForgeKind::Gitlab).await;
    let project = "/projects/group%2Fsub%2Fapp";
    let statuses = format!("{project}/repository/commits/{SHA}/statuses?ref=rel%2F1&per_page=100");
    let of = |part: &str| format!("{project}/pipelines/8/{part}?per_page=100");
    let own = json!({ "id": 5, "name": "abide/dev", "status": "pending", "pipeline_id": 8 });
    let foreign = json!({ "id": 6, "name": "scan", "status": "success", "pipeline_id": 8 });
    pages.set(
        &format!("{project}/pipelines?sha={SHA}&ref=rel%2F1&per_page=100"),
        json!([{ "id": 8, "status": "running", "source": "push" }]),
    );
    pages.set(&statuses, json!([own, foreign]));
    pages.set(&of("bridges"), json!([]));
    for (jobs, expected) in [
        (json!([{ "id": 1, "name": "test", "status": "success" }]), Passed),
        (
            json!([
                // Without `include_retried`, GitLab lists no job that was repeated, and the newest comes first.
                { "id": 3, "name": "lint", "status": "failed", "allow_failure": true },
                { "id": 2, "name": "test", "status": "success" },
                { "id": 4, "name": "deploy", "status": "manual", "allow_failure": true },
            ]),
            Passed,
        ),
        (
            json!([
                { "id": 1, "name": "test", "status": "success" }, { "id": 2, "name": "pack", "status": "created" },
            ]),
            Pending,
        ),
        (json!([{ "id": 1, "name": "gate", "status": "manual", "allow_failure": false }]), Pending),
        (json!([{ "id": 1, "name": "test", "status": "waiting_for_callback" }]), Pending),
        (json!([{ "id": 1, "name": "test", "status": "canceling" }]), Failed),
        (
            json!([
                { "id": 1, "name": "test", "status": "failed" }, { "id": 2, "name": "pack", "status": "skipped" },
            ]),
            Failed,
        ),
    ] {
        pages.set(&of("jobs"), jobs.clone());
        let found = read(&CheckReader::new(|| at(0)), &spec).await.unwrap();
        assert_eq!(results(&found), [("pipeline", expected), ("scan", Passed)], "{jobs}");
    }
    // A trigger job is listed apart, and counts as one.
    let bridge =
        json!([{ "id": 9, "name": "child", "status": "failed", "downstream_pipeline": { "id": 5 } }]);
    pages.set(&of("bridges"), bridge);
    pages.set(&of("jobs"), json!([{ "id": 1, "name": "test", "status": "success" }]));
    let found = read(&CheckReader::new(|| at(0)), &spec).await.unwrap();
    assert_eq!(results(&found), [("pipeline", Failed), ("scan", Passed)]);
    // A status in another pipeline changes nothing.
    let own = json!({ "id": 5, "name": "abide/dev", "status": "pending", "pipeline_id": 7 });
    pages.set(&statuses, json!([own]));
    let found = read(&CheckReader::new(|| at(0)), &spec).await.unwrap();
    assert_eq!(results(&found), [("pipeline", Pending)]);
}

#[tokio::test]
async fn gitea_reports_the_newest_status_of_each_context() {
    let pages = Pages::default();
    let spec = pages.serve(ForgeKind::Gitea).await;
    let statuses = format!("/repos/team/app/commits/{SHA}/statuses?limit=50&page=1");
    // Old versions answer with nothing.
    pages.set_page(&statuses, (200, Vec::new(), String::new()));
    pages.set("/repos/team/app/branches/rel%2F1", json!({ "enable_status_check": false }));
    let reader = CheckReader::new(|| at(0));
    assert_eq!(read(&reader, &spec).await.unwrap(), CommitChecks::default());
    pages.set(&statuses, json!([
        { "id": 2, "context": "ci", "status": "success" }, { "id": 5, "context": "ci", "status": "failure" },
        { "id": 4, "context": "CI", "status": "warning" }, { "id": 6, "context": "abide/dev", "status": "pending" },
    ]));
    let required = json!({ "enable_status_check": true, "status_check_contexts": ["ci*", "abide/dev"] });
    pages.set("/repos/team/app/branches/rel%2F1", required);
    let found = read(&reader, &spec).await.unwrap();
    assert_eq!(results(&found), [("ci", Failed), ("CI", Passed)]);
    assert_eq!(found.required, [RequiredCheck::named("ci*")]);
}

#[tokio::test]
async fn bitbucket_reports_statuses_by_key_and_name() {
    for kind in [ForgeKind::Bitbucket, ForgeKind::BitbucketServer] {
        let pages = Pages::default();
        let spec = pages.serve(kind).await;
        let (first, second) = if kind == ForgeKind::Bitbucket {
            let first = format!("/repositories/team/app/commit/{SHA}/statuses?pagelen=100");
            (first.clone(), format!("{first}&page=2"))
        } else {
            let base = format!("/rest/build-status/1.0/commits/{SHA}?limit=100");
            (format!("{base}&start=0"), format!("{base}&start=100"))
        };
        pages.set(
            &first,
            json!({
                "values": [
                    { "key": "k1", "name": "Build", "state": "SUCCESSFUL" },
                    { "key": "abide-dev", "name": "abide dev", "state": "INPROGRESS" },
                ],
                "next": format!("{}{second}", spec.api), "isLastPage": false, "nextPageStart": 100,
            }),
        );
        pages.set(
            &second,
            json!({ "values": [{ "key": "k2", "name": "", "state": "STOPPED" }], "isLastPage": true }),
        );
        let found = read(&CheckReader::new(|| at(0)), &spec).await.unwrap();
        assert_eq!(results(&found), [("k1", Passed), ("k2", Failed)], "{kind:?}");
        assert!(
            RequiredCheck::named("build").is(&found.found[0])
                && RequiredCheck::named("k1").is(&found.found[0])
        );
    }
}

#[tokio::test]
async fn a_page_on_another_host_is_not_followed() {
    let pages = Pages::default();
    let spec = pages.serve(ForgeKind::Bitbucket).await;
    let first = format!("/repositories/team/app/commit/{SHA}/statuses?pagelen=100");
    pages.set(&first, json!({ "values": [], "next": "http://127.0.0.2:1/steal" }));
    let found = read(&CheckReader::new(|| at(0)), &spec).await.unwrap();
    assert_eq!(found, CommitChecks::default());
}

/// What openssl prints.
fn openssl(arguments: &[&str]) -> Vec<u8> {
    let ran = std::process::Command::new("openssl").args(arguments).output().unwrap();
    assert!(ran.status.success(), "{arguments:?}: {ran:?}");
    ran.stdout
}

#[tokio::test]
async fn an_app_exchanges_a_signed_jwt_for_a_cached_token() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    openssl(&["genrsa", "-traditional", "-out", &file("app.pem"), "2048"]);
    openssl(&["rsa", "-in", &file("app.pem"), "-pubout", "-out", &file("app.pub")]);
    let pages = Pages::default();
    let spec = pages.serve(ForgeKind::Github).await;
    let token = ForgeToken::App { id: "Iv1.example".to_owned(), key_file: file("app.pem").into() };
    let spec = ForgeSpec { token, ..spec };
    empty_github(&pages);
    let reader = CheckReader::new(|| at(0));
    let absent = read(&reader, &spec).await.unwrap_err();
    assert!(absent.is_denied && absent.why.contains("the app is not installed on team/app"), "{absent}");

    // A token is as long as GitHub likes.
    let long = format!("ghs_12345_{}", "x".repeat(600));
    pages.set("/repos/team/app/installation", json!({ "id": 77 }));
    let issued = json!({ "token": long, "expires_at": "2999-01-01T00:00:00Z" });
    pages.set_page("/app/installations/77/access_tokens", (201, Vec::new(), issued.to_string()));
    let reader = CheckReader::new(|| at(0));
    read(&reader, &spec).await.unwrap();
    read(&reader, &spec).await.unwrap();
    let asked = pages.asked();
    let exchanges = asked.iter().filter(|asked| asked.path.ends_with("/access_tokens")).count();
    assert_eq!(exchanges, 1, "the token is kept");
    assert_eq!(asked.last().unwrap().authorization, Some(format!("Bearer {long}")));

    let claim = asked.iter().rfind(|asked| asked.path.ends_with("/installation")).unwrap();
    let jwt = claim.authorization.as_deref().unwrap().strip_prefix("Bearer ").unwrap();
    let (signed, signature) = jwt.rsplit_once('.').unwrap();
    std::fs::write(file("signed"), signed).unwrap();
    std::fs::write(file("signature"), URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    let verify =
        ["dgst", "-sha256", "-verify", &file("app.pub"), "-signature", &file("signature"), &file("signed")];
    assert_eq!(openssl(&verify), b"Verified OK\n");
    let part =
        |text: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap() };
    let (header, claims) = signed.split_once('.').unwrap();
    assert_eq!(part(header), json!({ "alg": "RS256", "typ": "JWT" }));
    let claims = part(claims);
    let (issued, ends) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
    assert_eq!(claims["iss"], "Iv1.example");
    assert!(ends - issued <= 660, "GitHub accepts ten minutes from now, and the claim begins a minute ago");

    // A token that GitHub revoked is replaced at once, and only once.
    let exchanges = || pages.asked().iter().filter(|asked| asked.path.ends_with("/access_tokens")).count();
    let page = |token: &str| {
        let issued = json!({ "token": token, "expires_at": "2999-01-01T00:00:00Z" });
        pages.set_page("/app/installations/77/access_tokens", (201, Vec::new(), issued.to_string()));
    };
    *pages.revoked.lock().unwrap() = Some(long.clone());
    page("ghs_second");
    read(&reader, &spec).await.unwrap();
    assert_eq!(
        (exchanges(), pages.asked().last().unwrap().authorization.as_deref()),
        (2, Some("Bearer ghs_second"))
    );
    *pages.revoked.lock().unwrap() = Some("ghs_".to_owned());
    page("ghs_third");
    assert!(read(&reader, &spec).await.unwrap_err().is_denied, "GitHub rejects the new token too");
    assert_eq!(exchanges(), 3);
}
