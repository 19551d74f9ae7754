//! Services of Docker Swarm: create, update, inspect, remove, and their output.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    ConfigSpec, Service, ServiceSpec, TaskSpecContainerSpecConfigs, TaskSpecContainerSpecFile1,
};
use bollard::query_parameters::{
    InspectServiceOptions, ListConfigsOptionsBuilder, ListNodesOptions, ListServicesOptionsBuilder,
    ListTasksOptionsBuilder, UpdateServiceOptionsBuilder,
};
use futures::{Stream, StreamExt as _};

use super::output::{log_query, stamped};
use super::piece::LogPiece;
use super::service_probe::PROGRAM;
use super::service_spec::ServiceObjects;
use super::transfer::proven;
use super::{Engine, EngineError, QUICK, Result, service_ports, service_seen, service_spec, within};
use crate::model::container::{Secret, label};
use crate::model::logs::LogOptions;
use crate::model::name::{ContainerName, EnvironmentName};
use crate::model::time::Timestamp;
use crate::model::workload::{Workload, WorkloadSight, WriteToken};

/// Part of the engine's message if a service was written since it was read. There is no separate status for it.
const OUT_OF_SEQUENCE: &str = "update out of sequence";
/// Part of the engine's message if it manages no swarm.
const NO_MANAGER: &str = "not a swarm manager";
/// Why a manager may not answer in time.
const SILENT: &str = "the swarm does not answer: it may have lost its leader";
/// Parts of the engine's messages if it cannot answer for the swarm, each with what to do.
const NO_SWARM: [(&str, &str); 4] = [
    (
        NO_MANAGER,
        "this engine is not a manager of a swarm: run `docker swarm init` here, or run abide on a manager",
    ),
    (
        "does not have a leader",
        "the swarm has no leader, because too few managers answer: nothing is decided, and nodes replace nothing, \
         until most of them are back",
    ),
    // The engine gave up waiting for the leader.
    ("code = DeadlineExceeded", SILENT),
    ("locked", "the swarm is locked: run `docker swarm unlock` on this host"),
];

/// A service of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundService {
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
}

impl Engine {
    /// Observes the service of an environment. `settle` is how long a replica has to run before it counts as ready.
    pub(crate) async fn workload(
        &self,
        record: &str,
        environment: &EnvironmentName,
        name: &ContainerName,
        settle: Duration,
        now: Timestamp,
    ) -> Result<WorkloadSight> {
        let sight = async {
            let mut ours = self.services_of(record, environment).await?;
            let named = |service: &Service| {
                service.spec.as_ref().and_then(|spec| spec.name.as_deref()) == Some(name.as_str())
            };
            match ours.iter().position(named) {
                Some(at) => {
                    let service = ours.swap_remove(at);
                    self.observe_service(service, ours, settle, now).await
                }
                None => self.service_by_name(name, ours).await,
            }
        };
        match sight.await {
            Err(EngineError::Deadline { .. }) => Ok(WorkloadSight::Unknown(SILENT.to_owned())),
            Err(error) => match no_swarm(&error) {
                Some(why) => Ok(WorkloadSight::Unknown(why.to_owned())),
                None => Err(error),
            },
            seen => seen,
        }
    }

    /// Observes the tasks of a service. `others` are services of the same environment with earlier names.
    async fn observe_service(
        &self,
        service: Service,
        others: Vec<Service>,
        settle: Duration,
        now: Timestamp,
    ) -> Result<WorkloadSight> {
        let id = service.id.clone().unwrap_or_default();
        let docker = self.docker().await?;
        let filters = HashMap::from([("service", vec![id.as_str()])]);
        let options = ListTasksOptionsBuilder::default().filters(&filters).build();
        let tasks = within("list the tasks of a service", QUICK, docker.list_tasks(Some(options))).await?;
        let nodes = within("list nodes", QUICK, docker.list_nodes(None::<ListNodesOptions>)).await?;
        let leftovers = ids(others);
        let seen = service_seen::seen(service, tasks, &nodes, leftovers, settle, now);
        Ok(WorkloadSight::Seen(Box::new(seen)))
    }

    /// The service of this name, which is not one of the environment's. `others` are services of the environment with
    /// earlier names.
    async fn service_by_name(&self, name: &ContainerName, others: Vec<Service>) -> Result<WorkloadSight> {
        let docker = self.docker().await?;
        let call = docker.inspect_service(name.as_str(), None::<InspectServiceOptions>);
        match within("inspect a service", QUICK, call).await {
            Ok(service) => Ok(WorkloadSight::Foreign(service_seen::owner(&service))),
            Err(error) if error.is_not_found() => Ok(WorkloadSight::Missing { leftovers: ids(others) }),
            Err(error) => Err(error),
        }
    }

    async fn services_of(&self, record: &str, environment: &EnvironmentName) -> Result<Vec<Service>> {
        let labels = [format!("{}={record}", label::RECORD), format!("{}={environment}", label::ENVIRONMENT)];
        let filters = HashMap::from([("label", labels.to_vec())]);
        let options = ListServicesOptionsBuilder::default().filters(&filters).build();
        let docker = self.docker().await?;
        within("list services", QUICK, docker.list_services(Some(options))).await
    }

    /// The services of an environment; none if this engine manages no swarm.
    pub(crate) async fn workloads(
        &self,
        record: &str,
        environment: &EnvironmentName,
    ) -> Result<Vec<FoundService>> {
        let found = match self.services_of(record, environment).await {
            // Without a leader, nobody knows the services.
            Err(error) if error.to_string().contains(NO_MANAGER) => Vec::new(),
            found => found?,
        };
        let service = |service: Service| FoundService {
            id: service.id.unwrap_or_default(),
            name: service.spec.and_then(|spec| spec.name).unwrap_or_default(),
        };
        Ok(found.into_iter().map(service).collect())
    }

    /// Creates a service, or replaces the specification of exactly the observed one. If it was written since it was
    /// observed, nothing is written. `proof` are the credentials with which nodes pull the image.
    pub(crate) async fn apply_workload(
        &self,
        workload: &Workload,
        over: Option<&(String, WriteToken)>,
        proof: Option<&Secret>,
        now: Timestamp,
    ) -> Result<()> {
        let probe = match service_spec::needs_probe(workload) {
            true => Some(self.probe_config().await?),
            false => None,
        };
        let network = match &workload.network {
            Some(network) => Some(self.overlay_network(network, &workload.options.record).await?),
            None => None,
        };
        let objects = ServiceObjects { probe, secrets: self.secrets(workload).await?, network };
        let forced = over.map_or(0, |(_, token)| token.forced);
        let spec = service_spec::of(workload, objects, forced, now);
        let Some((id, token)) = over else {
            let turn = self.docker().await?;
            let docker = proven(turn.docker.clone(), proof);
            return within("create a service", QUICK, docker.create_service(spec, None)).await.map(drop);
        };
        match service_ports::without_free_ports(&spec) {
            Some(bare) if self.has_fixed_ports(id).await? => {
                self.update_service(id, bare.clone(), token.index, proof).await?;
                while let Some(index) = self.await_forgotten_ports(id, &bare).await?
                    && !self.update_service(id, spec.clone(), index, proof).await?
                {}
            }
            _ => drop(self.update_service(id, spec, token.index, proof).await?),
        }
        Ok(())
    }

    /// Replaces the specification of a service, unless it was written since it had the version `index`. Returns whether
    /// it was replaced.
    async fn update_service(
        &self,
        id: &str,
        spec: ServiceSpec,
        index: u64,
        proof: Option<&Secret>,
    ) -> Result<bool> {
        let turn = self.docker().await?;
        let docker = proven(turn.docker.clone(), proof);
        let index = i32::try_from(index)
            .map_err(|_| EngineError::Refused("the version of the service is too large".to_owned()))?;
        let options =
            UpdateServiceOptionsBuilder::default().version(index).registry_auth_from("spec").build();
        let written = within("update a service", QUICK, docker.update_service(id, spec, options, None)).await;
        match written {
            // Swarm itself writes the service during an update. The next plan reads it again.
            Err(EngineError::Refused(words)) if words.contains(OUT_OF_SEQUENCE) => Ok(false),
            written => written.map(|_| true),
        }
    }

    /// Removes a service of an environment with its tasks and its secrets. Succeeds if it does not exist.
    pub(crate) async fn remove_workload(
        &self,
        record: &str,
        environment: &EnvironmentName,
        id: &str,
    ) -> Result<()> {
        let docker = self.docker().await?;
        match within("remove a service", QUICK, docker.delete_service(id)).await {
            Err(error) if error.is_not_found() => {}
            removed => removed?,
        }
        drop(docker);
        self.remove_secrets(record, environment.as_str()).await
    }

    /// Streams the output of all tasks of a service, from all nodes. Its order between nodes is not exact.
    pub(crate) async fn workload_logs(
        &self,
        id: &str,
        options: &LogOptions,
    ) -> Result<impl Stream<Item = Result<LogPiece>> + Send + use<>> {
        let docker = self.docker().await?;
        Ok(stamped(docker.service_logs(id, Some(log_query(options))).boxed()))
    }

    /// The reference to the config with abide's probe, which is created if it does not exist.
    async fn probe_config(&self) -> Result<TaskSpecContainerSpecConfigs> {
        if !PROGRAM.is_available() {
            let words =
                "this abide was built without its probe: declare `health` with `docker`, `command` or `none`";
            return Err(EngineError::Refused(words.to_owned()));
        }
        let name = PROGRAM.image().replace(['/', ':'], "-");
        let id = match self.config_id(&name).await? {
            Some(id) => id,
            None => self.create_config(&name).await?,
        };
        let file = TaskSpecContainerSpecFile1 {
            name: Some(service_spec::PROBE_PATH.to_owned()),
            uid: Some("0".to_owned()),
            gid: Some("0".to_owned()),
            mode: Some(0o555),
        };
        Ok(TaskSpecContainerSpecConfigs {
            file: Some(file),
            config_id: Some(id),
            config_name: Some(name),
            ..TaskSpecContainerSpecConfigs::default()
        })
    }

    async fn config_id(&self, name: &str) -> Result<Option<String>> {
        let docker = self.docker().await?;
        let filters = HashMap::from([("name", vec![name])]);
        let options = ListConfigsOptionsBuilder::default().filters(&filters).build();
        let found = within("list configs", QUICK, docker.list_configs(Some(options))).await?;
        // The filter also finds names that begin so.
        let is_it = |spec: &ConfigSpec| spec.name.as_deref() == Some(name);
        let found = found.into_iter().find(|config| config.spec.as_ref().is_some_and(is_it));
        Ok(found.and_then(|config| config.id))
    }

    async fn create_config(&self, name: &str) -> Result<String> {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(PROGRAM.content);
        let spec = ConfigSpec { name: Some(name.to_owned()), data: Some(data), ..ConfigSpec::default() };
        let docker = self.docker().await?;
        let made = within("create a config", QUICK, docker.create_config(spec)).await;
        drop(docker);
        match made {
            Ok(made) => Ok(made.id),
            // Another environment created it just now.
            Err(conflict @ EngineError::Conflict(_)) => self.config_id(name).await?.ok_or(conflict),
            Err(error) => Err(error),
        }
    }
}

fn ids(services: Vec<Service>) -> Vec<String> {
    services.into_iter().filter_map(|service| service.id).collect()
}

fn no_swarm(error: &EngineError) -> Option<&'static str> {
    let words = error.to_string();
    NO_SWARM.iter().find(|(part, _)| words.contains(part)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_without_a_swarm_or_its_leader_are_explained() {
        let about = |words: &str| no_swarm(&EngineError::Refused(words.to_owned())).unwrap_or_default();
        for words in [
            "rpc error: code = Unknown desc = The swarm does not have a leader.",
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded",
        ] {
            assert!(about(words).contains("leader"), "{words}");
        }
        assert!(about("This node is not a swarm manager.").contains("docker swarm init"));
        assert_eq!(about("rpc error: code = Unknown desc = update out of sequence"), "");
    }
}
