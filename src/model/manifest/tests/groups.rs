//! Groups: members, their names on the group's network, and what they need of each other.

use super::*;
use crate::model::group::NeedCondition;
use crate::model::name::NetworkAlias;

/// One environment of a group, with further lines.
fn member(name: &str, group: &str, lines: &str) -> String {
    format!("[environment.{name}]\ncontainer = \"{name}-1\"\ngroup = \"{group}\"\n{lines}\n")
}

fn shop(group: &str) -> String {
    let needs = "needs = { db = \"healthy\", cache = \"started\" }";
    [("web", needs), ("db", ""), ("cache", "")]
        .map(|(short, lines)| member(&format!("{group}-{short}"), group, lines))
        .concat()
}

#[test]
fn two_groups_have_members_of_the_same_short_names_on_networks_of_their_own() {
    let text = format!("{}{}{DEV}", shop("shop-test"), shop("shop-prod"));
    let manifest = parse(&[file("m.toml", text)]).unwrap();
    let name = |name: &str| EnvironmentName::new(name).unwrap();
    for group in ["shop-test", "shop-prod"] {
        let db = environment(&manifest, &format!("{group}-db"));
        assert!(db.run.aliases.contains(&NetworkAlias::new("db").unwrap()), "{db:?}");
        assert_eq!(manifest.network_of(&name(&format!("{group}-db"))).as_str(), format!("abide-{group}"));
        let needs = environment(&manifest, &format!("{group}-web")).needs;
        let expected = [
            (name(&format!("{group}-cache")), NeedCondition::Started),
            (name(&format!("{group}-db")), NeedCondition::Healthy),
        ];
        assert_eq!(needs.into_iter().collect::<Vec<_>>(), expected);
    }
    assert_eq!(manifest.network_of(&name("dev")), manifest.network);
    assert_eq!(manifest.networks().len(), 3);
}

#[test]
fn the_members_of_a_group_are_all_services_or_all_containers() {
    let two = |first: &str, second: &str| {
        member("shop-db", "shop", first)
            + &member("shop-web", "shop", second).replace("web-1\"", "web-1\"\npublish = false")
    };
    let swarm = "swarm = {}\npublish = false";
    problems(&two(swarm, "swarm = {}"), &[]);
    problems(&two("publish = false", ""), &[]);
    problems(
        &two(swarm, ""),
        &["9: all members of the group `shop` or none must run on a swarm: declare `swarm` here and in \
           `environment.shop-db`, or in neither"],
    );
}

/// Checks the problems of a manifest, without the name of its file.
#[track_caller]
fn problems(text: &str, expected: &[&str]) {
    let found = match parse(&[file("m.toml", text)]) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
    };
    let expected: Vec<String> = expected.iter().map(|problem| format!("m.toml:{problem}")).collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn needs_name_other_members_of_the_group_without_circles() {
    let two =
        |first: &str, second: &str| member("shop-web", "shop", first) + &member("shop-db", "shop", second);
    problems(&two("needs = { dbs = \"healthy\" }", ""), &["4: unknown member `dbs`; did you mean `db`?"]);
    problems(
        &two("needs = { postgres = \"healthy\" }", ""),
        &["4: unknown member `postgres`; the group `shop` also has db"],
    );
    problems(
        &member("shop-web", "shop", "needs = { db = \"healthy\" }"),
        &["4: unknown member `db`; the group `shop` has no other members"],
    );
    problems(&two("needs = { web = \"started\" }", ""), &["4: `web` cannot need itself"]);
    problems(
        &two("needs = { db = \"healthy\" }", "needs = { web = \"healthy\" }"),
        &["4: circular `needs`: web needs db needs web"],
    );
    problems(&two("needs = { db = \"completed\" }", "restart = \"on-failure\""), &[]);
    problems(
        &two("needs = { db = \"completed\" }", ""),
        &[
            "4: `db` must not be \"completed\" without an end: declare `restart = \"on-failure\"` there, or need it \"healthy\"",
        ],
    );
    problems(
        &two("needs = { db = \"ready\" }", ""),
        &["4: `db` must be \"healthy\", \"started\" or \"completed\""],
    );
    problems(
        &format!("{DEV}needs = {{ db = \"healthy\" }}\n"),
        &["4: `needs` names members of a `group`: declare the same `group` here and there"],
    );
}

#[test]
fn members_have_one_host_and_names_of_their_own() {
    problems(
        &(member("shop-db", "shop", "") + &member("shop-web", "shop", "host = \"online\"")),
        &["7: all members of the group `shop` must run on one host: this one runs on host `online`, and \
            `environment.shop-db` on this host"],
    );
    problems(
        &(member("shop-web", "shop", "") + &member("shop", "other", "")),
        &["3: `shop` is already the name of an environment: choose another name for the group"],
    );
    let called =
        "is also called `db` on the network of the group `shop`: choose another name for one of them";
    problems(
        &(member("shop-db", "shop", "") + &member("db", "shop", "")),
        &[&format!("7: `environment.shop-db` {called}")],
    );
    problems(
        &(member("shop-db", "shop", "") + &member("shop-web", "shop", "aliases = [\"db\"]")),
        &[&format!("3: `environment.shop-web` {called}")],
    );
}

#[test]
fn a_group_is_promoted_from_one_group() {
    let from = |group: &str, member_of: &str| {
        let source = |name: &str| match member_of {
            "" => format!("[environment.{group}-{name}]\ncontainer = \"{group}-{name}-1\"\n"),
            of => member(&format!("{group}-{name}"), of, ""),
        };
        source("web") + &source("db")
    };
    let to = |web: &str, db: &str| {
        let gate = |name: &str, more: &str| format!("promote = {{ from = \"test-{name}\"{more} }}");
        member("shop-web", "shop", &gate("web", web)) + &member("shop-db", "shop", &gate("db", db))
    };
    problems(&(from("test", "test") + &to("", "")), &[]);
    problems(
        &(from("test", "") + &to("", "")),
        &[
            "7: the group `shop` is promoted as one: declare a `group` in `environment.test-web` and in the \
             sources of the other members",
            "11: the group `shop` is promoted as one: declare a `group` in `environment.test-db` and in the \
             sources of the other members",
        ],
    );
    problems(
        &(from("test", "test") + &to("", ", auto = true")),
        &[
            "15: the group `shop` is promoted as one: declare the same `promote.auto` as `environment.shop-web`",
        ],
    );
}
