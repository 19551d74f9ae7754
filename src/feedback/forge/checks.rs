//! Reads the checks of commits from forges.
//!
//! The same commit is asked for again and again until its checks are green, so requests are conditional: an
//! unchanged answer costs no transfer, and on GitHub nothing of the limit.

mod github;
mod gitlab;
mod others;

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::call::{ServiceRequest, ServiceResponse};
use super::super::lane::{DeliveryRefusal, Then};
use super::{ForgeConnection, github::AppToken, newest_of_each, text};
use crate::model::checks::{ChecksQuery, ChecksUnknown, CommitChecks};
use crate::model::forge::{ForgeKind, ForgeSpec};
use crate::model::time::Timestamp;

/// The most pages of one list. With 100 rows each, that is as many checks as GitHub keeps of a commit.
const MOST_PAGES: usize = 10;
/// The most answers that are kept for conditional requests.
const MOST_KEPT: usize = 256;
/// The largest answer that is kept, in bytes.
const LARGEST_KEPT: usize = 256 * 1024;

/// The pause after the forge denied access. A new token or permission works after it.
const AFTER_DENIAL: Duration = Duration::from_secs(60);

/// Reads checks from all forges of a manifest. Cheap to clone.
#[derive(Clone)]
pub struct CheckReader {
    forges: Arc<Mutex<BTreeMap<String, Arc<KnownForge>>>>,
    clock: fn() -> Timestamp,
}

/// A forge as it was asked before.
struct KnownForge {
    forge: ForgeConnection,
    answers: Mutex<BTreeMap<String, KeptAnswer>>,
    /// Nothing is asked before this time, because the forge limits the rate.
    closed: Mutex<Option<ChecksUnknown>>,
}

/// An answer with its validator.
#[derive(Clone)]
struct KeptAnswer {
    etag: String,
    answer: ServiceResponse,
}

impl CheckReader {
    /// A reader that has asked nothing.
    pub fn new(clock: fn() -> Timestamp) -> Self {
        Self { forges: Arc::default(), clock }
    }

    /// Reads the checks of a commit of a branch.
    ///
    /// # Errors
    /// Returns [`ChecksUnknown`] if the forge does not answer, or not completely.
    pub async fn read(&self, query: &ChecksQuery) -> Result<CommitChecks, ChecksUnknown> {
        let known = self.known(&query.forge);
        let now = (self.clock)();
        let closed = known.closed().clone();
        if let Some(closed) = closed.filter(|closed| closed.not_before.is_some_and(|until| now < until)) {
            return Err(closed);
        }
        let read = match query.forge.kind {
            ForgeKind::Github => github::read(&known, query).await,
            ForgeKind::Gitlab => gitlab::read(&known, query).await,
            ForgeKind::Gitea => others::read_gitea(&known, query).await,
            ForgeKind::Bitbucket => others::read_cloud(&known, &query.commit).await,
            ForgeKind::BitbucketServer => others::read_server(&known, &query.commit).await,
        };
        read.map_err(|refusal| self.unknown(&known, refusal))
    }

    fn unknown(&self, known: &KnownForge, refusal: DeliveryRefusal) -> ChecksUnknown {
        let why = format!("cannot read the checks of {}: {}", known.forge.spec.repository, refusal.why);
        let not_before = match refusal.then {
            Then::Wait(pause) | Then::WaitLonger(pause) => Some((self.clock)().after(pause)),
            // Services ban clients that keep trying.
            Then::GiveUp | Then::Denied => Some((self.clock)().after(AFTER_DENIAL)),
            Then::Retry => None,
        };
        let is_denied = matches!(refusal.then, Then::Denied | Then::GiveUp);
        let unknown = ChecksUnknown { why, is_denied, not_before };
        *known.closed() = Some(unknown.clone());
        unknown
    }

    /// The forge with its kept answers, until its declaration changes.
    fn known(&self, spec: &ForgeSpec) -> Arc<KnownForge> {
        let mut forges = self.forges.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{} {}", spec.api, spec.repository);
        if let Some(known) = forges.get(&key).filter(|known| known.forge.spec == *spec) {
            return Arc::clone(known);
        }
        let forge = ForgeConnection { spec: spec.clone(), places: BTreeMap::new(), app: AppToken::default() };
        let known = Arc::new(KnownForge { forge, answers: Mutex::default(), closed: Mutex::default() });
        forges.insert(key, Arc::clone(&known));
        known
    }
}

impl KnownForge {
    fn closed(&self) -> std::sync::MutexGuard<'_, Option<ChecksUnknown>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, KeptAnswer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a path of the API, with the validator of the last answer if there is one.
    async fn ask(&self, path: &str) -> Result<ServiceResponse, DeliveryRefusal> {
        let kept = self.answers().get(path).cloned();
        let call = ServiceRequest::get(self.forge.url(path));
        let call = match &kept {
            Some(kept) => call.header("if-none-match", kept.etag.clone()),
            None => call,
        };
        let answer = self.forge.send(call).await?;
        if let (304, Some(kept)) = (answer.status, kept) {
            return Ok(kept.answer);
        }
        let etag = answer.header("etag").filter(|_| answer.status == 200).map(str::to_owned);
        let mut answers = self.answers();
        match etag {
            Some(etag) if answer.body.len() <= LARGEST_KEPT => {
                if answers.len() >= MOST_KEPT {
                    answers.clear();
                }
                answers.insert(path.to_owned(), KeptAnswer { etag, answer: answer.clone() });
            }
            _ => drop(answers.remove(path)),
        }
        Ok(answer)
    }

    /// Every item of a list in pages. `items` finds them in an answer, and `next` the path of the next page.
    /// A list that is too long is an error: a check on the page that was left out could be red.
    async fn list(
        &self,
        first: String,
        judge: impl Fn(&ServiceResponse) -> Result<(), DeliveryRefusal>,
        items: impl Fn(&Value) -> Vec<Value>,
        next: impl Fn(&ServiceResponse, &Value, &str) -> Option<String>,
    ) -> Result<Vec<Value>, DeliveryRefusal> {
        let mut path = first;
        let mut all = Vec::new();
        for _ in 0..MOST_PAGES {
            let answer = self.ask(&path).await?;
            judge(&answer)?;
            // Old versions of Gitea answer with nothing if there is nothing.
            if answer.body.trim_ascii().is_empty() {
                return Ok(all);
            }
            let page: Value = answer.json()?;
            all.extend(items(&page));
            match next(&answer, &page, &path) {
                Some(following) => path = following,
                None => return Ok(all),
            }
        }
        Err(DeliveryRefusal::denied(format!(
            "{} has more than {} rows about this commit: name the needed checks, or report fewer",
            self.forge.spec.api,
            MOST_PAGES * 100
        )))
    }

    /// `url` as a path of the API, if it is below it. Tokens go nowhere else.
    fn path_of(&self, url: &str) -> Option<String> {
        url.strip_prefix(self.forge.spec.api.as_str()).filter(|path| path.starts_with('/')).map(str::to_owned)
    }

    /// The next page that the `Link` header of an answer names.
    fn linked(&self, answer: &ServiceResponse) -> Option<String> {
        let link = answer.header("link")?;
        let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
        let url = next.split_once('<')?.1.split_once('>')?.0;
        self.path_of(url)
    }
}

/// The rows of a list.
fn rows(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests;
