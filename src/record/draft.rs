//! A pending write: it reads, decides, and collects lines that are then written in one batch.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use serde::Serialize;

use super::error::RecordError;
use super::outgoing;
use super::store::{BatchLine, BatchNumber, Counters, DocumentKind, RecordStore, encode};
use super::wakeup::Wakeup;
use crate::model::desired::Desired;
use crate::model::name::EnvironmentName;
use crate::model::outbox::OutboxRules;

/// The key of the number of the last write that the backup file holds too.
pub(super) const SERIAL: &[u8] = b"serial";

/// While a draft exists, nobody else can write.
pub(super) struct RecordDraft<'a> {
    store: &'a RecordStore,
    gate: MutexGuard<'a, Counters>,
    /// The counters' values after the lines are written.
    pub(super) counters: Counters,
    lines: Vec<BatchLine>,
    wakeups: Vec<Wakeup>,
    /// The rules of the outbox; `None`: nothing is derived.
    rules: Option<Arc<OutboxRules>>,
    /// Whether it restores what was written before, so that it does not count as a new write.
    is_repair: bool,
}

/// The result of a committed draft.
#[derive(Default)]
pub(super) struct Committed {
    /// The batch to flush.
    pub(super) batch: BatchNumber,
    pub(super) lines: Vec<BatchLine>,
    pub(super) wakeups: Vec<Wakeup>,
}

impl<'a> RecordDraft<'a> {
    pub(super) fn new(store: &'a RecordStore) -> Self {
        let gate = store.gate();
        let counters = *gate;
        Self { store, gate, counters, lines: Vec::new(), wakeups: Vec::new(), rules: None, is_repair: false }
    }

    /// A draft that restores what was written before: it gets no new number.
    pub(super) fn repairing(store: &'a RecordStore) -> Self {
        Self { is_repair: true, ..Self::new(store) }
    }

    /// The same draft, which also derives outgoing items by `rules`.
    pub(super) fn deriving(self, rules: Option<Arc<OutboxRules>>) -> Self {
        Self { rules, ..self }
    }

    /// Derives no outgoing items from this draft.
    pub(super) fn derive_nothing(&mut self) {
        self.rules = None;
    }

    /// The lines so far.
    pub(super) fn lines(&self) -> &[BatchLine] {
        &self.lines
    }

    /// The length of the values so far, in bytes.
    pub(super) fn length(&self) -> usize {
        self.lines.iter().filter_map(|line| line.value.as_ref()).map(Vec::len).sum()
    }

    /// The value of `key` once the draft is written.
    pub(super) fn pending(&self, kind: DocumentKind, key: &[u8]) -> Result<Option<Vec<u8>>, RecordError> {
        let drafted = self.lines.iter().rev().find(|line| line.kind == kind && line.key == key);
        drafted.map_or_else(|| self.store.get(kind, key), |line| Ok(line.value.clone()))
    }

    /// The keys that begin with `prefix` and their values once the draft is written, in order.
    pub(super) fn pending_pairs(
        &self,
        kind: DocumentKind,
        prefix: &[u8],
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, RecordError> {
        let mut pairs: BTreeMap<_, _> = self.store.pairs(kind, prefix).collect::<Result<_, _>>()?;
        for line in self.lines.iter().filter(|line| line.kind == kind && line.key.starts_with(prefix)) {
            match &line.value {
                Some(value) => drop(pairs.insert(line.key.clone(), value.clone())),
                None => drop(pairs.remove(&line.key)),
            }
        }
        Ok(pairs)
    }

    /// The store as it was when the draft began.
    pub(super) fn store(&self) -> &'a RecordStore {
        self.store
    }

    /// The record of `environment`; empty if nothing was ever recorded.
    pub(super) fn desired(&self, environment: &EnvironmentName) -> Result<Desired, RecordError> {
        desired(self.store, environment)
    }

    /// Writes the record of an environment and sends a wakeup.
    pub(super) fn put_desired(&mut self, desired: &Desired) -> Result<(), RecordError> {
        self.put_desired_silently(desired)?;
        self.notify_desired(&desired.environment);
        Ok(())
    }

    /// Writes the record of an environment without a wakeup.
    pub(super) fn put_desired_silently(&mut self, desired: &Desired) -> Result<(), RecordError> {
        self.put(DocumentKind::Desired, desired.environment.as_str().as_bytes().to_vec(), desired)
    }

    pub(super) fn put<T: Serialize>(
        &mut self,
        kind: DocumentKind,
        key: Vec<u8>,
        document: &T,
    ) -> Result<(), RecordError> {
        self.put_bytes(kind, key, encode(document)?);
        Ok(())
    }

    pub(super) fn put_bytes(&mut self, kind: DocumentKind, key: Vec<u8>, value: Vec<u8>) {
        self.lines.push(BatchLine { kind, key, value: Some(value) });
    }

    pub(super) fn remove(&mut self, kind: DocumentKind, key: Vec<u8>) {
        self.lines.push(BatchLine { kind, key, value: None });
    }

    /// Writes the number of the last write.
    pub(super) fn put_serial(&mut self) {
        self.put_bytes(DocumentKind::Meta, SERIAL.to_vec(), self.counters.serial.to_be_bytes().to_vec());
    }

    /// Sends `wakeup` once everything is on disk.
    pub(super) fn notify(&mut self, wakeup: Wakeup) {
        self.wakeups.push(wakeup);
    }

    /// Sends a wakeup for the record of `environment`.
    pub(super) fn notify_desired(&mut self, environment: &EnvironmentName) {
        self.notify(Wakeup::Desired(environment.clone()));
    }

    /// Writes all lines or none. A draft without lines writes nothing and sends no wakeup.
    pub(super) fn commit(mut self) -> Result<Committed, RecordError> {
        if self.lines.is_empty() {
            return Ok(Committed::default());
        }
        if let Some(rules) = self.rules.take() {
            outgoing::derive(&mut self, &rules)?;
        }
        let is_mirrored = self.lines.iter().any(|line| line.kind.is_mirrored());
        if is_mirrored && !self.is_repair {
            self.counters.serial += 1;
            self.put_serial();
        }
        let batch = self.store.write(&self.lines)?;
        match (is_mirrored, self.is_repair) {
            (false, _) => {}
            (true, true) => self.store.journal.begin_again(),
            (true, false) => self.store.journal.add(self.counters.serial, &self.lines),
        }
        *self.gate = self.counters;
        Ok(Committed { batch, lines: self.lines, wakeups: self.wakeups })
    }
}

/// The record of `environment` in `store`.
pub(super) fn desired(store: &RecordStore, environment: &EnvironmentName) -> Result<Desired, RecordError> {
    let key = environment.as_str().as_bytes();
    let found = store.document(DocumentKind::Desired, key, || format!("the record of `{environment}`"))?;
    Ok(found.unwrap_or_else(|| Desired::empty(environment.clone())))
}
