//! The use of CPU and memory by a container, computed from the engine's counters as the Docker CLI does.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{ContainerCpuStats, ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::StatsOptionsBuilder;
use futures::StreamExt as _;

use super::{Engine, EngineError, Result};
use crate::model::usage::ResourceUsage;

/// Deadline of a measurement. The engine needs one to two seconds, because it takes two samples.
const MEASURED_WITHIN: Duration = Duration::from_secs(10);

impl Engine {
    /// Measures a container; `None` if it does not exist or does not run. It takes no turn in the budget of calls,
    /// because it mostly waits.
    pub(crate) async fn usage(&self, id: &str) -> Result<Option<ResourceUsage>> {
        let docker = self.connection().await?;
        let options = StatsOptionsBuilder::default().stream(false).one_shot(false).build();
        let mut samples = Box::pin(docker.stats(id, Some(options)));
        let sample = tokio::time::timeout(MEASURED_WITHIN, samples.next()).await;
        let call = "measure a container";
        match sample.map_err(|_| EngineError::Deadline { call, within: MEASURED_WITHIN })? {
            Some(Ok(sample)) => Ok(usage(id, &sample)),
            Some(Err(error)) => match EngineError::from(error) {
                EngineError::NotFound(_) => Ok(None),
                error => Err(error),
            },
            None => Ok(None),
        }
    }
}

/// The use between the two samples; `None`: the container does not run.
fn usage(id: &str, sample: &ContainerStatsResponse) -> Option<ResourceUsage> {
    let memory = sample.memory_stats.as_ref()?;
    // Of a container that ended, all counters are missing.
    let memory_bytes = memory.usage?.saturating_sub(file_cache(memory));
    let cpu_percent = sample.cpu_stats.as_ref().zip(sample.precpu_stats.as_ref());
    Some(ResourceUsage {
        container_id: id.to_owned(),
        cpu_percent: cpu_percent.map_or(0.0, |(now, before)| percent(now, before)),
        memory_bytes,
        memory_limit_bytes: memory.limit.filter(|limit| *limit > 0),
        pids: sample.pids_stats.as_ref().and_then(|pids| pids.current),
    })
}

/// The file cache that was not used lately: cgroup v1 and v2 name it differently.
fn file_cache(memory: &ContainerMemoryStats) -> u64 {
    let counters: &HashMap<String, u64> = match &memory.stats {
        Some(counters) => counters,
        None => return 0,
    };
    let found = ["total_inactive_file", "inactive_file"].iter().find_map(|name| counters.get(*name));
    found.copied().unwrap_or_default()
}

fn percent(now: &ContainerCpuStats, before: &ContainerCpuStats) -> f64 {
    let total = |stats: &ContainerCpuStats| stats.cpu_usage.as_ref().and_then(|usage| usage.total_usage);
    let used = total(now).unwrap_or_default().saturating_sub(total(before).unwrap_or_default());
    let system = now.system_cpu_usage.unwrap_or_default();
    let passed = system.saturating_sub(before.system_cpu_usage.unwrap_or_default());
    if passed == 0 {
        return 0.0;
    }
    let cpus = now.online_cpus.filter(|cpus| *cpus > 0).unwrap_or(1);
    (used as f64 / passed as f64 * f64::from(cpus) * 1000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_computed_from_two_samples() {
        let sample = serde_json::json!({
            "cpu_stats": { "cpu_usage": { "total_usage": 5_000 }, "system_cpu_usage": 40_000, "online_cpus": 4 },
            "precpu_stats": { "cpu_usage": { "total_usage": 4_000 }, "system_cpu_usage": 20_000 },
            "memory_stats": { "usage": 900, "limit": 4_096, "stats": { "inactive_file": 100 } },
            "pids_stats": { "current": 7 },
        });
        let found = usage("id", &serde_json::from_value(sample).unwrap()).unwrap();
        assert!((found.cpu_percent - 20.0).abs() < 1e-9, "{found:?}");
        assert_eq!((found.memory_bytes, found.memory_limit_bytes, found.pids), (800, Some(4_096), Some(7)));
        let ended =
            serde_json::json!({ "cpu_stats": {}, "precpu_stats": {}, "memory_stats": {}, "pids_stats": {} });
        assert_eq!(usage("id", &serde_json::from_value(ended).unwrap()), None);
    }
}
