//! The commands that update the record. Each returns once the change is on disk; the controller
//! then updates the containers.

mod forget;
mod hold;
mod promote;
mod rollback;
mod set;
mod sync;

pub(super) use forget::forget;
pub(super) use hold::{hold, resume};
pub(super) use promote::promote;
pub(super) use rollback::rollback;
pub(super) use set::set;
pub(super) use sync::{sync, sync_all};

use super::ApiState;
use super::error::ApiError;
use crate::model::desired::{Desired, Image};
use crate::model::view::Moved;

impl ApiState {
    /// The answer to a change that created a generation; its sentence begins with `what`.
    fn recorded(&self, desired: &Desired, what: &str) -> Moved {
        let (name, generation) = (&desired.environment, desired.entry.generation);
        let until = match &desired.hold {
            Some(hold) if hold.generation != Some(generation) => {
                format!("; `{name}` is held ({}), so this takes effect on `resume`", hold.reason)
            }
            _ => self.when().to_owned(),
        };
        moved(desired, true, format!("{what} is recorded as generation {generation} of `{name}`{until}"))
    }

    /// The end of the sentence: a note if nothing acts on the record now.
    pub(in crate::api) fn when(&self) -> &'static str {
        if self.controller.is_some() {
            ""
        } else {
            "; no daemon is running, so this takes effect when \
            one starts"
        }
    }
}

fn moved(desired: &Desired, changed: bool, message: String) -> Moved {
    let (environment, generation) = (desired.environment.clone(), desired.entry.generation);
    Moved { environment, generation, changed, message, failed: false }
}

/// The longest reason, in bytes; each is stored with its generation.
const LONGEST_REASON: usize = 1_000;

/// Normalizes a reason: one line of limited length; `None` if it is missing.
fn reason(text: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    if text.len() > LONGEST_REASON {
        return Err(ApiError::bad_request(format!("`reason` must have at most {LONGEST_REASON} bytes")));
    }
    let words: Vec<_> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    let line = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    Ok(Some(line).filter(|line| !line.is_empty()))
}

/// The image as shown in a sentence.
fn shown(image: &Image) -> String {
    image.shown_digest().map_or_else(|| "an image".to_owned(), |digest| format!("image {}", digest.short()))
}
