//! `abide status --stats`: the use of CPU and memory. Each environment is measured for a second or two, so nothing else
//! asks for it.

use futures::StreamExt as _;
use serde::Serialize;

use crate::cli::client::{ApiClient, ClientError};
use crate::cli::output::style;
use crate::cli::output::table::{Cell, TextTable};
use crate::model::usage::ResourceUsage;
use crate::model::view::EnvironmentView;

/// Environments that are measured at once.
const AT_ONCE: usize = 16;

/// An environment as `status -o json` shows it, with its resource usage.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MeasuredEnvironment {
    #[serde(flatten)]
    pub(super) view: EnvironmentView,
    /// What its container uses; `null` if nothing runs or the answer is missing.
    pub(super) stats: Option<ResourceUsage>,
    /// Why the answer is missing.
    #[serde(skip)]
    pub(super) problem: Option<String>,
}

/// Measures all environments, and keeps their order. An environment that cannot be measured, such as on a host that is
/// not connected, does not hide the others.
pub(super) async fn measured(client: &ApiClient, views: Vec<EnvironmentView>) -> Vec<MeasuredEnvironment> {
    let measure = |view: EnvironmentView| async move {
        let asked: Result<_, ClientError> = match &view.running {
            Some(_) => client.usage(&view.environment).await,
            None => Ok(None),
        };
        let (stats, problem) = match asked {
            Ok(stats) => (stats, None),
            Err(error) => (None, Some(error.to_string())),
        };
        MeasuredEnvironment { view, stats, problem }
    };
    futures::stream::iter(views.into_iter().map(measure)).buffered(AT_ONCE).collect().await
}

pub(super) fn table(all: &[MeasuredEnvironment], width: Option<usize>) -> String {
    let mut table = TextTable::new(["ENVIRONMENT", "STATUS", "CPU", "MEMORY", "LIMIT", "PIDS", "CONTAINER"]);
    for MeasuredEnvironment { view, stats, .. } in all {
        let stats = stats.as_ref();
        table.row([
            view.environment.as_str().into(),
            Cell::styled(view.status.as_str(), style::condition(view.status)),
            Cell::or_dash(stats.map(|stats| format!("{:.1}%", stats.cpu_percent))),
            Cell::or_dash(stats.map(|stats| size(stats.memory_bytes))),
            Cell::or_dash(stats.and_then(|stats| stats.memory_limit_bytes).map(size)),
            Cell::or_dash(stats.and_then(|stats| stats.pids)),
            Cell::or_dash(view.container.as_deref()),
        ]);
    }
    table.render(width)
}

/// A size in the largest unit in which it is at least one.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = UNITS.into_iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(unit, name)| format!("{:.1} {name}", bytes as f64 / unit as f64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::{ready, view};
    use crate::model::status::{Condition, Reason};

    #[test]
    fn the_table_shows_what_each_environment_uses() {
        let stats = ResourceUsage {
            container_id: "id".to_owned(),
            cpu_percent: 12.34,
            memory_bytes: 35 << 20,
            memory_limit_bytes: Some(2 << 30),
            pids: Some(7),
        };
        let all = [
            MeasuredEnvironment { view: ready("dev"), stats: Some(stats), problem: None },
            MeasuredEnvironment {
                view: view("prod", Condition::Blocked, Reason::AgentAway),
                stats: None,
                problem: Some("the agent is disconnected".to_owned()),
            },
        ];
        let expected = "\
ENVIRONMENT  STATUS   CPU    MEMORY    LIMIT    PIDS  CONTAINER
dev          Ready    12.3%  35.0 MiB  2.0 GiB  7     dev-server
prod         Blocked  -      -         -        -     prod-server
";
        assert_eq!(anstream::adapter::strip_str(&table(&all, None)).to_string(), expected);
        assert_eq!((size(1023), size(1536)), ("1023 B".to_owned(), "1.5 KiB".to_owned()));
        let json = serde_json::to_value(&all[0]).unwrap();
        assert_eq!((&json["environment"], &json["stats"]["pids"]), (&"dev".into(), &7.into()));
    }
}
