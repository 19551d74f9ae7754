//! Problems of a manifest as users see them: `file:line: message`.

mod build;
mod conflicts;
mod container;
mod gates;
mod host;

use super::*;

fn problems(files: &[SourceFile]) -> Vec<String> {
    match parse(files) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// Checks each case: lines that are added to `dev` from line 4 on, and the complete expected problems.
#[track_caller]
fn each_of_dev(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        let found = problems(&[file("m.toml", format!("{DEV}{lines}\n"))]);
        assert_eq!(found.join("\n"), format!("m.toml:{expected}"), "{lines}");
    }
}

/// Does the same as [`each_of_dev`] for lines in a repository's table, from line 5 on.
#[track_caller]
fn each_of_repository(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        let found = problems(&[file("m.toml", format!("{DEV}[repository.r]\n{lines}\n"))]);
        assert_eq!(found.join("\n"), format!("m.toml:{expected}"), "{lines}");
    }
}

/// Does the same as [`each_of_dev`] for lines in the build's table, from line 6 on.
#[track_caller]
fn each_of_build(cases: &[(&str, &str)]) {
    let end = "[repository.r]\nurl = \"/srv/r.git\"\n";
    for (lines, expected) in cases {
        let text = format!(
            "{DEV}source = {{ repository = \"r\", branch = \"b\" }}\n[environment.dev.build]\n{lines}\n{end}"
        );
        assert_eq!(problems(&[file("m.toml", text)]).join("\n"), format!("m.toml:{expected}"), "{lines}");
    }
}

/// `name` with container and port, and `lines`.
fn env(name: &str, container: &str, port: u16, lines: &str) -> String {
    format!("[environment.{name}]\ncontainer = \"{container}\"\nport = {port}\n{lines}\n")
}

#[test]
fn unknown_keys_get_a_suggestion() {
    each_of_dev(&[
        ("comand = [\"dev\"]", "4: unknown key `comand`; did you mean `command`?"),
        ("PORT = 1", "4: unknown key `PORT`; did you mean `port`?"),
        ("\nprmoote_from = \"test\"", "5: unknown key `prmoote_from`; did you mean `promote_from`?"),
        ("branch = \"dev\"", "4: unknown key `branch`; it belongs to `environment.NAME.source`"),
        ("health = { htpt = \"/\" }", "4: unknown key `htpt`; did you mean `http`?"),
        ("[enviroment.test]", "4: unknown key `enviroment`; did you mean `environment`?"),
        (
            "[docker]\nsubnet = 1",
            "5: unknown key `subnet`; known keys: network, holder, build_cache, guard, parallel_updates",
        ),
        (
            "\"a\\u001b[31m\" = 1",
            &format!(
                "4: unknown key `a\u{fffd}[31m`; known keys: {}",
                keys::ENVIRONMENT.names().collect::<Vec<_>>().join(", ")
            ),
        ),
    ]);
}

#[test]
fn values_of_the_wrong_type_or_size_are_reported_with_the_expected() {
    each_of_dev(&[
        ("port = 1", "4: `port` is declared twice: remove one of them, or merge them"),
        ("publish = \"8900\"", &format!("4: `publish` must be {}", grammar::PUBLISH)),
        ("publish = true", &format!("4: `publish` must be {}, not true or false", grammar::PUBLISH)),
        ("publish = \"127.0.0.1:0\"", &format!("4: `publish` must be {}", grammar::PUBLISH)),
        ("publish = 0", "4: `publish` must be a whole number from 1 to 65535, not 0"),
        ("publish = 70000", "4: `publish` must be a whole number from 1 to 65535, not 70000"),
        ("command = \"dev\"", "4: `command` must be a list such as [\"dev\"], not a string"),
        ("command = [\n\"a\",\n1]", "6: `command[1]` must be a text in quotes, not a whole number"),
        ("command = [\"\\u0000\"]", "4: `command[0]` must not contain a NUL character"),
        ("init = \"yes\"", "4: `init` must be true or false, not a string"),
        ("pids = -1", "4: `pids` must be a whole number from 1 to 4194304, not -1"),
        ("memory = \"5MiB\"", "4: `memory` must be at least 6MiB"),
        ("memory = 99999999999999999999", "4: `memory` must be less than 8 EiB"),
        ("memory = -1", "4: `memory` must be at least 6MiB"),
        ("memory = 0", "4: `memory` must be at least 6MiB"),
        ("memory = \"9000000t\"", "4: `memory` must be less than 8 EiB"),
        ("memory = \"much\"", "4: `memory` must be a size such as \"512MiB\", \"1g\" or a number of bytes"),
        ("cpus = 0", "4: `cpus` must be a number of CPUs such as 1.5, at least 0.01"),
        ("cpus = nan", "4: `cpus` must be a number of CPUs such as 1.5, at least 0.01"),
        ("cpus = \"two\"", "4: `cpus` must be a number of CPUs such as 1.5, at least 0.01"),
        (
            "stop_timeout = 10",
            "4: `stop_timeout` must be a duration such as \"30s\" or \"5m\", not a whole number",
        ),
        ("stop_timeout = \"soon\"", "4: `stop_timeout` must be a duration such as \"30s\" or \"5m\""),
        (
            "stop_timeout = \"1500ms\"",
            "4: `stop_timeout` must be whole seconds, which is the engine's resolution",
        ),
        ("stop_timeout = \"9years\"", "4: `stop_timeout` must be at most a year"),
        (
            "update = \"start-first\"",
            "4: `update` = \"start-first\" needs a proxy that switches between the containers: add \
            `[front]`, or `publish = false`",
        ),
        ("update = \"rolling\"", "4: `update` must be \"start-first\" or \"stop-first\""),
        ("env = [\"A=1\"]", "4: `env` must be a table, not a list"),
        (
            "env = { A = [] }",
            "4: `A` must be a text, a number, true or false, { secret_env = \"...\" } or { secret_file = \"...\" }, not a list",
        ),
        (
            "env = { \"A=B\" = \"c\" }",
            "4: `A=B` cannot be the name of an environment variable: use letters, digits, _ . and -, not \
            beginning with a digit",
        ),
        ("env = { A = {} }", "4: `environment.dev.env.A` needs one of `secret_env` and `secret_file`"),
        (
            "env = { A = { secret_env = \"A\", secret_file = \"/a\" } }",
            "4: `environment.dev.env.A` accepts only one of `secret_env` and `secret_file`",
        ),
        (
            "env = { A = { secret_env = \"hunter2!\" } }",
            "4: `secret_env` must be the name of an environment variable of the daemon, such as \
            \"KEEPWORK_WEBHOOK_SECRET\"",
        ),
        (
            "env = { A = { secret_file = \"~/a\" } }",
            "4: `secret_file` must be absolute in the path: abide does not expand ~, variables or \
            relative paths",
        ),
        (
            "extra_hosts = [\"a\"]",
            "4: `extra_hosts[0]` must be \"host:address\", such as \"git.example.com:10.0.0.6\"",
        ),
        (
            "extra_hosts = [\"a:b\"]",
            "4: `extra_hosts[0]` must be \"host:address\", such as \"git.example.com:10.0.0.6\"",
        ),
    ]);
}

#[test]
fn missing_keys_are_reported_with_an_example() {
    let found = problems(&[file("m.toml", "\n[environment.dev]\nsource = {}\n")]);
    let expected = [
        "m.toml:2: `environment.dev` needs `container`, such as `container = \"dev-server\"`",
        "m.toml:3: `environment.dev.source` needs `branch`, such as `branch = \"dev\"`",
        "m.toml:3: `environment.dev.source` needs `repository`, such as `repository = \"keepwork\"`",
    ];
    assert_eq!(found, expected);
}

#[test]
fn names_that_docker_or_git_would_reject_are_reported() {
    let text = "[environment.Dev]\ncontainer = \"-dev\"\nport = 1\n\
                [environment.test]\ncontainer = \"test\"\nport = 2\nbuild = {}\n\
                source = { repository = \"a/b\", branch = \"--upload-pack=x\" }\n\
                [environment.prod]\ncontainer = \"prod\"\nport = 3\nbuild = {}\n\
                source = { repository = \"r\", branch = \"refs/heads/master\" }\n\
                [repository.r]\nurl = \"/r\"\n";
    let found = problems(&[file("m.toml", text)]);
    let starts = [
        "m.toml:1: invalid environment name `Dev`: must be ",
        "m.toml:2: invalid container name `-dev`: must be ",
        "m.toml:8: invalid branch name `--upload-pack=x`: must be ",
        "m.toml:8: invalid repository name `a/b`: must be ",
        "m.toml:13: `branch` must be only the branch, without refs/heads/",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    assert!(found.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{found:#?}");
}

#[test]
fn an_image_must_have_exactly_one_source() {
    each_of_dev(&[
        ("build = {}", "4: `build` needs a `source` with the branch to build"),
        (
            "promote_from = \"test\"\nsource = { repository = \"r\", branch = \"b\" }\nbuild = {}\n[repository.r]\nurl = \"/r\"",
            "4: `promote_from` does not go with `source`: an image is either built from a branch or promoted",
        ),
    ]);
}

#[test]
fn a_source_must_name_a_declared_repository() {
    let source = "source = { repository = \"kepwork\", branch = \"dev\" }\nbuild = {}";
    let repository = "[repository.keepwork]\nurl = \"/r\"\n";
    assert_eq!(
        problems(&[file("a.toml", env("dev", "dd", 1, source)), file("b.toml", repository)]),
        ["a.toml:4: unknown repository `kepwork`; did you mean `keepwork`?"]
    );
    // Missing parts may be declared in a file that cannot be read.
    assert_eq!(
        problems(&[file("a.toml", env("dev", "dd", 1, source)), file("b.toml", "[repository")]).len(),
        1
    );
}

#[test]
fn a_manifest_without_environments_is_rejected() {
    assert_eq!(
        problems(&[file("m.toml", "")]),
        ["m.toml: the manifest declares no environment, such as `[environment.dev]`"]
    );
}

#[test]
fn an_invalid_environment_is_still_checked_against_the_others() {
    let text = env("a", "same", 1, "")
        + "[environment.b]\ncontainer = \"same\"\npublish = 80\npromote_from = \"c\"\n";
    assert_eq!(
        problems(&[file("m.toml", text)]),
        [
            "m.toml:6: the container `same` already belongs to `environment.a`",
            "m.toml:7: `publish` needs a `port`, on which the program in the container listens",
            "m.toml:8: unknown environment `c`; the manifest declares a",
        ]
    );
}
