//! Containers that run one command and end: commands before and after a release.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::backup::{ArchiveName, BackupSpec};
use super::container::{ContainerOptions, ContainerSpec, label};
use super::job::{JOB, JobPart, JobRunKey};
use super::mount::{InvalidMount, Mount};
use super::name::{ContainerName, Digest, Generation};
use super::network::Attachment;
use super::options::{RunOptions, Settings};
use super::time::Timestamp;
use super::wire;

/// A program and its arguments, as in compose: an entrypoint without a command gets no arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandWords {
    /// Arguments after the entrypoint; `None`: none if there is an own entrypoint, else the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "wire::command")]
    pub command: Option<Vec<String>>,
    /// The program and its first arguments; `None`: that of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "wire::command")]
    pub entrypoint: Option<Vec<String>>,
}

/// A command that runs once for each image of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSpec {
    /// The command.
    #[serde(flatten)]
    pub words: CommandWords,
    /// The longest time that it may take.
    #[serde(deserialize_with = "wire::patience")]
    pub timeout: Duration,
}

impl HookSpec {
    /// A mark of the command. An edited command is another one, which has not run yet.
    pub fn mark(&self) -> String {
        let CommandWords { command, entrypoint } = &self.words;
        hex::encode(Sha256::digest(format!("{command:?} {entrypoint:?}")))
    }
}

/// The commands of an environment that run once for each image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Runs before the first container of a new version.
    pub release: Option<HookSpec>,
    /// Runs once the new version is ready.
    pub after: Option<HookSpec>,
}

impl Hooks {
    /// The declaration of one of them.
    pub fn of(&self, hook: Hook) -> Option<&HookSpec> {
        match hook {
            Hook::Release => self.release.as_ref(),
            Hook::After => self.after.as_ref(),
        }
    }
}

/// The role of a container in which a person runs a command.
pub const RUN: &str = "run";

/// When a command runs, relative to a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// Before it.
    Release,
    /// After it.
    After,
}

impl Hook {
    /// All of them, in the order of a release.
    pub const ALL: [Self; 2] = [Self::Release, Self::After];

    /// Its manifest key, which is also the role of its containers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::After => "after",
        }
    }

    /// The hook of a container with this role.
    pub fn of_role(role: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.as_str() == role)
    }

    /// A noun for sentences.
    pub fn words(self) -> &'static str {
        match self {
            Self::Release => "release command",
            Self::After => "`after` command",
        }
    }
}

/// A command of one image: it runs once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HookKey {
    /// When it runs.
    pub hook: Hook,
    /// The image ID.
    pub image: Digest,
    /// The mark of the command.
    pub mark: String,
}

/// The purpose of a container that runs once, apart from the commands of people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OneOffKey {
    /// A command of a release.
    Hook(HookKey),
    /// A run of a job.
    Job(JobRunKey),
}

impl OneOffKey {
    /// Whether only a volume is read or written.
    pub fn is_of_volume(&self) -> bool {
        matches!(self, Self::Job(key) if key.part.is_of_volume())
    }

    /// A noun for sentences.
    pub fn words(&self) -> String {
        match self {
            Self::Hook(key) => format!("the {}", key.hook.words()),
            Self::Job(key) => format!("job {}", key.job),
        }
    }
}

/// The memory of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRun {
    /// The command and its image.
    pub key: HookKey,
    /// The generation that it ran for.
    pub generation: Generation,
    /// The commit of the image, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<super::name::CommitId>,
    /// The container.
    pub container: String,
    /// The result.
    pub result: HookResult,
    /// The time of the result.
    pub at: Timestamp,
}

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookResult {
    /// Its container is started, or about to be, after this number of interruptions in a row.
    Started(u32),
    /// Exit code 0.
    Succeeded,
    /// It failed; a clause about the command.
    Failed(String),
    /// Something other than the command ended it, this number of times in a row.
    Interrupted(u32),
}

impl HookResult {
    /// The interruptions in a row.
    pub fn interruptions(&self) -> u32 {
        match self {
            Self::Started(count) | Self::Interrupted(count) => *count,
            Self::Succeeded | Self::Failed(_) => 0,
        }
    }
}

/// A container that runs one command with the options of its environment, beside that environment's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOffSpec {
    /// The name, the image and the options. Nothing that only one container can have is among them.
    pub container: ContainerSpec,
    /// The role, which keeps it apart from the environment's own containers.
    pub role: &'static str,
    /// The mark of its command.
    pub mark: String,
    /// The longest time that it may run.
    pub limit: Duration,
    /// Whether it runs abide's own program for volumes, in place of the image.
    pub is_of_volume: bool,
}

/// The paths of a volume and of the folder of archives in a container.
const VOLUME: &str = "/volume";
const ARCHIVES: &str = "/archives";

impl OneOffSpec {
    /// Its purpose; `None`: a person asked for its command.
    pub fn key(&self) -> Option<OneOffKey> {
        if self.role == JOB {
            return JobRunKey::of_mark(&self.mark).map(OneOffKey::Job);
        }
        let (image, mark) = (self.container.image.clone(), self.mark.clone());
        Hook::of_role(self.role).map(|hook| OneOffKey::Hook(HookKey { hook, image, mark }))
    }

    /// The container of a command, with the options of `environment`.
    pub fn new(
        environment: &ContainerSpec,
        name: ContainerName,
        role: &'static str,
        words: &CommandWords,
        (mark, limit): (String, Duration),
    ) -> Self {
        let options = &environment.options;
        let command = match (&words.command, &words.entrypoint) {
            (None, None) => options.command.clone(),
            (command, _) => command.clone(),
        };
        let networks = options.run.networks.keys().map(|name| (name.clone(), Attachment::default()));
        let run = RunOptions {
            // Others must not find it, and it must not take what the serving container has.
            ports: Vec::new(),
            aliases: BTreeSet::new(),
            networks: networks.collect(),
            settings: options.run.settings.of_one_off(words.entrypoint.as_deref()),
            ..options.run.clone()
        };
        let options = ContainerOptions { name, command, port: None, publish: None, run, ..options.clone() };
        let container = ContainerSpec { options, ..environment.clone() };
        Self { container, role, mark, limit, is_of_volume: false }
    }

    /// The container of abide's own program that reads or writes the volume of a backup. It has neither
    /// network nor variables nor secrets.
    ///
    /// # Errors
    /// The mounts are not valid.
    pub fn of_volume(
        environment: &ContainerSpec,
        name: ContainerName,
        key: &JobRunKey,
        (backup, archive): (&BackupSpec, Option<&ArchiveName>),
        limit: Duration,
    ) -> Result<Self, String> {
        let said = |error: InvalidMount| error.to_string();
        let own = &environment.options.environment;
        let made = ArchiveName::of_run(own, &key.job, key.at);
        let words = match archive.filter(|_| key.part == JobPart::Restore) {
            Some(archive) => {
                let before = ArchiveName::before_restore(own, &key.job, key.at);
                ["restore", VOLUME, ARCHIVES, archive.as_str(), before.as_str()].join(" ")
            }
            None => {
                let prefix = ArchiveName::prefix(own, &key.job);
                format!("back-up {VOLUME} {ARCHIVES} {} {prefix} {}", made.as_str(), backup.keep)
            }
        };
        let volume =
            Mount::new(backup.volume.as_str(), VOLUME).map_err(said)?.read_only(key.part != JobPart::Restore);
        let settings = BTreeMap::from([
            ("network_mode".to_owned(), Value::from("none")),
            ("stop_signal".to_owned(), Value::from("SIGKILL")),
        ]);
        let options = ContainerOptions {
            name,
            command: Some(words.split(' ').map(str::to_owned).collect()),
            env: BTreeMap::new(),
            secrets: BTreeSet::new(),
            port: None,
            publish: None,
            volumes: vec![volume, Mount::new(backup.folder.as_str(), ARCHIVES).map_err(said)?],
            extra_hosts: Vec::new(),
            memory: None,
            nano_cpus: None,
            pids: None,
            init: false,
            run: RunOptions { settings: Settings::try_from(settings)?, ..RunOptions::default() },
            files: Vec::new(),
            ..environment.options.clone()
        };
        let container = ContainerSpec { options, undeclared: Vec::new(), ..environment.clone() };
        Ok(Self { container, role: JOB, mark: key.mark(), limit, is_of_volume: true })
    }

    /// The labels: owner, role and command.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.container.labels();
        labels.remove(label::SPEC);
        labels.extend([
            (label::ROLE.to_owned(), self.role.to_owned()),
            (label::COMMAND.to_owned(), self.mark.clone()),
            (label::LIMIT.to_owned(), self.limit.as_secs().to_string()),
        ]);
        labels
    }
}
