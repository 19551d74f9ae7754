//! The front: one nginx container that serves host names and published ports, and passes requests to
//! the container of each environment that is ready.
//!
//! A pass says where an environment is to be served from ([`Front::route`]) and reads what is really
//! served ([`Front::seen`]); it waits for neither. Between the two stands [`Worker`], which keeps the
//! container as it should be, renders what was said ([`render`]), has nginx check it, lets nginx take
//! it over, and believes only what the front itself answers then.

mod apply;
mod ask;
mod care;
mod container;
mod draining;
mod page;
mod reach;
mod refused;
mod render;
mod site;
mod tls;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch as channel};

use super::guard::Guard;
use super::wake::Wake;
use crate::model::front::{FrontSeen, Reach, Route};
use crate::model::name::EnvironmentName;
use crate::model::spec::Manifest;
pub(super) use apply::PRESENT;
use reach::Reached;
pub(super) use render::{Configuration, FOLDER};
use site::Site;
pub(super) use worker::Worker;

/// The front, as passes and the watch over the engine know it.
#[derive(Clone)]
pub(super) struct Front {
    /// The container's name. Two records on one engine have two fronts.
    name: String,
    manifest: channel::Receiver<Arc<Manifest>>,
    wake: Wake,
    bell: Arc<Notify>,
    told: Arc<Mutex<Told>>,
    /// Told what is served.
    guard: Guard,
}

#[derive(Default)]
struct Told {
    /// What passes want served. An environment that is not in it has said nothing since the daemon
    /// was started, and stays as the front has it.
    routes: BTreeMap<EnvironmentName, Option<Route>>,
    /// Where passes are about to want an environment served from.
    next: BTreeMap<EnvironmentName, SocketAddr>,
    /// What the front does. An environment that is not in it was not looked at yet.
    seen: BTreeMap<EnvironmentName, FrontSeen>,
    /// What was rendered since the worker last said what the front does: nginx may take it over at any
    /// moment.
    rendered: Reached,
    /// What is wrong with the front as a whole, in sentences.
    trouble: Vec<String>,
    /// The id of the front's container.
    container: Option<String>,
}

impl Front {
    pub(super) fn new(
        record: &str,
        manifest: channel::Receiver<Arc<Manifest>>,
        wake: Wake,
        guard: Guard,
    ) -> Self {
        let mark: String = record.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        let name = format!("abide-front-{mark}");
        Self { name, manifest, wake, bell: Arc::default(), told: Arc::default(), guard }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says where an environment is to be served from; `None`: from nowhere, so the front answers with
    /// its own page. Waits for nothing.
    pub(super) fn route(&self, environment: &EnvironmentName, route: Option<Route>) {
        let mut told = self.told();
        let before = told.routes.insert(environment.clone(), route.clone());
        if before != Some(route) {
            told.next.remove(environment);
            drop(told);
            self.bell.notify_one();
            // Where there is nothing to switch, it is switched at once; and what the front was told
            // before may be of no use any more.
            self.wake.ring(environment);
        }
    }

    /// Says where an environment is about to be served from, so that the switch, once it is due, has
    /// less to wait for.
    pub(super) fn announce(&self, environment: &EnvironmentName, address: SocketAddr) {
        self.told().next.insert(environment.clone(), address);
        self.bell.notify_one();
    }

    /// What the front does for an environment; `None` where there is no front, or where it was not looked
    /// at yet. One with neither a host name nor a published port is always as it was asked to be: nothing
    /// reaches it through here.
    pub(super) fn seen(&self, environment: &EnvironmentName) -> Option<FrontSeen> {
        self.manifest.borrow().front.as_ref()?;
        let is_served = self.is_served(environment);
        let told = self.told();
        let serves = told.routes.get(environment).cloned().flatten().map(|route| route.container);
        if !is_served {
            let reach = Reach::Only(serves.iter().cloned().collect());
            return Some(FrontSeen { serves, reach, ..FrontSeen::default() });
        }
        let mut seen = told.seen.get(environment).cloned()?;
        // The worker may take what it was told to nginx at any moment.
        seen.reach = seen.reach.and(serves).and(told.rendered.of(environment));
        Some(seen)
    }

    fn is_served(&self, environment: &EnvironmentName) -> bool {
        let manifest = self.manifest.borrow();
        manifest.environments.get(environment).is_some_and(|spec| Site::of(spec, None).is_some())
    }

    /// What is wrong with the front as a whole, in sentences.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.told().trouble.clone()
    }

    /// Says that a container changed: where it is the front's, or has its name, the front is looked at.
    pub(super) fn hear(&self, id: &str, names: &[String]) {
        if self.told().container.as_deref() == Some(id) || names.contains(&self.name) {
            self.bell.notify_one();
        }
    }

    /// Says that an image came: it may be the one that the front waits for.
    pub(super) fn hear_of_images(&self) {
        if !self.told().trouble.is_empty() {
            self.bell.notify_one();
        }
    }

    /// Takes note of what the front does now, and rings the environments for which that is news.
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
