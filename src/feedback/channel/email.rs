//! E-mail by SMTP, encrypted: STARTTLS on port 587, or TLS from the start on port 465.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::super::content::MessageContent;
use super::super::lane::DeliveryRefusal;
use super::super::smtp::{self, MailEnvelope};
use super::RequestInput;
use crate::model::outbox::Subject;
use crate::model::spec::Channel;
use crate::model::time::Timestamp;

/// The longest text of a mail, in bytes.
const LONGEST: usize = 20_000;
/// The longest line of base64, as MIME wants it.
const LINE: usize = 76;

/// Sends the message to every receiver in one transaction.
pub(super) async fn send(channel: &Channel, draft: &RequestInput<'_>) -> Result<(), DeliveryRefusal> {
    let Channel::Email { server, from, to, username, .. } = channel else {
        return Err(DeliveryRefusal::permanent("not an e-mail channel"));
    };
    let login = username.as_ref().map(|username| (username.clone(), draft.secret.clone()));
    let envelope = MailEnvelope {
        server: server.clone(),
        login,
        from: from.clone(),
        to: to.clone(),
        data: mail(from, to, draft),
        allow_private: draft.allow_private,
    };
    smtp::send(envelope).await
}

/// The mail as text, for `--print`.
pub(super) fn print(channel: &Channel, draft: &RequestInput<'_>) -> Result<String, DeliveryRefusal> {
    let Channel::Email { server, from, to, .. } = channel else {
        return Err(DeliveryRefusal::permanent("not an e-mail channel"));
    };
    let headers = headers(from, to, draft).join("\n");
    Ok(format!("{server}\n{headers}\n\n{}\n", text(&draft.content)))
}

fn mail(from: &str, to: &[String], draft: &RequestInput<'_>) -> String {
    let body = STANDARD.encode(text(&draft.content).replace('\n', "\r\n"));
    let lines: Vec<&str> =
        body.as_bytes().chunks(LINE).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("{}\r\n\r\n{}\r\n", headers(from, to, draft).join("\r\n"), lines.join("\r\n"))
}

fn text(content: &MessageContent) -> String {
    let link = content.link.as_ref().map(|link| format!("\n\n{link}")).unwrap_or_default();
    format!("{}\n\n{}{link}\n", content.title, content.text(LONGEST, str::to_owned))
}

fn headers(from: &str, to: &[String], draft: &RequestInput<'_>) -> Vec<String> {
    let domain = from.rsplit_once('@').map_or("abide.invalid", |(_, domain)| domain);
    let announcement = &draft.message.announcement;
    let mut headers = vec![
        format!("From: abide <{from}>"),
        format!("To: {}", to.join(", ")),
        format!("Subject: {}", subject(&draft.content.title)),
        format!("Date: {}", date(draft.now)),
        format!("Message-ID: <{}@{domain}>", draft.message.id),
        "Auto-Submitted: auto-generated".to_owned(),
        "MIME-Version: 1.0".to_owned(),
        "Content-Type: text/plain; charset=utf-8".to_owned(),
        "Content-Transfer-Encoding: base64".to_owned(),
    ];
    // All mails of an incident, or else of a subject, refer to one root that never existed.
    let thread = match (&announcement.incident, &announcement.subject) {
        (Some(incident), _) => incident.clone(),
        (None, Subject::Test) => return headers,
        (None, subject) => subject.to_string(),
    };
    let root = hex::encode(&Sha256::digest(thread)[..12]);
    headers.push(format!("In-Reply-To: <{root}@{domain}>"));
    headers.push(format!("References: <{root}@{domain}>"));
    headers
}

/// A date as mail writes it.
fn date(moment: Timestamp) -> String {
    let moment = UNIX_EPOCH + Duration::from_millis(moment.as_millis());
    httpdate::fmt_http_date(moment).replace("GMT", "+0000")
}

/// The subject as encoded words, which leave no room for line breaks.
fn subject(title: &str) -> String {
    let title: String = title.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if title.is_ascii() && title.len() < 60 {
        return title;
    }
    let mut words = Vec::new();
    let mut rest = title.as_str();
    while !rest.is_empty() {
        let (word, next) = rest.split_at(rest.floor_char_boundary(39));
        words.push(format!("=?utf-8?B?{}?=", STANDARD.encode(word)));
        rest = next;
    }
    words.join("\r\n ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_cannot_inject_header_lines() {
        assert_eq!(subject("dev failed"), "dev failed");
        assert_eq!(subject("dev\r\nBcc: eve@example.com"), "dev  Bcc: eve@example.com");
        let long = subject(&"数".repeat(60));
        assert!(long.split("\r\n ").all(|word| word.len() <= 75 && word.starts_with("=?utf-8?B?")), "{long}");
    }
}
