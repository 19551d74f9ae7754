//! Runs the check of each new version once, in the network of its environment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::{Check, Healthy, Promoter, PromoterInput};
use crate::controller::clock::now;
use crate::controller::docker::{EngineError, STEP_NAME, StepEnd, StepRun};
use crate::controller::jobs::pull::pull_declared;
use crate::model::container::label;
use crate::model::error::chain;
use crate::model::evidence::{Evidence, EvidenceFinding};
use crate::model::gates::VerifySpec;
use crate::model::name::EnvironmentName;
use crate::model::spec::{EnvironmentSpec, Manifest};
use crate::record::RecordError;

/// How long to wait after a check that could not be run.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// The most output of a check, in bytes; more is a failure.
const MOST_OUTPUT: u64 = 1 << 20;
/// The limits of a check: memory in bytes, and processes.
const MEMORY: u64 = 1 << 30;
const PIDS: u32 = 1024;

/// The result of a check.
struct VerifyOutcome {
    passed: bool,
    result: String,
    output: String,
}

impl Promoter {
    /// Starts the checks that are due, and forgets those that have ended or that nobody wants any more.
    pub(super) async fn verify(
        &mut self,
        manifest: &Manifest,
        changed: &BTreeSet<EnvironmentName>,
    ) -> Result<(), RecordError> {
        let at = Instant::now();
        for (name, spec) in &manifest.environments {
            let Some(verify) = &spec.verify else { continue };
            let healthy = self.state.healthy.get(name).cloned();
            let generation = healthy.as_ref().map(|healthy| healthy.desired.entry.generation);
            if let Some(check) = self.state.checks.get(name) {
                let has_ended = check.task.is_finished();
                if !has_ended && Some(check.generation) == generation {
                    continue;
                }
                self.state.checks.remove(name);
                if has_ended {
                    // A check that could not be run has left no evidence, and is tried again.
                    self.state.retries.insert(name.clone(), at + RETRY_AFTER);
                    self.state.changed.insert(name.clone());
                    continue;
                }
            }
            let is_due = self.state.retries.get(name).is_some_and(|retry| *retry <= at);
            let Some(healthy) = healthy.filter(|_| is_due || changed.contains(name)) else { continue };
            if self.is_verified(name, verify, &healthy)? {
                self.state.retries.remove(name);
                continue;
            }
            if !is_due && self.state.retries.contains_key(name) {
                continue;
            }
            self.state.retries.remove(name);
            let generation = healthy.desired.entry.generation;
            let job = Job { input: self.input.clone(), name: name.clone(), spec: spec.clone(), healthy };
            let verify = verify.clone();
            let task = tokio::spawn(async move { job.run(&verify).await });
            self.state.checks.insert(name.clone(), Check { generation, task });
        }
        self.state.checks.retain(|name, _| manifest.environments.contains_key(name));
        Ok(())
    }

    /// Whether the check has run for this generation. A failure counts until an operator runs `abide sync`.
    fn is_verified(
        &self,
        name: &EnvironmentName,
        verify: &VerifySpec,
        healthy: &Healthy,
    ) -> Result<bool, RecordError> {
        let (mark, entry) = (verify.mark(), &healthy.desired.entry);
        let found = self.input.desired.evidence(name)?;
        let results = found.iter().rev().filter(|found| found.generation == entry.generation);
        let mut results = results.filter_map(|found| match &found.finding {
            EvidenceFinding::Verified { passed, check, .. } if *check == mark => Some((*passed, found.at)),
            _ => None,
        });
        Ok(match results.next() {
            None => false,
            Some((true, _)) => true,
            Some((false, at)) => healthy.desired.sync.is_none_or(|sync| sync <= at),
        })
    }
}

/// One check.
struct Job {
    input: PromoterInput,
    name: EnvironmentName,
    spec: EnvironmentSpec,
    healthy: Healthy,
}

impl Job {
    async fn run(self, verify: &VerifySpec) {
        let environment = &self.name;
        let ran = tokio::time::timeout(verify.timeout, self.check(verify)).await;
        let outcome = match ran {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                warn!(%environment, error = %error, "the check of a version could not be run; it is tried again");
                return;
            }
            Err(_) => VerifyOutcome {
                passed: false,
                result: format!("did not end within {}", humantime::format_duration(verify.timeout)),
                output: String::new(),
            },
        };
        let generation = self.healthy.desired.entry.generation;
        let message = match outcome.passed {
            true => format!("generation {generation} passed its check"),
            false => format!("generation {generation} failed its check: {}", outcome.result),
        };
        let VerifyOutcome { passed, result, output } = outcome;
        let evidence = Evidence {
            sequence: 0,
            environment: environment.clone(),
            image: self.healthy.image.clone(),
            generation,
            finding: EvidenceFinding::Verified { passed, check: verify.mark(), result, output },
            by: None,
            at: now(),
            note: None,
        };
        if let Err(error) = self.input.writer.evidence(evidence, message).await {
            warn!(%environment, error = chain(&error), "the result of a check could not be recorded");
        }
    }

    /// Runs the command once. An error does not count against the version.
    async fn check(&self, verify: &VerifySpec) -> Result<VerifyOutcome, EngineError> {
        let input = &self.input;
        let image = match (&verify.image, &self.healthy.image.id) {
            (Some(image), _) => {
                if input.engine.image_id(image).await?.is_none() {
                    pull_declared(&input.engine, &input.registries, image).await?;
                }
                image.clone()
            }
            (None, Some(id)) => id.to_string(),
            (None, None) => return Err(EngineError::Refused("the ID of its image is not known".to_owned())),
        };
        let containers = input.cache.containers(&self.name);
        let serving = containers.iter().find(|container| container.id == self.healthy.container);
        let joined = serving.and_then(|serving| serving.joined.as_ref()).map(|joined| joined.holder.as_str());
        let network = format!("container:{}", joined.unwrap_or(&self.healthy.container));
        // The check shares the network namespace of the program.
        let url = format!("http://127.0.0.1:{}", self.spec.port.unwrap_or_default());
        let command = verify.command.iter().map(|word| word.replace(VerifySpec::URL, &url)).collect();
        let short: String = input.record.chars().take(8).collect();
        let generation = self.healthy.desired.entry.generation;
        let name = format!("{STEP_NAME}{short}-verify-{}-{generation}", self.name);
        let step = StepRun {
            image: &image,
            name: &name,
            labels: BTreeMap::from([(label::STEP.to_owned(), input.record.clone())]),
            memory: MEMORY,
            pids: PIDS,
            max_output: MOST_OUTPUT,
            joins: Some((network, command)),
        };
        let (mut out, mut errors): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        let mut log = |bytes: &[u8]| {
            let left = usize::try_from(MOST_OUTPUT).unwrap_or(usize::MAX).saturating_sub(errors.len());
            errors.extend(bytes.iter().take(left));
        };
        let end = input.engine.run_for_output(step, &mut out, &mut log).await?;
        let (passed, result) = match end {
            StepEnd::Exited(0) => (true, "exit code 0".to_owned()),
            StepEnd::Exited(code) => (false, format!("exit code {code}")),
            StepEnd::OutOfMemory(code) => (false, format!("out of memory (exit code {code})")),
            StepEnd::TooMuchOutput => (false, format!("wrote more than {MOST_OUTPUT} bytes")),
        };
        out.extend(errors);
        Ok(VerifyOutcome { passed, result, output: String::from_utf8_lossy(&out).into_owned() })
    }
}
