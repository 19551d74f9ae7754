//! The API over a real record, with the shared helpers of its tests.

mod access;
mod gates;
mod groups;
mod page;
mod read;
mod stream;
mod tokens;
mod verbs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::access::{Access, TokenGuard};
use super::agent::AgentHub;
use super::{ApiState, ControllerApi, ControllerError, Liveness, LogStream, ManifestState, router};
use crate::metrics::Metrics;
use crate::model::access::Token;
use crate::model::canary::{Canary, CanaryPercent, CanaryState, RequestCount};
use crate::model::desired::{Hold, Image, Origin, Outcome};
use crate::model::logs::LogOptions;
use crate::model::memory::Memory;
use crate::model::name::{
    BranchName, CommitId, ContainerName, Digest, EnvironmentName, Generation, GroupName, NetworkName,
    RepositoryName,
};
use crate::model::spec::{
    EnvironmentSpec, HealthSpec, HolderImage, Manifest, Probe, Publish, RestartMode, Supply,
};
use crate::model::status::{Condition, Reason, RunningContainer, Status};
use crate::model::time::Timestamp;
use crate::model::view::PlanView;
use crate::record::{Change, Handles, open};

pub(super) fn name(text: &str) -> EnvironmentName {
    EnvironmentName::new(text).unwrap()
}

pub(super) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000 + seconds * 1_000)
}

pub(super) fn hold() -> Hold {
    Hold { reason: "a demo".into(), by: "alice".into(), since: at(0), generation: Some(Generation(1)) }
}

/// Ready at `generation`, which runs `image(generation)`.
pub(super) fn status(environment: &str, generation: u64) -> Status {
    let running = RunningContainer {
        container_id: "c0ffee".into(),
        image_id: Some(digest(generation)),
        started_at: None,
        restarts: 2,
    };
    let why = (Condition::Ready, Reason::AsRecorded);
    let ready =
        Status::new(name(environment), Generation(generation), why, "all as recorded", at(generation));
    Status { running: Some(running), ..ready }
}

/// The same, with that generation as a canary beside another one.
pub(super) fn canary_status(environment: &str, generation: u64) -> Status {
    let canary = Canary {
        generation: Generation(generation),
        image: image(generation),
        fingerprint: String::new(),
        percent: CanaryPercent::default(),
        planned_millis: 900_000,
        served_millis: 240_000,
        seen_at: None,
        container: "c0ffee".to_owned(),
        ready_at: at(generation),
        ignored: None,
        earlier: RequestCount { requests: 1204, failed: 2 },
        counted: None,
        state: CanaryState::UnderWay,
    };
    let (condition, reason) = (Condition::Progressing, Reason::Canary);
    Status { canary: Some(canary), condition, reason, ..status(environment, generation) }
}

fn digest(number: u64) -> Digest {
    Digest::new(format!("sha256:{number:064x}")).unwrap()
}

fn image(number: u64) -> Image {
    Image { reference: None, digest: None, id: Some(digest(number)) }
}

fn commit(number: u64) -> CommitId {
    CommitId::new(format!("{number:040x}")).unwrap()
}

fn spec(container: &str, supply: Supply) -> EnvironmentSpec {
    EnvironmentSpec {
        group: None,
        replica: None,
        needs: BTreeMap::new(),
        container: ContainerName::new(container).unwrap(),
        port: Some(8900),
        publish: Some(Publish { address: None, port: 18900 }),
        hostnames: Vec::new(),
        https: None,
        site: crate::model::site::SiteSettings::default(),
        run: Default::default(),
        supply,
        pull_policy: Default::default(),
        command: None,
        env: BTreeMap::new(),
        volumes: vec![],
        extra_hosts: vec![],
        memory: None,
        nano_cpus: None,
        pids: None,
        init: true,
        stop_timeout: Duration::from_secs(10),
        update: None,
        restart: RestartMode::Always,
        health: HealthSpec {
            probe: Probe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            start_deadline: Duration::from_secs(30),
            healthy_for: Duration::from_secs(10),
            ..HealthSpec::default()
        },
        build: None,
        push: None,
        canary: None,
        gates: Default::default(),
        verify: None,
        release: None,
        after: None,
        jobs: BTreeMap::new(),
        checks: None,
        swarm: None,
        host: None,
        mark: None,
    }
}

/// `dev` and `test` track branches, `prod` is promoted from `test`, `lab` is set manually.
pub(super) fn manifest() -> ManifestState {
    let branch = |branch: &str| Supply::Branch {
        repository: RepositoryName::new("keepwork").unwrap(),
        branch: BranchName::new(branch).unwrap(),
    };
    let environments = [
        ("dev", spec("dev-server", branch("dev"))),
        ("test", spec("test-server", branch("master"))),
        ("prod", spec("prod-server", Supply::Promotion { from: name("test") })),
        ("lab", EnvironmentSpec { publish: None, ..spec("lab-server", Supply::Manual) }),
    ];
    let manifest = Manifest {
        repositories: BTreeMap::new(),
        environments: environments.map(|(text, spec)| (name(text), spec)).into(),
        network: NetworkName::new("abide").unwrap(),
        holder: HolderImage::default(),
        build_cache: None,
        guard: crate::model::spec::GuardMode::default(),
        parallel_updates: None,
        front: None,
        page: None,
        registry: None,
        registries: BTreeMap::new(),
        ..Manifest::default()
    };
    ManifestState::new(manifest, None)
}

/// Also the groups `shop-test` and `shop-prod`, each a `db` and a `web`; the second is promoted from the first.
pub(super) fn shops() -> ManifestState {
    let mut manifest = manifest().manifest;
    for group in ["shop-test", "shop-prod"] {
        for member in ["db", "web"] {
            let supply = match group {
                "shop-prod" => Supply::Promotion { from: name(&format!("shop-test-{member}")) },
                _ => Supply::Manual,
            };
            let container = format!("{group}-{member}");
            let group = Some(GroupName::new(group).unwrap());
            let declared = EnvironmentSpec { group, publish: None, ..spec(&container, supply) };
            manifest.environments.insert(name(&container), declared);
        }
    }
    ManifestState::new(manifest, None)
}

/// A controller with fixed answers.
#[derive(Clone)]
struct FakeController {
    liveness: Liveness,
    building: Option<u64>,
}

impl Default for FakeController {
    fn default() -> Self {
        let resync = Duration::from_secs(30);
        Self { liveness: Liveness { engine: true, observed: Some(at(1_000)), resync }, building: None }
    }
}

impl ControllerApi for FakeController {
    fn preview(&self, environment: EnvironmentName) -> BoxFuture<'static, Result<PlanView, ControllerError>> {
        async move {
            if environment.as_str() == "lab" {
                return Err(ControllerError("the Docker Engine does not answer".into()));
            }
            Ok(PlanView {
                environment,
                differences: vec![],
                upkeep: Vec::new(),
                steps: vec!["start it".into()],
                message: String::new(),
                differs: false,
            })
        }
        .boxed()
    }

    fn logs(
        &self,
        environment: EnvironmentName,
        options: LogOptions,
    ) -> BoxFuture<'static, Result<LogStream, ControllerError>> {
        let text = Bytes::from(format!("{environment} {options:?}\n"));
        async move { Ok(futures::stream::iter([Ok(text)]).boxed()) }.boxed()
    }

    fn alive(&self) -> Liveness {
        self.liveness
    }

    fn warnings(&self) -> Vec<String> {
        vec!["it is only a test".into()]
    }

    fn building(&self, _: &EnvironmentName) -> Option<crate::model::view::BuildProgress> {
        let (started, timeout_seconds, idle_timeout_seconds) = (at(1_000), 7200, 1800);
        self.building.map(|number| crate::model::view::BuildProgress {
            number,
            started,
            timeout_seconds,
            idle_timeout_seconds,
        })
    }
}

struct Api {
    handles: Handles,
    state: ApiState,
    manifest: watch::Sender<Arc<ManifestState>>,
    home: TempDir,
}

/// An answer, read completely.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts an error of `status` whose message contains `message`.
    fn refuses(&self, status: u16, message: &str) {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        let view = self.json();
        assert!(view["message"].as_str().unwrap().contains(message), "{message:?} is not in {view}");
        assert!(!view["error"].as_str().unwrap().is_empty());
    }

    /// The answer to an accepted command.
    fn moved(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.json()
    }
}

/// The API with a controller.
fn api() -> Api {
    api_with(Some(FakeController::default()))
}

fn api_with(controller: Option<FakeController>) -> Api {
    let home = tempfile::tempdir().unwrap();
    let handles = open(&home.path().join("record")).unwrap();
    let (manifest, receiver) = watch::channel(Arc::new(manifest()));
    let state = ApiState {
        hub: AgentHub::new(handles.reports.clone(), receiver.clone(), || at(1_000)),
        images: None,
        manifest: receiver,
        writer: handles.writer.clone(),
        desired: handles.desired.clone(),
        status: handles.status.clone(),
        token_writer: handles.token_writer.clone(),
        tokens: handles.tokens.clone(),
        pin: None,
        pages: Arc::default(),
        wakeups: handles.wakeups.clone(),
        logs_dir: home.path().to_owned(),
        controller: controller.map(|controller| Arc::new(controller) as Arc<dyn ControllerApi>),
        outbox: handles.outbox.clone(),
        notifier: None,
        metrics: Metrics::default(),
        read_manifest: None,
        clock: || at(1_000),
        wall_clock: || at(1_000),
    };
    Api { handles, state, manifest, home }
}

impl Api {
    fn router(&self) -> Router {
        router(self.state.clone())
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, String::new()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, &format!("/api/v1/environments/{path}"), body.to_string()).await
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> Answer {
        self.ask_with(Access::local("alice"), method, path, body).await
    }

    /// Does the same with a token.
    async fn ask_as(&self, token: &Token, method: Method, path: &str, body: String) -> Answer {
        let token_guard =
            TokenGuard { id: token.id.clone(), tokens: self.handles.tokens.clone(), clock: self.state.clock };
        self.ask_with(Access::of_token(token.clone(), None, token_guard), method, path, body).await
    }

    async fn ask_with(&self, access: Access, method: Method, path: &str, body: String) -> Answer {
        let request = Request::builder().method(method).uri(path).extension(access);
        let response = self.router().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    /// Records `image(number)` for an environment.
    async fn record(&self, environment: &str, number: u64) {
        let change = Change {
            revision: Some(commit(number)),
            image: Some(image(number)),
            origin: Origin::Set,
            by: None,
            token: None,
            note: None,
            at: at(number),
            hold: None,
        };
        self.handles.writer.submit(&name(environment), change, &[]).await.unwrap();
    }

    async fn report(&self, status: &Status) {
        self.handles.status_writer.report(status, &Memory::default()).await.unwrap();
    }

    /// Records generations 1 to `number` with one image each; all became ready.
    async fn ready(&self, environment: &str, number: u64) {
        for number in 1..=number {
            self.record(environment, number).await;
            let writer = &self.handles.status_writer;
            writer.outcome(&name(environment), Generation(number), Outcome::Ready).await.unwrap();
        }
        self.report(&status(environment, number)).await;
    }
}
