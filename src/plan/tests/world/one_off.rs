//! Commands that run once, in the engine of the world.

use super::*;
use crate::model::container::label;
use crate::model::job::JOB;

impl World {
    /// Declares a release command of these words.
    pub(in crate::plan::tests) fn release(&mut self, word: &str) {
        self.intent.hooks.release = Some(command(word));
    }

    /// Declares a command after releases.
    pub(in crate::plan::tests) fn after_release(&mut self, word: &str) {
        self.intent.hooks.after = Some(command(word));
    }

    pub(super) fn create_one_off(&mut self, spec: &OneOffSpec) -> Result<(), String> {
        let options = &spec.container.options;
        let own = self.observed.containers.iter().chain(&self.observed.one_offs);
        assert!(
            own.into_iter().all(|seen| seen.name != options.name.as_str()),
            "the name is taken: {self:?}"
        );
        assert!(options.publish.is_none() && options.run.ports.is_empty(), "a command publishes a port");
        assert!(spec.role == JOB || !self.is_command_running(), "two commands at once: {self:?}");
        if self.observed.network == NetworkPresence::Missing {
            return Err("no such network".to_owned());
        }
        self.containers_made += 1;
        let id = format!("{:06x}{:058x}", self.containers_made, self.containers_made);
        let mut made = engine::project(id, &options.name, &spec.container, self.now);
        made.labels = spec.labels();
        self.observed.one_offs.push(made);
        Ok(())
    }

    pub(super) fn start_one_off(&mut self, id: &str) -> Result<(), String> {
        let now = self.now;
        let one_off = self.observed.one_offs.iter_mut().find(|seen| seen.id == id).unwrap();
        assert_eq!(one_off.state, ContainerState::Created, "a command runs twice");
        let image = one_off.image.clone().unwrap();
        if self.programs.get(&image) == Some(&Program::RefusesToStart) {
            return Err("exec: \"migrate\": executable file not found in $PATH".to_owned());
        }
        (one_off.state, one_off.started_at) = (ContainerState::Running, Some(now));
        let mark = one_off.labels[label::COMMAND].clone();
        if one_off.labels[label::ROLE] == JOB {
            assert!(!self.jobs_run.contains(&mark), "a run is repeated: {mark}");
            self.jobs_run.push(mark);
        } else {
            self.commands_run.push(image);
        }
        Ok(())
    }

    /// Whether a container is there that restores a volume and has not ended.
    pub(super) fn is_restoring(&self) -> bool {
        let restores = |seen: &&ObservedContainer| seen.labels[label::COMMAND].ends_with(" restore");
        let mut all = self.observed.one_offs.iter().filter(restores);
        all.any(|seen| !matches!(seen.state, ContainerState::Exited(_)))
    }

    pub(super) fn is_one_off(&self, id: &str) -> bool {
        self.observed.one_offs.iter().any(|seen| seen.id == id)
    }

    pub(in crate::plan::tests) fn is_command_running(&self) -> bool {
        self.observed.one_offs.iter().any(|seen| seen.state == ContainerState::Running)
    }

    pub(super) fn is_running_command(&self, id: &str) -> bool {
        self.observed.one_offs.iter().any(|seen| seen.id == id && seen.state == ContainerState::Running)
    }

    /// One command is stopped.
    pub(super) fn stop_command(&mut self, id: &str) {
        let at = self.now;
        let exit = Exit { code: 137, out_of_memory: false, at };
        for seen in self.observed.one_offs.iter_mut().filter(|seen| seen.id == id) {
            seen.state = ContainerState::Exited(exit.clone());
        }
    }

    /// The running command ends by itself.
    pub(in crate::plan::tests) fn end_command(&mut self, code: i64) {
        let at = self.now;
        for seen in self.observed.one_offs.iter_mut().filter(|seen| seen.state == ContainerState::Running) {
            seen.state = ContainerState::Exited(Exit { code, out_of_memory: false, at });
            seen.last_output = Some(format!("no column `{SECRET}`\n"));
        }
    }

    /// The running command is ended by something else.
    pub(in crate::plan::tests) fn interrupt_command(&mut self, by: cause::EndedBy) {
        let running = self.observed.one_offs.iter().find(|seen| seen.state == ContainerState::Running);
        let id = running.unwrap().id.clone();
        self.observed.ended_by.insert(id, by);
        self.end_command(137);
    }
}

fn command(word: &str) -> HookSpec {
    let words = CommandWords { command: Some(vec![word.to_owned()]), entrypoint: None };
    HookSpec { words, timeout: Duration::from_secs(600) }
}
