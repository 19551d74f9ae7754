//! Notification channels as declared in the manifest: `[notify.NAME]`.

use std::collections::BTreeSet;

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
    /// The news that it gets.
    pub fn rule(&self) -> ChannelRule {
        ChannelRule { on: self.on.clone(), environments: self.environments.clone() }
    }
}
