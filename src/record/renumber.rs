//! Events of an agent whose folder is older than its reports, such as a restored copy. Its events have numbers that
//! the controller has received for others, and would count as received.

use super::draft::RecordDraft;
use super::error::RecordError;
use super::keys;
use super::replica::Replica;
use super::store::{DocumentKind, HIGHEST};
use super::wakeup::Wakeup;
use crate::model::event::Event;
use crate::model::link::ReportCursor;
use crate::model::name::EnvironmentName;

/// The key of a number that the next event must exceed.
pub(super) const LAST_EVENT: &[u8] = b"last-event";

impl Replica {
    /// Gives new numbers to the events whose numbers the controller has received for others, and continues above the
    /// highest number that it received. Returns the number of such events.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was changed then.
    pub async fn renumber(&self, heard: Vec<(EnvironmentName, ReportCursor)>) -> Result<usize, RecordError> {
        self.shared
            .write(move |draft| {
                let numbers = heard.iter().map(|(_, cursor)| cursor.event);
                // The other end of the link may send anything.
                let highest = numbers.filter(|number| *number <= HIGHEST).max().unwrap_or_default();
                if highest > draft.counters.last_event {
                    draft.counters.last_event = highest;
                    draft.put_bytes(DocumentKind::Meta, LAST_EVENT.to_vec(), highest.to_be_bytes().to_vec());
                }
                let counts = heard.iter().map(|(environment, cursor)| renumber(draft, environment, cursor));
                counts.sum()
            })
            .await
    }
}

fn renumber(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    cursor: &ReportCursor,
) -> Result<usize, RecordError> {
    let mut events = Vec::new();
    for pair in draft.store().pairs(DocumentKind::Events, &keys::all_of(environment)) {
        let (key, value) = pair?;
        events.extend(serde_json::from_slice::<Event>(&value).ok().map(|event| (key, event)));
    }
    let Some(first) = events.iter().position(|(_, event)| cursor.precedes(event)) else { return Ok(0) };
    let later = events.split_off(first);
    let count = later.len();
    for (key, event) in later {
        draft.remove(DocumentKind::Events, key);
        draft.counters.last_event += 1;
        let event = Event { sequence: draft.counters.last_event, ..event };
        draft.put(DocumentKind::Events, keys::numbered(environment, event.sequence), &event)?;
    }
    draft.notify(Wakeup::Event(environment.clone()));
    Ok(count)
}
