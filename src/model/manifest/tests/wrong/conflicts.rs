//! Environments that are in the way of each other.

use super::*;

#[test]
fn the_same_container_or_host_port_is_not_given_twice() {
    let text =
        env("a", "same", 1, "") + &env("b", "same", 1, "") + &env("c", "other", 2, "publish = \"[::]:1\"");
    assert_eq!(
        problems(&[file("m.toml", text)]),
        [
            "m.toml:6: the container `same` already belongs to `environment.a`",
            "m.toml:7: the host port 1 is already published by `environment.a`",
            "m.toml:12: the host port 1 is already published by `environment.a`",
        ]
    );
}

#[test]
fn an_alias_must_not_match_another_container_in_the_network() {
    let both = |lines: &str, other: &str| {
        problems(&[file("m.toml", env("a", "same", 1, other) + &env("b", "bb", 2, lines))])
    };
    let why = "the alias `same` is the name of the container of `environment.a`: choose another one";
    assert_eq!(both("aliases = [\"same\"]", ""), [format!("m.toml:8: {why}")]);
    let network = "networks = { back = { aliases = [\"same\"] } }";
    assert_eq!(both(network, ""), [""; 0], "the other one does not join it");
    assert_eq!(both(network, "networks = [\"back\"]").len(), 1);
    assert_eq!(both("aliases = [\"bb\"]", ""), [""; 0], "its own name");
}

#[test]
fn two_scripts_must_not_create_the_same_image() {
    let scripted = |name: &str, container: &str, port: u16, image: &str| {
        let source = "source = { repository = \"r\", branch = \"b\" }";
        let build = format!("[environment.{name}.build]\nscript = [\"./b.sh\"]\nimage = \"{image}\"\n");
        env(name, container, port, source) + &build
    };
    let both = |image: &str| {
        let repository = "[repository.r]\nurl = \"/srv/r.git\"\n";
        let text = scripted("a", "aa", 1, image) + &scripted("b", "bb", 2, image) + repository;
        problems(&[file("m.toml", text)])
    };
    assert_eq!(
        both("site:latest"),
        ["m.toml:14: the script of `environment.a` also creates `site:latest`: use different names, \
            or names with {build_number}"]
    );
    assert_eq!(both("site:b{build_number}"), [""; 0]);
}

#[test]
fn a_host_port_may_be_reused_only_on_distinct_addresses() {
    let both = |a: &str, b: &str| {
        let [a, b] = [a, b].map(|address| format!("publish = \"{address}:80\""));
        problems(&[file("m.toml", env("a", "aa", 1, &a) + &env("b", "bb", 2, &b))]).len()
    };
    assert_eq!(both("127.0.0.1", "10.0.0.1"), 0);
    assert_eq!(both("127.0.0.1", "127.0.0.1"), 1);
    assert_eq!(both("127.0.0.1", "[::ffff:127.0.0.1]"), 1);
    assert_eq!(both("127.0.0.1", "0.0.0.0"), 1);
    assert_eq!(both("[::]", "[::1]"), 1);
    assert_eq!(both("0.0.0.0", "[::1]"), 0);
}

#[test]
fn one_volume_has_one_writer() {
    let of = |a: &str, b: &str| {
        let [a, b] = [a, b].map(|volume| format!("volumes = [\"{volume}\"]"));
        problems(&[file("m.toml", env("a", "aa", 1, &a) + &env("b", "bb", 2, &b))])
    };
    assert_eq!(
        of("data:/x", "data:/y"),
        [
            "m.toml:8: `data` is already written by `environment.a`; mount it with :ro in one of them, or declare `shared = true` in both"
        ]
    );
    assert_eq!(of("/srv/data:/x", "/srv/data/:/y").len(), 1);
    assert!(of("data:/x", "data:/y:ro").is_empty());
    assert!(of("data:/x", "log:/x").is_empty());
}

#[test]
fn promotions_must_name_an_environment_and_form_no_cycle() {
    let from = |name: &str| format!("promote_from = \"{name}\"");
    let problems_of = |parts: &[String]| problems(&[file("m.toml", parts.concat())]);
    assert_eq!(
        problems_of(&[env("a", "aa", 1, &from("a"))]),
        ["m.toml:4: `environment.a` cannot be promoted from itself"]
    );
    assert_eq!(
        problems_of(&[
            env("z", "zz", 4, &from("a")),
            env("a", "aa", 1, &from("b")),
            env("b", "bb", 2, &from("c")),
            env("c", "cc", 3, &from("a")),
        ]),
        ["m.toml:8: circular promotions: a from b from c from a"]
    );
    assert_eq!(
        problems_of(&[env("test", "aa", 1, ""), env("prod", "bb", 2, &from("tset"))]),
        ["m.toml:8: unknown environment `tset`; did you mean `test`?"]
    );
    assert_eq!(
        problems_of(&[env("prod", "bb", 2, &from("test"))]),
        ["m.toml:4: unknown environment `test`; declare it as `[environment.test]`"]
    );
}

#[test]
fn duplicate_declarations_are_reported_with_both_places() {
    let a = format!("[docker]\n[repository.r]\nurl = \"/r\"\n{DEV}");
    let b = format!("[docker]\n[repository.r]\nurl = \"/s\"\n\n{DEV}");
    assert_eq!(
        problems(&[file("a.toml", a), file("b.toml", b)]),
        [
            "b.toml:1: `docker` is already declared in a.toml:1",
            "b.toml:2: `repository.r` is already declared in a.toml:2",
            "b.toml:5: `environment.dev` is already declared in a.toml:4",
        ]
    );
}

#[test]
fn a_host_network_port_cannot_be_published_by_another_environment() {
    let on_host = "[environment.a]\ncontainer = \"aa\"\nport = 80\nnetwork_mode = \"host\"\n";
    let other = "[environment.b]\ncontainer = \"bb\"\nport = 8080\npublish = 80\n";
    assert_eq!(
        problems(&[file("m.toml", format!("{on_host}{other}"))]),
        ["m.toml:8: the host port 80 is already published by `environment.a`"]
    );
}
