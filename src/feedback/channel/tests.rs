//! The request of each channel as its service wants it, and what the answers of each service mean.

use std::time::{Duration, SystemTime};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::*;
use crate::feedback::lane::Then;
use crate::model::name::{CommitId, EnvironmentName, Generation};
use crate::model::outbox::{Announcement, DeliveryAttempts, News, ReportedVersion, Subject};
use crate::model::spec::SecretRef;

/// Text of a stranger, with everything that pings someone or is markup somewhere.
const HOSTILE: &str =
    "<!channel> @everyone <@U1> [x](https://evil.example) <b>&amp;</b> *b* `c`\nBcc: eve@example.com";

fn message() -> Message {
    let environment = Subject::Environment(EnvironmentName::new("prod").unwrap());
    let revision = CommitId::new("a41d90be77c2".repeat(4).chars().take(40).collect::<String>()).unwrap();
    Message {
        id: "msg_1".to_owned(),
        sequence: 1,
        target: "notify.team".parse().unwrap(),
        announcement: Announcement {
            incident: Some("i1".to_owned()),
            to: ReportedVersion { generation: Generation(41), revision: Some(revision), image: None },
            by: Some("github (@here)".to_owned()),
            ..Announcement::new(
                News::RolledBack,
                environment,
                HOSTILE,
                Timestamp::from_millis(1_795_449_600_000),
            )
        },
        grouped: Vec::new(),
        more: 0,
        attempts: DeliveryAttempts::default(),
    }
}

fn named() -> SecretRef {
    SecretRef::SecretEnv("X".to_owned())
}

fn call_with(channel: &Channel, secret: &str, thread: Option<&str>, message: &Message) -> ServiceRequest {
    let page = Some("https://ci.example.com/abide");
    let draft = RequestInput {
        message,
        content: MessageContent::of(message, page),
        secret: Secret::new(secret),
        thread,
        now: Timestamp::from_millis(1_795_449_661_000),
        allow_private: false,
    };
    request(channel, &draft).unwrap()
}

fn call(channel: &Channel, secret: &str) -> ServiceRequest {
    call_with(channel, secret, None, &message())
}

fn body(call: &ServiceRequest) -> Value {
    serde_json::from_str(&call.body).unwrap()
}

fn header<'c>(call: &'c ServiceRequest, name: &str) -> &'c str {
    call.headers.iter().find(|(known, _)| *known == name).unwrap().1.expose()
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> ServiceResponse {
    let pair = |(name, value): &(&str, &str)| {
        (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    let headers: HeaderMap = headers.iter().map(pair).collect();
    let (place, at) = ("https://chat.example.com".to_owned(), SystemTime::UNIX_EPOCH);
    ServiceResponse {
        status,
        headers,
        body: body.as_bytes().to_vec(),
        place,
        hidden: vec![Secret::new("sesame")],
        at,
    }
}

#[test]
fn slack_gets_escaped_text_by_webhook_or_in_the_thread_of_the_incident() {
    let hook = Channel::Slack { channel: None, secret: named() };
    let sent = call(&hook, "https://hooks.slack.com/services/T/B/sesame");
    assert_eq!(sent.url.expose(), "https://hooks.slack.com/services/T/B/sesame");
    let text = body(&sent)["blocks"][0]["text"]["text"].as_str().unwrap().to_owned();
    assert!(
        text.starts_with("*<https://ci.example.com/abide/environments/prod|prod was rolled back>*\n"),
        "{text}"
    );
    assert!(text.contains("&lt;!channel&gt;") && !text.contains("<!") && !text.contains("<@"), "{text}");
    assert!(text.contains("version: generation 41, commit a41d90be77c2"), "{text}");

    let bot = Channel::Slack { channel: Some("C1".to_owned()), secret: named() };
    let sent = call_with(&bot, "xoxb-sesame", Some("1700.1"), &message());
    assert_eq!(sent.url.expose(), "https://slack.com/api/chat.postMessage");
    assert_eq!(header(&sent, "authorization"), "Bearer xoxb-sesame");
    assert_eq!((&body(&sent)["channel"], &body(&sent)["thread_ts"]), (&json!("C1"), &json!("1700.1")));

    assert_eq!(judge(&bot, &answer(200, &[], r#"{"ok":true,"ts":"1700.2"}"#)).unwrap().unwrap(), "1700.2");
    let error = judge(&bot, &answer(200, &[], r#"{"ok":false,"error":"channel_not_found"}"#)).unwrap_err();
    assert_eq!((error.then, error.why.as_str()), (Then::Denied, "Slack answers channel_not_found"));
    assert_eq!(judge(&hook, &answer(200, &[], "ok")).unwrap(), None);
    let other = judge(&hook, &answer(200, &[], "<html>sign in</html>")).unwrap_err();
    assert_eq!(other.then, Then::GiveUp);
    let limited = answer(429, &[("retry-after", "30")], "");
    assert_eq!(judge(&hook, &limited).unwrap_err().then, Then::Wait(Duration::from_secs(30)));
    assert_eq!(judge(&hook, &answer(404, &[], "no_service")).unwrap_err().then, Then::Denied);
    assert_eq!(judge(&hook, &answer(400, &[], "invalid_payload")).unwrap_err().then, Then::GiveUp);
    assert_eq!(judge(&hook, &answer(500, &[], "rollup_error")).unwrap_err().then, Then::Retry);
}

#[test]
fn discord_mentions_are_disabled_and_its_retry_after_is_respected() {
    let channel = Channel::Discord { secret: named() };
    let sent = call(&channel, "https://discord.com/api/webhooks/1/sesame");
    assert_eq!(sent.url.expose(), "https://discord.com/api/webhooks/1/sesame?wait=true");
    assert_eq!(body(&sent)["allowed_mentions"], json!({ "parse": [] }));
    let description = body(&sent)["embeds"][0]["description"].as_str().unwrap().to_owned();
    assert!(!description.contains("@everyone") && !description.contains("[x]("), "{description}");
    let limited = answer(429, &[], r#"{"message":"x","retry_after":0.376,"global":false}"#);
    assert_eq!(judge(&channel, &limited).unwrap_err().then, Then::Wait(Duration::from_millis(376)));
    assert_eq!(judge(&channel, &answer(404, &[], "")).unwrap_err().then, Then::Denied);
    assert_eq!(judge(&channel, &answer(200, &[], r#"{"id":"77"}"#)).unwrap().unwrap(), "77");
}

#[test]
fn mattermost_and_teams_show_markup_as_text() {
    let sent = call(&Channel::Mattermost { secret: named() }, "https://chat.example.com/hooks/sesame");
    let text = body(&sent)["text"].as_str().unwrap().to_owned();
    assert!(!text.contains("@everyone") && !text.contains("<!channel>") && !text.contains("[x]("), "{text}");
    let sent =
        call(&Channel::Teams { secret: named() }, "https://x.powerplatform.com:443/workflows/1?sig=sesame");
    let card = &body(&sent)["attachments"][0]["content"];
    assert_eq!(body(&sent)["attachments"][0]["contentType"], "application/vnd.microsoft.card.adaptive");
    let blocks = card["body"].as_array().unwrap();
    assert!(blocks.len() > 2 && blocks.iter().all(|block| block["type"] == "RichTextBlock"), "{card}");
    assert!(sent.body.len() < 20_000);
}

#[test]
fn telegram_gets_html_in_reply_to_the_incident() {
    let channel = Channel::Telegram { chat: "-1001".to_owned(), secret: named() };
    let sent = call_with(&channel, "12:sesame", Some("5"), &message());
    assert_eq!(sent.url.expose(), "https://api.telegram.org/bot12:sesame/sendMessage");
    let body = body(&sent);
    assert_eq!((&body["chat_id"], &body["parse_mode"]), (&json!(-1001), &json!("HTML")));
    assert_eq!(body["reply_parameters"]["message_id"], 5);
    let text = body["text"].as_str().unwrap();
    assert!(text.contains("&lt;b&gt;&amp;amp;&lt;/b&gt;") && !text.contains("<b>&"), "{text}");
    let limited = answer(429, &[], r#"{"ok":false,"error_code":429,"parameters":{"retry_after":5}}"#);
    assert_eq!(judge(&channel, &limited).unwrap_err().then, Then::Wait(Duration::from_secs(5)));
    let moved =
        answer(400, &[], r#"{"ok":false,"error_code":400,"parameters":{"migrate_to_chat_id":-1002}}"#);
    let moved = judge(&channel, &moved).unwrap_err();
    assert!(moved.then == Then::Denied && moved.why.contains("-1002"), "{moved}");
    let sent = answer(200, &[], r#"{"ok":true,"result":{"message_id":6}}"#);
    assert_eq!(judge(&channel, &sent).unwrap().unwrap(), "6");
}

#[test]
fn push_services_get_plain_text() {
    let url = "https://push.example.com".to_owned();
    let ntfy = Channel::Ntfy { url: url.clone(), topic: "t".to_owned(), secret: Some(named()) };
    let sent = call(&ntfy, "tk_sesame");
    assert_eq!((sent.url.expose(), header(&sent, "authorization")), (url.as_str(), "Bearer tk_sesame"));
    assert_eq!((&body(&sent)["topic"], &body(&sent)["priority"]), (&json!("t"), &json!(4)));
    let quota = answer(429, &[], r#"{"code":42908,"http":429,"error":"limit reached"}"#);
    assert_eq!(judge(&ntfy, &quota).unwrap_err().then, Then::Wait(Duration::from_secs(3600)));

    let gotify = Channel::Gotify { url, secret: named() };
    let sent = call(&gotify, "sesame");
    assert_eq!(sent.url.expose(), "https://push.example.com/message");
    assert_eq!((header(&sent, "x-gotify-key"), &body(&sent)["priority"]), ("sesame", &json!(8)));
}

#[test]
fn matrix_deduplicates_by_the_message_id() {
    let url = "https://matrix.example.com/".to_owned();
    let channel = Channel::Matrix { url, room: "!r:example.com".to_owned(), secret: named() };
    let sent = call_with(&channel, "sesame", Some("$first"), &message());
    let path =
        "https://matrix.example.com/_matrix/client/v3/rooms/%21r%3Aexample.com/send/m.room.message/msg_1";
    assert_eq!((sent.method.as_str(), sent.url.expose()), ("PUT", path));
    let body = body(&sent);
    assert_eq!((&body["msgtype"], &body["m.mentions"]), (&json!("m.notice"), &json!({})));
    assert_eq!(body["m.relates_to"]["event_id"], "$first");
    assert!(body["formatted_body"].as_str().unwrap().contains("&lt;b&gt;"), "{body}");
    let limited = answer(429, &[], r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":2000}"#);
    assert_eq!(judge(&channel, &limited).unwrap_err().then, Then::Wait(Duration::from_secs(2)));
}

#[test]
fn a_webhook_is_signed_with_each_key_and_its_body_is_the_event() {
    let channel = Channel::Webhook { url: "https://example.com/hook".to_owned(), secret: named() };
    let keys = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let sent = call(&channel, keys);
    assert_eq!((header(&sent, "webhook-id"), header(&sent, "webhook-timestamp")), ("msg_1", "1795449661"));
    assert_eq!(header(&sent, "webhook-signature").matches("v1,").count(), 2);
    let body = body(&sent);
    assert_eq!(
        (&body["type"], &body["timestamp"]),
        (&json!("environment.rolled_back"), &json!("2026-11-23T16:00:00.000Z"))
    );
    assert_eq!((&body["data"]["environment"], &body["data"]["generation"]), (&json!("prod"), &json!(41)));
    assert_eq!(body["data"]["message"], HOSTILE);
    assert_eq!(judge(&channel, &answer(410, &[], "")).unwrap_err().then, Then::Denied);
    let redirect = judge(&channel, &answer(302, &[("location", "http://169.254.169.254/")], "")).unwrap_err();
    assert!(redirect.then == Then::Denied && redirect.why.contains("name the final URL"), "{redirect}");
    let late = answer(503, &[("retry-after", "Thu, 01 Jan 1970 00:02:00 GMT")], "");
    assert_eq!(judge(&channel, &late).unwrap_err().then, Then::Wait(Duration::from_secs(120)));
}

#[test]
fn no_secret_is_printed_or_shown_in_an_error() {
    let channels = [
        (Channel::Slack { channel: None, secret: named() }, "https://hooks.slack.com/sesame"),
        (Channel::Slack { channel: Some("C1".into()), secret: named() }, "xoxb-sesame"),
        (Channel::Discord { secret: named() }, "https://discord.com/sesame"),
        (Channel::Telegram { chat: "@c".into(), secret: named() }, "1:sesame"),
        (Channel::Gotify { url: "https://g.example.com".into(), secret: named() }, "sesame"),
        (
            Channel::Matrix { url: "https://m.example.com".into(), room: "!r".into(), secret: named() },
            "sesame",
        ),
    ];
    for (channel, secret) in channels {
        let sent = call(&channel, secret);
        assert!(!sent.print().contains("sesame"), "{}", sent.print());
        assert!(!format!("{sent:?}").contains("sesame"), "{sent:?}");
    }
    let error = answer(401, &[], "the token sesame\r\nis wrong").accepted().unwrap_err().to_string();
    assert_eq!(error, "https://chat.example.com answers 401: the token [redacted] is wrong");
}

#[test]
fn long_text_is_truncated_to_each_services_limit() {
    let mut long = message();
    long.announcement.message = "<&>\u{1f600}".repeat(5_000);
    let lengths = [
        (Channel::Slack { channel: None, secret: named() }, "/blocks/0/text/text", 3_000),
        (Channel::Discord { secret: named() }, "/embeds/0/description", 4_096),
        (Channel::Telegram { chat: "1".into(), secret: named() }, "/text", 4_096),
        (
            Channel::Ntfy { url: "https://n.example.com".into(), topic: "t".into(), secret: None },
            "/message",
            4_096,
        ),
    ];
    for (channel, place, limit) in lengths {
        let sent = call_with(&channel, "https://x.example.com", None, &long);
        let text = body(&sent).pointer(place).unwrap().as_str().unwrap().to_owned();
        assert!(text.len() <= limit && text.len() > 200, "{place}: {}", text.len());
    }
    // Teams limits the request, and each line needs a separate block.
    let teams = Channel::Teams { secret: named() };
    for text in ["x\n".repeat(2_000), "\u{1b}".repeat(2_000), "\u{1f600}".repeat(2_000)] {
        long.announcement.message = text;
        let sent = call_with(&teams, "https://x.example.com", None, &long);
        assert!(sent.body.len() <= 20_000, "{}", sent.body.len());
        assert!(body(&sent)["attachments"][0]["content"]["body"].as_array().unwrap().len() > 1);
    }
}
