//! The task that maintains the front. It works one round at a time, after each wakeup and periodically.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch as channel;
use tracing::{error, info, warn};

use super::FrontHandle;
use super::ask;
use super::draining::Draining;
use super::files::SiteFiles;
use super::reach::{self, Reached};
use super::refused::RefusedSockets;
use super::render::{Configuration, Layout};
use super::requests::{RequestReceiver, RequestSink};
use super::site::{self, Site, Sites, listens};
use super::tls::{self, Certificates};
use super::version::NginxVersion;
use super::web_page::ServedPage;
use crate::acme::DesiredCertificates;
use crate::controller::cache::containers::ContainerCache;
use crate::controller::cache::watch::EngineState;
use crate::controller::clock::now;
use crate::controller::docker::{Engine, EngineError};
use crate::controller::jobs::registries::Registries;
use crate::controller::managed::Managed;
use crate::metrics::Metrics;
use crate::model::canary::CountedRequests;
use crate::model::container::label;
use crate::model::event::EventKind;
use crate::model::front::{CanaryRoute, FrontSeen, ProxyTargets, Route};
use crate::model::name::EnvironmentName;
use crate::model::spec::{FrontSpec, Manifest, Publish};
use crate::model::time::Timestamp;
use crate::plan::backoff;
use crate::record::StatusWriter;

/// How long after the engine is known the front waits for environments that have not requested a route.
const FIRST_WORDS: Duration = Duration::from_secs(10);
/// The interval of checks whether old workers have exited. Each `docker top` runs a process.
const DRAIN_LOOK: Duration = Duration::from_millis(250);
/// The pause before the next check of something that takes only a moment.
const SOON: Duration = Duration::from_millis(200);
/// The longest pause between attempts, whatever the number of failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A problem of the front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrontError {
    /// A sentence, with the remedy if there is one.
    pub(super) words: String,
    /// Whether nothing is served because of the problem.
    pub(super) is_down: bool,
    /// Whether the problem is over in a moment, so that it need not be reported.
    pub(super) is_brief: bool,
    /// When to retry; `None`: after a pause that grows with every failure.
    pub(super) retry: Option<Duration>,
}

impl FrontError {
    /// A problem because of which nothing is served.
    pub(super) fn down(words: impl Into<String>) -> Self {
        Self { words: words.into(), is_down: true, is_brief: false, retry: None }
    }

    /// A problem during which the previous configuration is still served.
    pub(super) fn stale(words: impl Into<String>) -> Self {
        Self { words: words.into(), is_down: false, is_brief: false, retry: None }
    }

    /// Marks the problem as brief.
    pub(super) fn soon(self) -> Self {
        Self { is_brief: true, retry: Some(SOON), ..self }
    }
}

impl From<EngineError> for FrontError {
    fn from(error: EngineError) -> Self {
        // An error of the engine does not prove that the front serves nothing.
        Self::stale(format!("cannot manage the proxy: {error}"))
    }
}

/// Maintains the front.
pub(crate) struct FrontReconciler {
    pub(super) front: FrontHandle,
    pub(super) engine: Arc<Engine>,
    pub(super) cache: Arc<ContainerCache>,
    pub(super) record: String,
    manifest: channel::Receiver<Arc<Manifest>>,
    /// The manifest of the current round. A newer one waits for the next round, which reads the files that it needs.
    declared: Arc<Manifest>,
    engine_state: channel::Receiver<EngineState>,
    period: Duration,
    has_ipv6: bool,
    /// The front's container.
    pub(super) container: Managed,
    /// The reason why the container still serves although it must be replaced, in a sentence.
    pub(super) waits_for: Option<String>,
    /// The served configuration, as reported by the front itself.
    pub(super) accepted: Option<Configuration>,
    /// The last configuration that nginx's check accepted: its hash, and the id of the container.
    pub(super) checked: Option<(String, String)>,
    /// The sites that were served when the daemon started, or last: environments without a request keep them.
    pub(super) remembered: Sites,
    /// The certificates to use.
    pub(super) certificates: Certificates,
    /// The files of sites.
    pub(super) files: SiteFiles,
    /// The container whose nginx was asked for its version, and the version.
    pub(super) version: Option<(String, Option<NginxVersion>)>,
    /// Sockets in use by others.
    pub(super) refusals: RefusedSockets,
    pub(super) draining: Draining,
    /// The containers of configurations that nginx may apply, in addition to those that it serves.
    pub(super) unsettled: Reached,
    /// Whether nginx serves another configuration than the rendered one, because somebody else changed it.
    pub(super) has_drifted: bool,
    /// How often that happened.
    pub(super) changes: u32,
    /// Consecutive attempts without any reaction of nginx.
    pub(super) silent_attempts: u32,
    /// Counts requests.
    pub(super) requests: RequestReceiver,
    /// Receives the counts.
    pub(super) metrics: Metrics,
    /// Receives events; `None`: events are not recorded.
    events: Option<StatusWriter>,
    /// The time since which each environment has its current route.
    pub(super) since: BTreeMap<EnvironmentName, Timestamp>,
    /// Until when to wait for environments that have not requested a route.
    gate: Option<Timestamp>,
    /// The number of consecutive failures.
    failures: u32,
    trouble: Option<FrontError>,
}

impl FrontReconciler {
    pub(crate) fn new(
        front: FrontHandle,
        engine: Arc<Engine>,
        registries: Arc<Registries>,
        cache: Arc<ContainerCache>,
        record: String,
        engine_state: channel::Receiver<EngineState>,
        period: Duration,
    ) -> Self {
        let wakeup = Arc::clone(&front.wakeup);
        let declared = Arc::clone(&front.manifest.borrow());
        let container = Managed::new(Arc::clone(&engine), registries, record.clone(), label::FRONT, wakeup);
        Self {
            declared,
            manifest: front.manifest.clone(),
            front,
            engine,
            cache,
            record,
            engine_state,
            period,
            has_ipv6: std::net::UdpSocket::bind("[::1]:0").is_ok(),
            container,
            waits_for: None,
            accepted: None,
            checked: None,
            remembered: Sites::new(),
            certificates: Certificates::default(),
            files: SiteFiles::default(),
            version: None,
            refusals: RefusedSockets::default(),
            draining: Draining::default(),
            unsettled: Reached::default(),
            has_drifted: false,
            changes: 0,
            silent_attempts: 0,
            requests: RequestReceiver::default(),
            metrics: Metrics::default(),
            events: None,
            since: BTreeMap::new(),
            gate: None,
            failures: 0,
            trouble: None,
        }
    }

    /// Also records events about changes to the front.
    pub(crate) fn with_events(self, events: StatusWriter) -> Self {
        Self { events: Some(events), ..self }
    }

    /// Also counts requests there.
    pub(crate) fn measured_by(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Logs and records an event that concerns every environment behind the front.
    pub(super) async fn record_event(&self, words: &str) {
        warn!(front = %self.front.name, "{words}");
        let Some(events) = &self.events else { return };
        let declared = self.declared.environments.iter();
        for (environment, _) in declared.filter(|(_, spec)| Site::of(spec, None).is_some()) {
            // If the event cannot be stored, the log line above still has it.
            let _ = events.event(environment, EventKind::System, words, now()).await;
        }
    }

    /// Maintains the front until dropped.
    pub(crate) async fn run(mut self) {
        let wakeup = Arc::clone(&self.front.wakeup);
        let mut look_at = now();
        loop {
            // A clock that is set back delays nothing beyond the usual pause.
            look_at = look_at.min(now().after(LONGEST_PAUSE.max(self.period)));
            if now() >= look_at {
                let pause = self.look().await;
                look_at = now().after(pause);
            }
            self.look_at_drains().await;
            self.publish();
            let next = if self.draining.is_empty() { look_at } else { look_at.min(now().after(DRAIN_LOOK)) };
            tokio::select! {
                () = wakeup.notified() => look_at = now(),
                Ok(()) = self.manifest.changed() => {
                    self.container.retry();
                    look_at = now();
                }
                Ok(()) = self.engine_state.changed() => look_at = now(),
                () = tokio::time::sleep(next.since(now()).min(self.period)) => {}
            }
        }
    }

    /// Brings the front into the desired state. Returns the time until the next round.
    async fn look(&mut self) -> Duration {
        let manifest = Arc::clone(&self.manifest.borrow_and_update());
        self.declared = Arc::clone(&manifest);
        if *self.engine_state.borrow_and_update() != EngineState::Known {
            self.gate = None;
            return self.period;
        }
        let gate = *self.gate.get_or_insert_with(|| now().after(FIRST_WORDS));
        let kept = AssertUnwindSafe(self.keep(&manifest)).catch_unwind().await;
        let kept = kept.unwrap_or_else(|_| {
            error!("the reconcile of the proxy panicked");
            Err(FrontError::stale("the reconcile of the proxy panicked, which is a bug of abide"))
        });
        let pause = match kept {
            Ok(()) => {
                self.failures = 0;
                self.period
            }
            Err(trouble) => {
                self.failures += 1;
                trouble
                    .retry
                    .unwrap_or_else(|| backoff(self.failures + 1, &self.front.name).min(LONGEST_PAUSE))
            }
        };
        let due = self.refusals.next().into_iter().chain(Some(gate).filter(|gate| *gate > now()));
        due.min().map_or(pause, |due| pause.min(due.since(now()).max(Duration::from_millis(50))))
    }

    async fn keep(&mut self, manifest: &Manifest) -> Result<(), FrontError> {
        let kept = match &manifest.front {
            None => {
                self.front.acme.want(None);
                self.remove().await
            }
            Some(spec) => self.serve(spec).await,
        };
        self.note(kept.as_ref().err());
        kept
    }

    async fn serve(&mut self, spec: &FrontSpec) -> Result<(), FrontError> {
        self.read_certificates(spec).await;
        self.try_refused_again(spec).await;
        let id = self.running(spec).await?;
        self.ask_version(&id).await;
        self.up_to_date(spec, &id).await?;
        self.make_ready(spec, &id).await;
        Ok(())
    }

    fn note(&mut self, trouble: Option<&FrontError>) {
        let previous = self.trouble.as_ref().map(|trouble| &trouble.words);
        match trouble {
            Some(trouble) if previous != Some(&trouble.words) && !trouble.is_brief => {
                warn!(front = %self.front.name, trouble = %trouble.words, "the proxy has a problem");
            }
            None if previous.is_some() => info!(front = %self.front.name, "the proxy is healthy again"),
            _ => {}
        }
        self.trouble = trouble.cloned();
    }

    // --- desired configuration ------------------------------------------------------------------

    /// Returns whether all environments have requested a route, or had time to.
    pub(super) fn has_routes(&self) -> bool {
        let state = self.front.state();
        let mut served = self.declared.environments.iter().filter(|(_, spec)| Site::of(spec, None).is_some());
        served.all(|(name, _)| state.routes.contains_key(name)) || self.gate.is_some_and(|gate| gate <= now())
    }

    /// Returns the desired configuration, from current knowledge.
    pub(super) fn wanted(&self, spec: &FrontSpec) -> Configuration {
        Configuration::render(&self.layout(spec, true), &self.sites())
    }

    /// Returns the configuration that is needed once the announced containers are ready; `None` if there are
    /// none.
    pub(super) fn expected(&self, spec: &FrontSpec) -> Option<Configuration> {
        let next = self.front.state().next.clone();
        let mut sites = self.sites();
        for (environment, address) in &next {
            // nginx does not read the container's id, so it may be empty.
            let route = Route::to_container(String::new(), *address);
            sites.entry(environment.clone()).and_modify(|site| site.route = Some(route));
        }
        (!next.is_empty()).then(|| Configuration::render(&self.layout(spec, true), &sites))
    }

    /// Returns the desired configuration without TLS, which is the only part that can be wrong. A new
    /// container starts with it.
    pub(super) fn plain(&self, spec: &FrontSpec) -> Configuration {
        Configuration::render(&self.layout(spec, false), &self.sites())
    }

    fn layout(&self, spec: &FrontSpec, has_tls: bool) -> Layout {
        let asks_authority = spec.acme.is_some();
        Layout {
            record: self.record.clone(),
            http: spec.http,
            tls: self.certificates.layout().filter(|_| has_tls),
            thumbprint: self.front.acme.thumbprint().filter(|_| asks_authority),
            version: self.version.as_ref().and_then(|(_, version)| *version),
            drain: spec.drain,
            has_ipv6: self.has_ipv6,
            refused: self.refusals.sockets(),
            trusted_proxies: spec.trusted_proxies.clone(),
            proxy_protocol: spec.proxy_protocol,
            requests: self.requests.sink(),
            page: ServedPage::of(&self.declared, self.front.listener),
            changes: self.changes,
        }
    }

    fn sites(&self) -> Sites {
        let manifest = &self.declared;
        let mut state = self.front.state();
        let route = |name| match state.routes.get(name) {
            Some(route) => route.clone(),
            None => self.remembered.get(name).and_then(|site: &Site| site.route.clone()),
        };
        let declared = manifest.environments.iter();
        let maintenance = |name| match state.maintenance.get(name) {
            Some(is_on) => *is_on,
            None => self.remembered.get(name).is_some_and(|site| site.maintenance),
        };
        let site = |name, spec| {
            let (files, maintenance) = (self.files.names(name), maintenance(name));
            Some(Site { files, maintenance, ..Site::of(spec, route(name))? })
        };
        let mut sites: Sites =
            declared.filter_map(|(name, spec)| Some((name.clone(), site(name, spec)?))).collect();
        let with_containers = self.cache.environments();
        state.rendered.add(&sites);
        let (requested, leaving) = (state.routes.clone(), state.leaving.clone());
        drop(state);
        // What an environment left here as it moved to another host serves on, too.
        let is_here =
            |name: &EnvironmentName| manifest.environments.get(name).is_some_and(|spec| spec.host.is_none());
        let mut before = self.remembered.clone();
        for (name, site) in before.iter_mut().filter(|(name, _)| !is_here(name)) {
            // An update that was interrupted as it left may have ended with another container.
            if let Some(Some(route)) = requested.get(name) {
                site.route = Some(route.clone());
            }
        }
        site::keep_orphans(&mut sites, &before, |orphan| {
            with_containers.contains(orphan) && !is_here(orphan) && !leaving.contains(orphan)
        });
        sites
    }

    /// Opens the sink of requests; `before` is that of an earlier process.
    pub(super) fn open_requests(&mut self, before: Option<RequestSink>) {
        self.requests.open(before, &self.metrics, &self.front.canaries, &self.front.manifest);
    }

    async fn read_certificates(&mut self, spec: &FrontSpec) {
        let manifest = Arc::clone(&self.declared);
        self.front.acme.want(spec.acme.as_ref().map(|acme| DesiredCertificates {
            spec: acme.clone(),
            http: spec.http,
            answers: self.answers_challenges(),
            sets: tls::to_certify(spec, &manifest),
        }));
        let issued = self.front.acme.pairs();
        self.certificates.read(spec, &manifest, &issued).await;
        self.files.read(&manifest).await;
    }

    /// Whether nginx is known to answer the challenges of this host's account.
    fn answers_challenges(&self) -> bool {
        let thumbprint = self.front.acme.thumbprint();
        let served = self.accepted.as_ref().zip(thumbprint);
        served.is_some_and(|(accepted, thumbprint)| accepted.text.contains(&thumbprint))
    }

    /// Asks a new container for nginx's version.
    async fn ask_version(&mut self, id: &str) {
        if self.version.as_ref().is_none_or(|(asked, _)| asked != id)
            && let Ok((_, output)) = self.engine.run_in(id, &["nginx", "-v"]).await
        {
            self.version = Some((id.to_owned(), NginxVersion::read(&output)));
        }
    }

    // --- sockets in use by others ---------------------------------------------------------------

    /// Includes the sockets again that are due and on which nobody answers any more.
    async fn try_refused_again(&mut self, spec: &FrontSpec) {
        let mut wanted: BTreeSet<SocketAddr> =
            self.sites().values().flat_map(|site| site.listens(self.has_ipv6)).collect();
        let ports = [Some(spec.http), spec.https.as_ref().map(|https| https.port)];
        let all = |port| listens(Publish { address: None, port }, self.has_ipv6);
        wanted.extend(ports.into_iter().flatten().flat_map(all));
        self.refusals.keep(&wanted);
        for socket in self.refusals.due(now()) {
            if ask::is_taken(socket).await {
                self.refusals.look_later(socket, now());
            } else {
                self.refusals.allow_retry(socket);
            }
        }
    }

    // --- reports --------------------------------------------------------------------------------

    async fn look_at_drains(&mut self) {
        if self.draining.is_empty() {
            return;
        }
        let processes = match self.container.id() {
            Some(id) => self.engine.processes(id).await.ok(),
            None => None,
        };
        self.draining.look(processes.as_deref(), now());
    }

    pub(super) fn publish(&self) {
        let manifest = Arc::clone(&self.declared);
        let Some(spec) = &manifest.front else {
            let left = self.trouble.iter().map(|trouble| trouble.words.clone());
            return self.front.publish(BTreeMap::new(), left.collect());
        };
        if *self.engine_state.borrow() != EngineState::Known {
            // An unknown state counts as unchanged. Other parts report that the engine does not answer.
            return;
        }
        let seen = manifest.environments.iter().filter_map(|(name, environment)| {
            let site = Site::of(environment, None)?;
            Some((name.clone(), self.seen(name, &site, spec)))
        });
        let leaving = self.front.leaving().into_iter();
        let leaving = leaving
            .map(|name| (name.clone(), FrontSeen { reach: self.reach(&name), ..FrontSeen::default() }));
        let trouble =
            self.trouble.iter().filter(|trouble| !trouble.is_brief).map(|trouble| trouble.words.clone());
        let ports = [Some(spec.http), spec.https.as_ref().map(|https| https.port)];
        let refused = ports.into_iter().flatten().filter_map(|port| self.refusals.sentence(port));
        let waiting = self.waits_for.clone();
        let trouble = trouble
            .chain(waiting)
            .chain(refused)
            .chain(self.certificates.words())
            .chain(self.files.words())
            .collect();
        self.front.publish(seen.chain(leaving).collect(), trouble);
    }

    fn seen(&self, environment: &EnvironmentName, site: &Site, spec: &FrontSpec) -> FrontSeen {
        let is_down = self.trouble.as_ref().is_some_and(|trouble| trouble.is_down);
        let accepted = self.accepted.as_ref().filter(|_| !is_down);
        let served = accepted.and_then(|accepted| accepted.sites.get(environment));
        let own_port = site.publish.and_then(|publish| self.refusals.sentence(publish.port));
        let by_name = self.refusals.sentence(spec.http).filter(|_| !site.hostnames.is_empty());
        let trouble = self.trouble.as_ref().map(|trouble| trouble.words.clone());
        FrontSeen {
            serves: served.and_then(|site| Some(site.route.as_ref()?.container.clone())),
            addresses: served.map(|site| site.route.iter().flat_map(Route::addresses).collect()),
            canary: served.and_then(|site| Some(uncounted(site.route.as_ref()?.canary.as_ref()?))),
            since: self.since.get(environment).copied().unwrap_or_default(),
            is_draining: self.draining.contains(environment),
            trouble: trouble.or(own_port).or(by_name).or_else(|| self.files.trouble(environment, site)),
            reach: self.reach(environment),
            in_maintenance: served.is_some_and(|site| site.maintenance),
            has_drifted: self.has_drifted,
        }
    }

    /// Returns the containers that nginx may send requests to, whether or not it runs now: it restarts with
    /// the configuration that it served.
    fn reach(&self, environment: &EnvironmentName) -> ProxyTargets {
        let Some(accepted) = self.accepted.as_ref().filter(|_| !self.has_drifted) else {
            return ProxyTargets::Any;
        };
        let served = accepted.sites.get(environment).into_iter().flat_map(reach::containers);
        self.draining.reach(environment).and(served).and(self.unsettled.of(environment))
    }
}

/// The canary that nginx serves. Its requests are counted elsewhere: each would be a change of what is seen.
fn uncounted(canary: &CanaryRoute) -> CountedRequests {
    let (since, count) = Default::default();
    CountedRequests { container: canary.container.clone(), since, count }
}
