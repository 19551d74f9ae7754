//! `[environment.NAME.build]`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::table::{ManifestField, Table};
use super::{environment, grammar, keys, secrets, url};
use crate::model::name::NetworkName;
use crate::model::spec::{
    BUILD_NUMBER, Bounds, BuildOptions, BuildSpec, BuildStep, ExtraCheckout, Overlay, Recipe,
    default_build_timeout, default_idle_timeout,
};

/// The default build context of an image: the whole checkout.
const DEFAULT_CONTEXT: &str = ".";

/// The default Dockerfile of the final image, the same as for `docker build`.
const DEFAULT_DOCKERFILE: &str = "Dockerfile";

/// Keys that are valid only for a build with a Dockerfile.
const OF_DOCKERFILES: [&str; 14] = [
    "context",
    "dockerfile",
    "target",
    "args",
    "step",
    "secrets",
    "max_output",
    "cache_from",
    "network",
    "labels",
    "shm_size",
    "extra_hosts",
    "no_cache",
    "pull",
];

/// Keys that are valid only for a build with a script.
const OF_SCRIPTS: [&str; 3] = ["image", "env", "isolation"];

pub(super) fn read(field: &ManifestField<'_>) -> Option<BuildSpec> {
    let table = field.table(&keys::BUILD)?;
    let recipe = match table.get("script") {
        Some(script) => read_script(&table, &script),
        None => read_dockerfile(&table),
    };
    let remove = list(&table, "remove", "a list of paths such as [\"npl_packages\"]", read_removal);
    let overlay = list(&table, "overlay", "a list of tables { from = \"...\", to = \"...\" }", read_overlay);
    let checkout = list(&table, "checkout", "a list of tables { url, revision, to }", read_checkout);
    let bounds = read_bounds(&table);
    let flag = |key| table.get(key).and_then(|field| field.flag()).unwrap_or_default();
    Some(BuildSpec {
        recipe: recipe?,
        // The environment declares it.
        platform: None,
        remove,
        overlay,
        checkout,
        git: flag("git"),
        submodules: flag("submodules"),
        lfs: flag("lfs"),
        paths: list(&table, "paths", "a list of patterns such as [\"apps/a/**\"]", read_pattern),
        timeout: read_timeout(&table, "timeout", default_build_timeout()),
        idle_timeout: read_timeout(&table, "idle_timeout", default_idle_timeout()),
        bounds,
    })
}

/// The default build of a source: the Dockerfile in the root of the repository.
pub(super) fn by_default() -> BuildSpec {
    BuildSpec {
        recipe: Recipe::Dockerfile {
            context: DEFAULT_CONTEXT.to_owned(),
            dockerfile: DEFAULT_DOCKERFILE.to_owned(),
            target: None,
            args: BTreeMap::new(),
            steps: Vec::new(),
            secrets: BTreeMap::new(),
            options: BuildOptions::default(),
        },
        platform: None,
        remove: Vec::new(),
        overlay: Vec::new(),
        checkout: Vec::new(),
        git: false,
        submodules: false,
        lfs: false,
        paths: Vec::new(),
        timeout: default_build_timeout(),
        idle_timeout: default_idle_timeout(),
        bounds: Bounds::default(),
    }
}

fn read_pattern(field: &ManifestField<'_>) -> Option<String> {
    field.parsed("a pattern such as \"apps/a/**\"", grammar::path_pattern)
}

fn list<T>(
    table: &Table<'_>,
    key: &'static str,
    expected: &str,
    read: fn(&ManifestField<'_>) -> Option<T>,
) -> Vec<T> {
    let items = table.get(key).map(|field| field.items(expected)).unwrap_or_default();
    items.iter().filter_map(read).collect()
}

fn read_timeout(table: &Table<'_>, key: &'static str, default: Duration) -> Duration {
    let Some(field) = table.get(key) else { return default };
    let timeout = field.duration().unwrap_or(default);
    if timeout.is_zero() {
        field.must("must be more than zero");
    }
    timeout
}

fn read_bounds(table: &Table<'_>) -> Bounds {
    let default = Bounds::default();
    let size = |key| table.get(key).and_then(|field| environment::read_memory(&field));
    let pids = table.get("pids").and_then(|field| environment::read_pids(&field));
    let isolation = table.get("isolation").and_then(|field| field.flag());
    Bounds {
        memory: size("memory"),
        pids: pids.unwrap_or(default.pids),
        max_output: size("max_output").unwrap_or(default.max_output),
        isolation: isolation.unwrap_or(default.isolation),
    }
}

fn read_dockerfile(table: &Table<'_>) -> Option<Recipe> {
    for field in table.present(&OF_SCRIPTS) {
        field.must("goes with `script`, which is not set");
    }
    let steps = list(table, "step", "a list of [[environment.NAME.build.step]] tables", read_step);
    refuse_equal_outputs(table, &steps);
    let secrets = table.get("secrets").map(|field| secrets::build_secrets(&field)).unwrap_or_default();
    let (target, args, options) = (read_target(table), read_args(table), read_options(table));
    let context = path(table, "context", DEFAULT_CONTEXT, grammar::inside_or_all);
    let dockerfile = path(table, "dockerfile", DEFAULT_DOCKERFILE, grammar::inside);
    Some(Recipe::Dockerfile {
        context: context?,
        dockerfile: dockerfile?,
        target,
        args,
        steps,
        secrets,
        options,
    })
}

fn read_options(table: &Table<'_>) -> BuildOptions {
    let flag = |key| table.get(key).and_then(|field| field.flag()).unwrap_or_default();
    let labels = table.get("labels").map(|field| field.entries()).unwrap_or_default();
    let label = |entry: ManifestField<'_>| {
        if entry.key().starts_with("abide.") {
            // Containers inherit the labels of their image, and would look managed.
            entry.must("must not begin with `abide.`: such labels are abide's own");
        }
        Some((entry.key().to_owned(), secrets::plain(&entry)?))
    };
    BuildOptions {
        cache_from: list(table, "cache_from", "a list of images such as [\"shop/app:cache\"]", read_image),
        network: table
            .get("network")
            .and_then(|field| field.name::<NetworkName>())
            .map(|name| name.to_string()),
        labels: labels.into_iter().filter_map(label).collect(),
        shm_size: table.get("shm_size").and_then(|field| environment::read_memory(&field)),
        extra_hosts: list(table, "extra_hosts", "a list such as [\"host:10.0.0.6\"]", read_extra_host),
        no_cache: flag("no_cache"),
        pull: flag("pull"),
    }
}

fn read_image(field: &ManifestField<'_>) -> Option<String> {
    field.parsed("the name of an image", |text| match grammar::is_image(text) {
        true => Ok(text.to_owned()),
        false => Err("must be the name of an image, such as \"shop/app:cache\"".to_owned()),
    })
}

fn read_extra_host(field: &ManifestField<'_>) -> Option<String> {
    field.parsed("a text \"host:address\"", grammar::extra_host)
}

fn path(
    table: &Table<'_>,
    key: &'static str,
    default: &str,
    grammar: fn(&str) -> Result<String, String>,
) -> Option<String> {
    match table.get(key) {
        Some(field) => field.parsed("a path relative to the checkout", grammar),
        None => Some(default.to_owned()),
    }
}

fn read_target(table: &Table<'_>) -> Option<String> {
    table.get("target")?.parsed("the name of a stage such as \"runtime\"", grammar::stage)
}

fn read_args(table: &Table<'_>) -> BTreeMap<String, String> {
    let entries = table.get("args").map(|field| field.entries()).unwrap_or_default();
    let read = |entry: ManifestField<'_>| {
        if let Err(predicate) = grammar::build_id(entry.key()) {
            entry.must(predicate);
        }
        Some((entry.key().to_owned(), read_arg(&entry)?))
    };
    entries.into_iter().filter_map(read).collect()
}

/// Rejects secrets: build arguments stay readable in the image's history.
fn read_arg(field: &ManifestField<'_>) -> Option<String> {
    if let toml::de::DeValue::Table(_) = field.value() {
        field.must(
            "must be a text: build arguments are stored in the image, so put secrets into \
            `secrets`",
        );
        return None;
    }
    secrets::plain(field)
}

fn read_step(field: &ManifestField<'_>) -> Option<BuildStep> {
    let table = field.table(&keys::STEP)?;
    match (table.get("archive"), table.get("dockerfile")) {
        (Some(archive), None) => {
            for field in table.present(&["context", "target", "args", "output"]) {
                field.must("goes with `dockerfile`, not with `archive`");
            }
            let output = archive.parsed("the name of a file", grammar::archive)?;
            Some(BuildStep::Archive { output })
        }
        (None, Some(_)) => read_dockerfile_step(&table),
        _ => {
            table.problem("a build step needs either `archive` or `dockerfile`");
            None
        }
    }
}

fn read_dockerfile_step(table: &Table<'_>) -> Option<BuildStep> {
    let context = path(table, "context", DEFAULT_CONTEXT, grammar::inside_or_all);
    let dockerfile = path(table, "dockerfile", DEFAULT_DOCKERFILE, grammar::inside);
    let (target, args) = (read_target(table), read_args(table));
    let output = table.required("output")?;
    let output = output.parsed("the name of a file", grammar::inside);
    Some(BuildStep::Dockerfile { context: context?, dockerfile: dockerfile?, target, args, output: output? })
}

fn refuse_equal_outputs(table: &Table<'_>, steps: &[BuildStep]) {
    let mut seen = BTreeSet::new();
    for step in steps {
        let (BuildStep::Archive { output } | BuildStep::Dockerfile { output, .. }) = step;
        if !seen.insert(output) {
            table.problem(format!("two steps of `{}` create the same file `{output}`", table.path()));
        }
    }
}

fn read_script(table: &Table<'_>, script: &ManifestField<'_>) -> Option<Recipe> {
    for field in table.present(&OF_DOCKERFILES) {
        field.must("does not go with `script`");
    }
    let command: Vec<String> = script
        .texts("a list such as [\"./build-image.sh\", \"dev\"]")
        .into_iter()
        .map(str::to_owned)
        .collect();
    if command.first().is_none_or(String::is_empty) {
        script.must("must begin with the program to run, such as [\"./build-image.sh\", \"dev\"]");
    }
    let env = table.get("env").map(|field| secrets::variables(&field)).unwrap_or_default();
    let image = table.required("image")?;
    let image = image.parsed("the name of an image", script_image)?;
    Some(Recipe::Script { command, image, env })
}

fn script_image(text: &str) -> Result<String, String> {
    if grammar::is_image(&text.replace(BUILD_NUMBER, "0")) {
        return Ok(text.to_owned());
    }
    Err("must be an image that the script creates, such as \"keepwork/dev:b{build_number}\"".to_owned())
}

fn read_removal(field: &ManifestField<'_>) -> Option<String> {
    field.parsed("a path relative to the checkout", grammar::inside)
}

fn read_overlay(field: &ManifestField<'_>) -> Option<Overlay> {
    let table = field.table(&keys::OVERLAY)?;
    let from = table.required("from");
    let from = from.and_then(|from| from.parsed("an absolute path of this host", grammar::host_path));
    let to = table.required("to")?;
    let to = to.parsed("a path relative to the checkout", grammar::inside)?;
    Some(Overlay { from: from?, to })
}

fn read_checkout(field: &ManifestField<'_>) -> Option<ExtraCheckout> {
    let table = field.table(&keys::CHECKOUT)?;
    let url = table.required("url");
    let url = url.and_then(|url| url.parsed("a URL or an absolute path", url::repository_url));
    let revision = table.required("revision").and_then(|field| read_revision(&field));
    let to = table.required("to")?;
    let to = to.parsed("a path relative to the checkout", grammar::inside)?;
    Some(ExtraCheckout { url: url?, revision: revision?, to })
}

/// Reads a branch or a full commit id. Every commit id is also a valid branch name.
fn read_revision(field: &ManifestField<'_>) -> Option<String> {
    field.name::<crate::model::name::BranchName>().map(String::from)
}
