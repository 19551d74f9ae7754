//! Many environments change at once: they are updated in waves, and crashed ones are healed
//! meanwhile.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Daemon, PATIENCE, Space, abide, busybox, docker, eventually, inspected, try_docker};

/// The number of environments, and how many may be updated at once.
const MANY: usize = 8;
const AT_ONCE: usize = 2;

/// Environments that differ only in their names.
struct Many {
    space: Space,
    folder: PathBuf,
}

impl Many {
    fn new(space: Space) -> Self {
        let folder = space.dir().join("desired-state");
        std::fs::create_dir(&folder).unwrap();
        let many = Self { space, folder };
        many.declare("a");
        many
    }

    fn declare(&self, version: &str) {
        let network = self.space.name("abide");
        let mut manifest = format!("[docker]\nnetwork = \"{network}\"\nparallel_updates = {AT_ONCE}\n");
        for number in 0..MANY {
            let container = self.container(number);
            writeln!(
                manifest,
                "[environment.e{number}]\ncontainer = \"{container}\"\nport = 8080\npublish = false\n\
                 command = [\"httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/tmp\"]\nenv = {{ VERSION = \"{version}\" }}\n\
                 health = {{ tcp = true, interval = \"200ms\", start_deadline = \"60s\", healthy_for = \"1s\" }}"
            )
            .unwrap();
        }
        let path = self.folder.join("many.toml");
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, manifest).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn container(&self, number: usize) -> String {
        self.space.name(&format!("e{number}"))
    }

    /// Whether the container of an environment runs this version.
    fn runs(&self, number: usize, version: &str) -> bool {
        let format = "{{.State.Running}} {{.Config.Env}}";
        let seen = try_docker(&["container", "inspect", "--format", format, &self.container(number)]);
        seen.is_some_and(|seen| seen.starts_with("true") && seen.contains(&format!("VERSION={version}")))
    }

    fn statuses(&self) -> Vec<Value> {
        statuses(&self.folder)
    }

    fn are_ready(&self, version: &str) -> bool {
        self.statuses().iter().all(|status| status["status"] == "Ready")
            && (0..MANY).all(|number| self.runs(number, version))
    }
}

fn statuses(folder: &Path) -> Vec<Value> {
    serde_json::from_str(&abide(folder, &["status", "-o", "json"]).stdout).unwrap()
}

fn waits(status: &Value) -> bool {
    status["message"].as_str().is_some_and(|message| message.contains("is queued"))
}

#[test]
fn an_edit_of_all_environments_is_rolled_out_in_small_batches() {
    let Some(space) = Space::new() else { return };
    let Some(image) = busybox(&space) else { return };
    let id = docker(&["image", "inspect", "--format", "{{.Id}}", &image]);
    let many = Many::new(space);
    let _daemon = Daemon::start(&many.folder, &[]);
    for number in 0..MANY {
        let set = abide(&many.folder, &["set", &format!("e{number}"), &id]);
        assert_eq!(set.code, 0, "{set:?}");
    }
    eventually("all are ready", PATIENCE * 3, || many.are_ready("a"));
    many.declare("b");
    let (mut most_down, mut has_crashed) = (0, false);
    eventually("all are updated", PATIENCE * 5, || {
        let untouched = (0..MANY).filter(|number| many.runs(*number, "a")).count();
        let statuses = many.statuses();
        let updated = statuses
            .iter()
            .enumerate()
            .filter(|(number, status)| status["status"] == "Ready" && many.runs(*number, "b"));
        most_down = most_down.max(MANY.saturating_sub(untouched + updated.count()));
        let waiting = statuses.iter().rposition(waits).filter(|number| many.runs(*number, "a"));
        if let Some(number) = waiting.filter(|_| !has_crashed) {
            has_crashed = true;
            let container = many.container(number);
            let before = inspected(&container, "{{.State.StartedAt}}");
            docker(&["kill", &container]);
            eventually("the one that waits is healed", PATIENCE, || {
                try_docker(&[
                    "container",
                    "inspect",
                    "--format",
                    "{{.State.StartedAt}} {{.State.Running}}",
                    &container,
                ])
                .is_some_and(|now| now.ends_with("true") && !now.starts_with(&before))
            });
        }
        many.are_ready("b")
    });
    assert!(has_crashed, "nobody ever waited");
    // The crashed one is updated out of turn, and one may have become ready between two checks.
    assert!(most_down <= AT_ONCE + 2, "{most_down} were down at once");
}
