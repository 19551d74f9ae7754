//! A client of the proxy: asks for every serving environment all the time, and notes what fails.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::process::page_of;

/// How long one answer may take on a busy machine.
const ANSWER: Duration = Duration::from_secs(10);
/// The pause after a round.
const PAUSE: Duration = Duration::from_millis(30);

/// A host name at the proxy of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SiteAddress {
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) name: String,
}

#[derive(Default)]
struct WitnessState {
    targets: Vec<SiteAddress>,
    /// Grows with every change of the targets: an answer from before it does not count.
    epoch: u64,
    failed: Option<String>,
    is_over: bool,
}

/// A thread that asks until it is dropped.
pub(crate) struct Witness {
    shared: Arc<Mutex<WitnessState>>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Mutex::new(WitnessState::default()));
        let of_thread = Arc::clone(&shared);
        Self { shared, thread: Some(std::thread::spawn(move || ask_on(&of_thread))) }
    }

    /// From now on, these have to answer.
    pub(crate) fn watch(&self, targets: Vec<SiteAddress>) {
        let mut shared = self.shared.lock().unwrap();
        shared.targets = targets;
        shared.epoch += 1;
    }

    /// The first request that failed.
    pub(crate) fn failed(&self) -> Option<String> {
        self.shared.lock().unwrap().failed.clone()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.shared.lock().unwrap().is_over = true;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn ask_on(shared: &Mutex<WitnessState>) {
    let mut turn = 0;
    loop {
        let (target, epoch) = {
            let shared = shared.lock().unwrap();
            if shared.is_over {
                return;
            }
            turn += 1;
            let count = shared.targets.len().max(1);
            (shared.targets.get(turn % count).cloned(), shared.epoch)
        };
        if let Some(SiteAddress { address, port, name }) = target
            && let Err(why) = page_of(&address, port, &name, ANSWER)
        {
            let mut shared = shared.lock().unwrap();
            if shared.epoch == epoch && shared.failed.is_none() {
                shared.failed = Some(format!("{name} at {address}: {why}"));
            }
        }
        std::thread::sleep(PAUSE);
    }
}
