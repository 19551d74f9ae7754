//! `[environment.NAME]` and its tables, except for `build`.

use super::build::BUILD;
use super::canary::CANARY;
use super::gates::{PROMOTE, VERIFY};
use super::one_off::HOOK;
use super::site::SITE;
use super::swarm::SWARM;
use super::{Key, Section, ValueShape};

pub(in crate::model::manifest) static ENVIRONMENT: Section = Section {
    title: "environment.NAME",
    keys: &[
        Key::new("container", ValueShape::Text).required().example(r#""dev-server""#)
            .meaning("the container's name; also its name on the network"),
        Key::new("port", ValueShape::Port).example("8900")
            .meaning("the port that the program in the container listens on. Omit it for a worker that does \
                not listen: nothing is published, and the worker is ready once it has run for \
                `healthy_for`"),
        Key::new("group", ValueShape::Text).example(r#""shop-prod""#)
            .meaning("the group that the environment belongs to. The members join the network of the group \
                instead of that of [`docker`](#docker), and are promoted, held and rolled back together: \
                [docs/groups.md](../docs/groups.md). On that network, `shop-prod-db` in group `shop-prod` is \
                also called `db`. All members run on one host"),
        Key::new("needs", ValueShape::Values).default("`{}`").example(r#"{ db = "healthy" }"#)
            .meaning("the members of the group that a new version waits for before its release command and its \
                container start: each by its short name, and `\"healthy\"`, `\"started\"` or `\"completed\"`. The \
                current container serves meanwhile, and is healed without waiting"),
        Key::new("publish", ValueShape::OneOf("port, text or `false`", &[ValueShape::Port, ValueShape::Text, ValueShape::False])).default("the same as `port`, on all addresses").example("8901")
            .meaning("the host port. `\"127.0.0.1:8900\"` and `\"[::1]:8900\"` bind one address; `false` \
                publishes no port. Two environments cannot publish the same port. If `ports` lists `port`, nothing else \
                publishes it"),
        Key::new("ports", ValueShape::OneOf("list of texts or tables", &[ValueShape::List("texts"), ValueShape::Tables(&PORT)])).example(r#"["8443:443", "53:53/udp"]"#)
            .meaning("further published ports, in compose's forms: `\"8080:80\"`, `\"127.0.0.1:8443:443\"`, \
                `\"53:53/udp\"`, a range `\"9000-9009:9000-9009\"`, `\"9000-9009:80\"` for the first free \
                port of a range, `\"80\"` for any free port; or a table: \
                [`environment.NAME.ports`](#environmentnameports). The container publishes them itself, even \
                behind a [`front`](#front), which passes on only `publish`; so the default of `update` is \
                then `\"stop-first\"`"),
        Key::new("hostname", ValueShape::Text).example(r#""dev.keepwork.com""#)
            .meaning("the host name at which the proxy serves the environment, in lower case; needs a \
                [`front`](#front) on the host that runs it. Two environments cannot have the same host name. \
                `\"*.example.com\"` means all names one level below"),
        Key::new("hostnames", ValueShape::List("host names")).default("`[]`").example(r#"["keepwork.com", "www.keepwork.com"]"#)
            .meaning("several host names, instead of `hostname`"),
        Key::new("https", ValueShape::Text).default("redirect once the name has its own certificate").example(r#""optional""#)
            .meaning("`\"optional\"`: the proxy also serves HTTP, and redirects nothing to HTTPS. \
                `\"required\"`: the proxy also redirects if it has only the certificate for all names"),
        Key::new("site", ValueShape::Table(&SITE)).example(r#"{ path = "/api", max_body = "10MiB" }"#)
            .meaning("how the proxy handles requests: paths, redirects, limits, passwords, headers, error \
                pages: [`environment.NAME.site`](#environmentnamesite)"),
        Key::new("source", ValueShape::Table(&SOURCE)).example(r#"{ repository = "keepwork", branch = "dev" }"#)
            .meaning("the branch to build and run: [`environment.NAME.source`](#environmentnamesource). \
                Without a `build`, abide builds the `Dockerfile` in its root"),
        Key::new("promote_from", ValueShape::Text).example(r#""test""#)
            .meaning("the environment to promote from with `abide promote`. Cannot be combined with `source`. \
                Without `source`, `image`, `promote_from` and `promote`, only `abide set` updates the record"),
        Key::new("promote", ValueShape::Table(&PROMOTE)).example(r#"{ from = "test", approvals = 1 }"#)
            .meaning("like `promote_from`, with gates that must be open before abide records a promotion: \
                [`environment.NAME.promote`](#environmentnamepromote). Cannot be combined with \
                `promote_from`"),
        Key::new("verify", ValueShape::Table(&VERIFY)).example(r#"{ command = ["/smoke", "{url}"] }"#)
            .meaning("a check that abide runs once against each new version: \
                [`environment.NAME.verify`](#environmentnameverify). Not for environments with a `host`"),
        Key::new("release", ValueShape::Table(&HOOK)).example(r#"{ command = ["./manage.py", "migrate"] }"#)
            .meaning("a command that runs once for each new image, before its first container: \
                [`environment.NAME.release`](#environmentnamerelease). If it fails, abide gives up the \
                version"),
        Key::new("after", ValueShape::Table(&HOOK)).example(r#"{ command = ["./warm-caches"] }"#)
            .meaning("a command that runs once for each new image, after the new version is ready. If it \
                fails, the version keeps serving, and the status is `Degraded`"),
        Key::new("image", ValueShape::Text).example(r#""localhost:5000/shop/app:stable""#)
            .meaning("the registry tag to follow, instead of a `source`: abide pulls the tag's image by \
                digest and runs it. abide queries the registry at its `poll` interval, and when the \
                registry [announces a push](#registry_accesshostwebhook). With a digest, \
                `\"name:tag@sha256:...\"` or `\"name@sha256:...\"`, abide runs exactly that image until you \
                edit the key"),
        Key::new("platform", ValueShape::Text).default("the engine's choice").example(r#""linux/arm64""#)
            .meaning("the platform of the image, for pulls, builds and containers: abide runs no image of another \
                platform. The host must be able to run its programs"),
        Key::new("pull_policy", ValueShape::Text).default(r#"`"always"`"#).example(r#""missing""#)
            .meaning("when abide asks the registry for the image of the tag in `image`, by compose's names. \
                `\"always\"`: at every poll and announced push. `\"missing\"` (or `\"if_not_present\"`): once, and \
                again after an edit of `image` or `abide sync`. `\"daily\"`, `\"weekly\"`, `\"every_12h\"`: once in that \
                time. Without `image`, `\"never\"` means that abide pulls nothing and runs only images of the host, and \
                `\"build\"` the same for a `source`. Whatever the policy, abide runs the recorded digest"),
        Key::new("build", ValueShape::Table(&BUILD)).default("the `Dockerfile` in the root, with a `source`")
            .meaning("how abide builds an image from the source: \
                [`environment.NAME.build`](#environmentnamebuild)"),
        Key::new("push", ValueShape::Text).example(r#""localhost:5000/keepwork/prod""#)
            .meaning("the repository to push the built image to, with its registry and without a tag. The \
                record stores the digest that the registry reports, so that other hosts can pull it. \
                Needs a `source`"),
        Key::new("command", ValueShape::List("texts")).default("from the image").example(r#"["dev"]"#)
            .meaning("arguments after the image's entrypoint"),
        Key::new("env", ValueShape::Values).example(r#"{ LOCALE = "zh_CN", TOKEN = { secret_env = "DEV_TOKEN" } }"#)
            .meaning("environment variables: texts, numbers, `true` or `false`, or a secret: \
                [`environment.NAME.env.VARIABLE`](#environmentnameenvvariable)"),
        Key::new("env_file", ValueShape::OneOf("path or list", &[ValueShape::Path("of this host"), ValueShape::List("paths"), ValueShape::Tables(&ENV_FILE)])).example(r#"["./shop.env"]"#)
            .meaning("files of environment variables, as compose reads them: lines of `NAME=value`, quotes, \
                comments, and `${NAME:-default}` for earlier variables. `env` takes precedence over these \
                files, and later files over earlier files. A path that begins with `./` is relative to this \
                folder. A change replaces the container. As a table: \
                [`environment.NAME.env_file`](#environmentnameenv_file)"),
        Key::new("secrets", ValueShape::TablesBy("secret", &SECRET_FILE)).example(r#"{ db = { secret_file = "/etc/abide/db" } }"#)
            .meaning("secrets that the container gets as files: \
                [`environment.NAME.secrets.SECRET`](#environmentnamesecretssecret). abide writes them into the \
                container before its first start, and replaces the container if one changes"),
        Key::new("aliases", ValueShape::List("texts")).example(r#"["db"]"#)
            .meaning("further names of the container on the network"),
        Key::new("networks", ValueShape::OneOf("list or table", &[ValueShape::List("texts"), ValueShape::TablesBy("network", &NETWORK)])).example(r#"["backend"]"#)
            .meaning("further Docker networks that the container joins, beside the one of [`docker`](#docker); \
                abide creates a missing one. As a table: \
                [`environment.NAME.networks.NETWORK`](#environmentnamenetworksnetwork)"),
        Key::new("volumes", ValueShape::OneOf("list of texts or tables", &[ValueShape::List("texts"), ValueShape::Tables(&MOUNT)])).example(r#"["dev-log:/var/log/app"]"#)
            .meaning("`\"source:target\"`, followed by `:ro` if the container only reads; or a table: \
                [`environment.NAME.volumes`](#environmentnamevolumes). The source is a volume's name or \
                a path of the host, a folder or one file, which must exist. A path is absolute, or begins with \
                `./` and is relative to this folder. Two environments cannot write the same source, unless \
                both declare it `shared`. A `VOLUME` of the image that is not in this list gets its own volume, which \
                `abide status` shows"),
        Key::new("extra_hosts", ValueShape::List("texts")).example(r#"["git.keepwork.com:10.28.18.6"]"#)
            .meaning("additional lines for the container's `/etc/hosts`: `\"host:address\"`, or \
                `\"host:host-gateway\"` for this host"),
        Key::new("memory", ValueShape::Size).default("no limit").example(r#""512MiB""#)
            .meaning("the memory limit; at least 6 MiB"),
        Key::new("cpus", ValueShape::Number).default("no limit").example("1.5")
            .meaning("the CPU limit; at least 0.01"),
        Key::new("pids", ValueShape::Integer(1, 4_194_304)).default("no limit").example("512")
            .meaning("the limit of processes and threads"),
        Key::new("init", ValueShape::Flag).default("`true`").example("false")
            .meaning("whether a tiny init runs as process 1; it forwards signals and reaps dead processes"),
        Key::new("stop_timeout", ValueShape::Duration).default(r#"`"10s"`"#).example(r#""30s""#)
            .meaning("how long the container may take to stop before it is killed, in whole seconds"),
        Key::new("replicas", ValueShape::Integer(1, 50)).default("one container, without a number").example("3")
            .meaning("how many containers run the environment: the environments `NAME-1`, `NAME-2` and so on, which \
                share host names and the published port behind the `front`. See [docs/replicas.md](../docs/replicas.md)"),
        Key::new("canary", ValueShape::Table(&CANARY)).default("a new version takes over once it is ready").example(r#"{ percent = 10, for = "15m", fail_on = "5xx > 1%" }"#)
            .meaning("a new version first serves a part of the visitors, and is removed if it fails too often: \
                [`environment.NAME.canary`](#environmentnamecanary) and [docs/canaries.md](../docs/canaries.md). Needs \
                the `front`"),
        Key::new("update", ValueShape::Text).default(r#"`"start-first"` if there is a `front`, no volume, declared or by a `VOLUME` of the image, and no `ports`; else `"stop-first"`"#).example(r#""stop-first""#)
            .meaning("`\"start-first\"`: the new container runs beside the old one until it is ready; then the \
                proxy switches to it, and abide removes the old container once its last requests have \
                ended. Two processes then write the same volumes for a while. `\"stop-first\"`: abide \
                stops the old container before it starts the new one, and starts the old one again if \
                the new one fails"),
        Key::new("restart", ValueShape::Text).default(r#"`"always"`"#).example(r#""on-failure""#)
            .meaning("`\"always\"` (or compose's `\"unless-stopped\"`): abide starts an ended container again. \
                `\"on-failure\"`: a container that ends by itself with exit code 0 is complete: the status is \
                `Ready` (`Completed`), and nothing starts it again until a new version or an edit of its options \
                replaces it. After any other exit, abide starts it again, and gives up a new version after three \
                failures"),
        Key::new("swarm", ValueShape::Table(&SWARM)).default("one container on one host").example(r#"{ replicas = 3 }"#)
            .meaning("runs the environment as a service of the Docker Swarm that this host manages: \
                [`environment.NAME.swarm`](#environmentnameswarm) and [docs/swarm.md](../docs/swarm.md). The nodes pull \
                the image from a registry, so a `source` needs `push`"),
        Key::new("host", ValueShape::Text).default("this host").example(r#""online""#)
            .meaning("the agent that runs the environment, by the name in its token: `abide agent` on another \
                host, see [docs/agent.md](../docs/agent.md). Volumes, secrets and published ports are \
                then those of that host. Cannot be combined with `source`"),
        Key::new("health", ValueShape::Table(&HEALTH)).default("`{ tcp = true }`; without a `port`, that it keeps running").example(r#"{ http = "/" }"#)
            .meaning("the health check, which decides when the container is ready: \
                [`environment.NAME.health`](#environmentnamehealth)"),
        Key::new("entrypoint", ValueShape::List("texts")).default("from the image").example(r#"["/usr/bin/tini", "--"]"#)
            .meaning("the program and its first arguments, instead of the image's entrypoint. As with Docker, the image's own `CMD` is then not used. `[]` removes the image's entrypoint"),
        Key::new("user", ValueShape::Text).default("from the image").example(r#""1000:1000""#)
            .meaning("the user, and the group after a colon: names of the image or numbers. `\"0\"` is root"),
        Key::new("working_dir", ValueShape::Path("in the container")).default("from the image").example(r#""/app""#)
            .meaning("the folder in which the program starts"),
        Key::new("container_hostname", ValueShape::Text).default("the container's id").example(r#""db-1""#)
            .meaning("the host name inside the container (compose: `hostname`, which is the site's name here). It is also a name on the network"),
        Key::new("domainname", ValueShape::Text).example(r#""example.com""#)
            .meaning("the domain after that host name"),
        Key::new("labels", ValueShape::OneOf("table, or list of `\"name=text\"`", &[ValueShape::Values, ValueShape::List("texts")])).example(r#"{ "com.example.team" = "shop" }"#)
            .meaning("labels of the container, for other programs. Names that begin with `abide.` are abide's own"),
        Key::new("stop_signal", ValueShape::OneOf("text or number", &[ValueShape::Text, ValueShape::Integer(1, 64)])).default("from the image, else `\"SIGTERM\"`").example(r#""SIGINT""#)
            .meaning("the signal that stops the program. Compose's `stop_grace_period` is `stop_timeout`"),
        Key::new("tty", ValueShape::Flag).default("`false`").example(r#"true"#)
            .meaning("whether the program gets a terminal"),
        Key::new("stdin_open", ValueShape::Flag).default("`false`").example(r#"true"#)
            .meaning("whether the program's input stays open"),
        Key::new("read_only", ValueShape::Flag).default("`false`").example(r#"true"#)
            .meaning("whether the container's own files are read-only"),
        Key::new("tmpfs", ValueShape::OneOf("text, list or table", &[ValueShape::Text, ValueShape::List("texts"), ValueShape::Values])).example(r#"["/tmp", "/run:size=64m"]"#)
            .meaning("file systems in memory: `\"/run\"` or `\"/run:size=64m,mode=1777\"`"),
        Key::new("shm_size", ValueShape::Size).default("the engine's, 64 MiB").example(r#""256m""#)
            .meaning("the size of `/dev/shm`"),
        Key::new("logging", ValueShape::AnyTable).default("the engine's").example(r#"{ driver = "json-file", options = { max-size = "10m", max-file = 3 } }"#)
            .meaning("the logging `driver` and its `options`. `abide logs` cannot read some drivers"),
        Key::new("ulimits", ValueShape::AnyTable).default("the engine's").example(r#"{ nofile = 65536 }"#)
            .meaning("limits by name: a number, or `{ soft = 1024, hard = 2048 }`; -1 is no limit"),
        Key::new("sysctls", ValueShape::OneOf("table, or list of `\"name=text\"`", &[ValueShape::Values, ValueShape::List("texts")])).example(r#"{ "net.core.somaxconn" = 1024 }"#)
            .meaning("kernel parameters that the container has for itself: `net.*`, `fs.mqueue.*`, and System V IPC below `kernel.`"),
        Key::new("oom_score_adj", ValueShape::OneOf("-1000 to 1000", &[ValueShape::Number])).default("0").example(r#"500"#)
            .meaning("how early the kernel ends the program if memory runs out"),
        Key::new("cpu_shares", ValueShape::Integer(2, 262_144)).default("1024").example(r#"512"#)
            .meaning("the CPU weight relative to other containers, if the processors are busy"),
        Key::new("cpuset", ValueShape::Text).default("all").example(r#""0-1""#)
            .meaning("the processors that the container may use"),
        Key::new("mem_reservation", ValueShape::Size).example(r#""256m""#)
            .meaning("the memory that the container keeps if the host runs low on memory; below `memory`"),
        Key::new("memswap_limit", ValueShape::OneOf("size, or -1", &[ValueShape::Size, ValueShape::Number])).default("twice `memory`").example(r#""1g""#)
            .meaning("the limit of memory and swap together; -1 means unlimited swap. Needs `memory`"),
        Key::new("cpu_quota", ValueShape::Integer(1000, i64::MAX as u64)).default("no limit").example("50000")
            .meaning("microseconds of processor time in each `cpu_period`. Cannot be combined with `cpus`"),
        Key::new("cpu_period", ValueShape::Integer(1000, 1_000_000)).default("100000").example("50000")
            .meaning("the period of `cpu_quota`, in microseconds. Cannot be combined with `cpus`"),
        Key::new("cap_add", ValueShape::List("texts")).example(r#"["NET_ADMIN"]"#)
            .meaning("capabilities in addition to Docker's default capabilities"),
        Key::new("cap_drop", ValueShape::List("texts")).example(r#"["ALL"]"#)
            .meaning("capabilities to remove; `\"ALL\"` removes all"),
        Key::new("security_opt", ValueShape::List("texts")).example(r#"["no-new-privileges"]"#)
            .meaning("`\"no-new-privileges\"`, `\"seccomp=unconfined\"` or the JSON of a seccomp profile, `\"apparmor=...\"`, `\"label=...\"`"),
        Key::new("privileged", ValueShape::Flag).default("`false`").example(r#"true"#)
            .meaning("whether the container has all rights of root on the host"),
        Key::new("group_add", ValueShape::List("texts")).example(r#"["video"]"#)
            .meaning("further groups of the program"),
        Key::new("devices", ValueShape::List("texts")).example(r#"["/dev/ttyUSB0"]"#)
            .meaning("devices of the host: `\"host\"`, `\"host:container\"` or `\"host:container:rwm\"`"),
        Key::new("device_cgroup_rules", ValueShape::List("texts")).example(r#"["c 188:* rwm"]"#)
            .meaning("further devices that the container may create and use"),
        Key::new("gpus", ValueShape::OneOf("`\"all\"`, number or list", &[ValueShape::Text, ValueShape::Integer(1, 1024), ValueShape::List("ids")])).example(r#""all""#)
            .meaning("GPUs: all, a number of GPUs, or a list of ids"),
        Key::new("runtime", ValueShape::Text).default("the engine's").example(r#""nvidia""#)
            .meaning("the OCI runtime"),
        Key::new("pid", ValueShape::OneOf("`\"host\"`", &[ValueShape::Text])).default("its own").example(r#""host""#)
            .meaning("the process namespace"),
        Key::new("ipc", ValueShape::Text).default("the engine's").example(r#""host""#)
            .meaning("the namespace of System V IPC and shared memory: `\"private\"`, `\"shareable\"`, \
             `\"host\"` or `\"none\"`"),
        Key::new("cgroup", ValueShape::Text).default("the engine's").example(r#""private""#)
            .meaning("the cgroup namespace: `\"private\"` or `\"host\"`"),
        Key::new("userns_mode", ValueShape::OneOf("`\"host\"`", &[ValueShape::Text])).default("the engine's").example(r#""host""#)
            .meaning("the user namespace"),
        Key::new("network_mode", ValueShape::Text).default("its own network").example(r#""host""#)
            .meaning("`\"host\"`: the container uses the host's network, and its program listens on `port` \
                of the host. The [`front`](#front) passes requests for its host names to that port. `\"none\"`: it \
                has no network. In both cases, it joins no Docker network, publishes nothing and has no sandbox; the \
                default of `update` is then `\"stop-first\"`"),
        Key::new("dns", ValueShape::List("addresses")).default("the engine's").example(r#"["1.1.1.1"]"#)
            .meaning("name servers for names outside the network"),
        Key::new("dns_search", ValueShape::List("texts")).default("the engine's").example(r#"["example.com"]"#)
            .meaning("domains in which short names are looked up"),
        Key::new("dns_opt", ValueShape::List("texts")).example(r#"["ndots:2"]"#)
            .meaning("options of the resolver"),
    ],
};

pub(in crate::model::manifest) static PORT: Section = Section {
    title: "environment.NAME.ports",
    keys: &[
        Key::new("target", ValueShape::OneOf("port or range", &[ValueShape::Port, ValueShape::Text]))
            .required()
            .example("53")
            .meaning("the port of the program in the container"),
        Key::new("published", ValueShape::OneOf("port or range", &[ValueShape::Port, ValueShape::Text]))
            .default("any free port")
            .example(r#""5300-5309""#)
            .meaning("the host port"),
        Key::new("host_ip", ValueShape::Text)
            .default("all addresses")
            .example(r#""127.0.0.1""#)
            .meaning("the host address"),
        Key::new("protocol", ValueShape::Text)
            .default(r#"`"tcp"`"#)
            .example(r#""udp""#)
            .meaning("`\"tcp\"` or `\"udp\"`"),
    ],
};

pub(in crate::model::manifest) static ENV_FILE: Section = Section {
    title: "environment.NAME.env_file",
    keys: &[
        Key::new("path", ValueShape::Path("of this host"))
            .required()
            .example(r#""./shop.env""#)
            .meaning("the file, of at most 64 KiB; absolute, or relative to this folder with `./`"),
        Key::new("required", ValueShape::Flag)
            .default("`true`")
            .example("false")
            .meaning("whether the file has to exist"),
    ],
};

pub(in crate::model::manifest) static SECRET_FILE: Section = Section {
    title: "environment.NAME.secrets.SECRET",
    keys: &[
        Key::new("secret_env", ValueShape::Text)
            .default("one of the two is *required*")
            .example(r#""DB_PASSWORD""#)
            .meaning("the daemon's environment variable with the secret"),
        Key::new("secret_file", ValueShape::Path("of this host"))
            .default("one of the two is *required*")
            .example(r#""/etc/abide/db-password""#)
            .meaning("the file with the secret"),
        Key::new("target", ValueShape::Path("in the container"))
            .default("`/run/secrets/SECRET`")
            .example(r#""/app/key.pem""#)
            .meaning("the file in the container; a relative path begins at `/run/secrets`"),
        Key::new("mode", ValueShape::OneOf("octal text", &[ValueShape::Text, ValueShape::Integer(0, 0o777)]))
            .default(r#"`"0444"`"#)
            .example(r#""0400""#)
            .meaning("the mode of the file"),
        Key::new("uid", ValueShape::Integer(0, u32::MAX as u64))
            .default("0")
            .example("1000")
            .meaning("the owner of the file"),
        Key::new("gid", ValueShape::Integer(0, u32::MAX as u64))
            .default("0")
            .example("1000")
            .meaning("the group of the file"),
    ],
};

pub(in crate::model::manifest) static NETWORK: Section = Section {
    title: "environment.NAME.networks.NETWORK",
    keys: &[
        Key::new("aliases", ValueShape::List("texts"))
            .example(r#"["db"]"#)
            .meaning("further names of the container on this network"),
        Key::new("ipv4_address", ValueShape::Text).default("any").example(r#""172.28.0.10""#).meaning(
            "a fixed address; the network needs a subnet that was declared when it was created. The default of \
                `update` is then `\"stop-first\"`",
        ),
        Key::new("ipv6_address", ValueShape::Text)
            .default("any")
            .example(r#""fd00::10""#)
            .meaning("the same for IPv6"),
    ],
};

pub(in crate::model::manifest) static MOUNT: Section = Section {
    title: "environment.NAME.volumes",
    keys: &[
        Key::new("source", ValueShape::Text)
            .required()
            .example(r#""/srv/app/data""#)
            .meaning("a volume's name or an absolute path of the host"),
        Key::new("target", ValueShape::Text)
            .required()
            .example(r#""/data""#)
            .meaning("an absolute path in the container"),
        Key::new("read_only", ValueShape::Flag)
            .default("`false`")
            .example("true")
            .meaning("whether the container only reads"),
        Key::new("shared", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether other environments may write to the source too; each of them has to declare it",
        ),
        Key::new("external", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether the volume is created outside abide. abide never creates it; while it is missing, the \
                status is `Blocked` (`VolumeMissing`)",
        ),
        Key::new("nocopy", ValueShape::Flag)
            .default("`false`")
            .example("true")
            .meaning("whether a new volume stays empty, instead of getting the image's files"),
        Key::new("selinux", ValueShape::Text).example(r#""z""#).meaning(
            "the SELinux label that the engine gives to a path of the host: `\"z\"` for all containers, \
                `\"Z\"` for this one",
        ),
        Key::new("propagation", ValueShape::Text).default(r#"`"rprivate"`"#).example(r#""rslave""#).meaning(
            "whether mounts below a path of the host reach the container and back: `\"private\"`, \
                `\"rprivate\"`, `\"shared\"`, `\"rshared\"`, `\"slave\"` or `\"rslave\"`",
        ),
        Key::new("create", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether abide creates a missing host folder, owned by root. Otherwise abide starts \
                nothing without it: the status is `Blocked` (`BindSourceMissing`). Not for a volume, \
                which abide always creates",
        ),
    ],
};

pub(in crate::model::manifest) static SOURCE: Section = Section {
    title: "environment.NAME.source",
    keys: &[
        Key::new("repository", ValueShape::Text)
            .required()
            .example(r#""keepwork""#)
            .meaning("the repository's name in this manifest"),
        Key::new("branch", ValueShape::Text)
            .required()
            .example(r#""dev""#)
            .meaning("the branch, without `refs/heads/`. Two environments may follow the same branch"),
        Key::new("checks", ValueShape::OneOf("text, list of texts or `false`", &[
            ValueShape::Text, ValueShape::List("texts"), ValueShape::False,
        ]))
            .default("`false`")
            .example(r#"["ci/build"]"#)
            .meaning(
                "the checks in the forge that a commit needs before it is deployed: names, or `\"required\"` for \
                 what the forge requires for the branch. abide deploys the newest commit that has them. Needs the \
                 `forge` of the repository: [green commits only](../docs/feedback.md#green-commits-only)",
            ),
    ],
};

pub(in crate::model::manifest) static SECRET: Section = Section {
    title: "environment.NAME.env.VARIABLE",
    keys: &[
        Key::new("secret_env", ValueShape::Text)
            .default("one of the two is *required*")
            .example(r#""DEV_TOKEN""#)
            .meaning("the daemon's environment variable with the value"),
        Key::new("secret_file", ValueShape::Path("of this host"))
            .default("one of the two is *required*")
            .example(r#""/etc/abide/dev-token""#)
            .meaning("the file with the value"),
    ],
};

pub(in crate::model::manifest) static HEALTH: Section = Section {
    title: "environment.NAME.health",
    keys: &[
        Key::new("http", ValueShape::Text)
            .without_default()
            .example(r#""/""#)
            .meaning("a `GET` of this path answers with a status from 200 to 399"),
        Key::new("tcp", ValueShape::True)
            .default("`true` if none of the five is set")
            .example("true")
            .meaning("the port accepts a connection"),
        Key::new("command", ValueShape::List("texts"))
            .without_default()
            .example(r#"["pg_isready", "-q"]"#)
            .meaning(
                "this command, run in the container without a shell and as the image's user, exits with 0 \
                within `timeout`. If it hangs, abide does not start a second one beside it",
            ),
        Key::new("docker", ValueShape::True).without_default().example("true").meaning(
            "the image's own `HEALTHCHECK` reports healthy. The deadline is then at least the time \
                that the `HEALTHCHECK` needs to decide: its start period, plus its interval and timeout \
                for each of its retries (180 s with Docker's defaults)",
        ),
        Key::new("none", ValueShape::True)
            .without_default()
            .example("true")
            .meaning("a running container is ready"),
        Key::new("port", ValueShape::Port)
            .default("the environment's `port`")
            .example("9000")
            .meaning("the port for `http` and `tcp`"),
        Key::new("host", ValueShape::Text)
            .default("the environment's `hostname`, else `localhost`")
            .example(r#""example.com""#)
            .meaning(
                "the `Host` header of `http`: frameworks with a list of allowed hosts answer 400 to any \
                other",
            ),
        Key::new("headers", ValueShape::Values)
            .example(r#"{ X-Probe = "1" }"#)
            .meaning("additional headers of `http`: texts, or secrets as in `env`"),
        Key::new("interval", ValueShape::Duration).default(r#"`"1s"`"#).example(r#""5s""#).meaning(
            "time between two probes; abide probes a newly started container more often until it \
                answers",
        ),
        Key::new("timeout", ValueShape::Duration)
            .default(r#"`"2s"`"#)
            .example(r#""10s""#)
            .meaning("how long one probe may take"),
        Key::new("start_deadline", ValueShape::Duration).default(r#"`"30s"`"#).example(r#""2m""#).meaning(
            "how long the container may take from its start until it is ready; after that abide \
                returns to the last good image",
        ),
        Key::new("healthy_for", ValueShape::Duration).default(r#"`"10s"`"#).example(r#""0s""#).meaning(
            "how long probes must succeed in a row before the container is ready; must be shorter \
                than `start_deadline`",
        ),
    ],
};
