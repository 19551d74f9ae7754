//! A git server over HTTP: `git http-backend` behind a small CGI bridge, with or without a login.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::fixture::{Kept, Origin, assert_no_process_with, branch, command_lines_with};
use crate::model::container::Secret;
use crate::source::{Remote, SourceError};

struct Server {
    port: u16,
    /// Command lines that contained the password during a request.
    leaks: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Site {
    root: PathBuf,
    login: Option<(&'static str, &'static str)>,
    leaks: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(root: &Path, login: Option<(&'static str, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let leaks = Arc::default();
        let site = Site { root: root.to_owned(), login, leaks: Arc::clone(&leaks) };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let site = site.clone();
                let service = service_fn(move |request| answer(site.clone(), request));
                let served = hyper::server::conn::http1::Builder::new();
                tokio::spawn(served.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { port, leaks, task }
    }

    fn url(&self, userinfo: &str) -> String {
        format!("http://{userinfo}127.0.0.1:{}/.git", self.port)
    }
}

async fn answer(site: Site, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Some((user, password)) = site.login {
        site.leaks.lock().unwrap().extend(command_lines_with(password));
        let token = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let shown = request.headers().get("authorization").and_then(|v| v.to_str().ok());
        if shown != Some(&format!("Basic {token}")) {
            let refusal = Response::builder().status(401).header("www-authenticate", "Basic realm=\"x\"");
            return Ok(refusal.body(Full::default()).unwrap());
        }
    }
    Ok(backend(&site.root, request).await)
}

async fn backend(root: &Path, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let variables = HashMap::from([
        ("CONTENT_TYPE", header("content-type").to_owned()),
        ("HTTP_CONTENT_ENCODING", header("content-encoding").to_owned()),
        ("GIT_PROTOCOL", header("git-protocol").to_owned()),
        ("REQUEST_METHOD", request.method().to_string()),
        ("PATH_INFO", request.uri().path().to_owned()),
        ("QUERY_STRING", request.uri().query().unwrap_or_default().to_owned()),
        ("GIT_PROJECT_ROOT", root.to_str().unwrap().to_owned()),
        ("GIT_HTTP_EXPORT_ALL", "1".to_owned()),
    ]);
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut child = Command::new("git")
        .arg("http-backend")
        .envs(variables)
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    tokio::spawn(async move { input.write_all(&body).await });
    let output = child.wait_with_output().await.unwrap().stdout;
    from_cgi(&output)
}

fn from_cgi(output: &[u8]) -> Response<Full<Bytes>> {
    let end = output.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let mut response = Response::builder();
    for line in std::str::from_utf8(&output[..end]).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(&value[..3]),
            _ => response.header(name, value),
        };
    }
    response.body(Full::new(Bytes::copy_from_slice(&output[end + 4..]))).unwrap()
}

#[tokio::test]
async fn a_tree_is_checked_out_from_an_http_server() {
    let (origin, commit) = Origin::with_one_commit();
    let server = Server::start(origin.path(), None).await;
    let remote = Remote::new(&server.url("")).unwrap();
    assert_eq!(remote.head(&branch("master")).await.unwrap(), Some(commit.clone()));
    let kept = Kept::of(remote);
    kept.mirror.ensure(&commit, Some(&branch("master"))).await.unwrap();
    let tree = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    assert_eq!((tree.files, tree.bytes), (1, 6));
}

#[tokio::test]
async fn a_git_login_never_appears_on_a_command_line_or_in_a_file() {
    let (origin, commit) = Origin::with_one_commit();
    let server = Server::start(origin.path(), Some(("a@nn", "canary-42"))).await;
    let remote = Remote::new(&server.url("")).unwrap();
    let kept = Kept::of(remote.with_login("a@nn".to_owned(), Secret::new("canary-42")));
    kept.mirror.ensure(&commit, Some(&branch("master"))).await.unwrap();
    assert_eq!(*server.leaks.lock().unwrap(), Vec::<String>::new());
    let config = std::fs::read_to_string(kept.dir().join("config")).unwrap();
    let marker = std::fs::read_to_string(kept.dir().join("abide-mirror")).unwrap();
    let written = format!("{config} {marker} {:?}", kept.mirror);
    assert!(!written.contains("canary"), "{written}");
}

#[tokio::test]
async fn a_wrong_or_missing_login_is_denied_at_once_and_never_shown() {
    let (origin, _) = Origin::with_one_commit();
    let server = Server::start(origin.path(), Some(("ann", "right"))).await;
    let remote = |userinfo: &str| Remote::new(&server.url(userinfo)).unwrap();
    let wrong = |user: &str, password| remote("").with_login(user.to_owned(), Secret::new(password));
    for remote in [remote(""), remote("canary@"), wrong("ann", "canary"), wrong("canary", "")] {
        let error = remote.heads().await.unwrap_err();
        assert!(matches!(error, SourceError::Denied { .. }), "{error:?}");
        assert!(error.is_transient());
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn a_repository_hidden_by_its_server_is_a_temporary_error() {
    let (origin, _) = Origin::with_one_commit();
    let server = Server::start(&origin.path().join(".git/refs"), None).await;
    let error = Remote::new(&server.url("")).unwrap().heads().await.unwrap_err();
    assert!(matches!(error, SourceError::NotFound { .. }) && error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_stopped_http_server_is_reported_as_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let remote = Remote::new(&format!("http://127.0.0.1:{port}/x.git")).unwrap();
    let remote = remote.with_login("u".to_owned(), Secret::new("canary"));
    let error = remote.heads().await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
    assert!(error.is_transient());
    assert!(!format!("{error} {error:?}").contains("canary"));
    assert_no_process_with(&format!("127.0.0.1:{port}")).await;
}

#[tokio::test]
async fn a_changed_password_is_used_with_an_existing_mirror() {
    let (origin, commit) = Origin::with_one_commit();
    let server = Server::start(origin.path(), Some(("ann", "second"))).await;
    let remote =
        |password| Remote::new(&server.url("")).unwrap().with_login("ann".to_owned(), Secret::new(password));
    let kept = Kept::of(remote("first"));
    let denied = kept.mirror.ensure(&commit, None).await.unwrap_err();
    assert!(matches!(denied, SourceError::Denied { .. }), "{denied:?}");
    kept.mirror.again(remote("second")).ensure(&commit, None).await.unwrap();
}
