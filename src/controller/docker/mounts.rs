//! Converts mounts for the engine, and creates the host paths that they need.
//!
//! Only the engine knows which paths exist. It may run on another host, or abide may run in a container or as
//! a user that sees less of this host. So abide asks the engine, and has it create missing paths.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, Mount as EngineMount, MountBindOptions,
    MountPoint, MountType, MountVolumeOptions,
};
use bollard::query_parameters::{CreateContainerOptionsBuilder, UploadToContainerOptionsBuilder};
use bytes::Bytes;

use super::{Engine, EngineError, QUICK, Result, SLOW, step, within};
use crate::model::container::label;
use crate::model::mount::{AbsolutePath, Mount, MountOptions, MountSource, Propagation, REFUSED_SOURCE};
use crate::model::observed::ObservedMounts;

/// The ID of an image that no engine has. The engine checks mounts first, so it never creates a container
/// from it.
const NO_IMAGE: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
/// The path of the parent folder in the container that creates a folder.
const INSIDE: &str = "/abide-folder";

/// Converts a mount for the engine. It is a structure because a colon in a text could end a path early.
pub(super) fn to_engine(mount: &Mount) -> EngineMount {
    let typ = match mount.source() {
        MountSource::Volume(_) => MountType::VOLUME,
        MountSource::Host(_) => MountType::BIND,
    };
    EngineMount {
        typ: Some(typ),
        source: Some(mount.source().as_str().to_owned()),
        target: Some(mount.target().as_str().to_owned()),
        read_only: Some(mount.is_read_only()),
        bind_options: mount.options().propagation.as_ref().map(propagated),
        volume_options: mount
            .options()
            .nocopy
            .then(|| MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
        ..EngineMount::default()
    }
}

/// Converts a mount that needs an SELinux label: the engine's structure has no place for it.
pub(super) fn to_bind(mount: &Mount) -> Option<String> {
    mount.options().selinux.map(|_| mount.to_string())
}

fn propagated(propagation: &Propagation) -> MountBindOptions {
    MountBindOptions { propagation: propagation.as_str().parse().ok(), ..MountBindOptions::default() }
}

/// Returns the mounts of an inspected container. Earlier versions of abide set them with `Binds`.
pub(super) fn seen(inspected: &ContainerInspectResponse) -> ObservedMounts {
    let mut seen = ObservedMounts::default();
    let host = inspected.host_config.as_ref();
    let mut note = |asked: Option<Mount>, text: String| match asked {
        Some(mount) => seen.asked.push(mount),
        None => seen.others.push(text),
    };
    for bind in host.and_then(|host| host.binds.as_ref()).into_iter().flatten() {
        note(of_bind(bind), bind.clone());
    }
    for mount in host.and_then(|host| host.mounts.as_ref()).into_iter().flatten() {
        let target = mount.target.clone().unwrap_or_default();
        note(of_mount(mount), format!("{}:{target}", mount.source.as_deref().unwrap_or_default()));
    }
    let mut points: Vec<&MountPoint> = inspected.mounts.iter().flatten().collect();
    // If two mounts have the same path, the one with an absolute path is above the other.
    points.sort_by_key(|point| point.destination.as_ref().is_some_and(|path| path.starts_with('/')));
    for point in points.iter().filter(|point| point.typ.as_deref() == Some("volume")) {
        let path = point.destination.as_deref().and_then(AbsolutePath::of_image);
        let volume = point.name.as_deref().and_then(|name| name.parse().ok());
        seen.volumes.extend(path.zip(volume));
    }
    let declared = inspected.config.as_ref().and_then(|config| config.volumes.as_ref());
    seen.of_image = declared.into_iter().flatten().filter_map(|path| AbsolutePath::of_image(path)).collect();
    seen
}

/// Parses `source:target[:options]`, the format in which the engine keeps binds.
fn of_bind(bind: &str) -> Option<Mount> {
    bind.parse().ok()
}

fn of_mount(mount: &EngineMount) -> Option<Mount> {
    let found = Mount::new(mount.source.as_deref()?, mount.target.as_deref()?).ok()?;
    let is_alike = to_engine(&found).typ == mount.typ;
    let propagation = mount.bind_options.as_ref().and_then(|options| options.propagation);
    let options = MountOptions {
        read_only: mount.read_only.unwrap_or(false),
        nocopy: mount.volume_options.as_ref().and_then(|options| options.no_copy).unwrap_or(false),
        propagation: propagation.and_then(|word| word.to_string().parse().ok()),
        ..MountOptions::default()
    };
    found.with(options).ok().filter(|_| is_alike)
}

impl EngineError {
    /// Returns whether the engine does not find the host path of a mount.
    fn is_missing_source(&self) -> bool {
        matches!(self, Self::Refused(words) if words.contains(REFUSED_SOURCE))
    }
}

impl Engine {
    /// Returns whether the engine finds a path on its host. Nothing is created.
    pub(crate) async fn has_source(&self, path: &AbsolutePath) -> Result<bool> {
        let docker = self.connection().await?;
        let body = ContainerCreateBody { image: Some(NO_IMAGE.to_owned()), ..mounting(path, INSIDE) };
        let options = CreateContainerOptionsBuilder::default().build();
        match within("check a folder", QUICK, docker.create_container(Some(options), body)).await {
            Ok(made) => {
                self.remove_scratch(&made.id).await?;
                Ok(true)
            }
            Err(error) if error.is_missing_source() => Ok(false),
            Err(error) if error.is_no_answer() => Err(error),
            // The engine either got as far as the image, or does not check mounts until it mounts them.
            Err(_) => Ok(true),
        }
    }

    /// Creates a folder on the engine's host, and its missing parents, owned by root. `image` may be any
    /// image that the engine has: nothing of it runs.
    pub(crate) async fn create_folder(&self, record: &str, path: &AbsolutePath, image: &str) -> Result<()> {
        let (above, missing) = self.nearest(path).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let docker = self.docker().await?;
        let name = format!("{}folder-{}", step::NAME, uuid::Uuid::new_v4().simple());
        let _removed = self.removed_at_last(&docker, &name);
        let labels = HashMap::from([(label::STEP.to_owned(), record.to_owned())]);
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // Some images name no program, and without one the engine does not create a container.
            entrypoint: Some(vec!["/none".to_owned()]),
            labels: Some(labels),
            ..mounting(&above, INSIDE)
        };
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let id = within("create a container", SLOW, docker.create_container(Some(options), body)).await?.id;
        let archive = folders(&missing).map_err(|error| EngineError::Refused(error.to_string()))?;
        let upload =
            UploadToContainerOptionsBuilder::default().path(INSIDE).no_overwrite_dir_non_dir("true").build();
        let call = docker.upload_to_container(&id, Some(upload), bollard::body_full(Bytes::from(archive)));
        within("create a folder", SLOW, call).await
    }

    /// Returns the nearest existing parent of a path, and the missing folders below it, from the top and
    /// relative to that parent.
    async fn nearest(&self, path: &AbsolutePath) -> Result<(AbsolutePath, Vec<String>)> {
        let parts: Vec<&str> = path.as_str().split('/').skip(1).collect();
        for there in (0..=parts.len()).rev() {
            let above = AbsolutePath::parse("the folder", &format!("/{}", parts[..there].join("/")))
                .map_err(|error| EngineError::Refused(error.to_string()))?;
            if there == 0 || self.has_source(&above).await? {
                let missing = (there + 1..=parts.len()).map(|end| parts[there..end].join("/"));
                return Ok((above, missing.collect()));
            }
        }
        Err(EngineError::Refused(format!("{path} has no parent folder")))
    }
}

/// Describes a container that mounts a path of the host and has no network.
fn mounting(path: &AbsolutePath, target: &str) -> ContainerCreateBody {
    let mount = EngineMount {
        typ: Some(MountType::BIND),
        source: Some(path.to_string()),
        target: Some(target.to_owned()),
        ..EngineMount::default()
    };
    ContainerCreateBody {
        host_config: Some(HostConfig {
            mounts: Some(vec![mount]),
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// Returns an archive of empty folders that belong to root.
fn folders(paths: &[String]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for path in paths {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(host: serde_json::Value, mounts: serde_json::Value) -> ObservedMounts {
        let volumes = serde_json::json!(["/data/", "rel"]);
        seen(
            &serde_json::from_value(serde_json::json!({
                "HostConfig": host, "Mounts": mounts, "Config": { "Volumes": volumes_of(&volumes) },
            }))
            .unwrap(),
        )
    }

    fn volumes_of(paths: &serde_json::Value) -> serde_json::Value {
        let all = paths.as_array().unwrap().iter();
        all.map(|path| (path.as_str().unwrap().to_owned(), serde_json::json!({}))).collect()
    }

    #[test]
    fn binds_and_mounts_are_read_identically() {
        let by_binds = serde_json::json!({ "Binds": ["data:/data", "/srv/x:/x:ro"] });
        let mounts: Vec<EngineMount> =
            ["data:/data", "/srv/x:/x:ro"].map(|text| to_engine(&text.parse().unwrap())).into();
        let by_mounts = serde_json::json!({ "Mounts": mounts });
        let none = serde_json::json!([]);
        let seen = inspected(by_binds, none.clone());
        assert_eq!(
            seen.asked.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["data:/data", "/srv/x:/x:ro"]
        );
        assert_eq!(seen, inspected(by_mounts, none));
    }

    #[test]
    fn mounts_that_abide_never_creates_are_classified_as_other() {
        let host = serde_json::json!({
            "Binds": ["/srv/allowed/..:/host:rw", "nonsense"],
            "Mounts": [{ "Type": "tmpfs", "Target": "/t" }, { "Type": "bind", "Source": "data", "Target": "/d" }],
        });
        let seen = inspected(host, serde_json::json!([]));
        assert_eq!((seen.asked.len(), seen.others.len()), (0, 4), "{seen:?}");
    }

    #[test]
    fn anonymous_volumes_are_found_by_their_paths() {
        let mounts = serde_json::json!([
            { "Type": "volume", "Name": "above", "Destination": "/rel" },
            { "Type": "volume", "Name": "below", "Destination": "rel" },
            { "Type": "volume", "Name": "made", "Destination": "/data" },
            { "Type": "bind", "Source": "/srv", "Destination": "/srv" },
        ]);
        let seen = inspected(serde_json::json!({}), mounts);
        let found: Vec<_> = seen.volumes.iter().map(|(path, name)| (path.as_str(), name.as_str())).collect();
        assert_eq!(found, [("/data", "made"), ("/rel", "above")]);
        assert_eq!(seen.of_image.iter().map(AbsolutePath::as_str).collect::<Vec<_>>(), ["/data", "/rel"]);
    }

    #[test]
    fn only_missing_folders_are_created() {
        let archive = folders(&["b".to_owned(), "b/c".to_owned()]).unwrap();
        let mut archive = tar::Archive::new(archive.as_slice());
        let paths: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["b/", "b/c/"]);
    }
}
