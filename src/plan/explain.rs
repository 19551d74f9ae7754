//! A plan in sentences, for `diff`, `events`, `why` and logs.

use super::{ContainerTarget, Need, Plan, PlannedStep, RecordStep, Step};
use crate::model::holder::HolderPurpose;

/// Every step as a sentence, in order.
pub fn explain(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(sentence).collect()
}

/// Returns one step and its reason as a sentence.
pub fn sentence(planned: &PlannedStep) -> String {
    format!("{}: {}", words(&planned.step), planned.reason)
}

/// Describes one step.
pub fn words(step: &Step) -> String {
    match step {
        Step::CancelJob => "cancel the running build or pull".to_owned(),
        Step::Acquire(Need::Build { revision }) => format!("build commit {}", revision.short()),
        Step::Acquire(Need::Rebuild { revision }) => format!("build commit {} again", revision.short()),
        Step::Acquire(Need::Pull { reference, digest }) => format!("pull {reference}@{digest}"),
        Step::Acquire(Need::Push { id, repository }) => format!("push image {} to {repository}", id.short()),
        Step::Acquire(Need::Nothing | Need::Unobtainable { .. }) => "check for the image".to_owned(),
        Step::Record(step) => record_words(step),
        Step::CreateNetwork => "create the managed network".to_owned(),
        Step::CreateVolume { name } => format!("create volume {name}"),
        Step::CreateFolder { path } => format!("create folder {path}"),
        Step::LoadHolder => "load the sandbox image".to_owned(),
        Step::CreateHolder { name, purpose: HolderPurpose::Container, .. } => {
            format!("create sandbox {name}")
        }
        Step::CreateHolder { name, purpose: HolderPurpose::Spare, .. } => {
            format!("create the spare sandbox {name}")
        }
        Step::StartHolder { holder: ContainerTarget::Created, .. } => "start the new sandbox".to_owned(),
        Step::StartHolder { holder: ContainerTarget::Seen(id), .. } => format!("start sandbox {}", short(id)),
        Step::Announce { .. } => "send the proxy the new container's address".to_owned(),
        Step::TryOptions { .. } => "try the new options".to_owned(),
        Step::Create { name, spec, .. } => {
            format!("create container {name} from image {}", spec.image.short())
        }
        Step::Start { container: ContainerTarget::Created, .. } => "start the new container".to_owned(),
        Step::Start { container: ContainerTarget::Seen(id), .. } => format!("start container {}", short(id)),
        Step::CreateOneOff { spec } => {
            format!("create container {} for the {} command", spec.container.options.name, spec.role)
        }
        Step::StartOneOff { key, .. } => format!("run {}", key.words()),
        Step::Stop { id } => format!("stop container {}", short(id)),
        Step::Restart { id } => format!("restart container {}", short(id)),
        Step::Remove { id } => format!("remove container {}", short(id)),
        Step::Rename { id, name } => format!("rename container {} to {name}", short(id)),
        Step::Pause { id } => format!("pause container {}", short(id)),
        Step::Unpause { id } => format!("unpause container {}", short(id)),
        Step::Connect { id } => format!("connect container {} to the managed network", short(id)),
        Step::Disconnect { .. } => "disconnect the spare sandbox from the managed network".to_owned(),
        Step::ApplyWorkload { workload, over: None } => {
            format!("create service {} with {}", workload.name(), replicas(workload.placement.replicas))
        }
        Step::ApplyWorkload { workload, over: Some(_) } => {
            format!("update service {} to image {}", workload.name(), digest_words(&workload.image))
        }
        Step::RemoveWorkload { id } => format!("remove service {}", short(id)),
        Step::Adjust { id, memory: None, nano_cpus: None, pids: None } => {
            format!("turn off the restart policy of container {}", short(id))
        }
        Step::Adjust { id, .. } => format!("update the limits of container {}", short(id)),
    }
}

fn record_words(step: &RecordStep) -> String {
    match step {
        RecordStep::Image { generation, image, .. } => {
            format!("record image {} for generation {generation}", image_words(image))
        }
        RecordStep::Recipe { generation, .. } => {
            format!("record how the image of generation {generation} is built")
        }
        RecordStep::Edited { generation, image, .. } => {
            format!("replace the recorded image of generation {generation} with image {}", image_words(image))
        }
        RecordStep::Rebuilt { generation, image } => {
            format!("replace the recorded image of generation {generation} with image {}", image_words(image))
        }
        RecordStep::RollBack { from, to, .. } => {
            let to_image = image_words(&to.image);
            format!("roll back from generation {from} to image {to_image} of generation {}", to.generation)
        }
    }
}

/// The number of replicas in words.
pub(super) fn replicas(number: u32) -> String {
    if number == 1 { "1 replica".to_owned() } else { format!("{number} replicas") }
}

/// The first digits of the digest in `repository@sha256:...`.
fn digest_words(image: &str) -> &str {
    image.rsplit_once("sha256:").map_or(image, |(_, digits)| short(digits))
}

fn image_words(image: &crate::model::desired::Image) -> &str {
    image.shown_digest().map_or("unknown", |digest| digest.short())
}

/// The first twelve characters of an engine's id.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
