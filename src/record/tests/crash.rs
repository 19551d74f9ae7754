//! A writing process is killed at any moment: every acknowledged write must survive.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::super::{Export, open};
use super::{commit, delivery, image, name, set};
use crate::model::name::Generation;

/// Names the folder of the record, and turns the test below into the process that is killed.
const VICTIM: &str = "ABIDE_RECORD_VICTIM";
const ROUNDS: u64 = 24;

#[test]
fn the_victim_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(write_for_ever(Path::new(&dir)));
}

/// Prints each acknowledged write: `generation dev 7`.
async fn write_for_ever(dir: &Path) {
    let handles = open(dir).unwrap();
    let (dev, test) = (name("dev"), name("test"));
    let mut out = std::io::stdout();
    loop {
        let before = handles.desired.get(&dev).unwrap().entry.generation.0;
        let desired = handles.writer.submit(&dev, set(before + 1), &[]).await.unwrap();
        writeln!(out, "dev {}", desired.entry.generation).unwrap();
        let number = handles.desired.get(&test).unwrap().entry.generation.0 + 1;
        let pushed = delivery(&number.to_string(), number);
        handles.writer.push(pushed, std::slice::from_ref(&test)).await.unwrap();
        writeln!(out, "hint {number}").unwrap();
        let at = super::at(number);
        let made = handles.resolver.advance_head(&test, &commit(number), at).await.unwrap().unwrap();
        writeln!(out, "test {made}").unwrap();
        handles.resolver.resolve_image(&test, made, image(number)).await.unwrap();
        writeln!(out, "image {made}").unwrap();
    }
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_however_the_process_ends() {
    let home = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for round in 0..ROUNDS {
        let acknowledged = kill_after(home.path(), Duration::from_micros(3_000 + round * 7_919 % 90_000));
        let handles = open(home.path()).unwrap();
        checked += acknowledged.len();
        for line in &acknowledged {
            let (what, number) = line.split_once(' ').unwrap();
            let number: u64 = number.parse().unwrap();
            let environment = name(if what == "dev" { "dev" } else { "test" });
            let entry = handles.desired.entry(&environment, Generation(number)).unwrap();
            match what {
                // A hint is gone once the head is recorded, and a repeated delivery is recognized.
                "hint" => {
                    let again = delivery(&number.to_string(), number);
                    assert!(handles.writer.push(again, &[]).await.unwrap().repeated, "{line}");
                }
                "image" => assert_eq!(entry.unwrap().image, Some(image(number)), "{line}"),
                _ => assert!(entry.is_some(), "{line} was acknowledged and is lost"),
            }
        }
        assert_complete(&handles.desired.export().unwrap());
        assert!(handles.notices.iter().all(|notice| notice.contains("snap.")), "{:?}", handles.notices);
    }
    assert!(checked > 100, "only {checked} writes were acknowledged before the kills");
}

/// Kills the victim some time after its first line, and returns its output.
fn kill_after(home: &Path, time: Duration) -> Vec<String> {
    let mut victim = victim(home);
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.by_ref().find(|line| line.starts_with("dev ") || line.contains(" dev "));
    std::thread::sleep(time);
    victim.kill().unwrap();
    victim.wait().unwrap();
    let first = first.and_then(|line| Some(line.get(line.find("dev ")?..)?.to_owned()));
    let kinds = ["dev ", "hint ", "test ", "image "];
    let printed = first.into_iter().chain(lines);
    printed.filter(|line| kinds.iter().any(|kind| line.starts_with(kind))).collect()
}

fn victim(home: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "record::tests::crash::the_victim_writes_until_it_is_killed", "--nocapture"])
        .env(VICTIM, home)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Checks that batches are complete: history has every generation, and begins with the current one.
fn assert_complete(export: &Export) {
    for environment in &export.environments {
        let current = environment.desired.entry.generation.0;
        let kept: Vec<_> = environment.history.iter().map(|kept| kept.entry.generation.0).collect();
        let oldest = kept.last().copied().unwrap_or(1);
        assert_eq!(kept, (oldest..=current).rev().collect::<Vec<_>>());
        // Generation 0 is only a hint.
        let newest = environment.history.first().map(|kept| &kept.entry);
        assert_eq!(newest, (current > 0).then_some(&environment.desired.entry));
    }
}
