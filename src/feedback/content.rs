//! The content of a message as plain text, before a channel escapes and formats it.

use crate::model::desired::{Image, Origin};
use crate::model::outbox::{Announcement, Message, Mood, ReportedVersion, Subject};

/// The longest reason, in bytes: the end of a program's output is its most useful part, and a message is not a log.
const LONGEST_REASON: usize = 1500;

/// The content of a message. Every text in it may come from a stranger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageContent {
    pub(super) title: String,
    pub(super) mood: Mood,
    /// The reason as a sentence; may have several lines.
    pub(super) reason: String,
    pub(super) facts: Vec<(&'static str, String)>,
    /// The lines of a group.
    pub(super) lines: Vec<String>,
    /// The page about it.
    pub(super) link: Option<String>,
}

impl MessageContent {
    /// The content of `message`. `page` is the public URL of the pages.
    pub(super) fn of(message: &Message, page: Option<&str>) -> Self {
        let announcement = &message.announcement;
        let link = page.map(|page| {
            let page = page.trim_end_matches('/');
            match announcement.subject.environment() {
                Some(environment) => format!("{page}/environments/{environment}"),
                None => format!("{page}/"),
            }
        });
        let mood = announcement.mood();
        if message.grouped.is_empty() {
            let facts = facts(announcement);
            let reason = cut(&announcement.message, LONGEST_REASON);
            return Self { title: announcement.title(), mood, reason, facts, lines: Vec::new(), link };
        }
        let mut lines: Vec<String> =
            message.grouped.iter().map(|grouped| format!("{} {}", grouped.at, grouped.line)).collect();
        if message.more > 0 {
            lines.insert(0, format!("{} earlier messages are not listed", message.more));
        }
        let reason = "these messages came at once, or could not be delivered in time".to_owned();
        Self { title: message.title(), mood, reason, facts: Vec::new(), lines, link }
    }

    /// Everything as plain text of at most `longest` bytes. Each part goes through `escape`, which may make it
    /// longer, after it was cut.
    pub(super) fn text(&self, longest: usize, escape: impl Fn(&str) -> String) -> String {
        let mut text = String::new();
        let mut push = |line: &str| {
            // Cut before escaping, so that no escaped character is cut in two.
            let room = longest.saturating_sub(text.len() + 1);
            let mut line = cut(line, room);
            let mut escaped = escape(&line);
            while escaped.len() > room {
                line = cut(&line, line.len() * 3 / 4);
                if line.is_empty() {
                    return;
                }
                escaped = escape(&line);
            }
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&escaped);
        };
        if !self.reason.is_empty() {
            push(&self.reason);
        }
        for (label, value) in &self.facts {
            push(&format!("{label}: {value}"));
        }
        self.lines.iter().for_each(|line| push(line));
        text
    }
}

fn facts(announcement: &Announcement) -> Vec<(&'static str, String)> {
    let Announcement { to, from, origin, by, .. } = announcement;
    if announcement.subject.environment().is_none() && !matches!(announcement.subject, Subject::Test) {
        return Vec::new();
    }
    let is_known = to.generation.0 > 0;
    let facts = [
        ("version", is_known.then(|| version(to))),
        ("instead of", from.as_ref().map(version)),
        ("origin", origin.map(Origin::as_str).map(str::to_owned)),
        ("by", by.clone()),
    ];
    facts.into_iter().filter_map(|(label, value)| Some((label, value?))).collect()
}

fn version(version: &ReportedVersion) -> String {
    let ReportedVersion { generation, revision, image } = version;
    let commit = revision.as_ref().map(|revision| format!(", commit {}", revision.short()));
    let image =
        image.as_ref().and_then(Image::shown_digest).map(|digest| format!(", image {}", digest.short()));
    format!("generation {generation}{}{}", commit.unwrap_or_default(), image.unwrap_or_default())
}

/// The beginning of `text`, at most `longest` bytes with the mark of a cut.
pub(super) fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let kept = text.floor_char_boundary(longest.saturating_sub('…'.len_utf8()));
    if longest < '…'.len_utf8() { String::new() } else { format!("{}…", &text[..kept]) }
}
