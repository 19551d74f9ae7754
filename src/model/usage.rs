//! The use of CPU and memory by a container.

use serde::{Deserialize, Serialize};

/// The resource usage of a container now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceUsage {
    /// The container's ID.
    pub container_id: String,
    /// The CPU time in the last second, in percent of one CPU.
    pub cpu_percent: f64,
    /// The memory in use, in bytes, without the file cache that the kernel can free at once.
    pub memory_bytes: u64,
    /// The limit of memory in bytes; without a limit, the memory of its host.
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}
