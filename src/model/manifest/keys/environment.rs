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
                publishes no port. Two environments cannot publish the same port. If `ports` lists `port`, nothing else \
                publishes it"),
        Key::new("ports", Shape::OneOf("list of texts or tables", &[Shape::List("texts"), Shape::Tables(&PORT)])).example(r#"["8443:443", "53:53/udp"]"#)
            .meaning("further published ports, in compose's forms: `\"8080:80\"`, `\"127.0.0.1:8443:443\"`, \
                `\"53:53/udp\"`, a range `\"9000-9009:9000-9009\"`, `\"9000-9009:80\"` for the first free \
                port of a range, `\"80\"` for any free port; or a table: \
                [`environment.NAME.ports`](#environmentnameports). The container publishes them itself, even \
                behind a [`front`](#front), which passes on only `publish`; so the default of `update` is \
                then `\"stop-first\"`"),
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
                [announces a push](#registry_accesshostwebhook). With a digest, `\"name:tag@sha256:...\"` or \
                `\"name@sha256:...\"`, the image stays that one until an edit"),
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
        Key::new("env_file", Shape::OneOf("path or list", &[Shape::Path("of this host"), Shape::List("paths"), Shape::Tables(&ENV_FILE)])).example(r#"["./shop.env"]"#)
            .meaning("files of environment variables, as compose reads them: lines of `NAME=value`, quotes, \
                comments, and `${NAME:-default}` for earlier variables. `env` goes before them, and later files \
                before earlier ones. A path that begins with `./` is relative to this folder. A change \
                replaces the container. As a table: [`environment.NAME.env_file`](#environmentnameenv_file)"),
        Key::new("secrets", Shape::TablesBy("secret", &SECRET_FILE)).example(r#"{ db = { secret_file = "/etc/abide/db" } }"#)
            .meaning("secrets that the container gets as files: \
                [`environment.NAME.secrets.SECRET`](#environmentnamesecretssecret). abide writes them into the \
                container before its first start, and replaces the container if one changes"),
        Key::new("aliases", Shape::List("texts")).example(r#"["db"]"#)
            .meaning("further names of the container on the network"),
        Key::new("networks", Shape::OneOf("list or table", &[Shape::List("texts"), Shape::TablesBy("network", &NETWORK)])).example(r#"["backend"]"#)
            .meaning("further Docker networks that the container joins, beside the one of [`docker`](#docker); \
                abide creates a missing one. As a table: \
                [`environment.NAME.networks.NETWORK`](#environmentnamenetworksnetwork)"),
        Key::new("volumes", Shape::OneOf("list of texts or tables", &[Shape::List("texts"), Shape::Tables(&MOUNT)])).example(r#"["dev-log:/var/log/app"]"#)
            .meaning("`\"source:target\"`, followed by `:ro` if the container only reads; or a table: \
                [`environment.NAME.volumes`](#environmentnamevolumes). The source is a volume's name or \
                a path of the host, a folder or one file, which must exist. A path is absolute, or begins with \
                `./` and is relative to this folder. Two environments cannot write the same source, unless \
                both declare it `shared`. A `VOLUME` of the image that is not in this list gets its own volume, which \
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
        Key::new("update", Shape::Text).default(r#"`"start-first"` if there is a `front`, no volume, declared or by a `VOLUME` of the image, and no `ports`; else `"stop-first"`"#).example(r#""stop-first""#)
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
        Key::new("entrypoint", Shape::List("texts")).default("from the image").example(r#"["/usr/bin/tini", "--"]"#)
            .meaning("the program and its first arguments, instead of the image's entrypoint. As with Docker, the image's own `CMD` is then not used. `[]` removes the image's entrypoint"),
        Key::new("user", Shape::Text).default("from the image").example(r#""1000:1000""#)
            .meaning("the user, and the group after a colon: names of the image or numbers. `\"0\"` is root"),
        Key::new("working_dir", Shape::Path("in the container")).default("from the image").example(r#""/app""#)
            .meaning("the folder in which the program starts"),
        Key::new("container_hostname", Shape::Text).default("the container's id").example(r#""db-1""#)
            .meaning("the host name inside the container (compose: `hostname`, which is the site's name here). It is also a name on the network"),
        Key::new("domainname", Shape::Text).example(r#""example.com""#)
            .meaning("the domain after that host name"),
        Key::new("labels", Shape::OneOf("table, or list of `\"name=text\"`", &[Shape::Values, Shape::List("texts")])).example(r#"{ "com.example.team" = "shop" }"#)
            .meaning("labels of the container, for other programs. Names that begin with `abide.` are abide's own"),
        Key::new("stop_signal", Shape::OneOf("text or number", &[Shape::Text, Shape::Whole(1, 64)])).default("from the image, else `\"SIGTERM\"`").example(r#""SIGINT""#)
            .meaning("the signal that asks the program to stop. Compose's `stop_grace_period` is `stop_timeout`"),
        Key::new("tty", Shape::Flag).default("`false`").example(r#"true"#)
            .meaning("whether the program gets a terminal"),
        Key::new("stdin_open", Shape::Flag).default("`false`").example(r#"true"#)
            .meaning("whether the program's input stays open"),
        Key::new("read_only", Shape::Flag).default("`false`").example(r#"true"#)
            .meaning("whether the container's own files are read-only"),
        Key::new("tmpfs", Shape::OneOf("text, list or table", &[Shape::Text, Shape::List("texts"), Shape::Values])).example(r#"["/tmp", "/run:size=64m"]"#)
            .meaning("file systems in memory: `\"/run\"` or `\"/run:size=64m,mode=1777\"`"),
        Key::new("shm_size", Shape::Size).default("the engine's, 64 MiB").example(r#""256m""#)
            .meaning("the size of `/dev/shm`"),
        Key::new("logging", Shape::AnyTable).default("the engine's").example(r#"{ driver = "json-file", options = { max-size = "10m", max-file = 3 } }"#)
            .meaning("the logging `driver` and its `options`. `abide logs` cannot read some drivers"),
        Key::new("ulimits", Shape::AnyTable).default("the engine's").example(r#"{ nofile = 65536 }"#)
            .meaning("limits by name: a number, or `{ soft = 1024, hard = 2048 }`; -1 is no limit"),
        Key::new("sysctls", Shape::OneOf("table, or list of `\"name=text\"`", &[Shape::Values, Shape::List("texts")])).example(r#"{ "net.core.somaxconn" = 1024 }"#)
            .meaning("kernel parameters that the container has for itself: `net.*`, `fs.mqueue.*`, and System V IPC below `kernel.`"),
        Key::new("oom_score_adj", Shape::OneOf("-1000 to 1000", &[Shape::Number])).default("0").example(r#"500"#)
            .meaning("how early the kernel ends the program if memory runs out"),
        Key::new("cpu_shares", Shape::Whole(2, 262_144)).default("1024").example(r#"512"#)
            .meaning("the weight among containers if processors are busy"),
        Key::new("cpuset", Shape::Text).default("all").example(r#""0-1""#)
            .meaning("the processors that the container may use"),
        Key::new("mem_reservation", Shape::Size).example(r#""256m""#)
            .meaning("the memory that the container keeps if the host's runs low; below `memory`"),
        Key::new("cap_add", Shape::List("texts")).example(r#"["NET_ADMIN"]"#)
            .meaning("capabilities beyond the usual ones"),
        Key::new("cap_drop", Shape::List("texts")).example(r#"["ALL"]"#)
            .meaning("capabilities to take away; `\"ALL\"` takes all"),
        Key::new("security_opt", Shape::List("texts")).example(r#"["no-new-privileges"]"#)
            .meaning("`\"no-new-privileges\"`, `\"seccomp=unconfined\"` or the JSON of a seccomp profile, `\"apparmor=...\"`, `\"label=...\"`"),
        Key::new("privileged", Shape::Flag).default("`false`").example(r#"true"#)
            .meaning("whether the container has all rights of root on the host"),
        Key::new("group_add", Shape::List("texts")).example(r#"["video"]"#)
            .meaning("further groups of the program"),
        Key::new("devices", Shape::List("texts")).example(r#"["/dev/ttyUSB0"]"#)
            .meaning("devices of the host: `\"host\"`, `\"host:container\"` or `\"host:container:rwm\"`"),
        Key::new("device_cgroup_rules", Shape::List("texts")).example(r#"["c 188:* rwm"]"#)
            .meaning("further devices that the container may create and use"),
        Key::new("gpus", Shape::OneOf("`\"all\"`, number or list", &[Shape::Text, Shape::Whole(1, 1024), Shape::List("ids")])).example(r#""all""#)
            .meaning("GPUs: all, so many, or those of these ids"),
        Key::new("runtime", Shape::Text).default("the engine's").example(r#""nvidia""#)
            .meaning("the OCI runtime"),
        Key::new("pid", Shape::OneOf("`\"host\"`", &[Shape::Text])).default("its own").example(r#""host""#)
            .meaning("the namespace of processes"),
        Key::new("ipc", Shape::Text).default("the engine's").example(r#""host""#)
            .meaning("the namespace of shared memory: `\"private\"`, `\"shareable\"`, `\"host\"` or `\"none\"`"),
        Key::new("cgroup", Shape::Text).default("the engine's").example(r#""private""#)
            .meaning("the namespace of control groups: `\"private\"` or `\"host\"`"),
        Key::new("userns_mode", Shape::OneOf("`\"host\"`", &[Shape::Text])).default("the engine's").example(r#""host""#)
            .meaning("the user namespace"),
        Key::new("dns", Shape::List("addresses")).default("the engine's").example(r#"["1.1.1.1"]"#)
            .meaning("name servers for names outside the network"),
        Key::new("dns_search", Shape::List("texts")).default("the engine's").example(r#"["example.com"]"#)
            .meaning("domains in which short names are looked up"),
        Key::new("dns_opt", Shape::List("texts")).example(r#"["ndots:2"]"#)
            .meaning("options of the resolver"),
    ],
};

pub(in crate::model::manifest) static PORT: Section = Section {
    title: "environment.NAME.ports",
    keys: &[
        Key::new("target", Shape::OneOf("port or range", &[Shape::Port, Shape::Text]))
            .required()
            .example("53")
            .meaning("the port of the program in the container"),
        Key::new("published", Shape::OneOf("port or range", &[Shape::Port, Shape::Text]))
            .default("any free port")
            .example(r#""5300-5309""#)
            .meaning("the host port"),
        Key::new("host_ip", Shape::Text)
            .default("all addresses")
            .example(r#""127.0.0.1""#)
            .meaning("the host address"),
        Key::new("protocol", Shape::Text)
            .default(r#"`"tcp"`"#)
            .example(r#""udp""#)
            .meaning("`\"tcp\"` or `\"udp\"`"),
    ],
};

pub(in crate::model::manifest) static ENV_FILE: Section = Section {
    title: "environment.NAME.env_file",
    keys: &[
        Key::new("path", Shape::Path("of this host"))
            .required()
            .example(r#""./shop.env""#)
            .meaning("the file, of at most 64 KiB; absolute, or relative to this folder with `./`"),
        Key::new("required", Shape::Flag)
            .default("`true`")
            .example("false")
            .meaning("whether the file has to exist"),
    ],
};

pub(in crate::model::manifest) static SECRET_FILE: Section = Section {
    title: "environment.NAME.secrets.SECRET",
    keys: &[
        Key::new("secret_env", Shape::Text)
            .default("one of the two is *required*")
            .example(r#""DB_PASSWORD""#)
            .meaning("the daemon's environment variable with the secret"),
        Key::new("secret_file", Shape::Path("of this host"))
            .default("one of the two is *required*")
            .example(r#""/etc/abide/db-password""#)
            .meaning("the file with the secret"),
        Key::new("target", Shape::Path("in the container"))
            .default("`/run/secrets/SECRET`")
            .example(r#""/app/key.pem""#)
            .meaning("the file in the container; a relative path begins at `/run/secrets`"),
        Key::new("mode", Shape::OneOf("octal text", &[Shape::Text, Shape::Whole(0, 0o777)]))
            .default(r#"`"0444"`"#)
            .example(r#""0400""#)
            .meaning("the mode of the file"),
        Key::new("uid", Shape::Whole(0, u32::MAX as u64))
            .default("0")
            .example("1000")
            .meaning("the owner of the file"),
        Key::new("gid", Shape::Whole(0, u32::MAX as u64))
            .default("0")
            .example("1000")
            .meaning("the group of the file"),
    ],
};

pub(in crate::model::manifest) static NETWORK: Section = Section {
    title: "environment.NAME.networks.NETWORK",
    keys: &[
        Key::new("aliases", Shape::List("texts"))
            .example(r#"["db"]"#)
            .meaning("further names of the container on this network"),
        Key::new("ipv4_address", Shape::Text).default("any").example(r#""172.28.0.10""#).meaning(
            "a fixed address; the network needs a subnet that was declared when it was created. The default of \
                `update` is then `\"stop-first\"`",
        ),
        Key::new("ipv6_address", Shape::Text)
            .default("any")
            .example(r#""fd00::10""#)
            .meaning("the same for IPv6"),
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
        Key::new("shared", Shape::Flag).default("`false`").example("true").meaning(
            "whether other environments may write to the source too; each of them has to declare it",
        ),
        Key::new("external", Shape::Flag).default("`false`").example("true").meaning(
            "whether someone else creates the volume: abide never does, and blocks without it \
                (`VolumeMissing`)",
        ),
        Key::new("nocopy", Shape::Flag)
            .default("`false`")
            .example("true")
            .meaning("whether a new volume stays empty, instead of getting the image's files"),
        Key::new("selinux", Shape::Text).example(r#""z""#).meaning(
            "the SELinux label that the engine gives to a path of the host: `\"z\"` for all containers, \
                `\"Z\"` for this one",
        ),
        Key::new("propagation", Shape::Text).default(r#"`"rprivate"`"#).example(r#""rslave""#).meaning(
            "whether mounts below a path of the host reach the container and back: `\"private\"`, \
                `\"rprivate\"`, `\"shared\"`, `\"rshared\"`, `\"slave\"` or `\"rslave\"`",
        ),
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
