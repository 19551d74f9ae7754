//! Text on a page: foreign text made visible and harmless, and times in words.

use std::fmt::{self, Write};

use askama::filters::{Escaper, Safe};

use crate::model::redact::is_deceptive;
use crate::model::time::Timestamp;

/// Escapes every expression of every template. Characters that would hide or reorder text are shown by their number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visible;

impl Escaper for Visible {
    fn write_escaped_str<W: Write>(&self, mut dest: W, text: &str) -> fmt::Result {
        let mut from = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| is_special(*c)) {
            dest.write_str(&text[from..at])?;
            match c {
                '&' => dest.write_str("&amp;")?,
                '<' => dest.write_str("&lt;")?,
                '>' => dest.write_str("&gt;")?,
                '"' => dest.write_str("&quot;")?,
                '\'' => dest.write_str("&#39;")?,
                c if !c.is_control() => write!(dest, "⟨U+{:04X}⟩", u32::from(c))?,
                _ => dest.write_char('\u{fffd}')?,
            }
            from = at + c.len_utf8();
        }
        dest.write_str(&text[from..])
    }
}

fn is_special(c: char) -> bool {
    matches!(c, '&' | '<' | '>' | '"' | '\'') || (is_deceptive(c) && !matches!(c, '\n' | '\t'))
}

/// Cuts foreign text after `longest` characters.
pub(super) fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
        None => text.to_owned(),
    }
}

/// A message as a sentence: with a capital letter and a full stop.
pub(super) fn sentence(message: &str) -> String {
    let message = message.trim();
    let mut letters = message.chars();
    let Some(first) = letters.next() else { return String::new() };
    let rest = letters.as_str();
    // A name of an environment stays as it is written.
    let is_word = rest.chars().take_while(|c| !c.is_whitespace()).all(|c| c.is_ascii_lowercase() || c == ',');
    let first = if is_word { first.to_ascii_uppercase() } else { first };
    let end = if message.ends_with(['.', '!', '?', '…', ':']) { "" } else { "." };
    format!("{first}{rest}{end}")
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Up to here a moment is shown by its age.
const AGE_UP_TO: u64 = 90 * MINUTE;

/// The time at which a page is rendered. Writes `<time>` elements, whose words the script keeps up to date.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageClock(pub(super) Timestamp);

impl PageClock {
    /// A moment in the past: `12 min ago`, then `03:02`, then `24 Nov 09:12`.
    pub(super) fn ago(&self, at: &Timestamp) -> Safe<String> {
        element(*at, "ago", &moment(self.0, *at))
    }

    /// A time that has passed since a moment: `12 min`.
    pub(super) fn span(&self, since: &Timestamp) -> Safe<String> {
        element(*since, "span", &length(self.0.since(*since).as_secs()))
    }

    /// A moment in the future: `in 3 min`.
    pub(super) fn ahead(&self, at: &Timestamp) -> Safe<String> {
        let left = at.since(self.0).as_secs();
        let words = if left == 0 { "now".to_owned() } else { format!("in {}", length(left)) };
        element(*at, "ahead", &words)
    }
}

fn element(at: Timestamp, kind: &str, words: &str) -> Safe<String> {
    let text = at.to_string();
    let (day, time) = (text.get(..10).unwrap_or_default(), text.get(11..19).unwrap_or_default());
    Safe(format!(
        "<time datetime=\"{day}T{time}Z\" title=\"{day} {time} UTC\" data-time=\"{kind}\">{words}</time>"
    ))
}

fn moment(now: Timestamp, at: Timestamp) -> String {
    let passed = now.since(at).as_secs();
    if passed < AGE_UP_TO {
        return if passed == 0 { "now".to_owned() } else { format!("{} ago", length(passed)) };
    }
    let (text, today) = (at.to_string(), now.to_string());
    let time = text.get(11..16).unwrap_or_default();
    if text.get(..10) == today.get(..10) {
        return time.to_owned();
    }
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let number = |range| text.get(range).and_then(|digits: &str| digits.parse::<usize>().ok());
    let month = number(5..7).and_then(|month| MONTHS.get(month.wrapping_sub(1))).copied().unwrap_or_default();
    let day = number(8..10).unwrap_or_default();
    if text.get(..4) == today.get(..4) {
        format!("{day} {month} {time}")
    } else {
        format!("{day} {month} {}", text.get(..4).unwrap_or_default())
    }
}

/// A duration in one unit: `45 s`, `12 min`, `13 h`, `4 d`. The script counts in the same way.
pub(super) fn length(seconds: u64) -> String {
    match seconds {
        0..90 => format!("{seconds} s"),
        90..AGE_UP_TO => format!("{} min", (seconds + MINUTE / 2) / MINUTE),
        AGE_UP_TO..129_600 => format!("{} h", (seconds + HOUR / 2) / HOUR),
        _ => format!("{} d", (seconds + DAY / 2) / DAY),
    }
}

/// The text of a page without the words of its times, which change while nothing else does.
pub(super) fn without_words_of_times(html: &str) -> String {
    let mut rest = html;
    let mut kept = String::with_capacity(html.len());
    while let Some(at) = rest.find("<time ") {
        let Some(end) = rest[at..].find('>').map(|end| at + end + 1) else { break };
        kept.push_str(&rest[..end]);
        rest = &rest[end..];
        rest = &rest[rest.find('<').unwrap_or(rest.len())..];
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> Safe<String> {
        let mut escaped = String::new();
        Visible.write_escaped_str(&mut escaped, text).unwrap();
        Safe(escaped)
    }

    #[test]
    fn untrusted_text_cannot_add_markup_or_reorder_a_line() {
        let hostile = "<script>alert(1)</script>\u{202e}gpj.exe\u{2066}\" onload='x' & \u{1b}[31m\r\u{9b}";
        let Safe(text) = escaped(hostile);
        assert_eq!(
            text,
            "&lt;script&gt;alert(1)&lt;/script&gt;⟨U+202E⟩gpj.exe⟨U+2066⟩&quot; onload=&#39;x&#39; &amp; \
             \u{fffd}[31m\u{fffd}\u{fffd}"
        );
        let Safe(plain) = escaped("修复头像 ä\nb\tc");
        assert_eq!(plain, "修复头像 ä\nb\tc");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(cut("修复头像", 2), "修复…");
        assert_eq!(cut("abc", 3), "abc");
    }

    #[test]
    fn a_time_is_shown_as_an_age_then_a_time_then_a_date() {
        let now = Timestamp::parse("2026-11-28T12:00:00Z").unwrap();
        for (at, expected) in [
            ("2026-11-28T12:00:00Z", "now"),
            ("2026-11-28T11:59:15Z", "45 s ago"),
            ("2026-11-28T11:48:00Z", "12 min ago"),
            ("2026-11-28T03:02:10Z", "03:02"),
            ("2026-11-24T09:12:44Z", "24 Nov 09:12"),
            ("2025-11-04T09:12:44Z", "4 Nov 2025"),
            ("2027-01-01T00:00:00Z", "now"),
        ] {
            assert_eq!(moment(now, Timestamp::parse(at).unwrap()), expected, "{at}");
        }
    }

    #[test]
    fn relative_times_do_not_count_as_a_page_change() {
        let (one, other) = (PageClock(Timestamp::from_millis(0)), PageClock(Timestamp::from_millis(60_000)));
        let at = Timestamp::from_millis(0);
        let page = |clock: PageClock, name: &str| format!("<p>{name} {} x</p>", clock.ago(&at).0);
        assert_ne!(page(one, "dev"), page(other, "dev"));
        assert_eq!(without_words_of_times(&page(one, "dev")), without_words_of_times(&page(other, "dev")));
        assert_ne!(without_words_of_times(&page(one, "dev")), without_words_of_times(&page(one, "test")));
    }
}
