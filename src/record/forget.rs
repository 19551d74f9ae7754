//! Forgets an environment: an operator requests it, and the loop carries it out.

use super::desired::{DesiredWriter, check};
use super::draft::RecordDraft;
use super::error::{RecordError, WriteError};
use super::keys;
use super::resolver::Resolver;
use super::store::DocumentKind;
use crate::model::desired::{Desired, Forget};
use crate::model::name::{AgentName, EnvironmentName};

/// Documents under the environment's name.
const PLAIN: [DocumentKind; 8] = [
    DocumentKind::Desired,
    DocumentKind::Status,
    DocumentKind::Memory,
    DocumentKind::Assigned,
    DocumentKind::Proposed,
    DocumentKind::Cursors,
    DocumentKind::Soak,
    DocumentKind::Awaited,
];
/// Documents under the environment's name and a number.
const NUMBERED: [DocumentKind; 6] = [
    DocumentKind::History,
    DocumentKind::Outcomes,
    DocumentKind::Events,
    DocumentKind::BuildLog,
    DocumentKind::Evidence,
    DocumentKind::Rejections,
];

impl DesiredWriter {
    /// Records the request to forget an environment. The loop removes it.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn forget(
        &self,
        environment: &EnvironmentName,
        request: Forget,
    ) -> Result<Desired, WriteError> {
        let (environment, seen) = (environment.clone(), self.seen.clone());
        let work = move |draft: &mut RecordDraft<'_>| {
            check(draft, &seen)?;
            let mut desired = draft.desired(&environment)?;
            desired.forget = Some(request);
            draft.put_desired(&desired)?;
            Ok(desired)
        };
        self.shared.write(work).await
    }
}

impl Resolver {
    /// Removes everything recorded of an environment whose removal was requested. Returns `false` if no
    /// request is pending. Builds stay: other environments may share them.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was removed then.
    pub async fn erase(&self, environment: &EnvironmentName) -> Result<bool, RecordError> {
        let environment = environment.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
            if draft.desired(&environment)?.forget.is_none() {
                return Ok(false);
            }
            for kind in PLAIN {
                draft.remove(kind, environment.as_str().as_bytes().to_vec());
            }
            for kind in NUMBERED {
                let keys: Result<Vec<_>, _> = draft
                    .store()
                    .pairs(kind, &keys::all_of(&environment))
                    .map(|pair| pair.map(|(key, _)| key))
                    .collect();
                keys?.into_iter().for_each(|key| draft.remove(kind, key));
            }
            draft.notify_desired(&environment);
            Ok(true)
        };
        self.shared.write(work).await
    }

    /// Withdraws the request to forget an environment: something of it still exists, or the hosts that it
    /// left are clear.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn keep(&self, environment: &EnvironmentName) -> Result<(), RecordError> {
        self.edit_request(environment, |_| None).await.map(drop)
    }

    /// Withdraws the request to forget an environment that is declared again. Returns `false` if there is
    /// none, or if this is an agent's copy: requests there end with the controller's assignment.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn withdraw(&self, environment: &EnvironmentName) -> Result<bool, RecordError> {
        if self.proposes {
            return Ok(false);
        }
        self.edit_request(environment, |_| None).await
    }

    /// Takes the host that runs the environment now out of the request to clear the hosts that it left.
    /// `None` is the controller's host.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn spare(
        &self,
        environment: &EnvironmentName,
        host: Option<AgentName>,
    ) -> Result<(), RecordError> {
        let work = move |request: Forget| {
            let left = request.left.clone().map(|left| left.without(host.as_ref()));
            Some(Forget { left, ..request })
        };
        self.edit_request(environment, work).await.map(drop)
    }

    /// Returns whether there is a request.
    async fn edit_request(
        &self,
        environment: &EnvironmentName,
        edit: impl FnOnce(Forget) -> Option<Forget> + Send + 'static,
    ) -> Result<bool, RecordError> {
        let environment = environment.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
            let mut desired = draft.desired(&environment)?;
            let Some(request) = desired.forget.take() else { return Ok(false) };
            let edited = edit(request.clone());
            if edited.as_ref() != Some(&request) {
                desired.forget = edited;
                draft.put_desired(&desired)?;
            }
            Ok(true)
        };
        self.shared.write(work).await
    }
}
