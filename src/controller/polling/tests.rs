//! Polling with remotes on this host.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::controller::clock::now;
use crate::model::desired::{Desired, Hint, Image, Origin, TagHint};
use crate::model::name::{BranchName, CommitId, Digest, Generation};
use crate::model::pull::PullPolicy;
use crate::model::spec::RepositorySpec;
use crate::model::status::Reason;
use crate::record::{Change, Handles, Push, open};
use poll_state::PollState;

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
        wake: WakeQueue::default(),
        errors: PollErrors::default(),
        checks: Checks::new(None),
        findings: PollResults {
            poll_state: PollState::new().0,
            desired: handles.desired.clone(),
            resolver: handles.resolver.clone(),
            writer: handles.status_writer.clone(),
        },
        git: Tools::git_slots(),
    }
}

fn poller(source: PollSource, handles: &Handles) -> Poller {
    Poller { source, announced: Arc::default(), paths: None, tools: tools(handles) }
}

/// Runs a poller until the record of `shop` is as expected, and returns it.
async fn until(poller: Poller, handles: &Handles, is_it: impl Fn(&Desired) -> bool) -> Desired {
    let is_so = async {
        loop {
            let desired = handles.desired.get(&name("shop")).unwrap();
            if is_it(&desired) {
                return desired;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = poller.run() => unreachable!("a poller does not end"),
        desired = tokio::time::timeout(Duration::from_secs(60), is_so) => desired.unwrap(),
    }
}

#[tokio::test]
async fn a_late_announced_tag_is_rechecked_without_polling() {
    let (host, home) = (registry().await, tempfile::tempdir().unwrap());
    let handles = open(home.path()).unwrap();
    let image = format!("{host}/late/shop:stable").parse().unwrap();
    let tags = Tags {
        host: host.parse().unwrap(),
        interval: Duration::ZERO,
        pushers: Vec::new(),
        tracking: vec![(name("shop"), image, PullPolicy::Always)],
    };
    let hint = TagHint { digest: digest(), by: "registry".to_owned(), at: now() };
    handles.writer.announce_tag(vec![name("shop")], hint).await.unwrap();
    let poller = poller(PollSource::Tags(tags), &handles);
    let Desired { entry, .. } = until(poller, &handles, |desired| desired.tag_hint.is_none()).await;
    assert_eq!((entry.generation, entry.by.as_deref()), (Generation(2), Some("registry")));
    assert_eq!(entry.image.unwrap().digest, Some(digest()));
}

fn git(dir: &Path, words: &[&str]) -> String {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"];
    let ran = Command::new("git").arg("-C").arg(dir).args(identity).args(words).output().unwrap();
    assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_late_announced_commit_is_rechecked_without_polling() {
    let home = tempfile::tempdir().unwrap();
    let repository = home.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "--quiet", "--initial-branch", "dev"]);
    let commit = |message: &str| {
        git(&repository, &["commit", "--quiet", "--allow-empty", "--message", message]);
        git(&repository, &["rev-parse", "HEAD"])
    };
    let (old, new) = (commit("old"), commit("new"));
    git(&repository, &["reset", "--quiet", "--hard", &old]);
    let handles = open(&home.path().join("record")).unwrap();
    let url = repository.to_str().unwrap().to_owned();
    let branches = Branches {
        repository: RepositoryName::new("shop").unwrap(),
        spec: RepositorySpec { url, webhook: None, poll: Duration::ZERO, login: None, forge: None },
        tracking: vec![(name("shop"), BranchName::new("dev").unwrap())],
        paths: BTreeMap::new(),
        checks: BTreeMap::new(),
    };
    let hint = Hint { revision: CommitId::new(&new).unwrap(), by: "github (alice)".to_owned(), at: now() };
    let push = Push { id: None, repository: branches.repository.clone(), hint };
    handles.writer.push(push, &[name("shop")]).await.unwrap();
    let poller = poller(PollSource::Branches(Box::new(branches)), &handles);
    let late = async {
        // The head that git shows first is recorded, and the hint stays.
        while handles.desired.get(&name("shop")).unwrap().head.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(handles.desired.get(&name("shop")).unwrap().hint.is_some());
        git(&repository, &["reset", "--quiet", "--hard", &new]);
    };
    let (Desired { entry, .. }, ()) =
        tokio::join!(until(poller, &handles, |desired| desired.hint.is_none()), late);
    assert_eq!((entry.generation, entry.by.as_deref()), (Generation(2), Some("github (alice)")));
    assert_eq!(entry.revision.unwrap().as_str(), new);
}

#[tokio::test]
async fn a_failing_repository_does_not_stop_polling_of_others() {
    let (host, home) = (registry().await, tempfile::tempdir().unwrap());
    let handles = open(home.path()).unwrap();
    let pushed = format!("{host}/private/pushed");
    let image = Image { reference: Some(pushed.clone()), digest: Some(digest()), id: None };
    let change = Change {
        revision: None,
        image: Some(image),
        origin: Origin::Set,
        by: None,
        token: None,
        note: None,
        at: now(),
        hold: None,
    };
    handles.writer.submit(&name("pusher"), change, &[]).await.unwrap();
    let tag = |path: &str| format!("{host}/{path}:latest").parse().unwrap();
    let tags = Tags {
        host: host.parse().unwrap(),
        interval: Duration::from_secs(60),
        pushers: vec![(name("pusher"), pushed.parse().unwrap())],
        tracking: vec![
            (name("first"), tag("broken/tag"), PullPolicy::Always),
            (name("second"), tag("good/tag"), PullPolicy::Always),
        ],
    };
    let poller = poller(PollSource::Tags(tags), &handles);
    let (poll_state, errors) = (poller.tools.findings.poll_state.clone(), poller.tools.errors.clone());
    assert!(!poller.ask(0).await);
    let pushed = errors.lock().unwrap().values().next().cloned().unwrap();
    assert!(pushed.contains("denies access"), "{pushed}");
    let broken = poll_state.of(&name("first")).trouble.unwrap();
    assert_eq!(broken.reason, Reason::RegistryUnavailable);
    assert!(broken.message.contains("500"), "{broken:?}");
    assert_eq!(poll_state.of(&name("second")).trouble, None, "the trouble of one is none of another");
    let of = |environment| handles.desired.get(&name(environment)).unwrap().entry;
    assert_eq!(of("second").image.unwrap().digest, Some(digest()));
    assert_eq!(of("first").generation, Generation(0));
}

#[tokio::test]
async fn a_pull_policy_limits_how_often_a_tag_is_asked_for() {
    let (host, home) = (registry().await, tempfile::tempdir().unwrap());
    let handles = open(home.path()).unwrap();
    let shop = name("shop");
    let asks = |tag: &str, policy: &str| {
        let image = format!("{host}/late/shop:{tag}").parse().unwrap();
        let tags = Tags {
            host: host.parse().unwrap(),
            interval: Duration::from_secs(60),
            pushers: Vec::new(),
            tracking: vec![(name("shop"), image, policy.parse().unwrap())],
        };
        poller(PollSource::Tags(tags), &handles)
    };
    let desired = || handles.desired.get(&shop).unwrap();
    let missing = asks("stable", "missing");
    assert!(missing.ask(0).await, "the first image is asked for");
    assert_eq!(desired().entry.image.unwrap().digest, Some(older()));
    for _ in 0..LATE {
        assert!(missing.ask(0).await && asks("stable", "daily").ask(0).await);
        assert!(missing.tools.findings.poll_state.of(&shop).answered.is_some(), "a wait is answered");
    }
    assert_eq!(desired().entry.generation, Generation(1), "the registry has another digest by now");
    for _ in 0..LATE {
        handles.writer.sync(&shop, now(), true).await.unwrap();
        assert!(missing.ask(0).await);
    }
    assert_eq!(desired().entry.generation, Generation(2), "a user asked for it");
    let before = desired().asked_tag.unwrap();
    assert!(asks("other", "missing").ask(0).await);
    assert_ne!(desired().asked_tag.unwrap().image, before.image, "another tag is asked for");
    assert!(asks("other", "every_1s").ask(0).await);
    let old = desired().asked_tag.unwrap().at;
    while desired().asked_tag.unwrap().at == old {
        assert!(asks("other", "every_1s").ask(0).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(desired().asked_tag.unwrap().at >= old.after(Duration::from_secs(1)), "not before its time");
}
