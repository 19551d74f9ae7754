//! The writes that the backup file does not have yet, in their order.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::backup;
use super::store::BatchLine;

/// The memory for lines, in bytes. If more gather, for example because the disk accepts no backup file, the
/// file is written again as a whole.
const LONGEST: usize = 4 << 20;

/// Collects lines for the backup file. Writers add to it while they hold the gate.
#[derive(Default)]
pub(super) struct Journal(Mutex<JournalState>);

/// The documents that the backup file lacks.
#[derive(Default)]
pub(super) struct JournalState {
    /// Lines to append.
    pub(super) lines: Vec<u8>,
    /// The lines do not suffice: the whole file must be written.
    pub(super) is_incomplete: bool,
}

impl Journal {
    /// Adds the write with this number.
    pub(super) fn add(&self, serial: u64, written: &[BatchLine]) {
        let line = backup::line(serial, written);
        let mut state = self.state();
        match line {
            Some(line) if state.lines.len() + line.len() <= LONGEST => state.lines.extend_from_slice(&line),
            _ => state.begin_again(),
        }
    }

    /// Lets the whole file be written next.
    pub(super) fn begin_again(&self) {
        self.state().begin_again();
    }

    /// Takes everything so far.
    pub(super) fn take(&self) -> JournalState {
        std::mem::take(&mut *self.state())
    }

    fn state(&self) -> MutexGuard<'_, JournalState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalState {
    fn begin_again(&mut self) {
        *self = Self { lines: Vec::new(), is_incomplete: true };
    }
}
