//! `[notify.NAME]`.

use std::collections::BTreeSet;

use super::table::{ManifestField, Table};
use super::{keys, secrets, service};
use crate::model::channel::{Channel, ChannelSpec};
use crate::model::name::EnvironmentName;
use crate::model::outbox::News;
use crate::model::spec::SecretRef;

/// The public ntfy server.
const NTFY: &str = "https://ntfy.sh";

/// The keys that only some kinds have.
const OWN_KEYS: [&str; 8] = ["url", "channel", "topic", "room", "from", "to", "username", "secret_env"];

pub(super) fn read(field: &ManifestField<'_>) -> Option<ChannelSpec> {
    let table = field.table(&keys::NOTIFY)?;
    let on = table.get("on").map(|field| read_on(&field)).unwrap_or_else(|| News::DEFAULT.into());
    let environments = table.get("environments").map(|field| read_environments(&field));
    let allow_private = table.get("allow_private").and_then(|field| field.flag()).unwrap_or(false);
    let kind = table.required("kind")?.text()?;
    let channel = read_channel(&table, kind, allow_private)?;
    Some(ChannelSpec { channel, on, environments, allow_private })
}

fn read_channel(table: &Table<'_>, kind: &str, allow_private: bool) -> Option<Channel> {
    let reader = ChannelReader { table, kind, allow_private };
    match kind {
        "webhook" => {
            reader.only(&["url", "secret_env"]);
            let (url, secret) = (reader.url(None), reader.secret());
            Some(Channel::Webhook { url: url?, secret: secret? })
        }
        "slack" => {
            reader.only(&["channel", "secret_env"]);
            let (channel, secret) = (reader.optional("channel"), reader.secret());
            Some(Channel::Slack { channel, secret: secret? })
        }
        "discord" => reader.hook().map(|secret| Channel::Discord { secret }),
        "mattermost" => reader.hook().map(|secret| Channel::Mattermost { secret }),
        "teams" => reader.hook().map(|secret| Channel::Teams { secret }),
        "telegram" => {
            reader.only(&["channel", "secret_env"]);
            let (chat, secret) = (reader.needed("channel"), reader.secret());
            Some(Channel::Telegram { chat: chat?, secret: secret? })
        }
        "ntfy" => {
            reader.only(&["url", "topic", "secret_env"]);
            let url = reader.url(Some(NTFY));
            let topic = reader.needed("topic");
            let secret = reader.optional_secret();
            Some(Channel::Ntfy { url: url?, topic: topic?, secret: secret? })
        }
        "gotify" => {
            reader.only(&["url", "secret_env"]);
            let (url, secret) = (reader.url(None), reader.secret());
            Some(Channel::Gotify { url: url?, secret: secret? })
        }
        "matrix" => {
            reader.only(&["url", "room", "secret_env"]);
            let (url, secret) = (reader.url(None), reader.secret());
            let room = reader.needed("room");
            Some(Channel::Matrix { url: url?, room: room?, secret: secret? })
        }
        "email" => reader.email(),
        _ => {
            let near = keys::nearest(kind, Channel::KINDS);
            let hint = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
            let kinds = Channel::KINDS.join(", ");
            if let Some(field) = table.get("kind") {
                field.must(format!("must be one of {kinds}{hint}"));
            }
            None
        }
    }
}

/// Reads the keys of one kind.
struct ChannelReader<'t, 'a> {
    table: &'t Table<'a>,
    kind: &'t str,
    allow_private: bool,
}

impl ChannelReader<'_, '_> {
    /// Notes a problem for each key that this kind does not have.
    fn only(&self, known: &[&str]) {
        for key in OWN_KEYS {
            if let Some(field) = self.table.get(key).filter(|_| !known.contains(&key)) {
                field.must(format!("does not go with kind = \"{}\"", self.kind));
            }
        }
    }

    fn hook(&self) -> Option<SecretRef> {
        if let Some(field) = self.table.get("url") {
            field.must("is the secret of this kind: name it by `secret_env` or `secret_file`");
        } else {
            self.only(&["secret_env"]);
        }
        self.secret()
    }

    fn secret(&self) -> Option<SecretRef> {
        secrets::read(self.table)
    }

    /// The outer value is `None` after a problem.
    fn optional_secret(&self) -> Option<Option<SecretRef>> {
        match self.table.present(&["secret_env", "secret_file"])[..] {
            [] => Some(None),
            _ => self.secret().map(Some),
        }
    }

    fn optional(&self, key: &'static str) -> Option<String> {
        self.table.get(key)?.parsed("a text in quotes", word)
    }

    fn needed(&self, key: &'static str) -> Option<String> {
        self.table.required(key)?.parsed("a text in quotes", word)
    }

    fn url(&self, default: Option<&str>) -> Option<String> {
        let Some(field) = self.table.get("url") else {
            if default.is_none() {
                self.table.required("url");
            }
            return default.map(str::to_owned);
        };
        let allow_private = self.allow_private;
        field.parsed("a URL", |text| service::url(text, &["https", "http"], allow_private))
    }

    fn email(&self) -> Option<Channel> {
        self.only(&["url", "from", "to", "username", "secret_env"]);
        let allow_private = self.allow_private;
        let server = match self.table.get("url") {
            Some(field) => {
                field.parsed("a URL", |text| service::url(text, &["smtp", "smtps"], allow_private))
            }
            None => {
                let path = self.table.path();
                let example = "url = \"smtp://mail.example.com:587\"";
                self.table.problem(format!("`{path}` needs `url`, such as `{example}`"));
                None
            }
        };
        let from = self.table.required("from");
        let from = from.and_then(|field| field.parsed("an address in quotes", service::mail_address));
        let to: Vec<String> = match self.table.required("to") {
            Some(field) => {
                let items = field.items("a list such as [\"ops@example.com\"]");
                if items.is_empty() {
                    field.must("must name at least one address");
                }
                items
                    .iter()
                    .filter_map(|item| item.parsed("an address in quotes", service::mail_address))
                    .collect()
            }
            None => Vec::new(),
        };
        let login = secrets::login(self.table);
        let (username, secret) = login.map(|login| (login.username, login.password)).unzip();
        let channel = Channel::Email { server: server?, from: from?, to, username, secret };
        Some(channel)
    }
}

fn word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 255 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("must be 1 to 255 characters without spaces".to_owned());
    }
    Ok(text.to_owned())
}

fn read_on(field: &ManifestField<'_>) -> BTreeSet<News> {
    let items = field.items("a list such as [\"failed\", \"recovered\"]");
    let read = |item: &ManifestField<'_>| {
        item.parsed("a text in quotes", |text| {
            let words = News::ALL.map(News::as_str);
            News::ALL.into_iter().find(|news| news.as_str() == text).ok_or_else(|| {
                let near = keys::nearest(text, words);
                let hint = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
                format!("must be one of {}{hint}", words.join(", "))
            })
        })
    };
    items.iter().filter_map(read).collect()
}

fn read_environments(field: &ManifestField<'_>) -> BTreeSet<EnvironmentName> {
    let items = field.items("a list such as [\"prod\"]");
    items.iter().filter_map(ManifestField::name).collect()
}
