//! The managed network and the volumes.

use std::collections::{BTreeSet, HashMap};

use bollard::models::{
    EndpointIpamConfig, EndpointSettings, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptions,
};

use super::service_secrets::IN_USE;
use super::{Engine, EngineError, QUICK, Result, within};
use crate::model::container::label;
use crate::model::name::NetworkName;
use crate::model::network::{Attachment, Attachments};

/// The driver of networks that span the nodes of a swarm.
const OVERLAY: &str = "overlay";

/// The state of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkState {
    /// Whether it carries the label of this record.
    pub(crate) is_ours: bool,
    /// Whether it spans the nodes of a swarm.
    pub(crate) is_overlay: bool,
}

impl Engine {
    /// Returns the network of that name; `None` if it does not exist.
    pub(crate) async fn network(&self, name: &NetworkName, record: &str) -> Result<Option<NetworkState>> {
        let found = self.networks_named(name, record).await?;
        let found = if found.len() > 1 { self.without_doubles(name, record, &found).await? } else { found };
        Ok(found.into_iter().next().map(|(_, state)| state))
    }

    /// Uses a list, because an inspect takes the beginning of an id for a name, and fails if two networks
    /// have the same name.
    async fn networks_named(&self, name: &NetworkName, record: &str) -> Result<Vec<(String, NetworkState)>> {
        let docker = self.docker().await?;
        let filters = HashMap::from([("name".to_owned(), vec![name.to_string()])]);
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        let networks = within("list networks", QUICK, docker.list_networks(Some(options))).await?;
        let exact = networks.into_iter().filter(|network| network.name.as_deref() == Some(name.as_str()));
        let known = exact.map(|network| {
            let labels = network.labels.unwrap_or_default();
            let is_ours = labels.get(label::RECORD).is_some_and(|id| id == record);
            let is_overlay = network.driver.as_deref() == Some(OVERLAY);
            (network.id.unwrap_or_default(), NetworkState { is_ours, is_overlay })
        });
        Ok(known.collect())
    }

    /// Removes unused duplicates. The engine allows two networks with one name, and can then start no
    /// container that uses that name. Of this record's networks, those without containers are removed; the
    /// engine refuses to remove the others.
    async fn without_doubles(
        &self,
        name: &NetworkName,
        record: &str,
        doubles: &[(String, NetworkState)],
    ) -> Result<Vec<(String, NetworkState)>> {
        let docker = self.connection().await?;
        let mut left = doubles.len();
        for (id, state) in doubles {
            if left > 1 && state.is_ours {
                let removed = within("remove a network", QUICK, docker.remove_network(id)).await;
                left -= usize::from(removed.is_ok());
            }
        }
        self.networks_named(name, record).await
    }

    /// Creates the network. Succeeds if it already exists.
    pub(crate) async fn create_network(&self, name: &NetworkName, record: &str) -> Result<()> {
        // The check and the creation are two calls, so two environments at once would create two networks.
        let _turn = self.network_turn.lock().await;
        if self.network(name, record).await?.is_some() {
            return Ok(());
        }
        self.create_network_with("bridge", name, record).await
    }

    async fn create_network_with(&self, driver: &str, name: &NetworkName, record: &str) -> Result<()> {
        let docker = self.docker().await?;
        let request = NetworkCreateRequest {
            name: name.to_string(),
            driver: Some(driver.to_owned()),
            // Containers may join it, too, for example to look for a fault.
            attachable: (driver == OVERLAY).then_some(true),
            labels: Some(HashMap::from([(label::RECORD.to_owned(), record.to_owned())])),
            ..Default::default()
        };
        match within("create a network", QUICK, docker.create_network(request)).await {
            Ok(_) | Err(EngineError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns the id of a network that spans the nodes of the swarm. Creates it if it does not exist.
    pub(super) async fn overlay_network(&self, name: &NetworkName, record: &str) -> Result<String> {
        let _turn = self.network_turn.lock().await;
        if self.networks_named(name, record).await?.is_empty() {
            self.create_network_with(OVERLAY, name, record).await?;
        }
        let found = self.networks_named(name, record).await?;
        let overlay = found.into_iter().find(|(_, state)| state.is_overlay);
        overlay.map(|(id, _)| id).ok_or_else(|| {
            EngineError::Refused(format!(
                "the network {name} exists and does not span the nodes of the swarm: remove it with `docker network rm`"
            ))
        })
    }

    /// Connects a container to the network with its names. First it cuts a connection to a removed network of
    /// that name, because the engine keeps referring to it.
    pub(crate) async fn connect(
        &self,
        id: &str,
        network: &NetworkName,
        attachment: &Attachment,
    ) -> Result<()> {
        // Usually there is nothing to cut, which the engine reports as an error.
        let _ = self.disconnect(id, network).await;
        let docker = self.docker().await?;
        let request =
            NetworkConnectRequest { container: id.to_owned(), endpoint_config: Some(endpoint(attachment)) };
        within("connect a container", QUICK, docker.connect_network(network.as_str(), request)).await
    }

    /// Disconnects a container from the network.
    pub(crate) async fn disconnect(&self, id: &str, network: &NetworkName) -> Result<()> {
        let docker = self.docker().await?;
        let request = NetworkDisconnectRequest { container: id.to_owned(), force: Some(true) };
        within("disconnect a container", QUICK, docker.disconnect_network(network.as_str(), request)).await
    }

    /// Connects a new container to all networks but `managed`, in which it was created.
    pub(crate) async fn attach(
        &self,
        id: &str,
        record: &str,
        managed: &NetworkName,
        attachments: &Attachments,
    ) -> Result<()> {
        for (network, attachment) in attachments.iter().filter(|(network, _)| *network != managed) {
            self.create_network(network, record).await?;
            self.connect(id, network, attachment).await?;
        }
        Ok(())
    }

    /// Returns those of `names` that exist in the engine.
    pub(crate) async fn volumes(&self, names: BTreeSet<String>) -> Result<BTreeSet<String>> {
        let docker = self.docker().await?;
        let mut present = BTreeSet::new();
        for name in names {
            match within("inspect a volume", QUICK, docker.inspect_volume(&name)).await {
                Ok(_) => drop(present.insert(name)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(present)
    }

    /// Returns the names of the volumes that were created for a record.
    pub(crate) async fn volumes_of_record(&self, record: &str) -> Result<Vec<String>> {
        let docker = self.docker().await?;
        let labels = vec![format!("{}={record}", label::RECORD)];
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let found = within("list volumes", QUICK, docker.list_volumes(Some(options))).await?;
        Ok(found.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect())
    }

    /// Creates a volume. Succeeds if it already exists.
    pub(crate) async fn create_volume(&self, name: &str, record: &str) -> Result<()> {
        let docker = self.docker().await?;
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(HashMap::from([(label::RECORD.to_owned(), record.to_owned())])),
            ..Default::default()
        };
        within("create a volume", QUICK, docker.create_volume(request)).await.map(drop)
    }

    /// Returns the networks that a record created.
    pub(crate) async fn networks_of_record(&self, record: &str) -> Result<Vec<NetworkName>> {
        let docker = self.docker().await?;
        let filters = HashMap::from([("label".to_owned(), vec![format!("{}={record}", label::RECORD)])]);
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        let networks = within("list networks", QUICK, docker.list_networks(Some(options))).await?;
        let names = networks.into_iter().filter_map(|network| network.name);
        Ok(names.filter_map(|name| NetworkName::new(name).ok()).collect())
    }

    /// Returns whether any container, running or not, refers to the network. The engine itself would remove a network
    /// of stopped containers, which could then not be started again.
    async fn is_network_used(&self, name: &NetworkName) -> Result<bool> {
        let docker = self.docker().await?;
        let filters = HashMap::from([("network".to_owned(), vec![name.to_string()])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let containers = within("list containers", QUICK, docker.list_containers(Some(options))).await?;
        Ok(!containers.is_empty())
    }

    /// Removes the network if nothing uses it. Returns whether it did.
    pub(crate) async fn remove_unused_network(&self, name: &NetworkName) -> Result<bool> {
        if self.is_network_used(name).await? {
            return Ok(false);
        }
        match self.remove_network(name).await {
            // The service has no replica on this node.
            Err(EngineError::Refused(words)) if words.contains(IN_USE) => Ok(false),
            removed => removed.map(|()| true),
        }
    }

    /// Removes the network. Succeeds if it does not exist.
    pub(crate) async fn remove_network(&self, name: &NetworkName) -> Result<()> {
        let docker = self.docker().await?;
        match within("remove a network", QUICK, docker.remove_network(name.as_str())).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a volume. Succeeds if it does not exist.
    pub(crate) async fn remove_volume(&self, name: &str) -> Result<()> {
        let docker = self.docker().await?;
        match within("remove a volume", QUICK, docker.remove_volume(name, None::<RemoveVolumeOptions>)).await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Converts names and addresses for the engine.
pub(super) fn endpoint(attachment: &Attachment) -> EndpointSettings {
    let Attachment { aliases, ipv4_address, ipv6_address } = attachment;
    let fixed = EndpointIpamConfig {
        ipv4_address: ipv4_address.map(|address| address.to_string()),
        ipv6_address: ipv6_address.map(|address| address.to_string()),
        ..EndpointIpamConfig::default()
    };
    EndpointSettings {
        aliases: Some(aliases.iter().map(ToString::to_string).collect()),
        ipam_config: attachment.is_exclusive().then_some(fixed),
        ..EndpointSettings::default()
    }
}
