//! `[manifest]`.

use super::table::ManifestField;
use super::{grammar, keys, repository};
use crate::model::name::BranchName;
use crate::model::spec::FollowedManifest;

/// The default of `branch`.
const BRANCH: &str = "main";
/// The default of `path`: the root.
const ROOT: &str = ".";

pub(super) fn read(field: &ManifestField<'_>) -> Option<FollowedManifest> {
    let table = field.table(&keys::MANIFEST)?;
    let webhook = table.get("webhook").and_then(|hook| repository::read_webhook(&hook));
    let repository = repository::read_table(&table, webhook);
    let branch = match table.get("branch") {
        Some(field) => field.name(),
        None => BranchName::new(BRANCH).ok(),
    };
    let path = match table.get("path") {
        Some(field) => field.parsed("a path in the repository", grammar::inside_or_all),
        None => Some(ROOT.to_owned()),
    };
    Some(FollowedManifest { repository: repository?, branch: branch?, path: path? })
}
