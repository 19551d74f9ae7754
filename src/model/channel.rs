//! Notification channels as declared in the manifest: `[notify.NAME]`.

use std::collections::BTreeSet;

use super::manifest::service;
use super::name::EnvironmentName;
use super::outbox::{ChannelRule, News};
use super::spec::SecretRef;

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSpec {
    /// The service and its address.
    pub channel: Channel,
    /// The news that it gets.
    pub on: BTreeSet<News>,
    /// The environments; `None`: all.
    pub environments: Option<BTreeSet<EnvironmentName>>,
    /// Whether the service may have a private address.
    pub allow_private: bool,
}

/// A service and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A URL that gets signed JSON.
    Webhook {
        /// The URL.
        url: String,
        /// The key of the signature.
        secret: SecretRef,
    },
    /// Slack.
    Slack {
        /// The channel of a bot; `None`: an incoming webhook.
        channel: Option<String>,
        /// The bot's token, or the webhook's URL.
        secret: SecretRef,
    },
    /// A Discord webhook.
    Discord {
        /// Its URL.
        secret: SecretRef,
    },
    /// A Mattermost webhook.
    Mattermost {
        /// Its URL.
        secret: SecretRef,
    },
    /// A workflow of Microsoft Teams.
    Teams {
        /// Its URL.
        secret: SecretRef,
    },
    /// A chat on Telegram.
    Telegram {
        /// The chat's id or name.
        chat: String,
        /// The bot's token.
        secret: SecretRef,
    },
    /// A topic of an ntfy server.
    Ntfy {
        /// The server.
        url: String,
        /// The topic.
        topic: String,
        /// The access token, if the topic needs one.
        secret: Option<SecretRef>,
    },
    /// A Gotify server.
    Gotify {
        /// The server.
        url: String,
        /// The application's token.
        secret: SecretRef,
    },
    /// A Matrix room.
    Matrix {
        /// The home server.
        url: String,
        /// The room's id.
        room: String,
        /// The access token.
        secret: SecretRef,
    },
    /// E-mail.
    Email {
        /// The server: `smtp://host:port` or `smtps://host:port`.
        server: String,
        /// The sender's address.
        from: String,
        /// The receivers' addresses.
        to: Vec<String>,
        /// The user name, if the server needs a login.
        username: Option<String>,
        /// The password.
        secret: Option<SecretRef>,
    },
}

impl Channel {
    /// The kinds, as in the manifest.
    pub const KINDS: [&str; 10] = [
        "webhook",
        "slack",
        "discord",
        "mattermost",
        "teams",
        "telegram",
        "ntfy",
        "gotify",
        "matrix",
        "email",
    ];

    /// The secret, if it has one.
    pub fn secret(&self) -> Option<&SecretRef> {
        match self {
            Self::Webhook { secret, .. }
            | Self::Slack { secret, .. }
            | Self::Discord { secret }
            | Self::Mattermost { secret }
            | Self::Teams { secret }
            | Self::Telegram { secret, .. }
            | Self::Gotify { secret, .. }
            | Self::Matrix { secret, .. } => Some(secret),
            Self::Ntfy { secret, .. } | Self::Email { secret, .. } => secret.as_ref(),
        }
    }

    /// Whether the secret is a URL.
    pub fn has_secret_url(&self) -> bool {
        matches!(
            self,
            Self::Slack { channel: None, .. }
                | Self::Discord { .. }
                | Self::Mattermost { .. }
                | Self::Teams { .. }
        )
    }
}

impl ChannelSpec {
    /// Returns why the channel's secret cannot be used, as a clause that follows its name. It never repeats the
    /// secret.
    pub fn secret_problem(&self, secret: &str) -> Option<String> {
        let text = secret.trim();
        match &self.channel {
            channel if channel.has_secret_url() => {
                service::url(text, &["https", "http"], self.allow_private).err()
            }
            Channel::Webhook { .. } if !text.split_whitespace().all(is_signing_key) => Some(
                "must be `whsec_` and the base64 of 24 to 64 bytes, as `openssl rand -base64 32` prints it"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// The news that it gets.
    pub fn rule(&self) -> ChannelRule {
        ChannelRule { on: self.on.clone(), environments: self.environments.clone() }
    }
}

/// Whether a key has the form and the length that Standard Webhooks want.
fn is_signing_key(key: &str) -> bool {
    let key = key.strip_prefix("whsec_").unwrap_or(key);
    let digits = key.trim_end_matches('=');
    let is_base64 = digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte));
    is_base64
        && key.len().is_multiple_of(4)
        && key.len() - digits.len() <= 2
        && (24..=64).contains(&(digits.len() * 3 / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_channel_secret_is_described_but_not_shown() {
        let secret = || SecretRef::SecretEnv("X".to_owned());
        let of =
            |channel| ChannelSpec { channel, on: BTreeSet::new(), environments: None, allow_private: false };
        let hook = of(Channel::Mattermost { secret: secret() });
        assert_eq!(hook.secret_problem("https://chat.example.com/hooks/sesame\n"), None);
        for (url, expected) in [
            ("sesame", "must be a URL that begins with https:// or http://"),
            (
                "https://10.1.2.3/hooks/sesame",
                "is a private address: add `allow_private = true` if that is intended",
            ),
            ("https://127.1/hooks/sesame", "must name a host, or an address such as 192.0.2.7"),
            ("https://0x7f000001/sesame", "must name a host, or an address such as 192.0.2.7"),
        ] {
            assert_eq!(hook.secret_problem(url).as_deref(), Some(expected), "{url}");
        }
        let webhook = of(Channel::Webhook { url: "https://example.com".to_owned(), secret: secret() });
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        for good in [key.to_owned(), format!("{key} {key}"), format!("whsec_{}", "A".repeat(43) + "=")] {
            assert_eq!(webhook.secret_problem(&good), None, "{good}");
        }
        for bad in ["sesame", "whsec_c2hvcnQ=", "whsec_no base64!", &format!("whsec_{}", "A".repeat(88))] {
            let problem = webhook.secret_problem(bad).unwrap();
            assert!(problem.contains("24 to 64 bytes") && !problem.contains(bad), "{bad}");
        }
        assert_eq!(
            of(Channel::Slack { channel: Some("C1".into()), secret: secret() }).secret_problem("xoxb-1"),
            None
        );
    }
}
