//! Services on other hosts that abide calls: forges, and channels for notifications.

use super::{Key, Section, ValueShape};

pub(in crate::model::manifest) static NOTIFY: Section = Section {
    title: "notify.NAME",
    keys: &[
        Key::new("kind", ValueShape::Text).required().example(r#""slack""#).meaning(
            "`\"slack\"`, `\"discord\"`, `\"teams\"`, `\"mattermost\"`, `\"telegram\"`, `\"ntfy\"`, \
                `\"gotify\"`, `\"matrix\"`, `\"email\"` or `\"webhook\"` (signed as in Standard Webhooks)",
        ),
        Key::new("secret_env", ValueShape::Text)
            .default("*required*, except for `ntfy` and `email`")
            .example(r#""SLACK_WEBHOOK_URL""#)
            .meaning(
                "the daemon's environment variable with the secret: the webhook's URL (`slack` without \
                `channel`, `discord`, `mattermost`, `teams`), the token (`slack` with `channel`, \
                `telegram`, `ntfy`, `gotify`, `matrix`), the password (`email`) or the signing key \
                (`webhook`; several with spaces between them while keys are exchanged)",
            ),
        Key::new("secret_file", ValueShape::Path("of this host"))
            .default("instead of `secret_env`")
            .example(r#""/etc/abide/slack-url""#)
            .meaning("the file with the secret; abide reads it for each message"),
        Key::new("url", ValueShape::Text)
            .default("*required* for `webhook`, `gotify`, `matrix`, `email`; `ntfy`: `\"https://ntfy.sh\"`")
            .example(r#""https://example.com""#)
            .meaning("the server; of `email`, `smtp://HOST:PORT` (STARTTLS) or `smtps://HOST:PORT`"),
        Key::new("channel", ValueShape::Text)
            .default("*required* for `telegram`")
            .example(r#""-1001234""#)
            .meaning(
                "`slack`: the channel of a bot, which answers in the incident's thread; `telegram`: the \
                chat's id or @name",
            ),
        Key::new("topic", ValueShape::Text)
            .default("*required* for `ntfy`")
            .example(r#""our-deployments""#)
            .meaning("the topic"),
        Key::new("room", ValueShape::Text)
            .default("*required* for `matrix`")
            .example(r#""!abc:example.com""#)
            .meaning("the room's id"),
        Key::new("from", ValueShape::Text)
            .default("*required* for `email`")
            .example(r#""abide@example.com""#)
            .meaning("the sender's address"),
        Key::new("to", ValueShape::List("texts"))
            .default("*required* for `email`")
            .example(r#"["ops@example.com"]"#)
            .meaning("the recipients' addresses"),
        Key::new("username", ValueShape::Text)
            .example(r#""abide""#)
            .meaning("`email`: the user name of the login"),
        Key::new("on", ValueShape::List("texts"))
            .default("all but `ready`")
            .example(r#"["failed", "recovered"]"#)
            .meaning(
                "the events to announce: `\"failed\"`, `\"rolled_back\"`, `\"recovered\"`, `\"ready\"` (each new \
                generation), `\"held\"`, `\"waiting_for_approval\"`, `\"rejected\"`, `\"agent_away\"`, \
                `\"certificate\"`, `\"job_failed\"`",
            ),
        Key::new("environments", ValueShape::List("texts"))
            .default("all")
            .example(r#"["prod"]"#)
            .meaning("only events of these environments"),
        Key::new("allow_private", ValueShape::Flag)
            .default("`false`")
            .example("true")
            .meaning("whether the server may have a private address, such as one of the local network"),
    ],
};

pub(in crate::model::manifest) static FORGE: Section = Section {
    title: "repository.NAME.forge",
    keys: &[
        Key::new("kind", ValueShape::Text).required().example(r#""github""#).meaning(
            "`\"github\"` (also Enterprise Server), `\"gitlab\"`, `\"gitea\"`, `\"forgejo\"`, \
                `\"bitbucket\"` (Cloud) or `\"bitbucket-server\"` (Data Center)",
        ),
        Key::new("api", ValueShape::Text)
            .default("of github.com, gitlab.com, bitbucket.org and codeberg.org; otherwise *required*")
            .example(r#""https://ghe.example.com/api/v3""#)
            .meaning("the base of the API"),
        Key::new("repository", ValueShape::Text)
            .default("from the repository's `url`, if that is a URL of the forge")
            .example(r#""owner/name""#)
            .meaning("the repository's name there; on GitLab with all groups"),
        Key::new("token", ValueShape::Table(&FORGE_TOKEN))
            .default("one of the two is *required*")
            .example(r#"{ secret_env = "FORGE_TOKEN" }"#)
            .meaning("a token: [`repository.NAME.forge.token`](#repositorynameforgetoken)"),
        Key::new("app", ValueShape::Table(&FORGE_APP))
            .default("one of the two is *required*")
            .example(r#"{ id = "Iv1.0123456789abcdef", key_file = "/etc/abide/app.pem" }"#)
            .meaning("a GitHub App that is installed on the repository: [`repository.NAME.forge.app`](#repositorynameforgeapp)"),
        Key::new("statuses", ValueShape::Flag)
            .default("`true`")
            .example("false")
            .meaning("whether each commit gets a status `abide/ENVIRONMENT`"),
        Key::new("deployments", ValueShape::Flag)
            .default("`true` on GitHub and GitLab")
            .example("false")
            .meaning("whether deployments are shown; only on GitHub and GitLab"),
        Key::new("allow_private", ValueShape::Flag)
            .default("`false`")
            .example("true")
            .meaning("whether the forge may have a private address, such as one of the local network"),
    ],
};

pub(in crate::model::manifest) static FORGE_TOKEN: Section = Section {
    title: "repository.NAME.forge.token",
    keys: &[
        Key::new("secret_env", ValueShape::Text)
            .default("one of the two is *required*")
            .example(r#""FORGE_TOKEN""#)
            .meaning(
                "the daemon's environment variable with the token; for Bitbucket Cloud, the value may also \
                 be `e-mail:token`",
            ),
        Key::new("secret_file", ValueShape::Path("of this host"))
            .default("one of the two is *required*")
            .example(r#""/etc/abide/forge-token""#)
            .meaning("the file with the token; abide reads it for each request"),
    ],
};

pub(in crate::model::manifest) static FORGE_APP: Section = Section {
    title: "repository.NAME.forge.app",
    keys: &[
        Key::new("id", ValueShape::OneOf("text or number", &[ValueShape::Text, ValueShape::Number]))
            .required()
            .example(r#""Iv1.0123456789abcdef""#)
            .meaning("the client id or the app id"),
        Key::new("key_file", ValueShape::Path("of this host"))
            .required()
            .example(r#""/etc/abide/app.pem""#)
            .meaning("the file with its private key in PEM"),
    ],
};
