//! `abide set`: records an image or a commit to run.

use std::str::FromStr;

use serde::Serialize;

use super::exit::{CliError, CliExit};
use super::result;
use super::session::CliSession;
use super::wait::{Goal, SeeThrough};
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation};
use crate::model::view::SeenGenerations;

const EXAMPLES: &str = "\
Examples:
  abide set dev --commit 5f0c954e4b8b6f3e0f7f2d3c1f0a9b8c7d6e5f40 --wait
  abide set prod shop/web@sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0
  abide set prod sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0

An image by name and digest is pulled from its registry. A digest alone is an image ID of the engine \
(`docker image inspect --format '{{.Id}}' NAME` prints it).";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SetArgs {
    /// Environment to change
    environment: EnvironmentName,
    /// Image to run, by digest or ID
    #[arg(value_name = "IMAGE@DIGEST", conflicts_with = "commit")]
    image: Option<PinnedImage>,
    /// Commit to build, by its full ID (`git rev-parse REV` prints it)
    #[arg(long, value_name = "SHA")]
    commit: Option<CommitId>,
    /// Reason to record with the change
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    seen: result::SeenGeneration,
    #[command(flatten)]
    see: SeeThrough,
    /// With --wait: wait for this image, by its digest or its ID
    #[arg(long, requires = "wait")]
    digest: Option<Digest>,
    /// With --wait: wait for this generation [default: the one that this creates]
    #[arg(long, requires = "wait")]
    generation: Option<u64>,
}

/// `NAME@sha256:…` or `sha256:…`, never a tag, because a tag can name another image tomorrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
struct PinnedImage(String);

impl FromStr for PinnedImage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digest = text.rsplit_once('@').map_or(text, |(_, digest)| digest);
        if digest.starts_with("sha256:") {
            Digest::new(digest).map_err(|error| error.to_string())?;
            return if text.starts_with('@') {
                Err("the name before `@` is missing".into())
            } else {
                Ok(Self(text.into()))
            };
        }
        Err("a tag can change its image: give a digest, NAME@sha256:… or sha256:…".into())
    }
}

#[derive(Serialize)]
struct SetBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a PinnedImage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'a CommitId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<&'a SeenGenerations>,
}

pub(crate) async fn run(args: &SetArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    if args.image.is_none() && args.commit.is_none() {
        let name = &args.environment;
        return Err(CliError::Usage(format!(
            "missing image or commit for {name}: use `abide set {name} NAME@sha256:...` for an image, or \
            `abide set {name} --commit SHA` for a commit of its branch"
        )));
    }
    let request = SetBody {
        image: args.image.as_ref(),
        commit: args.commit.as_ref(),
        reason: args.reason.as_deref(),
        seen: args.seen.seen.as_ref(),
    };
    let client = session.client(args.see.need("set --wait")).await?;
    let moved = client.act(&args.environment, "set", &request).await?;
    result::report(&mut session.console, &moved)?;
    let generation = Some(args.generation.map_or(moved.generation, Generation));
    let (commit, digest) = (args.commit.clone(), args.digest.clone());
    let goal = Goal { commit, digest, generation, held: false };
    args.see.to(session, &client, &args.environment, &goal).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_image_with_a_digest_is_accepted() {
        let hex = "0123456789abcdef".repeat(4);
        for good in [format!("sha256:{hex}"), format!("host:5000/a/b@sha256:{hex}")] {
            assert_eq!(good.parse(), Ok(PinnedImage(good.clone())));
        }
        for bad in ["nginx", "nginx:1.27", "nginx@sha256:12", "sha512:00", &format!("@sha256:{hex}"), ""] {
            assert!(bad.parse::<PinnedImage>().is_err(), "{bad} was taken");
        }
    }
}
