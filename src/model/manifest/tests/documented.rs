//! The manual in `desired-state/README.md` and the reader must have the same keys.

use std::collections::BTreeSet;

use super::*;

const MANUAL: &str = include_str!("../../../../desired-state/README.md");

type Keys = BTreeSet<(String, String)>;

/// The texts between backticks in a line.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// (section, key) of each row of the manual's tables of fields; keys that are not supported yet are separate.
fn documented() -> (Keys, Keys) {
    let (mut now, mut later) = (Keys::new(), Keys::new());
    let mut section = None;
    for line in MANUAL.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            section = Some((heading, quoted(heading).first().copied().unwrap_or_default()));
        } else if line.starts_with("## ") {
            section = None;
        }
        let Some((heading, title)) = section.filter(|_| line.starts_with("| `") || line.starts_with("| top"))
        else {
            continue;
        };
        let words = quoted(line);
        if heading != "Not in this version" {
            now.insert((title.to_owned(), words[0].to_owned()));
        } else if line.starts_with("| top") {
            later.insert((String::new(), words[0].to_owned()));
        } else {
            later.insert((words[0].to_owned(), words[1].to_owned()));
        }
    }
    (now, later)
}

#[test]
fn the_manual_explains_every_key_and_no_other() {
    let (now, later) = documented();
    let pair = |title: &str, key: &str| (title.to_owned(), key.to_owned());
    let known: Keys =
        SECTIONS.iter().flat_map(|section| section.names().map(|key| pair(section.title, key))).collect();
    assert_eq!(now, known);
    let refused: Keys = NOT_YET.iter().map(|(title, key, _)| pair(title, key)).collect();
    assert_eq!(later, refused);
}

/// The manual with the tables that the keys declare.
fn updated() -> String {
    let mut manual = MANUAL.to_owned();
    for section in SECTIONS {
        let heading = match section.title {
            "" => "### Top of a file\n".to_owned(),
            title => format!("### `{title}`\n"),
        };
        let at = manual.find(&heading).unwrap_or_else(|| panic!("the manual has no `{}`", section.title));
        let from = at + manual[at..].find("| key |").unwrap();
        let to = from + manual[from..].find("\n\n").map_or(manual[from..].len(), |end| end + 1);
        manual.replace_range(from..to, &section.reference());
    }
    manual
}

#[test]
fn the_manual_has_the_tables_that_the_keys_declare() {
    let updated = updated();
    if std::env::var_os("ABIDE_UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/desired-state/README.md");
        std::fs::write(path, &updated).unwrap();
    } else if updated != MANUAL {
        let differs = updated.lines().zip(MANUAL.lines()).find(|(updated, manual)| updated != manual);
        panic!("run this test with ABIDE_UPDATE=1 to update the manual: {differs:?}");
    }
}

/// A manifest with `key = 1979-05-27`, a type that no key accepts, in a table of `section`.
fn with_a_date(section: &Section, key: &str) -> String {
    let dev = "[environment.dev]\nsource = { repository = \"r\", branch = \"b\" }\n";
    let key = match (section.title, key) {
        // These keys are only read together with their companion.
        ("environment.NAME.build", "image" | "env" | "isolation") => format!("script = [\"x\"]\n{key}"),
        ("environment.NAME.build.step", "context" | "target" | "args" | "output") => {
            format!("dockerfile = \"D\"\n{key}")
        }
        _ => key.to_owned(),
    };
    let head = match section.title {
        "" => return format!("{key} = 1979-05-27\n"),
        "docker" | "manifest" | "front" | "page" | "front.acme" | "front.acme.dns" => {
            format!("[{}]\n", section.title)
        }
        "front.certificates" => "[[front.certificates]]\n".to_owned(),
        "environment.NAME" => "[environment.dev]\n".to_owned(),
        "environment.NAME.env.VARIABLE" => "[environment.dev.env.V]\n".to_owned(),
        "notify.NAME" => {
            let kind = match key.as_str() {
                "kind" => return format!("[notify.t]\n{key} = 1979-05-27\n"),
                "channel" => "slack",
                "topic" => "ntfy",
                "room" => "matrix",
                "from" | "to" | "username" => "email",
                _ => "webhook",
            };
            format!("[notify.t]\nkind = \"{kind}\"\n")
        }
        "environment.NAME.secrets.SECRET" => "[environment.dev.secrets.s]\n".to_owned(),
        "environment.NAME.networks.NETWORK" => "[environment.dev.networks.n]\n".to_owned(),
        "job.NAME" => "[job.j]\n".to_owned(),
        "job.NAME.backup" => "[job.j.backup]\n".to_owned(),
        "registry" => "[registry]\n".to_owned(),
        "registry_access.HOST" => "[registry_access.\"a.b:5000\"]\n".to_owned(),
        "registry_access.HOST.webhook" => "[registry_access.\"a.b:5000\".webhook]\n".to_owned(),
        title if title.starts_with("repository.NAME.forge") => {
            let kind = if key == "kind" { "" } else { "kind = \"github\"\n" };
            let table = title.replace("NAME", "r");
            match title {
                "repository.NAME.forge" => format!("[{table}]\n{kind}"),
                _ => format!("[repository.r.forge]\nkind = \"github\"\n[{table}]\n"),
            }
        }
        title if title.starts_with("repository") => format!("[{}]\n", title.replace("NAME", "r")),
        title if title.ends_with(".source") => "[environment.dev.source]\n".to_owned(),
        title if title.ends_with(".promote") => "[environment.dev.promote]\n".to_owned(),
        title if title.ends_with(".verify") => "[environment.dev.verify]\n".to_owned(),
        title if title.ends_with(".release") => "[environment.dev.release]\n".to_owned(),
        title if title.contains(".site") => {
            let host =
                if ["path", "redirect_from"].contains(&key.as_str()) { "hostname = \"a.b\"\n" } else { "" };
            format!("[environment.dev]\n{host}[{}]\n", title.replace("NAME", "dev"))
        }
        title if title.ends_with(".canary") => "[environment.dev.canary]\n".to_owned(),
        title if title.ends_with(".swarm") => "[environment.dev.swarm]\n".to_owned(),
        title if title.ends_with(".health") => "[environment.dev.health]\n".to_owned(),
        title if title.ends_with(".build") => format!("{dev}[environment.dev.build]\n"),
        title => format!("{dev}[[{}]]\n", title.replace("NAME", "dev")),
    };
    format!("{head}{key} = 1979-05-27\n")
}

#[test]
fn every_known_key_is_really_read() {
    for section in SECTIONS {
        for key in section.names() {
            let text = with_a_date(section, key);
            let problems = parse(&[file("m.toml", text.clone())]).unwrap_err().to_string();
            let is_reported = problems
                .lines()
                .any(|line| line.contains(&format!("`{key}` must be")) && line.ends_with("not a date"));
            assert!(is_reported, "{text}\n{problems}");
        }
    }
}

#[test]
fn the_manuals_examples_are_valid() {
    let blocks: Vec<&str> =
        MANUAL.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        assert!(parse(&[file("README.md", block)]).is_ok(), "{block}");
    }
}

/// The examples of the guides are excerpts. They may need other declarations, but have only known keys and values.
#[test]
fn the_guides_examples_have_only_known_keys_and_values() {
    let guides = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
    let guides = guides.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut count = 0;
    for guide in guides.filter(|path| path.extension().is_some_and(|kind| kind == "md")) {
        let text = std::fs::read_to_string(&guide).unwrap();
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let table = match block {
                _ if block.starts_with('[') => "",
                _ if block.starts_with("forge") => "[repository.app]\n",
                _ => "[environment.dev]\n",
            };
            let problems =
                parse_with_places(&[file("guide.toml", format!("{table}{block}"))], Some("/etc/abide")).err();
            let problems = problems.map(|problems| problems.to_string()).unwrap_or_default();
            let missing =
                [" needs ", " unknown environment ", " unknown repository ", " declares no environment"];
            let is_excerpt = |line: &str| missing.iter().any(|part| line.contains(part));
            assert!(problems.lines().all(is_excerpt), "{}:\n{block}\n{problems}", guide.display());
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}
