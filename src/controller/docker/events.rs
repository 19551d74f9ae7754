//! The engine's events, reduced to the objects to inspect again.

use std::collections::HashMap;

use bollard::models::{EventMessage, EventMessageTypeEnum as Kind};
use bollard::query_parameters::EventsOptionsBuilder;
use futures::{Stream, StreamExt};

use super::{Engine, EngineError, Result};
use crate::model::time::Timestamp;

/// The object to inspect after an event. It is only a hint: the current state is always read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A container changed.
    Container {
        /// Its id.
        id: String,
        /// Its present and former names, as far as the event contains them.
        names: Vec<String>,
        /// When its process ended, if the event reports an exit.
        died_at: Option<Timestamp>,
    },
    /// A command ended in a container, or files were copied into it.
    Inside {
        /// Its id.
        id: String,
    },
    /// A signal was sent to a container.
    Signal {
        /// Its id.
        id: String,
        /// The number of the signal.
        signal: u8,
        /// The time of the signal.
        at: Timestamp,
    },
    /// An image was added or renamed.
    ImageCame,
    /// An image, or one of its names, was removed.
    ImageGone {
        /// Its id.
        id: String,
    },
    /// A network was removed or created.
    Network {
        /// Its name.
        name: String,
    },
    /// A volume was removed or created.
    Volume {
        /// Its name.
        name: String,
    },
}

/// Actions inside or beside a container that change nothing abide inspects. Health checks cause `exec_*`
/// events every few seconds.
const NOISE: [&str; 10] = [
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
];

impl Engine {
    /// Streams the happenings until the connection ends. `since` is in whole seconds of the engine's clock;
    /// the stream begins with the events after it.
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
    let at = event.time_nano.and_then(|nanos| u64::try_from(nanos / 1_000_000).ok());
    let at = Timestamp::from_millis(at.unwrap_or(0));
    let actor = event.actor.unwrap_or_default();
    let mut attributes = actor.attributes.unwrap_or_default();
    match event.typ? {
        // A command that ended in the container, or files that were copied into it.
        Kind::CONTAINER if matches!(action.as_str(), "exec_die" | "extract-to-dir") => {
            Some(Happening::Inside { id: actor.id? })
        }
        Kind::CONTAINER if NOISE.iter().any(|noise| action.starts_with(noise)) => None,
        Kind::CONTAINER if action == "kill" => {
            // If the engine does not name the signal, it has sent SIGKILL.
            let signal = attributes.remove("signal").and_then(|signal| signal.parse().ok());
            Some(Happening::Signal { id: actor.id?, signal: signal.unwrap_or(9), at })
        }
        Kind::CONTAINER => {
            let names = ["name", "oldName"].into_iter().filter_map(|key| attributes.remove(key));
            let names = names.map(|name| name.trim_start_matches('/').to_owned()).collect();
            let died_at = (action == "die").then_some(at);
            Some(Happening::Container { id: actor.id?, names, died_at })
        }
        Kind::NETWORK if matches!(action.as_str(), "connect" | "disconnect") => Some(Happening::Container {
            id: attributes.remove("container")?,
            names: Vec::new(),
            died_at: None,
        }),
        Kind::IMAGE if matches!(action.as_str(), "delete" | "untag") => {
            Some(Happening::ImageGone { id: actor.id? })
        }
        Kind::IMAGE if matches!(action.as_str(), "load" | "import" | "pull" | "tag") => {
            Some(Happening::ImageCame)
        }
        Kind::NETWORK if is_come_or_gone(&action) => {
            Some(Happening::Network { name: attributes.remove("name")? })
        }
        Kind::VOLUME if is_come_or_gone(&action) => Some(Happening::Volume { name: actor.id? }),
        _ => None,
    }
}

fn is_come_or_gone(action: &str) -> bool {
    matches!(action, "create" | "destroy" | "remove")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::EventActor;

    fn parsed(kind: Kind, action: &str, id: &str, attributes: &[(&str, &str)]) -> Option<Happening> {
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let actor = EventActor { id: Some(id.to_owned()), attributes: Some(attributes.collect()) };
        let action = Some(action.to_owned());
        happening(EventMessage { typ: Some(kind), action, actor: Some(actor), ..EventMessage::default() })
    }

    #[test]
    fn a_rename_event_carries_both_names() {
        let names = [("name", "after"), ("oldName", "/before")];
        let both_names = vec!["after".to_owned(), "before".to_owned()];
        let wanted = Happening::Container { id: "c".to_owned(), names: both_names, died_at: None };
        assert_eq!(parsed(Kind::CONTAINER, "rename", "c", &names), Some(wanted));
    }

    #[test]
    fn health_check_exec_events_are_ignored() {
        assert_eq!(parsed(Kind::CONTAINER, "exec_start: /bin/check", "c", &[]), None);
        let inside = Some(Happening::Inside { id: "c".to_owned() });
        assert_eq!(parsed(Kind::CONTAINER, "exec_die", "c", &[]), inside, "which may have changed the front");
    }

    #[test]
    fn kill_and_die_events_are_recognized() {
        let at = Timestamp::default();
        let signal = |signal| Some(Happening::Signal { id: "c".to_owned(), signal, at });
        assert_eq!(parsed(Kind::CONTAINER, "kill", "c", &[("signal", "15")]), signal(15));
        assert_eq!(parsed(Kind::CONTAINER, "kill", "c", &[]), signal(9));
        let died = Happening::Container { id: "c".to_owned(), names: Vec::new(), died_at: Some(at) };
        assert_eq!(parsed(Kind::CONTAINER, "die", "c", &[]), Some(died));
    }

    #[test]
    fn image_network_and_volume_events_carry_their_identifiers() {
        let image = Happening::ImageGone { id: "sha256:i".to_owned() };
        assert_eq!(parsed(Kind::IMAGE, "delete", "sha256:i", &[("name", "x")]), Some(image));
        assert_eq!(parsed(Kind::IMAGE, "pull", "nginx:latest", &[]), Some(Happening::ImageCame));
        let network = Happening::Network { name: "abide".to_owned() };
        assert_eq!(parsed(Kind::NETWORK, "destroy", "n", &[("name", "abide")]), Some(network));
        let volume = Happening::Volume { name: "data".to_owned() };
        assert_eq!(parsed(Kind::VOLUME, "create", "data", &[("driver", "local")]), Some(volume));
        assert_eq!(parsed(Kind::VOLUME, "mount", "data", &[("container", "c")]), None);
    }

    #[test]
    fn a_network_disconnect_is_reported_for_its_container() {
        let wanted = Happening::Container { id: "c".to_owned(), names: Vec::new(), died_at: None };
        assert_eq!(parsed(Kind::NETWORK, "disconnect", "n", &[("container", "c")]), Some(wanted));
    }
}
