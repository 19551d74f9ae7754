//! The keys of a manifest, section by section.

/// A kind of table and its keys.
#[derive(Debug)]
pub struct Section {
    /// The table's dotted path, with `NAME` for names; empty for the top of a file.
    pub title: &'static str,
    /// Its keys.
    pub keys: &'static [&'static str],
}

pub(super) static ROOT: Section = Section {
    title: "",
    keys: &["repository", "environment", "front", "docker", "registry", "registry_access"],
};
pub(super) static DOCKER: Section =
    Section { title: "docker", keys: &["network", "holder", "build_cache", "guard", "parallel_updates"] };
pub(super) static FRONT: Section = Section {
    title: "front",
    keys: &["image", "http", "https", "certificate", "key", "drain", "trusted_proxies"],
};
pub(super) static MANAGED_REGISTRY: Section = Section {
    title: "registry",
    keys: &["managed", "image", "publish", "container", "volume", "htpasswd", "certificate", "key"],
};
pub(super) static REGISTRY_ACCESS: Section = Section {
    title: "registry_access.HOST",
    keys: &["username", "secret_env", "secret_file", "plain_http", "poll", "patience", "webhook"],
};
pub(super) static REGISTRY_WEBHOOK: Section =
    Section { title: "registry_access.HOST.webhook", keys: &["secret_env", "secret_file"] };
pub(super) static REPOSITORY: Section = Section {
    title: "repository.NAME",
    keys: &["url", "username", "secret_env", "secret_file", "webhook", "poll"],
};
pub(super) static WEBHOOK: Section =
    Section { title: "repository.NAME.webhook", keys: &["provider", "secret_env", "secret_file"] };
pub(super) static ENVIRONMENT: Section = Section {
    title: "environment.NAME",
    keys: &[
        "container",
        "port",
        "publish",
        "hostname",
        "source",
        "promote_from",
        "image",
        "build",
        "push",
        "command",
        "env",
        "volumes",
        "extra_hosts",
        "memory",
        "cpus",
        "pids",
        "init",
        "stop_timeout",
        "update",
        "health",
        "host",
    ],
};
pub(super) static SOURCE: Section =
    Section { title: "environment.NAME.source", keys: &["repository", "branch"] };
pub(super) static MOUNT: Section =
    Section { title: "environment.NAME.volumes", keys: &["source", "target", "read_only", "create"] };
pub(super) static SECRET: Section =
    Section { title: "environment.NAME.env.VARIABLE", keys: &["secret_env", "secret_file"] };
pub(super) static HEALTH: Section = Section {
    title: "environment.NAME.health",
    keys: &[
        "http",
        "tcp",
        "command",
        "docker",
        "none",
        "port",
        "host",
        "headers",
        "interval",
        "timeout",
        "start_deadline",
        "healthy_for",
    ],
};
pub(super) static BUILD: Section = Section {
    title: "environment.NAME.build",
    keys: &[
        "context",
        "dockerfile",
        "target",
        "args",
        "step",
        "secrets",
        "script",
        "image",
        "env",
        "remove",
        "overlay",
        "checkout",
        "git",
        "submodules",
        "lfs",
        "paths",
        "timeout",
        "idle_timeout",
        "memory",
        "pids",
        "max_output",
        "isolation",
    ],
};
pub(super) static STEP: Section = Section {
    title: "environment.NAME.build.step",
    keys: &["archive", "dockerfile", "context", "target", "args", "output"],
};
pub(super) static OVERLAY: Section =
    Section { title: "environment.NAME.build.overlay", keys: &["from", "to"] };
pub(super) static CHECKOUT: Section =
    Section { title: "environment.NAME.build.checkout", keys: &["url", "revision", "to"] };

/// Every section, in the order in which the manual explains them.
pub static SECTIONS: &[&Section] = &[
    &ROOT,
    &REPOSITORY,
    &WEBHOOK,
    &ENVIRONMENT,
    &SOURCE,
    &SECRET,
    &MOUNT,
    &HEALTH,
    &BUILD,
    &STEP,
    &OVERLAY,
    &CHECKOUT,
    &FRONT,
    &MANAGED_REGISTRY,
    &REGISTRY_ACCESS,
    &REGISTRY_WEBHOOK,
    &DOCKER,
];

/// Keys with a meaning that this version does not support: (section, key, reason). Ignoring them would be
/// worse than rejecting them. To support one, remove it here and add it to its section above.
pub static NOT_YET: &[(&str, &str, &str)] = &[];

/// The prefix of the user's own keys, at every level.
const OWN_PREFIX: &str = "x-";

/// Whether `key` is the user's own, which abide ignores.
pub(super) fn is_own(key: &str) -> bool {
    key.starts_with(OWN_PREFIX)
}

/// The problem with `key` in `section`; `None` if the key is valid there.
pub(super) fn objection(section: &Section, key: &str) -> Option<String> {
    if is_own(key) || section.keys.contains(&key) {
        return None;
    }
    let not_yet = NOT_YET.iter().find(|(title, name, _)| *title == section.title && *name == key);
    if let Some((_, _, why)) = not_yet {
        return Some(format!("`{key}` is not supported by this version of abide: {why}"));
    }
    let shown: String = key.chars().take(80).collect();
    Some(format!("unknown key `{shown}`; {}", advice(section, key)))
}

fn advice(section: &Section, key: &str) -> String {
    if let Some(near) = nearest(key, section.keys.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    if let Some(other) = SECTIONS.iter().find(|other| !other.title.is_empty() && other.keys.contains(&key)) {
        return format!("it is a key of `{}`", other.title);
    }
    format!("known here: {}", section.keys.join(", "))
}

/// The candidate that `text` was most likely meant to be: at most a third of it is mistyped.
pub(super) fn nearest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Nobody mistypes a name into such a long text, and the distance takes quadratic time.
    if text.len() > 64 {
        return None;
    }
    let wanted = text.to_lowercase();
    let allowed = wanted.chars().count() / 3;
    candidates
        .into_iter()
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The number of letters to insert, delete, change or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
