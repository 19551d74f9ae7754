//! The engine's events, reduced to what to look at.

use std::collections::HashMap;

use bollard::models::{EventMessage, EventMessageTypeEnum as Kind};
use bollard::query_parameters::EventsOptionsBuilder;
use futures::{Stream, StreamExt};

use super::{Engine, EngineError, Result};

/// What an event says to look at. Only a hint: the answer is read afresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A container changed.
    Container {
        /// Its id.
        id: String,
        /// Its names, as far as the event tells: the present and the former one.
        names: Vec<String>,
    },
    /// Images, networks or volumes were removed or made.
    Things,
}

/// Actions that happen inside or beside a container and change nothing that abide looks at.
/// Health checks make `exec_*` events every few seconds.
const NOISE: [&str; 11] = [
    "exec_",
    "attach",
    "detach",
    "top",
    "resize",
    "copy",
    "archive-path",
    "extract-to-dir",
    "export",
    "commit",
    "kill",
];

impl Engine {
    /// The stream of happenings; it ends where the connection does. `since` is in whole seconds of
    /// the engine's clock: events after it are told first.
    pub(crate) async fn happenings(
        &self,
        since: Option<u64>,
    ) -> Result<impl Stream<Item = Result<Happening>> + Send + use<>> {
        let docker = self.docker().await?;
        let kinds = vec!["container".to_owned(), "image".into(), "network".into(), "volume".into()];
        let options = EventsOptionsBuilder::default().filters(&HashMap::from([("type".to_owned(), kinds)]));
        let options = match since {
            Some(since) => options.since(&since.to_string()),
            None => options,
        };
        let events = docker.events(Some(options.build()));
        Ok(events.filter_map(|event| async move {
            match event {
                Ok(event) => happening(event).map(Ok),
                Err(error) => Some(Err(EngineError::from(error))),
            }
        }))
    }
}

fn happening(event: EventMessage) -> Option<Happening> {
    let action = event.action.unwrap_or_default();
    let actor = event.actor.unwrap_or_default();
    let mut attributes = actor.attributes.unwrap_or_default();
    match event.typ? {
        Kind::CONTAINER if NOISE.iter().any(|noise| action.starts_with(noise)) => None,
        Kind::CONTAINER => {
            let names = ["name", "oldName"].into_iter().filter_map(|key| attributes.remove(key));
            let names = names.map(|name| name.trim_start_matches('/').to_owned()).collect();
            Some(Happening::Container { id: actor.id?, names })
        }
        Kind::NETWORK if matches!(action.as_str(), "connect" | "disconnect") => {
            Some(Happening::Container { id: attributes.remove("container")?, names: Vec::new() })
        }
        Kind::IMAGE if matches!(action.as_str(), "delete" | "untag" | "load" | "import" | "pull" | "tag") => {
            Some(Happening::Things)
        }
        Kind::NETWORK | Kind::VOLUME if matches!(action.as_str(), "destroy" | "create" | "remove") => {
            Some(Happening::Things)
        }
        _ => None,
    }
}
