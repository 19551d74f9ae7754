//! The guard's container, and the facts about the engine that it needs.

use std::path::PathBuf;

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::containers::always_restart;
use super::program::Program;
use super::{Engine, QUICK, Result, SLOW, session, within};
use crate::model::container::label;
use crate::model::name::ContainerName;

/// The program of the guard.
pub(crate) static PROGRAM: Program = Program {
    repository: "abide/guard",
    file: "guard",
    content: include_bytes!(concat!(env!("OUT_DIR"), "/guard")),
};

/// The paths at which the program finds the folder that abide writes, and the engine's socket.
const SHARED: &str = "/abide";
const ENGINE: &str = "/engine.sock";
/// Memory limit in bytes, far above the guard's usage.
const MEMORY: i64 = 64 << 20;
const PIDS: i64 = 64;

/// The options of the guard's container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct GuardOptions {
    /// Its name.
    #[serde(skip)]
    pub(crate) name: ContainerName,
    /// The record whose containers it guards.
    pub(crate) record: String,
    /// The folder that abide writes.
    pub(crate) folder: PathBuf,
    /// The engine's socket.
    pub(crate) socket: PathBuf,
    /// The image of the program.
    pub(crate) image: String,
}

impl GuardOptions {
    /// A hash of everything that requires a new container when it changes.
    pub(crate) fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(serde_json::to_vec(self).unwrap_or_default()))
    }

    fn body(&self) -> ContainerCreateBody {
        let labels = [
            (label::RECORD, self.record.clone()),
            (label::ROLE, label::GUARD.to_owned()),
            (label::SPEC, self.fingerprint()),
        ];
        ContainerCreateBody {
            image: Some(self.image.clone()),
            env: Some(vec![format!("ABIDE_RECORD={}", self.record)]),
            labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            // As pid 1 the program would ignore SIGTERM, and it has nothing to clean up.
            stop_signal: Some("SIGKILL".to_owned()),
            host_config: Some(HostConfig {
                // This is a bind because the engine then creates an empty folder if abide's was removed. The
                // guard keeps a copy, and has to start without the folder.
                binds: Some(vec![format!("{}:{SHARED}:ro", self.folder.display())]),
                mounts: Some(vec![read_only(&self.socket, ENGINE)]),
                restart_policy: Some(always_restart()),
                network_mode: Some("none".to_owned()),
                cap_drop: Some(vec!["ALL".to_owned()]),
                // The folder belongs to abide's user, and other users cannot read it.
                cap_add: Some(vec!["DAC_READ_SEARCH".to_owned()]),
                // SELinux lets no container use the engine's socket, and user namespaces let no container's
                // root use it.
                security_opt: Some(vec!["no-new-privileges".to_owned(), "label=disable".to_owned()]),
                userns_mode: Some("host".to_owned()),
                memory: Some(MEMORY),
                pids_limit: Some(PIDS),
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    config: Some([("max-size", "256k"), ("max-file", "1")].map(owned).into()),
                }),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn read_only(source: &std::path::Path, target: &str) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        ..Mount::default()
    }
}

impl Engine {
    /// The path of the engine's Unix socket on this host; `None` if the engine listens elsewhere.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        session::socket(self.host.as_deref())
    }

    /// The kernel release that the engine's containers run on.
    pub(crate) async fn kernel(&self) -> Result<Option<String>> {
        let docker = self.docker().await?;
        Ok(within("report its settings", QUICK, docker.info()).await?.kernel_version)
    }

    /// Creates the guard's container and returns its id.
    pub(crate) async fn create_guard(&self, options: &GuardOptions) -> Result<String> {
        let docker = self.docker().await?;
        let query = CreateContainerOptionsBuilder::default().name(options.name.as_str()).build();
        let call = docker.create_container(Some(query), options.body());
        Ok(within("create the guard's container", SLOW, call).await?.id)
    }
}
