//! Events that need a person although no environment failed: agents that are away, certificates, failed jobs,
//! promotions that wait for an approval, and rejections. The outbox compares it with what was announced before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::ApiState;
use crate::model::desired::Image;
use crate::model::evidence::{Evidence, GateKind, Person};
use crate::model::name::AgentName;
use crate::model::outbox::{News, OpenProblem, Subject};
use crate::model::spec::{EnvironmentSpec, Manifest};
use crate::model::status::Status;
use crate::model::time::Timestamp;
use crate::record::RecordError;

/// The shortest time between two looks, however much changes.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest: time alone changes some of it.
const LOOK: Duration = Duration::from_secs(30);
/// How long before its end a certificate is reported that a person renews.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// The same for a certificate of an authority, which abide renews long before.
const SOON_IF_RENEWED: Duration = Duration::from_secs(24 * 60 * 60);
/// The age beyond which a rejection or a failed job is not announced, such as after an upgrade.
const OLD: Duration = Duration::from_secs(60 * 60);

/// Keeps the outbox informed until stopped.
pub async fn watch(api: ApiState, stop: CancellationToken) {
    loop {
        // Before the look, so that no change after it is missed.
        let mut wakeups = api.wakeups.subscribe();
        let now = (api.clock)();
        match api.apart(move |api| api.problems(now)).await {
            Ok(problems) => {
                if let Err(error) = api.outbox.announce_problems(problems, now).await {
                    warn!(error = crate::model::error::chain(&error), "problems cannot be announced");
                }
            }
            Err(error) => warn!(error = %error.view.message, "problems cannot be collected"),
        }
        let woken = async {
            tokio::time::sleep(PAUSE).await;
            // A lag is as good as a wakeup, because everything is checked.
            while let Err(RecvError::Closed) = wakeups.recv().await {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = woken => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

impl ApiState {
    /// The problems that exist now.
    fn problems(&self, now: Timestamp) -> Result<Vec<OpenProblem>, RecordError> {
        let state = Arc::clone(&self.manifest.borrow());
        let manifest = &state.manifest;
        let agents: BTreeSet<&AgentName> =
            manifest.environments.values().filter_map(|spec| spec.host.as_ref()).collect();
        let mut problems: Vec<OpenProblem> =
            agents.into_iter().filter_map(|agent| self.away(agent)).collect();
        for (name, spec) in &manifest.environments {
            if let Some(status) = self.status.status(name)? {
                problems.extend(certificate(&status, manifest, now));
                problems.extend(failed_jobs(&status, spec, now));
            }
        }
        for rejected in self.desired.rejections()? {
            problems.push(rejection(&rejected, now));
        }
        problems.extend(self.awaiting_approval(manifest)?);
        Ok(problems)
    }

    /// An agent that was connected once, and is not now.
    fn away(&self, agent: &AgentName) -> Option<OpenProblem> {
        let presence = self.hub.presence(agent);
        let last_seen = presence.last_seen.filter(|_| !presence.connected)?;
        let message = format!("last seen {last_seen}; its environments keep running, and get no changes");
        Some(OpenProblem::new(News::AgentAway, Subject::Agent(agent.clone()), message))
    }

    /// The promotions that wait for an approval.
    fn awaiting_approval(&self, manifest: &Manifest) -> Result<Vec<OpenProblem>, RecordError> {
        let mut found = Vec::new();
        let gated = manifest.environments.iter().filter(|(_, spec)| spec.gates.approvals > 0);
        for (to, spec) in gated {
            let Some(from) = manifest.promoted_from(to) else { continue };
            let view = self.promotion((from, to), spec, manifest)?;
            let is_closed = |kind| view.gates.iter().any(|gate| gate.gate == kind && !gate.open);
            let waits = is_closed(GateKind::Approvals) && !is_closed(GateKind::Rejection);
            let Some(image) = view.image.as_ref().and_then(Image::shown_digest) else { continue };
            if !waits || view.there || view.problem.is_some() {
                continue;
            }
            let message = format!("{}: `abide approve {from}` approves what {from} runs", view.message);
            let about = format!("{from} {image}");
            found.push(
                OpenProblem::new(News::WaitingForApproval, Subject::Environment(to.clone()), message)
                    .about(about),
            );
        }
        Ok(found)
    }
}

/// A certificate of an environment that ends soon or is not renewed.
fn certificate(status: &Status, manifest: &Manifest, now: Timestamp) -> Option<OpenProblem> {
    let spec = manifest.environments.get(&status.environment)?;
    let host = spec.first_host_name()?.to_string();
    let front = manifest.front.as_ref()?;
    let soon = if front.acme.is_some() { SOON_IF_RENEWED } else { SOON };
    let ends = status.certificate_until.filter(|until| *until <= now.after(soon));
    let failing = status.warnings.iter().find_map(|warning| warning.strip_prefix("HTTPS: "));
    let message = match (failing, ends) {
        (Some(why), _) => why.to_owned(),
        (None, Some(until)) if until <= now => {
            format!("it ended {until}: renew it; abide loads a new file by itself")
        }
        (None, Some(until)) => format!("it ends {until}: renew it; abide loads a new file by itself"),
        (None, None) => return None,
    };
    Some(OpenProblem::new(News::Certificate, Subject::Certificate(host), message))
}

/// The jobs of an environment whose last run failed.
fn failed_jobs<'a>(
    status: &'a Status,
    spec: &'a EnvironmentSpec,
    now: Timestamp,
) -> impl Iterator<Item = OpenProblem> + 'a {
    spec.jobs.iter().filter_map(move |(job, spec)| {
        let run = status.jobs.get(job)?.state.failure(spec.retries)?;
        let subject = Subject::Job { environment: status.environment.clone(), job: job.clone() };
        let why = run.why.as_deref().unwrap_or(run.result.as_str());
        let output = run.output.as_deref().map(|output| format!("; its output ends with: {output}"));
        let message =
            format!("{why}{}. `abide jobs history {job}` lists its runs", output.unwrap_or_default());
        let is_old = run.ended.is_some_and(|ended| now.since(ended) > OLD);
        Some(OpenProblem { is_old, ..OpenProblem::new(News::JobFailed, subject, message) })
    })
}

fn rejection(rejected: &Evidence, now: Timestamp) -> OpenProblem {
    let why = rejected.note.as_deref().unwrap_or("no reason was given");
    let subject = Subject::Environment(rejected.environment.clone());
    let problem = OpenProblem::new(News::Rejected, subject, why).about(rejected.sequence.to_string());
    OpenProblem {
        by: rejected.by.as_ref().map(Person::name).map(str::to_owned),
        is_old: now.since(rejected.at) > OLD,
        ..problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::{SourceFile, parse};
    use crate::model::name::{EnvironmentName, Generation};
    use crate::model::status::{Condition, Reason};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn manifest(acme: &str) -> Manifest {
        let text = format!(
            "[environment.prod]\ncontainer = \"prod\"\nport = 1\nhostname = \"www.example.com\"\n\
             [front]\nimage = \"nginx\"\nhttp = 80\n{acme}"
        );
        parse(&[SourceFile { name: "m.toml".to_owned(), text }]).unwrap()
    }

    fn status(until: Option<Timestamp>, warnings: &[&str]) -> Status {
        Status {
            environment: EnvironmentName::new("prod").unwrap(),
            observed_generation: Generation(1),
            condition: Condition::Ready,
            reason: Reason::AsRecorded,
            message: String::new(),
            since: Timestamp::default(),
            running: None,
            next_retry: None,
            plan: Vec::new(),
            observed_sync: None,
            volumes: Vec::new(),
            warnings: warnings.iter().map(|text| (*text).to_owned()).collect(),
            certificate_until: until,
            observed_declaration: None,
            canary: None,
            jobs: Default::default(),
            nodes: Vec::new(),
        }
    }

    #[test]
    fn a_certificate_is_a_problem_if_it_expires_soon_or_is_not_renewed() {
        let now = Timestamp::from_millis(1_000_000_000_000);
        let own = manifest("");
        let of = |days: u32, manifest: &Manifest| {
            certificate(&status(Some(now.after(DAY * days)), &[]), manifest, now)
        };
        assert!(of(15, &own).is_none() && of(13, &own).is_some());
        let acme = manifest("https = 443\nacme = { email = \"a@example.com\" }\n");
        assert!(of(3, &acme).is_none(), "a certificate for six days is renewed after three");
        assert!(of(0, &acme).unwrap().message.contains("it ended"));
        let failing =
            certificate(&status(None, &["disk", "HTTPS: the name leads elsewhere"]), &acme, now).unwrap();
        assert_eq!(failing.message, "the name leads elsewhere");
        assert_eq!(failing.subject.to_string(), "certificate of www.example.com");
        assert_eq!(certificate(&status(None, &["disk"]), &acme, now), None);
    }
}
