//! Forges: the status of a commit for each environment, and deployments.
//!
//! Forges show the last write and know nothing of its order, so one lane writes one state at a time, after it
//! compared the state with what the forge shows. A step that was cut off is therefore found or safely repeated.

mod bitbucket;
mod checks;
mod gitea;
mod github;
mod gitlab;
#[cfg(test)]
mod tests;

pub use checks::CheckReader;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use super::call::{self, ServiceRequest, ServiceResponse};
use super::channel::read;
use super::content::cut;
use super::lane::{Deliver, DeliveryRefusal, ProjectionStep};
use crate::model::container::Secret;
use crate::model::forge::{ForgeKind, ForgeSpec};
use crate::model::name::{BranchName, CommitId, EnvironmentName, Generation, RepositoryName};
use crate::model::outbox::commit::{CommitState, Phase};
use crate::model::outbox::{DeliveryAttempts, Deployment, Message, OutboxTarget, Projection};

/// The name of the status of the manifest.
const MANIFEST: &str = "manifest";

/// The status that a forge shows of an environment.
#[derive(Clone, Debug, Default)]
pub(super) struct ForgeEnvironment {
    /// The page of the environment.
    pub(super) page: Option<String>,
    /// The URL at which the environment is served.
    pub(super) url: Option<String>,
    /// The branch that it is built from.
    pub(super) branch: Option<BranchName>,
}

/// A forge and how it is reached.
pub(super) struct ForgeConnection {
    spec: ForgeSpec,
    places: BTreeMap<EnvironmentName, ForgeEnvironment>,
    /// The token of a GitHub App.
    app: github::AppToken,
}

/// How a forge is reached.
pub(super) fn deliver(
    spec: ForgeSpec,
    places: BTreeMap<EnvironmentName, ForgeEnvironment>,
) -> Arc<dyn Deliver> {
    Arc::new(ForgeConnection { spec, places, app: github::AppToken::default() })
}

/// Shows the state of a commit of the manifest, as the status `abide/manifest`.
///
/// # Errors
/// A sentence: the forge does not take it.
pub async fn show_manifest(spec: ForgeSpec, commit: CommitId, state: CommitState) -> Result<(), String> {
    let name = |error: &dyn std::fmt::Display| error.to_string();
    let row = Projection {
        target: OutboxTarget::Forge(RepositoryName::new(MANIFEST).map_err(|error| name(&error))?),
        environment: EnvironmentName::new(MANIFEST).map_err(|error| name(&error))?,
        revision: commit,
        generation: Generation::default(),
        wanted: state,
        shown: None,
        deployment: None,
        attempts: DeliveryAttempts::default(),
    };
    let forge = ForgeConnection { spec, places: BTreeMap::new(), app: github::AppToken::default() };
    forge.show_status(&row).await.map_err(|refusal| refusal.why)
}

/// A status as a forge shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RemoteStatus {
    /// The forge's own word.
    state: String,
    description: String,
}

impl RemoteStatus {
    /// Reads a row, whose field `key` has the state.
    fn of(row: &Value, key: &str) -> Self {
        Self { state: text(row, key).to_owned(), description: text(row, "description").to_owned() }
    }

    /// The newest status that is called `name` in the field `key`, on forges on which the state is `status`.
    fn newest(rows: &[Value], key: &str, name: &str) -> Option<Self> {
        let newest = newest_of_each(rows, key).into_iter().find(|row| text(row, key) == name);
        newest.map(|row| Self::of(row, "status"))
    }
}

impl Deliver for ForgeConnection {
    fn message<'a>(
        &'a self,
        _: &'a Message,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<String>, DeliveryRefusal>> {
        Box::pin(std::future::ready(Err(DeliveryRefusal::permanent("a forge gets no messages"))))
    }

    fn project<'a>(&'a self, row: &'a Projection) -> BoxFuture<'a, Result<ProjectionStep, DeliveryRefusal>> {
        Box::pin(async move {
            if row.shown.as_ref() != Some(&row.wanted) {
                if self.spec.statuses && row.wanted.phase != Phase::Replaced {
                    self.show_status(row).await?;
                }
                return Ok(ProjectionStep::Status(row.wanted.clone()));
            }
            let known = row.deployment.as_ref().filter(|known| known.generation == row.generation);
            match known.and_then(|known| known.id.as_deref()) {
                None => self.create(row).await.map(ProjectionStep::Created),
                Some(id) => {
                    self.show_deployment(row, id).await?;
                    Ok(ProjectionStep::Deployment(row.wanted.clone()))
                }
            }
        })
    }
}

impl ForgeConnection {
    async fn show_status(&self, row: &Projection) -> Result<(), DeliveryRefusal> {
        let wanted = self.wanted(&row.wanted);
        if self.shown(row).await?.as_ref() == Some(&wanted) {
            return Ok(());
        }
        match self.spec.kind {
            ForgeKind::Github => github::show(self, row, &wanted).await,
            ForgeKind::Gitlab => gitlab::show(self, row, &wanted).await,
            ForgeKind::Gitea => gitea::show(self, row, &wanted).await,
            ForgeKind::Bitbucket => bitbucket::show_cloud(self, row, &wanted).await,
            ForgeKind::BitbucketServer => bitbucket::show_server(self, row, &wanted).await,
        }
    }

    async fn shown(&self, row: &Projection) -> Result<Option<RemoteStatus>, DeliveryRefusal> {
        match self.spec.kind {
            ForgeKind::Github => github::shown(self, row).await,
            ForgeKind::Gitlab => gitlab::shown(self, row).await,
            ForgeKind::Gitea => gitea::shown(self, row).await,
            ForgeKind::Bitbucket => bitbucket::shown_cloud(self, row).await,
            ForgeKind::BitbucketServer => bitbucket::shown_server(self, row).await,
        }
    }

    /// The state in the forge's own words.
    fn wanted(&self, state: &CommitState) -> RemoteStatus {
        use Phase::{Error, Failure, Pending, Replaced, Running, Success, Superseded};
        let (word, longest) = match self.spec.kind {
            ForgeKind::Github | ForgeKind::Gitea => {
                let word = match state.phase {
                    Pending | Running => "pending",
                    Success | Replaced => "success",
                    Failure => "failure",
                    Error | Superseded => "error",
                };
                (word, 140)
            }
            ForgeKind::Gitlab => {
                let word = match state.phase {
                    Pending => "pending",
                    Running => "running",
                    Success | Replaced => "success",
                    Failure | Error => "failed",
                    Superseded => "canceled",
                };
                (word, 255)
            }
            ForgeKind::Bitbucket | ForgeKind::BitbucketServer => {
                let is_cloud = self.spec.kind == ForgeKind::Bitbucket;
                let word = match state.phase {
                    Pending | Running => "INPROGRESS",
                    Success | Replaced => "SUCCESSFUL",
                    Failure | Error => "FAILED",
                    Superseded if is_cloud => "STOPPED",
                    Superseded => "CANCELLED",
                };
                (word, 250)
            }
        };
        RemoteStatus { state: word.to_owned(), description: line(&state.description, longest) }
    }

    async fn create(&self, row: &Projection) -> Result<Deployment, DeliveryRefusal> {
        let generation = row.generation;
        let nothing = Deployment { generation, id: None, shown: Some(row.wanted.clone()) };
        // A deployment that never began is not created only to be closed.
        if matches!(row.wanted.phase, Phase::Superseded | Phase::Replaced) {
            return Ok(nothing);
        }
        let id = match self.spec.kind {
            ForgeKind::Github => github::create(self, row).await?,
            ForgeKind::Gitlab if row.wanted.phase == Phase::Pending => return Ok(nothing),
            ForgeKind::Gitlab => gitlab::create(self, row).await?,
            ForgeKind::Gitea | ForgeKind::Bitbucket | ForgeKind::BitbucketServer => return Ok(nothing),
        };
        Ok(Deployment { generation, id: Some(id), shown: None })
    }

    async fn show_deployment(&self, row: &Projection, id: &str) -> Result<(), DeliveryRefusal> {
        match self.spec.kind {
            ForgeKind::Github => github::show_deployment(self, row, id).await,
            ForgeKind::Gitlab => gitlab::show_deployment(self, row, id).await,
            ForgeKind::Gitea | ForgeKind::Bitbucket | ForgeKind::BitbucketServer => Ok(()),
        }
    }

    fn place(&self, row: &Projection) -> ForgeEnvironment {
        self.places.get(&row.environment).cloned().unwrap_or_default()
    }

    /// A URL below the API.
    fn url(&self, path: &str) -> Secret {
        Secret::new(format!("{}{path}", self.spec.api))
    }

    /// `call` with the credentials of this forge.
    async fn send(&self, call: ServiceRequest) -> Result<ServiceResponse, DeliveryRefusal> {
        let call = call.allowing_private(self.spec.allow_private);
        let json = |call: ServiceRequest| call.header("accept", "application/json");
        let call = match self.spec.kind {
            ForgeKind::Github => return github::send(self, call).await,
            ForgeKind::Gitlab => json(call).secret_header("private-token", self.token().await?),
            ForgeKind::Gitea => {
                let token = self.token().await?;
                json(call)
                    .secret_header("authorization", Secret::new(format!("token {}", token.expose())))
                    .hiding(&token)
            }
            ForgeKind::Bitbucket | ForgeKind::BitbucketServer => {
                bitbucket::authorized(json(call), &self.token().await?)
            }
        };
        call::send(call).await
    }

    async fn token(&self) -> Result<Secret, DeliveryRefusal> {
        read(self.spec.secret().cloned()).await
    }
}

/// The context of an environment's statuses.
fn context(row: &Projection) -> String {
    format!("abide/{}", row.environment)
}

/// `text` in one line of at most `longest` characters.
fn line(text: &str, longest: usize) -> String {
    let words: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    cut(&words.split_whitespace().collect::<Vec<_>>().join(" "), longest)
}

/// The text in a field of a row; empty if there is none.
fn text<'v>(row: &'v Value, key: &str) -> &'v str {
    row[key].as_str().unwrap_or_default()
}

/// The newest row of each name, which is in the field `key`. Every report and every repeated job is another row.
fn newest_of_each<'v>(rows: impl IntoIterator<Item = &'v Value>, key: &str) -> Vec<&'v Value> {
    let mut newest: Vec<&Value> = Vec::new();
    for row in rows {
        match newest.iter_mut().find(|known| known[key] == row[key]) {
            Some(known) if known["id"].as_u64() < row["id"].as_u64() => *known = row,
            Some(_) => {}
            None => newest.push(row),
        }
    }
    newest
}

/// The rules that all forges share, with the real meaning of a redirect and of 404.
fn judged(answer: &ServiceResponse, what: &str) -> Result<(), DeliveryRefusal> {
    match answer.status {
        300..=399 => Err(DeliveryRefusal::denied(format!(
            "{} answers {}: {what} was renamed or moved: name its new place by `repository` and `api` of the forge",
            answer.place, answer.status
        ))),
        404 => Err(DeliveryRefusal::denied(format!(
            "{} answers 404: {what} does not exist, or the token may not see it",
            answer.place
        ))),
        _ => answer.accepted(),
    }
}
