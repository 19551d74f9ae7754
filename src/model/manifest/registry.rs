//! `[registry_access.HOST]`.

use std::time::Duration;

use super::table::{Field, Table};
use super::{keys, secrets};
use crate::model::spec::{Login, RegistryAccess, SecretRef};

/// The shortest time between two polls: registries count requests, and lock out who asks too often.
const SHORTEST_POLL: Duration = Duration::from_secs(5);

pub(super) fn read_access(field: &Field<'_>) -> Option<RegistryAccess> {
    let table = field.table(&keys::REGISTRY_ACCESS)?;
    let default = RegistryAccess::default();
    Some(RegistryAccess {
        login: read_login(&table),
        plain_http: table.get("plain_http").and_then(|field| field.flag()).unwrap_or(default.plain_http),
        poll: read_poll(&table).unwrap_or(default.poll),
        patience: read_patience(&table).unwrap_or(default.patience),
        webhook: table.get("webhook").and_then(|hook| read_webhook(&hook)),
    })
}

/// Name and password together, or neither.
fn read_login(table: &Table<'_>) -> Option<Login> {
    let username = table.get("username").map(|field| field.parsed("a name in quotes", read_username));
    let password = match &table.present(&["secret_env", "secret_file"])[..] {
        [] => None,
        _ => Some(secrets::read(table)),
    };
    match (username, password) {
        (Some(username), Some(password)) => Some(Login { username: username?, password: password? }),
        (Some(_), None) => {
            table.problem(format!(
                "`{}` has a `username` and needs one of `secret_env` and `secret_file`",
                table.path()
            ));
            None
        }
        (None, Some(_)) => {
            table.problem(format!("`{}` has a secret and needs a `username`", table.path()));
            None
        }
        (None, None) => None,
    }
}

/// A colon would end the name where both are sent together.
fn read_username(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(':') || text.chars().any(char::is_control) {
        return Err("must be a name without colons and control characters".to_owned());
    }
    Ok(text.to_owned())
}

fn read_poll(table: &Table<'_>) -> Option<Duration> {
    let field = table.get("poll")?;
    let poll = field.duration()?;
    if !poll.is_zero() && poll < SHORTEST_POLL {
        field.must("must be at least \"5s\", or \"0s\" for never");
    }
    Some(poll)
}

fn read_patience(table: &Table<'_>) -> Option<Duration> {
    let field = table.get("patience")?;
    let patience = field.duration()?;
    if patience.is_zero() {
        field.must("must be more than zero");
    }
    Some(patience)
}

fn read_webhook(field: &Field<'_>) -> Option<SecretRef> {
    secrets::read(&field.table(&keys::REGISTRY_WEBHOOK)?)
}
