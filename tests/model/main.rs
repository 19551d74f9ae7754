//! A model checker: random operations and faults against the real daemon on a private engine. After each
//! step, the laws of docs/ARCHITECTURE.md must hold.
//!
//! Every scenario comes from a seed. A failure prints the seed and the smallest scenario that still fails.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `ABIDE_MODEL_SEEDS` | the seeds, such as `7` or `100..150`; by default the fixed ones of CI |
//! | `ABIDE_MODEL_STEPS` | the largest number of steps in a scenario, by default 8 |
//! | `ABIDE_MODEL_SHRINK` | the number of runs that make a failed scenario smaller, by default 0 |
//! | `ABIDE_MODEL_TRACE` | if set, prints each step as it begins |

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod arena;
mod laws;
mod play;
mod process;
mod scenario;
mod versions;
mod witness;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use proptest::strategy::{Strategy as _, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use arena::Arena;
use scenario::Scenario;

/// The seeds of a run without `ABIDE_MODEL_SEEDS`.
const FIXED: [u64; 6] = [21, 41, 53, 122, 125, 121];
/// The number of engines, and of scenarios that run at the same time.
const WORKERS: usize = 2;

#[test]
fn the_invariants_hold_after_every_step() {
    let seeds = seeds();
    let next = Mutex::new(seeds.clone().into_iter());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(seeds.len()) {
            scope.spawn(|| {
                let mut arena = None;
                loop {
                    let Some(seed) = next.lock().unwrap().next() else { return };
                    let Some(mut used) = arena.take().or_else(Arena::new) else { return };
                    match check(&mut used, seed) {
                        Ok(()) => arena = Some(used),
                        // Another engine for the next seed: this one may have failed.
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} seeds failed:\n{}",
        failures.len(),
        seeds.len(),
        failures.join("\n")
    );
}

fn seeds() -> Vec<u64> {
    let Ok(asked) = std::env::var("ABIDE_MODEL_SEEDS") else { return FIXED.to_vec() };
    let number = |text: &str| text.trim().parse::<u64>().expect("ABIDE_MODEL_SEEDS: a number, or FROM..TO");
    match asked.split_once("..") {
        Some((from, to)) => (number(from)..number(to)).collect(),
        None => asked.split(',').map(number).collect(),
    }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Runs the scenario of a seed, and looks for a smaller one if it fails.
fn check(arena: &mut Arena, seed: u64) -> Result<(), String> {
    let steps = number("ABIDE_MODEL_STEPS", 8);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut tree = scenario::scenarios(steps).new_tree(&mut runner).unwrap();
    let began = std::time::Instant::now();
    let Err(mut failure) = run(arena, &tree.current()) else {
        eprintln!("seed {seed}: passed in {:.1?} with {:?}", began.elapsed(), tree.current().parts);
        return Ok(());
    };
    eprintln!("seed {seed}: failed: {failure}");
    let mut smallest = tree.current();
    let mut is_simpler = tree.simplify();
    for _ in 0..number("ABIDE_MODEL_SHRINK", 0) {
        if !is_simpler {
            break;
        }
        match run(arena, &tree.current()) {
            Err(again) => {
                (failure, smallest) = (again, tree.current());
                is_simpler = tree.simplify();
            }
            Ok(()) => is_simpler = tree.complicate(),
        }
    }
    let (why, _log) = failure.split_once(play::LOG).unwrap_or((&failure, ""));
    let steps: String =
        smallest.steps.iter().map(|step| format!("\n    {:?}, then {:?}", step.act, step.then)).collect();
    Err(format!("seed {seed}: {why}\n  {:?}\n  steps:{steps}", smallest.parts))
}

fn run(arena: &mut Arena, scenario: &Scenario) -> Result<(), String> {
    let played = catch_unwind(AssertUnwindSafe(|| play::play(arena, scenario)));
    // The steps of a helper fail by a panic, which has been printed.
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "a panic, see above".to_owned()))
    })
}
