//! Services on other hosts that abide calls: channels for notifications.

use super::{Key, Section, Shape};

pub(in crate::model::manifest) static NOTIFY: Section = Section {
    title: "notify.NAME",
    keys: &[
        Key::new("kind", Shape::Text).required().example(r#""slack""#).meaning(
            "`\"slack\"`, `\"discord\"`, `\"teams\"`, `\"mattermost\"`, `\"telegram\"`, `\"ntfy\"`, \
                `\"gotify\"`, `\"matrix\"`, `\"email\"` or `\"webhook\"` (signed as in Standard Webhooks)",
        ),
        Key::new("secret_env", Shape::Text)
            .default("*required*, except for `ntfy` and `email`")
            .example(r#""SLACK_WEBHOOK_URL""#)
            .meaning(
                "the daemon's environment variable with the secret: the webhook's URL (`slack` without \
                `channel`, `discord`, `mattermost`, `teams`), the token (`slack` with `channel`, \
                `telegram`, `ntfy`, `gotify`, `matrix`), the password (`email`) or the signing key \
                (`webhook`; several with spaces between them while keys are exchanged)",
            ),
        Key::new("secret_file", Shape::Path("of this host"))
            .default("instead of `secret_env`")
            .example(r#""/etc/abide/slack-url""#)
            .meaning("the file with the secret; abide reads it for each message"),
        Key::new("url", Shape::Text)
            .default("*required* for `webhook`, `gotify`, `matrix`, `email`; `ntfy`: `\"https://ntfy.sh\"`")
            .example(r#""https://example.com""#)
            .meaning("the server; of `email`, `smtp://HOST:PORT` (STARTTLS) or `smtps://HOST:PORT`"),
        Key::new("channel", Shape::Text)
            .default("*required* for `telegram`")
            .example(r#""-1001234""#)
            .meaning(
                "`slack`: the channel of a bot, which answers in the incident's thread; `telegram`: the \
                chat's id or @name",
            ),
        Key::new("topic", Shape::Text)
            .default("*required* for `ntfy`")
            .example(r#""our-deployments""#)
            .meaning("the topic"),
        Key::new("room", Shape::Text)
            .default("*required* for `matrix`")
            .example(r#""!abc:example.com""#)
            .meaning("the room's id"),
        Key::new("from", Shape::Text)
            .default("*required* for `email`")
            .example(r#""abide@example.com""#)
            .meaning("the sender's address"),
        Key::new("to", Shape::List("texts"))
            .default("*required* for `email`")
            .example(r#"["ops@example.com"]"#)
            .meaning("the receivers' addresses"),
        Key::new("username", Shape::Text)
            .example(r#""abide""#)
            .meaning("`email`: the user name of the login"),
        Key::new("on", Shape::List("texts"))
            .default("all but `ready`")
            .example(r#"["failed", "recovered"]"#)
            .meaning(
                "the news: `\"failed\"`, `\"rolled_back\"`, `\"recovered\"`, `\"ready\"` (each new \
                generation), `\"waiting_for_approval\"`, `\"rejected\"`, `\"held\"`, `\"agent_away\"`, \
                `\"certificate\"`",
            ),
        Key::new("environments", Shape::List("texts"))
            .default("all")
            .example(r#"["prod"]"#)
            .meaning("only news about these environments"),
        Key::new("allow_private", Shape::Flag)
            .default("`false`")
            .example("true")
            .meaning("whether the server may have a private address, such as one of the local network"),
    ],
};
