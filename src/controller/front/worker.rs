//! The task that keeps the front: one look after the other, when something rang and now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch as channel;
use tracing::{error, info, warn};

use super::Front;
use super::ask;
use super::container::Container;
use super::draining::Draining;
use super::reach::{self, Reached};
use super::refused::Refusals;
use super::render::{Configuration, Layout};
use super::site::{self, Site, Sites, listens};
use super::tls::{self, Pair};
use crate::controller::clock::now;
use crate::controller::docker::{Engine, EngineError};
use crate::controller::fleet::Fleet;
use crate::controller::pass::EngineState;
use crate::controller::registries::Registries;
use crate::model::event::EventKind;
use crate::model::front::{FrontSeen, Reach, Route};
use crate::model::name::EnvironmentName;
use crate::model::spec::{FrontSpec, Manifest, Publish};
use crate::model::time::Timestamp;
use crate::plan::backoff;
use crate::record::StatusWriter;

/// How long after the engine is known the front waits for environments that have not yet said where
/// they are to be served from.
const FIRST_WORDS: Duration = Duration::from_secs(10);
/// How often it is looked whether old workers are gone. `docker top` runs a process each time.
const DRAIN_LOOK: Duration = Duration::from_millis(250);
/// When what takes only a moment is looked at again.
const SOON: Duration = Duration::from_millis(200);
/// However often it fails, the front is tried again after this long.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why the front is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// A sentence that says what to do, where there is something.
    pub(super) words: String,
    /// Whether nothing is served because of it.
    pub(super) is_down: bool,
    /// Whether it is over in a moment, so that nobody needs to hear of it.
    pub(super) is_brief: bool,
    /// When to try again; `None`: after a pause that grows with every failure.
    pub(super) retry: Option<Duration>,
}

impl Trouble {
    /// Nothing is served.
    pub(super) fn down(words: impl Into<String>) -> Self {
        Self { words: words.into(), is_down: true, is_brief: false, retry: None }
    }

    /// What was served before is served on.
    pub(super) fn stale(words: impl Into<String>) -> Self {
        Self { words: words.into(), is_down: false, is_brief: false, retry: None }
    }

    /// It only takes a moment.
    pub(super) fn soon(self) -> Self {
        Self { is_brief: true, retry: Some(SOON), ..self }
    }
}

impl From<EngineError> for Trouble {
    fn from(error: EngineError) -> Self {
        // Not being able to tell is no verdict on what is served.
        Self::stale(format!("the front cannot be looked after: {error}"))
    }
}

/// Keeps the front.
pub(crate) struct Worker {
    pub(super) front: Front,
    pub(super) engine: Arc<Engine>,
    pub(super) registries: Arc<Registries>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) record: String,
    manifest: channel::Receiver<Arc<Manifest>>,
    engine_state: channel::Receiver<EngineState>,
    period: Duration,
    has_ipv6: bool,
    /// The front's container, as far as it is known.
    pub(super) container: Container,
    /// What nginx serves, as the front itself said.
    pub(super) accepted: Option<Configuration>,
    /// What nginx said it would take: the hash of a configuration, and the container it was laid into.
    pub(super) checked: Option<(String, String)>,
    /// What was served when the daemon came, or last: environments that say nothing keep it.
    pub(super) remembered: Sites,
    /// The certificate that is to be used.
    pub(super) tls: Option<Pair>,
    /// One that nginx would not take, with its words, and the one that goes on in its place.
    pub(super) bad_tls: Option<(String, String)>,
    pub(super) good_tls: Option<Pair>,
    /// Sockets that somebody else has.
    pub(super) refusals: Refusals,
    pub(super) draining: Draining,
    /// What nginx was last given and may take over, beside what it serves.
    pub(super) unsettled: Reached,
    /// Whether somebody else had nginx serve something else than what was rendered for it.
    pub(super) has_drifted: bool,
    /// How often that was so.
    pub(super) changes: u32,
    /// Tries in a row to which nginx said and did nothing.
    pub(super) silent_tries: u32,
    /// Where events are written; `None`: nowhere.
    events: Option<StatusWriter>,
    /// Since when each environment is served as it is.
    pub(super) since: BTreeMap<EnvironmentName, Timestamp>,
    /// When environments that have said nothing are waited for no longer.
    gate: Option<Timestamp>,
    /// Troubles in a row.
    failures: u32,
    trouble: Option<Trouble>,
    tls_trouble: Option<String>,
}

impl Worker {
    pub(crate) fn new(
        front: Front,
        engine: Arc<Engine>,
        registries: Arc<Registries>,
        fleet: Arc<Fleet>,
        record: String,
        engine_state: channel::Receiver<EngineState>,
        period: Duration,
    ) -> Self {
        Self {
            manifest: front.manifest.clone(),
            front,
            engine,
            registries,
            fleet,
            record,
            engine_state,
            period,
            has_ipv6: std::net::UdpSocket::bind("[::1]:0").is_ok(),
            container: Container::default(),
            accepted: None,
            checked: None,
            remembered: Sites::new(),
            tls: None,
            bad_tls: None,
            good_tls: None,
            refusals: Refusals::default(),
            draining: Draining::default(),
            unsettled: Reached::default(),
            has_drifted: false,
            changes: 0,
            silent_tries: 0,
            events: None,
            since: BTreeMap::new(),
            gate: None,
            failures: 0,
            trouble: None,
            tls_trouble: None,
        }
    }

    /// The same that also writes events of what it does to the front.
    pub(crate) fn with_events(self, events: StatusWriter) -> Self {
        Self { events: Some(events), ..self }
    }

    /// Tells of something that concerns every environment behind the front.
    pub(super) async fn tell(&self, words: &str) {
        warn!(front = %self.front.name, "{words}");
        let Some(events) = &self.events else { return };
        let served: Vec<EnvironmentName> =
            self.accepted.iter().flat_map(|accepted| accepted.sites.keys().cloned()).collect();
        for environment in served {
            // An event that cannot be kept is in the log line above.
            let _ = events.event(&environment, EventKind::System, words, now()).await;
        }
    }

    /// Keeps the front until dropped.
    pub(crate) async fn run(mut self) {
        let bell = Arc::clone(&self.front.bell);
        let mut look_at = now();
        loop {
            // A clock that is set back makes nothing wait longer than it would have.
            look_at = look_at.min(now().after(LONGEST_PAUSE.max(self.period)));
            if now() >= look_at {
                let pause = self.look().await;
                look_at = now().after(pause);
            }
            self.look_at_drains().await;
            self.publish();
            let next = if self.draining.is_empty() { look_at } else { look_at.min(now().after(DRAIN_LOOK)) };
            tokio::select! {
                () = bell.notified() => look_at = now(),
                Ok(()) = self.manifest.changed() => look_at = now(),
                Ok(()) = self.engine_state.changed() => look_at = now(),
                () = tokio::time::sleep(next.since(now()).min(self.period)) => {}
            }
        }
    }

    /// Brings the front to what it should be. Says when to look again.
    async fn look(&mut self) -> Duration {
        let manifest = Arc::clone(&self.manifest.borrow_and_update());
        if *self.engine_state.borrow_and_update() != EngineState::Known {
            self.gate = None;
            return self.period;
        }
        let gate = *self.gate.get_or_insert_with(|| now().after(FIRST_WORDS));
        let kept = AssertUnwindSafe(self.keep(&manifest)).catch_unwind().await;
        let kept = kept.unwrap_or_else(|_| {
            error!("looking after the front panicked");
            Err(Trouble::stale("looking after the front ended in a panic, which is a bug of abide"))
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

    async fn keep(&mut self, manifest: &Manifest) -> Result<(), Trouble> {
        let kept = match &manifest.front {
            None => self.remove().await,
            Some(spec) => self.serve(spec).await,
        };
        self.note(kept.as_ref().err());
        kept
    }

    async fn serve(&mut self, spec: &FrontSpec) -> Result<(), Trouble> {
        self.read_tls(spec).await;
        self.try_refused_again(spec).await;
        let id = self.running(spec).await?;
        self.up_to_date(spec, &id).await?;
        self.make_ready(spec, &id).await;
        Ok(())
    }

    fn note(&mut self, trouble: Option<&Trouble>) {
        let said = self.trouble.as_ref().map(|trouble| &trouble.words);
        match trouble {
            Some(trouble) if said != Some(&trouble.words) && !trouble.is_brief => {
                warn!(front = %self.front.name, trouble = %trouble.words, "the front is not as it should be");
            }
            None if said.is_some() => info!(front = %self.front.name, "the front is as it should be again"),
            _ => {}
        }
        self.trouble = trouble.cloned();
    }

    // --- what should be served ------------------------------------------------------------------

    /// Whether all environments have said where they are to be served from, or had time to.
    pub(super) fn is_told(&self) -> bool {
        let manifest = self.manifest.borrow();
        let told = self.front.told();
        let mut served = manifest.environments.iter().filter(|(_, spec)| Site::of(spec, None).is_some());
        served.all(|(name, _)| told.routes.contains_key(name)) || self.gate.is_some_and(|gate| gate <= now())
    }

    /// What should be served, with what is known now.
    pub(super) fn wanted(&self, spec: &FrontSpec) -> Configuration {
        Configuration::render(&self.layout(spec, self.usable_tls()), &self.sites())
    }

    /// What will be wanted once the containers that are on their way are ready; `None` where none is.
    pub(super) fn expected(&self, spec: &FrontSpec) -> Option<Configuration> {
        let next = self.front.told().next.clone();
        let mut sites = self.sites();
        for (environment, address) in &next {
            // Which container it will be is nothing that nginx reads.
            let route = Route { container: String::new(), address: *address };
            sites.entry(environment.clone()).and_modify(|site| site.route = Some(route));
        }
        (!next.is_empty()).then(|| Configuration::render(&self.layout(spec, self.usable_tls()), &sites))
    }

    /// The same without TLS, the one part that can be wrong: what a new container is started with.
    pub(super) fn plain(&self, spec: &FrontSpec) -> Configuration {
        Configuration::render(&self.layout(spec, None), &self.sites())
    }

    fn layout(&self, spec: &FrontSpec, tls: Option<&Pair>) -> Layout {
        let https = spec.https.as_ref().zip(tls).map(|(https, pair)| (https.port, pair.name.clone()));
        Layout {
            record: self.record.clone(),
            http: spec.http,
            https,
            drain: spec.drain,
            has_ipv6: self.has_ipv6,
            refused: self.refusals.sockets(),
            trusted_proxies: spec.trusted_proxies.clone(),
            changes: self.changes,
        }
    }

    fn sites(&self) -> Sites {
        let manifest = self.manifest.borrow();
        let mut told = self.front.told();
        let route = |name| match told.routes.get(name) {
            Some(route) => route.clone(),
            None => self.remembered.get(name).and_then(|site: &Site| site.route.clone()),
        };
        let declared = manifest.environments.iter();
        let mut sites: Sites =
            declared.filter_map(|(name, spec)| Some((name.clone(), Site::of(spec, route(name))?))).collect();
        let with_containers = self.fleet.environments();
        told.rendered.add(&sites);
        drop(told);
        site::keep_orphans(&mut sites, &self.remembered, |orphan| {
            with_containers.contains(orphan) && !manifest.environments.contains_key(orphan)
        });
        sites
    }

    /// The certificate that nginx is to use; where it would not take the new one, the old one.
    pub(super) fn usable_tls(&self) -> Option<&Pair> {
        match (&self.tls, &self.bad_tls) {
            (Some(pair), Some((bad, _))) if pair.name == *bad => self.good_tls.as_ref(),
            (pair, _) => pair.as_ref(),
        }
    }

    async fn read_tls(&mut self, spec: &FrontSpec) {
        self.tls_trouble = None;
        let Some(https) = &spec.https else {
            (self.tls, self.bad_tls, self.good_tls) = (None, None, None);
            return;
        };
        match tls::read(https).await {
            Ok(pair) => self.tls = Some(pair),
            // The one that was read before goes on.
            Err(why) => self.tls_trouble = Some(why),
        }
    }

    // --- sockets that somebody else has ---------------------------------------------------------

    /// Lets those sockets be tried again that are due and that nobody answers on any more.
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
                self.refusals.let_try(socket);
            }
        }
    }

    // --- what is said of it ---------------------------------------------------------------------

    async fn look_at_drains(&mut self) {
        if self.draining.is_empty() {
            return;
        }
        let processes = match self.container.id.as_deref() {
            Some(id) => self.engine.processes(id).await.ok(),
            None => None,
        };
        self.draining.look(processes.as_deref(), now());
    }

    pub(super) fn publish(&self) {
        let manifest = Arc::clone(&self.manifest.borrow());
        let Some(spec) = &manifest.front else {
            let left = self.trouble.iter().map(|trouble| trouble.words.clone());
            return self.front.publish(BTreeMap::new(), left.collect());
        };
        if *self.engine_state.borrow() != EngineState::Known {
            // What is not known now is as it was, and the engine's silence is told by others.
            return;
        }
        let seen = manifest.environments.iter().filter_map(|(name, environment)| {
            let site = Site::of(environment, None)?;
            Some((name.clone(), self.seen(name, &site, spec)))
        });
        let trouble =
            self.trouble.iter().filter(|trouble| !trouble.is_brief).map(|trouble| trouble.words.clone());
        let ports = [Some(spec.http), spec.https.as_ref().map(|https| https.port)];
        let refused = ports.into_iter().flatten().filter_map(|port| self.refusals.sentence(port));
        let waiting = self.container.waits_for.clone();
        let trouble = trouble.chain(waiting).chain(refused).chain(self.words_of_tls()).collect();
        self.front.publish(seen.collect(), trouble);
    }

    fn words_of_tls(&self) -> Option<String> {
        let refused = || {
            let (bad, why) = self.bad_tls.as_ref()?;
            (self.tls.as_ref().map(|pair| &pair.name) == Some(bad)).then(|| why.clone())
        };
        self.tls_trouble.clone().or_else(refused)
    }

    fn seen(&self, environment: &EnvironmentName, site: &Site, spec: &FrontSpec) -> FrontSeen {
        let is_down = self.trouble.as_ref().is_some_and(|trouble| trouble.is_down);
        let accepted = self.accepted.as_ref().filter(|_| !is_down);
        let served = accepted.and_then(|accepted| accepted.sites.get(environment));
        let own_port = site.publish.and_then(|publish| self.refusals.sentence(publish.port));
        let by_name = site.hostname.as_ref().and_then(|_| self.refusals.sentence(spec.http));
        let trouble = self.trouble.as_ref().map(|trouble| trouble.words.clone());
        FrontSeen {
            serves: served.and_then(|site| Some(site.route.as_ref()?.container.clone())),
            since: self.since.get(environment).copied().unwrap_or_default(),
            is_draining: self.draining.contains(environment),
            trouble: trouble.or(own_port).or(by_name),
            reach: self.reach(environment),
            has_drifted: self.has_drifted,
        }
    }

    /// The containers that nginx may send requests to, whether or not it runs now: it is started again
    /// with what it served.
    fn reach(&self, environment: &EnvironmentName) -> Reach {
        let Some(accepted) = self.accepted.as_ref().filter(|_| !self.has_drifted) else { return Reach::Any };
        let served = accepted.sites.get(environment).and_then(reach::container);
        self.draining.reach(environment).and(served).and(self.unsettled.of(environment))
    }
}
