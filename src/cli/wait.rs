//! `abide wait`: until Ready, and honest about every other end.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::client::Client;
use super::doorbell::{Doorbell, Patience};
use super::exit::{Exit, Failure};
use super::output::console::Console;
use super::output::text::one_line;
use super::session::{Need, Session};
use crate::model::name::{Digest, EnvironmentName, Generation};
use crate::model::status::{Condition, Reason};
use crate::model::view::EnvironmentView;

/// How long to wait where nothing is said.
pub(crate) const DEFAULT_TIMEOUT: &str = "5m";

const EXAMPLES: &str = "\
Examples:
  abide wait dev
  abide wait prod --digest sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0
  abide wait dev --timeout 30m && notify-send \"dev is ready\"

It ends with 1 on any end but Ready: a failed build, a rollback, a hold, or the timeout. What may
pass, such as a repository that does not answer, is waited out. With --digest, Ready with another
image is no end.";

/// What to wait for, and how long.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WaitArgs {
    /// The environment
    environment: EnvironmentName,
    /// The image that must be Ready: its digest or its ID
    #[arg(long)]
    digest: Option<Digest>,
    /// How long to wait at most, such as `90s` or `5m`
    #[arg(long, default_value = DEFAULT_TIMEOUT, value_parser = humantime::parse_duration)]
    #[arg(value_name = "DURATION")]
    timeout: Duration,
}

/// Runs the verb.
pub(crate) async fn run(args: &WaitArgs, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.client(Need::Daemon("wait")).await?;
    let goal = Goal { digest: args.digest.clone(), generation: None };
    let deadline = Instant::now() + args.timeout;
    let ended = until_end(&mut session.console, &client, &args.environment, &goal, deadline).await?;
    if session.console.is_json() {
        session.console.json(&ended.view)?;
    } else if ended.verdict == Verdict::Reached {
        session.console.data(&headline(&ended.view))?;
    }
    ended.into_result()
}

/// What is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Goal {
    /// The image that must be Ready; `None`: whatever the record names.
    pub(crate) digest: Option<Digest>,
    /// The generation that asked for it; one that is newer and Ready with another image came
    /// between.
    pub(crate) generation: Option<Generation>,
}

/// How a view stands to a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ready, as wanted.
    Reached,
    /// It will not become so by waiting.
    Ended,
    /// It may still become so.
    Waiting,
}

/// Decides from one view. Nothing counts that speaks of an older generation than the record's, or
/// of the time before the last `sync`.
///
/// A hold is an end whatever the loop has seen: it is a person who ends it. And where it was ended
/// already, `Held` is what the last pass saw, and says nothing of the next.
pub(crate) fn judge(view: &EnvironmentView, goal: &Goal) -> Verdict {
    if view.status == Condition::Held {
        return if view.held.is_some() { Verdict::Ended } else { Verdict::Waiting };
    }
    let is_current = view.observed_generation == Some(view.generation) && view.sync <= view.observed_sync;
    // Only a person gets it out of there, by saying what should run.
    if view.reason == Reason::RecordBehind {
        return Verdict::Ended;
    }
    // What an agent said before it went away is no verdict: it may come back with another.
    if !is_current || matches!(view.reason, Reason::Unknown | Reason::AgentAway) {
        return Verdict::Waiting;
    }
    match view.status {
        Condition::Ready if has_image(view, goal.digest.as_ref()) => Verdict::Reached,
        Condition::Ready if goal.generation.is_some_and(|asked| view.generation > asked) => Verdict::Ended,
        Condition::Ready | Condition::Progressing => Verdict::Waiting,
        Condition::Degraded if view.next_retry.is_some() && !is_verdict(view.reason) => Verdict::Waiting,
        Condition::Degraded | Condition::Blocked | Condition::RolledBack | Condition::Held => Verdict::Ended,
    }
}

fn has_image(view: &EnvironmentView, wanted: Option<&Digest>) -> bool {
    let Some(wanted) = wanted else { return true };
    let recorded = view.image.as_ref();
    recorded.is_some_and(|image| image.id.as_ref() == Some(wanted) || image.digest.as_ref() == Some(wanted))
}

/// Whether the reason speaks of what was asked for, rather than of something around it that may
/// pass.
fn is_verdict(reason: Reason) -> bool {
    match reason {
        Reason::BuildFailed
        | Reason::RevisionNotFound
        | Reason::StartFailed
        | Reason::NeverReady
        | Reason::HealthUnknown
        | Reason::ImageNotFound
        | Reason::CrashLoop
        | Reason::NotConverging => true,
        Reason::AsRecorded
        | Reason::NothingRecorded
        | Reason::Building
        | Reason::Pulling
        | Reason::Updating
        | Reason::AwaitingHealth
        | Reason::SourceUnavailable
        | Reason::FrontUnavailable
        | Reason::Unhealthy
        | Reason::Interrupted
        | Reason::HeldByPerson
        | Reason::NameConflict
        | Reason::VolumeMissing
        | Reason::SecretMissing
        | Reason::Pushing
        | Reason::RegistryUnavailable
        | Reason::RegistryDenied
        | Reason::TagMoved
        | Reason::EngineUnavailable
        | Reason::NotInManifest
        | Reason::RolledBack
        | Reason::AgentAway
        | Reason::PolicyRefused
        | Reason::RecordBehind
        | Reason::Unknown => false,
    }
}

/// The last view of a wait that came to an end.
pub(crate) struct Ended {
    /// What was seen last.
    pub(crate) view: EnvironmentView,
    /// What it means.
    pub(crate) verdict: Verdict,
}

impl Ended {
    /// Done where the goal was reached; else the end by its name.
    pub(crate) fn into_result(self) -> Result<Exit, Failure> {
        match self.verdict {
            Verdict::Reached => Ok(Exit::Done),
            Verdict::Ended | Verdict::Waiting => Err(Failure::No(sentence(&self.view))),
        }
    }
}

/// Waits for several environments, one after the other, all within `timeout`.
pub(crate) async fn until_all_ready(
    session: &mut Session,
    client: &Client,
    environments: &[EnvironmentName],
    timeout: Duration,
) -> Result<(), Failure> {
    let deadline = Instant::now() + timeout;
    let mut failed = Vec::new();
    for environment in environments {
        let goal = Goal::default();
        match until_end(&mut session.console, client, environment, &goal, deadline).await?.into_result() {
            Ok(_) => {}
            Err(Failure::No(sentence)) => failed.push(sentence),
            Err(other) => return Err(other),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::No(failed.join("; "))) }
}

/// Waits for the end of one environment's way to `goal`, and says on standard error how it goes.
///
/// # Errors
/// [`Failure`] at the deadline, or where the daemon does not answer the first time. Later it may
/// be restarting, and is asked again.
pub(crate) async fn until_end(
    console: &mut Console,
    client: &Client,
    environment: &EnvironmentName,
    goal: &Goal,
    deadline: Instant,
) -> Result<Ended, Failure> {
    let mut vigil = Vigil { console, last: None, patience: Patience::default() };
    match timeout_at(deadline, vigil.keep(client, environment, goal)).await {
        Ok(end) => end,
        Err(_) => Err(vigil.timed_out(environment)),
    }
}

/// What is known while waiting.
struct Vigil<'a> {
    console: &'a mut Console,
    last: Option<EnvironmentView>,
    patience: Patience,
}

impl Vigil<'_> {
    async fn keep(
        &mut self,
        client: &Client,
        environment: &EnvironmentName,
        goal: &Goal,
    ) -> Result<Ended, Failure> {
        let mut bell = Doorbell::new(client, Some(environment));
        loop {
            let answer = client.environment(environment).await;
            if let Some(view) = self.patience.bear(answer, self.console)? {
                let verdict = judge(&view, goal);
                if verdict != Verdict::Waiting {
                    return Ok(Ended { view, verdict });
                }
                self.tell(&view);
                self.last = Some(view);
            }
            bell.wait().await;
        }
    }

    /// Says what changed, and only that.
    fn tell(&mut self, view: &EnvironmentView) {
        if self.last.as_ref().is_none_or(|last| headline(last) != headline(view)) {
            self.console.talk(&headline(view));
        }
    }

    fn timed_out(self, environment: &EnvironmentName) -> Failure {
        match (self.patience.into_lost(), self.last) {
            (Some(error), _) => error.into(),
            (None, Some(view)) => Failure::No(format!("out of time: {}", sentence(&view))),
            (None, None) => Failure::No(format!("out of time before anything was heard of {environment}")),
        }
    }
}

/// Where it stands, on one line.
pub(crate) fn headline(view: &EnvironmentView) -> String {
    let (name, generation) = (&view.environment, view.generation);
    let message = one_line(&view.message);
    format!("{name} generation {generation}: {} ({}): {message}", view.status.as_str(), view.reason.as_str())
}

/// The end by its name; Ready with another image than the wanted one is named as that.
fn sentence(view: &EnvironmentView) -> String {
    if view.status != Condition::Ready {
        return headline(view);
    }
    let image = view.image.as_ref().and_then(|image| image.shown_digest());
    let image = image.map_or("no image that is known", Digest::as_str);
    format!("{} generation {} is Ready, but with {image}", view.environment, view.generation)
}

#[cfg(test)]
mod tests;
