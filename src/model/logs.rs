//! Which output of a container is asked for.

use serde::{Deserialize, Serialize};

use super::name::JobName;
use super::one_off::Hook;
use super::time::Timestamp;

/// Which part of a container's output is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Whether to continue with new output.
    pub follow: bool,
    /// Only the last lines; `None`: all.
    pub tail: Option<usize>,
    /// Only output that is not older.
    pub since: Option<Timestamp>,
    /// The end of the previous container's output.
    #[serde(default)]
    pub previous: bool,
    /// Only older output.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// Whether each line begins with the moment at which the engine got it, in RFC 3339 with nine digits of a second.
    #[serde(default)]
    pub timestamps: bool,
    /// The output of the last command of this kind, in place of the container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Hook>,
    /// The output of the last run of this job, in place of the container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobName>,
}

/// Returns the start of the last `lines` lines of `text`; a line break at the end ends a line.
pub fn last_lines(text: &[u8], lines: usize) -> usize {
    if lines == 0 {
        return text.len();
    }
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    breaks.map(|(place, _)| place + 1).nth(lines - 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        let cases: [(&str, usize, &str); 8] = [
            ("a\nb\nc\n", 1, "c\n"),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 1, "c"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("a\nb\n", 0, ""),
            ("", 3, ""),
            ("\n\n", 1, "\n"),
            ("a", 1, "a"),
        ];
        for (text, lines, expected) in cases {
            assert_eq!(&text[last_lines(text.as_bytes(), lines)..], expected, "{text:?} {lines}");
        }
    }
}
