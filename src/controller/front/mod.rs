//! The front: one nginx container that serves host names and published ports, and passes requests to the
//! container of each environment that is ready.
//!
//! A pass sets the desired route of an environment ([`FrontHandle::route`]) and reads the one that is really served
//! ([`FrontHandle::seen`]), and waits for neither. [`FrontReconciler`] connects the two. It keeps the container in the
//! desired state, renders the routes ([`render`]), has nginx check and apply the result, and then believes
//! only the front's own answer.

mod apply;
mod ask;
mod canaries;
mod container;
mod draining;
mod files;
mod location;
mod page;
mod reach;
mod refused;
mod render;
mod requests;
mod server;
mod site;
mod tls;
mod version;
mod web_page;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch as channel};

use super::guard::Guard;
use super::wake::WakeQueue;
use crate::acme::{Acme, CertificateOwner, CertificateReport};
use crate::model::front::{FrontSeen, ProxyTargets, Route};
use crate::model::listener::DaemonListener;
use crate::model::name::EnvironmentName;
use crate::model::spec::Manifest;
pub(super) use apply::PRESENT;
use canaries::CanaryCounts;
use reach::Reached;
pub(super) use render::{Configuration, FOLDER};
use site::Site;
pub(super) use worker::FrontReconciler;

/// The interval of looking whether requests have left.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a switch may take on a busy host.
const SWITCH: Duration = Duration::from_secs(10);

/// The front, as seen by passes and the engine watcher.
#[derive(Clone)]
pub(super) struct FrontHandle {
    /// The container's name. Two records on one engine have two fronts.
    name: String,
    manifest: channel::Receiver<Arc<Manifest>>,
    wake: WakeQueue,
    wakeup: Arc<Notify>,
    state: Arc<Mutex<FrontState>>,
    /// Counts the requests of canaries.
    canaries: CanaryCounts,
    /// Receives the served configuration.
    guard: Guard,
    /// Certificates from an authority.
    acme: Acme,
    /// The listener of the daemon that serves the web page; `None`: there is none.
    listener: Option<DaemonListener>,
}

#[derive(Default)]
struct FrontState {
    /// The routes that passes requested. An environment that is missing here has not requested any since the
    /// daemon started, and keeps the front's route.
    routes: BTreeMap<EnvironmentName, Option<Route>>,
    /// The environments that were reconciled, and whether the front answers for them.
    maintenance: BTreeMap<EnvironmentName, bool>,
    /// The environments that a user removes from this host: nothing is passed to them any more.
    leaving: BTreeSet<EnvironmentName>,
    /// The addresses that passes are about to request for environments.
    next: BTreeMap<EnvironmentName, SocketAddr>,
    /// The state of the front per environment. An environment that is missing here was not checked yet.
    seen: BTreeMap<EnvironmentName, FrontSeen>,
    /// Everything rendered since the worker last reported the front's state: nginx may apply it at any
    /// moment.
    rendered: Reached,
    /// The problems of the front as a whole, in sentences.
    trouble: Vec<String>,
    /// The id of the front's container.
    container: Option<String>,
}

impl FrontHandle {
    pub(super) fn new(
        record: &str,
        manifest: channel::Receiver<Arc<Manifest>>,
        wake: WakeQueue,
        guard: Guard,
        acme: Acme,
    ) -> Self {
        let mark: String = record.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        let name = format!("abide-front-{mark}");
        Self {
            name,
            manifest,
            wake,
            wakeup: Arc::default(),
            state: Arc::default(),
            canaries: CanaryCounts::default(),
            guard,
            acme,
            listener: None,
        }
    }

    /// The same for a daemon that serves the web page at `listener`.
    pub(super) fn with_page(self, listener: Option<DaemonListener>) -> Self {
        Self { listener, ..self }
    }

    fn state(&self) -> MutexGuard<'_, FrontState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the desired route of an environment. `None` means no route: the front answers with its own page.
    /// It does not wait.
    pub(super) fn route(&self, environment: &EnvironmentName, route: Option<Route>) {
        let mut state = self.state();
        state.leaving.remove(environment);
        let before = state.routes.insert(environment.clone(), route.clone());
        if before != Some(route) {
            state.next.remove(environment);
            drop(state);
            self.wakeup.notify_one();
            // If there is nothing to switch, it counts as switched at once, and the announced address may be
            // obsolete.
            self.wake.wake(environment);
        }
    }

    /// Takes away the site of an environment whose containers are about to be removed: the next container gets its
    /// address. It does not wait.
    pub(super) fn forget(&self, environment: &EnvironmentName) {
        let mut state = self.state();
        state.routes.remove(environment);
        state.next.remove(environment);
        if state.leaving.insert(environment.clone()) {
            drop(state);
            self.wakeup.notify_one();
        }
    }

    /// Waits until no request can be at a container of an environment whose site was removed, for as long as
    /// requests may take at most.
    pub(super) async fn await_left(&self, environment: &EnvironmentName) {
        let Some(drain) = self.manifest.borrow().front.as_ref().map(|front| front.drain) else { return };
        let nowhere = ProxyTargets::Only(BTreeSet::new());
        let has_left = || self.state().seen.get(environment).is_some_and(|seen| seen.reach == nowhere);
        let left = async {
            while !has_left() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // A proxy that does not run passes nothing on.
        let _ = tokio::time::timeout(drain + SWITCH, left).await;
    }

    /// The environments whose sites were removed.
    fn leaving(&self) -> BTreeSet<EnvironmentName> {
        self.state().leaving.clone()
    }

    /// Sets whether the front answers requests itself instead of passing them on. It does not wait.
    pub(super) fn maintain(&self, environment: &EnvironmentName, is_on: bool) {
        let before = self.state().maintenance.insert(environment.clone(), is_on);
        if before != Some(is_on) {
            self.wakeup.notify_one();
        }
    }

    /// Announces the address that an environment will be served from, so that the switch has less to wait for
    /// when it is due.
    pub(super) fn announce(&self, environment: &EnvironmentName, address: SocketAddr) {
        self.state().next.insert(environment.clone(), address);
        self.wakeup.notify_one();
    }

    /// Returns the state of the front for an environment; `None` if there is no front or it was not checked
    /// yet. An environment with neither a host name nor a published port always has its requested route,
    /// because nothing reaches it through the front.
    pub(super) fn seen(&self, environment: &EnvironmentName) -> Option<FrontSeen> {
        self.manifest.borrow().front.as_ref()?;
        let is_served = self.is_served(environment);
        let state = self.state();
        let requested = state.routes.get(environment).cloned().flatten();
        if !is_served {
            let serves = requested.map(|route| route.container);
            let reach = ProxyTargets::Only(serves.iter().cloned().collect());
            return Some(FrontSeen { serves, reach, ..FrontSeen::default() });
        }
        let mut seen = state.seen.get(environment).cloned()?;
        // The worker may pass the requested route to nginx at any moment.
        let requested = requested.iter().flat_map(Route::containers).cloned();
        seen.reach = seen.reach.and(requested).and(state.rendered.of(environment));
        // The state is published only when something changes; each request would be too often.
        let counted = self.canaries.of(environment);
        seen.canary =
            seen.canary.and_then(|served| counted.filter(|counted| counted.container == served.container));
        Some(seen)
    }

    fn is_served(&self, environment: &EnvironmentName) -> bool {
        let manifest = self.manifest.borrow();
        manifest.environments.get(environment).is_some_and(|spec| Site::of(spec, None).is_some())
    }

    /// Returns the state of the certificates of an environment that come from an authority.
    pub(super) fn certificate(&self, environment: &EnvironmentName) -> CertificateReport {
        self.acme.report(&CertificateOwner::Environment(environment.clone())).unwrap_or_default()
    }

    /// Returns the problems of the front as a whole, in sentences.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.state().trouble.clone();
        warnings.extend(self.acme.trouble());
        let of_page = self.acme.report(&CertificateOwner::Page).and_then(|report| report.problem);
        warnings.extend(of_page.map(|problem| format!("the certificate of the web page: {problem}")));
        warnings
    }

    /// Keeps certificates from an authority until dropped.
    pub(super) async fn keep_certificates(self) {
        let (wakeup, wake) = (Arc::clone(&self.wakeup), self.wake.clone());
        let changed = move || {
            wakeup.notify_one();
            // Their statuses have the end of each certificate.
            wake.wake_all();
        };
        self.acme.run(changed).await;
    }

    /// Reports that a container changed. If it is the front's, or has its name, the worker checks the front.
    pub(super) fn note_change(&self, id: &str, names: &[String]) {
        if self.state().container.as_deref() == Some(id) || names.contains(&self.name) {
            self.wakeup.notify_one();
        }
    }

    /// Reports that an image was added, because it may be the one that the front waits for.
    pub(super) fn note_image(&self) {
        if !self.state().trouble.is_empty() {
            self.wakeup.notify_one();
        }
    }

    /// Records the current state of the front, and wakes the environments for which it changed.
    fn publish(&self, seen: BTreeMap<EnvironmentName, FrontSeen>, trouble: Vec<String>) {
        let mut state = self.state();
        let rendered = std::mem::take(&mut state.rendered);
        let has_changed = |name: &EnvironmentName, now: &FrontSeen| {
            state.seen.get(name) != Some(now) || rendered.of(name).any(|id| !now.reach.may_include(&id))
        };
        let changed: Vec<EnvironmentName> =
            seen.iter().filter(|(name, now)| has_changed(name, now)).map(|(name, _)| name.clone()).collect();
        state.seen = seen;
        state.trouble = trouble;
        drop(state);
        changed.iter().for_each(|environment| self.wake.wake(environment));
    }
}
