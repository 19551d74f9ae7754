//! Pushes during a build: a build that is no longer needed is cancelled.
//!
//! The builds of these tests wait until they are released, so that nothing depends on their speed.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::common::{PATIENCE, Scene, eventually, try_docker};

/// Waits for a file with the commit's name, then builds like the example.
const SCRIPT: &str = r#"until [ -e "$GATES/$GIT_COMMIT" ]; do sleep 0.1; done
tar cf build.tar bin www site.env
docker build --quiet --tag "$NAME:$BUILD_NUMBER" ."#;

/// dev, whose builds wait.
struct Gated {
    scene: Scene,
    gates: PathBuf,
}

impl Gated {
    /// With the first commit built and ready.
    fn new() -> Option<Self> {
        let scene = Scene::new(&["dev"], |manifest| {
            let (head, _) = manifest.split_once("[environment.dev.build]").unwrap();
            format!("{head}{}", Self::recipe(&manifest))
        })?;
        let gates = Self::gates(scene.site.repo.url());
        std::fs::create_dir(&gates).unwrap();
        let gated = Self { scene, gates };
        gated.release(&gated.scene.site.repo.head("dev"));
        gated.scene.ready("dev");
        Some(gated)
    }

    /// Beside the repository, whose path the manifest contains.
    fn gates(url: &str) -> PathBuf {
        PathBuf::from(url).with_file_name("gates")
    }

    fn recipe(manifest: &str) -> String {
        let manifest: toml::Table = toml::from_str(manifest).unwrap();
        let url = manifest["repository"]["keepwork"]["url"].as_str().unwrap();
        let name = manifest["environment"]["dev"]["container"].as_str().unwrap();
        let gates = Self::gates(url);
        format!(
            "[environment.dev.build]\nscript = [\"sh\", \"-ec\", '''\n{SCRIPT}''']\n\
             image = \"{name}:{{build_number}}\"\nenv = {{ GATES = '{}', NAME = '{name}' }}\n",
            gates.display()
        )
    }

    /// Releases the build of a commit.
    fn release(&self, commit: &str) {
        File::create(self.gates.join(commit)).unwrap();
    }

    /// Waits until a build of this commit runs.
    fn is_building(&self, commit: &str) {
        self.scene.until("its script runs", "dev", |view| {
            let message = view["message"].as_str().unwrap_or_default();
            view["reason"] == "Building" && view["revision"] == commit && message.contains("running sh")
        });
    }

    /// Whether the script of build `number` built an image.
    fn made_image(&self, number: usize) -> bool {
        let name = format!("{}:{number}", self.scene.container("dev"));
        try_docker(&["image", "inspect", &name]).is_some()
    }
}

#[test]
fn a_second_push_cancels_the_build_of_the_first() {
    let Some(gated) = Gated::new() else { return };
    let scene = &gated.scene;
    let before = scene.inspect("dev", "{{.Id}}");
    let first = scene.push_page("dev", "first");
    assert_eq!(scene.announce("dev").0, 202);
    gated.is_building(&first);
    let second = scene.push_page("dev", "second");
    assert_eq!(scene.announce("dev").0, 202);
    gated.is_building(&second);
    assert_eq!(scene.inspect("dev", "{{.Id}} {{.State.Running}}"), format!("{before} true"));
    // If the first build were still alive, it would now continue and build its image.
    gated.release(&first);
    gated.release(&second);
    scene.ready_at("dev", &second);
    assert_eq!(scene.page("dev"), "second");

    assert!(gated.made_image(3) && !gated.made_image(2));
    assert_eq!((scene.builds_begun(), scene.builds_ended()), (3, [2, 0]));
    let history = scene.history("dev");
    let outcomes: Vec<_> =
        history.iter().map(|entry| entry["outcome"]["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["ready", "superseded", "ready"]);
    assert_eq!(history[1]["revision"], first.as_str());
    assert!(history[1]["image"].is_null(), "{}", history[1]);
}

#[test]
fn a_thousand_deliveries_in_any_order_cause_at_most_two_builds() {
    const DELIVERIES: usize = 1_000;
    const SENDERS: usize = 4;
    let Some(gated) = Gated::new() else { return };
    let scene = &gated.scene;
    // Pushed to another branch first, so that the burst only has to update the branch.
    let commits: Vec<String> =
        (1..=20).map(|number| scene.push_page("prepared", &format!("version {number}"))).collect();
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let answers: BTreeSet<u16> = std::thread::scope(|scope| {
        let send = || {
            let turns = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
            turns.take_while(|turn| *turn < DELIVERIES).map(|turn| announced(scene, &commits, turn)).collect()
        };
        let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(send)).collect();
        for (index, commit) in commits.iter().enumerate() {
            let due = index * DELIVERIES / commits.len();
            eventually("the next push is due", PATIENCE, || next.load(Ordering::Relaxed) >= due);
            scene.site.repo.force("dev", commit);
        }
        let answers = senders.into_iter().map(|sender| -> BTreeSet<u16> { sender.join().unwrap() });
        answers.flatten().collect()
    });
    let took = began.elapsed();
    assert!(answers.iter().all(|status| matches!(status, 200 | 202)), "{answers:?}");

    // The last push is announced like any other, wherever it came in the scattered order above.
    scene.announce("dev");
    let head = commits.last().unwrap();
    gated.is_building(head);
    gated.release(head);
    scene.ready_at("dev", head);
    assert_eq!(scene.page("dev"), "version 20");
    let begun = scene.builds_begun() - 1;
    assert!((1..=2).contains(&begun), "{begun} builds were begun for a burst of {took:?}");
    assert_eq!(scene.builds_ended(), [2, 0]);
}

/// Announces one of the commits, scattered over old and new ones, and returns the status of the
/// answer.
fn announced(scene: &Scene, commits: &[String], turn: usize) -> u16 {
    // A multiplicative hash: unordered, but the same in every run.
    let scattered = turn.wrapping_mul(0x9E37_79B9) >> 7;
    scene.announce_commit("dev", &commits[scattered % commits.len()]).0
}
