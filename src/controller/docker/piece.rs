//! One piece of a container's output, with the time at which the engine received it.

use std::time::UNIX_EPOCH;

use bytes::Bytes;

use crate::model::time::Timestamp;

/// A time of the engine's clock, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogStamp(pub(crate) u64);

impl LogStamp {
    fn parse(text: &[u8]) -> Option<Self> {
        let time = humantime::parse_rfc3339(std::str::from_utf8(text).ok()?).ok()?;
        u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok().map(Self)
    }

    /// The same time in milliseconds, rounded down.
    pub(crate) fn to_millis(self) -> Timestamp {
        Timestamp::from_millis(self.0 / 1_000_000)
    }
}

/// A line, or a part of a long line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogPiece {
    /// Everything that the engine sent.
    stamped: Bytes,
    /// The time, and the length of its text with the space after it.
    stamp: Option<(LogStamp, usize)>,
    /// Whether the piece before it is the beginning of its line.
    is_continued: bool,
}

impl LogPiece {
    /// Splits a piece that begins with its time. Output without a time stays whole.
    pub(crate) fn new(stamped: Bytes) -> Self {
        let space = stamped.iter().position(|byte| *byte == b' ');
        let stamp = space.and_then(|space| Some((LogStamp::parse(&stamped[..space])?, space + 1)));
        Self { stamped, stamp, is_continued: false }
    }

    /// Splits a line of a terminal. The engine divides a long line into parts with the same time, and writes
    /// that before each of them.
    pub(crate) fn of_terminal(line: Bytes) -> Self {
        let piece = Self::new(line);
        let Some((_, length)) = piece.stamp else { return piece };
        let (stamp, mut rest) = piece.stamped.split_at(length);
        let mut joined = stamp.to_vec();
        while let Some(at) = rest.windows(length).position(|part| part == stamp) {
            joined.extend_from_slice(&rest[..at]);
            rest = &rest[at + length..];
        }
        joined.extend_from_slice(rest);
        Self { stamped: Bytes::from(joined), ..piece }
    }

    /// The same piece as the rest of a line that an earlier piece began.
    pub(crate) fn continued(self) -> Self {
        Self { is_continued: true, ..self }
    }

    /// When the engine received it; `None`: the engine sent no time.
    pub(crate) fn stamp(&self) -> Option<LogStamp> {
        self.stamp.map(|(stamp, _)| stamp)
    }

    /// Whether the engine received it before `moment`.
    pub(crate) fn is_before(&self, moment: Timestamp) -> bool {
        self.stamp().is_some_and(|stamp| stamp.to_millis() < moment)
    }

    /// The output; if `with_stamp`, each line begins with its time.
    pub(crate) fn shown(&self, with_stamp: bool) -> Bytes {
        let is_stamped = with_stamp && !self.is_continued;
        let start = self.stamp.filter(|_| !is_stamped).map_or(0, |(_, length)| length);
        self.stamped.slice(start..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: &str = "2026-11-28T10:00:00.000000007Z ";

    fn piece(text: &str) -> LogPiece {
        LogPiece::new(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn the_time_is_separated_from_the_output() {
        let line = piece(&format!("{STAMP}GET / 200\n"));
        assert_eq!(line.shown(false), "GET / 200\n");
        assert_eq!(line.shown(true), format!("{STAMP}GET / 200\n"));
        assert_eq!(line.clone().continued().shown(true), "GET / 200\n");
        let next = piece("2026-11-28T10:00:00.000000008Z \n");
        assert!(next.stamp() > line.stamp() && next.shown(false) == "\n");
        let second = Timestamp::parse("2026-11-28T10:00:00Z").unwrap();
        let later = Timestamp::from_millis(second.as_millis() + 1);
        assert!(line.is_before(later) && !line.is_before(second));
    }

    #[test]
    fn output_without_a_timestamp_is_unchanged() {
        for text in
            ["", "\n", " x\n", "word other\n", "2026-11-28T10:00:00.000000007Z", "2026-13-28T10:00:00Z x"]
        {
            let piece = piece(text);
            assert_eq!((piece.stamp(), piece.shown(false)), (None, Bytes::copy_from_slice(text.as_bytes())));
        }
    }

    #[test]
    fn a_long_tty_line_has_one_timestamp() {
        let long = format!("{STAMP}{}{STAMP}end\n", "x".repeat(16_384));
        let piece = LogPiece::of_terminal(Bytes::from(long));
        assert_eq!(piece.shown(false), format!("{}end\n", "x".repeat(16_384)));
        assert!(piece.shown(true).starts_with(STAMP.as_bytes()));
    }
}
