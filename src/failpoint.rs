//! Points at which a test can kill the daemon: before and after each of its effects on the world.
//!
//! `ABIDE_FAILPOINT=after-create:2` kills the process (with SIGKILL, which cannot be caught) as
//! soon as it has created its second container; without a number, its first. With this, the tests
//! prove that a daemon may end between any two steps. Only debug builds have failpoints: in a
//! release build `before` and `after` are empty, and the variable is not read.

/// Defines the points, each with its word for failpoints.
macro_rules! points {
    ($($(#[doc = $doc:literal])+ $point:ident = $word:literal,)+) => {
        /// An effect of the daemon on the world; the daemon may end before and after it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[doc = $doc])+ $point,)+
        }

        impl Point {
            /// All points.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// The word after `before-` and `after-`.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$point => $word,)+
                }
            }
        }
    };
}

points! {
    /// Cancel a job.
    CancelJob = "cancel-job",
    /// Begin a job.
    Acquire = "acquire",
    /// Record the image of a generation.
    RecordImage = "record-image",
    /// Record a generation with a rebuilt image.
    RecordRebuilt = "record-rebuilt",
    /// Roll back the record.
    RollBack = "roll-back",
    /// Create the managed network.
    CreateNetwork = "create-network",
    /// Create a volume.
    CreateVolume = "create-volume",
    /// Create a folder on the host.
    CreateFolder = "create-folder",
    /// Load the image of sandboxes.
    LoadHolder = "load-holder",
    /// Create a sandbox.
    CreateHolder = "create-holder",
    /// Start a sandbox.
    StartHolder = "start-holder",
    /// Prepare the proxy for the switch to another container.
    Announce = "announce",
    /// Try options in a container that is removed again.
    TryOptions = "try-options",
    /// Create a container.
    Create = "create",
    /// Start a container.
    Start = "start",
    /// Create a container that runs a command once.
    CreateOneOff = "create-one-off",
    /// Start a container that runs a command once.
    StartOneOff = "start-one-off",
    /// Stop a container.
    Stop = "stop",
    /// Stop a container and start it again.
    Restart = "restart",
    /// Remove a container.
    Remove = "remove",
    /// Rename a container.
    Rename = "rename",
    /// Pause a container.
    Pause = "pause",
    /// Resume a paused container.
    Unpause = "unpause",
    /// Connect a container to the managed network.
    Connect = "connect",
    /// Disconnect a spare sandbox from the managed network.
    Disconnect = "disconnect",
    /// Set the limits of a container.
    Adjust = "adjust",
    /// Create or update the workload of an orchestrator.
    ApplyWorkload = "apply-workload",
    /// Remove the workload of an orchestrator.
    RemoveWorkload = "remove-workload",
    /// Run a build, from its turn until its result is noted.
    Build = "build",
    /// Run a pull, from its turn until its result is noted.
    Pull = "pull",
    /// Push an image.
    Push = "push",
    /// Deliver an outgoing item, or take the next step of it.
    Deliver = "deliver",
    /// Send a request to a forge or a channel.
    Request = "request",
    /// Flush a write of the record to disk; after that it is acknowledged.
    Flush = "flush",
}

/// The daemon is about to do `point`.
#[inline]
pub(crate) fn before(point: Point) {
    reach("before", point);
}

/// The daemon has done `point`.
#[inline]
pub(crate) fn after(point: Point) {
    reach("after", point);
}

#[cfg(not(debug_assertions))]
#[inline]
fn reach(_side: &str, _point: Point) {}

#[cfg(debug_assertions)]
use armed::reach;

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    /// The variable that names the failpoint.
    const VARIABLE: &str = "ABIDE_FAILPOINT";

    /// A failpoint, and how often it still has to be passed.
    #[derive(Debug)]
    pub(super) struct Armed {
        name: String,
        left: AtomicU32,
    }

    static ARMED: LazyLock<Option<Armed>> =
        LazyLock::new(|| std::env::var(VARIABLE).ok().map(|value| Armed::parse(&value)));

    impl Armed {
        pub(super) fn parse(value: &str) -> Self {
            let counted = value.split_once(':').and_then(|(name, nth)| Some((name, nth.parse().ok()?)));
            let (name, nth) = counted.unwrap_or((value, 1));
            Self { name: name.to_owned(), left: AtomicU32::new(nth) }
        }

        /// Whether this is the requested pass.
        pub(super) fn is_due(&self, side: &str, point: Point) -> bool {
            let is_named = self.name.strip_prefix(side).and_then(|rest| rest.strip_prefix('-'));
            is_named == Some(point.word()) && self.left.fetch_sub(1, Ordering::Relaxed) == 1
        }
    }

    pub(super) fn reach(side: &str, point: Point) {
        if ARMED.as_ref().is_some_and(|armed| armed.is_due(side, point)) {
            // This cannot fail for the process itself; if it did, a test would notice that the
            // process lives on.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::armed::Armed;
    use super::*;

    #[test]
    fn a_failpoint_fires_once_at_its_point_and_side() {
        let armed = Armed::parse("after-create:2");
        assert!(!armed.is_due("before", Point::Create));
        assert!(!armed.is_due("after", Point::CreateVolume));
        assert!(!armed.is_due("after", Point::Create), "the first time");
        assert!(armed.is_due("after", Point::Create), "the second time");
        assert!(!armed.is_due("after", Point::Create), "the third time");
        assert!(Armed::parse("before-roll-back").is_due("before", Point::RollBack));
    }

    #[test]
    fn every_failpoint_has_a_unique_word() {
        let mut words: Vec<&str> = Point::ALL.iter().map(|point| point.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Point::ALL.len());
    }
}
