//! The engine's health information about a running container.

use std::time::Duration;

use bollard::models::{ContainerInspectResponse, Health, HealthConfig};
use bollard::query_parameters::InspectContainerOptions;

use super::{Engine, QUICK, Result, convert, within};
use crate::model::observed::EngineHealth;

/// The engine's defaults for values that a `HEALTHCHECK` omits.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u32 = 3;

/// A running container's process and health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vitals {
    /// The process id on the engine's host.
    pub(crate) pid: Option<u32>,
    /// The status of the image's own `HEALTHCHECK`.
    pub(crate) health: EngineHealth,
    /// The check; `None` if there is none.
    pub(crate) check: Option<HealthCheck>,
    /// Whether the image turns off its own check or the one of its base image.
    pub(crate) is_turned_off: bool,
    /// The number of consecutive failures.
    pub(crate) failures: u32,
    /// The output of the last run.
    pub(crate) output: Option<String>,
}

/// A `HEALTHCHECK`, with the engine's defaults for values that it omits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    /// Time between two runs. The first run comes this long after the start.
    pub(crate) interval: Duration,
    /// The timeout of a run.
    pub(crate) timeout: Duration,
    /// Time after the start during which failures do not count.
    pub(crate) start_period: Duration,
    /// Consecutive failures that make the container unhealthy.
    pub(crate) retries: u32,
}

impl HealthCheck {
    /// The longest time from a start until the engine has decided.
    pub(crate) fn needs(&self) -> Duration {
        self.start_period + (self.interval + self.timeout).saturating_mul(self.retries)
    }

    fn of(config: &HealthConfig) -> Option<Self> {
        let is_a_command = config.test.as_ref().and_then(|test| test.first());
        is_a_command.filter(|kind| !kind.is_empty() && *kind != "NONE")?;
        let or = |nanos: Option<i64>, default| {
            let nanos = nanos.and_then(|nanos| u64::try_from(nanos).ok()).filter(|nanos| *nanos > 0);
            nanos.map_or(default, Duration::from_nanos)
        };
        let retries = config.retries.and_then(|retries| u32::try_from(retries).ok());
        Some(Self {
            interval: or(config.interval, INTERVAL),
            timeout: or(config.timeout, TIMEOUT),
            start_period: or(config.start_period, Duration::ZERO),
            retries: retries.filter(|retries| *retries > 0).unwrap_or(RETRIES),
        })
    }
}

impl Engine {
    /// Returns the health of a container; `None` if it does not exist.
    pub(crate) async fn vitals(&self, id: &str) -> Result<Option<Vitals>> {
        let docker = self.docker().await?;
        let call = docker.inspect_container(id, None::<InspectContainerOptions>);
        match within("inspect a container", QUICK, call).await {
            Ok(inspected) => Ok(Some(vitals(inspected))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn vitals(inspected: ContainerInspectResponse) -> Vitals {
    let state = inspected.state.unwrap_or_default();
    let config = inspected.config.and_then(|config| config.healthcheck).unwrap_or_default();
    let seen = convert::engine_health(&state);
    let health = state.health.unwrap_or_default();
    Vitals {
        pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
        health: seen,
        check: HealthCheck::of(&config),
        is_turned_off: config.test.is_some_and(|test| test.first().is_some_and(|kind| kind == "NONE")),
        failures: health.failing_streak.and_then(|streak| u32::try_from(streak).ok()).unwrap_or(0),
        output: last_output(health),
    }
}

fn last_output(health: Health) -> Option<String> {
    let output = health.log?.pop()?.output?;
    Some(output.trim().to_owned()).filter(|output| !output.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(test: &[&str], seconds: i64, retries: i64) -> Option<HealthCheck> {
        let nanos = Some(seconds * 1_000_000_000);
        HealthCheck::of(&HealthConfig {
            test: Some(test.iter().map(|word| (*word).to_owned()).collect()),
            interval: nanos,
            timeout: nanos,
            retries: Some(retries),
            start_period: nanos,
            ..HealthConfig::default()
        })
    }

    #[test]
    fn unset_healthcheck_fields_use_the_engines_defaults() {
        let needs = |check: Option<HealthCheck>| check.unwrap().needs().as_secs();
        assert_eq!(needs(check(&["CMD", "x"], 0, 0)), 180, "three times 30 s and 30 s");
        assert_eq!(needs(check(&["CMD-SHELL", "x"], 5, 4)), 45);
        assert_eq!(check(&["NONE"], 5, 4), None);
        assert_eq!(check(&[], 5, 4), None);
        assert_eq!(HealthCheck::of(&HealthConfig::default()), None);
    }
}
