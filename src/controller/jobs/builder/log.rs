//! A build's output, with one file for each build.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use tracing::warn;

use super::activity::OutputActivity;
use crate::controller::clock::now;
use crate::durable;
use crate::model::build::heading_of_step;
use crate::model::container::Secret;
use crate::model::redact::Redactor;

/// The number of logs to keep, in addition to the needed ones.
const KEPT: usize = 50;
/// The limit for one build's output, in bytes.
const LONGEST: u64 = 16 << 20;
/// Output without a line break is cut into lines of this many bytes.
const LONGEST_LINE: usize = 64 * 1024;
/// The number of lines in the message about a failed build.
const TAIL_LINES: usize = 8;
/// The limit of characters for such a line.
const TAIL_LINE: usize = 200;

/// The log of one build. A failure to write the log never fails the build.
pub(super) struct BuildLog {
    file: File,
    written: u64,
    hidden: Redactor,
    tail: VecDeque<String>,
    /// Output since the last line break. Secrets and lines can only be recognized in a whole line.
    partial: Vec<u8>,
    /// The time of the last output.
    pub(super) activity: OutputActivity,
}

impl BuildLog {
    /// Creates the log of build `number`, and removes the oldest logs except for the builds in `needed`. A
    /// build that could not be attempted has a log too, and may be retried for weeks.
    ///
    /// # Errors
    /// Returns an error if the file cannot be created.
    pub(super) fn create(logs: &Path, number: u64, needed: &BTreeSet<u64>) -> std::io::Result<Self> {
        std::fs::create_dir_all(logs)?;
        let file = durable::create(&logs.join(format!("{number}.log")), durable::PRIVATE)?;
        if let Err(error) = remove_old_logs(logs, |log| log == number || needed.contains(&log)) {
            warn!(%error, "failed to remove logs of earlier builds");
        }
        let (hidden, tail, partial) = (Redactor::default(), VecDeque::new(), Vec::new());
        Ok(Self { file, written: 0, hidden, tail, partial, activity: OutputActivity::default() })
    }

    /// Hides this secret in all later output.
    pub(super) fn hide(&mut self, secret: &Secret) {
        self.hidden.hide(secret);
    }

    /// Returns `text` with all secrets hidden.
    pub(super) fn redacted(&self, text: &str) -> String {
        self.hidden.redacted(text)
    }

    /// Writes one line from abide itself.
    pub(super) fn line(&mut self, text: &str) {
        self.end_partial();
        let text = self.redacted(text);
        self.write(&text);
    }

    /// Writes the heading of a new step. The output of earlier steps no longer explains a failure.
    pub(super) fn heading(&mut self, text: &str) {
        self.line(&heading_of_step(now(), text));
        self.tail.clear();
    }

    /// Writes output as it arrives. Lines that begin with two dashes are from a builder, and do not count as
    /// last lines.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.activity.touch();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = piece.strip_suffix(b"\n");
            self.partial.extend_from_slice(line.unwrap_or(piece));
            if line.is_some() || self.partial.len() > LONGEST_LINE {
                self.end_partial();
            }
        }
    }

    /// Returns the last lines, for a message.
    pub(super) fn tail(&mut self) -> String {
        self.end_partial();
        self.tail.iter().cloned().collect::<Vec<_>>().join(" | ")
    }

    fn end_partial(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        let line = std::mem::take(&mut self.partial);
        let text = self.redacted(&String::from_utf8_lossy(&line));
        self.keep_for_tail(text.trim());
        self.write(&text);
    }

    fn keep_for_tail(&mut self, text: &str) {
        if text.is_empty() || text.starts_with("--") {
            return;
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        let shown = text.chars().take(TAIL_LINE);
        self.tail.push_back(shown.map(|c| if c.is_control() { ' ' } else { c }).collect());
    }

    fn write(&mut self, text: &str) {
        if self.written > LONGEST {
            return;
        }
        self.written += text.len() as u64 + 1;
        let end = if self.written > LONGEST { "\n[the rest of the log is not stored]\n" } else { "\n" };
        let _ = self.file.write_all(text.as_bytes()).and_then(|()| self.file.write_all(end.as_bytes()));
    }
}

fn remove_old_logs(logs: &Path, is_needed: impl Fn(u64) -> bool) -> std::io::Result<()> {
    for number in numbers(logs)?.into_iter().rev().skip(KEPT).filter(|number| !is_needed(*number)) {
        std::fs::remove_file(logs.join(format!("{number}.log")))?;
    }
    Ok(())
}

/// Returns the numbers of the builds that have a log.
fn numbers(logs: &Path) -> std::io::Result<BTreeSet<u64>> {
    let number = |file: std::fs::DirEntry| {
        let name = file.file_name();
        name.to_str()?.strip_suffix(".log")?.parse::<u64>().ok()
    };
    std::fs::read_dir(logs)?.filter_map(|file| file.map(number).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(dir: &tempfile::TempDir, number: u64) -> BuildLog {
        BuildLog::create(dir.path(), number, &BTreeSet::from([3])).unwrap()
    }

    #[test]
    fn only_old_and_unneeded_build_logs_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["notes.log", "7.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        for number in 1..=60 {
            create(&dir, number);
        }
        let expected: BTreeSet<u64> = [3].into_iter().chain(11..=60).collect();
        assert_eq!(numbers(dir.path()).unwrap(), expected);
        create(&dir, 7);
        assert!(numbers(dir.path()).unwrap().contains(&7), "a record that was made anew counts from one");
        assert!(["notes.log", "7.txt"].iter().all(|name| dir.path().join(name).exists()));
    }

    #[test]
    fn a_secret_split_across_output_chunks_is_redacted() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = create(&dir, 7);
        log.hide(&Secret::new("hunter2hunter2"));
        log.bytes(b"token is hunter2");
        log.bytes(b"hunter2, keep it\nnext\n");
        log.line("end");
        let text = std::fs::read_to_string(dir.path().join("7.log")).unwrap();
        assert_eq!(text, "token is [redacted], keep it\nnext\nend\n");
    }

    #[test]
    fn the_tail_comes_from_the_failed_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = create(&dir, 7);
        log.heading("step 1");
        log.bytes(b"all is well\n");
        log.heading("step 2");
        log.line("of our own");
        log.bytes(b" ---> Running in 0123\n--> [2/2] RUN make\nno rule to make target\n");
        assert_eq!(log.tail(), "no rule to make target");
    }

    #[test]
    fn every_line_of_a_multiline_secret_is_redacted() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = create(&dir, 7);
        log.hide(&Secret::new("-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\nab\n-----END KEY-----"));
        log.bytes(b"cat: -----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\nabout\n");
        assert_eq!(log.tail(), "cat: [redacted] | [redacted] | about");
        assert_eq!(log.redacted("key MIIEpAIBAAKCAQEA"), "key [redacted]");
    }

    #[test]
    fn endless_build_output_is_truncated_but_its_end_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = create(&dir, 1);
        let line = [b'x'; 1 << 16];
        for _ in 0..300 {
            log.bytes(&line);
            log.bytes(b"\n");
        }
        log.bytes(b"the reason\n");
        assert!(log.tail().ends_with("the reason"));
        assert!(std::fs::metadata(dir.path().join("1.log")).unwrap().len() < (LONGEST + (1 << 17)));
    }
}
