//! Channels: the request of each kind of service for a message, and what its answer means.

mod chat;
mod discord;
mod email;
mod escape;
mod matrix;
mod push;
mod slack;
mod teams;
mod telegram;
mod webhook;

use std::sync::Arc;

use futures::future::BoxFuture;

use super::call::{self, ServiceRequest, ServiceResponse};
use super::content::MessageContent;
use super::lane::{Deliver, DeliveryRefusal};
use crate::model::container::Secret;
use crate::model::outbox::Message;
use crate::model::spec::{Channel, ChannelSpec, SecretRef};
use crate::model::time::Timestamp;
use crate::secret;

/// How a channel is reached.
pub(super) fn deliver(spec: ChannelSpec, page: Option<String>) -> Arc<dyn Deliver> {
    Arc::new(ToChannel { spec, page })
}

struct ToChannel {
    spec: ChannelSpec,
    page: Option<String>,
}

/// The input of a request.
struct RequestInput<'a> {
    message: &'a Message,
    content: MessageContent,
    /// The secret; empty if the channel needs none.
    secret: Secret,
    /// The channel's name of the incident's first message.
    thread: Option<&'a str>,
    /// The time of the attempt.
    now: Timestamp,
    allow_private: bool,
}

/// The request of a message to `channel`.
fn request(channel: &Channel, draft: &RequestInput<'_>) -> Result<ServiceRequest, DeliveryRefusal> {
    match channel {
        Channel::Webhook { url, .. } => webhook::request(url, draft),
        Channel::Slack { channel, .. } => slack::request(channel.as_deref(), draft),
        Channel::Discord { .. } => Ok(discord::request(draft)),
        Channel::Mattermost { .. } => Ok(chat::mattermost(draft)),
        Channel::Teams { .. } => Ok(teams::request(draft)),
        Channel::Telegram { chat, .. } => Ok(telegram::request(chat, draft)),
        Channel::Ntfy { url, topic, .. } => Ok(push::ntfy(url, topic, draft)),
        Channel::Gotify { url, .. } => Ok(push::gotify(url, draft)),
        Channel::Matrix { url, room, .. } => Ok(matrix::request(url, room, draft)),
        Channel::Email { .. } => Err(DeliveryRefusal::permanent("e-mail is not sent by HTTP")),
    }
}

/// The channel's name of the message, from its answer.
fn judge(channel: &Channel, answer: &ServiceResponse) -> Result<Option<String>, DeliveryRefusal> {
    match channel {
        Channel::Slack { channel: Some(_), .. } => slack::judge_bot(answer),
        Channel::Slack { channel: None, .. } | Channel::Mattermost { .. } => slack::judge_hook(answer),
        Channel::Discord { .. } => discord::judge(answer),
        Channel::Telegram { .. } => telegram::judge(answer),
        Channel::Ntfy { .. } => push::judge_ntfy(answer),
        Channel::Matrix { .. } => matrix::judge(answer),
        Channel::Webhook { .. } | Channel::Teams { .. } | Channel::Gotify { .. } => {
            answer.accepted().map(|()| None)
        }
        Channel::Email { .. } => Ok(None),
    }
}

impl Deliver for ToChannel {
    fn message<'a>(
        &'a self,
        message: &'a Message,
        thread: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<String>, DeliveryRefusal>> {
        Box::pin(async move {
            let channel = &self.spec.channel;
            let secret = read(channel.secret().cloned()).await?;
            let draft = self.draft(message, secret, thread);
            if let Channel::Email { .. } = channel {
                return email::send(channel, &draft).await.map(|()| None);
            }
            let answer = call::send(request(channel, &draft)?).await?;
            judge(channel, &answer)
        })
    }

    fn project<'a>(
        &'a self,
        _: &'a crate::model::outbox::Projection,
    ) -> BoxFuture<'a, Result<super::lane::ProjectionStep, DeliveryRefusal>> {
        Box::pin(std::future::ready(Err(DeliveryRefusal::permanent("a channel shows no commits"))))
    }
}

impl ToChannel {
    fn draft<'a>(
        &'a self,
        message: &'a Message,
        secret: Secret,
        thread: Option<&'a str>,
    ) -> RequestInput<'a> {
        RequestInput {
            message,
            content: MessageContent::of(message, self.page.as_deref()),
            secret,
            thread,
            now: Timestamp::from(std::time::SystemTime::now()),
            allow_private: self.spec.allow_private,
        }
    }
}

/// Reads a secret again for each message, so that an exchanged file needs no restart.
pub(super) async fn read(named: Option<SecretRef>) -> Result<Secret, DeliveryRefusal> {
    let Some(named) = named else { return Ok(Secret::default()) };
    let read = tokio::task::spawn_blocking(move || secret::read(&named)).await;
    let read = read.map_err(|error| DeliveryRefusal::passing(error.to_string()))?;
    let text = read.map_err(|error| DeliveryRefusal::passing(error.to_string()))?;
    Ok(Secret::new(text.expose().trim()))
}

/// The request of a message as text without secrets.
pub(super) fn print(
    spec: &ChannelSpec,
    page: Option<String>,
    message: &Message,
) -> Result<String, DeliveryRefusal> {
    let to = ToChannel { spec: spec.clone(), page };
    let hidden = match &spec.channel {
        // A hook's URL is its secret.
        channel if channel.has_secret_url() => "https://SECRET",
        Channel::Webhook { .. } => "whsec_U0VDUkVUU0VDUkVUU0VDUkVUU0VDUkVU",
        _ => "SECRET",
    };
    let draft = to.draft(message, Secret::new(hidden), None);
    match &spec.channel {
        Channel::Email { .. } => email::print(&spec.channel, &draft),
        channel => request(channel, &draft).map(|call| call.print()),
    }
}

#[cfg(test)]
mod tests;
