//! The steps before the final image: each makes one file for its context.

use std::collections::BTreeMap;
use std::path::Path;

use tokio_util::io::InspectWriter;

use super::image::ImageBuild;
use super::work::ActiveBuild;
use super::{BuildError, blocking, limits};
use crate::context::pack::{self, ExtraFile};
use crate::controller::docker::{STEP_NAME, StepEnd, StepRun};
use crate::durable;
use crate::model::build::BuildKey;
use crate::model::cause;
use crate::model::container::{Secret, label};
use crate::model::name::Digest;
use crate::model::reference::local_path;
use crate::model::spec::{Bounds, BuildOptions, BuildStep};

impl ActiveBuild<'_> {
    /// Runs all steps in order and returns the files that they made. The cached output of a step is reused if
    /// its inputs are the same.
    pub(super) async fn steps(
        &mut self,
        tree: &Path,
        steps: &[(&BuildStep, &Option<BuildKey>)],
        secrets: &BTreeMap<String, Secret>,
        place: &Path,
    ) -> Result<Vec<ExtraFile>, BuildError> {
        let mut extra = Vec::new();
        for (index, (step, key)) in steps.iter().enumerate() {
            let (BuildStep::Archive { output } | BuildStep::Dockerfile { output, .. }) = step;
            let (number, own) = (index + 1, place.join(format!("step-{index}")));
            let cannot = |error| BuildError::not_tried(format!("the directory of step {number}: {error}"));
            std::fs::create_dir(&own).map_err(cannot)?;
            let made = own.join(file_name(output));
            let kept = key.as_ref().map(|key| (self.builder.outputs(), key.clone()));
            if let Some((outputs, key)) = &kept
                && outputs.take(key, &made)
            {
                self.report(&format!("step {number}: reusing {output} of the same inputs"));
            } else {
                self.step(tree, step, number, secrets, &made).await?;
                self.note(&format!("step {number}: checking {output}"));
                let checked = made.clone();
                let name = format!("the output of step {number} ({output})");
                blocking(&name, move || pack::check_archive(&checked)).await?;
                if let Some((outputs, key)) = kept {
                    outputs.keep(&key, &made);
                }
            }
            extra.push(ExtraFile { path: output.clone(), source: made });
        }
        Ok(extra)
    }

    async fn step(
        &mut self,
        tree: &Path,
        step: &BuildStep,
        number: usize,
        secrets: &BTreeMap<String, Secret>,
        made: &Path,
    ) -> Result<(), BuildError> {
        let (context, dockerfile, target, args, output) = match step {
            BuildStep::Archive { output } => return self.archive(tree, number, output, made).await,
            BuildStep::Dockerfile { context, dockerfile, target, args, output } => {
                (context, dockerfile, target.as_deref(), self.filled(args), output)
            }
        };
        self.report(&format!("step {number}: building {dockerfile} for {output}"));
        let record = &self.builder.record;
        // Each step of this record has one tag, so the previous image remains as cache until the next one
        // exists.
        let tag = format!("{}-step-{number}:{}", local_path(&self.task.environment), short(record));
        let labels = BTreeMap::from([(label::STEP.to_owned(), record.clone())]);
        let place = made.parent().unwrap_or(tree);
        let (args, extra, tag, options) = (&args, &[], tag.as_str(), &BuildOptions::default());
        let order = ImageBuild {
            tree,
            context,
            dockerfile,
            target,
            args,
            extra,
            secrets,
            labels,
            is_final: false,
            options,
            tag,
            place,
        };
        let image = self.build_image(order).await.map_err(|error| error.during(&format!("step {number}")))?;
        self.report(&format!("step {number}: running {dockerfile} for {output}"));
        self.run_step(&image, number, made).await
    }

    async fn archive(
        &mut self,
        tree: &Path,
        number: usize,
        output: &str,
        made: &Path,
    ) -> Result<(), BuildError> {
        self.report(&format!("step {number}: packing the checkout as {output}"));
        let (tree, made) = (tree.to_owned(), made.to_owned());
        let work = move || pack::archive(&tree, &made, pack::PackLimits::default());
        let packed = blocking("packing the checkout", work).await?;
        self.log.line(&format!("packed {} files, sha256 {}", packed.files, packed.digest));
        Ok(())
    }

    async fn run_step(&mut self, image: &Digest, number: usize, made: &Path) -> Result<(), BuildError> {
        let cannot = |error| BuildError::not_tried(format!("the file of step {number}: {error}"));
        let file = durable::create(made, durable::PRIVATE).map_err(cannot)?;
        let activity = self.log.activity.clone();
        let mut file = InspectWriter::new(tokio::fs::File::from_std(file), |_| activity.touch());
        let record = &self.builder.record;
        let name = format!("{STEP_NAME}{}-{}-{number}", short(record), self.number);
        let labels = BTreeMap::from([(label::STEP.to_owned(), record.clone())]);
        let Bounds { memory, pids, max_output, .. } = self.task.spec.bounds;
        let memory = limits::memory(memory);
        let step =
            StepRun { image: image.as_str(), name: &name, labels, memory, pids, max_output, joins: None };
        let log = &mut *self.log;
        let ran = self.builder.engine.run_for_output(step, &mut file, &mut |bytes| log.bytes(bytes)).await;
        match ran.map_err(|error| BuildError::of_run(error).during(&format!("running step {number}")))? {
            StepEnd::Exited(0) => Ok(()),
            // This must precede the rule for killed steps, because the kernel kills the step in this case.
            StepEnd::OutOfMemory(code) => {
                let what = limits::of_memory(&format!("step {number} (exit code {code})"), memory);
                Err(BuildError::failed(what))
            }
            StepEnd::TooMuchOutput => {
                Err(BuildError::failed(limits::of_output(&format!("step {number}"), max_output)))
            }
            StepEnd::Exited(code) if cause::is_killed(code) => {
                Err(BuildError::not_tried(format!("step {number} was killed (exit code {code})")))
            }
            StepEnd::Exited(code) => {
                let tail = self.log.tail();
                let hint = if has_no_process(&tail) { limits::hint_of_pids(pids) } else { String::new() };
                Err(BuildError::failed(format!("step {number} exited with code {code}{hint}")))
            }
        }
    }
}

/// Returns whether a program reports that it could not start another one. The engine does not report this for
/// a container that has ended.
fn has_no_process(output: &str) -> bool {
    let output = output.to_lowercase();
    ["resource temporarily unavailable", "can't fork", "cannot fork", "eagain"]
        .iter()
        .any(|of| output.contains(of))
}

/// Returns the beginning of a record's id, for names.
fn short(record: &str) -> &str {
    record.get(..8).unwrap_or(record)
}

/// Returns the last part of a path that the manifest has validated.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
