//! The commands that update the record. Each returns once the change is on disk; the controller
//! then updates the containers.

mod canary;
mod forget;
mod hold;
mod judge;
mod maintenance;
mod promote;
mod rollback;
mod set;
mod sync;

pub(super) use canary::canary;
pub(super) use forget::forget;
pub(super) use hold::{hold, resume};
pub(super) use judge::{approve, reject, withdraw};
pub(super) use maintenance::maintenance;
pub(super) use promote::promote;
pub(super) use rollback::{member_goal, rollback};
pub(super) use set::set;
pub(super) use sync::{sync, sync_all};

use super::ApiState;
use super::error::ApiError;
use super::find::CommandTarget;
use crate::model::desired::{Desired, Image, Origin};
use crate::model::name::{Digest, EnvironmentName, Generation};
use crate::model::view::{RecordChange, SeenGenerations};
use crate::record::Precondition;

impl ApiState {
    /// The answer to a change that created a generation; its sentence begins with `what`.
    fn recorded(&self, desired: &Desired, what: &str) -> RecordChange {
        let (name, generation) = (&desired.environment, desired.entry.generation);
        let until = match &desired.hold {
            Some(hold) if hold.generation != Some(generation) => {
                format!("; `{name}` is held ({}), so this takes effect on `resume`", hold.reason)
            }
            _ => self.when().to_owned(),
        };
        moved(desired, true, format!("{what} is recorded as generation {generation} of `{name}`{until}"))
    }

    /// The guard for the generation that the client saw, after a first check whose answer reports
    /// the current state.
    fn seen(&self, name: &EnvironmentName, seen: Option<Generation>) -> Result<Vec<Precondition>, ApiError> {
        let Some(seen) = seen else { return Ok(Vec::new()) };
        let entry = self.desired.get(name)?.entry;
        if entry.generation != seen {
            let origin = entry.origin.map_or("a change", Origin::as_str);
            let by = entry.by.map_or_else(String::new, |by| format!(" by {by}"));
            let image = entry.image.as_ref().map_or_else(String::new, |image| format!(", {}", shown(image)));
            return Err(ApiError::conflict(format!(
                "nothing was changed: you looked at generation {seen} of `{name}`, and it is at generation {} now \
                 ({origin}{by} at {}{image})",
                entry.generation, entry.at
            )));
        }
        Ok(vec![Precondition { environment: name.clone(), generation: seen }])
    }

    /// The guards for the generations that the client saw. Those of a group are its members', all of them.
    fn seen_of(
        &self,
        target: &CommandTarget,
        seen: Option<SeenGenerations>,
    ) -> Result<Vec<Precondition>, ApiError> {
        let name = &target.name;
        let seen = match (seen, target.group.is_some()) {
            (None, _) => return Ok(Vec::new()),
            (Some(SeenGenerations::One(generation)), false) => return self.seen(name, Some(generation)),
            (Some(SeenGenerations::Members(seen)), true) => seen,
            (Some(SeenGenerations::One(_)), true) => {
                return Err(ApiError::bad_request(format!(
                    "`seen` has one generation, and `{name}` is a group: send the generation of each member"
                )));
            }
            (Some(SeenGenerations::Members(_)), false) => {
                return Err(ApiError::bad_request(format!(
                    "`seen` has the generations of members, and `{name}` is not a group"
                )));
            }
        };
        if !seen.keys().eq(target.environments()) {
            return Err(ApiError::conflict(format!(
                "nothing was changed: the members of `{name}` that you looked at were {}, and they are {} now",
                listed(seen.keys()),
                listed(target.environments())
            )));
        }
        let guards = seen.iter().map(|(member, generation)| self.seen(member, Some(*generation)));
        Ok(guards.collect::<Result<Vec<_>, _>>()?.concat())
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

/// `a, b and c`; `none` for nothing.
fn listed<'e>(names: impl Iterator<Item = &'e EnvironmentName>) -> String {
    let names: Vec<&str> = names.map(EnvironmentName::as_str).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        [only] => (*only).to_owned(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

fn parse_digest(text: Option<&str>) -> Result<Option<Digest>, ApiError> {
    text.map(Digest::new).transpose().map_err(|error| ApiError::bad_request(error.to_string()))
}

fn moved(desired: &Desired, changed: bool, message: String) -> RecordChange {
    let (environment, generation) = (desired.environment.clone(), desired.entry.generation);
    RecordChange { environment, generation, changed, message, failed: false, members: Vec::new() }
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
