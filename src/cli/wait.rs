//! `abide wait`: waits until Ready and reports every other end. The daemon decides whether a wait
//! has ended; this command asks it repeatedly.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::changes::{ChangeWatcher, Reconnect};
use super::client::ApiClient;
use super::exit::{CliError, CliExit};
use super::output::console::Console;
use super::output::text::one_line;
use super::session::{CliSession, Requirement};
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation};
use crate::model::status::Condition;
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, GroupView, RecordChange, WaitState, WaitView};

/// Timeout if none is given.
pub(crate) const DEFAULT_TIMEOUT: &str = "5m";

const EXAMPLES: &str = "\
Examples:
  abide wait dev
  abide wait shop-prod
  abide wait dev --commit 5f0c954e4b8b6f3e0f7f2d3c1f0a9b8c7d6e5f40
  abide wait prod --digest sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0
  abide wait dev --timeout 30m && notify-send \"dev is ready\"

First queries git (or the registry) for the newest head, so that earlier pushes count. Exits with 1 \
on anything but Ready: a failed build, a rollback, a hold, a repository that denies access, or the \
timeout. Temporary problems, such as an unreachable repository, do not end the wait. With --commit, \
--digest or --generation, it keeps waiting while another version is Ready, and exits at once if the \
named version failed, was rolled back, or was replaced by one that does not contain it.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WaitArgs {
    /// Environment or group to wait for
    environment: EnvironmentName,
    #[command(flatten)]
    goal: GoalArgs,
    /// Maximum time to wait, such as `90s` or `5m`
    #[arg(long, default_value = DEFAULT_TIMEOUT, value_parser = humantime::parse_duration)]
    #[arg(value_name = "DURATION")]
    timeout: Duration,
}

/// The version that must be serving.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct GoalArgs {
    /// Wait for this commit, by its full ID, or a later one that contains it
    #[arg(long, value_name = "SHA")]
    commit: Option<CommitId>,
    /// Wait for this image, by its digest or its ID
    #[arg(long)]
    digest: Option<Digest>,
    /// Wait for this generation, or a later one that contains it
    #[arg(long)]
    generation: Option<u64>,
}

impl GoalArgs {
    /// Whether the arguments name a version.
    pub(crate) fn is_named(&self) -> bool {
        self.commit.is_some() || self.digest.is_some() || self.generation.is_some()
    }

    /// Converts the arguments to a goal.
    pub(crate) fn goal(&self) -> Goal {
        let Self { commit, digest, generation } = self.clone();
        Goal { commit, digest, generation: generation.map(Generation), held: false }
    }
}

/// Whether a command that updated the record waits for the result.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct SeeThrough {
    /// Wait until Ready; exit with 1 on any other end
    #[arg(long)]
    pub(crate) wait: bool,
    /// Maximum time to wait, such as `90s` or `5m`
    #[arg(long, default_value = DEFAULT_TIMEOUT, value_parser = humantime::parse_duration)]
    #[arg(value_name = "DURATION", requires = "wait")]
    pub(crate) timeout: Duration,
}

impl SeeThrough {
    /// The server that `verb` needs: the record may be enough unless the command waits.
    pub(crate) fn need(self, verb: &'static str) -> Requirement {
        if self.wait { Requirement::Daemon(verb) } else { Requirement::Record }
    }

    /// Waits for what `moved` recorded, if requested: for a group, of every member. `goal` holds for all of them
    /// but for the generation and the image.
    pub(crate) async fn through(
        self,
        session: &mut CliSession,
        client: &ApiClient,
        moved: &RecordChange,
        goal: &Goal,
    ) -> Result<CliExit, CliError> {
        if moved.members.is_empty() {
            return self.to(session, client, &moved.environment, goal).await;
        }
        if !self.wait {
            return Ok(CliExit::Done);
        }
        let of = |member: &RecordChange| {
            let generation = goal.generation.map(|_| member.generation);
            (member.environment.clone(), Goal { generation, digest: None, ..goal.clone() })
        };
        let goals: Vec<_> = moved.members.iter().map(of).collect();
        until_all(session, client, &goals, self.timeout).await?;
        session.console.talk(&format!("{}: every member is there", moved.environment));
        Ok(CliExit::Done)
    }

    /// Waits for `goal` if requested.
    pub(crate) async fn to(
        self,
        session: &mut CliSession,
        client: &ApiClient,
        environment: &EnvironmentName,
        goal: &Goal,
    ) -> Result<CliExit, CliError> {
        if !self.wait {
            return Ok(CliExit::Done);
        }
        let deadline = Instant::now() + self.timeout;
        let ended = until_end(&mut session.console, client, environment, goal, deadline).await?;
        if ended.state == WaitState::Reached {
            session.console.talk(&headline(&ended.environment));
        }
        into_result(&ended)
    }
}

pub(crate) async fn run(args: &WaitArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Daemon("wait")).await?;
    if let Some(group) = client.group(&args.environment).await? {
        return of_group(args, &group, session, &client).await;
    }
    let (goal, deadline) = (args.goal.goal(), Instant::now() + args.timeout);
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

/// Waits until every member of a group is ready.
async fn of_group(
    args: &WaitArgs,
    group: &GroupView,
    session: &mut CliSession,
    client: &ApiClient,
) -> Result<CliExit, CliError> {
    if args.goal.is_named() {
        let advice =
            "--commit, --digest and --generation are about one environment: name a member of the group";
        return Err(CliError::Usage(advice.to_owned()));
    }
    let goals: Vec<_> = group.members.iter().map(|member| (member.clone(), Goal::default())).collect();
    until_all(session, client, &goals, args.timeout).await?;
    let overview = client.overview_of(&args.environment).await?;
    if session.console.is_json() {
        session.console.json(&overview.environments)?;
    } else if let Some(group) = overview.groups.first() {
        session.console.data(&group_headline(group))?;
    }
    Ok(CliExit::Done)
}

/// The state of a group on one line.
pub(crate) fn group_headline(view: &GroupView) -> String {
    format!("group {}: {}: {}", view.group, view.status.as_str(), one_line(&view.message))
}

/// The goal of a wait; if it is empty, everything that is recorded, declared and pushed by now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Goal {
    /// This commit, or one that contains it.
    pub(crate) commit: Option<CommitId>,
    /// This image.
    pub(crate) digest: Option<Digest>,
    /// This generation, or a later one that contains it.
    pub(crate) generation: Option<Generation>,
    /// Whether the state Held with this version counts as Ready.
    pub(crate) held: bool,
}

impl Goal {
    /// The goal as a URL query.
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

/// Returns `Done` if the goal was reached, else a failure that names the end.
fn into_result(ended: &WaitView) -> Result<CliExit, CliError> {
    match ended.state {
        WaitState::Reached => Ok(CliExit::Done),
        WaitState::Ended | WaitState::Waiting => Err(CliError::No(sentence(ended))),
    }
}

/// Waits for several environments in turn, all within `timeout`.
pub(crate) async fn until_all_ready(
    session: &mut CliSession,
    client: &ApiClient,
    environments: &[EnvironmentName],
    goal: &Goal,
    timeout: Duration,
) -> Result<(), CliError> {
    let goals: Vec<_> = environments.iter().map(|name| (name.clone(), goal.clone())).collect();
    until_all(session, client, &goals, timeout).await
}

/// Waits for several environments in turn, each until its goal, all within `timeout`. Prints each one that reaches it.
async fn until_all(
    session: &mut CliSession,
    client: &ApiClient,
    goals: &[(EnvironmentName, Goal)],
    timeout: Duration,
) -> Result<(), CliError> {
    let deadline = Instant::now() + timeout;
    let mut failed = Vec::new();
    for (environment, goal) in goals {
        match until_end(&mut session.console, client, environment, goal, deadline).await {
            Ok(ended) if ended.state == WaitState::Reached => {
                session.console.talk(&headline(&ended.environment));
            }
            Ok(ended) => failed.push(sentence(&ended)),
            Err(CliError::No(sentence)) => failed.push(sentence),
            Err(other) => return Err(other),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(CliError::No(failed.join("; "))) }
}

/// Waits until one environment reaches `goal` or fails, and prints progress to standard error.
///
/// # Errors
/// [`CliError`] at the deadline, or if the first request fails. Later failures are retried, because
/// the daemon may be restarting.
async fn until_end(
    console: &mut Console,
    client: &ApiClient,
    environment: &EnvironmentName,
    goal: &Goal,
    deadline: Instant,
) -> Result<WaitView, CliError> {
    let mut progress =
        WaitProgress { console, last: None, last_line: String::new(), patience: Reconnect::default() };
    match timeout_at(deadline, progress.keep(client, environment, goal)).await {
        Ok(end) => end,
        Err(_) => Err(progress.timed_out(environment)),
    }
}

/// The state of a wait.
struct WaitProgress<'a> {
    console: &'a mut Console,
    last: Option<WaitView>,
    last_line: String,
    patience: Reconnect,
}

impl WaitProgress<'_> {
    async fn keep(
        &mut self,
        client: &ApiClient,
        environment: &EnvironmentName,
        goal: &Goal,
    ) -> Result<WaitView, CliError> {
        let mut changes = ChangeWatcher::new(client, Some(environment));
        loop {
            let asked = self.last.as_ref().map(|last| last.asked);
            let answer = client.wait(environment, &goal.query(asked)).await;
            if let Some(seen) = self.patience.bear(answer, self.console)? {
                if seen.state != WaitState::Waiting {
                    return Ok(seen);
                }
                self.print_change(&seen);
                self.last = Some(seen);
            }
            changes.wait().await;
        }
    }

    /// Prints only changes. A pending question to git is not worth a line unless it takes long.
    fn print_change(&mut self, seen: &WaitView) {
        let line = sentence(seen);
        let is_first = self.last.is_none() && seen.environment.status == Condition::Ready;
        if self.last_line != line && !is_first {
            self.console.talk(&line);
            self.last_line = line;
        }
    }

    fn timed_out(self, environment: &EnvironmentName) -> CliError {
        match (self.patience.into_lost(), self.last) {
            (Some(error), _) => error.into(),
            (None, Some(seen)) => CliError::No(format!("timed out: {}", sentence(&seen))),
            (None, None) => CliError::No(format!("timed out before the status of {environment} was known")),
        }
    }
}

/// The state on one line.
pub(crate) fn headline(view: &EnvironmentView) -> String {
    let (name, generation) = (&view.environment, view.generation);
    let message = one_line(&view.message);
    format!("{name} generation {generation}: {} ({}): {message}", view.status.as_str(), view.reason.as_str())
}

/// The state, with the daemon's message about the goal.
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

    fn ended(view: EnvironmentView, message: &str) -> CliError {
        let (state, asked) = (WaitState::Ended, Timestamp::default());
        into_result(&WaitView { state, message: message.into(), asked, environment: view }).unwrap_err()
    }

    #[test]
    fn the_reason_a_wait_ended_is_reported() {
        let held = view("dev", Condition::Held, Reason::HeldByPerson);
        let failure = ended(held, "generation 4 runs");
        assert_eq!(failure.to_string(), "dev generation 4: Held (HeldByPerson): generation 4 runs");
        assert_eq!(failure.exit(), CliExit::No);
        let other = ended(ready("dev"), "generation 3, which had image ab12, was replaced").to_string();
        assert!(other.contains("Ready (AsRecorded): generation 3, which had image ab12"), "{other}");
    }

    #[test]
    fn a_wait_goal_becomes_query_parameters() {
        assert_eq!(Goal::default().query(None), "");
        let goal = Goal { digest: Some(digest()), generation: Some(Generation(4)), held: true, commit: None };
        let asked = Timestamp::from_millis(0);
        let expected = format!("digest={}&generation=4&held=true&asked=1970-01-01T00:00:00.000Z", digest());
        assert_eq!(goal.query(Some(asked)), expected);
    }
}
