//! Containers: list, inspect, create, start, stop, read the output.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, HealthConfig, HostConfig, NetworkingConfig, PortBinding,
    PortMap, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptions, CreateContainerOptionsBuilder, InspectContainerOptions,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder,
    RestartContainerOptionsBuilder, StopContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;

use super::{Engine, EngineError, QUICK, Result, SLOW, convert, mounts, networks, settings, step, within};
use crate::model::container::{ContainerSpec, label};
use crate::model::name::{ContainerName, NetworkName};
use crate::model::network::Attachments;
use crate::model::observed::ObservedContainer;
use crate::model::one_off::OneOffSpec;
use crate::model::ports::PortMapping;
use crate::model::secret_file::WrittenFile;

/// The path of the engine's init in a container that has it.
const ENGINES_INIT: &str = "/sbin/docker-init";

/// One line of the list of all containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The id.
    pub(crate) id: String,
    /// The names, without leading slashes.
    pub(crate) names: Vec<String>,
    /// The state, in the engine's spelling.
    pub(crate) state: String,
    /// The labels.
    pub(crate) labels: HashMap<String, String>,
}

/// The streams of a container that runs a command once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OneOffStreams {
    /// No input; the engine logs the output.
    Logged,
    /// A client has input and output.
    Attached,
    /// The same in a terminal.
    Terminal,
}

impl Engine {
    /// Lists all containers, running or not, in one call.
    pub(crate) async fn list(&self) -> Result<Vec<Listed>> {
        let docker = self.docker().await?;
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let all = within("list containers", QUICK, docker.list_containers(Some(options))).await?;
        let listed = all.into_iter().map(|summary| Listed {
            id: summary.id.unwrap_or_default(),
            names: summary
                .names
                .unwrap_or_default()
                .into_iter()
                .map(|name| name.trim_start_matches('/').to_owned())
                .collect(),
            state: summary.state.map(|state| state.to_string()).unwrap_or_default(),
            labels: summary.labels.unwrap_or_default(),
        });
        Ok(listed.collect())
    }

    /// Inspects one container; `None` if it does not exist.
    pub(crate) async fn inspect(&self, id: &str) -> Result<Option<ObservedContainer>> {
        let docker = self.docker().await?;
        let call = docker.inspect_container(id, None::<InspectContainerOptions>);
        match within("inspect a container", QUICK, call).await {
            Ok(inspected) => Ok(Some(convert::seen(inspected))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates a container in the network namespace of `holder`, or with its own if there is no holder.
    /// Returns its id.
    pub(crate) async fn create(
        &self,
        name: &ContainerName,
        spec: &ContainerSpec,
        holder: Option<&str>,
    ) -> Result<String> {
        let docker = self.docker().await?;
        let query = create_query(name.as_str(), spec);
        let call = docker.create_container(Some(query), create_body(spec, holder)?);
        let id = within("create a container", SLOW, call).await?.id;
        if holder.is_none() {
            let options = &spec.options;
            self.attach(&id, &options.record, &options.network, &options.attachments()).await?;
        }
        Ok(id)
    }

    /// Starts a container with these options that runs nothing of its image, and removes it. Returns an error if
    /// the engine rejects the options.
    pub(crate) async fn try_options(&self, spec: &ContainerSpec) -> Result<()> {
        let options = &spec.options;
        let name = format!("{}trial-{}", step::NAME, uuid::Uuid::new_v4().simple());
        let _removed = self.removed_at_last(&self.connection().await?, &name);
        let body = ContainerCreateBody {
            // The engine brings its init into every container that asks for it.
            entrypoint: Some(vec![ENGINES_INIT.to_owned()]),
            cmd: Some(vec!["--version".to_owned()]),
            labels: Some(HashMap::from([(label::STEP.to_owned(), options.record.clone())])),
            healthcheck: Some(no_check()),
            ..create_body(spec, None)?
        };
        let docker = self.docker().await?;
        let query = CreateContainerOptionsBuilder::default().name(&name).build();
        let call = docker.create_container(Some(query), body);
        let id = within("create a container", SLOW, call).await?.id;
        drop(docker);
        self.attach(&id, &options.record, &options.network, &options.attachments()).await?;
        let tried = self.start(&id).await;
        // Its ports are needed now.
        self.remove_scratch(&id).await?;
        tried.or_else(|error| if error.to_string().contains(ENGINES_INIT) { Ok(()) } else { Err(error) })
    }

    /// Creates a container that runs a command once, with its own network namespace. Returns its id.
    pub(crate) async fn create_one_off(&self, spec: &OneOffSpec, streams: OneOffStreams) -> Result<String> {
        let docker = self.docker().await?;
        let options = &spec.container.options;
        let query = create_query(options.name.as_str(), &spec.container);
        let is_attached = streams != OneOffStreams::Logged;
        let body = ContainerCreateBody {
            labels: Some(spec.labels().into_iter().collect()),
            tty: Some(streams == OneOffStreams::Terminal),
            open_stdin: Some(is_attached),
            stdin_once: Some(is_attached),
            attach_stdin: Some(is_attached),
            attach_stdout: Some(is_attached),
            attach_stderr: Some(is_attached),
            // The image's own check is about its service.
            healthcheck: Some(no_check()),
            ..create_body(&spec.container, None)?
        };
        let body = match spec.is_of_volume {
            true => ContainerCreateBody { image: Some(super::backup::PROGRAM.image()), ..body },
            false => body,
        };
        let id = within("create a container", SLOW, docker.create_container(Some(query), body)).await?.id;
        self.attach(&id, &options.record, &options.network, &options.attachments()).await?;
        Ok(id)
    }

    /// Starts a container. Succeeds if it already runs.
    pub(crate) async fn start(&self, id: &str) -> Result<()> {
        let docker = self.docker().await?;
        within("start a container", SLOW, docker.start_container(id, None)).await
    }

    /// Starts a container that has run before. If one of its networks was removed since, the container is
    /// connected to the network that has the name now, because the engine keeps asking for the removed one.
    pub(crate) async fn start_again(&self, id: &str, record: &str, attachments: &Attachments) -> Result<()> {
        match self.start(id).await {
            Err(EngineError::NotFound(words)) if words.starts_with("network ") => {
                for (network, attachment) in attachments {
                    self.create_network(network, record).await?;
                    self.connect(id, network, attachment).await?;
                }
                self.start(id).await
            }
            started => started,
        }
    }

    /// Writes files into a container that was not started yet.
    pub(crate) async fn write_files(&self, id: &str, files: &[WrittenFile]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let docker = self.docker().await?;
        let archive = archived(files).map_err(|error| EngineError::Refused(error.to_string()))?;
        let upload = UploadToContainerOptionsBuilder::default().path("/").build();
        let call = docker.upload_to_container(id, Some(upload), bollard::body_full(Bytes::from(archive)));
        within("write the secrets of a container", SLOW, call).await
    }

    /// Stops a container: SIGTERM, then SIGKILL after the container's own timeout. Succeeds if the container
    /// does not exist.
    pub(crate) async fn stop(&self, id: &str, patience: Duration) -> Result<()> {
        let docker = self.docker().await?;
        let seconds = i32::try_from(patience.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        gone_is_fine(
            within("stop a container", patience + SLOW, docker.stop_container(id, Some(options))).await,
        )
    }

    /// Stops a container and starts it again, in one call.
    pub(crate) async fn restart(&self, id: &str, patience: Duration) -> Result<()> {
        let docker = self.docker().await?;
        let seconds = i32::try_from(patience.as_secs()).unwrap_or(i32::MAX);
        let options = RestartContainerOptionsBuilder::default().t(seconds).build();
        within("restart a container", patience + SLOW, docker.restart_container(id, Some(options))).await
    }

    /// Removes a container. Its volumes stay, including those that the engine created for it, because they
    /// may hold data. Succeeds if the container does not exist.
    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        self.remove_with(id, false).await
    }

    /// Removes a container that abide ran only for itself, and the volumes that the engine created for it,
    /// which hold no user data. Succeeds if the container does not exist.
    pub(crate) async fn remove_scratch(&self, id: &str) -> Result<()> {
        self.remove_with(id, true).await
    }

    async fn remove_with(&self, id: &str, volumes: bool) -> Result<()> {
        let docker = self.docker().await?;
        let options = RemoveContainerOptionsBuilder::default().force(true).v(volumes).build();
        gone_is_fine(within("remove a container", SLOW, docker.remove_container(id, Some(options))).await)
    }

    /// Renames a container.
    pub(crate) async fn rename(&self, id: &str, name: &ContainerName) -> Result<()> {
        let docker = self.docker().await?;
        let options = RenameContainerOptionsBuilder::default().name(name.as_str()).build();
        within("rename a container", QUICK, docker.rename_container(id, options)).await
    }

    /// Pauses a container. Succeeds if it is paused already.
    pub(crate) async fn pause(&self, id: &str) -> Result<()> {
        let docker = self.docker().await?;
        match within("pause a container", QUICK, docker.pause_container(id)).await {
            Err(EngineError::Conflict(words)) if words.contains("already paused") => Ok(()),
            paused => paused,
        }
    }

    /// Resumes a paused container.
    pub(crate) async fn unpause(&self, id: &str) -> Result<()> {
        let docker = self.docker().await?;
        within("unpause a container", QUICK, docker.unpause_container(id)).await
    }

    /// Updates the limits without recreating the container, and sets the restart policy to `no`.
    pub(crate) async fn adjust(
        &self,
        id: &str,
        memory: Option<u64>,
        memory_swap: Option<i64>,
        nano_cpus: Option<u64>,
        pids: Option<u32>,
    ) -> Result<()> {
        let docker = self.docker().await?;
        let memory = memory.map(signed);
        let body = ContainerUpdateBody {
            memory,
            // By default as much swap as memory, as the engine does at creation. Without it, the engine
            // refuses a memory limit above the old sum of both.
            memory_swap: memory.map(|memory| memory_swap.unwrap_or(memory.saturating_mul(2))),
            nano_cpus: nano_cpus.map(signed),
            pids_limit: pids.map(i64::from),
            restart_policy: Some(no_restarts()),
            ..Default::default()
        };
        within("change a container's limits", QUICK, docker.update_container(id, body)).await
    }

    /// Sets who restarts a container that exits: the engine, or only abide.
    pub(crate) async fn set_restarts(&self, id: &str, by_engine: bool) -> Result<()> {
        let docker = self.docker().await?;
        let policy = if by_engine { always_restart() } else { no_restarts() };
        let body = ContainerUpdateBody { restart_policy: Some(policy), ..Default::default() };
        within("change a container's restart policy", QUICK, docker.update_container(id, body)).await
    }

    /// Sets the restart policy by its name. The engine's own default is that of an empty one.
    pub(crate) async fn set_restart_policy(&self, id: &str, name: &str) -> Result<()> {
        let docker = self.docker().await?;
        let name = match name {
            "always" => RestartPolicyNameEnum::ALWAYS,
            "unless-stopped" => RestartPolicyNameEnum::UNLESS_STOPPED,
            "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
            _ => RestartPolicyNameEnum::NO,
        };
        let policy = RestartPolicy { name: Some(name), maximum_retry_count: None };
        let body = ContainerUpdateBody { restart_policy: Some(policy), ..Default::default() };
        within("change a container's restart policy", QUICK, docker.update_container(id, body)).await
    }
}

fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        // `removal of container … is already in progress` is the requested result.
        Err(EngineError::Conflict(words)) if words.contains("already in progress") => Ok(()),
        other => other,
    }
}

/// Turns the image's own check off.
fn no_check() -> HealthConfig {
    HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The restart policy `no`: only abide restarts the container.
pub(super) fn no_restarts() -> RestartPolicy {
    RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }
}

/// The restart policy with which the engine restarts the container, also after the engine itself restarts.
pub(super) fn always_restart() -> RestartPolicy {
    RestartPolicy { name: Some(RestartPolicyNameEnum::ALWAYS), maximum_retry_count: None }
}

fn create_query(name: &str, spec: &ContainerSpec) -> CreateContainerOptions {
    let query = CreateContainerOptionsBuilder::default().name(name);
    let platform = spec.options.run.platform.iter();
    platform.fold(query, |query, platform| query.platform(&platform.to_string())).build()
}

/// The request that creates a container.
pub(super) fn create_body(spec: &ContainerSpec, holder: Option<&str>) -> Result<ContainerCreateBody> {
    let options = &spec.options;
    let body = ContainerCreateBody {
        image: Some(spec.image.to_string()),
        cmd: options.command.clone(),
        env: Some(options.env.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect()),
        labels: Some(spec.labels().into_iter().collect()),
        stop_timeout: Some(i64::from(options.stop_timeout_seconds)),
        host_config: Some(HostConfig {
            mounts: Some(
                spec.mounts().filter(|it| mounts::to_bind(it).is_none()).map(mounts::to_engine).collect(),
            ),
            binds: Some(spec.mounts().filter_map(mounts::to_bind).collect()),
            restart_policy: Some(no_restarts()),
            memory: options.memory.map(signed),
            nano_cpus: options.nano_cpus.map(signed),
            pids_limit: options.pids.map(i64::from),
            init: Some(options.init),
            ..Default::default()
        }),
        ..Default::default()
    };
    match holder {
        Some(holder) => settings::give_to(&options.run.settings.of_container(), joined_to(body, holder)),
        None => settings::give_to(&options.run.settings, connected(body, spec)),
    }
}

/// Moves the body into the network namespace of `holder`. Ports, hosts and network then belong to the holder,
/// and the engine rejects them for a container that joins a namespace.
fn joined_to(mut body: ContainerCreateBody, holder: &str) -> ContainerCreateBody {
    let host = body.host_config.get_or_insert_default();
    host.network_mode = Some(format!("container:{holder}"));
    body
}

fn connected(mut body: ContainerCreateBody, spec: &ContainerSpec) -> ContainerCreateBody {
    let options = &spec.options;
    if options.network_mode().is_some() {
        // The engine ignores ports there, with a warning.
        body.host_config.get_or_insert_default().extra_hosts = Some(options.extra_hosts.clone());
        return body;
    }
    let attachments = options.attachments();
    let network = NetworkSettings {
        exposed: options.port,
        ports: options.ports().collect(),
        extra_hosts: &options.extra_hosts,
        network: &options.network,
        attachments: &attachments,
    };
    network.give_to(&mut body);
    body
}

/// The network settings of a container, or of the holder that it joins.
pub(super) struct NetworkSettings<'a> {
    pub(super) exposed: Option<u16>,
    pub(super) ports: Vec<PortMapping>,
    pub(super) extra_hosts: &'a [String],
    pub(super) network: &'a NetworkName,
    pub(super) attachments: &'a Attachments,
}

impl NetworkSettings<'_> {
    pub(super) fn give_to(&self, body: &mut ContainerCreateBody) {
        // The engine takes one network here; the container is connected to the others before its start.
        let own = self.attachments.get(self.network).cloned().unwrap_or_default();
        let endpoints = HashMap::from([(self.network.to_string(), networks::endpoint(&own))]);
        // The engine publishes a port only if it is exposed too.
        let own = self.exposed.map(|port| format!("{port}/tcp"));
        let exposed = own.into_iter().chain(self.ports.iter().map(PortMapping::container_port));
        body.exposed_ports = Some(exposed.collect::<BTreeSet<_>>().into_iter().collect());
        body.networking_config = Some(NetworkingConfig { endpoints_config: Some(endpoints) });
        let host = body.host_config.get_or_insert_default();
        host.port_bindings = Some(bindings(&self.ports));
        host.network_mode = Some(self.network.to_string());
        host.extra_hosts = Some(self.extra_hosts.to_vec());
    }
}

fn bindings(ports: &[PortMapping]) -> PortMap {
    let mut bindings = PortMap::new();
    for port in ports {
        let host_ip = port.address.map(|address| address.to_string());
        let binding = PortBinding { host_ip, host_port: Some(port.host_port()) };
        bindings.entry(port.container_port()).or_default().get_or_insert_default().push(binding);
    }
    bindings
}

/// Returns an archive of files. The engine makes missing folders above them.
fn archived(files: &[WrittenFile]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for WrittenFile { file, content } in files {
        let content = content.expose().as_bytes();
        let mut header = tar::Header::new_gnu();
        header.set_mode(file.mode);
        header.set_uid(file.uid.into());
        header.set_gid(file.gid.into());
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, file.in_archive(), content)?;
    }
    archive.into_inner()
}
