//! The front's container: find, create, start, repair, remove.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::care::{Care, care};
use super::refused;
use super::render::FOLDER;
use super::worker::{Trouble, Worker};
use crate::controller::clock::now;
use crate::controller::docker::{EngineError, FrontOptions, SeenFront};
use crate::controller::pull::pull_declared;
use crate::model::container::label;
use crate::model::name::ContainerName;
use crate::model::observed::ContainerState;
use crate::model::spec::FrontSpec;
use crate::model::time::Timestamp;
use crate::plan::backoff;

/// More than the steps from no container to a running one.
const ROUNDS: usize = 8;
/// Uptime after which the next exit counts as the first again, as for environments.
const HEALTHY: Duration = Duration::from_secs(600);
/// Lines of nginx's log in which to find the reason for an exit.
const LAST_LINES: usize = 40;

/// The state of the front's container.
#[derive(Default)]
pub(super) struct Container {
    /// Its id.
    pub(super) id: Option<String>,
    /// How often its process exited in quick succession.
    ends: u32,
    /// The start time of the last run whose exit was counted.
    counted: Option<Timestamp>,
    /// The earliest time of the next start.
    start_at: Option<Timestamp>,
    /// The image pull in progress.
    pull: Option<Pull>,
    /// The error of the last pull.
    pull_failed: Option<String>,
    /// The reason why a container still serves although it must be replaced, in a sentence.
    pub(super) waits_for: Option<String>,
}

struct Pull {
    image: String,
    /// Returns the error if the pull failed.
    task: JoinHandle<Result<(), EngineError>>,
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Worker {
    /// Brings the container into the desired state and returns its id.
    pub(super) async fn running(&mut self, spec: &FrontSpec) -> Result<String, Trouble> {
        let options = self.options(spec)?;
        self.container.waits_for = None;
        for _ in 0..ROUNDS {
            let Some(seen) = self.find(&options).await? else {
                self.image(&options.image).await.map_err(Trouble::down)?;
                self.make(spec, &options).await?;
                continue;
            };
            let id = seen.seen.id.clone();
            match care(&options, &seen) {
                Care::None => return Ok(id),
                Care::Wait => return Err(Trouble::down("the engine is busy with the front").soon()),
                Care::Rename => return self.rename(&id, &options).await,
                Care::OwnRestarts => self.engine.adjust(&id, None, None, None).await?,
                Care::Unpause => {
                    info!(front = %options.name, "unpausing the front");
                    self.engine.unpause(&id).await?;
                }
                Care::Start => self.start(spec, &seen).await?,
                Care::Remake(why) => match self.image(&options.image).await {
                    Ok(()) => self.take_away(&id, &why).await?,
                    // The old container keeps running until there is an image to replace it.
                    Err(words) if seen.seen.state == ContainerState::Running => {
                        self.container.waits_for = Some(words);
                        return Ok(id);
                    }
                    Err(words) => return Err(Trouble::down(words)),
                },
            }
        }
        Err(Trouble::down(format!("the container {} does not come to rest", options.name)))
    }

    fn options(&self, spec: &FrontSpec) -> Result<FrontOptions, Trouble> {
        let name = ContainerName::new(self.front.name.clone());
        let name = name.map_err(|error| Trouble::down(format!("the front cannot be named: {error}")))?;
        let labels = BTreeMap::from([
            (label::RECORD.to_owned(), self.record.clone()),
            (label::ROLE.to_owned(), label::FRONT.to_owned()),
        ]);
        let command = ["nginx", "-c", &format!("/{FOLDER}/nginx.conf")].map(str::to_owned).to_vec();
        Ok(FrontOptions { name, image: spec.image.clone(), command, labels })
    }

    /// Finds this record's container. If there are several, the one with the right name counts.
    async fn find(&mut self, options: &FrontOptions) -> Result<Option<SeenFront>, EngineError> {
        if let Some(id) = &self.container.id
            && let Some(seen) = self.engine.inspect_front(id).await?
        {
            return Ok(Some(seen));
        }
        self.forget();
        let mut found: Option<SeenFront> = None;
        for id in self.engine.containers_of_role(&self.record, label::FRONT).await? {
            let Some(seen) = self.engine.inspect_front(&id).await? else { continue };
            if found.is_none() || seen.seen.name == options.name.as_str() {
                found = Some(seen);
            }
        }
        self.container.id = found.as_ref().map(|found| found.seen.id.clone());
        self.front.told().container = self.container.id.clone();
        Ok(found)
    }

    fn forget(&mut self) {
        self.container.id = None;
        self.draining.clear();
    }

    async fn make(&mut self, spec: &FrontSpec, options: &FrontOptions) -> Result<(), Trouble> {
        let id = match self.engine.create_front(options).await {
            Ok(id) => id,
            Err(EngineError::Conflict(_)) => {
                let name = &options.name;
                return Err(Trouble::down(format!(
                    "a container that is not abide's has the front's name: docker rename {name} OTHER"
                )));
            }
            Err(error) => return Err(Trouble::down(format!("the front cannot be made: {error}"))),
        };
        info!(front = %options.name, image = %options.image, "made the front's container");
        self.front.told().container = Some(id.clone());
        self.container.id = Some(id.clone());
        self.put_back(spec, &id).await
    }

    /// Starts the container with a configuration that nginx is known to accept: at once the first time, later
    /// after a growing pause.
    async fn start(&mut self, spec: &FrontSpec, seen: &SeenFront) -> Result<(), Trouble> {
        let id = &seen.seen.id;
        let mut why = String::new();
        if let ContainerState::Exited(exit) = &seen.seen.state {
            let log = self.engine.last_output(id, LAST_LINES).await?;
            why = last_words(&log).unwrap_or_else(|| format!("exit code {}", exit.code));
            self.count_end(seen, exit.at, &refused::read(&log));
        }
        if let Some(at) = self.container.start_at.filter(|at| *at > now()) {
            let words = format!("nginx ended ({why}) and is started again after a pause");
            return Err(Trouble { retry: Some(at.since(now())), ..Trouble::down(words) });
        }
        info!(front = %self.front.name, last = %why, "starting the front");
        self.put_back(spec, id).await?;
        let started = self.engine.start(id).await;
        started.map_err(|error| Trouble::down(format!("the front cannot be started: {error}")))?;
        self.await_start(id, &why).await
    }

    /// Counts an exit once. An exit because of a newly unavailable port restarts the count.
    fn count_end(&mut self, seen: &SeenFront, ended: Timestamp, refused: &[(std::net::SocketAddr, String)]) {
        let started = seen.seen.started_at;
        if started == self.container.counted && started.is_some() {
            return;
        }
        self.container.counted = started;
        let ran_well = started.is_some_and(|started| ended.since(started) >= HEALTHY);
        let sockets = self.refusals.sockets();
        let is_news = refused.iter().any(|(socket, _)| !sockets.contains(socket));
        self.refusals.add(refused.to_vec(), now());
        let before = if ran_well || is_news { 0 } else { self.container.ends };
        self.container.ends = before + 1;
        self.container.start_at = Some(now().after(backoff(self.container.ends, &self.front.name)));
    }

    async fn rename(&self, id: &str, options: &FrontOptions) -> Result<String, Trouble> {
        let name = &options.name;
        match self.engine.rename(id, name).await {
            Ok(()) => info!(front = %name, "gave the front its name back"),
            Err(error) => warn!(front = %name, %error, "the front cannot have its name back"),
        }
        Ok(id.to_owned())
    }

    pub(super) async fn take_away(&mut self, id: &str, why: &str) -> Result<(), EngineError> {
        info!(front = %self.front.name, why, "the front's container is made anew");
        self.engine.remove_scratch(id).await?;
        self.forget();
        Ok(())
    }

    /// Removes the front after its declaration was removed.
    pub(super) async fn remove(&mut self) -> Result<(), Trouble> {
        for id in self.engine.containers_of_role(&self.record, label::FRONT).await? {
            info!(front = %self.front.name, "there is no front any more: removing its container");
            self.engine.remove_scratch(&id).await?;
        }
        self.forget();
        self.container = Container::default();
        (self.accepted, self.remembered) = (None, BTreeMap::new());
        self.since.clear();
        self.front.guard.tell_front(None);
        Ok(())
    }

    /// Checks that the image is present. If it is missing, a pull starts, and the error describes its
    /// progress.
    async fn image(&mut self, image: &str) -> Result<(), String> {
        match self.engine.image_id(image).await {
            Ok(Some(_)) => {
                (self.container.pull, self.container.pull_failed) = (None, None);
                return Ok(());
            }
            Ok(None) => {}
            Err(error) => return Err(format!("the front's image cannot be looked for: {error}")),
        }
        match &mut self.container.pull {
            Some(pull) if pull.image == image && !pull.task.is_finished() => {}
            Some(pull) if pull.image == image => {
                let failed = (&mut pull.task).await.ok().and_then(Result::err);
                self.container.pull = None;
                self.container.pull_failed = failed.map(|error| {
                    format!(
                        "the front's image {image} is not on this host and cannot be pulled: {error}. Bring \
                         it here with `docker pull` or `docker load`, or name another as `image` in [front]"
                    )
                });
            }
            _ => self.begin_pull(image),
        }
        let pulling = || format!("the front's image {image} is being pulled");
        Err(self.container.pull_failed.clone().unwrap_or_else(pulling))
    }

    fn begin_pull(&mut self, image: &str) {
        info!(image, "pulling the front's image");
        let (engine, bell) = (self.engine.clone(), self.front.bell.clone());
        let registries = self.registries.clone();
        let name = image.to_owned();
        let task = tokio::spawn(async move {
            let pulled = pull_declared(&engine, &registries, &name).await;
            bell.notify_one();
            pulled
        });
        self.container.pull = Some(Pull { image: image.to_owned(), task });
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
