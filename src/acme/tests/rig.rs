//! A keeper of certificates at pebble, through a proxy that counts, refuses, advises and holds.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::{Acme, CertificateOwner, DesiredCertificates, Pair, now};
use crate::model::name::{EnvironmentName, SiteName};
use crate::model::spec::{AcmeSpec, DnsSpec};
use crate::pebble::Pebble;
use crate::tls::AlpnProtocol;
use crate::tls::client::{Connector, Trust};
use crate::tls::identity::{Files, Identity};

const PATIENCE: Duration = Duration::from_secs(90);

/// What a proxy before pebble counts and does.
#[derive(Default)]
struct Proxy {
    orders: usize,
    advices: usize,
    replaced: Vec<String>,
    refuses_for: Option<u64>,
    advice: Option<(Duration, Duration)>,
    hold_after: String,
    is_held: bool,
    is_away: bool,
    loses_account: bool,
}

pub(super) struct Rig {
    pebble: Arc<Pebble>,
    pub(super) acme: Acme,
    dir: tempfile::TempDir,
    wanted: Option<DesiredCertificates>,
    spec: AcmeSpec,
    proxy: Arc<Mutex<Proxy>>,
    staging: Arc<Mutex<Proxy>>,
    task: Option<DropGuard>,
    _proxies: Vec<DropGuard>,
}

impl Rig {
    pub(super) fn new(pebble: &Arc<Pebble>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let proxy = Arc::<Mutex<Proxy>>::default();
        let (port, guard) = serve(pebble, &proxy);
        let spec = AcmeSpec {
            email: Some("ops@example.com".to_owned()),
            directory: format!("https://127.0.0.1:{port}/dir"),
            staging: None,
            ca_file: Some(pebble.root()),
            profile: None,
            dns: None,
            resolver: Some(pebble.name_server()),
        };
        let acme = Acme::new(dir.path().join("certificates"));
        let mut rig = Self {
            pebble: Arc::clone(pebble),
            acme,
            dir,
            wanted: None,
            spec,
            proxy,
            staging: Arc::default(),
            task: None,
            _proxies: vec![guard],
        };
        rig.start();
        rig
    }

    pub(super) fn with_staging(mut self) -> Self {
        let (port, guard) = serve(&self.pebble, &self.staging);
        self.spec.staging = Some(format!("https://127.0.0.1:{port}/dir"));
        self._proxies.push(guard);
        self
    }

    /// The command adds records to pebble's name server, and logs its words.
    pub(super) fn with_dns_command(mut self) -> Self {
        let (path, log) = (self.dir.path().join("hook"), self.dir.path().join("calls"));
        let script = format!(
            "#!/bin/bash\necho \"$@\" >>{}\ncase $1 in present) verb=set-txt ;; *) verb=clear-txt ;; esac\n\
             [ \"$verb\" = set-txt ] || exit 0\n\
             body=\"{{\\\"host\\\":\\\"$2\\\",\\\"value\\\":\\\"$3\\\"}}\"\n\
             exec 3<>/dev/tcp/127.0.0.1/{}\n\
             printf 'POST /%s HTTP/1.0\\r\\nHost: x\\r\\nContent-Length: %s\\r\\n\\r\\n%s' $verb ${{#body}} \"$body\" >&3\n\
             cat <&3 >/dev/null\n",
            log.display(),
            self.pebble.management(),
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self.spec.dns = Some(DnsSpec {
            command: vec![path.display().to_string()],
            env: BTreeMap::new(),
            timeout: Duration::from_secs(30),
            propagation: Duration::from_secs(30),
        });
        self
    }

    pub(super) fn profile(&mut self, name: &str) {
        self.spec.profile = Some(name.to_owned());
    }

    /// Wants certificates, once the challenges of their names are answered with this account's thumbprint.
    pub(super) fn want(&mut self, sets: &[(&str, &[&str])]) {
        let name = |text: &&str| SiteName::new(*text).unwrap();
        let sets: BTreeMap<_, _> = sets
            .iter()
            .map(|(environment, names)| (owner(environment), names.iter().map(name).collect()))
            .collect();
        let wanted = DesiredCertificates {
            spec: self.spec.clone(),
            http: self.pebble.http_port(),
            answers: true,
            sets,
        };
        self.wanted = Some(wanted);
        self.request_sets();
    }

    fn request_sets(&self) {
        let Some(wanted) = self.wanted.clone() else { return };
        self.acme.want(Some(DesiredCertificates { answers: false, ..wanted.clone() }));
        let began = std::time::Instant::now();
        let thumbprint = loop {
            if let Some(thumbprint) = self.acme.thumbprint() {
                break thumbprint;
            }
            assert!(began.elapsed() < PATIENCE, "no thumbprint");
            std::thread::sleep(Duration::from_millis(5));
        };
        for name in wanted.sets.values().flatten() {
            self.pebble.answer(name.as_str(), &thumbprint);
        }
        self.acme.want(Some(wanted));
    }

    /// Has the keeper look again now.
    pub(super) fn check_now(&self) {
        self.request_sets();
    }

    fn start(&mut self) {
        let (stop, acme) = (CancellationToken::new(), self.acme.clone());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(acme.run(|| {})).await });
        self.task = Some(stop.drop_guard());
    }

    /// Ends the keeper in the middle of whatever it does.
    pub(super) fn crash(&mut self) {
        self.task = None;
        self.acme = Acme::new(self.dir.path().join("certificates"));
    }

    pub(super) fn restart(&mut self) {
        self.crash();
        self.start();
        self.request_sets();
    }

    /// Restarts as if all pauses were over.
    pub(super) fn forget_pauses(&mut self) {
        self.crash();
        let folder = self.dir.path().join("certificates");
        let sets = std::fs::read_dir(folder.join("sets")).unwrap().flatten().map(|entry| entry.path());
        for path in sets.chain([folder.join("names.json")]).filter(|path| path.exists()) {
            let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            soon(&mut value);
            std::fs::write(&path, value.to_string()).unwrap();
        }
        self.start();
        self.request_sets();
    }

    /// Waits until the keeper has looked at everything again.
    pub(super) async fn settled(&self) {
        // A round may be under way that began before.
        for _ in 0..2 {
            let before = self.acme.rounds();
            self.check_now();
            self.until("a round is over", |rig| rig.acme.rounds() > before).await;
        }
    }

    pub(super) async fn until(&self, what: &str, is_it: impl Fn(&Self) -> bool) -> &Self {
        let began = tokio::time::Instant::now();
        while !is_it(self) {
            assert!(began.elapsed() < PATIENCE, "{what}: {:?}", (self.acme.trouble(), self.problems()));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self
    }

    pub(super) async fn problem(&self, environment: &str) -> String {
        let owner = owner(environment);
        let found = |rig: &Self| rig.acme.report(&owner).and_then(|report| report.problem);
        self.until("there is a problem", |rig| found(rig).is_some_and(|why| !why.contains("challenges yet")))
            .await;
        found(self).unwrap()
    }

    fn problems(&self) -> Vec<Option<String>> {
        let sets = self.wanted.iter().flat_map(|wanted| wanted.sets.keys());
        sets.map(|owner| self.acme.report(owner)?.problem).collect()
    }

    // --- what it has ----------------------------------------------------------------------------

    pub(super) fn pairs(&self, is_issued: bool) -> Vec<Arc<Pair>> {
        self.acme
            .pairs()
            .into_iter()
            .filter(|pair| pair.is_issued == is_issued && pair.until > now())
            .collect()
    }

    pub(super) fn is_certified(&self, name: &str) -> bool {
        self.has(true, name)
    }

    pub(super) fn stands_in(&self, name: &str) -> bool {
        self.has(false, name)
    }

    fn has(&self, is_issued: bool, name: &str) -> bool {
        let name = SiteName::new(name).unwrap();
        self.pairs(is_issued).iter().any(|pair| pair.names.contains(&name))
    }

    pub(super) fn dns_calls(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    // --- the proxy ------------------------------------------------------------------------------

    fn proxy(&self) -> MutexGuard<'_, Proxy> {
        self.proxy.lock().unwrap()
    }

    pub(super) fn orders(&self) -> usize {
        self.proxy().orders
    }

    pub(super) fn staging_orders(&self) -> usize {
        self.staging.lock().unwrap().orders
    }

    pub(super) fn advices(&self) -> usize {
        self.proxy().advices
    }

    pub(super) fn replaced(&self) -> Vec<String> {
        self.proxy().replaced.clone()
    }

    pub(super) fn is_held(&self) -> bool {
        self.proxy().is_held
    }

    /// Answers new orders with 429 and this `Retry-After`, in seconds.
    pub(super) fn refuse_orders(&self, seconds: Option<u64>) {
        self.proxy().refuses_for = seconds;
    }

    /// Advises a window, from now.
    pub(super) fn advise(&self, window: (Duration, Duration)) {
        self.proxy().advice = Some(window);
    }

    /// Passes requests to paths that begin so on, and answers them never.
    pub(super) fn hold_after(&self, path: &str) {
        let mut proxy = self.proxy();
        (proxy.hold_after, proxy.is_held) = (path.to_owned(), false);
    }

    pub(super) fn go_away(&self, is_away: bool) {
        self.proxy().is_away = is_away;
    }

    /// Answers the next new order as an authority that does not know the account.
    pub(super) fn lose_account(&self) {
        self.proxy().loses_account = true;
    }
}

/// Sets every time for which something waits to the past.
fn soon(value: &mut Value) {
    let past = json!("2026-01-01T00:00:00.000Z");
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if matches!(key.as_str(), "retry_at" | "ask_at") {
                    *value = past.clone();
                } else {
                    soon(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(soon),
        _ => {}
    }
}

/// Starts a proxy before pebble; returns its port.
fn serve(pebble: &Arc<Pebble>, proxy: &Arc<Mutex<Proxy>>) -> (u16, DropGuard) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (certificate, key) = pebble.certificate();
    let acceptor = Identity::given(Files { certificate, key }).unwrap().acceptor().unwrap();
    let connector = Connector::new(&Trust::File(pebble.root()), AlpnProtocol::Http1).unwrap();
    let (upstream, proxy) = (pebble.port(), Arc::clone(proxy));
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let accept = async move {
        let listener = TcpListener::from_std(listener).unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            if proxy.lock().unwrap().is_away {
                continue;
            }
            let (acceptor, connector, proxy) = (acceptor.clone(), connector.clone(), Arc::clone(&proxy));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let pass = service_fn(move |request| {
                    pass_on(request, connector.clone(), upstream, Arc::clone(&proxy))
                });
                let served = hyper::server::conn::http1::Builder::new();
                let _ = served.serve_connection(TokioIo::new(stream), pass).await;
            });
        }
    };
    tokio::spawn(async move { stopped.run_until_cancelled(accept).await });
    (port, stop.drop_guard())
}

type Answer = Response<Full<Bytes>>;

async fn pass_on(
    request: Request<Incoming>,
    connector: Connector,
    upstream: u16,
    proxy: Arc<Mutex<Proxy>>,
) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path().to_owned();
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let is_order = path == "/order-plz" && !body.is_empty();
    if path.starts_with("/advice/") {
        return Ok(advice(&proxy));
    }
    let replaces = is_order.then(|| payload(&body)["replaces"].as_str().map(str::to_owned)).flatten();
    if is_order {
        let mut proxy = proxy.lock().unwrap();
        if std::mem::take(&mut proxy.loses_account) {
            return Ok(problem(StatusCode::BAD_REQUEST, "accountDoesNotExist", "unknown account", None));
        }
        if let Some(seconds) = proxy.refuses_for {
            proxy.orders += 1;
            let detail = "too many certificates already issued";
            return Ok(problem(StatusCode::TOO_MANY_REQUESTS, "rateLimited", detail, Some(seconds)));
        }
    }
    let stream = connector.connect("127.0.0.1", upstream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let answer = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
    let (mut head, body) = answer.into_parts();
    let mut body = body.collect().await?.to_bytes();
    let is_held = {
        let mut proxy = proxy.lock().unwrap();
        // A request that pebble refused for its nonce is sent again, and is not another order.
        if is_order && head.status.is_success() {
            proxy.orders += 1;
            proxy.replaced.extend(replaces.clone());
        }
        let holds =
            !proxy.hold_after.is_empty() && path.starts_with(&proxy.hold_after) && head.status.is_success();
        proxy.is_held |= holds;
        holds
    };
    if is_held {
        std::future::pending::<()>().await;
    }
    let has_advice = proxy.lock().unwrap().advice.is_some();
    if path == "/dir" && has_advice {
        body = edited(&body, |value| value["renewalInfo"] = json!(format!("https://{host}/advice")));
    }
    if let Some(replaces) = replaces.filter(|_| head.status.is_success()) {
        body = edited(&body, |value| value["replaces"] = json!(replaces));
    }
    head.headers.remove(TRANSFER_ENCODING);
    head.headers.insert(CONTENT_LENGTH, body.len().into());
    Ok(Response::from_parts(head, Full::new(body)))
}

fn edited(body: &Bytes, edit: impl FnOnce(&mut Value)) -> Bytes {
    let mut value = serde_json::from_slice(body).unwrap();
    edit(&mut value);
    value.to_string().into()
}

fn payload(body: &Bytes) -> Value {
    let message: Value = serde_json::from_slice(body).unwrap_or_default();
    let payload = message["payload"].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    payload.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default()
}

fn advice(proxy: &Mutex<Proxy>) -> Answer {
    let mut proxy = proxy.lock().unwrap();
    proxy.advices += 1;
    let (start, end) = proxy.advice.unwrap_or_default();
    // In whole seconds, and in the past for a window of no length to come.
    let at = |after: Duration| humantime::format_rfc3339_seconds(std::time::SystemTime::now() + after);
    let earlier = std::time::SystemTime::now() - Duration::from_secs(7200);
    let (start, end) = if end < Duration::from_secs(1) {
        (humantime::format_rfc3339_seconds(earlier), at(Duration::ZERO))
    } else {
        (at(start), at(end))
    };
    let body = json!({"suggestedWindow": {"start": start.to_string(), "end": end.to_string()}}).to_string();
    let mut answer = Response::new(Full::new(body.into()));
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("21600"));
    answer
}

fn problem(status: StatusCode, kind: &str, detail: &str, retry_after: Option<u64>) -> Answer {
    let body = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": status.as_u16()});
    let mut answer = Response::new(Full::new(body.to_string().into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer
}

/// Answers every connection to a socket with these bytes, until dropped.
pub(super) async fn answering(address: &str, port: u16, answer: &'static str) -> DropGuard {
    let listener = TcpListener::bind((address, port)).await.unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let accept = async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    };
    tokio::spawn(async move { stopped.run_until_cancelled(accept).await });
    stop.drop_guard()
}

/// An environment as the owner of certificates.
pub(super) fn owner(environment: &str) -> CertificateOwner {
    CertificateOwner::Environment(EnvironmentName::new(environment).unwrap())
}
