//! `abide wait`: until Ready, and honest about every other end. The daemon decides what is an end; here
//! it is asked again and again until one comes.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::client::Client;
use super::doorbell::{Doorbell, Patience};
use super::exit::{Exit, Failure};
use super::output::console::Console;
use super::output::text::one_line;
use super::session::{Need, Session};
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation};
use crate::model::status::Condition;
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, WaitState, WaitView};

/// How long to wait where nothing is said.
pub(crate) const DEFAULT_TIMEOUT: &str = "5m";

const EXAMPLES: &str = "\
Examples:
  abide wait dev
  abide wait dev --commit 5f0c954e4b8b6f3e0f7f2d3c1f0a9b8c7d6e5f40
  abide wait prod --digest sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0
  abide wait dev --timeout 30m && notify-send \"dev is ready\"

First it asks git (or the registry) for the newest head, so that what was pushed before counts. It
ends with 1 on any end but Ready: a failed build, a rollback, a hold, a repository that denies
access, or the timeout. What may pass, such as a repository that does not answer, is waited out.
With --commit, --digest or --generation, Ready without that is no success; where that failed, was
rolled back, or was replaced by something without it, the wait ends at once.";

/// What to wait for, and how long.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WaitArgs {
    /// The environment
    environment: EnvironmentName,
    #[command(flatten)]
    wish: WishArgs,
    /// How long to wait at most, such as `90s` or `5m`
    #[arg(long, default_value = DEFAULT_TIMEOUT, value_parser = humantime::parse_duration)]
    #[arg(value_name = "DURATION")]
    timeout: Duration,
}

/// What must be seen serving.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct WishArgs {
    /// Wait for this commit, by its full id, or a later one that contains it
    #[arg(long, value_name = "SHA")]
    commit: Option<CommitId>,
    /// Wait for this image, by its digest or its ID
    #[arg(long)]
    digest: Option<Digest>,
    /// Wait for this generation, or a later one that contains it
    #[arg(long)]
    generation: Option<u64>,
}

impl WishArgs {
    /// Whether something is named.
    pub(crate) fn is_named(&self) -> bool {
        self.commit.is_some() || self.digest.is_some() || self.generation.is_some()
    }

    /// What is waited for.
    pub(crate) fn goal(&self) -> Goal {
        let Self { commit, digest, generation } = self.clone();
        Goal { commit, digest, generation: generation.map(Generation), held: false }
    }
}

/// Whether a verb that moved the record waits for what comes of it.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct SeeThrough {
    /// Wait until it is Ready, and end with 1 on any other end
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait at most, such as `90s` or `5m`
    #[arg(long, default_value = DEFAULT_TIMEOUT, value_parser = humantime::parse_duration)]
    #[arg(value_name = "DURATION", requires = "wait")]
    pub(crate) timeout: Duration,
}

impl SeeThrough {
    /// Whom `verb` needs: the record may do where nobody waits.
    pub(crate) fn need(self, verb: &'static str) -> Need {
        if self.wait { Need::Daemon(verb) } else { Need::Record }
    }

    /// Waits for `goal` where that is wanted.
    pub(crate) async fn to(
        self,
        session: &mut Session,
        client: &Client,
        environment: &EnvironmentName,
        goal: &Goal,
    ) -> Result<Exit, Failure> {
        if !self.wait {
            return Ok(Exit::Done);
        }
        let deadline = Instant::now() + self.timeout;
        let ended = until_end(&mut session.console, client, environment, goal, deadline).await?;
        if ended.state == WaitState::Reached {
            session.console.talk(&headline(&ended.environment));
        }
        into_result(&ended)
    }
}

/// Runs the verb.
pub(crate) async fn run(args: &WaitArgs, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.client(Need::Daemon("wait")).await?;
    let (goal, deadline) = (args.wish.goal(), Instant::now() + args.timeout);
    let ended = until_end(&mut session.console, &client, &args.environment, &goal, deadline).await?;
    let view = &ended.environment;
    view.warnings.iter().for_each(|warning| session.console.talk(&format!("warning: {warning}")));
    if session.console.is_json() {
        session.console.json(view)?;
    } else if ended.state == WaitState::Reached {
        session.console.data(&headline(view))?;
    }
    into_result(&ended)
}

/// What is waited for; nothing named: whatever is recorded, declared and pushed by now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Goal {
    /// This commit, or one that contains it.
    pub(crate) commit: Option<CommitId>,
    /// This image.
    pub(crate) digest: Option<Digest>,
    /// This generation, or one that contains it.
    pub(crate) generation: Option<Generation>,
    /// Whether being held with it is as good as Ready.
    pub(crate) held: bool,
}

impl Goal {
    /// The query of a URL that asks for it.
    pub(crate) fn query(&self, asked: Option<Timestamp>) -> String {
        let commit = self.commit.as_ref().map(|commit| format!("commit={commit}"));
        let digest = self.digest.as_ref().map(|digest| format!("digest={digest}"));
        let generation = self.generation.map(|generation| format!("generation={generation}"));
        let held = self.held.then(|| "held=true".to_owned());
        let asked = asked.map(|asked| format!("asked={asked}"));
        let all: Vec<_> = [commit, digest, generation, held, asked].into_iter().flatten().collect();
        all.join("&")
    }
}

/// Done if the goal was reached; else the end by its name.
fn into_result(ended: &WaitView) -> Result<Exit, Failure> {
    match ended.state {
        WaitState::Reached => Ok(Exit::Done),
        WaitState::Ended | WaitState::Waiting => Err(Failure::No(sentence(ended))),
    }
}

/// Waits for several environments, one after the other, all within `timeout`.
pub(crate) async fn until_all_ready(
    session: &mut Session,
    client: &Client,
    environments: &[EnvironmentName],
    goal: &Goal,
    timeout: Duration,
) -> Result<(), Failure> {
    let deadline = Instant::now() + timeout;
    let mut failed = Vec::new();
    for environment in environments {
        let ended = until_end(&mut session.console, client, environment, goal, deadline).await;
        match ended.and_then(|ended| into_result(&ended)) {
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
async fn until_end(
    console: &mut Console,
    client: &Client,
    environment: &EnvironmentName,
    goal: &Goal,
    deadline: Instant,
) -> Result<WaitView, Failure> {
    let mut vigil = Vigil { console, last: None, told: String::new(), patience: Patience::default() };
    match timeout_at(deadline, vigil.keep(client, environment, goal)).await {
        Ok(end) => end,
        Err(_) => Err(vigil.timed_out(environment)),
    }
}

/// What is known while waiting.
struct Vigil<'a> {
    console: &'a mut Console,
    last: Option<WaitView>,
    told: String,
    patience: Patience,
}

impl Vigil<'_> {
    async fn keep(
        &mut self,
        client: &Client,
        environment: &EnvironmentName,
        goal: &Goal,
    ) -> Result<WaitView, Failure> {
        let mut bell = Doorbell::new(client, Some(environment));
        loop {
            let asked = self.last.as_ref().map(|last| last.asked);
            let answer = client.wait(environment, &goal.query(asked)).await;
            if let Some(seen) = self.patience.bear(answer, self.console)? {
                if seen.state != WaitState::Waiting {
                    return Ok(seen);
                }
                self.tell(&seen);
                self.last = Some(seen);
            }
            bell.wait().await;
        }
    }

    /// Says what changed, and only that. That git is asked is nothing to speak of, unless it takes long.
    fn tell(&mut self, seen: &WaitView) {
        let line = sentence(seen);
        let is_first = self.last.is_none() && seen.environment.status == Condition::Ready;
        if self.told != line && !is_first {
            self.console.talk(&line);
            self.told = line;
        }
    }

    fn timed_out(self, environment: &EnvironmentName) -> Failure {
        match (self.patience.into_lost(), self.last) {
            (Some(error), _) => error.into(),
            (None, Some(seen)) => Failure::No(format!("out of time: {}", sentence(&seen))),
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

/// Where it stands, and what the daemon says of what is waited for.
fn sentence(seen: &WaitView) -> String {
    let view = &seen.environment;
    if seen.message == view.message {
        return headline(view);
    }
    let (name, generation) = (&view.environment, view.generation);
    let (status, reason) = (view.status.as_str(), view.reason.as_str());
    format!("{name} generation {generation}: {status} ({reason}): {}", one_line(&seen.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::{digest, ready, view};
    use crate::model::status::Reason;

    fn ended(view: EnvironmentView, message: &str) -> Failure {
        let (state, asked) = (WaitState::Ended, Timestamp::default());
        into_result(&WaitView { state, message: message.into(), asked, environment: view }).unwrap_err()
    }

    #[test]
    fn the_end_is_named() {
        let held = view("dev", Condition::Held, Reason::HeldByPerson);
        let failure = ended(held, "generation 4 runs");
        assert_eq!(failure.to_string(), "dev generation 4: Held (HeldByPerson): generation 4 runs");
        assert_eq!(failure.exit(), Exit::No);
        let other = ended(ready("dev"), "generation 3, which had image ab12, was replaced").to_string();
        assert!(other.contains("Ready (AsRecorded): generation 3, which had image ab12"), "{other}");
    }

    #[test]
    fn what_is_waited_for_is_asked_for_by_name() {
        assert_eq!(Goal::default().query(None), "");
        let goal = Goal { digest: Some(digest()), generation: Some(Generation(4)), held: true, commit: None };
        let asked = Timestamp::from_millis(0);
        let expected = format!("digest={}&generation=4&held=true&asked=1970-01-01T00:00:00.000Z", digest());
        assert_eq!(goal.query(Some(asked)), expected);
    }
}
