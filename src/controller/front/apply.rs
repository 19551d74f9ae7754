//! Applies a configuration to nginx. It is placed beside the present one, checked, moved into place and
//! reloaded. It counts as applied only when the front itself reports it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::ask::{self, ServedConfiguration};
use super::container::last_words;
use super::draining::{shutting_down, workers};
use super::render::{Configuration, FOLDER};
use super::site::{Site, Sites};
use super::worker::{FrontError, FrontReconciler};
use super::{reach, refused};
use crate::controller::clock::{now, wall};
use crate::controller::docker::{EngineError, PlacedFile};
use crate::model::logs::LogOptions;
use crate::model::name::EnvironmentName;
use crate::model::spec::FrontSpec;
use crate::model::time::Timestamp;

/// The file that nginx reads.
pub(crate) const PRESENT: &str = "nginx.conf";
/// The file of the next configuration.
const NEXT: &str = "next.conf";
/// Attempts in one round of work: one for each kind of thing that can be left out, and one more.
const ROUNDS: usize = 4;
/// How long nginx may take to apply a configuration. It tries for 2.5 s to get a port.
const TAKE_OVER: Duration = Duration::from_secs(8);
/// How long to wait until workers from before a reload stop accepting connections.
const LAST_ACCEPTED: Duration = Duration::from_secs(2);
/// How long the front may answer with another configuration before abide believes that it serves that one:
/// just after a reload, an old worker may still answer.
const SETTLED: Duration = Duration::from_millis(200);
/// How long nginx may take to start.
const START: Duration = Duration::from_secs(5);
/// The interval between questions to the front.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// Consecutive attempts without any reaction of nginx, after which its container is recreated.
const SILENT_ATTEMPTS: u32 = 3;
/// While nginx has not applied the configuration, its log is read once in this many questions.
const READ_EVERY: u32 = 25;

/// The result of one attempt.
enum ApplyResult {
    /// nginx serves the configuration.
    TakenOver,
    /// nginx could not bind these sockets.
    Refused(Vec<(SocketAddr, String)>),
    /// nginx rejects the configuration, with this message.
    Invalid(String),
    /// nginx neither reported nor did anything.
    Silent,
}

impl FrontReconciler {
    /// Makes the front serve the desired configuration, unless it already does.
    pub(super) async fn up_to_date(&mut self, spec: &FrontSpec, id: &str) -> Result<(), FrontError> {
        // If another configuration is about to replace it, the content of the container does not matter.
        let mut found = if self.is_switch_due(spec) { None } else { self.found(id).await? };
        if self.accepted.is_none() {
            self.adopt(id, found.as_deref(), spec).await;
        }
        self.open_requests(None);
        self.look_for_drift(found.as_deref()).await;
        if !self.has_routes() {
            return Ok(());
        }
        for _ in 0..ROUNDS {
            let wanted = self.wanted(spec);
            if wanted.asked_at.is_none() {
                return Err(FrontError::down(self.refusals.sentence_for_all()));
            }
            if found.as_ref().is_some_and(|found| wanted.reads_as(found)) && is_served(&wanted).await {
                if found.as_ref() != Some(&wanted.text) {
                    // Another container has the same address. The file records that; nginx need not reload.
                    let text = wanted.text.clone().into_bytes();
                    self.engine.place_files(id, FOLDER, &[file(PRESENT, text)]).await?;
                }
                self.accept(wanted, None, spec.drain);
                return Ok(());
            }
            match self.attempt(id, &wanted, spec).await? {
                ApplyResult::TakenOver => return Ok(()),
                ApplyResult::Refused(sockets) => self.refusals.add(sockets, now()),
                ApplyResult::Invalid(why) if self.certificates.blame(&self.front.name, &why) => {}
                ApplyResult::Invalid(why) => {
                    self.put_back(spec, id).await?;
                    return Err(FrontError::stale(format!(
                        "nginx rejected the proxy's new configuration, so the old one stays in use: {why}"
                    )));
                }
                ApplyResult::Silent => {
                    self.put_back(spec, id).await?;
                    self.wake_silent(id).await?;
                    let within = humantime::format_duration(TAKE_OVER);
                    let at = wanted.asked_at.map_or("nowhere".to_owned(), |at| at.to_string());
                    return Err(FrontError::stale(format!(
                        "nginx did not apply the proxy's new configuration within {within} (checked at \
                        {at})"
                    )));
                }
            }
            found = self.found(id).await?;
        }
        Err(FrontError::stale("the proxy's configuration keeps changing").soon())
    }

    /// Records whether the front serves another configuration than the rendered one, because somebody else
    /// changed it.
    async fn look_for_drift(&mut self, found: Option<&str>) {
        let (Some(accepted), Some(found)) = (&self.accepted, found) else { return };
        if self.has_drifted || accepted.reads_as(found) && !is_something_else_served(accepted).await {
            return;
        }
        self.has_drifted = true;
        self.changes = self.changes.saturating_add(1);
        self.publish();
    }

    /// Tries to recover a front that neither applies nor rejects a configuration. If somebody stopped its
    /// first process with a signal, SIGCONT resumes it at no cost. After a few failed attempts the container
    /// is recreated, and for a moment nobody answers.
    async fn wake_silent(&mut self, id: &str) -> Result<(), FrontError> {
        self.silent_attempts += 1;
        if self.silent_attempts < SILENT_ATTEMPTS {
            warn!(front = %self.front.name, tries = self.silent_attempts, "nginx does not respond; sending \
                SIGCONT");
            self.engine.signal(id, "SIGCONT").await?;
            return Ok(());
        }
        let why = format!("nginx ignored {} attempts to apply a configuration", self.silent_attempts);
        self.silent_attempts = 0;
        self.record_event(&format!("the proxy's container is being recreated: {why}")).await;
        self.take_away(id, &why).await?;
        Err(FrontError::down(format!("{why}, so the proxy's container is being recreated")).soon())
    }

    /// Has nginx check the configuration that will be needed soon, so that the switch need not wait for the
    /// check. If nginx rejects it, the error is reported when the configuration is due.
    pub(super) async fn make_ready(&mut self, spec: &FrontSpec, id: &str) {
        if let Some(expected) = self.expected(spec)
            && !self.is_checked(id, &expected)
        {
            let _ = self.check(id, &expected).await;
        }
    }

    fn is_checked(&self, id: &str, configuration: &Configuration) -> bool {
        self.checked.as_ref().is_some_and(|(hash, inside)| *hash == configuration.hash && inside == id)
    }

    /// Returns whether the desired configuration differs from the one that nginx is known to serve.
    fn is_switch_due(&self, spec: &FrontSpec) -> bool {
        let accepted = self.accepted.as_ref();
        self.has_routes() && accepted.is_some_and(|accepted| !self.wanted(spec).reads_as(&accepted.text))
    }

    /// Returns the text of the configuration in the container.
    async fn found(&self, id: &str) -> Result<Option<String>, FrontError> {
        let file = self.engine.read_file(id, &format!("/{FOLDER}/{PRESENT}")).await?;
        Ok(file.and_then(|file| String::from_utf8(file.content).ok()))
    }

    /// Adopts the configuration of a front that ran before this daemon.
    async fn adopt(&mut self, id: &str, found: Option<&str>, spec: &FrontSpec) {
        let Some(found) = found.and_then(Configuration::read) else { return };
        self.remembered = found.sites.clone();
        self.changes = found.changes;
        self.open_requests(found.requests.clone());
        if !found.is_unedited() {
            // Somebody changed the file, so it is unknown what nginx serves until it serves another
            // configuration.
            self.changes = self.changes.saturating_add(1);
            return;
        }
        if !is_served(&found).await {
            return;
        }
        let written = self.engine.read_file(id, &format!("/{FOLDER}/{PRESENT}")).await.ok().flatten();
        let since = written.map_or_else(now, |file| file.written);
        self.since.extend(found.sites.keys().map(|environment| (environment.clone(), since)));
        // Requests from a switch by an earlier daemon may still be draining.
        let old = self.engine.processes(id).await.ok().map(|processes| shutting_down(&processes));
        if old.as_ref().is_none_or(|old| !old.is_empty()) {
            for environment in found.sites.keys() {
                self.draining.begin(environment.clone(), None, old.as_ref(), now(), spec.drain);
            }
        }
        self.front.canaries.count(&found.sites, now());
        self.accepted = Some(found);
        self.update_guard();
    }

    async fn attempt(
        &mut self,
        id: &str,
        wanted: &Configuration,
        spec: &FrontSpec,
    ) -> Result<ApplyResult, FrontError> {
        if !self.is_checked(id, wanted)
            && let Some(attempt) = self.check(id, wanted).await?
        {
            return Ok(attempt);
        }
        let files = [file(PRESENT, wanted.text.clone().into_bytes())];
        self.unsettled.add(&wanted.sites);
        let (placed, before) =
            tokio::join!(self.engine.place_files(id, FOLDER, &files), self.engine.processes(id));
        placed?;
        // This time is compared with the times in the log.
        let reloaded = wall();
        self.engine.signal(id, "SIGHUP").await?;
        let attempt = self.await_take_over(id, wanted, reloaded).await?;
        if let ApplyResult::TakenOver = attempt {
            info!(front = %self.front.name, configuration = &wanted.hash[..12], "applied the proxy's \
                configuration");
            let before = before.ok().map(|processes| workers(&processes));
            self.await_last_accepted(id, before.as_ref()).await;
            self.accept(wanted.clone(), Some(before.as_ref()), spec.drain);
        }
        Ok(attempt)
    }

    /// Places a configuration beside the present one and has nginx check it. Returns the error, if any.
    async fn check(
        &mut self,
        id: &str,
        configuration: &Configuration,
    ) -> Result<Option<ApplyResult>, EngineError> {
        let mut files = self.certificates.files();
        files.extend(self.files.all());
        files.push(file(NEXT, configuration.text.clone().into_bytes()));
        self.engine.place_files(id, FOLDER, &files).await?;
        let next = format!("/{FOLDER}/{NEXT}");
        let (code, output) = self.engine.run_in(id, &["nginx", "-t", "-c", next.as_str()]).await?;
        if code == 0 {
            self.checked = Some((configuration.hash.clone(), id.to_owned()));
            return Ok(None);
        }
        let sockets = refused::read(&output);
        let why = last_words(&output).unwrap_or_else(|| format!("`nginx -t` ended with exit code {code}"));
        Ok(Some(if sockets.is_empty() { ApplyResult::Invalid(why) } else { ApplyResult::Refused(sockets) }))
    }

    /// Waits until no worker from before a reload accepts connections. Old workers do so for a moment beside
    /// the new ones.
    async fn await_last_accepted(&self, id: &str, before: Option<&BTreeSet<u32>>) {
        let began = tokio::time::Instant::now();
        while let Some(before) = before.filter(|_| began.elapsed() < LAST_ACCEPTED) {
            let Ok(processes) = self.engine.processes(id).await else { return };
            let ending = shutting_down(&processes);
            let mut left = workers(&processes).into_iter().filter(|worker| before.contains(worker));
            if left.all(|worker| ending.contains(&worker)) {
                return;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn await_take_over(
        &self,
        id: &str,
        wanted: &Configuration,
        reloaded: Timestamp,
    ) -> Result<ApplyResult, FrontError> {
        // The engine filters its log by whole seconds.
        let since = LogOptions { since: Some(reloaded), ..LogOptions::default() };
        let began = tokio::time::Instant::now();
        for round in 1.. {
            if is_served(wanted).await {
                return Ok(ApplyResult::TakenOver);
            }
            if round % READ_EVERY == 0 {
                let log = self.engine.output(id, &since).await?;
                let sockets = refused::read(&log);
                // Before that line, nginx still tries.
                if !sockets.is_empty() && log.contains("still could not bind") {
                    return Ok(ApplyResult::Refused(sockets));
                }
            }
            if began.elapsed() > TAKE_OVER {
                break;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        let sockets = refused::read(&self.engine.output(id, &since).await?);
        Ok(if sockets.is_empty() { ApplyResult::Silent } else { ApplyResult::Refused(sockets) })
    }

    /// Records that nginx serves `configuration`. `switched` is set if it does so only from now on, and holds
    /// the workers from before.
    fn accept(
        &mut self,
        configuration: Configuration,
        switched: Option<Option<&BTreeSet<u32>>>,
        drain: Duration,
    ) {
        let before = self.accepted.as_ref().map(|accepted| &accepted.sites);
        let moved = moved(before, &configuration.sites);
        let now = now();
        if let Some(workers) = switched {
            for environment in &moved {
                let from = self.reached_before(environment);
                self.draining.begin(environment.clone(), from, workers, now, drain);
            }
        }
        self.unsettled.clear();
        (self.has_drifted, self.silent_attempts) = (false, 0);
        self.since.extend(moved.into_iter().map(|environment| (environment, now)));
        self.refusals.taken();
        self.certificates.accepted();
        self.front.canaries.count(&configuration.sites, now);
        self.remembered = configuration.sites.clone();
        self.accepted = Some(configuration);
        self.update_guard();
    }

    /// The containers to which workers from before a switch may still send requests; `None`: any.
    fn reached_before(&self, environment: &EnvironmentName) -> Option<BTreeSet<String>> {
        let accepted = self.accepted.as_ref()?;
        let served = accepted.sites.get(environment).into_iter().flat_map(reach::containers);
        Some(served.chain(self.unsettled.of(environment)).collect())
    }

    /// Passes the served configuration to the guard, because containers get new addresses when the engine
    /// restarts while abide does not run.
    fn update_guard(&self) {
        let manifest = Arc::clone(&self.front.manifest.borrow());
        let served = self.container.id().zip(self.accepted.as_ref());
        self.front.guard.set_front(served.map(|(id, accepted)| (id, &*manifest, accepted)));
    }

    /// Restores a configuration that nginx accepts: the one that it serves or served last, otherwise one
    /// without TLS, because only TLS can be wrong.
    pub(super) async fn put_back(&mut self, spec: &FrontSpec, id: &str) -> Result<(), FrontError> {
        if self.accepted.is_none()
            && let Some(found) = self.found(id).await?.as_deref().and_then(Configuration::read)
        {
            self.open_requests(found.requests);
            self.remembered = found.sites;
        }
        self.open_requests(None);
        let refused = self.refusals.sockets();
        let is_good = |accepted: &&Configuration| !refused.iter().any(|socket| listens_on(accepted, socket));
        let accepted = self.accepted.as_ref().filter(is_good).map(|accepted| accepted.text.clone());
        // Certificates that only an earlier daemon knew cannot be copied into a new container.
        let complete = accepted.and_then(|text| self.certificates.files_of(&text).map(|files| (text, files)));
        let (text, mut files) = complete.unwrap_or_else(|| (self.plain(spec).text, Vec::new()));
        files.extend(self.files.all());
        files.push(file(PRESENT, text.into_bytes()));
        Ok(self.engine.place_files(id, FOLDER, &files).await?)
    }

    /// Waits until a started container serves or has exited.
    pub(super) async fn await_start(&self, id: &str, last: &str) -> Result<(), FrontError> {
        let found = self.found(id).await?.as_deref().and_then(Configuration::read);
        let found = found.filter(|found| found.asked_at.is_some());
        let began = tokio::time::Instant::now();
        while let Some(found) = found.as_ref().filter(|_| began.elapsed() < START) {
            if is_served(found).await {
                return Ok(());
            }
            let seen = self.engine.inspect(id).await?;
            if !seen.is_some_and(|seen| seen.state == crate::model::observed::ContainerState::Running) {
                let output =
                    self.container.last_line(id).await.map(|line| format!("; its last output: {line}"));
                let last = if last.is_empty() { output.unwrap_or_default() } else { format!(" ({last})") };
                return Err(FrontError::down(format!("nginx exits right after its start{last}")).soon());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        // It runs. The next step checks what it serves.
        Ok(())
    }
}

fn file(name: &str, content: Vec<u8>) -> PlacedFile {
    PlacedFile { path: format!("{FOLDER}/{name}"), content, mode: 0o644 }
}

/// Returns whether the front reports something else than this configuration, and still does a moment later.
/// A missing answer does not prove a change.
async fn is_something_else_served(configuration: &Configuration) -> bool {
    let Some(at) = configuration.asked_at else { return false };
    let began = tokio::time::Instant::now();
    loop {
        match ask::ask(at, configuration.has_proxy_header).await {
            ServedConfiguration::Hash(hash) if hash == configuration.hash => return false,
            ServedConfiguration::Unknown => return false,
            ServedConfiguration::Hash(_) | ServedConfiguration::Other if began.elapsed() > SETTLED => {
                return true;
            }
            ServedConfiguration::Hash(_) | ServedConfiguration::Other => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

/// Returns whether the front reports this configuration.
async fn is_served(configuration: &Configuration) -> bool {
    match configuration.asked_at {
        Some(at) => {
            ask::ask(at, configuration.has_proxy_header).await
                == ServedConfiguration::Hash(configuration.hash.clone())
        }
        None => false,
    }
}

fn listens_on(configuration: &Configuration, socket: &SocketAddr) -> bool {
    let plain = format!("listen {socket};");
    let more = format!("listen {socket} ");
    configuration.text.contains(&plain) || configuration.text.contains(&more)
}

/// Returns the environments whose route has changed.
fn moved(before: Option<&Sites>, now: &Sites) -> Vec<EnvironmentName> {
    let is_moved = |(name, site): &(&EnvironmentName, &Site)| {
        let before = before.and_then(|before| before.get(*name));
        before.is_none_or(|before| before.route != site.route)
    };
    now.iter().filter(is_moved).map(|(name, _)| name.clone()).collect()
}
