//! Makes external text safe to print, and formats times and durations briefly.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::model::redact::is_deceptive;
use crate::model::time::Timestamp;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const MONTH: u64 = 30 * DAY;

/// `text` on one line, without characters that a terminal would interpret.
pub(crate) fn one_line(text: &str) -> String {
    let joined = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect::<Vec<_>>();
    joined.join(" ").chars().map(harmless).collect()
}

/// The lines of `text`, without characters that a terminal would interpret.
pub(crate) fn safe_lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|line| line.trim_end().chars().map(harmless).collect())
}

fn harmless(c: char) -> char {
    match c {
        '\t' => ' ',
        c if is_deceptive(c) => '\u{fffd}',
        c => c,
    }
}

/// Returns `text` in at most `room` columns; an ellipsis replaces the omitted part.
pub(crate) fn shorten(text: &str, room: usize) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(1);
    let fits = |letter: &char| match left.checked_sub(letter.width().unwrap_or(0)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    let kept: String = text.chars().take_while(fits).collect();
    format!("{}…", kept.trim_end())
}

/// Filters output that arrives in chunks: removes escape sequences and all other characters that a
/// terminal would interpret, and keeps the lines.
#[derive(Default)]
pub(crate) struct OutputFilter {
    escapes: anstream::adapter::StripBytes,
    /// The first bytes of a character that continues in the next chunk.
    begun: Vec<u8>,
}

impl OutputFilter {
    /// Returns the harmless part of the next chunk.
    pub(crate) fn filter(&mut self, piece: &[u8]) -> Vec<u8> {
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            let (text, end) = line.strip_suffix(b"\n").map_or((line, false), |text| (text, true));
            for part in self.escapes.strip_next(text) {
                self.begun.extend_from_slice(part);
            }
            if end {
                // A sequence that never ends would hide all output after it.
                self.escapes = anstream::adapter::StripBytes::new();
                self.begun.push(b'\n');
            }
        }
        let complete = match std::str::from_utf8(&self.begun) {
            // The chunk ends within a character; the next chunk has its remaining bytes.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.begun.len(),
        };
        let rest = self.begun.split_off(complete);
        let bytes = std::mem::replace(&mut self.begun, rest);
        let keep = |c: char| if c == '\n' || c == '\t' || !is_deceptive(c) { c } else { '\u{fffd}' };
        String::from_utf8_lossy(&bytes)
            .replace("\r\n", "\n")
            .chars()
            .map(keep)
            .collect::<String>()
            .into_bytes()
    }
}

/// `3m ago`, by the clock `now`.
pub(crate) fn ago(now: Timestamp, at: Timestamp) -> String {
    let passed = now.since(at).as_secs();
    if passed == 0 { "now".to_owned() } else { format!("{} ago", length(passed)) }
}

/// `in 27s`, by the clock `now`; an overdue time is due now.
pub(crate) fn ahead(now: Timestamp, at: Timestamp) -> String {
    let left = at.since(now).as_secs();
    if left == 0 { "now".to_owned() } else { format!("in {}", length(left)) }
}

/// A duration in at most two units.
fn length(seconds: u64) -> String {
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => format!("{}m", seconds / MINUTE),
        HOUR..DAY => format!("{}h {}m", seconds / HOUR, seconds % HOUR / MINUTE),
        DAY..MONTH => format!("{}d {}h", seconds / DAY, seconds % DAY / HOUR),
        MONTH.. => format!("{}d", seconds / DAY),
    }
}

/// `one environment`, `2 environments`.
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced() {
        let text = one_line("a\u{1b}[2Jb\u{9b}31m\rc\u{202e}d\te\u{7}");
        assert_eq!(text, "a\u{fffd}[2Jb\u{fffd}31m\u{fffd}c\u{fffd}d e\u{fffd}");
    }

    #[test]
    fn multiline_text_can_be_joined_or_kept_as_lines() {
        assert_eq!(one_line("failed:\n\n  exit 1  \r\nbye"), "failed:   exit 1 bye");
        assert_eq!(safe_lines("a \nb\u{1b}").collect::<Vec<_>>(), ["a", "b\u{fffd}"]);
    }

    #[test]
    fn text_that_fits_is_not_truncated() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("longer", 5), "long…");
        assert_eq!(shorten("four words in all", 6), "four…");
    }

    #[test]
    fn text_is_truncated_by_columns_not_by_characters() {
        assert_eq!(shorten("提交信息", 8), "提交信息");
        assert_eq!(shorten("提交信息", 7), "提交信…");
        assert_eq!(shorten("提交信息", 6), "提交…");
    }

    #[test]
    fn chunked_output_keeps_its_lines_and_loses_control_sequences() {
        let text = "红 \u{1b}[31mred\u{1b}[0m\r\n\u{1b}]0;title\u{7}\ta\u{9b}2Jb\u{7}\n".as_bytes();
        let complete = OutputFilter::default().filter(text);
        let mut filter = OutputFilter::default();
        let pieces: Vec<u8> = text.chunks(1).flat_map(|piece| filter.filter(piece)).collect();
        let shown = String::from_utf8(complete.clone()).unwrap();
        assert!(shown.starts_with("红 red\n\ta") && shown.ends_with('\n'), "{shown:?}");
        assert!(!shown.contains(|c| is_deceptive(c) && c != '\n' && c != '\t'), "{shown:?}");
        let same = |text: &[u8]| String::from_utf8_lossy(text).replace(['\r', '\u{fffd}'], "");
        assert_eq!(same(&pieces), same(&complete));
    }

    #[test]
    fn an_unterminated_escape_sequence_hides_only_its_line() {
        for begin in ["\x1b]0;title", "\x1bPdevice", "\x1b[", "\x1b_"] {
            let text = format!("before\n{begin} hidden\nafter\n");
            let shown = String::from_utf8(OutputFilter::default().filter(text.as_bytes())).unwrap();
            let lines: Vec<&str> = shown.lines().collect();
            assert_eq!((lines.len(), lines[0], lines[2]), (3, "before", "after"), "{shown:?}");
        }
    }

    #[test]
    fn relative_times_have_one_or_two_units() {
        let now = Timestamp::from_millis(100_000_000_000);
        let formatted = |seconds: u64| ago(now, Timestamp::from_millis(now.as_millis() - seconds * 1000));
        assert_eq!(formatted(0), "now");
        assert_eq!(formatted(59), "59s ago");
        assert_eq!(formatted(3 * MINUTE + 20), "3m ago");
        assert_eq!(formatted(2 * HOUR + 5 * MINUTE + 1), "2h 5m ago");
        assert_eq!(formatted(DAY + 3 * HOUR + 59 * MINUTE), "1d 3h ago");
        assert_eq!(formatted(70 * DAY + HOUR), "70d ago");
    }

    #[test]
    fn relative_times_tolerate_a_clock_set_back() {
        let now = Timestamp::from_millis(1_000);
        assert_eq!(ago(now, Timestamp::from_millis(90_000)), "now");
        assert_eq!(ahead(now, Timestamp::from_millis(500)), "now");
        assert_eq!(ahead(now, Timestamp::from_millis(28_000)), "in 27s");
    }
}
