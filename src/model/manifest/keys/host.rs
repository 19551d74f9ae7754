//! The top of a file, and everything that is not part of an environment.

use super::environment::ENVIRONMENT;
use super::job::JOB;
use super::services::{FORGE, NOTIFY};
use super::{Key, Section, ValueShape};

pub(in crate::model::manifest) static ROOT: Section = Section {
    title: "",
    keys: &[
        Key::new("repository", ValueShape::TablesBy("name", &REPOSITORY))
            .meaning("a git repository: [`repository.NAME`](#repositoryname)"),
        Key::new("environment", ValueShape::TablesBy("name", &ENVIRONMENT))
            .meaning("a named service that runs one image: [`environment.NAME`](#environmentname)"),
        Key::new("job", ValueShape::TablesBy("name", &JOB)).meaning(
            "a command that runs at scheduled times with the image and options of an environment: [`job.NAME`](#jobname)",
        ),
        Key::new("front", ValueShape::Table(&FRONT))
            .meaning("the proxy, a managed nginx in front of the environments: [`front`](#front)"),
        Key::new("page", ValueShape::Table(&PAGE)).meaning("the web page: [`page`](#page)"),
        Key::new("notify", ValueShape::TablesBy("name", &NOTIFY))
            .meaning("a channel for notifications: [`notify.NAME`](#notifyname)"),
        Key::new("manifest", ValueShape::Table(&MANIFEST))
            .meaning("a branch that has the manifest, instead of this folder: [`manifest`](#manifest)"),
        Key::new("docker", ValueShape::Table(&DOCKER))
            .meaning("settings for all containers: [`docker`](#docker)"),
        Key::new("registry", ValueShape::Table(&MANAGED_REGISTRY))
            .meaning("an image registry that abide runs on this host: [`registry`](#registry)"),
        Key::new("registry_access", ValueShape::TablesBy("host", &REGISTRY_ACCESS))
            .meaning("how abide accesses an image registry: [`registry_access.HOST`](#registry_accesshost)"),
    ],
};

pub(in crate::model::manifest) static MANIFEST: Section = Section {
    title: "manifest",
    keys: &[
        Key::new("url", ValueShape::Text)
            .required()
            .example(r#""https://github.com/tatfook/ops.git""#)
            .meaning("the URL of the repository, as in [`repository.NAME`](#repositoryname)"),
        Key::new("branch", ValueShape::Text)
            .default(r#"`"main"`"#)
            .example(r#""production""#)
            .meaning("the branch"),
        Key::new("path", ValueShape::Path("in the repository"))
            .default("the root")
            .example(r#""desired-state""#)
            .meaning("the folder of the manifest in the repository"),
        Key::new("username", ValueShape::Text)
            .example(r#""x-access-token""#)
            .meaning("the user name for `https://` or `http://`; needs `secret_env` or `secret_file`"),
        Key::new("secret_env", ValueShape::Text)
            .example(r#""OPS_GIT_TOKEN""#)
            .meaning("the daemon's environment variable with the password or token"),
        Key::new("secret_file", ValueShape::Path("of this host"))
            .example(r#""/etc/abide/git-token""#)
            .meaning("the file with the password or token"),
        Key::new("poll", ValueShape::Duration)
            .default(r#"`"60s"`"#)
            .example(r#""30s""#)
            .meaning("how often abide checks for a new commit. At least `\"5s\"`; with a `webhook`, `\"0s\"` reduces \
                the checks to one per hour"),
        Key::new("webhook", ValueShape::Table(&WEBHOOK)).default("none: the branch is only polled").meaning(
            "the provider that announces pushes to `/webhooks/manifest`: \
                [`repository.NAME.webhook`](#repositorynamewebhook). A repository of the manifest with the same `url` and \
                a webhook announces them too",
        ),
        Key::new("forge", ValueShape::Table(&FORGE)).default("none: nothing is reported").meaning(
            "where abide reports whether it applied a commit, as the status `abide/manifest`: \
                [`repository.NAME.forge`](#repositorynameforge)",
        ),
    ],
};

pub(in crate::model::manifest) static REPOSITORY: Section = Section {
    title: "repository.NAME",
    keys: &[
        Key::new("url", ValueShape::Text)
            .required()
            .example(r#""https://github.com/tatfook/wikicraft.git""#)
            .meaning(
                "the URL: `https://`, `http://`, `ssh://`, `file://`, `user@host:path` or an absolute \
                path, without a password",
            ),
        Key::new("username", ValueShape::Text).example(r#""x-access-token""#).meaning(
            "the user name for `https://` or `http://`; needs `secret_env` or `secret_file`. Without \
                it, git uses the credential helpers and SSH keys of the daemon's user",
        ),
        Key::new("secret_env", ValueShape::Text)
            .example(r#""KEEPWORK_GIT_TOKEN""#)
            .meaning("the daemon's environment variable with the password or token"),
        Key::new("secret_file", ValueShape::Path("of this host"))
            .example(r#""/etc/abide/git-token""#)
            .meaning("the file with the password or token"),
        Key::new("webhook", ValueShape::Table(&WEBHOOK)).default("none: branches are only polled").meaning(
            "the provider that announces pushes: [`repository.NAME.webhook`](#repositorynamewebhook)",
        ),
        Key::new("forge", ValueShape::Table(&FORGE)).default("none: nothing is reported").meaning(
            "the forge to which abide reports the state of commits: [`repository.NAME.forge`](#repositorynameforge)",
        ),
        Key::new("poll", ValueShape::Duration).default(r#"`"60s"`"#).example(r#""5m""#).meaning(
            "how often abide polls the branches, so that a lost webhook delays a deployment only by this \
                time. At least `\"5s\"`; `\"0s\"` disables polling, and then only webhooks and `abide sync` \
                find new commits",
        ),
    ],
};

pub(in crate::model::manifest) static WEBHOOK: Section = Section {
    title: "repository.NAME.webhook",
    keys: &[
        Key::new("provider", ValueShape::Text)
            .required()
            .example(r#""github""#)
            .meaning("`\"github\"`, `\"gitlab\"`, `\"gitea\"` (also Forgejo and Gogs) or `\"bitbucket\"`"),
        Key::new("secret_env", ValueShape::Text)
            .default("one of the two is *required*")
            .example(r#""KEEPWORK_WEBHOOK_SECRET""#)
            .meaning(
                "the daemon's environment variable with the shared secret: at least 16 bytes, and not an \
                example from documentation. `openssl rand -hex 32` generates one",
            ),
        Key::new("secret_file", ValueShape::Path("of this host"))
            .default("one of the two is *required*")
            .example(r#""/etc/abide/webhook""#)
            .meaning("the file with the shared secret"),
    ],
};

pub(in crate::model::manifest) static PAGE: Section = Section {
    title: "page",
    keys: &[
        Key::new("url", ValueShape::Text)
            .required()
            .example(r#""https://ci.example.com/abide""#)
            .meaning(
                "the URL at which browsers reach the page. It determines the links, the name of the session's \
                cookie and the accepted `Origin`. If it has a path, a proxy other than the managed one must remove that \
                path before it forwards a request",
            ),
        Key::new("front", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether the managed proxy serves `url`: it forwards the requests below this URL to the daemon, \
                with its certificate for the host name. If `url` has `https://`, it redirects requests \
                without TLS. Without it, another proxy or the daemon itself must serve `url`",
        ),
    ],
};

pub(in crate::model::manifest) static FRONT: Section = Section {
    title: "front",
    keys: &[
        Key::new("image", ValueShape::Text).default(r#"`"nginx"`"#).example(r#""nginx:1.28""#).meaning(
            "the image, with `nginx` in its path; abide pulls it if it is missing. A change recreates \
                the container, an outage of a fraction of a second; abide uses a moved tag only then",
        ),
        Key::new("http", ValueShape::Port)
            .default("`80`")
            .example("8080")
            .meaning("the port for host names. A request for another host name gets 404"),
        Key::new("https", ValueShape::Port)
            .default("`443` with `acme` or `certificates`, else none")
            .example("443")
            .meaning("the port for host names over TLS, in addition to `http`; HTTP/2 and HTTP/1.1"),
        Key::new("certificate", ValueShape::Path("of this host"))
            .example(r#""/etc/abide/keepwork.crt""#)
            .meaning(
                "the certificate chain in PEM, for all host names without their own certificate. abide loads a \
                new one within a minute. Without it, a handshake for an unknown name is rejected",
            ),
        Key::new("key", ValueShape::Path("of this host"))
            .example(r#""/etc/abide/keepwork.key""#)
            .meaning("its key in PEM, without a passphrase"),
        Key::new("certificates", ValueShape::Tables(&CERTIFICATE))
            .default("`[]`")
            .meaning("certificates for some names: [`front.certificates`](#frontcertificates)"),
        Key::new("acme", ValueShape::Table(&ACME)).example("{}").meaning(
            "certificates from Let's Encrypt or another ACME authority, which abide orders and renews: \
                [`front.acme`](#frontacme). The table may be empty",
        ),
        Key::new("drain", ValueShape::Duration).default(r#"`"30s"`"#).example(r#""2m""#).meaning(
            "how long requests to a replaced container may take to end; then abide cuts them off and \
                stops the container",
        ),
        Key::new("spare", ValueShape::Flag).default("`true`").example("false").meaning(
            "whether each environment that updates start-first, except for replicas, keeps a spare sandbox for its next \
                version. An update is faster by the start of a sandbox then; a spare takes about 3 MB of memory",
        ),
        Key::new("trusted_proxies", ValueShape::List("addresses and networks"))
            .default("`[]`")
            .example(r#"["10.0.0.0/8"]"#)
            .meaning(
                "proxies in front of this one, such as a load balancer that ends TLS: their \
                `X-Forwarded-Proto`, `-Host` and `-For` are passed on",
            ),
        Key::new("proxy_protocol", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether the `trusted_proxies` forward connections instead of requests, and send the address of the client by \
                the PROXY protocol. Then every connection to `http` and `https` must begin with its header, version 1 \
                or 2; published ports expect none",
        ),
    ],
};

pub(in crate::model::manifest) static CERTIFICATE: Section = Section {
    title: "front.certificates",
    keys: &[
        Key::new("names", ValueShape::List("host names"))
            .required()
            .example(r#"["example.com", "*.example.com"]"#)
            .meaning("the host names to use the certificate for"),
        Key::new("cert", ValueShape::Path("of this host"))
            .required()
            .example(r#""/etc/ssl/example.com.pem""#)
            .meaning("the certificate chain in PEM. abide loads a new one within a minute"),
        Key::new("key", ValueShape::Path("of this host"))
            .required()
            .example(r#""/etc/ssl/example.com.key""#)
            .meaning("its key in PEM, without a passphrase"),
    ],
};

pub(in crate::model::manifest) static ACME: Section = Section {
    title: "front.acme",
    keys: &[
        Key::new("email", ValueShape::Text)
            .example(r#""ops@example.com""#)
            .meaning("the address to which the authority may send messages"),
        Key::new("directory", ValueShape::Text)
            .default(r#"`"letsencrypt"`"#)
            .example(r#""https://ca.example.com/acme/directory""#)
            .meaning(
                "the authority: `\"letsencrypt\"`, `\"staging\"` (Let's Encrypt's, for trials: browsers do \
                not trust its certificates), or the URL of a directory",
            ),
        Key::new("staging", ValueShape::Text)
            .default("Let's Encrypt's with `\"letsencrypt\"`, else none")
            .example(r#""https://ca.example.com/test/directory""#)
            .meaning(
                "the URL of a directory to ask first after a failure, because failures there do not count",
            ),
        Key::new("ca_file", ValueShape::Path("of this host"))
            .example(r#""/etc/ssl/private-root.pem""#)
            .meaning("the root certificate of a private authority, in addition to this host's"),
        Key::new("profile", ValueShape::Text)
            .default("the authority's")
            .example(r#""shortlived""#)
            .meaning("the kind of certificate; Let's Encrypt has `classic`, `tlsserver` and `shortlived`"),
        Key::new("dns", ValueShape::Table(&ACME_DNS))
            .meaning("how to prove names by DNS, which wildcards need: [`front.acme.dns`](#frontacmedns)"),
        Key::new("resolver", ValueShape::Text)
            .default("this host's resolver")
            .example(r#""1.1.1.1""#)
            .meaning(
                "the name server that abide queries for the addresses of names, if this host's answers \
                differ from the public ones",
            ),
    ],
};

pub(in crate::model::manifest) static ACME_DNS: Section = Section {
    title: "front.acme.dns",
    keys: &[
        Key::new("command", ValueShape::List("texts"))
            .required()
            .example(r#"["/usr/local/bin/dns-record"]"#)
            .meaning(
                "the program, by its absolute path, that adds and removes TXT records. abide adds `present` \
                or `cleanup`, the record's name and its value, as lego's `exec` provider does",
            ),
        Key::new("env", ValueShape::Values)
            .default("`{}`")
            .example(r#"{ TOKEN = { secret_file = "/etc/abide/dns-token" } }"#)
            .meaning(
                "its environment variables; values are texts or secrets as in an environment's `env`. Of the \
                daemon's own it gets only `PATH`, `HOME`, `LANG`, `TZ` and `TMPDIR`",
            ),
        Key::new("timeout", ValueShape::Duration)
            .default(r#"`"2m"`"#)
            .example(r#""5m""#)
            .meaning("how long one call may take"),
        Key::new("propagation", ValueShape::Duration)
            .default(r#"`"5m"`"#)
            .example(r#""10m""#)
            .meaning("how long the zone's name servers may take to serve a new record"),
    ],
};

pub(in crate::model::manifest) static MANAGED_REGISTRY: Section = Section {
    title: "registry",
    keys: &[
        Key::new("managed", ValueShape::Flag).required().example("true").meaning("whether abide runs it"),
        Key::new("image", ValueShape::Text)
            .default(r#"`"registry:2"`"#)
            .example(r#""registry:2""#)
            .meaning("its image, with a tag; abide pulls it if it is missing"),
        Key::new("publish", ValueShape::OneOf("port or text", &[ValueShape::Port, ValueShape::Text]))
            .default("`5000`")
            .example("5000")
            .meaning(
                "its host port, on the loopback address, which Docker trusts without a certificate: \
                `localhost:5000`. `\"0.0.0.0:5000\"` opens it to other machines, and then needs \
                `htpasswd`",
            ),
        Key::new("container", ValueShape::Text)
            .default(r#"`"abide-registry"`"#)
            .example(r#""registry""#)
            .meaning("the container's name"),
        Key::new("volume", ValueShape::Text)
            .default(r#"`"abide-registry"`"#)
            .example(r#""registry-data""#)
            .meaning("the volume that holds the pushed images"),
        Key::new("htpasswd", ValueShape::Path("of this host"))
            .default("none: no password")
            .example(r#""/etc/abide/htpasswd""#)
            .meaning(
                "names and passwords, as `htpasswd -B` writes them; abide's own password goes into \
                [`registry_access.HOST`](#registry_accesshost)",
            ),
        Key::new("certificate", ValueShape::Path("of this host"))
            .default("none: no TLS")
            .example(r#""/etc/abide/registry.pem""#)
            .meaning("its certificate chain, PEM; needs `key`"),
        Key::new("key", ValueShape::Path("of this host"))
            .example(r#""/etc/abide/registry-key.pem""#)
            .meaning("the certificate's key, PEM"),
    ],
};

pub(in crate::model::manifest) static REGISTRY_ACCESS: Section = Section {
    title: "registry_access.HOST",
    keys: &[
        Key::new("username", ValueShape::Text)
            .example(r#""abide""#)
            .meaning("the user name; needs `secret_env` or `secret_file`"),
        Key::new("secret_env", ValueShape::Text)
            .example(r#""REGISTRY_PASSWORD""#)
            .meaning("the daemon's environment variable with the password"),
        Key::new("secret_file", ValueShape::Path("of this host"))
            .example(r#""/etc/abide/registry""#)
            .meaning("the file with the password"),
        Key::new("plain_http", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether abide may access it without TLS. This is always allowed for a registry on this \
                host's loopback address (`localhost:5000`); any other registry must also be in the \
                engine's `insecure-registries`",
        ),
        Key::new("poll", ValueShape::Duration).default(r#"`"60s"`"#).example(r#""5m""#).meaning(
            "how often abide checks followed tags, and whether pushed images are still there. At \
                least `\"5s\"`; `\"0s\"` disables the checks",
        ),
        Key::new("patience", ValueShape::Duration).default(r#"`"90s"`"#).example(r#""2m""#).meaning(
            "how long a push or pull may make no progress before abide gives it up and retries. An \
                engine that lost its connection retries for up to 75 s and reports the cause only then, \
                so with a shorter value `status` shows less detail",
        ),
        Key::new("webhook", ValueShape::Table(&REGISTRY_WEBHOOK))
            .default("none: tags are only polled")
            .meaning(
                "the registry's notifications: \
                [`registry_access.HOST.webhook`](#registry_accesshostwebhook)",
            ),
    ],
};

pub(in crate::model::manifest) static REGISTRY_WEBHOOK: Section = Section {
    title: "registry_access.HOST.webhook",
    keys: &[
        Key::new("secret_env", ValueShape::Text)
            .default("one of the two is *required*")
            .example(r#""REGISTRY_TOKEN""#)
            .meaning(
                "the daemon's environment variable with the token that the registry sends as \
                `Authorization: Bearer TOKEN`",
            ),
        Key::new("secret_file", ValueShape::Path("of this host"))
            .default("one of the two is *required*")
            .example(r#""/etc/abide/registry-token""#)
            .meaning("the file with the token"),
    ],
};

pub(in crate::model::manifest) static DOCKER: Section = Section {
    title: "docker",
    keys: &[
        Key::new("network", ValueShape::Text).default(r#"`"abide"`"#).example(r#""keepwork""#).meaning(
            "the Docker network that all containers join, in which they find each other by name; \
                abide creates it if it is missing",
        ),
        Key::new(
            "holder",
            ValueShape::OneOf("`false` or an image's name", &[ValueShape::False, ValueShape::Text]),
        )
        .default("abide's own")
        .example(r#""registry.k8s.io/pause:3.10""#)
        .meaning(
            "the image of the *sandbox*, the container that holds the network namespace of each \
                environment (`dev-server.net`). It keeps address and port while the program is restarted \
                or replaced. `false`: each container has its own namespace. The image must only wait, \
                like the pause image of Kubernetes",
        ),
        Key::new("build_cache", ValueShape::OneOf("size or `false`", &[ValueShape::Size, ValueShape::False]))
            .default(r#"`"20GiB"`"#)
            .example(r#""5GiB""#)
            .meaning(
                "how much of the engine's build cache to keep. After its builds, abide removes the least \
                recently used entries, as `docker builder prune` does. Entries in use stay, and no image \
                is removed. The engine shares this cache, so entries of other programs on this host also \
                count and may be removed, which slows down their next builds. `false` disables pruning",
            ),
        Key::new("guard", ValueShape::Flag).default("`true`").example("false").meaning(
            "whether a small container (`abide-guard-...`) restarts containers while abide is stopped \
                or killed; it has the engine's socket mounted. `false`: while abide is not running, \
                containers restart only after a graceful stop of abide; after a restart of the engine \
                they stay stopped until abide runs",
        ),
        Key::new("parallel_updates", ValueShape::Integer(1, 1_000))
            .default("twice the processors, 4 to 32")
            .example("8")
            .meaning(
                "how many environments of this host abide updates at once; the others wait, and their \
                status shows it. Healing never waits. A host run by an agent uses the default",
            ),
    ],
};
