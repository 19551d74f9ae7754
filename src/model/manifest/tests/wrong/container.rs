//! Options of containers: volumes, ports, networks, secrets and health checks.

use super::*;

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
