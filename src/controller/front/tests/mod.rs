//! The front on a real engine, with a real nginx image built from this host's nginx.
//!
//! Servers of the test itself act as the environments' containers. The front is on the host's network and
//! reaches them.

#[path = "../../../../tests/common/nginx.rs"]
mod nginx;

mod backend;
mod https;
mod load;
mod mend;
mod serve;
mod site;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch as channel};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::controller::cache::containers::ContainerCache;
use crate::controller::cache::watch::EngineState;
use crate::controller::docker::Engine;
use crate::controller::jobs::registries::Registries;
use crate::metrics::{MetricSnapshot, Metrics};
use crate::model::manifest::{SourceFile, parse};
use crate::ports::free_ports;

/// The timeout on a host that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// If set, tests that need an engine are skipped.
const WITHOUT_DOCKER: &str = "ABIDE_TEST_WITHOUT_DOCKER";

/// A front with its own image. Everything that it created is removed at the end.
struct Rig {
    front: FrontHandle,
    manifest: channel::Sender<Arc<Manifest>>,
    record: String,
    image: String,
    http: u16,
    ports: [u16; 2],
    /// Extra lines of the `[front]` table.
    front_lines: String,
    wake: WakeQueue,
    worker: Option<DropGuard>,
    metrics: Metrics,
    _watcher: DropGuard,
    /// The folder of certificates.
    _certificates: tempfile::TempDir,
}

impl Rig {
    /// Starts a front for `dev` and `test`; `None` if the tests on Docker are skipped.
    async fn start() -> Option<Self> {
        Self::start_with("").await
    }

    /// Starts the same front with more lines in its table.
    async fn start_with(front_lines: &str) -> Option<Self> {
        let [http] = free_ports();
        Self::start_on(http, front_lines).await
    }

    /// Starts it on this port for host names.
    async fn start_on(http: u16, front_lines: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if std::env::var_os(WITHOUT_DOCKER).is_some() {
            return None;
        }
        let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_micros();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let record =
            format!("{:05x}{:03x}{}", moment & 0xf_ffff, (std::process::id() + 97 * count) & 0xfff, count);
        let image = format!("abide-t-front-{record}");
        nginx::nginx_image(&image, &format!("abide.test={record}"));
        let [dev, test] = free_ports();
        let certificates = tempfile::tempdir().unwrap();
        let (manifest, seen) = channel::channel(declared(&image, http, [dev, test], front_lines));
        let wake = WakeQueue::default();
        let front = FrontHandle::new(
            &record,
            seen,
            wake.clone(),
            Guard::none(),
            Acme::new(certificates.path().join("c")),
        );
        let _watcher = watch_containers(front.clone());
        let front_lines = front_lines.to_owned();
        let ports = [dev, test];
        let mut rig = Self {
            front,
            manifest,
            record,
            image,
            http,
            ports,
            front_lines,
            wake,
            worker: None,
            metrics: Metrics::default(),
            _watcher,
            _certificates: certificates,
        };
        rig.begin();
        Some(rig)
    }

    /// Starts the worker, as a daemon does.
    fn begin(&mut self) {
        // A daemon's channel outlives the worker; here its last value is enough.
        let (_, known) = channel::channel(EngineState::Known);
        let engine = Arc::new(Engine::new(None));
        let cache = Arc::new(ContainerCache::new(self.record.clone()));
        let registries = Arc::new(Registries::new(self.front.manifest.clone()));
        let period = Duration::from_secs(1);
        let worker = FrontReconciler::new(
            self.front.clone(),
            engine,
            registries,
            cache,
            self.record.clone(),
            known,
            period,
        )
        .measured_by(self.metrics.clone());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(worker.run()).await });
        let (front, stopped) = (self.front.clone(), stop.clone());
        tokio::spawn(async move { stopped.run_until_cancelled(front.keep_certificates()).await });
        self.worker = Some(stop.drop_guard());
    }

    /// Ends the worker like a crash of the daemon, and forgets the requested routes.
    fn crash(&mut self) {
        self.worker = None;
        *self.front.state() = FrontState::default();
    }

    fn declare(&self, manifest: Arc<Manifest>) {
        self.manifest.send_replace(manifest);
    }

    fn redeclare(&self) -> Arc<Manifest> {
        declared(&self.image, self.http, self.ports, &self.front_lines)
    }

    fn route(&self, environment: &str, container: &str, address: SocketAddr) {
        self.front.route(&name(environment), Some(Route::to_container(container, address)));
    }

    fn no_route(&self, environment: &str) {
        self.front.route(&name(environment), None);
    }

    fn seen(&self, environment: &str) -> FrontSeen {
        self.front.seen(&name(environment)).unwrap_or_default()
    }

    /// Waits until an environment is really served from this container.
    async fn serves(&self, environment: &str, container: &str) -> FrontSeen {
        eventually(&format!("{environment} is served from {container}"), || async {
            let seen = self.seen(environment);
            (seen.serves.as_deref() == Some(container)).then_some(seen)
        })
        .await
        .unwrap_or_else(|why| panic!("{why}: {:?} {:?}", self.seen(environment), self.front.warnings()))
    }

    fn container(&self) -> &str {
        &self.front.name
    }

    fn inspect(&self, format: &str) -> String {
        docker(&["inspect", "--format", format, self.container()]).unwrap_or_default()
    }

    /// Sends `GET /` with a host name.
    async fn by_name(&self, host: &str) -> Answer {
        get(self.http, host, "/").await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.worker = None;
        let mine = format!("label=abide.record={}", self.record);
        let found = docker(&["ps", "--all", "--quiet", "--filter", &mine]).unwrap_or_default();
        for id in found.lines() {
            let _ = docker(&["rm", "--force", id]);
        }
        let _ = docker(&["rmi", "--force", &self.image]);
    }
}

/// Replaces the engine watcher: reports changed containers to the front.
fn watch_containers(front: FrontHandle) -> DropGuard {
    use futures::StreamExt as _;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = async move {
        let engine = Engine::new(None);
        let mut happenings = Box::pin(engine.happenings(None).await.unwrap());
        while let Some(Ok(happening)) = happenings.next().await {
            use crate::controller::docker::Happening;
            match happening {
                Happening::Container { id, names, .. } => front.note_change(&id, &names),
                Happening::Inside { id } | Happening::Signal { id, .. } => front.note_change(&id, &[]),
                _ => {}
            }
        }
    };
    tokio::spawn(async move { stopped.run_until_cancelled(task).await });
    stop.drop_guard()
}

fn declared(image: &str, http: u16, [dev, test]: [u16; 2], front_lines: &str) -> Arc<Manifest> {
    let text = format!(
        "[front]\nimage = \"{image}\"\nhttp = {http}\ndrain = \"5s\"\n{front_lines}\n\
         [environment.dev]\ncontainer = \"dev-server\"\nport = {dev}\nhostname = \"dev.example\"\n\
         [environment.test]\ncontainer = \"test-server\"\nport = {test}\npublish = \"127.0.0.1:{test}\"\n"
    );
    Arc::new(parse(&[SourceFile { name: "m.toml".to_owned(), text }]).unwrap())
}

fn name(environment: &str) -> EnvironmentName {
    EnvironmentName::new(environment).unwrap()
}

fn docker(arguments: &[&str]) -> Option<String> {
    let output = Command::new("docker").args(arguments).output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Reads a file in the front's container.
fn read(rig: &Rig, path: &str) -> Option<String> {
    let archive = Command::new("docker")
        .args(["cp", &format!("{}:{path}", rig.container()), "-"])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let mut archive = tar::Archive::new(archive.stdout.as_slice());
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut entry, &mut text).ok()?;
    Some(text)
}

/// Polls until `look` returns a value.
async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> Result<T, String> {
    let began = tokio::time::Instant::now();
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{what}: not within {PATIENCE:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An answer with its status, head and body.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// Returns any answer; the status is 0 if there is none.
async fn get(port: u16, host: &str, path: &str) -> Answer {
    let nothing = |why: String| Answer { status: 0, head: String::new(), body: why };
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n");
    match tokio::time::timeout(PATIENCE, exchange(port, &request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => nothing(error.to_string()),
        Err(_) => nothing("no answer in time".to_owned()),
    }
}

async fn exchange(port: u16, request: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.unwrap_or(0), head: head.to_owned(), body: body.to_owned() })
}

/// Returns the certificate that a port presents.
fn presented(port: u16, name: &str) -> Option<String> {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let begin = text.find("-----BEGIN CERTIFICATE")?;
    Some(text[begin..text.find("-----END CERTIFICATE")?].to_owned())
}
