//! Problems of a manifest as users see them: `file:line: message`.

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

/// Does the same as [`each_of_dev`] for lines in a repository's table, from line 5 on.
#[track_caller]
fn each_of_repository(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        let found = problems(&[file("m.toml", format!("{DEV}[repository.r]\n{lines}\n"))]);
        assert_eq!(found.join("\n"), format!("m.toml:{expected}"), "{lines}");
    }
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
fn invalid_registries_are_reported_with_their_line() {
    let target = "must be host/path in lower case without a tag, such as \"localhost:5000/keepwork/prod\"";
    each_of_dev(&[
        (
            "push = \"localhost:5000/a\"",
            "4: `push` goes with a `source` and its `build`: only images built here are pushed",
        ),
        (
            "image = \"localhost:5000/a\"",
            "4: `image` must be an image with a tag, such as \"localhost:5000/shop/app:stable\"",
        ),
        (
            "image = \"a:1\"\npromote_from = \"b\"",
            "5: `promote_from` does not go with `image`, which tracks a tag in a registry",
        ),
        (
            "[registry_access.\"a.b\"]\nusername = \"alice\"",
            "4: `registry_access.a.b` has a `username` and needs one of `secret_env` and `secret_file`",
        ),
        (
            "[registry_access.\"a.b\"]\nsecret_env = \"A\"",
            "4: `registry_access.a.b` has a secret and needs a `username`",
        ),
        (
            "[registry_access.\"a.b\"]\nusername = \"a:b\"\nsecret_env = \"A\"",
            "5: `username` must be a name without colons and control characters",
        ),
        (
            "[repository.r]\nurl = \"/srv/r\"\nusername = \"u\"\nsecret_env = \"A\"",
            "4: `repository.r` has a `username`, which only https:// and http:// use",
        ),
        (
            "[registry_access.\"a.b\"]\npoll = \"1s\"",
            "5: `poll` must be at least \"5s\", or \"0s\" to turn it off",
        ),
        ("[registry_access.\"a.b\"]\npatience = \"0s\"", "5: `patience` must be more than zero"),
        (
            "[registry_access.\"https://a.b\"]",
            "4: invalid registry `https://a.b`: must be a host or host:port in lower case, such as registry.example.com:5000",
        ),
        ("[registry]\nimage = \"registry:2\"", "4: `registry` needs `managed`, such as `managed = true`"),
        (
            "[registry]\nmanaged = true\npublish = \"0.0.0.0:5000\"",
            "4: `registry` is reachable from other hosts and needs `htpasswd`: otherwise everyone could \
            push to it",
        ),
        (
            "[registry]\nmanaged = true\nkey = \"/k\"",
            "4: `registry` needs `certificate` and `key` \
            together",
        ),
        (
            "[registry]\nmanaged = true\npublish = 8900",
            "3: the host port 8900 is already used by the managed registry",
        ),
        (
            "[registry]\nmanaged = true\ncontainer = \"dev-server\"",
            "2: the container `dev-server` is already used by the managed registry",
        ),
    ]);
    let source = "source = { repository = \"r\", branch = \"b\" }\n[environment.dev.build]\n[repository.r]\nurl = \"/r\"";
    for text in ["a", "a.b/c:1", "a.b/c@sha256:1", "A.b/c", "https://a.b/c"] {
        let expected = format!("4: `push` {target}");
        each_of_dev(&[(&format!("push = \"{text}\"\n{source}"), &expected)]);
    }
}

#[test]
fn an_invalid_forge_is_reported_with_a_remedy() {
    let token = "token = { secret_env = \"A\" }";
    let forge = |url: &str, forge: &str| format!("url = \"{url}\"\nforge = {{ {forge} }}");
    each_of_repository(&[
        (
            &forge("https://github.com/a/b", &format!("kind = \"githup\", {token}")),
            "6: `kind` must be one of github, gitlab, gitea, forgejo, bitbucket, bitbucket-server; did you mean \
             \"github\"?",
        ),
        (
            &forge("https://git.example.com/a/b", &format!("kind = \"gitea\", {token}")),
            "6: `repository.r.forge` needs `api`, such as `api = \"https://git.example.com/api/v1\"`: the \
             repository's URL does not tell it",
        ),
        (
            &forge("/srv/r.git", &format!("kind = \"github\", api = \"https://api.github.com\", {token}")),
            "6: `repository.r.forge` needs `repository`, such as `repository = \"owner/name\"`: the repository's \
             URL does not tell it",
        ),
        (
            &forge("https://github.com/a/b", "kind = \"github\""),
            "6: `repository.r.forge` needs one of `token` and `app`, such as `token = { secret_env = \
             \"FORGE_TOKEN\" }`",
        ),
        (
            &forge(
                "https://git.example.com/a/b",
                &format!("kind = \"gitea\", api = \"http://10.0.0.7/api/v1\", {token}"),
            ),
            "6: `api` is a private address: add `allow_private = true` if that is intended",
        ),
        (
            &forge("https://codeberg.org/a/b", &format!("kind = \"forgejo\", deployments = true, {token}")),
            "6: `deployments` is only known to github and gitlab: remove it",
        ),
        (
            &forge("https://gitlab.com/a/b", "kind = \"gitlab\", app = { id = 1, key_file = \"/k\" }"),
            "6: `app` is only known to github: name a `token`",
        ),
    ]);
}

/// Does the same as [`each_of_dev`] for lines in a channel's table, from line 5 on.
#[track_caller]
fn each_of_channel(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        let found = problems(&[file("m.toml", format!("{DEV}[notify.team]\n{lines}\n"))]);
        assert_eq!(found.join("\n"), format!("m.toml:{expected}"), "{lines}");
    }
}

#[test]
fn an_invalid_notification_channel_is_reported_with_a_remedy() {
    each_of_channel(&[
        ("secret_env = \"A\"", "4: `notify.team` needs `kind`, such as `kind = \"slack\"`"),
        (
            "kind = \"slak\"\nsecret_env = \"A\"",
            "5: `kind` must be one of webhook, slack, discord, mattermost, teams, telegram, ntfy, gotify, matrix, \
             email; did you mean \"slack\"?",
        ),
        ("kind = \"slack\"", "4: `notify.team` needs one of `secret_env` and `secret_file`"),
        (
            "kind = \"discord\"\nurl = \"https://discord.com/api/webhooks/1/x\"\nsecret_env = \"A\"",
            "6: `url` is the secret of this kind: name it by `secret_env` or `secret_file`",
        ),
        (
            "kind = \"webhook\"\nsecret_env = \"A\"",
            "4: `notify.team` needs `url`, such as `url = \"https://example.com\"`",
        ),
        (
            "kind = \"gotify\"\nurl = \"http://10.0.0.7\"\nsecret_env = \"A\"",
            "6: `url` is a private address: add `allow_private = true` if that is intended",
        ),
        (
            "kind = \"webhook\"\nurl = \"https://user:pw@example.com/x\"\nsecret_env = \"A\"",
            "6: `url` must not hold a password: name it by `secret_env` or `secret_file`",
        ),
        (
            "kind = \"email\"\nurl = \"mail.example.com\"\nfrom = \"abide\"\nto = []",
            "6: `url` must be a URL that begins with smtp:// or smtps://\n\
             m.toml:7: `from` must be an address such as \"ops@example.com\"\n\
             m.toml:8: `to` must name at least one address",
        ),
        (
            "kind = \"telegram\"\nsecret_env = \"A\"\nroom = \"x\"\nchannel = \"1\"",
            "7: `room` does not go with kind = \"telegram\"",
        ),
        (
            "kind = \"slack\"\nsecret_env = \"A\"\non = [\"faild\"]",
            "7: `on[0]` must be one of failed, rolled_back, recovered, ready, waiting_for_approval, rejected, held, \
             agent_away, certificate, job_failed; did you mean \"failed\"?",
        ),
        (
            "kind = \"slack\"\nsecret_env = \"A\"\nenvironments = [\"dve\"]",
            "7: unknown environment `dve`; did you mean `dev`?",
        ),
    ]);
}

/// Does the same as [`each_of_dev`] for lines in the proxy's table, from line 5 on, with more of `dev` before
/// it.
#[track_caller]
fn each_of_front(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        let found = problems(&[file("m.toml", format!("{DEV}[front]\n{lines}\n"))]);
        assert_eq!(found.join("\n"), format!("m.toml:{expected}"), "{lines}");
    }
}

#[test]
fn an_invalid_front_section_is_reported_with_its_line() {
    let none = "4: `https` needs certificates: `acme = {}` gets them from Let's Encrypt, and `certificates`, or \
                `certificate` and `key`, name files";
    each_of_front(&[
        (
            "http = 8900",
            "3: the host port 8900 is `http` of the proxy: publish another port, or set `publish = \
            false` and a `hostname`",
        ),
        (
            "https = 8900\ncertificate = \"/c\"\nkey = \"/k\"",
            "3: the host port 8900 is `https` of the proxy: publish another port, or set `publish = \
            false` and a `hostname`",
        ),
        (
            "https = 80\ncertificate = \"/c\"\nkey = \"/k\"",
            "5: `https` must be a different port than `http`, which is 80",
        ),
        ("https = 443", none),
        ("https = 443\ncertificate = \"/c\"", "4: `front` takes `certificate` and `key` together"),
        (
            "certificate = \"/c\"\nkey = \"/k\"",
            "4: `front` needs the port `https` with `certificate` and `key`, such as `https = 443`",
        ),
        ("acme = { email = \"nobody\" }", "5: `email` must be an e-mail address such as \"ops@example.com\""),
        (
            "acme = { directory = \"http://a.b/dir\" }",
            "5: `directory` must be an https:// URL, \"letsencrypt\" or \"staging\"",
        ),
        ("acme = { profile = \"a b\" }", "5: `profile` must be one word such as \"shortlived\""),
        (
            "acme = { resolver = \"dns.example\" }",
            "5: `resolver` must be the address of a name server such as \"1.1.1.1\" or \"127.0.0.1:5353\"",
        ),
        (
            "acme = { dns = { command = [\"hook\"] } }",
            "5: `command` must begin with the absolute path of a program",
        ),
        (
            "acme = { dns = {} }",
            "5: `front.acme.dns` needs `command`, such as `command = [\"/usr/local/bin/dns-record\"]`",
        ),
        (
            "certificates = [{ names = [\"a.b\", \"a.b\"], cert = \"/c\", key = \"/k\" }]",
            "5: `names[1]` has a certificate already: a.b",
        ),
        (
            "certificates = [{ names = [], cert = \"/c\", key = \"/k\" }]",
            "5: `certificates[0]` needs at least one name in `names`",
        ),
        ("drain = \"0s\"", "5: `drain` must be more than zero"),
        (
            "image = \"nginx; rm\"",
            "5: `image` must be the name of an image, such as \"nginx\" or \"nginx:1.28\"",
        ),
        ("htpp = 1", "5: unknown key `htpp`; did you mean `http`?"),
    ]);
}

#[test]
fn a_page_that_the_front_cannot_serve_comes_with_what_is_missing() {
    let with = |rest: &str| {
        let page = format!("[page]\nfront = true\nurl = \"{rest}");
        problems(&[file("m.toml", page), file("dev.toml", DEV.to_owned())]).join("\n")
    };
    let environment = "[environment.shop]\ncontainer = \"shop\"\nport = 1\nhostname = \"ci.example\"\n";
    for good in [
        "http://ci.example/abide\"\n[front]\n".to_owned(),
        "https://ci.example/abide\"\n[front]\nacme = {}\n".to_owned(),
        "https://ci.example:8443\"\n[front]\nhttps = 8443\ncertificate = \"/c\"\nkey = \"/k\"\n".to_owned(),
        "https://ci.example\"\n[front]\nhttp = 8081\ntrusted_proxies = [\"10.0.0.1\"]\n".to_owned(),
        format!("http://ci.example/abide\"\n[front]\n{environment}"),
        format!("http://ci.example\"\n[front]\n{environment}site = {{ path = \"/shop\" }}\n"),
        format!("http://ci.example\"\n[front]\n{environment}host = \"far\"\n"),
    ] {
        assert_eq!(with(&good), "", "{good}");
    }
    let own = "already belongs to `environment.shop`: give the page another path, or a host name of its own";
    for (rest, expected) in [
        (
            "http://ci.example\"\n".to_owned(),
            "2: `front` needs the proxy: add `[front]`, whose keys all have defaults".to_owned(),
        ),
        (
            "https://ci.example\"\n[front]\n".to_owned(),
            "3: `url` has `https://`, and the proxy has no certificates: add `acme = {}` to `[front]` to get them \
             from Let's Encrypt, or name files in `certificates`"
                .to_owned(),
        ),
        (
            "http://ci.example:8080\"\n[front]\n".to_owned(),
            "3: `url` leads to the port 8080, and `http` of the proxy is 80: write the same port in both".to_owned(),
        ),
        (
            "https://ci.example\"\n[front]\nhttps = 8443\nacme = {}\n".to_owned(),
            "3: `url` leads to the port 443, and `https` of the proxy is 8443: write the same port in both".to_owned(),
        ),
        (
            "https://ci.example\"\n[[front.certificates]]\nnames = [\"*.other.example\"]\ncert = \"/c\"\nkey = \"/k\"\n"
                .to_owned(),
            "3: no certificate of the proxy is for `ci.example`: add `acme = {}` to `[front]`, or name one in \
             `certificates`"
                .to_owned(),
        ),
        (
            "http://[2001:db8::7]\"\n[front]\n".to_owned(),
            "3: the proxy chooses sites by host names, and `[2001:db8::7]` is none: use a name, or remove `front`"
                .to_owned(),
        ),
        (format!("http://ci.example\"\n[front]\n{environment}"), format!("3: `ci.example` {own}")),
        (
            format!("http://ci.example/a\"\n[front]\n{environment}site = {{ path = \"/a\" }}\n"),
            format!("3: `ci.example/a` {own}"),
        ),
    ] {
        assert_eq!(with(&rest), format!("m.toml:{expected}"), "{rest}");
    }
}

#[test]
fn a_host_name_requires_a_front_and_has_one_owner() {
    let rule = "a host name such as a.example.com, or *.example.com for all names one level below it; in lower case, not below .invalid";
    each_of_dev(&[
        (
            "hostname = \"a.example\"",
            "4: `hostname` needs the proxy: add `[front]`, whose keys all have defaults",
        ),
        (
            "hostname = \"a.example; return 200\"\n[front]",
            &format!("4: invalid host name `a.example; return 200`: must be {rule}"),
        ),
        (
            "hostname = \"a.example\"\n[front]\n[environment.test]\ncontainer = \"test-server\"\nport = 8099\n\
             hostname = \"a.example\"",
            "9: the host name `a.example` already belongs to `environment.dev`",
        ),
        (
            "hostnames = [\"a.example\", \"a.example\"]\n[front]",
            "4: `hostnames[1]` is there twice: a.example",
        ),
        (
            "hostname = \"a.example\"\nhostnames = [\"b.example\"]\n[front]",
            "5: `hostnames` does not go with `hostname`: put every name into the list",
        ),
        ("https = \"always\"\n[front]", "4: `https` must be \"required\" or \"optional\""),
        (
            "hostnames = [\"b.example\", \"*.a.example\"]\n[front]\nacme = {}",
            "4: a certificate for `*.a.example` needs proof by DNS: set `dns` in `acme`, or name one in `certificates`",
        ),
    ]);
}

#[test]
fn invalid_site_settings_are_rejected_with_a_remedy() {
    let site = |lines: &str| format!("hostname = \"a.example\"\nsite = {{ {lines} }}\n[front]");
    let wrong = |lines: &str, expected: &str| (site(lines), expected.to_owned());
    let cases = [
        wrong(
            "path = \"/api/\"",
            "5: invalid path `/api/`: must be a path such as \"/api\": parts of A-Z a-z 0-9 - _ . ~, not ending \
             with /, and not a path of the proxy's own",
        ),
        wrong("strip_path = true", "5: `strip_path` needs a `path` to remove"),
        (
            "[front]\nproxy_protocol = true".to_owned(),
            "5: `proxy_protocol` needs the addresses of the senders in `trusted_proxies`".to_owned(),
        ),
        wrong(
            "redirect_from = [\"a.example\"]",
            "5: `redirect_from` has a.example, which is one of the host names",
        ),
        wrong("max_body = 0", "5: `max_body` must be a size from 1 byte to 1024 TiB, such as \"10MiB\""),
        wrong("timeout = \"0s\"", "5: `timeout` must be from a millisecond to 49 days"),
        wrong("rate_limit = \"10/h\"", "5: `rate_limit` must be a rate such as \"10/s\" or \"300/m\""),
        wrong(
            "headers = { X-A = \"1\", x-a = \"2\" }",
            "5: `x-a` is there twice: the case of a header does not matter",
        ),
        wrong(
            "error_pages = { 500 = \"/a\" }",
            "5: `500` must be one of the proxy's own statuses: [401, 403, 413, 429, 502, 503, 504]",
        ),
        wrong(
            "basic_auth = {}",
            "5: `environment.dev.site.basic_auth` needs one of `secret_env` and `secret_file`",
        ),
        (
            "site = { gzip = true }".to_owned(),
            "4: `site` needs the proxy: add `[front]`, whose keys all have defaults".to_owned(),
        ),
        (
            "site = { redirect_from = [\"b.example\"] }\n[front]".to_owned(),
            "4: `redirect_from` needs a `hostname` in the environment".to_owned(),
        ),
        (
            format!(
                "{}\n[environment.test]\ncontainer = \"test-server\"\nport = 8099\nhostname = \"b.example\"",
                site("redirect_from = [\"b.example\"]")
            ),
            "5: the host name `b.example` already belongs to `environment.test`".to_owned(),
        ),
        (
            format!(
                "{}\n[environment.test]\ncontainer = \"test-server\"\nport = 8099\nhostname = \"a.example\"\n\
                 site = {{ path = \"/api\" }}",
                site("path = \"/api\"")
            ),
            "10: the host name `a.example` with the path `/api` already belongs to `environment.dev`"
                .to_owned(),
        ),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(lines, why)| (lines.as_str(), why.as_str())).collect();
    each_of_dev(&cases);
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
fn volumes_that_docker_would_reject_or_misread_are_reported() {
    each_of_dev(&[
        (
            "volumes = [\"data\"]",
            "4: `volumes[0]` must be \"source:target\", or \"source:target:ro\" to mount it read-only",
        ),
        (
            "volumes = [\"data:/d:y\"]",
            "4: `volumes[0]` must be \"source:target\", or \"source:target:ro\" to mount it read-only",
        ),
        (
            "volumes = [\"./data:/d\"]",
            "4: `volumes[0]` must be absolute in the source: abide does not expand ~, variables or \
            relative paths",
        ),
        (
            "volumes = [\"~/data:/d\"]",
            "4: `volumes[0]` must be absolute in the source: abide does not expand ~, variables or \
            relative paths",
        ),
        ("volumes = [\"/a/../b:/d\"]", "4: `volumes[0]` must not contain .. in the source"),
        (
            "volumes = [\"data:d\"]",
            "4: `volumes[0]` must be absolute in the target: abide does not expand ~, variables or \
            relative paths",
        ),
        (
            "volumes = [{ source = \"data\" }]",
            "4: `environment.dev.volumes[0]` needs `target`, such as `target = \"/data\"`",
        ),
        (
            "volumes = [{ source = \"data\", target = \"/d\", create = true }]",
            "4: `volumes[0]` accepts `create` only for a path of the host: volumes are always created",
        ),
        (
            "volumes = [{ source = \"/srv/a:/b\", target = \"/d\" }]",
            "4: `volumes[0]` must contain neither colons nor control characters in the source",
        ),
        (
            "volumes = [{ source = \"/srv/../b\", target = \"/d\" }]",
            "4: `volumes[0]` must not contain .. in the source",
        ),
        ("volumes = [\"data:/\"]", "4: `volumes[0]` must not mount over the container's root"),
        ("volumes = [\"aa:/d\",\n\"bb:/d/\"]", "5: `volumes[1]` mounts over /d, which is already mounted"),
    ]);
}

#[test]
fn a_contradictory_or_impossible_health_check_is_rejected() {
    each_of_dev(&[
        (
            "health = { http = \"/\", tcp = true }",
            "4: `health` accepts only one of `http`, `tcp`, `command`, `docker` and `none`",
        ),
        (
            "health = { http = \"up\" }",
            "4: `http` must be the path of a URL, such as \"/\" or \"/healthz?full=1\"",
        ),
        ("health = { http = true }", "4: `http` must be a path such as \"/\", not true or false"),
        ("health = { none = false }", "4: `none` must be true or omitted"),
        ("health = { interval = \"0s\" }", "4: `interval` must be more than zero"),
        ("health = { host = \"a\" }", "4: `host` goes only with `http`"),
        (
            "health = { command = [] }",
            "4: `command` must begin with a program, such as [\"pg_isready\", \"-q\"]",
        ),
        (
            "health = { none = true, port = 1 }",
            "4: `none` does not go with `port`, which only `http` and `tcp` use",
        ),
        (
            "health = { http = \"/\", headers = { Host = \"a\" } }",
            "4: `Host` cannot be set here: use `host` in `health`",
        ),
        (
            "health = { http = \"/\", headers = { X = \"a\\nb: c\" } }",
            "4: `X` must be one line of ASCII text",
        ),
        (
            "health = { http = \"/\", host = \"a b\" }",
            "4: `host` must be a host name such as \"example.com\" or \"example.com:8080\"",
        ),
        (
            "health = { start_deadline = \"10s\" }",
            "4: `health` could never succeed: `healthy_for` (10s) must be shorter than `start_deadline` (10s)",
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
fn publish_and_health_probes_require_a_port() {
    let worker = |lines: &str| {
        problems(&[file("m.toml", format!("[environment.w]\ncontainer = \"worker\"\n{lines}\n"))])
    };
    assert!(worker("").is_empty() && worker("publish = false").is_empty());
    assert!(worker("health = { http = \"/\", port = 9000 }").is_empty());
    assert_eq!(
        worker("health = { http = \"/\" }"),
        ["m.toml:3: `health` needs a `port`, here or in the environment"]
    );
    assert_eq!(
        worker("publish = 80"),
        ["m.toml:3: `publish` needs a `port`, on which the program in the container listens"]
    );
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

/// `name` with container and port, and `lines`.
fn env(name: &str, container: &str, port: u16, lines: &str) -> String {
    format!("[environment.{name}]\ncontainer = \"{container}\"\nport = {port}\n{lines}\n")
}

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

#[test]
fn invalid_ports_are_reported_with_their_line() {
    let form = "must be \"container\", \"host:container\" or \"address:host:container\", with a range such as \
                \"8000-8009\" for a port and \"/udp\" after it for UDP";
    each_of_dev(&[
        ("ports = \"80\"", "4: `ports` must be a list such as [\"8080:80\", \"53:53/udp\"], not a string"),
        ("ports = [\"http\"]", &format!("4: `ports[0]` {form}")),
        ("ports = [\"1:1\",\n\"a.b:1:2\"]", &format!("5: `ports[1]` {form}")),
        ("ports = [\"80:80/sctp\"]", "4: `ports[0]` must be for the protocol tcp or udp"),
        ("ports = [\"1-3:1-2\"]", "4: `ports[0]` must have ranges of the same length"),
        (
            "ports = [{ published = 1 }]",
            "4: `environment.dev.ports[0]` needs `target`, such as `target = 53`",
        ),
        ("ports = [{ target = 1, protocol = \"x\" }]", "4: `protocol` must be \"tcp\" or \"udp\""),
        (
            "ports = [{ target = 1, app_protocol = \"http\" }]",
            "4: unknown key `app_protocol`; did you mean `protocol`?",
        ),
        ("ports = [\"8900:1\"]", "4: the host port 8900 is published twice"),
        (
            "ports = [\"1:1\"]\nupdate = \"start-first\"\npublish = false",
            "5: `update` = \"start-first\" does not go with `ports`, because two containers cannot publish one host \
             port: set \"stop-first\"",
        ),
        (
            "network_mode = \"host\"\nupdate = \"start-first\"",
            "5: `update` = \"start-first\" does not go with `network_mode` = \"host\", because two containers cannot \
             listen on one `port` of the host: set \"stop-first\"",
        ),
        (
            "networks = { a = { ipv4_address = \"10.1.2.3\" } }\nupdate = \"start-first\"\npublish = false",
            "5: `update` = \"start-first\" does not go with a fixed address, because two containers cannot have one \
             address: set \"stop-first\"",
        ),
        (
            "[environment.b]\ncontainer = \"b-b\"\nports = [\"8900:1\"]",
            "6: the host port 8900 is already published by `environment.dev`",
        ),
    ]);
}

#[test]
fn invalid_mounts_and_env_files_are_rejected() {
    let absolute = "must be absolute in the source: abide does not expand ~, variables or relative paths";
    each_of_dev(&[
        ("volumes = [\"./a:/b\"]", &format!("4: `volumes[0]` {absolute}")),
        (
            "volumes = [{ source = \"/a\", target = \"/b\", external = true }]",
            "4: `volumes[0]` accepts `external` only for a volume: abide creates no path of the host",
        ),
        (
            "volumes = [{ source = \"/a\", target = \"/b\", propagation = \"x\" }]",
            "4: `propagation` must be \"private\", \"rprivate\", \"shared\", \"rshared\", \"slave\" or \"rslave\"",
        ),
        ("env_file = 1", "4: `env_file` must be a path or a list of paths, not a whole number"),
        (
            "env_file = [{ required = true }]",
            "4: `environment.dev.env_file[0]` needs `path`, such as `path = \"./shop.env\"`",
        ),
    ]);
}

#[test]
fn invalid_secrets_and_networks_are_rejected() {
    each_of_dev(&[
        (
            "secrets = { db = { target = \"/x\" } }",
            "4: `environment.dev.secrets.db` needs one of `secret_env` and `secret_file`",
        ),
        (
            "secrets = { db = { secret_env = \"X\", mode = \"0999\" } }",
            "4: `mode` must be the mode of a file such as \"0400\"",
        ),
        (
            "read_only = true\nsecrets = { db = { secret_env = \"X\" } }",
            "5: `secrets` does not go with `read_only`: the files could not be written; mount them with `volumes`",
        ),
        (
            "tmpfs = [\"/run:size=64m\"]\nsecrets = { db = { secret_env = \"X\" } }",
            "5: `secrets` must not put `db` at /run/secrets/db, below /run of `tmpfs`, which would hide it: set another \
             `target`, or mount less in memory",
        ),
        (
            "volumes = [\"data:/app\"]\nsecrets = { key = { secret_env = \"X\", target = \"/app/key.pem\" } }",
            "5: `secrets` must not put `key` at /app/key.pem, where it would be written into `data`, which is mounted at \
             /app: set another `target`",
        ),
        (
            "secrets = { a = { secret_env = \"X\", target = \"/s\" }, b = { secret_env = \"Y\", target = \"/s/\" } }",
            "4: `secrets` must not put `b` at /s, because `a` is a file at /s",
        ),
        (
            "secrets = { a = { secret_env = \"X\", target = \"/s/x\" }, b = { secret_env = \"Y\", target = \"/s\" } }",
            "4: `secrets` must not put `b` at /s, because `a` is a file at /s/x",
        ),
        (
            "networks = \"a\"",
            "4: `networks` must be a list of networks, or a table of networks by name, not a string",
        ),
        ("networks = [\"host\"]", "4: the network `host` is the engine's own: declare another one"),
        ("networks = { a = { ipv4_address = \"x\" } }", "4: `ipv4_address` must be an address"),
    ]);
}

#[test]
fn network_options_conflict_with_the_host_network() {
    each_of_dev(&[
        (
            "network_mode = \"host\"\naliases = [\"a\"]",
            "5: `aliases` does not go with `network_mode` = \"host\": the container has no network of its own",
        ),
        (
            "network_mode = \"bridge\"",
            "4: `network_mode` must be \"host\" or \"none\"; other networks belong into `networks`",
        ),
        ("memswap_limit = \"1g\"", "4: `memswap_limit` needs `memory`"),
        ("mem_reservation = \"1m\"", "4: `mem_reservation` must be at least 6MiB"),
        ("memory = \"64m\"\nmem_reservation = \"65m\"", "5: `mem_reservation` must be at most `memory`"),
        (
            "memory = \"2g\"\nmemswap_limit = \"1g\"",
            "5: `memswap_limit` must be at least `memory`, because it counts memory and swap together",
        ),
        ("cpus = 1\ncpu_quota = 50000", "5: `cpu_quota` does not go with `cpus`: declare one of them"),
    ]);
    each_of_build(&[(
        "labels = { \"abide.record\" = \"x\" }",
        "6: `abide.record` must not begin with `abide.`: such labels are abide's own",
    )]);
}

#[test]
fn only_a_container_without_a_network_cannot_be_behind_the_proxy() {
    let of = |mode: &str| {
        let lines =
            format!("container = \"aa\"\nport = 80\nnetwork_mode = \"{mode}\"\nhostname = \"a.example\"\n");
        problems(&[file("m.toml", format!("[front]\nhttp = 81\n[environment.a]\n{lines}"))])
    };
    assert_eq!(of("host"), [""; 0]);
    let why = "does not go with `network_mode` = \"none\": nothing can connect to it";
    assert_eq!(of("none"), [format!("m.toml:5: `port` {why}"), format!("m.toml:7: `hostname` {why}")]);
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

#[test]
fn backups_that_could_not_be_made_are_told_with_their_line() {
    each_of_dev(&[
        (
            "volumes = [\"data:/data\"]\n[job.n]\nenvironment = \"dev\"\nschedule = \"0 3 * * *\"\nbackup = { volume = \"dada\" }",
            "8: `volume` names dada, which the environment does not mount; it mounts data",
        ),
        (
            "[job.n]\nenvironment = \"dev\"\nschedule = \"0 3 * * *\"\nbackup = { volume = \"data\" }",
            "7: `volume` names data, but the environment mounts no volume",
        ),
        (
            "volumes = [\"data:/data\"]\n[job.n]\nenvironment = \"dev\"\nschedule = \"0 3 * * *\"\nbackup = { volume = \"data\", folder = \"backups\" }",
            "8: `folder` must be absolute in the path: abide does not expand ~, variables or relative paths",
        ),
        (
            "volumes = [\"data:/data\"]\n[job.n]\nenvironment = \"dev\"\nschedule = \"0 3 * * *\"\noverlap = \"allow\"\nbackup = { volume = \"data\" }",
            "8: `overlap` must be \"forbid\" for a `backup`",
        ),
        (
            "volumes = [\"data:/data\"]\n[job.n]\nenvironment = \"dev\"\nschedule = \"0 3 * * *\"\ncommand = [\"a\"]\nbackup = { volume = \"data\" }",
            "8: `command` does not go with `backup`: the command before a backup is `command` in it",
        ),
        ("restart = \"no\"", "4: `restart` must be \"always\" or \"on-failure\""),
        (
            "platform = \"arm64\"",
            "4: `platform` must be a platform such as \"linux/amd64\" or \"linux/arm/v7\"",
        ),
        (
            "pull_policy = \"hourly\"",
            "4: `pull_policy` must be \"always\", \"missing\", \"if_not_present\", \"never\", \"build\", \"daily\", \"weekly\" or \
             an interval such as \"every_12h\"",
        ),
        (
            "image = \"a:1\"\npull_policy = \"never\"",
            "5: `pull_policy` must not be \"never\" beside `image`, because only a registry knows the image of a tag: leave \
             `image` out, and name an image of this host with `abide set`",
        ),
        ("pull_policy = \"build\"", "4: `pull_policy` must not be \"build\" without a `source` to build"),
        (
            "pull_policy = \"daily\"",
            "4: `pull_policy` must not be \"daily\" without an `image`, whose tag abide asks for",
        ),
    ]);
}

#[test]
fn a_text_that_linux_passes_to_no_program_is_rejected() {
    let text = |longest: usize| {
        let (value, argument) = ("v".repeat(longest - "NAME=".len()), "a".repeat(longest));
        format!("{DEV}command = [\"serve\", \"{argument}\"]\nenv = {{ NAME = \"{value}\" }}\n")
    };
    assert!(parse(&[file("m.toml", text(131_071))]).is_ok());
    let found = problems(&[file("m.toml", text(131_072))]);
    assert_eq!(found.len(), 2, "{}", found.len());
    for (problem, name) in found.iter().zip(["command", "NAME"]) {
        assert!(problem.contains(name) && problem.contains("at most 131071 bytes"), "{problem:.200}");
    }
}
