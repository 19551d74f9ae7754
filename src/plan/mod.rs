//! The decision: from what should be and what is to the steps between, as a value.
//!
//! [`plan`] has no IO, no async, no clock and no randomness, and leaves nothing to decide while
//! acting. It never waits: what takes long (a build, a pull, a health check) is seen as a state of
//! the world, and a later call goes on from there. So whatever cuts a pass short, the next one
//! plans from what it finds.
//!
//! In reading order: `supply` brings the image, `target` chooses what to enforce, `serve`
//! gets it running, `restart` says when, `rollback` gives it up, `difference` says why,
//! [`explain`] says it in words.

mod difference;
pub mod explain;
mod hold;
mod notes;
mod restart;
mod rollback;
mod serve;
mod serving;
mod supply;
mod target;
#[cfg(test)]
mod tests;
mod turn;
mod volumes;

use std::time::Duration;

use crate::model::build::RecipeKey;
use crate::model::container::{ContainerOptions, ContainerSpec};
use crate::model::declared::Declared;
use crate::model::desired::{Bad, Entry, Hold, Image, Outcome};
use crate::model::holder::HolderSpec;
use crate::model::memory::{Good, Memory};
use crate::model::mount::AbsolutePath;
use crate::model::name::{CommitId, ContainerName, Digest, EnvironmentName, Generation};
use crate::model::observed::Observed;
use crate::model::spec::{HealthSpec, Update};
use crate::model::status::{Condition, Reason, VolumeView};
use crate::model::time::Timestamp;

pub use hold::{AfterHold, held_back};
pub use notes::{Failure, after_failure};
pub use restart::backoff;
pub use serving::{is_news, serving};
pub use supply::{Need, need};
pub use turn::{gives_turn_back, takes_turn};
pub use volumes::{is_start_first, sources_needed, volumes_needed};

/// What should be: the record of one environment, and how its containers are made.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The environment.
    pub environment: EnvironmentName,
    /// The generation that counts: the record's newest, or the one that a hold keeps.
    pub entry: Entry,
    /// Set while a person holds it.
    pub hold: Option<Hold>,
    /// When someone last said `sync`: failures before that are forgiven.
    pub sync: Option<Timestamp>,
    /// Images that failed and were rolled back from, the newest last.
    pub bad: Vec<Bad>,
    /// Whether going back from this generation is proposed already to the record that decides.
    pub proposed: bool,
    /// Where its images come from.
    pub supply: SupplyKind,
    /// The options of its containers; an error where a secret cannot be read.
    pub options: Result<ContainerOptions, String>,
    /// The declaration that the options are of; `None` only where none is known.
    pub declared: Option<Box<Declared>>,
    /// What would be enforced if nobody held the environment; `None`: nobody does.
    pub after_hold: Option<Box<AfterHold>>,
    /// How readiness is judged.
    pub health: HealthSpec,
    /// In which order containers change places; `None`: not declared.
    pub update: Option<Update>,
    /// Whether containers join the network namespace of a holder.
    pub holder: bool,
    /// How long a container that was replaced goes on for its last requests, where there is a front
    /// that passes new ones to the other.
    pub drain: Option<Duration>,
    /// Whether the record may be an old copy, and nobody can be asked: what runs is kept as it is.
    pub keeps_what_runs: bool,
}

/// Where the images of an environment come from, as far as it changes what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupplyKind {
    /// Built here from a branch.
    Build,
    /// What a tag in a registry names.
    Tag,
    /// Only what a promotion or a person names.
    Named,
}

/// What to do now, and what to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What differs between the record and what runs, in sentences.
    pub differences: Vec<String>,
    /// What to do, in order.
    pub steps: Vec<PlannedStep>,
    /// What to say of the environment.
    pub verdict: Verdict,
    /// When to look again even if nothing rings.
    pub look_again: Option<Timestamp>,
    /// The id of the container that the front, where there is one, is to pass traffic to.
    pub serving: Option<String>,
    /// The notes for the next pass.
    pub memory: Memory,
    /// What became of a generation.
    pub outcome: Option<(Generation, Outcome)>,
    /// What is mounted, and volumes that are kept beside that.
    pub volumes: Vec<VolumeView>,
    /// What a person should know, although it keeps nothing from running.
    pub warnings: Vec<String>,
}

/// One step and why it is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedStep {
    /// What.
    pub step: Step,
    /// Why, as a clause.
    pub reason: String,
}

/// What can be done. Every step is idempotent, or harmless when repeated after a fresh look.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// End a build or pull that the record no longer wants.
    CancelJob,
    /// Begin to build or pull in the background.
    Acquire(Need),
    /// Write the image that a generation turned out to be.
    RecordImage {
        /// The generation.
        generation: Generation,
        /// The image.
        image: Image,
        /// How the manifest says to build it; `None`: it was not built here.
        recipe: Option<RecipeKey>,
    },
    /// Note that the recorded image answers to how the manifest says to build now.
    NoteRecipe {
        /// The generation.
        generation: Generation,
        /// How the manifest says to build.
        recipe: RecipeKey,
    },
    /// Write a new generation: the manifest says otherwise how to build, and this was built.
    RecordEdited {
        /// The generation that it replaces.
        generation: Generation,
        /// The image.
        image: Image,
        /// How the manifest says to build it.
        recipe: RecipeKey,
    },
    /// Write a new generation: the recorded image was gone, and this was built in its place.
    RecordRebuilt {
        /// The generation that it replaces.
        generation: Generation,
        /// The image.
        image: Image,
    },
    /// Write a new generation that names what was good before, and remember the image of the one
    /// that failed as bad.
    RollBack {
        /// The generation that failed.
        from: Generation,
        /// What was good.
        to: Box<Good>,
        /// One clause for people.
        note: String,
        /// Why it failed, in one word.
        reason: Reason,
        /// Why it failed, in a sentence.
        message: String,
    },
    /// Make the managed network.
    CreateNetwork,
    /// Make a volume that never existed.
    CreateVolume {
        /// Its name.
        name: String,
    },
    /// Make a folder of the host, as the manifest says.
    CreateFolder {
        /// Its path.
        path: AbsolutePath,
    },
    /// Bring the image of holders into the engine.
    LoadHolder,
    /// Make a holder, not started.
    CreateHolder {
        /// Under this name.
        name: ContainerName,
        /// With these options.
        spec: Box<HolderSpec>,
    },
    /// Start a holder. `replacement` as with [`Step::Start`].
    StartHolder {
        /// Which; [`Target::Created`] is the one that the [`Step::CreateHolder`] before it made.
        holder: Target,
        /// The fingerprint of the options that are refused where it cannot be started.
        replacement: Option<String>,
    },
    /// Tell the front the address of a holder that runs: the container that is about to join it is
    /// where traffic goes once it is ready, and the front can have that checked until then.
    Announce {
        /// Which; [`Target::Created`] is the one that the [`Step::CreateHolder`] before it made.
        holder: Target,
    },
    /// Make a container, not started.
    Create {
        /// Under this name, which is the final one only where nothing is replaced.
        name: ContainerName,
        /// With these options.
        spec: Box<ContainerSpec>,
        /// The holder that it joins; [`Target::Created`] is the one made before it. `None`: it gets
        /// a network namespace of its own.
        joins: Option<Target>,
    },
    /// Start a container.
    Start {
        /// Which.
        container: Target,
        /// The fingerprint of its options, where it is to replace another container: if it cannot
        /// be started, these options are refused and the other one goes on. `None`: a start that
        /// fails is tried again.
        replacement: Option<String>,
    },
    /// Stop a container: SIGTERM, and SIGKILL after its timeout.
    Stop {
        /// Its id.
        id: String,
    },
    /// Stop a container and start it again, so that it joins the namespace that its holder has now.
    Restart {
        /// Its id.
        id: String,
    },
    /// Remove a stopped or running container of ours, never its named volumes.
    Remove {
        /// Its id.
        id: String,
    },
    /// Give a container its name.
    Rename {
        /// Its id.
        id: String,
        /// The name.
        name: ContainerName,
    },
    /// Go on with a paused container.
    Unpause {
        /// Its id.
        id: String,
    },
    /// Connect a container to the managed network.
    Connect {
        /// Its id.
        id: String,
    },
    /// Set the limits and the restart policy of a container in place.
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

/// Which container a step is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One that was seen, by id.
    Seen(String),
    /// The one that the [`Step::Create`] before it made.
    Created,
}

/// What to say of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// One of the closed set of words.
    pub condition: Condition,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, in a sentence.
    pub message: String,
}

impl Verdict {
    pub(crate) fn new(condition: Condition, reason: Reason, message: impl Into<String>) -> Self {
        Self { condition, reason, message: message.into() }
    }

    /// Whether something is wrong with what serves, which is said before anything else.
    fn is_bad(&self) -> bool {
        matches!(self.condition, Condition::Degraded | Condition::Blocked)
    }
}

/// How often the same difference is acted upon before it is called not converging.
const REPEATS_BEFORE_GIVING_UP: u32 = 3;

/// How long a container in transit (restarting, removing) is given before it is looked at again.
pub(crate) const TRANSIT: Duration = Duration::from_millis(500);

/// What to do, from what should be, what is, what is remembered, and the time.
pub fn plan(intent: &Intent, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let mut memory = notes::refresh(memory, intent, observed, now);
    volumes::settle(&mut memory, intent, observed);
    let (memory, succeeded) = serving::recognise(memory, intent, observed, now);
    let memory = rollback::recall(memory, intent, observed);
    let crashes = memory.crashes.clone();
    let supplied = supply::plan(intent, observed, now);
    let choice = target::choose(intent, observed, &memory);
    let served = serve::plan(intent, observed, &choice, memory, now);
    let mut plan = volumes::tell(combine(intent, &choice, supplied, served), intent, observed, &choice);
    plan.outcome = plan.outcome.or(succeeded);
    let plan = notes::hold_back_trouble(plan, intent, &crashes, now);
    let plan = notes::hold_back_repeats(plan, intent, &crashes, now);
    notes::remember_stops(plan, observed, now)
}

/// The state of one half of the work: bringing the image, or getting a container running.
#[derive(Debug, Default)]
struct Half {
    differences: Vec<String>,
    steps: Vec<PlannedStep>,
    verdict: Option<Verdict>,
    look_again: Option<Timestamp>,
    outcome: Option<(Generation, Outcome)>,
    serving: Option<String>,
}

impl Half {
    fn say(condition: Condition, reason: Reason, message: impl Into<String>) -> Self {
        Self { verdict: Some(Verdict::new(condition, reason, message)), ..Self::default() }
    }

    fn then(mut self, step: Step, reason: impl Into<String>) -> Self {
        self.steps.push(PlannedStep { step, reason: reason.into() });
        self
    }

    fn look_again_at(mut self, at: Timestamp) -> Self {
        self.look_again = Some(self.look_again.map_or(at, |earlier| earlier.min(at)));
        self
    }
}

/// What serves is said first where it is bad, what is on its way second, rest last.
fn combine(intent: &Intent, choice: &target::Choice, supply: Half, (serve, memory): (Half, Memory)) -> Plan {
    let is_bad = serve.verdict.as_ref().is_some_and(Verdict::is_bad);
    let verdict = match (serve.verdict, supply.verdict) {
        (Some(serve), _) if is_bad => serve,
        (Some(serve), Some(supply)) => while_serving(&supply, choice, &serve),
        (None, Some(supply)) => supply,
        (Some(serve), None) => serve,
        (None, None) => Verdict::new(Condition::Progressing, Reason::Updating, "under way"),
    };
    let verdict = said_while_held(intent, verdict);
    let look_again = [serve.look_again, supply.look_again].into_iter().flatten().min();
    Plan {
        differences: supply.differences.into_iter().chain(serve.differences).collect(),
        steps: supply.steps.into_iter().chain(serve.steps).collect(),
        verdict,
        look_again,
        serving: serve.serving,
        memory,
        outcome: serve.outcome.or(supply.outcome),
        volumes: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Nothing is blocked outright as long as something serves.
fn while_serving(supply: &Verdict, choice: &target::Choice, serve: &Verdict) -> Verdict {
    let condition = match (supply.condition, serve.condition) {
        (Condition::Blocked, Condition::Ready | Condition::RolledBack) => Condition::Degraded,
        (condition, _) => condition,
    };
    let message = match serve.condition {
        Condition::Ready => format!("{}; {} goes on serving", supply.message, choice.words()),
        _ => format!("{}; {}", supply.message, serve.message),
    };
    Verdict { condition, reason: supply.reason, message }
}

fn said_while_held(intent: &Intent, verdict: Verdict) -> Verdict {
    let at_rest = matches!(verdict.condition, Condition::Ready | Condition::RolledBack)
        || verdict.reason == Reason::NothingRecorded;
    match &intent.hold {
        Some(hold) if at_rest => {
            let held_back = match held_back(intent).as_slice() {
                [] => String::new(),
                keys => format!("; would be replaced: {}", keys.join(", ")),
            };
            let (by, reason, environment) = (&hold.by, &hold.reason, &intent.environment);
            let message =
                format!("held by {by}: {reason}{held_back}; `abide resume {environment}` lets it go");
            Verdict::new(Condition::Held, Reason::HeldByPerson, message)
        }
        _ => verdict,
    }
}

/// The image ID that an entry names, where it is known.
fn image_id(entry: &Entry) -> Option<&Digest> {
    entry.image.as_ref().and_then(|image| image.id.as_ref())
}

/// How a generation is called in sentences.
fn generation_words(generation: Generation, revision: Option<&CommitId>) -> String {
    match revision {
        Some(revision) => format!("generation {generation} (commit {})", revision.short()),
        None => format!("generation {generation}"),
    }
}
