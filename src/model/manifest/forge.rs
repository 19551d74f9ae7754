//! `[repository.NAME] forge`.

use super::table::{ManifestField, Table};
use super::{grammar, keys, secrets, service};
use crate::model::forge::{ForgeKind, ForgeSpec, ForgeToken};

/// Reads the forge of the repository at `url`.
pub(super) fn read(field: &ManifestField<'_>, url: Option<&str>) -> Option<ForgeSpec> {
    let table = field.table(&keys::FORGE)?;
    let flag = |key, default| table.get(key).map_or(Some(default), |field| field.flag());
    let (statuses, allow_private) = (flag("statuses", true), flag("allow_private", false));
    let kind = table.required("kind").and_then(|field| field.parsed("the name of a forge", read_kind));
    let token = read_token(&table, kind);
    let api = table.get("api").map(|field| {
        let private = allow_private.unwrap_or(true);
        field.parsed("a URL", |text| {
            service::url(text, &["https", "http"], private).map(|url| url.trim_end_matches('/').to_owned())
        })
    });
    let repository = table.get("repository").map(|field| field.parsed("a text in quotes", read_repository));
    let deployments = table.get("deployments").map(|field| (field.flag(), field));
    if let (Some((Some(true), field)), Some(kind)) = (&deployments, kind)
        && !kind.has_deployments()
    {
        field.must("is only known to github and gitlab: remove it");
    }
    let kind = kind?;
    let deployments = deployments.map_or(Some(kind.has_deployments()), |(flag, _)| flag);
    let api = match api {
        Some(api) => api,
        None => guessed(&table, "api", kind.api_of(url?).map(str::to_owned), example_of(kind)),
    };
    let repository = match repository {
        Some(repository) => repository,
        None => guessed(&table, "repository", kind.repository_of(url?), "owner/name"),
    };
    Some(ForgeSpec {
        kind,
        api: api?,
        repository: repository?,
        token: token?,
        statuses: statuses?,
        deployments: deployments?,
        allow_private: allow_private?,
    })
}

fn guessed(table: &Table<'_>, key: &str, guess: Option<String>, example: &str) -> Option<String> {
    if guess.is_none() {
        let path = table.path();
        table.problem(format!(
            "`{path}` needs `{key}`, such as `{key} = \"{example}\"`: the repository's URL does not contain it"
        ));
    }
    guess
}

fn example_of(kind: ForgeKind) -> &'static str {
    match kind {
        ForgeKind::Github => "https://ghe.example.com/api/v3",
        ForgeKind::Gitlab => "https://gitlab.example.com/api/v4",
        ForgeKind::Gitea => "https://git.example.com/api/v1",
        ForgeKind::Bitbucket => "https://api.bitbucket.org/2.0",
        ForgeKind::BitbucketServer => "https://bitbucket.example.com",
    }
}

fn read_kind(text: &str) -> Result<ForgeKind, String> {
    let names = ForgeKind::NAMED.map(|(name, _)| name);
    let known = ForgeKind::NAMED.iter().find(|(name, _)| *name == text);
    known.map(|(_, kind)| *kind).ok_or_else(|| {
        let near = keys::nearest(text, names);
        let hint = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
        format!("must be one of {}{hint}", names.join(", "))
    })
}

fn read_repository(text: &str) -> Result<String, String> {
    let is_part = |part: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_plain)
    };
    if text.len() <= 512 && text.contains('/') && text.split('/').all(is_part) {
        return Ok(text.to_owned());
    }
    Err("must be a repository's name, such as \"owner/name\"".to_owned())
}

/// Reads the token or the app: exactly one.
fn read_token(table: &Table<'_>, kind: Option<ForgeKind>) -> Option<ForgeToken> {
    match (table.get("token"), table.get("app")) {
        (Some(token), None) => secrets::read(&token.table(&keys::FORGE_TOKEN)?).map(ForgeToken::Token),
        (None, Some(app)) => {
            if kind.is_some_and(|kind| kind != ForgeKind::Github) {
                app.must("is only known to github: name a `token`");
            }
            let app = app.table(&keys::FORGE_APP)?;
            let id = app.required("id").and_then(|field| secrets::plain(&field));
            let key_file = app.required("key_file");
            let key_file = key_file.and_then(|field| field.parsed("the path of a file", grammar::host_path));
            Some(ForgeToken::App { id: id?, key_file: key_file? })
        }
        (found, _) => {
            let which = if found.is_some() { "takes only" } else { "needs" };
            let path = table.path();
            table.problem(format!(
                "`{path}` {which} one of `token` and `app`, such as `token = {{ secret_env = \"FORGE_TOKEN\" }}`"
            ));
            None
        }
    }
}
