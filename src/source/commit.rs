//! A commit object: author, time, and the first line of its message.

use crate::model::redact::is_deceptive;
use crate::model::time::Timestamp;

/// The longest displayed subject or name, in characters.
const LONGEST_SHOWN: usize = 200;

/// The displayed part of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) time: Timestamp,
    pub(super) author: String,
    pub(super) subject: String,
}

impl Summary {
    /// Parses a raw commit object. abide parses it itself because `git log` obeys settings of the user, such
    /// as one that runs gpg. Missing or malformed parts stay empty, because they are only for display.
    pub(super) fn parse(object: &[u8]) -> Self {
        let text = String::from_utf8_lossy(object);
        let (headers, message) = text.split_once("\n\n").unwrap_or((&text, ""));
        let mut summary = Self::default();
        for line in headers.lines() {
            match line.split_once(' ') {
                Some(("author", who)) => summary.author = shown(who.split('<').next().unwrap_or_default()),
                Some(("committer", who)) => summary.time = time_of(who),
                _ => {}
            }
        }
        let subject = message.lines().find(|line| !line.trim().is_empty());
        summary.subject = shown(subject.unwrap_or_default());
        summary
    }
}

/// Parses `Name <address> 1700000000 +0800`; a time before 1970 becomes 1970.
fn time_of(who: &str) -> Timestamp {
    let seconds =
        who.rsplit_once('>').and_then(|(_, time)| time.split_whitespace().next()?.parse::<u64>().ok());
    Timestamp::from_millis(seconds.unwrap_or_default().saturating_mul(1000))
}

/// One bounded line that cannot control a terminal, forge a log line or reverse the reading direction.
pub(super) fn shown(text: &str) -> String {
    let tame = |c: char| if is_deceptive(c) { '\u{fffd}' } else { c };
    text.trim().chars().take(LONGEST_SHOWN).map(tame).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_summary_has_author_time_and_first_line() {
        let object = b"tree x\nparent y\nauthor A B <a@b> 1 +0000\ncommitter C <c> 1700000000 +0800\n\
            gpgsig -----BEGIN\n author Forged <f> 1 +0000\n\nThe why\n\nauthor Z <z> 2 +0000\n";
        let summary = Summary::parse(object);
        assert_eq!(summary.author, "A B");
        assert_eq!(summary.subject, "The why");
        assert_eq!(summary.time, Timestamp::from_millis(1_700_000_000_000));
    }

    #[test]
    fn a_hostile_commit_message_becomes_one_short_harmless_line() {
        let long = "x".repeat(1_000_000);
        let object = format!("author \u{1b}]0;x\u{7} <a> 1 +0\ncommitter c\n\n\u{1b}[31mred\r\u{202e}{long}");
        let summary = Summary::parse(object.as_bytes());
        assert_eq!(summary.subject.chars().count(), 200);
        let all = format!("{}{}", summary.subject, summary.author);
        assert!(!all.contains(|c: char| c.is_control() || c == '\u{202e}'), "{all:?}");
        assert_eq!(summary.time, Timestamp::from_millis(0));
    }

    #[test]
    fn a_non_commit_object_has_an_empty_summary() {
        assert_eq!(Summary::parse(b"\xff\xfe\0"), Summary::default());
        assert_eq!(Summary::parse(b""), Summary::default());
    }
}
