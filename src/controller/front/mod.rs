//! The front: one nginx container that serves host names and published ports, and passes requests to the
//! container of each environment that is ready.
//!
//! A pass sets the desired route of an environment ([`FrontHandle::route`]) and reads the one that is really served
//! ([`FrontHandle::seen`]), and waits for neither. [`FrontReconciler`] connects the two. It keeps the container in the
//! desired state, renders the routes ([`render`]), has nginx check and apply the result, and then believes
//! only the front's own answer.

mod apply;
mod ask;
mod container;
mod draining;
mod page;
mod reach;
mod refused;
mod render;
mod site;
mod tls;
mod version;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch as channel};

use super::guard::Guard;
use super::wake::WakeQueue;
use crate::acme::{Acme, Report};
use crate::model::front::{FrontSeen, ProxyTargets, Route};
use crate::model::name::EnvironmentName;
use crate::model::spec::Manifest;
pub(super) use apply::PRESENT;
use reach::Reached;
pub(super) use render::{Configuration, FOLDER};
use site::Site;
pub(super) use worker::FrontReconciler;

/// The front, as seen by passes and the engine watcher.
#[derive(Clone)]
pub(super) struct FrontHandle {
    /// The container's name. Two records on one engine have two fronts.
    name: String,
    manifest: channel::Receiver<Arc<Manifest>>,
    wake: WakeQueue,
    bell: Arc<Notify>,
    told: Arc<Mutex<FrontState>>,
    /// Receives the served configuration.
    guard: Guard,
    /// Certificates from an authority.
    acme: Acme,
}

#[derive(Default)]
struct FrontState {
    /// The routes that passes requested. An environment that is missing here has not requested any since the
    /// daemon started, and keeps the front's route.
    routes: BTreeMap<EnvironmentName, Option<Route>>,
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
        Self { name, manifest, wake, bell: Arc::default(), told: Arc::default(), guard, acme }
    }

    fn told(&self) -> MutexGuard<'_, FrontState> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the desired route of an environment. `None` means no route: the front answers with its own page.
    /// It does not wait.
    pub(super) fn route(&self, environment: &EnvironmentName, route: Option<Route>) {
        let mut told = self.told();
        let before = told.routes.insert(environment.clone(), route.clone());
        if before != Some(route) {
            told.next.remove(environment);
            drop(told);
            self.bell.notify_one();
            // If there is nothing to switch, it counts as switched at once, and the announced address may be
            // obsolete.
            self.wake.ring(environment);
        }
    }

    /// Announces the address that an environment will be served from, so that the switch has less to wait for
    /// when it is due.
    pub(super) fn announce(&self, environment: &EnvironmentName, address: SocketAddr) {
        self.told().next.insert(environment.clone(), address);
        self.bell.notify_one();
    }

    /// Returns the state of the front for an environment; `None` if there is no front or it was not checked
    /// yet. An environment with neither a host name nor a published port always has its requested route,
    /// because nothing reaches it through the front.
    pub(super) fn seen(&self, environment: &EnvironmentName) -> Option<FrontSeen> {
        self.manifest.borrow().front.as_ref()?;
        let is_served = self.is_served(environment);
        let told = self.told();
        let serves = told.routes.get(environment).cloned().flatten().map(|route| route.container);
        if !is_served {
            let reach = ProxyTargets::Only(serves.iter().cloned().collect());
            return Some(FrontSeen { serves, reach, ..FrontSeen::default() });
        }
        let mut seen = told.seen.get(environment).cloned()?;
        // The worker may pass the requested route to nginx at any moment.
        seen.reach = seen.reach.and(serves).and(told.rendered.of(environment));
        Some(seen)
    }

    fn is_served(&self, environment: &EnvironmentName) -> bool {
        let manifest = self.manifest.borrow();
        manifest.environments.get(environment).is_some_and(|spec| Site::of(spec, None).is_some())
    }

    /// Returns the state of the certificates of an environment that come from an authority.
    pub(super) fn certificate(&self, environment: &EnvironmentName) -> Report {
        self.acme.report(environment).unwrap_or_default()
    }

    /// Returns the problems of the front as a whole, in sentences.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.told().trouble.clone();
        warnings.extend(self.acme.trouble());
        warnings
    }

    /// Keeps certificates from an authority until dropped.
    pub(super) async fn keep_certificates(self) {
        let (bell, wake) = (Arc::clone(&self.bell), self.wake.clone());
        let changed = move || {
            bell.notify_one();
            // Their statuses have the end of each certificate.
            wake.ring_all();
        };
        self.acme.run(changed).await;
    }

    /// Reports that a container changed. If it is the front's, or has its name, the worker checks the front.
    pub(super) fn hear(&self, id: &str, names: &[String]) {
        if self.told().container.as_deref() == Some(id) || names.contains(&self.name) {
            self.bell.notify_one();
        }
    }

    /// Reports that an image was added, because it may be the one that the front waits for.
    pub(super) fn hear_of_images(&self) {
        if !self.told().trouble.is_empty() {
            self.bell.notify_one();
        }
    }

    /// Records the current state of the front, and wakes the environments for which it changed.
    fn publish(&self, seen: BTreeMap<EnvironmentName, FrontSeen>, trouble: Vec<String>) {
        let mut told = self.told();
        let rendered = std::mem::take(&mut told.rendered);
        let is_news = |name: &EnvironmentName, now: &FrontSeen| {
            told.seen.get(name) != Some(now) || rendered.of(name).any(|id| !now.reach.may_include(&id))
        };
        let news: Vec<EnvironmentName> =
            seen.iter().filter(|(name, now)| is_news(name, now)).map(|(name, _)| name.clone()).collect();
        told.seen = seen;
        told.trouble = trouble;
        drop(told);
        news.iter().for_each(|environment| self.wake.ring(environment));
    }
}
