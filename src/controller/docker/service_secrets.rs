//! The secret files of services. The swarm keeps them as secrets, and gives them only to the nodes that run a replica.
//!
//! A secret of a swarm cannot be changed, so each content is a secret of its own.

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use bollard::models::{SecretSpec, TaskSpecContainerSpecFile, TaskSpecContainerSpecSecrets};
use bollard::query_parameters::ListSecretsOptionsBuilder;
use sha2::{Digest as _, Sha256};

use super::{Engine, EngineError, QUICK, Result, within};
use crate::model::container::label;
use crate::model::secret_file::WrittenFile;
use crate::model::workload::Workload;

impl Engine {
    /// Returns references to the secrets with the files of a workload. Those that do not exist are created, and those of
    /// earlier versions are removed, except for the secrets of the version that the service still has.
    pub(super) async fn secrets(&self, workload: &Workload) -> Result<Vec<TaskSpecContainerSpecSecrets>> {
        let options = &workload.options;
        let mut known = self.secrets_of(&options.record, options.environment.as_str()).await?;
        let mut references = Vec::new();
        for written in &options.files {
            let name = name(workload, written);
            let id = match known.get(&name) {
                Some(id) => id.clone(),
                None => self.create_secret(workload, written, &name).await?,
            };
            known.insert(name.clone(), id.clone());
            references.push(reference(written, name, id));
        }
        let used: BTreeSet<&String> =
            references.iter().filter_map(|reference| reference.secret_name.as_ref()).collect();
        self.remove_unused(known.iter().filter(|(name, _)| !used.contains(name)).map(|(_, id)| id)).await?;
        Ok(references)
    }

    /// Removes the secrets of an environment that no service uses any more.
    pub(super) async fn remove_secrets(&self, record: &str, environment: &str) -> Result<()> {
        let known = self.secrets_of(record, environment).await?;
        self.remove_unused(known.values()).await
    }

    /// The secrets of an environment: ids by name.
    async fn secrets_of(&self, record: &str, environment: &str) -> Result<HashMap<String, String>> {
        let labels = [format!("{}={record}", label::RECORD), format!("{}={environment}", label::ENVIRONMENT)];
        let filters = HashMap::from([("label", labels.to_vec())]);
        let options = ListSecretsOptionsBuilder::default().filters(&filters).build();
        let docker = self.docker().await?;
        let found = within("list secrets", QUICK, docker.list_secrets(Some(options))).await?;
        Ok(found.into_iter().filter_map(|secret| Some((secret.spec?.name?, secret.id?))).collect())
    }

    async fn create_secret(&self, workload: &Workload, written: &WrittenFile, name: &str) -> Result<String> {
        let options = &workload.options;
        let labels = HashMap::from([
            (label::RECORD.to_owned(), options.record.clone()),
            (label::ENVIRONMENT.to_owned(), options.environment.to_string()),
        ]);
        let data = base64::engine::general_purpose::STANDARD.encode(written.content.expose());
        let spec = SecretSpec {
            name: Some(name.to_owned()),
            labels: Some(labels),
            data: Some(data),
            ..SecretSpec::default()
        };
        let docker = self.docker().await?;
        Ok(within("create a secret", QUICK, docker.create_secret(spec)).await?.id)
    }

    async fn remove_unused(&self, ids: impl Iterator<Item = &String>) -> Result<()> {
        for id in ids {
            let docker = self.docker().await?;
            match within("remove a secret", QUICK, docker.delete_secret(id)).await {
                // The service still uses it. It is removed with the next write.
                Err(EngineError::Refused(words)) if words.contains(IN_USE) => {}
                Err(error) if error.is_not_found() => {}
                removed => removed?,
            }
        }
        Ok(())
    }
}

/// Part of the engine's message about a secret or network that a service uses.
pub(super) const IN_USE: &str = "is in use by";

/// The name of the secret with this content. Environments share none, because each removes its own.
fn name(workload: &Workload, written: &WrittenFile) -> String {
    let options = &workload.options;
    let mut hash = Sha256::new();
    for part in [&options.record, options.environment.as_str(), written.content.expose()] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    // The swarm allows 64 characters.
    let hash: String = hex::encode(hash.finalize()).chars().take(40).collect();
    format!("abide-{hash}")
}

fn reference(written: &WrittenFile, name: String, id: String) -> TaskSpecContainerSpecSecrets {
    let file = &written.file;
    TaskSpecContainerSpecSecrets {
        file: Some(TaskSpecContainerSpecFile {
            name: Some(file.target.to_string()),
            uid: Some(file.uid.to_string()),
            gid: Some(file.gid.to_string()),
            mode: Some(file.mode),
        }),
        secret_id: Some(id),
        secret_name: Some(name),
    }
}
