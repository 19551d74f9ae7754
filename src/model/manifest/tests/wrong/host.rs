//! Registries, forges, channels, the proxy and the web page.

use super::*;

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
             repository's URL does not contain it",
        ),
        (
            &forge("/srv/r.git", &format!("kind = \"github\", api = \"https://api.github.com\", {token}")),
            "6: `repository.r.forge` needs `repository`, such as `repository = \"owner/name\"`: the repository's \
             URL does not contain it",
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
