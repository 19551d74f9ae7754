//! The failpoints around steps and jobs.

use crate::controller::jobs::JobKey;
use crate::failpoint::Point;
use crate::plan::{RecordStep, Step};

impl Step {
    /// Every step has a failpoint, so that a test can end the daemon before and after it.
    pub(in crate::controller) fn point(&self) -> Point {
        match self {
            Self::CancelJob => Point::CancelJob,
            Self::Acquire(_) => Point::Acquire,
            Self::Record(RecordStep::Image { .. } | RecordStep::Recipe { .. }) => Point::RecordImage,
            Self::Record(RecordStep::Rebuilt { .. } | RecordStep::Edited { .. }) => Point::RecordRebuilt,
            Self::Record(RecordStep::RollBack { .. }) => Point::RollBack,
            Self::CreateNetwork => Point::CreateNetwork,
            Self::CreateVolume { .. } => Point::CreateVolume,
            Self::CreateFolder { .. } => Point::CreateFolder,
            Self::LoadHolder => Point::LoadHolder,
            Self::CreateHolder { .. } => Point::CreateHolder,
            Self::StartHolder { .. } => Point::StartHolder,
            Self::Announce { .. } => Point::Announce,
            Self::Restart { .. } => Point::Restart,
            Self::TryOptions { .. } => Point::TryOptions,
            Self::Create { .. } => Point::Create,
            Self::Start { .. } => Point::Start,
            Self::CreateOneOff { .. } => Point::CreateOneOff,
            Self::StartOneOff { .. } => Point::StartOneOff,
            Self::Stop { .. } => Point::Stop,
            Self::Remove { .. } => Point::Remove,
            Self::Rename { .. } => Point::Rename,
            Self::Pause { .. } => Point::Pause,
            Self::Unpause { .. } => Point::Unpause,
            Self::Connect { .. } => Point::Connect,
            Self::Disconnect { .. } => Point::Disconnect,
            Self::Adjust { .. } => Point::Adjust,
            Self::ApplyWorkload { .. } => Point::ApplyWorkload,
            Self::RemoveWorkload { .. } => Point::RemoveWorkload,
        }
    }
}

impl JobKey {
    /// The failpoint around the work of this job.
    pub(in crate::controller) fn point(&self) -> Point {
        match self {
            Self::Build(_) => Point::Build,
            Self::Pull(_) => Point::Pull,
            Self::Push(_) => Point::Push,
        }
    }
}
