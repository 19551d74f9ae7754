//! Notifications of a real daemon to services that follow the documentation of each kind: limits of the rate, answers
//! of 500 to messages that were stored, rejections, and the shape of every request.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::child::{PATIENCE, Place};
use crate::common::{
    Authority, Certificate, ServedAnswer, ServedRequest, eventually, serve, serve_every_host,
};

/// Is part of every secret, and must appear nowhere.
const SESAME: &str = "sesame";
/// A reason that would notify everyone, or break markup.
const HOSTILE: &str = "<!channel> @everyone @channel </b> *x* demo";

/// What a service does with the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It limits the rate.
    Limits,
    /// It stores the message, and answers 500.
    FailsAfterStoring,
    /// It rejects the message or the credentials.
    Rejects,
}

/// A kind of service.
struct Kind {
    name: &'static str,
    /// The keys of the channel beside `kind` and the secret.
    keys: fn(u16) -> String,
    secret: fn(u16) -> String,
    /// What is wrong with a request.
    problem: fn(&ServedRequest) -> Option<String>,
    accepts: fn() -> ServedAnswer,
    limits: fn() -> ServedAnswer,
    rejects: fn() -> ServedAnswer,
    /// What the outbox shows of the rejection.
    rejected_as: &'static str,
}

fn hook(path: &str, port: u16) -> String {
    format!("http://127.0.0.1:{port}/{path}/{SESAME}-hook")
}

fn retry_after(status: u16, body: &Value) -> ServedAnswer {
    let mut answer = ServedAnswer::json(status, body);
    answer.headers.push(("Retry-After", "1".to_owned()));
    answer
}

fn text(status: u16, body: &str) -> ServedAnswer {
    ServedAnswer { status, body: body.to_owned(), ..ServedAnswer::default() }
}

/// The first of these claims that does not hold.
fn first_wrong<const N: usize>(request: &ServedRequest, claims: [(&str, bool); N]) -> Option<String> {
    let wrong = claims.into_iter().find(|(_, holds)| !holds)?;
    Some(format!("{}: {} {}: {}", wrong.0, request.method, request.path, request.json()))
}

fn is_post(request: &ServedRequest, path: &str) -> bool {
    let is_json = request.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    request.method == "POST" && request.path == path && is_json
}

fn has_bearer(request: &ServedRequest, token: &str) -> bool {
    request.header("authorization") == Some(&format!("Bearer {token}"))
}

/// The message and its block, of which Slack takes 3,000 characters.
fn is_slack_message(body: &Value) -> bool {
    let blocks = body["blocks"].as_array();
    let fits =
        |block: &Value| block["text"]["text"].as_str().is_some_and(|text| text.chars().count() <= 3000);
    let pings = body.to_string().contains("<!channel>");
    body["text"].is_string()
        && blocks.is_some_and(|blocks| blocks.len() <= 50 && blocks.iter().all(fits))
        && !pings
}

/// Every kind of channel but e-mail and the signed webhook, which have separate tests.
static KINDS: [Kind; 9] = [
    Kind {
        name: "slack",
        keys: |_| String::new(),
        secret: |port| hook("services/T0/B0", port),
        problem: |request| {
            first_wrong(
                request,
                [
                    ("a post to the hook", is_post(request, "/services/T0/B0/sesame-hook")),
                    ("a message", is_slack_message(&request.json())),
                ],
            )
        },
        accepts: || text(200, "ok"),
        limits: || retry_after(429, &json!({})),
        rejects: || text(404, "no_service"),
        rejected_as: "404: no_service",
    },
    Kind {
        name: "slack-bot",
        keys: |_| "channel = \"C0123\"\n".to_owned(),
        secret: |_| "xoxb-sesame".to_owned(),
        problem: |request| {
            let body = request.json();
            first_wrong(
                request,
                [
                    ("a call of the method", is_post(request, "/api/chat.postMessage")),
                    ("the token of the bot", has_bearer(request, "xoxb-sesame")),
                    ("the channel", body["channel"] == "C0123"),
                    ("a message", is_slack_message(&body)),
                ],
            )
        },
        accepts: || ServedAnswer::json(200, &json!({ "ok": true, "channel": "C0123", "ts": "1700.0001" })),
        limits: || retry_after(429, &json!({ "ok": false, "error": "ratelimited" })),
        rejects: || ServedAnswer::json(200, &json!({ "ok": false, "error": "channel_not_found" })),
        rejected_as: "Slack answers channel_not_found",
    },
    Kind {
        name: "discord",
        keys: |_| String::new(),
        secret: |port| hook("api/webhooks/1", port),
        problem: |request| {
            let body = request.json();
            let length = |value: &Value| value.as_str().map_or(0, |text| text.chars().count());
            let embeds = body["embeds"].as_array().cloned().unwrap_or_default();
            let fits =
                |embed: &Value| length(&embed["title"]) <= 256 && length(&embed["description"]) <= 4096;
            first_wrong(
                request,
                [
                    ("a post that waits", is_post(request, "/api/webhooks/1/sesame-hook?wait=true")),
                    ("nobody is mentioned", body["allowed_mentions"] == json!({ "parse": [] })),
                    ("embeds", !embeds.is_empty() && embeds.len() <= 10 && embeds.iter().all(fits)),
                    ("the content", length(&body["content"]) <= 2000),
                ],
            )
        },
        accepts: || ServedAnswer::json(200, &json!({ "id": "42" })),
        limits: || {
            let limited =
                json!({ "message": "You are being rate limited.", "retry_after": 0.25, "global": false });
            retry_after(429, &limited)
        },
        rejects: || ServedAnswer::json(404, &json!({ "message": "Unknown Webhook", "code": 10015 })),
        rejected_as: "Unknown Webhook",
    },
    Kind {
        name: "teams",
        keys: |_| String::new(),
        secret: |port| hook("workflows/1/triggers/manual/paths/invoke", port),
        problem: |request| {
            let body = request.json();
            let attachment = &body["attachments"][0];
            let path = "/workflows/1/triggers/manual/paths/invoke/sesame-hook";
            first_wrong(
                request,
                [
                    ("a post to the workflow", is_post(request, path)),
                    ("a message", body["type"] == "message"),
                    (
                        "an adaptive card",
                        attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
                            && attachment["contentUrl"].is_null()
                            && attachment["content"]["type"] == "AdaptiveCard",
                    ),
                    ("its size", request.body.len() <= 21 * 1024),
                ],
            )
        },
        accepts: || ServedAnswer::empty(202),
        limits: || retry_after(429, &json!({})),
        rejects: || text(413, "Request Entity too large"),
        rejected_as: "413: Request Entity too large",
    },
    Kind {
        name: "mattermost",
        keys: |_| String::new(),
        secret: |port| hook("hooks", port),
        problem: |request| {
            let body = request.json();
            let text = body["text"].as_str().unwrap_or_default();
            first_wrong(
                request,
                [
                    ("a post to the hook", is_post(request, "/hooks/sesame-hook")),
                    ("its length", !text.is_empty() && text.chars().count() <= 16_383),
                    ("nobody is mentioned", !text.contains("@channel") && !text.contains("<!channel>")),
                ],
            )
        },
        accepts: || text(200, "ok"),
        limits: || retry_after(429, &json!({})),
        rejects: || {
            let missing = json!({ "id": "web.incoming_webhook.invalid.app_error", "message": "Invalid webhook", "status_code": 400 });
            ServedAnswer::json(400, &missing)
        },
        rejected_as: "Invalid webhook",
    },
    Kind {
        name: "telegram",
        keys: |_| "channel = \"-1001234\"\n".to_owned(),
        secret: |_| "123:sesame".to_owned(),
        problem: |request| {
            let body = request.json();
            let text = body["text"].as_str().unwrap_or_default();
            first_wrong(
                request,
                [
                    ("a call of the method", is_post(request, "/bot123:sesame/sendMessage")),
                    ("the chat", body["chat_id"] == -1_001_234),
                    ("HTML", body["parse_mode"] == "HTML" && text.matches("</b>").count() == 1),
                    ("its length", text.chars().count() <= 4096),
                ],
            )
        },
        accepts: || ServedAnswer::json(200, &json!({ "ok": true, "result": { "message_id": 7 } })),
        limits: || {
            let limited = json!({ "ok": false, "error_code": 429, "description": "Too Many Requests: retry after 1", "parameters": { "retry_after": 1 } });
            ServedAnswer::json(429, &limited)
        },
        rejects: || {
            let blocked = json!({ "ok": false, "error_code": 403, "description": "Forbidden: bot was blocked by the user" });
            ServedAnswer::json(403, &blocked)
        },
        rejected_as: "bot was blocked by the user",
    },
    Kind {
        name: "ntfy",
        keys: |port| format!("url = \"http://127.0.0.1:{port}\"\ntopic = \"deployments\"\n"),
        secret: |_| "tk_sesame".to_owned(),
        problem: |request| {
            let body = request.json();
            let message = body["message"].as_str().unwrap_or_default();
            first_wrong(
                request,
                [
                    ("a post to the root", is_post(request, "/")),
                    ("the token", has_bearer(request, "tk_sesame")),
                    ("the topic", body["topic"] == "deployments"),
                    ("its length", !message.is_empty() && message.len() <= 4096),
                    (
                        "a priority",
                        body["priority"].as_u64().is_some_and(|priority| (1..=5).contains(&priority)),
                    ),
                ],
            )
        },
        accepts: || ServedAnswer::json(200, &json!({ "id": "x1", "event": "message" })),
        limits: || {
            let limited = json!({ "code": 42901, "http": 429, "error": "limit reached: too many requests" });
            retry_after(429, &limited)
        },
        rejects: || ServedAnswer::json(403, &json!({ "code": 40301, "http": 403, "error": "forbidden" })),
        rejected_as: "forbidden",
    },
    Kind {
        name: "gotify",
        keys: |port| format!("url = \"http://127.0.0.1:{port}/gotify\"\n"),
        secret: |_| "A-sesame".to_owned(),
        problem: |request| {
            let body = request.json();
            first_wrong(
                request,
                [
                    ("a post to the server", is_post(request, "/gotify/message")),
                    ("the key", request.header("x-gotify-key") == Some("A-sesame")),
                    ("a message", body["title"].is_string() && body["message"].is_string()),
                    ("a priority", body["priority"].is_u64()),
                ],
            )
        },
        accepts: || ServedAnswer::json(200, &json!({ "id": 1 })),
        // Gotify has no limit; a proxy in front of it may.
        limits: || retry_after(503, &json!({})),
        rejects: || {
            let wrong = json!({ "error": "Unauthorized", "errorCode": 401, "errorDescription": "you need to provide a valid access token" });
            ServedAnswer::json(401, &wrong)
        },
        rejected_as: "401",
    },
    Kind {
        name: "matrix",
        keys: |port| format!("url = \"http://127.0.0.1:{port}\"\nroom = \"!abc:example.com\"\n"),
        secret: |_| "syt_sesame".to_owned(),
        problem: |request| {
            let body = request.json();
            let parts: Vec<&str> = request.path.split('/').collect();
            let is_send = matches!(
                parts[..],
                ["", "_matrix", "client", "v3", "rooms", "!abc:example.com" | "%21abc%3Aexample.com", "send", "m.room.message", id]
                    if id.starts_with("msg_")
            );
            first_wrong(
                request,
                [
                    ("a put of a transaction", request.method == "PUT" && is_send),
                    ("the token", has_bearer(request, "syt_sesame")),
                    ("a notice", body["msgtype"] == "m.notice" && body["body"].is_string()),
                    ("nobody is mentioned", body["m.mentions"] == json!({})),
                    ("its size", request.body.len() < 65_536),
                ],
            )
        },
        accepts: || ServedAnswer::json(200, &json!({ "event_id": "$one" })),
        limits: || {
            let limited =
                json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests", "retry_after_ms": 300 });
            retry_after(429, &limited)
        },
        rejects: || {
            let missing = json!({ "errcode": "M_FORBIDDEN", "error": "User is not in the room" });
            ServedAnswer::json(403, &missing)
        },
        rejected_as: "User is not in the room",
    },
];

/// What one service got.
#[derive(Default)]
struct ServiceState {
    fates: VecDeque<Fate>,
    /// Paths and bodies of the stored messages.
    stored: Vec<(String, Vec<u8>)>,
    wrong: Vec<String>,
}

#[derive(Clone, Default)]
struct Service(Arc<Mutex<ServiceState>>);

impl Service {
    fn state(&self) -> MutexGuard<'_, ServiceState> {
        self.0.lock().unwrap()
    }

    fn answer(&self, kind: &Kind, request: &ServedRequest) -> ServedAnswer {
        let mut state = self.state();
        state.wrong.extend((kind.problem)(request));
        let fate = state.fates.pop_front();
        match fate {
            Some(Fate::Limits) => return (kind.limits)(),
            Some(Fate::Rejects) => return (kind.rejects)(),
            Some(Fate::FailsAfterStoring) | None => {}
        }
        state.stored.push((request.path.clone(), request.body.clone()));
        if fate.is_some() { text(500, "internal error") } else { (kind.accepts)() }
    }
}

/// A daemon with a channel of every kind.
struct Channels {
    place: Place,
    services: Vec<(&'static Kind, Service)>,
    _authority: Authority,
    proxy: u16,
    trusted: String,
}

impl Channels {
    fn new() -> Self {
        let place = Place::new();
        let services: Vec<_> = KINDS.iter().map(|kind| (kind, Service::default())).collect();
        let mut manifest = String::new();
        for (kind, service) in &services {
            let port = {
                let (kind, service) = (*kind, service.clone());
                serve(move |request| service.answer(kind, request))
            };
            let secret = place.path(&format!("secret-of-{}", kind.name));
            std::fs::write(&secret, (kind.secret)(port)).unwrap();
            let word = if kind.name == "slack-bot" { "slack" } else { kind.name };
            manifest.push_str(&format!(
                "[notify.{}]\nkind = \"{word}\"\nsecret_file = {secret:?}\nallow_private = true\n\
                 on = [\"held\"]\n{}",
                kind.name,
                (kind.keys)(port)
            ));
        }
        std::fs::write(place.desired_state().join("notify.toml"), manifest).unwrap();
        // Two services have one address for everyone, so a proxy stands in for them.
        let authority = Authority::new(place.path("state").parent().unwrap());
        let files = Certificate { certificate: place.path("server.crt"), key: place.path("server.key") };
        authority.sign_for("DNS:slack.com,DNS:api.telegram.org", &files);
        let public: Vec<_> = services
            .iter()
            .filter_map(|(kind, service)| match kind.name {
                "slack-bot" => Some(("slack.com", *kind, service.clone())),
                "telegram" => Some(("api.telegram.org", *kind, service.clone())),
                _ => None,
            })
            .collect();
        let proxy = serve_every_host(&files, move |host, request| {
            let found = public.iter().find(|(name, ..)| *name == host);
            found.map_or_else(|| ServedAnswer::empty(404), |(_, kind, service)| service.answer(kind, request))
        });
        let trusted = authority.certificate().to_str().unwrap().to_owned();
        Self { place, services, _authority: authority, proxy, trusted }
    }

    fn set_fates(&self, fates: &[Fate]) {
        for (_, service) in &self.services {
            service.state().fates = fates.iter().copied().collect();
        }
    }

    fn run(&self, arguments: &[&str]) {
        let ran = self.place.abide(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    }

    fn outbox(&self) -> Vec<Value> {
        let ran = self.place.abide(&["outbox", "-o", "json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    #[track_caller]
    fn await_delivered(&self) {
        eventually("every message is delivered", PATIENCE, || self.outbox().is_empty());
    }

    /// The number of stored messages of each service, and nothing was wrong with any.
    #[track_caller]
    fn stored(&self) -> Vec<(&'static str, usize)> {
        let count = |(kind, service): &(&'static Kind, Service)| {
            let state = service.state();
            assert_eq!(state.wrong, [""; 0], "{}", kind.name);
            // A repeated transaction is known to Matrix.
            let distinct: BTreeSet<_> = state.stored.iter().map(|(path, _)| path).collect();
            let is_matrix = kind.name == "matrix";
            (kind.name, if is_matrix { distinct.len() } else { state.stored.len() })
        };
        self.services.iter().map(count).collect()
    }
}

fn each(count: impl Fn(&str) -> usize) -> Vec<(&'static str, usize)> {
    KINDS.iter().map(|kind| (kind.name, count(kind.name))).collect()
}

#[test]
fn every_kind_of_channel_gets_its_messages_despite_limits_failures_and_rejections() {
    let channels = Channels::new();
    let proxy = format!("http://127.0.0.1:{}", channels.proxy);
    let daemon = channels.place.serve(&[("HTTPS_PROXY", &proxy), ("SSL_CERT_FILE", &channels.trusted)]);

    channels.set_fates(&[Fate::Limits, Fate::FailsAfterStoring]);
    channels.run(&["hold", "dev", "--reason", HOSTILE]);
    channels.await_delivered();
    // The answer of 500 to a stored message leads to a second copy, unless its id is known.
    assert_eq!(channels.stored(), each(|kind| if kind == "matrix" { 1 } else { 2 }));
    for (kind, service) in &channels.services {
        let state = service.state();
        assert!(state.fates.is_empty(), "{}: {:?} is left", kind.name, state.fates);
        let [first, second] = &state.stored[..] else { panic!("{}: {:?}", kind.name, state.stored) };
        assert_eq!(first, second, "{}: a repetition is the same message", kind.name);
        let told = String::from_utf8_lossy(&first.1).into_owned();
        assert!(told.contains("dev") && told.contains("demo"), "{}: {told}", kind.name);
    }

    channels.run(&["resume", "dev"]);
    channels.await_delivered();
    let before = channels.stored();
    channels.set_fates(&[Fate::Rejects]);
    channels.run(&["hold", "dev", "--reason", "a second demo"]);
    eventually("every message is rejected", PATIENCE, || {
        let items = channels.outbox();
        items.len() == KINDS.len() && items.iter().all(|item| !item["dead"].is_null())
    });
    for item in channels.outbox() {
        let target = item["target"].as_str().unwrap();
        let kind = KINDS.iter().find(|kind| target == format!("notify.{}", kind.name)).unwrap();
        let error = item["error"].as_str().unwrap();
        assert!(error.contains(kind.rejected_as), "{target}: {error}");
    }
    let status = channels.place.abide(&["status"]);
    let shown = format!("{}{}", status.stdout, status.stderr);
    assert_eq!(shown.matches("one item could not be delivered").count(), KINDS.len(), "{shown}");

    channels.run(&["outbox", "retry"]);
    channels.await_delivered();
    let after: Vec<_> = before.iter().map(|(kind, count)| (*kind, count + 1)).collect();
    assert_eq!(channels.stored(), after);
    let written = format!("{shown}{}", daemon.log());
    assert!(!written.contains(SESAME), "a secret is in the log or in an error: {written}");
}
