//! One service as an environment.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::draft::EnvironmentDraft;
use super::interpolate::is_variable;
use super::literals::place_of_variable;
use super::project::ComposeProject;
use super::secrets::{self, is_marked, is_secret};
use super::time::{duration, whole_seconds, written};
use super::yaml::{Node, Scalar, YamlKind};
use super::{Checkout, ComposeInput};
use super::{basic_auth, build, health, network, settings, storage};
use crate::model::name::ContainerName;
use crate::model::platform::Platform;
use crate::model::pull::PullPolicy;
use crate::model::reference::{ImageRepository, TaggedImage};

/// Everything that a service is converted with.
pub(super) struct Context<'a> {
    pub(super) input: &'a ComposeInput<'a>,
    pub(super) project: &'a ComposeProject,
    /// The repository of its builds.
    pub(super) checkout: &'a Checkout,
    /// Values of secrets to store before the start: name of the daemon's variable and where its value is.
    pub(super) secrets: &'a mut BTreeMap<String, String>,
    /// Files to write beside the manifest, by name.
    pub(super) files: &'a mut BTreeMap<String, String>,
    /// The sources that several services write.
    pub(super) shared: &'a [String],
}

/// Keys that do nothing at run time, or nothing outside of Swarm.
const WITHOUT_EFFECT: &[&str] = &["attach", "develop", "expose", "profiles", "scale", "annotations"];

/// Keys that other functions of this module read.
const READ: &[&str] = &[
    "image",
    "build",
    "container_name",
    "command",
    "entrypoint",
    "environment",
    "env_file",
    "ports",
    "networks",
    "network_mode",
    "volumes",
    "volumes_from",
    "secrets",
    "configs",
    "healthcheck",
    "restart",
    "depends_on",
    "deploy",
    "links",
    "hostname",
    "extra_hosts",
    "mem_limit",
    "mem_reservation",
    "memswap_limit",
    "cpus",
    "pids_limit",
    "stop_grace_period",
    "init",
    "platform",
    "pull_policy",
    "logging",
    "ulimits",
    "labels",
    "tmpfs",
    "security_opt",
    "devices",
    "gpus",
    "dns",
    "dns_search",
    "dns_opt",
    "shm_size",
    "external_links",
];

pub(super) fn convert(context: &mut Context<'_>, name: &str, service: &Node) -> EnvironmentDraft {
    let mut draft = EnvironmentDraft {
        service: name.to_owned(),
        line: service.line,
        environment: environment_name(context.project, name),
        ..EnvironmentDraft::default()
    };
    restart(&mut draft, context.project, name, service);
    container(&mut draft, context, name, service);
    image(&mut draft, context, name, service);
    network::convert(&mut draft, context, name, service);
    command(&mut draft, service, "command");
    command(&mut draft, service, "entrypoint");
    environment(&mut draft, context, service);
    env_files(&mut draft, context, service);
    storage::convert(&mut draft, context, service);
    health::convert(&mut draft, service);
    limits(&mut draft, service);
    settings::convert(&mut draft, context, service);
    lifecycle(&mut draft, service);
    order(&mut draft, service);
    rest(&mut draft, service);
    unset(&mut draft, context.project, service);
    basic_auth::to_files(&mut draft, context, service);
    secrets::settle(&mut draft, context);
    draft
}

/// Notes the variables without a value, of which compose warns: they are empty texts in the manifest.
fn unset(draft: &mut EnvironmentDraft, project: &ComposeProject, service: &Node) {
    let mut names = Vec::new();
    for (key, value) in service.entries() {
        if key != "environment" {
            value.each_scalar(&mut |scalar| names.extend(scalar.unset.iter().cloned()));
            continue;
        }
        for (name, value) in value.entries() {
            // A reference to a secret needs no value here.
            let is_text = draft.get("env").and_then(|env| env.get(name)).is_some_and(Value::is_string);
            names.extend(
                value.scalar().filter(|_| is_text).into_iter().flat_map(|it| it.unset.iter().cloned()),
            );
        }
    }
    for declared in storage::declarations(project, service).chain(network::declarations(project, service)) {
        declared.each_scalar(&mut |scalar| names.extend(scalar.unset.iter().cloned()));
    }
    names.sort();
    names.dedup();
    for name in &names {
        draft.change(format!(
            "`{name}` has no value, so it is empty here: set it in `.env` and run this again"
        ));
    }
    draft.unset = names;
}

/// A name that is unique among projects. A service of the same name as its project has the name of the group that
/// it would be in, unless it is alone.
fn environment_name(project: &ComposeProject, service: &str) -> String {
    let is_alone = project.services.len() == 1;
    let name = &project.name;
    plain(&if is_alone && name == service { service.to_owned() } else { format!("{name}-{service}") })
}

/// A text in the grammar of environments and groups.
pub(super) fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' };
    text.chars().map(plain).take(63).collect()
}

/// When an ended container is started again. A program that runs once and ends is complete after exit code 0.
fn restart(draft: &mut EnvironmentDraft, project: &ComposeProject, name: &str, service: &Node) {
    let policy = service.get_text("restart").unwrap_or_default();
    let deployed = service.get("deploy").and_then(|deploy| deploy.get("restart_policy"));
    let condition = deployed.and_then(|policy| policy.get_text("condition")).unwrap_or_default();
    let is_awaited = project.services.iter().any(|(_, other)| {
        let needed = other.get("depends_on").and_then(|needs| needs.get(name));
        needed.and_then(|need| need.get_text("condition")) == Some("service_completed_successfully")
    });
    let is_once = ["no", "false"].contains(&policy) || condition == "none";
    if is_awaited || is_once || policy.starts_with("on-failure") || condition == "on-failure" {
        draft.set("restart", "on-failure");
    }
    if is_once {
        draft.change(
            "it runs once for each new version: exit code 0 completes it. After any other exit code, abide tries it \
             again, with a growing delay",
        );
    } else if let Some((_, most)) = policy.split_once(':') {
        draft.change(format!("it is started again after a failure, also more than {most} times"));
    }
}

/// The name of the container that compose runs. While that has it, the environment starts nothing, so two
/// containers never write the same data.
fn container(draft: &mut EnvironmentDraft, context: &Context<'_>, name: &str, service: &Node) {
    let project = &context.project.name;
    let running = context.input.running.iter().find(|it| it.project == *project && it.service == name);
    let declared = service.get("container_name").and_then(Node::scalar);
    // A variable without a value leaves a part of a name, which docker does not take either.
    let is_broken = declared
        .is_some_and(|name| !name.unset.is_empty() && ContainerName::new(name.text.as_str()).is_err());
    if let (Some(name), true) = (declared, is_broken) {
        draft.change(format!(
            "`container_name` is left out: {} has no value. Set it in `.env` and run this again to keep the name",
            name.unset.join(", ")
        ));
    }
    let declared = declared.filter(|_| !is_broken).map(|name| name.text.clone());
    let container = declared.or_else(|| running.map(|it| it.name.clone()));
    draft.set("container", container.unwrap_or_else(|| format!("{project}-{name}-1")));
}

fn image(draft: &mut EnvironmentDraft, context: &mut Context<'_>, name: &str, service: &Node) {
    platform(draft, context, service);
    if let Some(build) = service.get("build") {
        if service.get("image").is_some() {
            draft.change("`image` is left out: abide names the images that it builds");
        }
        build::convert(draft, context, name, build);
        // Every image with a `build` is built, and only its base images are pulled.
        if service.get_text("pull_policy") == Some("build") {
            draft.set("pull_policy", "build");
        }
        return;
    }
    let Some(image) = service.get("image").and_then(Node::scalar) else {
        draft.lose("it has neither `image` nor `build`");
        return;
    };
    if let Some((builder, build)) = builder_of(context.project, &image.text) {
        draft.change(format!("`image` is the one that `{builder}` builds, so abide builds it here too"));
        build::convert(draft, context, &builder, &build);
        return;
    }
    let policy = service.get_text("pull_policy").unwrap_or("always");
    match policy.parse::<PullPolicy>() {
        Ok(PullPolicy::Never | PullPolicy::Build) => {
            draft.set("pull_policy", "never");
            draft.act(format!(
                "the image {} is only on this host: after the start of the daemon, run `abide set {} IMAGE` \
                 with the ID that `docker image ls --no-trunc` shows",
                image.text, draft.environment
            ));
        }
        Ok(declared) => {
            tagged(draft, image);
            if declared != PullPolicy::Always {
                draft.set("pull_policy", declared.to_string());
            }
        }
        Err(_) => draft.lose(format!("`pull_policy: {policy}` is not a policy that abide knows")),
    }
}

/// The service that builds an image of this name.
fn builder_of(project: &ComposeProject, image: &str) -> Option<(String, Node)> {
    project.services.iter().find_map(|(name, service)| {
        let build = service.get("build")?;
        (service.get_text("image") == Some(image)).then(|| (name.clone(), build.clone()))
    })
}

fn tagged(draft: &mut EnvironmentDraft, image: &Scalar) {
    if image.text.parse::<TaggedImage>().is_ok() {
        return draft.set("image", image.text.as_str());
    }
    if image.text.parse::<ImageRepository>().is_ok() {
        return draft.set("image", format!("{}:latest", image.text));
    }
    match image.unset.as_slice() {
        [] => draft.lose(format!("`{}` is not the name of an image", image.text)),
        // The rest of the name may be there, such as `app:` of `app:${TAG}`.
        unset => draft.lose(format!(
            "the name of its image needs {}: set it in `.env` or name a file with --env-file",
            unset.join(", ")
        )),
    }
}

/// The platform of the image. One word stands for this host's platform, if it is part of it.
fn platform(draft: &mut EnvironmentDraft, context: &Context<'_>, service: &Node) {
    let Some(text) = service.get_text("platform") else { return };
    let own = context.input.platform;
    let declared = if own.split('/').any(|part| part == text) { own } else { text };
    match declared.parse::<Platform>() {
        Ok(declared) => {
            draft.set("platform", declared.to_string());
            if own.parse::<Platform>().is_ok_and(|own| !own.runs(&declared)) {
                draft.change(format!(
                    "`platform` is not this host's, {own}: it needs an emulator for these programs"
                ));
            }
        }
        Err(error) => draft.lose(format!("`platform` {error}")),
    }
}

/// A list, or a text that is split as compose does.
pub(super) fn words(node: &Node) -> Result<Vec<String>, String> {
    match &node.kind {
        YamlKind::Null => Ok(Vec::new()),
        YamlKind::List(items) => {
            Ok(items.iter().map(|item| item.text().unwrap_or_default().to_owned()).collect())
        }
        YamlKind::Text(scalar) => {
            shell_words::split(&scalar.text).map_err(|_| "has a quote that is not closed".to_owned())
        }
        YamlKind::Map(_) => Err("must be a text or a list".to_owned()),
    }
}

fn command(draft: &mut EnvironmentDraft, service: &Node, key: &str) {
    let Some(node) = service.get(key) else { return };
    match words(node) {
        // The engine takes an empty command for the image's own.
        Ok(words) if words.is_empty() && key == "command" => {}
        Ok(words) => draft.set(key, words),
        Err(problem) => draft.lose(format!("`{key}` {problem}")),
    }
}

fn environment(draft: &mut EnvironmentDraft, context: &mut Context<'_>, service: &Node) {
    let Some(node) = service.get("environment") else { return };
    let mut env = Map::new();
    for (name, value) in node.entries() {
        if let Some(value) = variable(draft, context, name, value) {
            env.insert(name.clone(), value);
        }
    }
    if !env.is_empty() {
        draft.set("env", Value::from(env));
    }
}

/// The value of a variable: a text, or a reference to a secret.
fn variable(
    draft: &mut EnvironmentDraft,
    context: &mut Context<'_>,
    name: &str,
    value: &Node,
) -> Option<Value> {
    let line = value.line;
    let project = context.project;
    let Some(scalar) = value.scalar() else {
        // Compose passes on a variable of its own environment, if there is one.
        return match project.variables.get(name) {
            Some(text) if is_secret(name, text) || project.literals.found_in(text).is_some() => {
                Some(reference(context, name))
            }
            Some(text) => Some(Value::from(text.as_str())),
            None => {
                draft.change(format!("`{name}` is left out: it has no value"));
                None
            }
        };
    };
    let is_of_secret = |variable: &String| {
        let text = project.variables.get(variable).map_or("", String::as_str);
        is_secret(variable, if text.is_empty() { "x" } else { text }) && !scalar.text.is_empty()
    };
    let own = secret_name(project, &draft.service, name);
    if let [unset, ..] = scalar.unset.as_slice() {
        let is_needed = project.unset.required.iter().any(|required| required.name == *unset);
        if is_variable(&scalar.raw) && (is_needed || is_secret(name, "x")) {
            return Some(reference(context, unset));
        }
        if is_needed {
            let place = format!("line {line} of the compose file, with a value for {unset}");
            return Some(stored(context, &own, &place));
        }
    }
    if let Some(mark) = secrets::sole_mark(&scalar.text) {
        return Some(reference(context, mark));
    }
    if !is_marked(&scalar.text) && !scalar.variables.iter().any(is_of_secret) {
        return Some(Value::from(scalar.text.as_str()));
    }
    // What the file itself holds needs no name.
    let parts = secrets::variables_of(&scalar.text).filter(|name| project.literals.line(name).is_none());
    let mut parts: Vec<String> = parts.collect();
    parts.dedup();
    let with =
        if parts.is_empty() { String::new() } else { format!(", with the value of {}", parts.join(", ")) };
    Some(stored(context, &own, &format!("line {line} of the compose file{with}")))
}

/// A reference to the secret that a name stands for: that of a variable, or of a value that the file holds. All
/// projects share the daemon's environment, so the project's name is in front.
pub(super) fn reference(context: &mut Context<'_>, name: &str) -> Value {
    let project = context.project;
    let place = match project.literals.place(name) {
        Some(place) => place.to_owned(),
        None if project.variables.contains_key(name) => place_of_variable(name),
        None => "nowhere yet: choose it".to_owned(),
    };
    stored(context, &daemon_variable(&[&project.name, name]), &place)
}

/// A reference to a variable of the daemon. If another secret has its name, it gets a number.
pub(super) fn stored(context: &mut Context<'_>, variable: &str, place: &str) -> Value {
    let mut name = variable.to_owned();
    let mut number = 2;
    while context.secrets.get(&name).is_some_and(|known| known != place) {
        name = format!("{variable}_{number}");
        number += 1;
    }
    context.secrets.insert(name.clone(), place.to_owned());
    json!({ "secret_env": name })
}

/// The name of the daemon's variable for a secret that has no name of its own.
pub(super) fn secret_name(project: &ComposeProject, service: &str, name: &str) -> String {
    daemon_variable(&[&project.name, service, name])
}

fn daemon_variable(parts: &[&str]) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = parts.join("_").chars().map(plain).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

fn env_files(draft: &mut EnvironmentDraft, context: &Context<'_>, service: &Node) {
    let mut files = Vec::new();
    for item in service.get("env_file").map(Node::items).unwrap_or_default() {
        let Some(path) = item.text().or_else(|| item.get_text("path")) else { continue };
        if item.get_text("format").is_some_and(|format| !format.is_empty()) {
            draft.change(format!("`format` of {path}: abide reads quotes and variables in the file"));
        }
        let required = item.get("required").and_then(Node::flag).unwrap_or(true);
        if required && !(context.input.exists)(path.as_ref()) {
            draft.act(format!("create the file of variables {path}"));
        }
        let path = context.input.written_path(path);
        files.push(if required { Value::from(path) } else { json!({ "path": path, "required": false }) });
    }
    if !files.is_empty() {
        draft.set("env_file", files);
    }
}

fn limits(draft: &mut EnvironmentDraft, service: &Node) {
    let deploy = service.get("deploy").and_then(|deploy| deploy.get("resources"));
    let limit = |key: &str| deploy.and_then(|resources| resources.get("limits")?.get(key)).cloned();
    let reserved = |key: &str| deploy.and_then(|resources| resources.get("reservations")?.get(key)).cloned();
    let text =
        |node: Option<Node>| node.and_then(|node| node.text().map(str::to_owned)).filter(|text| text != "0");
    if let Some(memory) = text(limit("memory").or_else(|| service.get("mem_limit").cloned())) {
        draft.set("memory", memory);
    }
    if let Some(cpus) = text(limit("cpus").or_else(|| service.get("cpus").cloned())) {
        match cpus.parse::<f64>() {
            Ok(cpus) => draft.set("cpus", cpus),
            Err(_) => draft.lose(format!("`cpus: {cpus}` is not a number")),
        }
    }
    if let Some(pids) = text(limit("pids").or_else(|| service.get("pids_limit").cloned())) {
        match pids.parse::<i64>() {
            Ok(pids) if pids > 0 => draft.set("pids", pids),
            _ => {}
        }
    }
    if let Some(memory) = text(reserved("memory").or_else(|| service.get("mem_reservation").cloned())) {
        draft.set("mem_reservation", memory);
    }
    if let Some(swap) = text(service.get("memswap_limit").cloned()) {
        draft.set("memswap_limit", swap.parse::<i64>().map_or(Value::from(swap), Value::from));
    }
    if let Some(devices) = reserved("devices") {
        settings::reserved_gpus(draft, &devices);
    }
    deployed(draft, service);
}

fn deployed(draft: &mut EnvironmentDraft, service: &Node) {
    let deploy = service.get("deploy");
    let replicas =
        deploy.and_then(|deploy| deploy.get_text("replicas")).or_else(|| service.get_text("scale"));
    match replicas.map(str::parse::<u32>) {
        None | Some(Ok(1)) => {}
        Some(Ok(0)) => draft.lose("it has no replicas, so compose does not run it"),
        Some(Ok(count)) => {
            draft.lose(format!(
                "{count} replicas: set one, then declare `replicas = {count}` in the manifest (docs/replicas.md)"
            ));
        }
        Some(Err(_)) => draft.lose("`replicas` is not a number"),
    }
    let keys = deploy.map(Node::entries).unwrap_or_default();
    let ignored = ["update_config", "rollback_config", "placement", "endpoint_mode", "mode", "labels"];
    let ignored: Vec<&str> =
        keys.iter().map(|(key, _)| key.as_str()).filter(|key| ignored.contains(key)).collect();
    if !ignored.is_empty() {
        draft.change(format!("`deploy` has {}, which only Swarm uses", ignored.join(", ")));
    }
}

fn lifecycle(draft: &mut EnvironmentDraft, service: &Node) {
    // abide's default is true, and compose's is false: some images must run as process 1 themselves.
    draft.set("init", service.get("init").and_then(Node::flag).unwrap_or(false));
    if let Some(period) = service.get_text("stop_grace_period") {
        match duration(period) {
            Some(period) => draft.set("stop_timeout", written(whole_seconds(period))),
            None => draft.lose(format!("`stop_grace_period: {period}` is not a duration")),
        }
    }
}

/// Its dependencies. Whether they are in the manifest is known once all services are converted.
fn order(draft: &mut EnvironmentDraft, service: &Node) {
    for (needed, options) in service.get("depends_on").map(Node::entries).unwrap_or_default() {
        let condition = match options.get_text("condition") {
            Some("service_healthy") => "healthy",
            Some("service_completed_successfully") => "completed",
            _ => "started",
        };
        draft.needs.push((needed.clone(), condition.to_owned()));
    }
    // A link to a service and its volumes imply that it starts first.
    let implied = ["links", "volumes_from"].into_iter().flat_map(|key| service.get(key).map(Node::items));
    for text in implied.flatten().filter_map(Node::text).filter(|text| !text.starts_with("container:")) {
        let needed = text.split(':').next().unwrap_or_default();
        if draft.needs.iter().all(|(known, _)| known != needed) {
            draft.needs.push((needed.to_owned(), "started".to_owned()));
        }
    }
}

/// Everything that nothing reads.
fn rest(draft: &mut EnvironmentDraft, service: &Node) {
    for (key, value) in service.entries() {
        let is_read = READ.contains(&key.as_str()) || settings::is_setting(key) || key.starts_with("x-");
        if is_read || value.is_null() || WITHOUT_EFFECT.contains(&key.as_str()) {
            continue;
        }
        draft.lose(format!("`{key}` (line {}) has no counterpart in abide", value.line));
    }
}
