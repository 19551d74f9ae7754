//! Where a test may have the daemon end: before and after everything that it does to the world.
//!
//! `ABIDE_FAILPOINT=after-create:2` kills the process (SIGKILL, which nothing can catch) as soon as
//! it has created its second container; without a number, its first. That is how the tests show
//! that a daemon may end between any two steps. Only debug builds have it: in a release build
//! `before` and `after` are empty, and no variable is read.

/// What is done at a point, and under which word a failpoint names it.
macro_rules! points {
    ($($(#[doc = $doc:literal])+ $point:ident = $word:literal,)+) => {
        /// Something that the daemon does to the world, and before and after which it may end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[doc = $doc])+ $point,)+
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// What stands after `before-` and `after-`.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$point => $word,)+
                }
            }
        }
    };
}

points! {
    /// A job is told to end.
    CancelJob = "cancel-job",
    /// A job is begun.
    Acquire = "acquire",
    /// The image that a generation turned out to be is recorded.
    RecordImage = "record-image",
    /// A generation is made of an image that was built again.
    RecordRebuilt = "record-rebuilt",
    /// The record is rolled back.
    RollBack = "roll-back",
    /// The managed network is made.
    CreateNetwork = "create-network",
    /// A volume is made.
    CreateVolume = "create-volume",
    /// A folder of the host is made.
    CreateFolder = "create-folder",
    /// The image of network holders is loaded.
    LoadHolder = "load-holder",
    /// A network holder is made.
    CreateHolder = "create-holder",
    /// A network holder is started.
    StartHolder = "start-holder",
    /// The front is told where traffic is to go next.
    Announce = "announce",
    /// A container is made.
    Create = "create",
    /// A container is started.
    Start = "start",
    /// A container is stopped.
    Stop = "stop",
    /// A container is stopped and started again.
    Restart = "restart",
    /// A container is removed.
    Remove = "remove",
    /// A container is given its name.
    Rename = "rename",
    /// A container goes on after a pause.
    Unpause = "unpause",
    /// A container is connected to the managed network.
    Connect = "connect",
    /// Limits of a container are set.
    Adjust = "adjust",
    /// A build runs, from its turn until its result is taken note of.
    Build = "build",
    /// A pull runs, likewise.
    Pull = "pull",
    /// An image is pushed.
    Push = "push",
    /// A write of the record is put on disk; after that it is acknowledged.
    Flush = "flush",
}

/// `point` is about to be done.
#[inline]
pub(crate) fn before(point: Point) {
    reach("before", point);
}

/// `point` is done.
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

    /// Names the failpoint.
    const VARIABLE: &str = "ABIDE_FAILPOINT";

    /// A failpoint, and how often it is still passed.
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

        /// Whether this is the time that was asked for.
        pub(super) fn is_due(&self, side: &str, point: Point) -> bool {
            let is_named = self.name.strip_prefix(side).and_then(|rest| rest.strip_prefix('-'));
            is_named == Some(point.word()) && self.left.fetch_sub(1, Ordering::Relaxed) == 1
        }
    }

    pub(super) fn reach(side: &str, point: Point) {
        if ARMED.as_ref().is_some_and(|armed| armed.is_due(side, point)) {
            // It cannot fail for the process itself; if it did, a test would see that nothing ended.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::armed::Armed;
    use super::*;

    #[test]
    fn a_failpoint_is_due_once_and_only_at_its_side_of_its_point() {
        let armed = Armed::parse("after-create:2");
        assert!(!armed.is_due("before", Point::Create));
        assert!(!armed.is_due("after", Point::CreateVolume));
        assert!(!armed.is_due("after", Point::Create), "the first time");
        assert!(armed.is_due("after", Point::Create), "the second time");
        assert!(!armed.is_due("after", Point::Create), "the third time");
        assert!(Armed::parse("before-roll-back").is_due("before", Point::RollBack));
    }

    #[test]
    fn no_two_points_have_one_word() {
        let mut words: Vec<&str> = Point::ALL.iter().map(|point| point.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Point::ALL.len());
    }
}
