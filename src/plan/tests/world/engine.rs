//! The engine of the world, and the laws that it checks while it acts.

use super::*;

impl World {
    /// Carries out a step; `false` if the daemon is killed before it.
    pub(super) fn act(&mut self, step: &Step, made: &mut Made) -> Result<bool, String> {
        if self.killed_before == Some(0) {
            self.killed_before = None;
            self.restart_daemon();
            return Ok(false);
        }
        self.killed_before = self.killed_before.map(|left| left - 1);
        let is_failing = self.failing.contains(&0);
        self.failing = self.failing.iter().filter_map(|number| number.checked_sub(1)).collect();
        if is_failing {
            return Err("the engine says no".to_owned());
        }
        self.obey(step, made)?;
        self.done.push(step.clone());
        Ok(true)
    }

    pub(super) fn obey(&mut self, step: &Step, made: &mut Made) -> Result<(), String> {
        match step {
            Step::CancelJob => {
                self.job = None;
                self.observed.burst_since.get_or_insert(self.now);
            }
            Step::Acquire(need) => self.begin(need),
            Step::Record(RecordStep::Image { generation, image, recipe })
                if *generation == self.intent.entry.generation =>
            {
                self.intent.entry.image = Some(image.clone());
                self.intent.entry.recipe.clone_from(recipe);
                self.latest = self.intent.entry.clone();
            }
            Step::Record(RecordStep::Rebuilt { generation, image })
                if *generation == self.intent.entry.generation =>
            {
                let entry = self.intent.entry.clone();
                let is_rollback = entry.origin == Some(Origin::AutomaticRollback);
                let origin = if is_rollback { Origin::AutomaticRollback } else { Origin::Rebuild };
                self.record(entry.revision, Some(image.clone()), origin);
            }
            Step::Record(RecordStep::Recipe { generation, recipe })
                if *generation == self.intent.entry.generation =>
            {
                self.intent.entry.recipe = Some(recipe.clone());
                self.latest = self.intent.entry.clone();
            }
            Step::Record(RecordStep::Edited { generation, image, recipe })
                if *generation == self.intent.entry.generation =>
            {
                let revision = self.intent.entry.revision.clone();
                self.record(revision, Some(image.clone()), Origin::ManifestEdit);
                self.intent.entry.recipe = Some(recipe.clone());
                self.latest = self.intent.entry.clone();
            }
            Step::Record(RecordStep::RollBack { from, to, reason, message, .. }) => {
                self.roll_back(*from, to, *reason, message);
            }
            Step::Record(
                RecordStep::Image { .. }
                | RecordStep::Recipe { .. }
                | RecordStep::Edited { .. }
                | RecordStep::Rebuilt { .. },
            ) => return Err("stale".to_owned()),
            _ if self.inert => {}
            Step::CreateNetwork => self.observed.network = NetworkPresence::Ours,
            Step::CreateVolume { name } => {
                self.observed.volumes.insert(name.clone());
            }
            Step::CreateFolder { path } => drop(self.observed.missing_sources.remove(path)),
            Step::LoadHolder => self.load_holder()?,
            Step::CreateHolder { name, spec, purpose } => {
                made.holder = Some(self.create_holder(name, spec, *purpose)?);
            }
            Step::Disconnect { holder } => self.disconnect(&made.target(holder, true))?,
            Step::StartHolder { holder, .. } => self.start_holder(&made.target(holder, true))?,
            Step::Announce { holder } => self.announce(&made.target(holder, true)),
            Step::TryOptions { spec, .. } => self.try_options(spec)?,
            Step::Create { name, spec, joins } => {
                let joins = joins.as_ref().map(|holder| made.target(holder, true));
                made.container = Some(self.create(name, spec, joins)?);
            }
            Step::CreateOneOff { spec } => self.create_one_off(spec)?,
            Step::StartOneOff { id, .. } => self.start_one_off(id)?,
            Step::Start { container, .. } => self.start(&made.target(container, false))?,
            step => self.change(step)?,
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, need: &Need) {
        let (Need::Build { revision } | Need::Rebuild { revision }) = need else {
            panic!("nothing to build: {need:?}")
        };
        assert!(self.job.is_none(), "two jobs at once");
        self.jobs_begun += 1;
        self.verdicts.remove(revision);
        self.job = Some(Job { revision: revision.clone(), ends: self.now.after(BUILD_TIME) });
    }

    pub(super) fn name_is_free(&self, name: &str) -> bool {
        let is_foreign = self.observed.name_holder.is_some() && name == NAME;
        !is_foreign
            && !self.observed.taken_names.contains(name)
            && self.observed.containers.iter().all(|container| container.name != name)
    }

    pub(super) fn create(
        &mut self,
        name: &ContainerName,
        spec: &ContainerSpec,
        joins: Option<String>,
    ) -> Result<String, String> {
        assert!(spec.generation <= self.intent.entry.generation, "a wish of the future");
        let is_wanted = spec.generation == self.intent.entry.generation;
        let is_good = self.memory.good.as_ref().is_some_and(|good| good.generation == spec.generation);
        assert!(is_wanted || is_good, "an older wish came back: {spec:?}");
        assert!(self.name_is_free(name.as_str()), "the name {name} is taken: {self:?}");
        assert!(!self.is_given_up(&spec.image), "what was rolled back from came back: {self:?}");
        if !self.observed.images.contains(&spec.image) {
            return Err("no such image".to_owned());
        }
        if self.observed.network == NetworkPresence::Missing {
            return Err("no such network".to_owned());
        }
        for name in spec.mounts().filter_map(Mount::volume) {
            assert!(
                self.observed.volumes.contains(name.as_str()),
                "volume {name} would be made by the engine"
            );
        }
        for path in self.observed.image_volumes.get(&spec.image).into_iter().flatten() {
            assert!(spec.mounts().any(|mount| mount.target() == path), "a volume for {path} would be made");
        }
        for path in spec.mounts().filter_map(Mount::host_path) {
            assert!(!self.observed.missing_sources.contains(path), "{path} is not there");
        }
        self.containers_made += 1;
        let id = format!("{:06x}{:058x}", self.containers_made, self.containers_made);
        let mut own = project(id.clone(), name, spec, self.now);
        own.mounts.of_image = self.observed.image_volumes.get(&spec.image).cloned().unwrap_or_default();
        self.observed.containers.push(match joins {
            Some(holder) => self.join(own, holder),
            None => own,
        });
        Ok(id)
    }

    /// Whether an image was rolled back from, and the good version can be made in its place.
    fn is_given_up(&self, id: &Digest) -> bool {
        let is_it = |image: &Image| image.id.as_ref() == Some(id);
        let other = self.memory.good.iter().map(|good| &good.image).filter(|image| !is_it(image));
        let can_be_made =
            |image: &Image| image.id.as_ref().is_some_and(|id| self.observed.images.contains(id));
        self.intent.bad.iter().any(|bad| is_it(&bad.image)) && other.into_iter().any(can_be_made)
    }

    pub(super) fn start(&mut self, id: &str) -> Result<(), String> {
        let container = self.find(id)?.clone();
        if container.joined.is_some() {
            self.enter_namespace(&container)?;
        } else if container.networks.is_empty() {
            return Err("network not found".to_owned());
        }
        if self.program_of(&container) == Program::RefusesToStart {
            return Err("exec format error".to_owned());
        }
        if self.disk_is_full && container.started_at.is_none() {
            return Err("mkdir /var/lib/docker/overlay2/x: no space left on device".to_owned());
        }
        self.bind_ports(&container)?;
        let now = self.now;
        let container = self.find(id)?;
        (container.state, container.started_at) = (ContainerState::Running, Some(now));
        container.last_output = None;
        self.hung.remove(id);
        Ok(())
    }

    /// The law that a trial takes no port that a managed container has.
    pub(super) fn try_options(&mut self, spec: &ContainerSpec) -> Result<(), String> {
        let ports: Vec<String> = spec.options.ports().map(|port| port.canonical().to_string()).collect();
        let all = self.observed.containers.iter().chain(&self.observed.holders);
        let has_one = |seen: &ObservedContainer| {
            network::has_process(seen) && ports.iter().any(|port| seen.published.contains(port))
        };
        assert!(!all.into_iter().any(has_one), "a trial takes our own port: {self:?}");
        if self.rejects_options {
            return Err("error gathering device information while adding custom device".to_owned());
        }
        if self.foreign_has_port && !ports.is_empty() {
            return Err("port is already allocated".to_owned());
        }
        Ok(())
    }

    pub(super) fn change(&mut self, step: &Step) -> Result<(), String> {
        let (now, ignores_limits) = (self.now, self.ignores_limits);
        match step {
            Step::Stop { id } if self.is_one_off(id) => {
                self.stop_command(id);
            }
            Step::Stop { id } => {
                self.may_leave(id);
                let exit = Exit { code: 143, out_of_memory: false, at: now };
                self.find(id)?.state = ContainerState::Exited(exit);
            }
            Step::Remove { id } => self.remove(id)?,
            Step::Rename { id, name } => {
                assert!(self.name_is_free(name.as_str()), "the name {name} is taken: {self:?}");
                let neighbour = self.observed.name_holder.take_if(|holder| holder.id == *id);
                if let Some(neighbour) = neighbour {
                    assert_eq!(neighbour.foreign(), None, "a foreign container was renamed: {self:?}");
                    return Ok(());
                }
                self.find(id)?.name = name.to_string();
            }
            Step::Restart { id } => {
                self.find(id)?.state =
                    ContainerState::Exited(Exit { code: 143, out_of_memory: false, at: now });
                self.start(id)?;
            }
            Step::Pause { id } => self.find(id)?.state = ContainerState::Paused,
            Step::Unpause { id } => self.find(id)?.state = ContainerState::Running,
            Step::Connect { id } => self.connect(id)?,
            Step::Adjust { memory: Some(_), .. } if self.refuses_limits => {
                return Err("unable to set memory limit to 8388608 (current usage: 20000000)".to_owned());
            }
            Step::Adjust { id, memory, nano_cpus, pids } if !ignores_limits => {
                let container = self.find(id)?;
                container.memory = memory.or(container.memory);
                container.nano_cpus = nano_cpus.or(container.nano_cpus);
                container.pids = pids.or(container.pids);
                container.restart_policy = "no".to_owned();
            }
            _ => {}
        }
        Ok(())
    }

    /// Removes a container, and checks the law that a ready container stays until its replacement is ready.
    pub(super) fn remove(&mut self, id: &str) -> Result<(), String> {
        if self.is_one_off(id) {
            assert!(!self.is_running_command(id), "a running command is removed: {self:?}");
            self.observed.one_offs.retain(|seen| seen.id != id);
            return Ok(());
        }
        self.may_leave(id);
        let was_good = self.memory.good.as_ref().is_some_and(|good| good.container == id);
        let is_dead = self.find(id)?.state == ContainerState::Dead;
        let is_gone = self.find(id)?.joined.as_ref().is_some_and(|joined| joined.state == SandboxState::Gone);
        let is_dead = is_dead || is_gone;
        self.observed.holders.retain(|holder| holder.id != id);
        self.observed.containers.retain(|container| container.id != id);
        let seen = self.seen();
        let is_ready = |container: &ObservedContainer| {
            let since = seen.probes.get(&container.id).and_then(|readiness| readiness.answering_since);
            since.is_some_and(|since| since.after(self.intent.health.healthy_for) <= self.now)
        };
        let replaced = seen.containers.iter().any(is_ready);
        assert!(!was_good || is_dead || replaced, "what was ready is removed too early: {self:?}");
        Ok(())
    }

    pub(super) fn find(&mut self, id: &str) -> Result<&mut ObservedContainer, String> {
        let all = self.observed.containers.iter_mut().chain(&mut self.observed.holders);
        let found = all.into_iter().find(|container| container.id == id);
        Ok(found.unwrap_or_else(|| panic!("a step names {id}, which is not ours")))
    }
}

/// A container as an inspect shows it.
pub(super) fn project(
    id: String,
    name: &ContainerName,
    spec: &ContainerSpec,
    now: Timestamp,
) -> ObservedContainer {
    let options = &spec.options;
    ObservedContainer {
        id,
        name: name.to_string(),
        image: Some(spec.image.clone()),
        engine_health: crate::model::observed::EngineHealth::NoCheck,
        state: ContainerState::Created,
        created_at: now,
        started_at: None,
        command: options.command.clone().unwrap_or_default(),
        env: options.env.clone(),
        published: options.ports().map(|port| port.canonical().to_string()).collect(),
        mounts: ObservedMounts {
            asked: spec.mounts().map(Mount::as_mounted).collect(),
            volumes: spec
                .mounts()
                .filter_map(|mount| Some((mount.target().clone(), mount.volume()?.clone())))
                .collect(),
            ..ObservedMounts::default()
        },
        settings: options.run.settings.clone(),
        attachments: options.attachments(),
        extra_hosts: options.extra_hosts.clone(),
        memory: options.memory,
        nano_cpus: options.nano_cpus,
        pids: options.pids,
        init: options.init,
        restart_policy: "no".to_owned(),
        networks: BTreeMap::from([(options.network.to_string(), None)]),
        joined: None,
        last_output: None,
        secret_files: Vec::new(),
        labels: spec.labels(),
    }
}
