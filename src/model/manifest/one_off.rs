//! `release` and `after` of an environment.

use std::time::Duration;

use super::table::{ManifestField, Table};
use super::{grammar, keys};
use crate::model::one_off::{CommandWords, Hook, HookSpec};

/// The default of `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Reads one of the commands that run once for each image.
pub(super) fn read_hook(environment: &Table<'_>, hook: Hook) -> Option<HookSpec> {
    let field = environment.get(hook.as_str())?;
    let table = field.table(&keys::HOOK)?;
    let words = read_words(&table);
    let timeout = match table.get("timeout") {
        Some(field) => read_timeout(&field),
        None => Some(DEFAULT_TIMEOUT),
    };
    if words == CommandWords::default() && table.present(&["command", "entrypoint"]).is_empty() {
        field.must("needs a `command`, such as command = [\"./manage.py\", \"migrate\"]");
        return None;
    }
    Some(HookSpec { words, timeout: timeout? })
}

/// Reads `command` and `entrypoint`.
pub(super) fn read_words(table: &Table<'_>) -> CommandWords {
    let read = |key| table.get(key).and_then(|field| read_list(&field));
    CommandWords { command: read("command"), entrypoint: read("entrypoint") }
}

fn read_list(field: &ManifestField<'_>) -> Option<Vec<String>> {
    let words = field.texts("a list such as [\"./manage.py\", \"migrate\"]");
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    grammar::probe_command(words).map_err(|predicate| field.must(predicate)).ok()
}

pub(super) fn read_timeout(field: &ManifestField<'_>) -> Option<Duration> {
    grammar::patience(field.duration()?).map_err(|predicate| field.must(predicate)).ok()
}
