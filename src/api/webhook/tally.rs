//! Counts deliveries by result, for `/metrics`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::name::RepositoryName;

/// The metric's name in `/metrics`.
const FAMILY: &str = "abide_webhook_deliveries_total";

/// Deliveries by repository and result since the process began. Cheap to clone; all clones share
/// one state.
///
/// Displayed in the Prometheus text format. Deliveries refused before a repository was found have
/// an empty repository, so senders cannot invent label values.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: Arc<Mutex<Counts>>,
}

type Counts = BTreeMap<(Option<RepositoryName>, &'static str), u64>;

impl Tally {
    /// Counts one delivery.
    pub(super) fn count(&self, repository: Option<RepositoryName>, result: &'static str) {
        *self.counts().entry((repository, result)).or_default() += 1;
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# HELP {FAMILY} Webhook deliveries, by result.\n# TYPE {FAMILY} counter")?;
        for ((repository, result), count) in &*self.counts() {
            // Neither needs escaping: names follow a grammar, and results are constants.
            let repository = repository.as_ref().map_or("", RepositoryName::as_str);
            writeln!(f, "{FAMILY}{{repository=\"{repository}\",result=\"{result}\"}} {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together_and_every_result_has_a_line() {
        let tally = Tally::default();
        let shop = RepositoryName::new("shop").unwrap();
        tally.count(Some(shop.clone()), "recorded");
        tally.clone().count(Some(shop), "recorded");
        tally.count(None, "refused");
        let page = tally.to_string();
        assert!(page.contains("abide_webhook_deliveries_total{repository=\"shop\",result=\"recorded\"} 2\n"));
        assert!(page.contains("abide_webhook_deliveries_total{repository=\"\",result=\"refused\"} 1\n"));
        assert!(page.starts_with("# HELP abide_webhook_deliveries_total "), "{page}");
    }
}
