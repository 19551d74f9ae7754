//! Polling registries: one task for each registry requests the digests of tags, when a push was announced
//! and at intervals, and checks whether pushed images still exist.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::clock::now;
use super::follow::{Findings, FollowTrouble, next_ask, unrecorded, until_next_poll};
use super::looks::Unknown;
use super::registries::Registries;
use super::supervise::supervised;
use super::wake::Wake;
use crate::model::desired::Image;
use crate::model::error::chain;
use crate::model::look::Asked;
use crate::model::name::EnvironmentName;
use crate::model::reference::{ImageRepository, RegistryHost, TaggedImage};
use crate::model::spec::{Manifest, Supply};
use crate::model::status::Reason;
use crate::model::time::Timestamp;
use crate::record::DesiredReader;
use crate::registry::RegistryError;

/// The minimum interval between requests to a registry, however often pushes are announced.
const AT_LEAST_BETWEEN: Duration = Duration::from_millis(200);

/// The shared state of all registry pollers.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) registries: Arc<Registries>,
    pub(super) desired: DesiredReader,
    pub(super) wake: Wake,
    pub(super) trouble: FollowTrouble,
    pub(super) findings: Findings,
}

/// The running pollers.
#[derive(Default)]
pub(super) struct RegistryFollowers {
    running: HashMap<RegistryHost, (Followed, DropGuard)>,
    /// The wakeup of each poller.
    announced: HashMap<RegistryHost, Arc<Notify>>,
}

impl RegistryFollowers {
    /// Starts the pollers that the manifest needs and ends the others.
    pub(super) fn staff(
        &mut self,
        manifest: &Manifest,
        tools: &Tools,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let wanted = followed(manifest);
        self.running.retain(|host, (followed, _)| wanted.get(host) == Some(followed));
        for (host, followed) in wanted {
            self.running.entry(host.clone()).or_insert_with(|| {
                let stop = stop.child_token();
                let announced = Arc::clone(self.announced.entry(host.clone()).or_default());
                let follower = Follower { host, followed: followed.clone(), announced, tools: tools.clone() };
                let begin = move || follower.clone().run();
                tasks.spawn(supervised("registry poller", stop.clone(), begin));
                (followed, stop.drop_guard())
            });
        }
    }
}

impl RegistryFollowers {
    /// Notifies the poller of an environment's tag, if it has one.
    pub(super) fn announce(&self, manifest: &Manifest, environment: &EnvironmentName) {
        let spec = manifest.environments.get(environment);
        if let Some(Supply::Tag { image }) = spec.map(|spec| &spec.supply)
            && let Some(announced) = self.announced.get(image.repository.host())
        {
            announced.notify_one();
        }
    }

    /// Notifies all pollers, because wakeups were missed.
    pub(super) fn announce_all(&self) {
        self.announced.values().for_each(|announced| announced.notify_one());
    }
}

/// The targets of one registry's poller. If they change, the poller is replaced.
#[derive(Clone, Debug, Default, PartialEq)]
struct Followed {
    poll: Duration,
    /// The environments that push there, each with its repository.
    pushers: Vec<(EnvironmentName, ImageRepository)>,
    /// The environments that track a tag there.
    followers: Vec<(EnvironmentName, TaggedImage)>,
}

fn followed(manifest: &Manifest) -> HashMap<RegistryHost, Followed> {
    let mut all: HashMap<RegistryHost, Followed> = HashMap::new();
    for (environment, spec) in &manifest.environments {
        if let Some(repository) = &spec.push {
            let of = all.entry(repository.host().clone()).or_default();
            of.pushers.push((environment.clone(), repository.clone()));
        }
        if let Supply::Tag { image } = &spec.supply {
            let of = all.entry(image.repository.host().clone()).or_default();
            of.followers.push((environment.clone(), image.clone()));
        }
    }
    for (host, followed) in &mut all {
        followed.poll = manifest.registries.get(host).cloned().unwrap_or_default().poll;
    }
    all
}

#[derive(Clone)]
struct Follower {
    host: RegistryHost,
    followed: Followed,
    /// Notified when a push was announced.
    announced: Arc<Notify>,
    tools: Tools,
}

impl Follower {
    /// Polls until dropped.
    async fn run(self) {
        let mut failures = 0;
        loop {
            failures = if self.ask(failures).await { 0 } else { failures + 1 };
            let quiet = self.tools.registries.quiet_for(&self.host).unwrap_or_default();
            tokio::time::sleep(AT_LEAST_BETWEEN.max(quiet)).await;
            let tracking = self.followed.followers.iter().map(|(environment, _)| environment);
            let recheck = self.tools.findings.recheck(tracking);
            tokio::select! {
                () = self.announced.notified() => {}
                () = until_next_poll(self.followed.poll, failures, recheck, self.host.as_str()) => {}
            }
        }
    }

    /// Makes all requests, even if some fail. Returns whether all answers are known now.
    async fn ask(&self, failures: u32) -> bool {
        let mut all_known = self.ask_for_pushed().await;
        for (environment, image) in &self.followed.followers {
            let from = now();
            let found = self.ask_for_tag(environment, image, from).await;
            let asked = Asked { from, to: now() };
            match found {
                Ok(()) => self.tools.findings.known(environment, asked).await,
                Err(why) => {
                    all_known = false;
                    let pause = next_ask(self.followed.poll, failures + 1, self.host.as_str());
                    self.tools.findings.unknown(environment, asked, &why, asked.to.after(pause)).await;
                }
            }
        }
        all_known
    }

    /// Applies the digest of a tag to the record.
    async fn ask_for_tag(
        &self,
        environment: &EnvironmentName,
        image: &TaggedImage,
        from: Timestamp,
    ) -> Result<(), Unknown> {
        let digest = self.tools.registries.digest(image).await.map_err(|error| unknown(&error))?;
        let named = Image { reference: Some(image.repository.to_string()), digest: Some(digest), id: None };
        let (note, asked) = (format!("tag {image}"), Asked { from, to: now() });
        let moved = self.tools.findings.resolver.advance_tag(environment, named, note, asked).await;
        if let Some(generation) = moved.map_err(|error| unrecorded(&error))? {
            info!(%environment, %generation, tag = %image, "tag updated");
        }
        Ok(())
    }

    /// Checks whether the recorded images still exist in their registries, and reports errors that keep this
    /// unknown. Returns whether the answer is known for all images.
    async fn ask_for_pushed(&self) -> bool {
        let mut troubles = BTreeSet::new();
        for (environment, repository) in &self.followed.pushers {
            troubles.extend(self.look_for_pushed(environment, repository).await.err());
        }
        let is_known = troubles.is_empty();
        let why = troubles.into_iter().collect::<Vec<_>>().join("; ");
        let mut all = self.tools.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if is_known {
            if all.remove(&self.name()).is_some() {
                info!(registry = %self.host, "registry is reachable again");
            }
        } else {
            let sentence = format!("{}: {why}", self.name());
            if all.insert(self.name(), sentence.clone()).as_ref() != Some(&sentence) {
                warn!(registry = %self.host, why, "cannot check the pushed images in the registry");
            }
        }
        is_known
    }

    /// Whether the recorded image still exists where it was pushed. Registries lose deployed images by
    /// garbage collection or a lost disk, and nobody notices before the next pull.
    async fn look_for_pushed(
        &self,
        environment: &EnvironmentName,
        to: &ImageRepository,
    ) -> Result<(), String> {
        let desired = self.tools.desired.get(environment).map_err(|error| chain(&error))?;
        let Some(Image { reference: Some(reference), digest: Some(digest), .. }) = desired.entry.image else {
            return Ok(());
        };
        let registries = &self.tools.registries;
        if reference != to.to_string() {
            return Ok(());
        }
        let was_lost = registries.is_lost(&reference, &digest);
        let is_there = registries.look_for(to, &digest).await.map_err(|error| error.to_string())?;
        if !is_there && !was_lost {
            warn!(%environment, %reference, %digest, "the recorded image is missing in the registry");
            self.tools.wake.ring(environment);
        }
        Ok(())
    }

    fn name(&self) -> String {
        format!("registry {}", self.host)
    }
}

/// The reason why a registry returned no digest for a tag.
fn unknown(error: &RegistryError) -> Unknown {
    let (reason, is_answer) = match error {
        RegistryError::Unavailable { .. } => (Reason::RegistryUnavailable, false),
        RegistryError::Denied { .. } => (Reason::RegistryDenied, false),
        RegistryError::NotFound { .. } => (Reason::ImageNotFound, true),
    };
    Unknown { reason, message: error.to_string(), is_answer }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::controller::follow::next_recheck;
    use crate::controller::looks::Looks;
    use crate::model::desired::{Origin, TagHint};
    use crate::model::look::VISIBLE_WITHIN;
    use crate::model::name::{Digest, Generation};
    use crate::record::{Change, Handles, open};

    /// A registry that fails for `broken`, denies access to `private`, and has one digest for everything
    /// else. Of `late` it answers an older digest [`LATE`] times first.
    async fn registry() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&asked)));
            }
        });
        host
    }

    const LATE: usize = 2;

    async fn answer(mut stream: TcpStream, late: Arc<AtomicUsize>) {
        let mut lines = BufReader::new(&mut stream).lines();
        let asked = lines.next_line().await.unwrap().unwrap_or_default();
        while lines.next_line().await.unwrap().is_some_and(|line| !line.is_empty()) {}
        let status = match &asked {
            broken if broken.contains("/broken/") => "500 Broken",
            private if private.contains("/private/") => "403 Forbidden",
            _ => "200 OK",
        };
        let is_old = asked.contains("/late/") && late.fetch_add(1, Ordering::SeqCst) < LATE;
        let digest = if is_old { older() } else { digest() };
        let answer = format!(
            "HTTP/1.1 {status}\r\nDocker-Content-Digest: {digest}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        // The client may have disconnected.
        let _ = stream.write_all(answer.as_bytes()).await;
    }

    fn digest() -> Digest {
        Digest::of_sha256(&[7; 32])
    }

    fn older() -> Digest {
        Digest::of_sha256(&[6; 32])
    }

    fn name(text: &str) -> EnvironmentName {
        EnvironmentName::new(text).unwrap()
    }

    fn tools(handles: &Handles) -> Tools {
        let (_manifest, manifest) = tokio::sync::watch::channel(Arc::default());
        Tools {
            registries: Arc::new(Registries::new(manifest)),
            desired: handles.desired.clone(),
            wake: Wake::default(),
            trouble: FollowTrouble::default(),
            findings: Findings {
                looks: Looks::new().0,
                desired: handles.desired.clone(),
                resolver: handles.resolver.clone(),
                writer: handles.status_writer.clone(),
            },
        }
    }

    #[tokio::test]
    async fn an_announced_tag_that_the_registry_shows_late_is_asked_for_again_without_polling() {
        let (host, home) = (registry().await, tempfile::tempdir().unwrap());
        let handles = open(home.path()).unwrap();
        let image: TaggedImage = format!("{host}/late/shop:stable").parse().unwrap();
        let followed =
            Followed { poll: Duration::ZERO, pushers: Vec::new(), followers: vec![(name("shop"), image)] };
        let announced = Arc::new(Notify::new());
        let follower = Follower {
            host: host.parse().unwrap(),
            followed,
            announced: Arc::clone(&announced),
            tools: tools(&handles),
        };
        let hint = TagHint { digest: digest(), by: "registry".to_owned(), at: now() };
        handles.writer.announce_tag(vec![name("shop")], hint).await.unwrap();
        let of_shop = || handles.desired.get(&name("shop")).unwrap();
        let is_seen = async {
            while of_shop().tag_hint.is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = follower.run() => {}
            seen = tokio::time::timeout(Duration::from_secs(60), is_seen) => seen.unwrap(),
        }
        let entry = of_shop().entry;
        assert_eq!((entry.generation, entry.by.as_deref()), (Generation(2), Some("registry")));
        assert_eq!(entry.image.unwrap().digest, Some(digest()));
    }

    #[test]
    fn what_does_not_become_visible_is_asked_for_only_a_few_times() {
        let mut age = Duration::ZERO;
        let mut asked = Vec::new();
        while let Some(pause) = next_recheck(age) {
            age += pause;
            asked.push(age.as_millis());
        }
        assert_eq!(asked, [500, 1_500, 3_500, 7_500, 15_500]);
        assert!(age > VISIBLE_WITHIN, "the last answer settles it");
    }

    #[tokio::test]
    async fn what_is_wrong_with_one_repository_keeps_no_other_from_being_followed() {
        let (host, home) = (registry().await, tempfile::tempdir().unwrap());
        let handles = open(home.path()).unwrap();
        let pushed = format!("{host}/private/pushed");
        let image = Image { reference: Some(pushed.clone()), digest: Some(digest()), id: None };
        let change = Change {
            revision: None,
            image: Some(image),
            origin: Origin::Set,
            by: None,
            note: None,
            at: now(),
            hold: None,
        };
        handles.writer.submit(&name("pusher"), change, &[]).await.unwrap();
        let tools = tools(&handles);
        let (looks, troubles) = (tools.findings.looks.clone(), tools.trouble.clone());
        let tag = |path: &str| format!("{host}/{path}:latest").parse().unwrap();
        let followed = Followed {
            poll: Duration::from_secs(60),
            pushers: vec![(name("pusher"), pushed.parse().unwrap())],
            followers: vec![(name("first"), tag("broken/tag")), (name("second"), tag("good/tag"))],
        };
        let follower = Follower { host: host.parse().unwrap(), followed, announced: Arc::default(), tools };
        assert!(!follower.ask(0).await);
        let pushed = troubles.lock().unwrap().values().next().cloned().unwrap();
        assert!(pushed.contains("denies access"), "{pushed}");
        let broken = looks.of(&name("first")).trouble.unwrap();
        assert_eq!(broken.reason, Reason::RegistryUnavailable);
        assert!(broken.message.contains("500"), "{broken:?}");
        assert_eq!(looks.of(&name("second")).trouble, None, "the trouble of one is none of another");
        let of = |environment| handles.desired.get(&name(environment)).unwrap().entry;
        assert_eq!(of("second").image.unwrap().digest, Some(digest()));
        assert_eq!(of("first").generation, Generation(0));
    }
}
