//! Repositories and builds.

use super::*;

#[test]
fn contradictory_builds_and_paths_outside_the_checkout_are_rejected() {
    each_of_build(&[
        ("context = \"../x\"", "6: `context` must not leave the checkout with .."),
        ("context = \"\"", "6: `context` must not be empty; \".\" is the whole checkout"),
        (
            "dockerfile = \"/etc/passwd\"",
            "6: `dockerfile` must be a path relative to the checkout, with / between its parts",
        ),
        ("dockerfile = \".\"", "6: `dockerfile` must be a path inside the checkout, not all of it"),
        ("remove = [\"./\"]", "6: `remove[0]` must be a path inside the checkout, not all of it"),
        ("remove = [\"a/../../b\"]", "6: `remove[0]` must not leave the checkout with .."),
        ("args = { \"A B\" = \"\" }", "6: `A B` cannot be a name in a build: use letters, digits, _ . and -"),
        (
            "args = { A = { secret_env = \"A\" } }",
            "6: `A` must be a text: build arguments are stored in the image, so put secrets into \
            `secrets`",
        ),
        (
            "overlay = { from = \"/a\", to = \"a\" }",
            "6: `overlay` must be a list of tables { from = \"...\", to = \"...\" }, not a table",
        ),
        (
            "overlay = [{ from = \"a\", to = \"a\" }]",
            "6: `from` must be absolute in the path: abide does not expand ~, variables or relative paths",
        ),
        ("overlay = [{ from = \"/a/\", to = \"a\" }]", "6: `from` must be the path of a file"),
        (
            "checkout = [{ url = \"/m\", to = \"m\" }]",
            "6: `environment.dev.build.checkout[0]` needs `revision`, such as `revision = \"master\"`",
        ),
        ("timeout = \"0s\"", "6: `timeout` must be more than zero"),
        ("image = \"a\"", "6: `image` goes with `script`, which is not set"),
        (
            "script = [\"./b\"]",
            "5: `environment.dev.build` needs `image`, such as `image = \"keepwork/dev:b{build_number}\"`",
        ),
        (
            "script = []\nimage = \"a\"",
            "6: `script` must begin with the program to run, such as [\"./build-image.sh\", \"dev\"]",
        ),
        ("script = [\"./b\"]\nimage = \"a\"\nargs = {}", "8: `args` does not go with `script`"),
        (
            "script = [\"./b\"]\nimage = \"a b\"",
            "7: `image` must be an image that the script creates, such as \
            \"keepwork/dev:b{build_number}\"",
        ),
    ]);
}

#[test]
fn build_steps_must_each_create_their_own_file() {
    each_of_build(&[
        ("[[environment.dev.build.step]]", "6: a build step needs either `archive` or `dockerfile`"),
        (
            "\nstep = [{ archive = \"a.tar\", dockerfile = \"D\" }]",
            "7: a build step needs either `archive` or `dockerfile`",
        ),
        ("step = [{ archive = \"a.zip\" }]", "6: `archive` must end in .tar.gz, .tgz or .tar"),
        (
            "step = [{ archive = \"a.tar\", output = \"b\" }]",
            "6: `output` goes with `dockerfile`, not with `archive`",
        ),
        (
            "step = [{ dockerfile = \"D\" }]",
            "6: `environment.dev.build.step[0]` needs `output`, such as `output = \"build.tar.gz\"`",
        ),
        (
            "step = [{ archive = \"a.tar\" }, { dockerfile = \"D\", output = \"./a.tar\" }]",
            "5: two steps of `environment.dev.build` create the same file `a.tar`",
        ),
    ]);
}

#[test]
fn missing_keys_of_repositories_and_webhooks_are_reported() {
    each_of_repository(&[
        ("", "4: `repository.r` needs `url`, such as `url = \"https://github.com/tatfook/wikicraft.git\"`"),
        ("url = \"/r\"\npoll = \"1s\"", "6: `poll` must be at least \"5s\", or \"0s\" to turn it off"),
        (
            "url = \"/r\"\nwebhook = { secret_env = \"A\" }",
            "6: `repository.r.webhook` needs `provider`, such as `provider = \"github\"`",
        ),
        (
            "url = \"/r\"\nwebhook = { provider = \"gihub\", secret_env = \"A\" }",
            "6: `provider` must be one of github, gitlab, gitea and bitbucket; did you mean \"github\"?",
        ),
        (
            "url = \"/r\"\nwebhook = { provider = \"gitea\" }",
            "6: `repository.r.webhook` needs one of `secret_env` and `secret_file`",
        ),
        (
            "url = \"/r\"\nwebhook = { provider = \"gitea\", secret = \"x\", secret_env = \"A\" }",
            "6: unknown key `secret`; known keys: provider, secret_env, secret_file",
        ),
    ]);
}

#[test]
fn only_safe_git_urls_are_accepted() {
    let taken = |url: &str| url::repository_url(url);
    for good in [
        "https://github.com/tatfook/wikicraft.git",
        "https://org@dev.azure.com/org/p/_git/r",
        "http://127.0.0.1:3000/a/b",
        "ssh://git@example.com:2222/a.git",
        "git@github.com:tatfook/wikicraft.git",
        "file:///srv/a.git",
        "/srv/a.git",
    ] {
        assert_eq!(taken(good), Ok(good.to_owned()));
    }
    for bad in [
        "",
        " ",
        "a.git",
        "./a.git",
        "../a",
        "~/a.git",
        "ext::sh -c x",
        "ext::sh",
        "-x",
        "--upload-pack=x",
        "ssh://-oProxyCommand=x/y",
        "ssh://-l@host/y",
        "-l@host:a",
        "git@-host:a",
        "git@host:-a",
        "file://a.git",
        "git://example.com/a",
        "ftp://example.com/a",
        "https://",
        "https://user:hunter2@example.com/a",
        "a\nb:c",
        "host::a",
        "https:///a",
        "@host:a",
        "javascript:x y",
        "javascript:x",
        "host:a.git",
        "https://h\\@evil/x",
        "https://host/x?token=y",
        "https://host",
    ] {
        let refusal = taken(bad).expect_err(bad);
        assert!(refusal.starts_with("must ") && !refusal.contains("hunter2"), "{bad}: {refusal}");
    }
}
