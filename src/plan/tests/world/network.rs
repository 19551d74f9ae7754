//! The sandboxes and the proxy of the world, and the laws of the network.

use super::*;
use crate::model::holder::{HolderPurpose, HolderSpec};
use crate::model::network::Attachment;
use crate::model::observed::{EngineHealth, Joined, SandboxState};

/// The containers that the steps of a plan created so far.
#[derive(Default)]
pub(super) struct Made {
    pub(super) holder: Option<String>,
    pub(super) container: Option<String>,
}

impl Made {
    pub(super) fn target(&self, target: &ContainerTarget, is_holder: bool) -> String {
        let made = if is_holder { &self.holder } else { &self.container };
        match target {
            ContainerTarget::Seen(id) => id.clone(),
            ContainerTarget::Created => made.clone().expect("a target that no step made"),
        }
    }
}

impl World {
    pub(in crate::plan::tests) fn enter(&mut self, mode: Mode) {
        self.intent.holder = mode != Mode::Plain;
        if mode == Mode::Front {
            self.intent.update = Some(Update::StartFirst);
            self.intent.drain = Some(Duration::from_secs(30));
            self.front = Some(Front::new(self.now));
            self.intent.spare = true;
            self.edit(|options| options.publish = None);
        }
    }

    // --- holders ------------------------------------------------------------------------------

    pub(super) fn load_holder(&mut self) -> Result<(), String> {
        self.observed.holder_image = true;
        Ok(())
    }

    pub(super) fn create_holder(
        &mut self,
        name: &ContainerName,
        spec: &HolderSpec,
        purpose: HolderPurpose,
    ) -> Result<String, String> {
        assert!(self.intent.holder, "a holder that nobody wants");
        assert!(self.memory.no_holder.is_none(), "a holder where they do not work");
        let is_free = self.observed.holders.iter().all(|holder| holder.name != name.as_str());
        assert!(is_free, "the name {name} is taken: {self:?}");
        if !self.observed.holder_image {
            return Err("no such image".to_owned());
        }
        if self.observed.network == NetworkPresence::Missing {
            return Err("network not found".to_owned());
        }
        self.containers_made += 1;
        let id = format!("{:06x}{:058x}", self.containers_made, self.containers_made);
        let mut holder = project_holder(id.clone(), name, spec, self.now);
        if purpose == HolderPurpose::Spare {
            holder.attachments = spec.nameless_attachments();
        }
        self.observed.holders.push(holder);
        Ok(id)
    }

    pub(in crate::plan::tests) fn connect(&mut self, id: &str) -> Result<(), String> {
        let attachments = self.intent.options.as_ref().map(ContainerOptions::attachments).unwrap_or_default();
        let container = self.find(id)?;
        container.networks.insert("abide".to_owned(), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        container.attachments.extend(attachments);
        Ok(())
    }

    pub(super) fn disconnect(&mut self, id: &str) -> Result<(), String> {
        let holder = self.find(id)?;
        holder.networks.clear();
        holder.attachments.clear();
        Ok(())
    }

    /// The sandboxes that are outside the managed network.
    pub(in crate::plan::tests) fn spares(&self) -> usize {
        self.observed.holders.iter().filter(|holder| holder.networks.is_empty()).count()
    }

    pub(super) fn start_holder(&mut self, id: &str) -> Result<(), String> {
        if self.refuses_holders {
            return Err("exec format error".to_owned());
        }
        if self.observed.network == NetworkPresence::Missing {
            return Err("network not found".to_owned());
        }
        let holder = self.find(id)?.clone();
        if self.disk_is_full && holder.started_at.is_none() {
            return Err("mkdir /var/lib/docker/overlay2/x: no space left on device".to_owned());
        }
        self.bind_ports(&holder)?;
        let now = self.now;
        let holder = self.find(id)?;
        if holder.networks.is_empty() {
            // The engine reconnects it by itself, as it does for any container.
            holder.networks.insert("abide".to_owned(), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
            holder.attachments.insert("abide".parse().unwrap(), Attachment::default());
        }
        if holder.state != ContainerState::Running {
            (holder.state, holder.started_at) = (ContainerState::Running, Some(now));
        }
        Ok(())
    }

    /// An announced address exists, and no container serves at it yet.
    pub(super) fn announce(&self, id: &str) {
        assert!(self.intent.drain.is_some(), "there is no front to tell");
        let holder = self.observed.holders.iter().find(|holder| holder.id == id);
        assert_eq!(holder.map(|holder| &holder.state), Some(&ContainerState::Running), "{self:?}");
        let is_inside =
            |seen: &ObservedContainer| seen.joined.as_ref().is_some_and(|joined| joined.holder == id);
        assert!(!self.observed.containers.iter().any(is_inside), "{self:?}");
    }

    pub(super) fn join(&self, own: ObservedContainer, holder: String) -> ObservedContainer {
        assert!(self.observed.holders.iter().any(|seen| seen.id == holder), "no holder {holder}: {self:?}");
        ObservedContainer {
            published: BTreeSet::new(),
            extra_hosts: Vec::new(),
            networks: BTreeMap::new(),
            attachments: BTreeMap::new(),
            settings: own.settings.of_container(),
            joined: Some(Joined { holder, state: SandboxState::Gone }),
            ..own
        }
    }

    /// A container can only be started in the namespace of a running sandbox in which no other program
    /// listens on its port.
    pub(super) fn enter_namespace(&self, container: &ObservedContainer) -> Result<(), String> {
        let Some(joined) = &container.joined else { return Ok(()) };
        let holder = self.observed.holders.iter().find(|holder| holder.id == joined.holder);
        let Some(holder) = holder else { return Err("no such container".to_owned()) };
        if holder.state != ContainerState::Running {
            return Err("cannot join network of a non running container".to_owned());
        }
        let is_inside = |other: &&ObservedContainer| {
            other.id != container.id && has_process(other) && other.joined.as_ref() == Some(joined)
        };
        let other = self.observed.containers.iter().find(is_inside);
        assert!(other.is_none(), "two programs in one namespace: {self:?}");
        Ok(())
    }

    /// Publishes the ports of a started container, and checks the law that no other managed container has
    /// them.
    pub(super) fn bind_ports(&self, container: &ObservedContainer) -> Result<(), String> {
        if container.published.is_empty() {
            return Ok(());
        }
        let all = self.observed.containers.iter().chain(&self.observed.holders);
        let mut others = all.filter(|other| other.id != container.id && !other.published.is_empty());
        assert!(!others.any(has_process), "one of ours has the port: {self:?}");
        if self.foreign_has_port { Err("port is already allocated".to_owned()) } else { Ok(()) }
    }

    /// Whether a container is unreachable, because its sandbox does not hold the container's namespace.
    pub(in crate::plan::tests) fn is_cut_off(&self, container: &ObservedContainer) -> bool {
        let seen = container.clone().with_holder(&self.observed.holders);
        let holds = |joined: Joined| matches!(joined.state, SandboxState::Holds | SandboxState::Paused);
        seen.joined.is_some_and(|joined| !holds(joined))
    }

    pub(in crate::plan::tests) fn exit_holder(&mut self, index: usize) {
        let at = self.now;
        if let Some(holder) = self.observed.holders.get_mut(index).filter(|holder| has_process(holder)) {
            holder.state = ContainerState::Exited(Exit { code: 137, out_of_memory: false, at });
        }
    }

    pub(in crate::plan::tests) fn remove_holder(&mut self, index: usize) {
        if index < self.observed.holders.len() {
            self.observed.holders.remove(index);
        }
    }

    pub(in crate::plan::tests) fn pause_holder(&mut self, index: usize) {
        if let Some(holder) = self.observed.holders.get_mut(index).filter(|holder| has_process(holder)) {
            holder.state = ContainerState::Paused;
        }
    }
}

pub(super) fn has_process(container: &ObservedContainer) -> bool {
    container.state.has_process()
}

fn project_holder(id: String, name: &ContainerName, spec: &HolderSpec, now: Timestamp) -> ObservedContainer {
    let published = spec.ports().map(|port| port.canonical().to_string()).collect();
    ObservedContainer {
        id,
        name: name.to_string(),
        image: None,
        engine_health: EngineHealth::NoCheck,
        state: ContainerState::Created,
        created_at: now,
        started_at: None,
        command: Vec::new(),
        env: BTreeMap::new(),
        published,
        mounts: ObservedMounts::default(),
        settings: spec.run.settings.clone(),
        attachments: spec.attachments(),
        extra_hosts: spec.extra_hosts.clone(),
        memory: None,
        nano_cpus: None,
        pids: None,
        init: false,
        restart_policy: "no".to_owned(),
        networks: BTreeMap::from([(spec.network.to_string(), None)]),
        joined: None,
        last_output: None,
        secret_files: Vec::new(),
        labels: spec.labels(),
    }
}
