//! Groups messages: a flood, and stale messages after a long outage, become one.

use std::time::Duration;

use super::{Announcement, DeliveryAttempts, Grouped, Message, News, Subject};
use crate::model::time::Timestamp;

/// This many due messages of a channel are a flood.
pub const FLOOD: usize = 5;
/// The time without delivery after which a message is stale.
pub const STALE: Duration = Duration::from_secs(60 * 60);
/// Lines that a group lists; further messages are only counted.
pub const LINES: usize = 20;
/// The longest line of a group, in bytes.
const LONGEST_LINE: usize = 200;

/// The messages among `due` that are to become one; empty if each is sent by itself. `due` is in order.
pub fn to_group(due: &[Message], now: Timestamp) -> Vec<&Message> {
    let stale: Vec<&Message> =
        due.iter().filter(|message| now.since(message.announcement.at) > STALE).collect();
    if due.len() >= FLOOD {
        due.iter().collect()
    } else if stale.len() > 1 {
        stale
    } else {
        Vec::new()
    }
}

/// One message in place of `messages`, with the id `id`. It takes the place of the last of them, because those
/// before it would otherwise overtake messages that are not due yet.
pub fn group(messages: &[&Message], id: String, now: Timestamp) -> Option<Message> {
    let last = messages.iter().max_by_key(|message| message.sequence)?;
    let mut grouped: Vec<Grouped> = messages.iter().flat_map(|message| lines(message)).collect();
    let listed_before: u32 = messages.iter().map(|message| message.more).sum();
    let surplus = grouped.len().saturating_sub(LINES);
    // The newest lines stay.
    grouped.drain(..surplus);
    let more = listed_before.saturating_add(u32::try_from(surplus).unwrap_or(u32::MAX));
    let count = grouped.len() + usize::try_from(more).unwrap_or_default();
    let is_bad = messages.iter().any(|message| message.announcement.mood() == super::Mood::Bad);
    let news = if is_bad { News::Failed } else { News::Recovered };
    let at = messages.iter().map(|message| message.announcement.at).max().unwrap_or(now);
    let announcement = Announcement::new(news, Subject::Several, format!("{count} messages"), at);
    let sequence = last.sequence;
    let asked = messages.iter().any(|message| message.attempts.asked);
    Some(Message {
        id,
        sequence,
        target: last.target.clone(),
        announcement,
        grouped,
        more,
        attempts: DeliveryAttempts { asked, ..DeliveryAttempts::from(now) },
    })
}

fn lines(message: &Message) -> Vec<Grouped> {
    if !message.grouped.is_empty() {
        return message.grouped.clone();
    }
    let Announcement { at, message: reason, .. } = &message.announcement;
    let reason = reason.lines().next().unwrap_or_default();
    let mut line = message.announcement.title();
    if !reason.is_empty() {
        line.push_str(": ");
        line.push_str(reason);
    }
    line.truncate(line.floor_char_boundary(LONGEST_LINE));
    vec![Grouped { id: message.id.clone(), at: *at, line }]
}
