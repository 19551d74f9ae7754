//! Gates of promotions, and checks of commits.

use super::*;

/// Does the same as [`each_of_dev`] for an environment that is promoted from `dev`, from line 7 on.
#[track_caller]
fn each_of_promotion(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        let text = format!("{DEV}[environment.prod]\ncontainer = \"prod\"\nport = 8088\n{lines}\n");
        let found = problems(&[file("m.toml", text)]);
        assert_eq!(found.join("\n"), format!("m.toml:{expected}"), "{lines}");
    }
}

#[test]
fn meaningless_or_impossible_gates_are_rejected() {
    let zone = "must be a time zone such as \"Asia/Shanghai\" or \"UTC\"; this host knows no `Mars/Olympus`";
    let hours = "7: `hours` must be hours such as \"09:00-16:00\"";
    let window =
        |hours: &str| format!("promote = {{ from = \"dev\", windows = [{{ {hours}, zone = \"UTC\" }}] }}");
    each_of_promotion(&[
        (
            "promote = { approvals = 1 }",
            "7: `environment.prod.promote` needs `from`, such as `from = \"test\"`",
        ),
        (
            "promote_from = \"dev\"\npromote = { from = \"dev\" }",
            "8: `promote` does not go with `promote_from`: name the environment as `from` in it",
        ),
        ("promote = { from = \"dve\" }", "7: unknown environment `dve`; did you mean `dev`?"),
        ("promote = { from = \"prod\" }", "7: `environment.prod` cannot be promoted from itself"),
        (
            "promote = { from = \"dev\", by = [\"qa\"] }",
            "7: `by` goes with `approvals`, the number of people who must approve, such as `approvals = 1`",
        ),
        (
            "promote = { from = \"dev\", approvals = 2, by = [\"qa\"] }",
            "7: `approvals` is 2, and `by` names only 1: every person counts once, so it would never be enough",
        ),
        ("promote = { from = \"dev\", soak = \"0s\" }", "7: `soak` must be more than zero"),
        ("promote = { from = \"dev\", aproval = 1 }", "7: unknown key `aproval`; did you mean `approvals`?"),
        (
            "promote = { from = \"dev\", verified = true }",
            "7: `verified` needs a check to pass: give `environment.dev` a `verify`",
        ),
        (
            "promote = { from = \"dev\", checks = [\"ci/build\"] }",
            "7: `checks` needs images that are built from a commit: `environment.dev` has no `source`",
        ),
        (
            "promote = { from = \"dev\", windows = [{ zone = \"Mars/Olympus\" }] }",
            &format!("7: `zone` {zone}"),
        ),
        (
            "promote = { from = \"dev\", windows = [{ hours = \"09:00-16:00\" }] }",
            "7: `environment.prod.promote.windows[0]` needs `zone`, such as `zone = \"Asia/Shanghai\"`",
        ),
        (&window("days = \"mon-fry\""), "7: `days` must be days such as \"mon-thu\" or \"mon, wed\""),
        (&window("hours = \"9-16\""), hours),
        (&window("hours = \"09:00-25:00\""), hours),
        (
            &window("hours = \"09:00-09:00\""),
            "7: `hours` must end at another time than it begins; for the whole day, leave it out",
        ),
        (
            "promote = { from = \"dev\", freezes = [{ from = \"2027-01-04\", to = \"2026-12-20\" }] }",
            "7: `freezes[0]` must end after it begins",
        ),
        (
            "promote = { from = \"dev\", freezes = [{ from = \"Christmas\", to = \"2027-01-04\" }] }",
            "7: `from` must be a date in quotes such as \"2026-12-20\" or \"2026-12-20 18:00\"",
        ),
    ]);
    each_of_dev(&[
        (
            "verify = { command = [\"true\"] }\nhost = \"online\"",
            "4: `verify` does not go with `host`: an agent runs no checks. Verify an environment on this host, and \
             promote from it",
        ),
        (
            "verify = { image = \"a\" }",
            "4: `environment.dev.verify` needs `command`, such as `command = [\"/smoke\", \"--url\", \"{url}\"]`",
        ),
    ]);
    let text = "[environment.a]\ncontainer = \"an\"\nverify = { command = [\"curl\", \"{url}/up\"] }\n";
    assert_eq!(
        problems(&[file("m.toml", text)]),
        ["m.toml:3: `verify` names {url}, and the environment has no `port` that it could stand for"]
    );
    let empty = "7: `signed_by` must be a file such as \"keys/release.pub\"";
    each_of_promotion(&[("promote = { from = \"dev\", signed_by = \"\" }", empty)]);
}

#[test]
fn invalid_or_unreportable_checks_are_rejected() {
    let of = |checks: &str, forge: &str| {
        let text = format!(
            "[repository.r]\nurl = \"https://git.example.com/a/b\"\n{forge}\n[environment.dev]\n\
             container = \"dev\"\nport = 1\nsource = {{ repository = \"r\", branch = \"b\", checks = {checks} }}\n"
        );
        problems(&[file("m.toml", &text)]).join("\n")
    };
    let forge = "forge = { kind = \"gitea\", api = \"https://git.example.com/api/v1\", token = { secret_env = \"T\" } }";
    for good in ["false", "\"required\"", "[\"ci/build\", \"ci/test\"]"] {
        assert_eq!(of(good, forge), "", "{good}");
    }
    assert_eq!(of("false", ""), "");
    let form = "m.toml:7: `checks` must be \"required\", `false`, or a list of names such as [\"ci/build\"]";
    for (bad, expected) in [
        ("\"ci/build\"", form),
        ("5", form),
        (
            "true",
            "m.toml:7: `checks` must be \"required\", which means what the forge requires, or name the checks",
        ),
        ("[]", "m.toml:7: `checks` must name a check, such as [\"ci/build\"]; left out, no check is needed"),
        (
            "[\"Abide/dev\"]",
            "m.toml:7: `checks[0]` is a status of abide itself, which never counts: name a check of your CI",
        ),
        (
            "[\" \"]",
            "m.toml:7: `checks[0]` must be the name of a check as the forge shows it, such as \"ci/build\"",
        ),
    ] {
        let found = of(bad, forge);
        assert!(found.starts_with(expected), "{bad}: {found}");
    }
    assert_eq!(
        of("\"required\"", ""),
        "m.toml:7: `checks` needs the forge that reports checks: add `forge = { kind = \"github\", token = { \
         secret_env = \"FORGE_TOKEN\" } }` to `[repository.r]`"
    );
}
