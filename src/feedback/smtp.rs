//! A client for one SMTP transaction, always encrypted unless the server is on this host.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::time::timeout;

use super::lane::DeliveryRefusal;
use crate::model::container::Secret;

/// The deadline of a whole transaction.
const DEADLINE: Duration = Duration::from_secs(60);
/// The longest line of a reply, and the most lines.
const LONGEST_LINE: usize = 2048;
const MOST_LINES: usize = 100;

/// One mail and its way.
pub(super) struct MailEnvelope {
    /// `smtp://host:port` or `smtps://host:port`.
    pub(super) server: String,
    pub(super) login: Option<(String, Secret)>,
    pub(super) from: String,
    pub(super) to: Vec<String>,
    /// Headers and body, with CRLF.
    pub(super) data: String,
    pub(super) allow_private: bool,
}

/// Sends one mail. A mail is accepted for all receivers or for none.
pub(super) async fn send(envelope: MailEnvelope) -> Result<(), DeliveryRefusal> {
    let late = || DeliveryRefusal::passing(format!("{}: no answer within 60 s", envelope.server));
    match timeout(DEADLINE, transact(&envelope)).await {
        Ok(done) => done.map_err(|refusal| DeliveryRefusal {
            why: format!("{}: {}", envelope.server, refusal.why),
            ..refusal
        }),
        Err(_) => Err(late()),
    }
}

async fn transact(envelope: &MailEnvelope) -> Result<(), DeliveryRefusal> {
    let (scheme, authority) = envelope.server.split_once("://").unwrap_or(("smtp", &envelope.server));
    let is_implicit = scheme == "smtps";
    let (host, port) = split(authority, if is_implicit { 465 } else { 587 });
    let stream = super::http::dial(&host, port, envelope.allow_private).await?;
    if is_implicit {
        let stream = super::http::secure(&host, stream).await?;
        let mut session = SmtpSession::new(stream);
        session.greeting().await?;
        let features = session.hello().await?;
        return session.mail(envelope, &features).await;
    }
    let mut session = SmtpSession::new(stream);
    session.greeting().await?;
    let features = session.hello().await?;
    let offers = |feature: &str| features.iter().any(|line| line.eq_ignore_ascii_case(feature));
    if !offers("STARTTLS") {
        // Nobody else receives what this host sends to itself.
        if crate::tls::client::is_local(&host) && envelope.login.is_none() {
            return session.mail(envelope, &features).await;
        }
        return Err(DeliveryRefusal::denied(
            "the server offers no STARTTLS, and abide sends no mail unencrypted",
        ));
    }
    session.command("STARTTLS", 220).await?;
    // Bytes from before the handshake must not count as an answer after it.
    let stream = session.into_inner()?;
    let stream = super::http::secure(&host, stream).await?;
    let mut session = SmtpSession::new(stream);
    // Servers offer a login only after the handshake.
    let features = session.hello().await?;
    session.mail(envelope, &features).await
}

fn split(authority: &str, port: u16) -> (String, u16) {
    match authority.rsplit_once(':') {
        Some((host, text)) if !host.contains(':') || host.ends_with(']') => {
            (host.trim_matches(['[', ']']).to_owned(), text.parse().unwrap_or(port))
        }
        _ => (authority.trim_matches(['[', ']']).to_owned(), port),
    }
}

struct SmtpSession<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> SmtpSession<S> {
    fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    fn into_inner(self) -> Result<S, DeliveryRefusal> {
        if self.stream.buffer().is_empty() {
            return Ok(self.stream.into_inner());
        }
        Err(DeliveryRefusal::passing("the server talks before the handshake"))
    }

    async fn greeting(&mut self) -> Result<(), DeliveryRefusal> {
        self.reply(220).await.map(drop)
    }

    async fn hello(&mut self) -> Result<Vec<String>, DeliveryRefusal> {
        self.command("EHLO abide.invalid", 250).await
    }

    /// Proves the login in the way that the server offers: PLAIN, or else LOGIN, which old servers know alone.
    async fn login(
        &mut self,
        username: &str,
        password: &Secret,
        features: &[String],
    ) -> Result<(), DeliveryRefusal> {
        let offers =
            features.iter().find_map(|line| line.to_uppercase().strip_prefix("AUTH").map(str::to_owned));
        let Some(offers) = offers else {
            return Err(DeliveryRefusal::denied(
                "the server offers no login: remove `username`, or name another port",
            ));
        };
        let knows = |way: &str| offers.split([' ', '=']).any(|offered| offered == way);
        let answer = if knows("PLAIN") {
            let plain = STANDARD.encode(format!("\0{username}\0{}", password.expose()));
            self.command(&format!("AUTH PLAIN {plain}"), 235).await
        } else if knows("LOGIN") {
            self.command("AUTH LOGIN", 334).await?;
            self.command(&STANDARD.encode(username), 334).await?;
            self.command(&STANDARD.encode(password.expose()), 235).await
        } else {
            let ways = offers.trim().to_owned();
            return Err(DeliveryRefusal::denied(format!(
                "the server offers the login only by {ways}; abide knows PLAIN and LOGIN"
            )));
        };
        answer.map(drop).map_err(|refusal| match refusal.then {
            super::lane::Then::GiveUp => {
                DeliveryRefusal::denied(format!("the login is rejected: {}", refusal.why))
            }
            _ => refusal,
        })
    }

    async fn mail(&mut self, envelope: &MailEnvelope, features: &[String]) -> Result<(), DeliveryRefusal> {
        if let Some((username, password)) = &envelope.login {
            self.login(username, password, features).await?;
        }
        self.command(&format!("MAIL FROM:<{}>", envelope.from), 250).await?;
        for to in &envelope.to {
            self.command(&format!("RCPT TO:<{to}>"), 250).await?;
        }
        self.command("DATA", 354).await?;
        // A line that is one dot would end the mail.
        let data = envelope.data.replace("\r\n.", "\r\n..");
        self.write(&format!("{data}.\r\n")).await?;
        self.reply(250).await?;
        // The mail is accepted; the goodbye is a courtesy.
        let _ = self.write("QUIT\r\n").await;
        Ok(())
    }

    async fn command(&mut self, command: &str, expected: u16) -> Result<Vec<String>, DeliveryRefusal> {
        self.write(&format!("{command}\r\n")).await?;
        self.reply(expected).await
    }

    async fn write(&mut self, text: &str) -> Result<(), DeliveryRefusal> {
        let failed = |error: std::io::Error| DeliveryRefusal::passing(error.to_string());
        self.stream.write_all(text.as_bytes()).await.map_err(failed)?;
        self.stream.flush().await.map_err(failed)
    }

    /// The lines of a reply without their codes.
    async fn reply(&mut self, expected: u16) -> Result<Vec<String>, DeliveryRefusal> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            let (Some(code), Some(rest)) =
                (line.get(..3).and_then(|code| code.parse::<u16>().ok()), line.get(3..))
            else {
                return Err(DeliveryRefusal::passing("the server does not speak SMTP"));
            };
            lines.push(rest.get(1..).unwrap_or_default().trim().to_owned());
            if rest.starts_with('-') && lines.len() < MOST_LINES {
                continue;
            }
            let text: String = lines.join(" ").chars().filter(|c| !c.is_control()).take(200).collect();
            return match code {
                _ if code == expected || (expected == 250 && code == 251) => Ok(lines),
                400..500 => Err(DeliveryRefusal::passing(format!("{code} {text}"))),
                500..600 => Err(DeliveryRefusal::permanent(format!("{code} {text}"))),
                _ => Err(DeliveryRefusal::passing(format!("unexpected answer {code} {text}"))),
            };
        }
    }

    async fn line(&mut self) -> Result<String, DeliveryRefusal> {
        let mut line = Vec::new();
        loop {
            let read =
                self.stream.fill_buf().await.map_err(|error| DeliveryRefusal::passing(error.to_string()))?;
            if read.is_empty() {
                return Err(DeliveryRefusal::passing("the server closed the connection"));
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(read.len(), |end| end + 1);
            line.extend_from_slice(&read[..taken]);
            self.stream.consume(taken);
            if line.len() > LONGEST_LINE {
                return Err(DeliveryRefusal::passing("the server's reply is too long"));
            }
            if end.is_some() {
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        }
    }
}
