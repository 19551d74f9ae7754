//! Images that contain one static program each. abide embeds the programs and builds the images itself.

use bollard::query_parameters::ImportImageOptions;
use futures::TryStreamExt;
use sha2::{Digest as _, Sha256};

use super::{Engine, EngineError, Result, SLOW, within};

/// A program that abide embeds.
pub(crate) struct Program {
    /// The repository of its image.
    pub(super) repository: &'static str,
    /// The file name, in the root of the image.
    pub(super) file: &'static str,
    /// The content of the file; empty if abide's build could not compile it.
    pub(super) content: &'static [u8],
}

impl Program {
    /// Returns whether abide was built with the program.
    pub(crate) fn is_available(&self) -> bool {
        !self.content.is_empty()
    }

    /// Returns the name of its image, which depends on the program's content. So two versions of abide on one
    /// engine do not remove each other's image.
    pub(crate) fn image(&self) -> String {
        let digest = hex::encode(Sha256::digest(self.content));
        format!("{}:{}", self.repository, &digest[..12])
    }

    /// Returns the image in the format of `docker save`. The same program always gives the same bytes.
    pub(super) fn archive(&self) -> std::io::Result<Vec<u8>> {
        let layer = tar(&[(self.file, self.content, 0o755)])?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = serde_json::json!({
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": { "Entrypoint": [format!("/{}", self.file)] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))] },
        })
        .to_string();
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        let manifest = serde_json::json!([{
            "Config": config_name,
            "RepoTags": [self.image()],
            "Layers": ["layer.tar"],
        }])
        .to_string();
        tar(&[
            ("layer.tar", &layer, 0o644),
            (&config_name, config.as_bytes(), 0o644),
            ("manifest.json", manifest.as_bytes(), 0o644),
        ])
    }
}

impl Engine {
    /// Loads the image of a program into the engine.
    pub(crate) async fn load_program(&self, program: &Program) -> Result<()> {
        let archive = program.archive().map_err(|error| EngineError::Refused(error.to_string()))?;
        let docker = self.docker().await?;
        let body = bollard::body_full(archive.into());
        let lines = docker.import_image(ImportImageOptions::default(), body, None);
        let load = lines.try_for_each(|line| async move {
            match line.error_detail.and_then(|detail| detail.message) {
                Some(message) => Err(bollard::errors::Error::DockerStreamError { error: message }),
                None => Ok(()),
            }
        });
        within("load abide's own image", SLOW, load).await
    }
}

fn tar(files: &[(&str, &[u8], u32)]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        archive.append_data(&mut header, name, *bytes)?;
    }
    archive.into_inner()
}
