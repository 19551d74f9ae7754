//! `[repository.NAME]`.

use std::time::Duration;

use super::table::{ManifestField, Table};
use super::{forge, keys, secrets, url};
use crate::model::spec::{Provider, RepositorySpec, WebhookSpec};

/// The default interval of polling branch heads.
const DEFAULT_POLL: Duration = Duration::from_secs(60);

/// The shortest time between two polls: hosting services lock out clients that ask more often.
const SHORTEST_POLL: Duration = Duration::from_secs(5);

/// The webhook providers, by their name in a manifest.
const PROVIDERS: [(&str, Provider); 4] = [
    ("github", Provider::Github),
    ("gitlab", Provider::Gitlab),
    ("gitea", Provider::Gitea),
    ("bitbucket", Provider::Bitbucket),
];

pub(super) fn read(field: &ManifestField<'_>) -> Option<RepositorySpec> {
    let table = field.table(&keys::REPOSITORY)?;
    let webhook = table.get("webhook").and_then(|hook| read_webhook(&hook));
    read_table(&table, webhook)
}

/// Reads the keys of a repository, except for its webhook.
pub(super) fn read_table(table: &Table<'_>, webhook: Option<WebhookSpec>) -> Option<RepositorySpec> {
    let poll = read_poll(table);
    let login = secrets::login(table);
    let url = table.required("url");
    let url = url.and_then(|field| field.parsed("a URL or an absolute path", url::repository_url));
    let forge = table.get("forge").map(|field| forge::read(&field, url.as_deref()));
    let url = url?;
    // Without it after a problem, the manifest is invalid anyway.
    let forge = forge.flatten();
    if login.is_some() && !url.starts_with("https://") && !url.starts_with("http://") {
        let path = table.path();
        table.problem(format!("`{path}` has a `username`, which only https:// and http:// use"));
    }
    Some(RepositorySpec { url, login, webhook, poll, forge })
}

fn read_poll(table: &Table<'_>) -> Duration {
    let Some(field) = table.get("poll") else { return DEFAULT_POLL };
    let Some(poll) = field.duration() else { return DEFAULT_POLL };
    if !poll.is_zero() && poll < SHORTEST_POLL {
        field.must("must be at least \"5s\", or \"0s\" to turn it off");
    }
    poll
}

/// Reads a webhook.
pub(super) fn read_webhook(field: &ManifestField<'_>) -> Option<WebhookSpec> {
    let table = field.table(&keys::WEBHOOK)?;
    let secret = secrets::read(&table);
    let provider = table.required("provider")?;
    let provider = provider.parsed("the name of a provider", read_provider);
    Some(WebhookSpec { provider: provider?, secret: secret? })
}

fn read_provider(text: &str) -> Result<Provider, String> {
    let known = PROVIDERS.iter().find(|(name, _)| *name == text);
    known.map(|(_, provider)| *provider).ok_or_else(|| {
        let near = keys::nearest(text, PROVIDERS.iter().map(|(name, _)| *name));
        let hint = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
        format!("must be one of github, gitlab, gitea and bitbucket{hint}")
    })
}
