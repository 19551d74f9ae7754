//! `[environment.NAME]` and its tables, except for `build`.

use super::build::BUILD;
use super::gates::{PROMOTE, VERIFY};
use super::{Key, Section, Shape};

pub(in crate::model::manifest) static ENVIRONMENT: Section = Section {
    title: "environment.NAME",
    keys: &[
        Key::new("container", Shape::Text).required().example(r#""dev-server""#)
            .meaning("the container's name; also its name on the network"),
        Key::new("port", Shape::Port).example("8900")
            .meaning("the port that the program in the container listens on. Omit it for a worker that does \
                not listen: nothing is published, and the worker is ready once it has run for \
                `healthy_for`"),
        Key::new("publish", Shape::OneOf("port, text or `false`", &[Shape::Port, Shape::Text, Shape::False])).default("the same as `port`, on all addresses").example("8901")
            .meaning("the host port. `\"127.0.0.1:8900\"` and `\"[::1]:8900\"` bind one address; `false` \
                publishes no port. Two environments cannot publish the same port"),
        Key::new("hostname", Shape::Text).example(r#""dev.keepwork.com""#)
            .meaning("the host name at which the proxy serves the environment, in lower case; needs a \
                [`front`](#front) on the host that runs it. Two environments cannot have the same host name. \
                `\"*.example.com\"` means all names one level below"),
        Key::new("hostnames", Shape::List("host names")).default("`[]`").example(r#"["keepwork.com", "www.keepwork.com"]"#)
            .meaning("several host names, in place of `hostname`"),
        Key::new("https", Shape::Text).default("redirect once a name has a certificate of its own").example(r#""optional""#)
            .meaning("`\"optional\"`: HTTP is served too, and nothing is redirected to HTTPS. `\"required\"`: \
                redirects also with the proxy's certificate for all names"),
        Key::new("source", Shape::Table(&SOURCE)).example(r#"{ repository = "keepwork", branch = "dev" }"#)
            .meaning("the branch to build and run: [`environment.NAME.source`](#environmentnamesource). \
                Without a `build`, abide builds the `Dockerfile` in its root"),
        Key::new("promote_from", Shape::Text).example(r#""test""#)
            .meaning("the environment to promote from with `abide promote`. Cannot be combined with `source`. \
                Without `source`, `image`, `promote_from` and `promote`, only `abide set` updates the record"),
        Key::new("promote", Shape::Table(&PROMOTE)).example(r#"{ from = "test", approvals = 1 }"#)
            .meaning("the same with gates, which must be open before an image may be promoted: \
                [`environment.NAME.promote`](#environmentnamepromote). Cannot be combined with `promote_from`"),
        Key::new("verify", Shape::Table(&VERIFY)).example(r#"{ command = ["/smoke", "{url}"] }"#)
            .meaning("a check that abide runs once against each new version: \
                [`environment.NAME.verify`](#environmentnameverify). Not for environments with a `host`"),
        Key::new("image", Shape::Text).example(r#""localhost:5000/shop/app:stable""#)
            .meaning("the registry tag to follow, instead of a `source`: abide pulls the tag's image by digest \
                and runs it. abide queries the registry at its `poll` interval, and when the registry \
                [announces a push](#registry_accesshostwebhook)"),
        Key::new("build", Shape::Table(&BUILD)).default("the `Dockerfile` in the root, with a `source`")
            .meaning("how abide builds an image from the source: \
                [`environment.NAME.build`](#environmentnamebuild)"),
        Key::new("push", Shape::Text).example(r#""localhost:5000/keepwork/prod""#)
            .meaning("the repository to push the built image to, with its registry and without a tag. The \
                record stores the digest that the registry reports, so that other hosts can pull it. \
                Needs a `source`"),
        Key::new("command", Shape::List("texts")).default("from the image").example(r#"["dev"]"#)
            .meaning("arguments after the image's entrypoint"),
        Key::new("env", Shape::Values).example(r#"{ LOCALE = "zh_CN", TOKEN = { secret_env = "DEV_TOKEN" } }"#)
            .meaning("environment variables: texts, numbers, `true` or `false`, or a secret: \
                [`environment.NAME.env.VARIABLE`](#environmentnameenvvariable)"),
        Key::new("volumes", Shape::OneOf("list of texts or tables", &[Shape::List("texts"), Shape::Tables(&MOUNT)])).example(r#"["dev-log:/var/log/app"]"#)
            .meaning("`\"source:target\"`, followed by `:ro` if the container only reads; or a table: \
                [`environment.NAME.volumes`](#environmentnamevolumes). The source is a volume's name or \
                an absolute path of the host, which must exist. Two environments cannot write the same \
                source. A `VOLUME` of the image that is not in this list gets its own volume, which \
                `abide status` shows"),
        Key::new("extra_hosts", Shape::List("texts")).example(r#"["git.keepwork.com:10.28.18.6"]"#)
            .meaning("additional lines for the container's `/etc/hosts`: `\"host:address\"`, or \
                `\"host:host-gateway\"` for this host"),
        Key::new("memory", Shape::Size).default("no limit").example(r#""512MiB""#)
            .meaning("the memory limit; at least 6 MiB"),
        Key::new("cpus", Shape::Number).default("no limit").example("1.5")
            .meaning("the CPU limit; at least 0.01"),
        Key::new("pids", Shape::Whole(1, 4_194_304)).default("no limit").example("512")
            .meaning("the limit of processes and threads"),
        Key::new("init", Shape::Flag).default("`true`").example("false")
            .meaning("whether a tiny init runs as process 1; it forwards signals and reaps dead processes"),
        Key::new("stop_timeout", Shape::Duration).default(r#"`"10s"`"#).example(r#""30s""#)
            .meaning("how long the container may take to stop before it is killed, in whole seconds"),
        Key::new("update", Shape::Text).default(r#"`"start-first"` if there is a `front` and no volume, declared or by a `VOLUME` of the image; else `"stop-first"`"#).example(r#""stop-first""#)
            .meaning("`\"start-first\"`: the new container runs beside the old one until it is ready; then the \
                proxy switches to it, and abide removes the old container once its last requests have \
                ended. Two processes then write the same volumes for a while. `\"stop-first\"`: abide \
                stops the old container before it starts the new one, and starts the old one again if \
                the new one fails"),
        Key::new("host", Shape::Text).default("this host").example(r#""online""#)
            .meaning("the agent that runs the environment, by the name in its token: `abide agent` on another \
                host, see [docs/agent.md](../docs/agent.md). Volumes, secrets and published ports are \
                then those of that host. Cannot be combined with `source`"),
        Key::new("health", Shape::Table(&HEALTH)).default("`{ tcp = true }`; without a `port`, that it keeps running").example(r#"{ http = "/" }"#)
            .meaning("the health check, which decides when the container is ready: \
                [`environment.NAME.health`](#environmentnamehealth)"),
    ],
};

pub(in crate::model::manifest) static MOUNT: Section = Section {
    title: "environment.NAME.volumes",
    keys: &[
        Key::new("source", Shape::Text)
            .required()
            .example(r#""/srv/app/data""#)
            .meaning("a volume's name or an absolute path of the host"),
        Key::new("target", Shape::Text)
            .required()
            .example(r#""/data""#)
            .meaning("an absolute path in the container"),
        Key::new("read_only", Shape::Flag)
            .default("`false`")
            .example("true")
            .meaning("whether the container only reads"),
        Key::new("create", Shape::Flag).default("`false`").example("true").meaning(
            "whether abide creates a missing host folder, owned by root. Otherwise abide starts \
                nothing without it: the status is `Blocked` (`BindSourceMissing`). Not for a volume, \
                which abide always creates",
        ),
    ],
};

pub(in crate::model::manifest) static SOURCE: Section = Section {
    title: "environment.NAME.source",
    keys: &[
        Key::new("repository", Shape::Text)
            .required()
            .example(r#""keepwork""#)
            .meaning("the repository's name in this manifest"),
        Key::new("branch", Shape::Text)
            .required()
            .example(r#""dev""#)
            .meaning("the branch, without `refs/heads/`. Two environments may follow the same branch"),
    ],
};

pub(in crate::model::manifest) static SECRET: Section = Section {
    title: "environment.NAME.env.VARIABLE",
    keys: &[
        Key::new("secret_env", Shape::Text)
            .default("one of the two is *required*")
            .example(r#""DEV_TOKEN""#)
            .meaning("the daemon's environment variable with the value"),
        Key::new("secret_file", Shape::Path("of this host"))
            .default("one of the two is *required*")
            .example(r#""/etc/abide/dev-token""#)
            .meaning("the file with the value"),
    ],
};

pub(in crate::model::manifest) static HEALTH: Section = Section {
    title: "environment.NAME.health",
    keys: &[
        Key::new("http", Shape::Text)
            .without_default()
            .example(r#""/""#)
            .meaning("a `GET` of this path answers with a status from 200 to 399"),
        Key::new("tcp", Shape::True)
            .default("`true` if none of the five is set")
            .example("true")
            .meaning("the port accepts a connection"),
        Key::new("command", Shape::List("texts"))
            .without_default()
            .example(r#"["pg_isready", "-q"]"#)
            .meaning(
                "this command, run in the container without a shell and as the image's user, exits with 0 \
                within `timeout`. If it hangs, abide does not start a second one beside it",
            ),
        Key::new("docker", Shape::True).without_default().example("true").meaning(
            "the image's own `HEALTHCHECK` reports healthy. The deadline is then at least the time \
                that the `HEALTHCHECK` needs to decide: its start period, plus its interval and timeout \
                for each of its retries (180 s with Docker's defaults)",
        ),
        Key::new("none", Shape::True)
            .without_default()
            .example("true")
            .meaning("a running container is ready"),
        Key::new("port", Shape::Port)
            .default("the environment's `port`")
            .example("9000")
            .meaning("the port for `http` and `tcp`"),
        Key::new("host", Shape::Text)
            .default("the environment's `hostname`, else `localhost`")
            .example(r#""example.com""#)
            .meaning(
                "the `Host` header of `http`: frameworks with a list of allowed hosts answer 400 to any \
                other",
            ),
        Key::new("headers", Shape::Values)
            .example(r#"{ X-Probe = "1" }"#)
            .meaning("additional headers of `http`: texts, or secrets as in `env`"),
        Key::new("interval", Shape::Duration).default(r#"`"1s"`"#).example(r#""5s""#).meaning(
            "time between two probes; abide probes a newly started container more often until it \
                answers",
        ),
        Key::new("timeout", Shape::Duration)
            .default(r#"`"2s"`"#)
            .example(r#""10s""#)
            .meaning("how long one probe may take"),
        Key::new("start_deadline", Shape::Duration).default(r#"`"30s"`"#).example(r#""2m""#).meaning(
            "how long the container may take from its start until it is ready; after that abide \
                returns to the last good image",
        ),
        Key::new("healthy_for", Shape::Duration).default(r#"`"10s"`"#).example(r#""0s""#).meaning(
            "how long probes must succeed in a row before the container is ready; must be shorter \
                than `start_deadline`",
        ),
    ],
};
