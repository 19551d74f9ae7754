//! The engine's build cache, which all users of that engine share.

use bollard::Docker;
use bollard::query_parameters::PruneBuildOptionsBuilder;
use hyper::Uri;

use super::{Engine, QUICK, Result, SLOW, within};

/// The first version of the API in which the maximum size to keep has its own parameter.
const NAMED_SINCE: (u32, u32) = (1, 48);

impl Engine {
    /// Removes the least recently used entries of the engine's build cache until at most `budget` bytes are
    /// left. Entries in use and images stay. Returns the bytes that were freed.
    pub(crate) async fn prune_build_cache(&self, budget: u64) -> Result<u64> {
        let docker = self.connection().await?;
        let version = within("report its version", QUICK, docker.version()).await?;
        let budget = i64::try_from(budget).unwrap_or(i64::MAX);
        let options = PruneBuildOptionsBuilder::default().all(true);
        let (docker, options) = match number(version.api_version.as_deref()) {
            // An engine that does not know the parameter would ignore the limit and remove everything.
            version if version < NAMED_SINCE => (by_its_old_name(&docker), options.reserved_space(budget)),
            _ => (docker, options.max_used_space(budget)),
        };
        let prune = docker.prune_build(Some(options.build()));
        let pruned = within("prune the build cache", SLOW, prune).await?;
        Ok(pruned.space_reclaimed.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
    }
}

/// Returns the two numbers of a version such as `1.41`, or zeros if it cannot be read.
pub(super) fn number(version: Option<&str>) -> (u32, u32) {
    let mut parts = version.unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Sends the limit under its older name, because bollard only knows the newer one.
fn by_its_old_name(docker: &Docker) -> Docker {
    docker.clone().with_request_modifier(|mut request| {
        let uri = request.uri().to_string().replace("reserved-space=", "keep-storage=");
        if let Ok(uri) = uri.parse::<Uri>() {
            *request.uri_mut() = uri;
        }
        request
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(number(Some("1.41")) < NAMED_SINCE && number(Some("1.48")) >= NAMED_SINCE);
        assert!(number(Some("1.9")) < NAMED_SINCE && number(None) < NAMED_SINCE);
    }
}
