//! The front's container: its specification, and what happens around its start.

use std::collections::BTreeMap;

use super::refused;
use super::render::FOLDER;
use super::worker::{FrontError, FrontReconciler};
use crate::controller::clock::now;
use crate::controller::docker::{
    AuxiliaryImage, AuxiliaryNetwork, AuxiliarySpec, EngineError, SeenAuxiliary,
};
use crate::controller::managed::{NextAction, Obstacle};
use crate::model::container::label;
use crate::model::name::ContainerName;
use crate::model::observed::ContainerState;
use crate::model::spec::FrontSpec;

/// More than the steps from no container to a running one.
const ROUNDS: usize = 8;
/// Lines of nginx's log in which to find the reason for an exit.
const LAST_LINES: usize = 40;
/// Capabilities to bind ports below 1024, and to change the user of the workers and end them.
const CAPABILITIES: [&str; 6] = ["NET_BIND_SERVICE", "SETUID", "SETGID", "KILL", "CHOWN", "DAC_OVERRIDE"];

impl From<Obstacle> for FrontError {
    fn from(obstacle: Obstacle) -> Self {
        let words = format!("the proxy: {obstacle}");
        match obstacle {
            Obstacle::Engine(error) => error.into(),
            Obstacle::Busy => Self::down(words).soon(),
            Obstacle::Pause { left, .. } => Self { retry: Some(left), ..Self::down(words) },
            Obstacle::Down(_) => Self::down(words),
        }
    }
}

impl FrontReconciler {
    /// Brings the container into the desired state and returns its id.
    pub(super) async fn running(&mut self, spec: &FrontSpec) -> Result<String, FrontError> {
        let declared = self.declared(spec)?;
        self.waits_for = None;
        for _ in 0..ROUNDS {
            let before = self.container.id().map(str::to_owned);
            let next = self.container.next(&declared, &spec.image).await;
            if self.container.id() != before.as_deref() {
                self.draining.clear();
            }
            self.front.state().container = self.container.id().map(str::to_owned);
            match next? {
                NextAction::None(id) => return Ok(id),
                NextAction::Keep(id, why) => {
                    self.waits_for = Some(format!("the proxy: {why}"));
                    return Ok(id);
                }
                NextAction::Create => self.container.create(&declared, &spec.image).await?,
                NextAction::Start(seen) => self.start(spec, &seen).await?,
            }
        }
        Err(FrontError::down(format!("the container {} keeps changing", self.front.name)))
    }

    fn declared(&self, spec: &FrontSpec) -> Result<AuxiliarySpec, FrontError> {
        let name = ContainerName::new(self.front.name.clone());
        let name = name.map_err(|error| FrontError::down(format!("invalid name of the proxy: {error}")))?;
        Ok(AuxiliarySpec {
            role: label::FRONT,
            name,
            // By name: a moved tag does not justify an interruption.
            image: AuxiliaryImage::Named(spec.image.clone()),
            env: BTreeMap::new(),
            network: AuxiliaryNetwork::Host {},
            mounts: Vec::new(),
            undeclared: Vec::new(),
            content: None,
            command: ["nginx", "-c", &format!("/{FOLDER}/nginx.conf")].map(str::to_owned).to_vec(),
            // nginx quits on it once the current requests have ended.
            stop_signal: Some("SIGQUIT"),
            // nginx binds ports below 1024 and reads keys that only root may read.
            root_with: Some(&CAPABILITIES),
            is_stateless: true,
        })
    }

    /// Starts the container with a configuration that nginx is known to accept: at once the first time, later
    /// after a growing pause. An exit because of a newly unavailable port counts as the first one.
    async fn start(&mut self, spec: &FrontSpec, seen: &SeenAuxiliary) -> Result<(), FrontError> {
        let id = &seen.seen.id;
        let (mut why, mut is_new_cause) = (String::new(), false);
        if let ContainerState::Exited(exit) = &seen.seen.state {
            let log = self.container.last_output(id, LAST_LINES).await?;
            why = match last_words(&log) {
                Some(words) => words,
                None => self.container.why_ended(&seen.seen, exit).await,
            };
            if !self.container.is_counted(exit.at) {
                let refused = refused::read(&log);
                let sockets = self.refusals.sockets();
                is_new_cause = refused.iter().any(|(socket, _)| !sockets.contains(socket));
                self.refusals.add(refused, now());
                self.record_event(&format!("the proxy's container exited: {why}")).await;
            }
        }
        self.container.may_start(seen, &why, is_new_cause)?;
        self.put_back(spec, id).await?;
        self.container.start(id, &why).await?;
        self.await_start(id, &why).await
    }

    /// Removes the container, which is created again.
    pub(super) async fn take_away(&mut self, id: &str, why: &str) -> Result<(), EngineError> {
        self.container.remove(id, true, why).await?;
        self.draining.clear();
        Ok(())
    }

    /// Removes the front after its declaration was removed.
    pub(super) async fn remove(&mut self) -> Result<(), FrontError> {
        for seen in self.container.all().await? {
            self.container.remove(&seen.seen.id, true, "the proxy is no longer in the manifest").await?;
        }
        self.draining.clear();
        self.container.reset();
        self.waits_for = None;
        (self.accepted, self.remembered) = (None, BTreeMap::new());
        self.since.clear();
        self.front.guard.set_front(None);
        Ok(())
    }
}

/// Returns the last line of nginx's log that gives the reason for its exit.
pub(super) fn last_words(log: &str) -> Option<String> {
    let of = |level: &str| log.lines().rev().find_map(|line| line.split_once(level));
    let (_, words) = of("[emerg] ").or_else(|| of("[alert] "))?;
    // `1#1: ` and `*7 ` are the process and the connection.
    let words = words.split_once(": ").map_or(words, |(_, words)| words);
    Some(words.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(300).collect())
}
