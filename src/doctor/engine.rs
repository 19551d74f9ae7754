//! The Docker Engine.

use super::Finding;
use crate::controller::EngineFacts;
use crate::model::spec::Manifest;

/// The oldest API that abide speaks: that of Docker 19.03.
const OLDEST_API: (u64, u64) = (1, 40);

pub(super) fn judge(facts: &Result<EngineFacts, String>, manifest: &Manifest) -> Vec<Finding> {
    let facts = match facts {
        Ok(facts) => facts,
        Err(why) => return vec![unreachable(why)],
    };
    let mut findings = vec![version(facts)];
    let environments = || manifest.environments.values();
    if !facts.limits_memory && environments().any(|spec| spec.memory.is_some()) {
        findings.push(unlimited("memory"));
    }
    if !facts.limits_pids && environments().any(|spec| spec.pids.is_some()) {
        findings.push(unlimited("pids"));
    }
    findings
}

fn unreachable(why: &str) -> Finding {
    let remedy = if why.contains("ermission denied") {
        "add the user that runs abide to the group docker (`usermod --append --groups docker USER`), and log in again"
    } else {
        "start it (`systemctl start docker`), or set DOCKER_HOST to another engine"
    };
    Finding::problem("engine", why, remedy)
}

fn version(facts: &EngineFacts) -> Finding {
    let EngineFacts { version, api, .. } = facts;
    let shown = format!("Docker {version} with API {api}");
    let mut numbers = api.split('.').map_while(|number| number.parse::<u64>().ok());
    let known = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if known < OLDEST_API {
        let (major, minor) = OLDEST_API;
        return Finding::problem(
            "engine",
            shown,
            format!("abide needs API {major}.{minor}: install a newer Docker"),
        );
    }
    Finding::ok("engine", shown)
}

fn unlimited(key: &str) -> Finding {
    Finding::problem(
        "engine",
        format!("the manifest sets `{key}`, but this engine cannot limit it"),
        "enable this cgroup controller (`docker info` prints a warning about it), or remove the key",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;
    use crate::model::manifest::{SourceFile, parse};

    fn facts(api: &str) -> EngineFacts {
        EngineFacts { version: "28.2.2".into(), api: api.into(), ..EngineFacts::default() }
    }

    #[test]
    fn an_outdated_or_unreachable_engine_is_a_problem() {
        let severity = |facts| judge(&facts, &Manifest::default())[0].severity;
        assert_eq!(severity(Ok(facts("1.40"))), Severity::Ok);
        assert_eq!(severity(Ok(facts("1.51"))), Severity::Ok);
        assert_eq!(severity(Ok(facts("1.39"))), Severity::Problem);
        assert_eq!(severity(Ok(facts(""))), Severity::Problem);
        let denied = judge(&Err("permission denied".into()), &Manifest::default());
        assert!(denied[0].remedy.as_deref().unwrap().contains("group docker"), "{denied:?}");
    }

    #[test]
    fn an_unsupported_memory_limit_is_a_problem() {
        let text =
            "[environment.dev]\ncontainer = \"dev\"\nport = 80\nmemory = \"64MiB\"\nimage = \"a/b:c\"\n";
        let file = SourceFile { name: "m.toml".into(), text: text.into() };
        let manifest = parse(&[file]).unwrap();
        assert_eq!(judge(&Ok(facts("1.51")), &manifest).len(), 2);
        let able = EngineFacts { limits_memory: true, ..facts("1.51") };
        assert_eq!(judge(&Ok(able), &manifest).len(), 1);
    }
}
