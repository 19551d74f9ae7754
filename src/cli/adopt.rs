//! `abide adopt`: takes running containers of compose over, one by one.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::client::ApiClient;
use super::exit::{CliError, CliExit};
use super::output::text::{counted, one_line};
use super::session::{CliSession, Requirement};
use super::wait::headline;
use crate::controller::adoption::ComposeContainer;
use crate::model::name::EnvironmentName;
use crate::model::status::{Condition, Reason};
use crate::model::view::EnvironmentView;

const EXAMPLES: &str = "\
Examples:
  abide adopt
  abide adopt --yes
  abide adopt shop-web shop-db --yes --timeout 10m

Shows the containers of compose that the environments of the manifest replace: those with the same \
name. With --yes, replaces them one by one. abide stops the old container only when the new image is \
on this host, and keeps it under the name NAME.before-abide. Volumes are unchanged. If the new \
container does not become Ready, abide removes it and starts the old one again.";

/// The interval of checks of a status.
const PAUSE: Duration = Duration::from_millis(300);

/// The arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AdoptArgs {
    /// Environments that take containers over [default: all]
    environments: Vec<EnvironmentName>,
    /// Replace the containers instead of only showing the plan
    #[arg(long)]
    yes: bool,
    /// Maximum time of each replacement, such as `90s` or `5m`
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    timeout: Duration,
}

/// A container, and the environment that takes its place.
#[derive(Serialize)]
struct Takeover {
    environment: EnvironmentName,
    container: String,
    project: String,
    service: String,
    state: String,
    #[serde(skip)]
    of_engine: ComposeContainer,
}

pub(crate) async fn run(args: &AdoptArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Daemon("adopt")).await?;
    let found = (session.entry.compose_containers)().await.map_err(CliError::No)?;
    let overview = client.overview().await?;
    if let Some(unknown) =
        args.environments.iter().find(|name| !overview.environments.iter().any(|it| it.environment == **name))
    {
        return Err(CliError::Usage(format!("unknown environment `{unknown}`")));
    }
    let is_chosen = |view: &&EnvironmentView| {
        args.environments.is_empty() || args.environments.contains(&view.environment)
    };
    let views = overview.environments.iter().filter(is_chosen);
    let takeovers: Vec<Takeover> =
        in_order(views.clone()).into_iter().filter_map(|view| takeover(view, &found)).collect();
    let elsewhere: Vec<_> = views.clone().filter_map(|view| elsewhere(view, &found)).collect();
    show(session, &takeovers, &found, &elsewhere, args)?;
    if takeovers.is_empty() || !args.yes {
        return Ok(CliExit::Done);
    }
    for takeover in &takeovers {
        take(session, &client, takeover, args.timeout).await?;
    }
    session.console.talk(&format!(
        "{} taken over; `docker rm` removes the kept ones",
        counted(takeovers.len(), "container was", "containers were")
    ));
    Ok(CliExit::Done)
}

/// The environments in the order of their needs: a new container waits for those that it needs.
fn in_order<'v>(views: impl Iterator<Item = &'v EnvironmentView>) -> Vec<&'v EnvironmentView> {
    let mut left: Vec<_> = views.collect();
    let mut ordered: Vec<&EnvironmentView> = Vec::new();
    while !left.is_empty() {
        let waits =
            |view: &EnvironmentView| left.iter().any(|other| view.needs.contains_key(&other.environment));
        // No manifest has circular needs.
        let first = left.iter().position(|view| !waits(view)).unwrap_or_default();
        ordered.push(left.remove(first));
    }
    ordered
}

/// The container with the environment's name, on this host.
fn takeover(view: &EnvironmentView, found: &[ComposeContainer]) -> Option<Takeover> {
    let name = view.container.as_ref().filter(|_| view.host.is_none())?;
    let container = found.iter().find(|container| container.name == *name)?.clone();
    Some(Takeover {
        environment: view.environment.clone(),
        container: container.name.clone(),
        project: container.project.clone(),
        service: container.service.clone(),
        state: container.state.clone(),
        of_engine: container,
    })
}

/// The container on this host that has the name of an environment of another host, and the reason why it stays.
/// The environment's volumes would be missing there, so it is not replaced.
fn elsewhere(view: &EnvironmentView, found: &[ComposeContainer]) -> Option<(String, String)> {
    let (name, host) = (view.container.as_ref()?, view.host.as_ref()?);
    let container = found.iter().find(|container| container.name == *name)?;
    let why = format!("{} runs on the host of the agent {host}", view.environment);
    Some((container.name.clone(), why))
}

/// Prints the plan.
fn show(
    session: &mut CliSession,
    takeovers: &[Takeover],
    found: &[ComposeContainer],
    elsewhere: &[(String, String)],
    args: &AdoptArgs,
) -> Result<(), CliError> {
    if session.console.is_json() {
        return Ok(session.console.json(&takeovers)?);
    }
    for Takeover { environment, container, project, service, state, .. } in takeovers {
        session.console.data(&format!(
            "{environment}: replaces container {container} (service {service} of {project}, {state}), which is kept as \
             {container}.before-abide"
        ))?;
    }
    for (name, why) in elsewhere {
        session.console.data(&format!("{name}: stays with compose, because {why}"))?;
    }
    let is_elsewhere = |name: &String| elsewhere.iter().any(|(container, _)| container == name);
    let is_taken = |container: &&ComposeContainer| takeovers.iter().any(|it| it.container == container.name);
    let projects: Vec<&str> = takeovers.iter().map(|it| it.project.as_str()).collect();
    let left = found
        .iter()
        .filter(|it| !is_taken(it) && !is_elsewhere(&it.name) && projects.contains(&it.project.as_str()));
    for ComposeContainer { name, service, .. } in left.filter(|_| args.environments.is_empty()) {
        session.console.data(&format!(
            "{name}: stays with compose, because no environment has its name (service {service})"
        ))?;
    }
    if takeovers.is_empty() && !elsewhere.is_empty() {
        session.console.talk("nothing to take over on this host");
    } else if takeovers.is_empty() {
        session.console.talk("nothing to take over: no container of compose has the name of an environment");
    } else if !args.yes {
        session.console.talk("nothing was changed; run it with --yes to replace them one by one");
    }
    Ok(())
}

/// Replaces one container.
async fn take(
    session: &mut CliSession,
    client: &ApiClient,
    takeover: &Takeover,
    timeout: Duration,
) -> Result<(), CliError> {
    let (environment, deadline) = (&takeover.environment, Instant::now() + timeout);
    // The name is the last thing that an environment waits for: its image is here then.
    await_state(session, client, environment, deadline, |view| view.reason == Reason::NameConflict).await?;
    session.console.talk(&format!("{environment}: stopping container {}", takeover.container));
    let kept = (session.entry.set_aside)(takeover.of_engine.clone()).await.map_err(CliError::No)?;
    let ready = replaced(session, client, environment, deadline).await;
    match ready {
        Ok(view) => {
            session.console.data(&headline(&view))?;
            session.console.talk(&format!("{environment}: the old container is kept as {}", kept.name));
            Ok(())
        }
        Err(failure) => {
            let reason = one_line(&failure.to_string());
            session.console.talk(&format!("{environment}: starting the old container again: {reason}"));
            (session.entry.put_back)(environment.clone(), kept.clone()).await.map_err(|error| {
                CliError::No(format!(
                    "{reason}; and the old container, now {}, was not started: {error}",
                    kept.name
                ))
            })?;
            Err(CliError::No(format!(
                "{environment} was not taken over, and {} runs again: {reason}",
                kept.before
            )))
        }
    }
}

/// Waits until the new container serves.
async fn replaced(
    session: &mut CliSession,
    client: &ApiClient,
    environment: &EnvironmentName,
    deadline: Instant,
) -> Result<EnvironmentView, CliError> {
    client.act(environment, "sync", &json!({})).await?;
    await_state(session, client, environment, deadline, |view| {
        view.status == Condition::Ready && view.running.is_some()
    })
    .await
}

/// Waits for a state. Fails at the deadline, and as soon as the environment is Degraded.
async fn await_state(
    session: &mut CliSession,
    client: &ApiClient,
    environment: &EnvironmentName,
    deadline: Instant,
    is_it: impl Fn(&EnvironmentView) -> bool,
) -> Result<EnvironmentView, CliError> {
    let mut printed = String::new();
    loop {
        let view = client.environment(environment).await?;
        if is_it(&view) {
            return Ok(view);
        }
        let line = headline(&view);
        if Instant::now() > deadline {
            return Err(CliError::No(format!("timed out: {line}")));
        }
        if matches!(view.status, Condition::Degraded | Condition::RolledBack | Condition::Held) {
            return Err(CliError::No(line));
        }
        if printed != line {
            session.console.talk(&line);
            printed = line;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
