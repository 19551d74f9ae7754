//! The managed network, and volumes.

use std::collections::{BTreeSet, HashMap};

use bollard::models::{
    EndpointSettings, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest,
    VolumeCreateRequest,
};
use bollard::query_parameters::{InspectNetworkOptions, RemoveVolumeOptions};

use super::{Engine, EngineError, QUICK, Result, within};
use crate::model::container::label;
use crate::model::name::{ContainerName, NetworkName};

/// What is known of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkState {
    /// Whether it carries the label of this record.
    pub(crate) is_ours: bool,
}

impl Engine {
    /// The network of that name; `None` where there is none.
    pub(crate) async fn network(&self, name: &NetworkName, record: &str) -> Result<Option<NetworkState>> {
        let docker = self.docker().await?;
        let call = docker.inspect_network(name.as_str(), None::<InspectNetworkOptions>);
        match within("inspect a network", QUICK, call).await {
            // The engine also finds networks by the beginning of their id.
            Ok(network) if network.name.as_deref() != Some(name.as_str()) => Ok(None),
            Ok(network) => {
                let labels = network.labels.unwrap_or_default();
                Ok(Some(NetworkState { is_ours: labels.get(label::RECORD).is_some_and(|id| id == record) }))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the network; one that is there already is fine.
    pub(crate) async fn create_network(&self, name: &NetworkName, record: &str) -> Result<()> {
        if self.network(name, record).await?.is_some() {
            return Ok(());
        }
        let docker = self.docker().await?;
        let request = NetworkCreateRequest {
            name: name.to_string(),
            driver: Some("bridge".to_owned()),
            labels: Some(HashMap::from([(label::RECORD.to_owned(), record.to_owned())])),
            ..Default::default()
        };
        match within("create a network", QUICK, docker.create_network(request)).await {
            Ok(_) | Err(EngineError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Connects a container to the network under `alias`. A connection to a network of that name
    /// that was removed since is cut first, for the engine goes on naming it.
    pub(crate) async fn connect(&self, id: &str, network: &NetworkName, alias: &ContainerName) -> Result<()> {
        let docker = self.docker().await?;
        let cut = NetworkDisconnectRequest { container: id.to_owned(), force: Some(true) };
        // There is nothing to cut most of the time, and the engine calls that an error.
        let _ = within("cut a connection", QUICK, docker.disconnect_network(network.as_str(), cut)).await;
        let request = NetworkConnectRequest {
            container: id.to_owned(),
            endpoint_config: Some(EndpointSettings {
                aliases: Some(vec![alias.to_string()]),
                ..EndpointSettings::default()
            }),
        };
        within("connect a container", QUICK, docker.connect_network(network.as_str(), request)).await
    }

    /// Those of `names` that the engine holds.
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

    /// Makes a volume; one that is there already is fine.
    pub(crate) async fn create_volume(&self, name: &str, record: &str) -> Result<()> {
        let docker = self.docker().await?;
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(HashMap::from([(label::RECORD.to_owned(), record.to_owned())])),
            ..Default::default()
        };
        within("create a volume", QUICK, docker.create_volume(request)).await.map(drop)
    }

    /// Removes the network; one that is gone is fine.
    pub(crate) async fn remove_network(&self, name: &NetworkName) -> Result<()> {
        let docker = self.docker().await?;
        match within("remove a network", QUICK, docker.remove_network(name.as_str())).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a volume; one that is gone is fine.
    pub(crate) async fn remove_volume(&self, name: &str) -> Result<()> {
        let docker = self.docker().await?;
        match within("remove a volume", QUICK, docker.remove_volume(name, None::<RemoveVolumeOptions>)).await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
