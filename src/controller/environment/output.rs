//! The output of an environment: that of its container, followed by that of the next one.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _, TryStreamExt as _};

use crate::controller::Controller;
use crate::controller::clock::now;
use crate::controller::docker::EngineError;
use crate::model::logs::LogOptions;
use crate::model::name::EnvironmentName;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::time::Timestamp;

/// How often a log stream checks for the next container. The check only reads memory.
const LOOK: Duration = Duration::from_millis(200);

/// If a container is still seen running so long after its stream ended, only the stream broke: the engine was
/// restarted, or the connection was cut.
const BROKEN: Duration = Duration::from_secs(2);

/// Output as the engine sends it.
type OutputStream = BoxStream<'static, io::Result<Bytes>>;

/// One run of a container: a restart makes another one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    id: String,
    started: Option<Timestamp>,
}

impl Run {
    fn of(container: &ObservedContainer) -> Self {
        Self { id: container.id.clone(), started: container.started_at }
    }
}

impl Controller {
    /// The output of the serving container. A followed stream continues with the output of every later
    /// container, until the environment leaves the manifest.
    ///
    /// # Errors
    /// A sentence, if there is no such container or the engine does not answer.
    pub async fn output(
        &self,
        environment: &EnvironmentName,
        options: LogOptions,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, String> {
        if options.previous {
            let kept = self.pass.previous.read(environment, options.tail).await;
            let kept = kept.map_err(|error| format!("cannot read the previous output: {error}"))?;
            let kept = kept.ok_or_else(|| format!("no container of {environment} has been replaced yet"))?;
            return Ok(stream::iter([Ok(kept)]).boxed());
        }
        let serving = self.serving(environment);
        let serving = serving.ok_or_else(|| format!("{environment} has no container"))?;
        let run = Run::of(&serving);
        let output = self.output_of(&run.id, options).await.map_err(|error| error.to_string())?;
        if !options.follow {
            return Ok(output);
        }
        let follower = (self.clone(), environment.clone(), run, BTreeMap::new());
        let later = stream::unfold(follower, |(controller, environment, last, mut ends)| async move {
            ends.insert(last.id.clone(), now());
            let (run, output) = controller.next_output(&environment, &last, &ends).await?;
            Some((output, (controller, environment, run, ends)))
        });
        Ok(output.chain(later.flatten()).boxed())
    }

    /// The output of the run after `last`, once there is one; the rest of `last` if only its stream ended.
    /// `ends` has the containers that were followed, and when their streams ended. `None` once the environment
    /// has left the manifest.
    async fn next_output(
        &self,
        environment: &EnvironmentName,
        last: &Run,
        ends: &BTreeMap<String, Timestamp>,
    ) -> Option<(Run, OutputStream)> {
        loop {
            if !self.pass.manifest.borrow().environments.contains_key(environment) {
                return None;
            }
            let is_broken = ends.get(&last.id).is_some_and(|ended| now() >= ended.after(BROKEN));
            let is_next = |container: &ObservedContainer| is_broken || Run::of(container) != *last;
            let running =
                self.serving(environment).filter(|container| container.state == ContainerState::Running);
            if let Some(container) = running.filter(is_next) {
                let run = Run::of(&container);
                // The engine keeps the output of all runs of a container, and counts in whole seconds.
                let since = ends.get(&run.id).map(|ended| match run.started {
                    Some(started) if started > *ended => started,
                    _ => ended.after(Duration::from_secs(1)),
                });
                let options = LogOptions { follow: true, since, ..LogOptions::default() };
                // A container that has been removed by now was not the next one.
                if let Ok(output) = self.output_of(&run.id, options).await {
                    return Some((run, output));
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn output_of(&self, id: &str, options: LogOptions) -> Result<OutputStream, EngineError> {
        let output = self.pass.engine.logs(id, &options).await?;
        Ok(output.map_err(io::Error::other).boxed())
    }

    fn serving(&self, environment: &EnvironmentName) -> Option<ObservedContainer> {
        // Other code reports an unreadable status.
        let status = self.pass.status.status(environment).ok().flatten();
        let running = status.and_then(|status| status.running).map(|running| running.container_id);
        self.pass.fleet.containers(environment).into_iter().min_by_key(|container| {
            let serves = running.as_ref() == Some(&container.id);
            let is_beside = container.name.contains(".next") || container.name.contains(".old-");
            (!serves, is_beside, std::cmp::Reverse(container.started_at))
        })
    }
}
