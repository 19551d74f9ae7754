//! The place in a container's output up to which a follower has received it. Following starts again after
//! every end of a stream: a restart, a cut connection, an engine that was restarted.

use crate::controller::docker::piece::{LogPiece, LogStamp};
use crate::model::time::Timestamp;

/// The last delivered piece. A file of the engine can be out of order: two streams race, or the clock was set
/// back. So the piece is searched for; a time alone decides only if the piece is no longer in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LogPosition {
    last: Option<Last>,
    /// The pieces with the time of the last one that were read again; `None`: the place was found.
    searched: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    stamp: LogStamp,
    /// Successive pieces with this time. The parts of a long line have the same time.
    pieces: usize,
    /// The newest time that was delivered.
    newest: LogStamp,
}

impl LogPosition {
    /// The end of output whose last piece is `piece`. All pieces with its time come before that end.
    pub(super) fn after(piece: Option<&LogPiece>) -> Self {
        let stamp = piece.and_then(LogPiece::stamp);
        let last = stamp.map(|stamp| Last { stamp, pieces: usize::MAX, newest: stamp });
        Self { last, searched: None }
    }

    /// Returns the same position for a stream that begins again, and the time from which output is needed.
    /// `wall` is the time of the clock now: if that was set back, newer output has an earlier time.
    pub(super) fn resume(self, wall: Timestamp) -> (Self, Option<Timestamp>) {
        let since = self.last.map(|last| last.stamp.to_millis()).filter(|last| *last <= wall);
        (Self { searched: self.last.map(|_| 0), ..self }, since)
    }

    /// Whether `piece` comes after this position. If so, the position moves behind it.
    pub(super) fn admits(&mut self, piece: &LogPiece) -> bool {
        let Some(stamp) = piece.stamp() else { return true };
        if self.is_delivered(stamp) {
            return false;
        }
        self.searched = None;
        let pieces = self.last.filter(|last| last.stamp == stamp).map_or(0, |last| last.pieces);
        let newest = self.last.map_or(stamp, |last| last.newest.max(stamp));
        self.last = Some(Last { stamp, pieces: pieces.saturating_add(1), newest });
        true
    }

    fn is_delivered(&mut self, stamp: LogStamp) -> bool {
        let (Some(last), Some(found)) = (self.last, &mut self.searched) else { return false };
        if stamp == last.stamp {
            *found += 1;
            return *found <= last.pieces;
        }
        *found == 0 && stamp <= last.newest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: u64 = 1_795_449_600_000_000_000;
    const LATER: Timestamp = Timestamp::from_millis(2_000_000_000_000);

    fn pieces(stamps: &[u64]) -> Vec<LogPiece> {
        let line = |(number, stamp): (usize, &u64)| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(NOON + stamp);
            LogPiece::new(format!("{} line {number}\n", humantime::format_rfc3339_nanos(time)).into())
        };
        stamps.iter().enumerate().map(line).collect()
    }

    fn delivered<'a>(position: &mut LogPosition, file: &'a [LogPiece]) -> Vec<&'a LogPiece> {
        file.iter().filter(|piece| position.admits(piece)).collect()
    }

    #[test]
    fn output_before_the_start_position_is_not_repeated() {
        let file = pieces(&[1, 2, 2, 3]);
        let (mut position, since) = LogPosition::after(file[..3].last()).resume(LATER);
        assert_eq!(delivered(&mut position, &file), [&file[3]]);
        assert_eq!(since, Some(Timestamp::from_millis(NOON / 1_000_000)));
        let (mut nothing, since) = LogPosition::after(None).resume(LATER);
        assert_eq!((delivered(&mut nothing, &file).len(), since), (4, None));
    }

    #[test]
    fn output_is_delivered_after_the_clock_is_set_back() {
        let file = pieces(&[500, 600, 600, 10, 20]);
        let mut position = LogPosition::default();
        delivered(&mut position, &file[..3]);
        let (mut position, since) = position.resume(Timestamp::from_millis(NOON / 1_000_000 - 1));
        assert_eq!((delivered(&mut position, &file).len(), since), (2, None));
    }

    #[test]
    fn a_rotated_log_continues_with_newer_output() {
        let mut position = LogPosition::default();
        delivered(&mut position, &pieces(&[1, 5, 3]));
        let (mut position, _) = position.resume(LATER);
        assert_eq!(delivered(&mut position, &pieces(&[4, 6, 2])).len(), 2);
    }

    proptest! {
        #[test]
        fn each_log_piece_is_delivered_once_across_reconnects(
            mut stamps in prop::collection::vec(0_u64..6, 0..40),
            is_disordered in any::<bool>(),
            ends in prop::collection::vec(0_usize..40, 0..6),
        ) {
            if !is_disordered {
                stamps.sort_unstable();
            } else {
                // Out of order, but complete: neighbours changed places.
                stamps = (0..stamps.len() as u64).map(|at| at ^ 1).collect();
            }
            let file = pieces(&stamps);
            let (mut position, mut seen) = (LogPosition::default(), Vec::new());
            let mut ends = ends;
            ends.sort_unstable();
            for end in ends.into_iter().chain([file.len()]) {
                seen.extend(delivered(&mut position, &file[..end.min(file.len())]));
                (position, _) = position.resume(LATER);
            }
            prop_assert_eq!(seen, file.iter().collect::<Vec<_>>());
        }
    }
}
