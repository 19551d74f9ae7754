//! A daemon's API with prepared answers, on a real socket and a real port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::Outcomes;
use crate::model::status::Condition;
use crate::model::view::EnvironmentView;

const WATCH: &str = "GET /api/v1/watch";

/// Answers by method and path, and a log of the requests.
#[derive(Clone, Default)]
pub(super) struct Api {
    answers: Arc<Mutex<BTreeMap<String, (u16, String)>>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// The view to show once this path was requested.
    later: Arc<Mutex<Option<(String, EnvironmentView)>>>,
    streams: Arc<Mutex<bool>>,
}

impl Api {
    pub(super) fn of(views: impl IntoIterator<Item = EnvironmentView>) -> Self {
        let api = Self::default();
        let views: Vec<_> = views.into_iter().collect();
        views.iter().for_each(|view| api.show(view));
        let overview = json!({ "environments": views, "warnings": [], "daemon": true });
        api.answer("GET /api/v1/environments", 200, overview.to_string());
        api
    }

    fn show(&self, view: &EnvironmentView) {
        let path = format!("GET /api/v1/environments/{}", view.environment);
        self.answer(&path, 200, serde_json::to_string(view).unwrap());
        let state = match view.status {
            Condition::Ready => "reached",
            Condition::Progressing => "waiting",
            _ => "ended",
        };
        let asked = "2026-11-28T00:00:00.000Z";
        let seen = json!({ "state": state, "message": view.message, "asked": asked, "environment": view });
        self.answer(&format!("{path}/wait"), 200, seen.to_string());
        let overview = json!({ "environments": [view], "warnings": [], "daemon": true });
        let path = format!("GET /api/v1/environments?environment={}", view.environment);
        self.answer(&path, 200, overview.to_string());
    }

    fn answer(&self, path: &str, status: u16, text: String) {
        self.answers.lock().unwrap().insert(path.to_owned(), (status, text));
    }

    pub(super) fn router(&self) -> axum::Router {
        axum::Router::new().fallback(serve).with_state(self.clone())
    }

    /// The view to show from this request on.
    fn turn(&self, path: &str) -> Option<EnvironmentView> {
        let mut later = self.later.lock().unwrap();
        let (_, view) = later.take_if(|(awaited, _)| awaited == path)?;
        self.show(&view);
        Some(view)
    }
}

async fn serve(State(api): State<Api>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let path = format!("{} {}", parts.method, parts.uri);
    let token = parts.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    if path != WATCH {
        api.asked.lock().unwrap().push(format!("{path} [{}] {body}", token.unwrap_or_default()));
    }
    let turned = api.turn(&path);
    if path == WATCH && *api.streams.lock().unwrap() {
        return stream(turned);
    }
    // Other tests check the query of a wait.
    let known = if path.contains("/wait?") { path.split('?').next().unwrap_or(&path) } else { &path };
    let answer = api.answers.lock().unwrap().get(known).cloned();
    let (status, text) = answer.unwrap_or_else(|| {
        (404, json!({ "error": "not-found", "message": format!("nothing at {path}") }).to_string())
    });
    (StatusCode::from_u16(status).unwrap(), text).into_response()
}

/// One event in two chunks, then nothing.
fn stream(view: Option<EnvironmentView>) -> Response {
    let text =
        view.map(|view| format!("event: environment\ndata: {}\n\n", serde_json::to_string(&view).unwrap()));
    let text = text.unwrap_or_default().into_bytes();
    let (head, tail) = text.split_at(text.len() / 2);
    let pieces = [head, tail].map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)));
    let silence = futures::stream::pending();
    Body::from_stream(futures::stream::iter(pieces).chain(silence)).into_response()
}

/// The API on a socket in its own folder, and on a TCP port.
pub(super) struct Daemon {
    api: Api,
    folder: tempfile::TempDir,
    listens: SocketAddr,
    _runtime: Runtime,
}

impl Daemon {
    pub(super) fn with(views: impl IntoIterator<Item = EnvironmentView>) -> Self {
        let api = Api::of(views);
        let folder = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let entered = runtime.enter();
        let socket = tokio::net::UnixListener::bind(folder.path().join("abide.sock")).unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        let listens = tcp.local_addr().unwrap();
        let tcp = tokio::net::TcpListener::from_std(tcp).unwrap();
        tokio::spawn(axum::serve(socket, api.router()).into_future());
        tokio::spawn(axum::serve(tcp, api.router()).into_future());
        drop(entered);
        Self { api, folder, listens, _runtime: runtime }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn listens(&self) -> SocketAddr {
        self.listens
    }

    pub(super) fn show(&self, view: &EnvironmentView) {
        self.api.show(view);
    }

    pub(super) fn answer(&self, path: &str, status: u16, value: &Value) {
        self.api.answer(path, status, value.to_string());
    }

    pub(super) fn answer_text(&self, path: &str, text: &str) {
        self.api.answer(path, 200, text.to_owned());
    }

    /// Shows `view` once the stream is opened, and sends an event on it.
    pub(super) fn once_watched(&self, view: &EnvironmentView) {
        *self.api.streams.lock().unwrap() = true;
        self.once_asked(WATCH, view);
    }

    /// Shows `view` once `path` was requested.
    pub(super) fn once_asked(&self, path: &str, view: &EnvironmentView) {
        *self.api.later.lock().unwrap() = Some((path.to_owned(), view.clone()));
    }

    /// The requests, without those for the stream.
    pub(super) fn asked(&self) -> Vec<String> {
        self.api.asked.lock().unwrap().clone()
    }

    /// The words of a command line, for the socket of this daemon.
    pub(super) fn words(&self, line: &str) -> Vec<String> {
        let line = format!("abide {line} --desired-state {}", self.folder().display());
        line.split_whitespace().map(ToOwned::to_owned).collect()
    }

    pub(super) fn typed(&self, line: &str, answers: Option<&'static str>) -> Outcomes {
        super::typed(&format!("{line} --desired-state {}", self.folder().display()), answers)
    }
}
