//! Replicas: one declaration as several environments.

use super::*;
use crate::model::group::NeedCondition;
use crate::model::name::NetworkAlias;
use crate::model::spec::Supply;

const WEB: &str = "[front]\n[environment.web]\ncontainer = \"shop\"\nport = 8000\nhostname = \"a.example\"\n\
                   replicas = 3\npromote_from = \"test\"\nrelease = { command = [\"migrate\"] }\n";
const TEST: &str = "[environment.test]\ncontainer = \"test\"\nport = 8001\n";

fn name(name: &str) -> EnvironmentName {
    EnvironmentName::new(name).unwrap()
}

#[test]
fn a_declaration_with_replicas_is_a_group_of_numbered_environments() {
    let next = "[environment.next]\ncontainer = \"next\"\nport = 8002\npromote_from = \"web\"\n\
                [notify.n]\nkind = \"ntfy\"\nurl = \"https://ntfy.example\"\ntopic = \"t\"\nenvironments = [\"web\", \"test\"]\n\
                [job.j]\nenvironment = \"web\"\ncommand = [\"x\"]\nschedule = \"0 3 * * *\"\n";
    let manifest = parse(&[file("m.toml", format!("{WEB}{TEST}{next}"))]).unwrap();
    let names: Vec<&str> = manifest.environments.keys().map(EnvironmentName::as_str).collect();
    assert_eq!(names, ["next", "test", "web-1", "web-2", "web-3"]);
    let [first, second] = ["web-1", "web-2"].map(|name| environment(&manifest, name));
    assert_eq!((first.container.as_str(), second.container.as_str()), ("shop-1", "shop-2"));
    assert_eq!(first.supply, Supply::Promotion { from: name("test") });
    assert_eq!(second.supply, Supply::Manual);
    assert!(first.release.is_some() && second.release.is_none(), "it runs once");
    assert!(first.jobs.len() == 1 && second.jobs.is_empty(), "it runs once");
    assert!(first.needs.is_empty());
    assert_eq!(second.needs, [(name("web-1"), NeedCondition::Healthy)].into());
    for slot in [&first, &second] {
        assert!(slot.run.aliases.contains(&NetworkAlias::new("web").unwrap()));
        assert_eq!(slot.network(&manifest.network), manifest.network, "not one of their own");
        assert_eq!(slot.group.as_ref().map(crate::model::name::GroupName::as_str), Some("web"));
    }
    assert_eq!(environment(&manifest, "next").supply, Supply::Promotion { from: name("web-1") });
    let channel = manifest.channels.values().next().unwrap();
    let named: Vec<&str> = channel.environments.iter().flatten().map(EnvironmentName::as_str).collect();
    assert_eq!(named, ["test", "web-1", "web-2", "web-3"]);
    assert_eq!(manifest.first_slot("web"), Some(&name("web-1")));
    assert_eq!(manifest.first_slot("test"), None);
    assert_eq!(manifest.followers(&name("web-1")).collect::<Vec<_>>(), [&name("web-2"), &name("web-3")]);
    assert_eq!(manifest.followers(&name("web-2")).next(), None);
}

#[test]
fn replicas_that_cannot_run_beside_each_other_are_rejected_with_a_remedy() {
    let with = |lines: &str, rest: &str| {
        let text = format!(
            "[front]\n[environment.web]\ncontainer = \"shop\"\nport = 8000\nreplicas = 2\n{lines}\n{rest}"
        );
        match parse(&[file("m.toml", text)]) {
            Ok(_) => String::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        }
    };
    let ours = "the slots are a group of their own";
    for (lines, rest, expected) in [
        ("", "", String::new()),
        ("group = \"g\"", "", format!("m.toml:6: `group` does not go with `replicas`: {ours}")),
        (
            "ports = [\"90:90\"]",
            "",
            "m.toml:6: `ports` does not go with `replicas`: two containers cannot publish one host port".to_owned(),
        ),
        (
            "volumes = [\"data:/data\"]",
            "",
            "m.toml:6: all replicas would write `data`: mount it with :ro, or declare `shared = true`".to_owned(),
        ),
        ("volumes = [\"data:/data:ro\"]", "", String::new()),
        (
            "",
            "[environment.web-2]\ncontainer = \"other\"\nport = 81\n",
            "m.toml:5: `replicas` declares `web-2`, which is already an environment: choose another name for one of \
             them"
                .to_owned(),
        ),
        (
            "",
            "[environment.x]\ncontainer = \"shop-1\"\nport = 81\n",
            "m.toml:5: `replicas` declares the container `shop-1`, which already belongs to another environment"
                .to_owned(),
        ),
        (
            "site = { sticky = true }",
            "",
            String::new(),
        ),
    ] {
        assert_eq!(with(lines, rest), expected, "{lines}{rest}");
    }
    let text = "[environment.web]\ncontainer = \"shop\"\nport = 8000\nreplicas = 2\n";
    let problems = parse(&[file("m.toml", text)]).unwrap_err();
    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        all,
        ["m.toml:4: `replicas` needs a proxy for the published port: add `[front]`, or `publish = false`"]
    );
}
