//! dev, test and prod on this host, from a generated example repository.
//!
//! A real daemon on real containers, in its own folder. At its end, it removes everything that it
//! created.

mod clean;
mod live;
pub mod repository;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::controller::RESYNC;
use crate::daemon::{Daemon, DaemonOptions, Encryption};
use crate::model::container::Secret;
use crate::model::desired::Origin;
use crate::model::name::{EnvironmentName, Generation};
use crate::model::spec::Manifest;
use crate::model::status::Condition;
use crate::record::{Change, Handles, Precondition};
use live::print;
use repository::{ExampleRepository, ManifestWords};

/// The ports of dev, test and prod.
const PORTS: [(&str, u16); 3] = [("dev", 8900), ("test", 8099), ("prod", 8088)];

/// How long the link to the web page works; it works once.
const LINK_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How long dev and test may take to become ready, including their builds.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the demo until Ctrl-C, SIGTERM or the end of its terminal, and removes everything that it
/// created.
///
/// # Errors
/// A port or container name in use, an unreachable engine, a missing git: each as a sentence.
pub async fn run(port_offset: u16) -> anyhow::Result<()> {
    let ports = ports(port_offset)?;
    let place = tempfile::Builder::new().prefix("abide-demo-").tempdir()?;
    let (folder, repository) = prepare(&place, ports)?;
    let manifest = crate::daemon::load_manifest(&folder)?.manifest;
    clean::refuse_taken_names(&manifest).await?;

    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // The signal for a closed terminal; the demo then stops.
    let mut hangup = signal(SignalKind::hangup())?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (desired_state, encryption) = (folder.clone(), Encryption::default());
    let daemon = Daemon::start(DaemonOptions { desired_state, listen, encryption, resync: RESYNC }).await?;
    let handles = daemon.handles.clone();
    let link = daemon.login_link("demo", LINK_LIFETIME);
    let outcome = tokio::select! {
        outcome = show(&handles, &folder, &repository, ports, link) => outcome,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    print("\nstopping, and removing everything that the demo created ...");
    let record = handles.id.clone();
    drop(handles);
    daemon.stop().await?;
    clean::remove_all(&record, &manifest).await?;
    print("removed everything");
    outcome
}

fn ports(offset: u16) -> anyhow::Result<[u16; 3]> {
    let mut ports = [0; 3];
    for (slot, (environment, port)) in ports.iter_mut().zip(PORTS) {
        let Some(port) = port.checked_add(offset) else {
            bail!("--port-offset {offset} moves port {port} of {environment} beyond 65535");
        };
        if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            bail!(
                "cannot use port {port} for {environment}: {error}; `abide demo --port-offset 10000` \
                moves all three ports"
            );
        }
        *slot = port;
    }
    Ok(ports)
}

fn prepare(place: &TempDir, ports: [u16; 3]) -> anyhow::Result<(PathBuf, ExampleRepository)> {
    let repository = repository::create(place.path(), repository::site()?)?;
    let folder = place.path().join("desired-state");
    let url = repository.bare.display().to_string();
    let words = ManifestWords { prefix: "", repository: &url, poll: "5s", ports };
    std::fs::create_dir(&folder)
        .and_then(|()| std::fs::write(folder.join("keepwork.toml"), repository::manifest(&words)))
        .context("cannot write the demo's manifest")?;
    Ok((folder, repository))
}

/// Waits for dev and test, promotes test to prod, and prints events until dropped.
async fn show(
    handles: &Handles,
    folder: &Path,
    repository: &ExampleRepository,
    ports: [u16; 3],
    link: Option<Secret>,
) -> anyhow::Result<()> {
    print("building dev and test from the example repository ...\n");
    let events = live::events(handles.clone());
    let play = async {
        let [dev, test, prod] = ["dev", "test", "prod"].map(EnvironmentName::new);
        let (dev, test, prod) = (dev?, test?, prod?);
        ready(handles, &dev).await?;
        ready(handles, &test).await?;
        promote(handles, &test, &prod).await?;
        ready(handles, &prod).await?;
        print(&live::what_to_try(folder, repository, ports, link.as_ref()));
        anyhow::Ok(())
    };
    let (play, events) = tokio::join!(play_then_wait(play), events);
    play.and(events)
}

/// If the scripted part fails, the demo ends; otherwise it continues for the user.
async fn play_then_wait(play: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    play.await?;
    std::future::pending().await
}

async fn ready(handles: &Handles, environment: &EnvironmentName) -> anyhow::Result<()> {
    let mut wakeups = handles.wakeups.subscribe();
    let is_ready = async {
        loop {
            let status = handles.status.status(environment)?;
            match status {
                Some(status) if status.condition == Condition::Ready => return anyhow::Ok(()),
                Some(status) if status.condition == Condition::Degraded => {
                    bail!("{environment} is not ready: {}", status.message)
                }
                _ => drop(wakeups.recv().await),
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, is_ready).await;
    waited.with_context(|| format!("{environment} was not ready within five minutes"))?
}

/// Does the same as `abide promote test prod`: prod gets the exact image of test.
async fn promote(handles: &Handles, from: &EnvironmentName, to: &EnvironmentName) -> anyhow::Result<()> {
    let tested = handles.desired.get(from)?.entry;
    let change = Change {
        revision: tested.revision,
        image: tested.image,
        origin: Origin::Promotion,
        by: Some("demo".to_owned()),
        token: None,
        note: Some(format!("from {from} generation {}", tested.generation)),
        at: std::time::SystemTime::now().into(),
        hold: None,
    };
    let seen = |environment: &EnvironmentName, generation: Generation| Precondition {
        environment: environment.clone(),
        generation,
    };
    handles.writer.submit(to, change, &[seen(from, tested.generation)]).await?;
    Ok(())
}

/// The names of the containers that a manifest declares.
fn container_names(manifest: &Manifest) -> impl Iterator<Item = &str> {
    manifest.environments.values().map(|spec| spec.container.as_str())
}
