//! The causes of containers' ends, from the engine's events: their own program, or a signal. An inspect does
//! not show that.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::cause::Witness;
use crate::model::time::Timestamp;

/// How long after a terminating signal the end of a container may still be due to it: the longest stop
/// timeout that users give a program.
const AFTER_SIGNAL: Duration = Duration::from_secs(300);
/// The same for signals that most programs survive, such as a reload.
const AFTER_OTHER_SIGNAL: Duration = Duration::from_secs(2);
/// SIGINT, SIGQUIT, SIGKILL and SIGTERM.
const ENDING: [u8; 4] = [2, 3, 9, 15];
/// How far apart an event and an inspect may put the same end.
const SAME_END: Duration = Duration::from_secs(5);
/// How long the event of an end may take to come.
const LATE: Duration = Duration::from_secs(20);

/// The known ends of containers.
#[derive(Debug, Default)]
pub(in crate::controller) struct ExitLog {
    /// The start of the period without missed events, by the clock of this host.
    since: Timestamp,
    /// The last signal that a container was sent, with its time, by container.
    signals: HashMap<String, (u8, Timestamp)>,
    /// The last end, and whether it was due to a signal, by container.
    ends: HashMap<String, (Timestamp, bool)>,
}

impl ExitLog {
    pub(in crate::controller) fn witness_from(&mut self, now: Timestamp) {
        self.since = now;
    }

    pub(in crate::controller) fn note_signal(&mut self, id: &str, signal: u8, at: Timestamp) {
        self.signals.insert(id.to_owned(), (signal, at));
    }

    pub(in crate::controller) fn note_end(&mut self, id: &str, at: Timestamp) {
        let is_due_to = |(signal, sent): (u8, Timestamp)| {
            let within = if ENDING.contains(&signal) { AFTER_SIGNAL } else { AFTER_OTHER_SIGNAL };
            at <= sent.after(within)
        };
        let by_signal = self.signals.remove(id).is_some_and(is_due_to);
        self.ends.insert(id.to_owned(), (at, by_signal));
    }

    pub(in crate::controller) fn forget(&mut self, id: &str) {
        self.signals.remove(id);
        self.ends.remove(id);
    }

    /// The known cause of a container's end at `at`.
    pub(in crate::controller) fn witness(&self, id: &str, at: Timestamp, now: Timestamp) -> Witness {
        let is_same = |end: &Timestamp| *end <= at.after(SAME_END) && at <= end.after(SAME_END);
        match self.ends.get(id).filter(|(end, _)| is_same(end)) {
            Some((_, true)) => Witness::AfterSignal,
            Some((_, false)) => Witness::ByItself,
            None if at < self.since => Witness::Unwatched,
            None if now < at.after(LATE) => Witness::NotYet,
            None => Witness::ByItself,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn ends() -> ExitLog {
        let mut ends = ExitLog::default();
        ends.witness_from(at(1000));
        ends
    }

    #[test]
    fn an_exit_is_external_only_after_a_terminating_signal() {
        let mut ends = ends();
        ends.note_signal("stopped", 15, at(1100));
        ends.note_end("stopped", at(1130));
        ends.note_signal("reloaded", 1, at(1100));
        ends.note_end("reloaded", at(1130));
        ends.note_end("crashed", at(1130));
        let witness = |id| ends.witness(id, at(1131), at(1131));
        assert_eq!(witness("stopped"), Witness::AfterSignal);
        assert_eq!(witness("reloaded"), Witness::ByItself);
        assert_eq!(witness("crashed"), Witness::ByItself);
    }

    #[test]
    fn one_signal_explains_only_one_exit() {
        let mut ends = ends();
        ends.note_signal("c", 9, at(1100));
        ends.note_end("c", at(1100));
        ends.note_end("c", at(1110));
        assert_eq!(ends.witness("c", at(1110), at(1110)), Witness::ByItself);
    }

    #[test]
    fn an_exit_not_yet_reported_by_the_engine_is_waited_for() {
        let ends = ends();
        assert_eq!(ends.witness("c", at(999), at(1001)), Witness::Unwatched);
        assert_eq!(ends.witness("c", at(1100), at(1101)), Witness::NotYet);
        assert_eq!(ends.witness("c", at(1100), at(1200)), Witness::ByItself);
    }
}
