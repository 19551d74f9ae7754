//! The steps of a plan.

use super::Need;
use crate::model::build::RecipeKey;
use crate::model::container::ContainerSpec;
use crate::model::desired::Image;
use crate::model::holder::{HolderPurpose, HolderSpec};
use crate::model::memory::Good;
use crate::model::mount::AbsolutePath;
use crate::model::name::{ContainerName, Generation};
use crate::model::one_off::{OneOffKey, OneOffSpec};
use crate::model::status::Reason;
use crate::model::workload::{Workload, WriteToken};

/// One step and why it is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedStep {
    /// The step.
    pub step: Step,
    /// The reason, as a clause.
    pub reason: String,
}

/// A possible step. Every step is idempotent, or harmless if repeated after a new inspection.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Ends a build or pull that the record no longer wants.
    CancelJob,
    /// Starts a build or pull in the background.
    Acquire(Need),
    /// Changes the record.
    Record(RecordStep),
    /// Creates the managed network.
    CreateNetwork,
    /// Creates a volume that never existed.
    CreateVolume {
        /// Its name.
        name: String,
    },
    /// Creates a folder of the host, as the manifest declares it.
    CreateFolder {
        /// Its path.
        path: AbsolutePath,
    },
    /// Loads the image of sandboxes into the engine.
    LoadHolder,
    /// Creates a sandbox without starting it.
    CreateHolder {
        /// Its name.
        name: ContainerName,
        /// Its options.
        spec: Box<HolderSpec>,
        /// What it is for.
        purpose: HolderPurpose,
    },
    /// Starts a sandbox. `replacement` as with [`Step::Start`].
    StartHolder {
        /// The sandbox; [`ContainerTarget::Created`] is that of the preceding [`Step::CreateHolder`].
        holder: ContainerTarget,
        /// The fingerprint of the options that are refused if the sandbox cannot be started.
        replacement: Option<String>,
    },
    /// Sends the proxy the address of a running sandbox. The container that is about to join it gets the
    /// traffic once it is ready; the proxy can check the new configuration until then.
    Announce {
        /// The sandbox; [`ContainerTarget::Created`] is that of the preceding [`Step::CreateHolder`].
        holder: ContainerTarget,
    },
    /// Starts a container with these options that runs nothing of its image, and removes it.
    TryOptions {
        /// Its options.
        spec: Box<ContainerSpec>,
        /// The fingerprint of the options that are refused if the engine rejects them.
        replacement: Option<String>,
    },
    /// Creates a container without starting it.
    Create {
        /// Its name. This is the final name only if no container is replaced.
        name: ContainerName,
        /// Its options.
        spec: Box<ContainerSpec>,
        /// The sandbox that it joins; [`ContainerTarget::Created`] is the one created before it. `None`: it gets its
        /// own network namespace.
        joins: Option<ContainerTarget>,
    },
    /// Start a container.
    Start {
        /// The container.
        container: ContainerTarget,
        /// The fingerprint of its options if it is to replace another container. If it cannot be started,
        /// these options are refused and the other container keeps running. `None`: a failed start is tried
        /// again.
        replacement: Option<String>,
    },
    /// Creates a container that runs a command once, without starting it.
    CreateOneOff {
        /// Its options.
        spec: Box<OneOffSpec>,
    },
    /// Starts such a container.
    StartOneOff {
        /// Its id.
        id: String,
        /// Its purpose. If the container cannot be started because of its image, the command has failed.
        key: OneOffKey,
    },
    /// Stops a container: SIGTERM, and SIGKILL after its timeout.
    Stop {
        /// Its id.
        id: String,
    },
    /// Stops a container and starts it again, so that it joins the current namespace of its sandbox.
    Restart {
        /// Its id.
        id: String,
    },
    /// Removes a stopped or running managed container, never its named volumes.
    Remove {
        /// Its id.
        id: String,
    },
    /// Gives a container its name.
    Rename {
        /// Its id.
        id: String,
        /// The name.
        name: ContainerName,
    },
    /// Pauses a container, until its volume is backed up.
    Pause {
        /// Its id.
        id: String,
    },
    /// Unpauses a container.
    Unpause {
        /// Its id.
        id: String,
    },
    /// Connects a container to the managed network.
    Connect {
        /// Its id.
        id: String,
    },
    /// Disconnects a spare sandbox from the managed network.
    Disconnect {
        /// The sandbox; [`ContainerTarget::Created`] is that of the preceding [`Step::CreateHolder`].
        holder: ContainerTarget,
    },
    /// Creates or replaces a workload on its orchestrator. If somebody has changed it since it was observed, nothing
    /// is written.
    ApplyWorkload {
        /// The workload.
        workload: Box<Workload>,
        /// The service to replace; `None`: it does not exist.
        over: Option<(String, WriteToken)>,
    },
    /// Removes a workload with its replicas.
    RemoveWorkload {
        /// Its id.
        id: String,
    },
    /// Sets the limits and the restart policy of a container in place.
    Adjust {
        /// Its id.
        id: String,
        /// Memory in bytes.
        memory: Option<u64>,
        /// Billionths of a CPU.
        nano_cpus: Option<u64>,
        /// Processes and threads.
        pids: Option<u32>,
    },
}

impl Step {
    /// The container that this step stops for good.
    pub(super) fn stopped(&self) -> Option<&String> {
        if let Self::Stop { id } = self { Some(id) } else { None }
    }

    /// The command or the run of a job whose container this step creates or starts.
    pub(super) fn one_off(&self) -> Option<OneOffKey> {
        match self {
            Self::CreateOneOff { spec } => spec.key(),
            Self::StartOneOff { key, .. } => Some(key.clone()),
            Self::CancelJob
            | Self::Acquire(_)
            | Self::Record(_)
            | Self::CreateNetwork
            | Self::CreateVolume { .. }
            | Self::CreateFolder { .. }
            | Self::LoadHolder
            | Self::CreateHolder { .. }
            | Self::StartHolder { .. }
            | Self::Announce { .. }
            | Self::TryOptions { .. }
            | Self::Create { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Restart { .. }
            | Self::Remove { .. }
            | Self::Rename { .. }
            | Self::Pause { .. }
            | Self::Unpause { .. }
            | Self::Connect { .. }
            | Self::Disconnect { .. }
            | Self::ApplyWorkload { .. }
            | Self::RemoveWorkload { .. }
            | Self::Adjust { .. } => None,
        }
    }

    /// Whether it creates or starts the container of a job.
    pub(super) fn is_of_job(&self) -> bool {
        matches!(self.one_off(), Some(OneOffKey::Job(_)))
    }

    /// Whether it makes a sandbox.
    pub(super) fn is_of_sandbox(&self) -> bool {
        matches!(
            self,
            Self::LoadHolder | Self::CreateHolder { .. } | Self::StartHolder { .. } | Self::Disconnect { .. }
        )
    }

    /// Whether it creates or starts the container of a command of a release.
    pub(super) fn is_of_command(&self) -> bool {
        matches!(self.one_off(), Some(OneOffKey::Hook(_)))
    }
}

/// A step that changes the record and touches no container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordStep {
    /// Records the image of a generation.
    Image {
        /// The generation.
        generation: Generation,
        /// The image.
        image: Image,
        /// The build recipe of the manifest; `None`: the image was not built here.
        recipe: Option<RecipeKey>,
    },
    /// Notes that the recorded image matches the current build recipe of the manifest.
    Recipe {
        /// The generation.
        generation: Generation,
        /// The build recipe of the manifest.
        recipe: RecipeKey,
    },
    /// Records a new generation, because the build recipe in the manifest changed and this image was built.
    Edited {
        /// The generation that it replaces.
        generation: Generation,
        /// The image.
        image: Image,
        /// The build recipe of the manifest.
        recipe: RecipeKey,
    },
    /// Records a new generation, because the recorded image was missing and this image was built instead.
    Rebuilt {
        /// The generation that it replaces.
        generation: Generation,
        /// The image.
        image: Image,
    },
    /// Records a new generation that names the last good image, and marks the failed image as bad.
    RollBack {
        /// The generation that failed.
        from: Generation,
        /// The good state to return to.
        to: Box<Good>,
        /// A clause for users.
        note: String,
        /// The reason of the failure, in one word.
        reason: Reason,
        /// The reason of the failure, in a sentence.
        message: String,
    },
}

/// The container of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerTarget {
    /// An observed container, by ID.
    Seen(String),
    /// The container of the preceding [`Step::Create`].
    Created,
}
