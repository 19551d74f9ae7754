//! Manifests as users write them, right and wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::mount::Mount;
use crate::model::name::EnvironmentName;
use crate::model::spec::*;

mod canary;
mod documented;
mod groups;
mod jobs;
mod replicas;
mod swarm;
mod wrong;

const SHIPPED: &str = include_str!("../../../desired-state/keepwork.toml");

/// The minimal test environment, on lines 1 to 3.
const DEV: &str = "[environment.dev]\ncontainer = \"dev-server\"\nport = 8900\n";

fn file(name: &str, text: impl Into<String>) -> SourceFile {
    SourceFile { name: name.to_owned(), text: text.into() }
}

fn environment(manifest: &Manifest, name: &str) -> EnvironmentSpec {
    manifest.environments[&EnvironmentName::new(name).unwrap()].clone()
}

/// `dev` with `lines` added, which begin on line 4.
fn dev(lines: &str) -> EnvironmentSpec {
    match parse(&[file("m.toml", format!("{DEV}{lines}\n"))]) {
        Ok(manifest) => environment(&manifest, "dev"),
        Err(problems) => panic!("{lines}: {problems}"),
    }
}

/// The build of `dev` with `lines` in its table.
fn build(lines: &str) -> BuildSpec {
    let text = format!(
        "{DEV}source = {{ repository = \"r\", branch = \"b\" }}\n[environment.dev.build]\n{lines}\n\
         [repository.r]\nurl = \"/srv/r.git\"\n"
    );
    match parse(&[file("m.toml", text)]) {
        Ok(manifest) => environment(&manifest, "dev").build.unwrap(),
        Err(problems) => panic!("{lines}: {problems}"),
    }
}

#[test]
fn a_worker_without_a_port_only_has_to_keep_running() {
    let health =
        dev("health = { http = \"/up\", host = \"a.example\", port = 9000, headers = { X = 1 } }").health;
    assert_eq!((health.probe, health.port), (Probe::Http("/up".into()), Some(9000)));
    assert_eq!(health.host.as_deref(), Some("a.example"));
    assert_eq!(health.headers["X"], EnvValue::Plain("1".into()));
    let command = dev("health = { command = [\"true\"] }").health;
    assert_eq!(command.probe, Probe::Command(vec!["true".into()]));
    let worker = "[environment.w]\ncontainer = \"worker\"\n";
    let worker = environment(&parse(&[file("m.toml", worker.to_owned())]).unwrap(), "w");
    assert_eq!((worker.port, worker.publish, worker.health.probe), (None, None, Probe::Running));
}

#[test]
fn additional_ports_are_published_beside_the_main_port() {
    let texts =
        |spec: &EnvironmentSpec| spec.run.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let spec =
        dev("ports = [\"8443:443\", 53, { target = 53, published = \"5300-5301\", protocol = \"udp\" }]");
    assert_eq!(
        (texts(&spec).as_str(), spec.publish.unwrap().port),
        ("8443:443/tcp 53/tcp 5300-5301:53/udp", 8900)
    );
    let spec = dev("ports = [\"127.0.0.1:80-81:8900-8901\"]");
    assert_eq!((texts(&spec).as_str(), spec.publish), ("127.0.0.1:80:8900/tcp 127.0.0.1:81:8901/tcp", None));
    let table = dev("ports = [{ target = \"1-2\", published = \"3-4\", host_ip = \"::1\" }]");
    assert_eq!(texts(&table), "[::1]:3:1/tcp [::1]:4:2/tcp");
}

#[test]
fn paths_may_be_relative_to_the_manifest_folder() {
    let text =
        format!("{DEV}volumes = [\"./a.conf:/etc/a.conf:ro\", \"../data:/data\"]\nenv_file = \"./x.env\"\n");
    let parsed = parse_with_places(&[file("m.toml", text)], Some("/srv/state")).unwrap();
    let spec = environment(&parsed.manifest, "dev");
    let mounts: Vec<String> = spec.volumes.iter().map(ToString::to_string).collect();
    assert_eq!(mounts, ["/srv/state/a.conf:/etc/a.conf:ro", "/srv/data:/data"]);
    assert_eq!(spec.run.env_files[0].path, PathBuf::from("/srv/state/x.env"));
    let elsewhere = format!("{DEV}host = \"online\"\nenv_file = \"./x.env\"\n");
    let problems = parse_with_places(&[file("m.toml", elsewhere)], Some("/srv/state")).unwrap_err();
    assert!(problems.to_string().contains("`env_file` must be an absolute path beside `host`"), "{problems}");
}

#[test]
fn two_environments_may_share_a_volume_if_both_declare_it() {
    let two = |a: &str, b: &str| {
        let text = |name: &str, port: u16, shared: &str| {
            format!(
                "[environment.{name}]\ncontainer = \"the-{name}\"\nport = {port}\n\
                 volumes = [{{ source = \"data\", target = \"/data\"{shared} }}]\n"
            )
        };
        parse(&[file("m.toml", text("a", 1, a) + &text("b", 2, b))])
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let shared = ", shared = true";
    assert_eq!(two(shared, shared), Ok(()));
    assert!(two(shared, "").unwrap_err().contains("declare `shared = true` in both"));
    assert!(two("", shared).is_err());
}

#[test]
fn an_image_may_be_pinned_by_its_digest() {
    let digest = format!("sha256:{}", "a".repeat(64));
    for (image, tag) in [(format!("nginx:1.28@{digest}"), "1.28"), (format!("localhost:5000/a@{digest}"), "")]
    {
        let Supply::Tag { image: read } = dev(&format!("image = \"{image}\"")).supply else {
            panic!("{image}")
        };
        assert_eq!((read.tag(), read.pinned().map(ToString::to_string)), (tag, Some(digest.clone())));
        assert_eq!(read.to_string().parse::<crate::model::reference::TaggedImage>().as_ref(), Ok(&read));
    }
}

#[test]
fn secrets_and_networks_follow_compose_semantics() {
    let run = dev(
        "secrets = { db = { secret_env = \"DB\" }, key = { secret_file = \"/k\", target = \"sub/key\", mode = 0o400, uid = 7 } }\n\
         aliases = [\"db\"]\nnetworks = { back = { aliases = [\"x\"], ipv4_address = \"10.0.0.9\" } }",
    ).run;
    let (db, key) = (&run.secrets["db"], &run.secrets["key"]);
    assert_eq!((db.target.as_str(), db.mode, db.uid), ("/run/secrets/db", 0o444, 0));
    assert_eq!((key.target.as_str(), key.mode, key.uid), ("/run/secrets/sub/key", 0o400, 7));
    let all = run.attachments(&"abide".parse().unwrap(), &"shop-db".parse().unwrap());
    let names = |network: &str| {
        all[&network.parse().unwrap()].aliases.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((names("abide").as_str(), names("back").as_str()), ("db shop-db", "x"));
    assert!(run.is_exclusive() && !dev("networks = [\"back\"]").run.is_exclusive());
}

#[test]
fn the_shipped_manifest_matches_keepworks_setup() {
    let manifest = parse(&[file("keepwork.toml", SHIPPED)]).unwrap();
    let facts = |name: &str| {
        let spec = environment(&manifest, name);
        (
            spec.container.to_string(),
            spec.port.unwrap(),
            spec.publish.unwrap().port,
            spec.command.unwrap().concat(),
        )
    };
    assert_eq!(facts("dev"), ("dev-server".into(), 8900, 8900, "dev".into()));
    assert_eq!(facts("test"), ("test-server".into(), 8099, 8099, "test".into()));
    assert_eq!(facts("prod"), ("prod-server".into(), 8088, 8088, "prod".into()));
    assert_eq!(
        environment(&manifest, "prod").supply,
        Supply::Promotion { from: EnvironmentName::new("test").unwrap() }
    );
    let steps = |name: &str| match environment(&manifest, name).build.unwrap().recipe {
        Recipe::Dockerfile { steps, .. } => steps,
        Recipe::Script { .. } => panic!("a script"),
    };
    assert!(matches!(&steps("dev")[..], [BuildStep::Archive { output }] if output == "build.tar.gz"));
    assert!(matches!(&steps("test")[..], [BuildStep::Dockerfile { dockerfile, output, .. }]
            if dockerfile == "Dockerfile.dist" && output == "build.tar.gz"));
}

/// The shipped manifest, with the commented-out lines that `wanted` accepts.
fn shipped_with(wanted: impl Fn(&str) -> bool) -> String {
    let uncomment = |line: &'static str| match line.strip_prefix("# ") {
        Some(bare) if (bare.starts_with('[') || bare.contains(" = ")) && wanted(bare) => bare,
        _ => line,
    };
    SHIPPED.lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_commented_overlays_of_the_shipped_manifest_are_valid() {
    let manifest = parse(&[file("k.toml", shipped_with(|line| line.starts_with("overlay")))]).unwrap();
    assert_eq!(manifest.overlays().len(), 2);
}

#[test]
fn all_commented_lines_of_the_shipped_manifest_are_valid() {
    let manifest = parse(&[file("k.toml", shipped_with(|_| true))]).unwrap();
    let on_other_hosts = manifest.environments.values().filter(|spec| spec.host.is_some());
    assert_eq!(on_other_hosts.map(|spec| spec.hostnames.len()).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_minimal_environment_has_the_documented_defaults() {
    let spec = dev("");
    assert_eq!(spec.publish, Some(Publish { address: None, port: 8900 }));
    assert_eq!(spec.supply, Supply::Manual);
    assert_eq!((spec.command, spec.memory, spec.nano_cpus, spec.pids), (None, None, None, None));
    assert!(spec.init);
    assert_eq!(spec.stop_timeout, Duration::from_secs(10));
    assert_eq!(spec.update, None);
    let seconds =
        [spec.health.interval, spec.health.timeout, spec.health.start_deadline, spec.health.healthy_for]
            .map(|duration| duration.as_secs());
    assert_eq!((spec.health.probe, seconds), (Probe::Tcp, [1, 2, 30, 10]));
    let manifest = parse(&[file("m.toml", DEV)]).unwrap();
    assert_eq!(manifest.network.as_str(), "abide");
}

#[test]
fn run_options_are_parsed_in_all_their_forms() {
    let bytes = |text: &str| dev(&format!("memory = {text}")).memory.unwrap();
    for same in
        ["\"512MiB\"", "\"512m\"", "\"512 MB\"", "\"0.5g\"", "536870912", "\"536870912b\"", "0x2000_0000"]
    {
        assert_eq!(bytes(same), 512 * 1024 * 1024, "{same}");
    }
    for (text, nano) in [("1.5", 1_500_000_000), ("2", 2_000_000_000), ("\"0.25\"", 250_000_000)] {
        assert_eq!(dev(&format!("cpus = {text}")).nano_cpus, Some(nano), "{text}");
    }
    assert_eq!(dev("publish = false").publish, None);
    assert_eq!(dev("publish = 8_901").publish.unwrap().port, 8901);
    let bound = dev("publish = \"[::1]:8901\"").publish.unwrap();
    assert_eq!((bound.address, bound.port), (Some("::1".parse().unwrap()), 8901));
    assert_eq!(dev("command = []").command, None);
    assert_eq!(dev("update = \"stop-first\"").update, Some(Update::StopFirst));
    assert_eq!(dev("stop_timeout = \"1m 5s\"").stop_timeout, Duration::from_secs(65));
    let hosts =
        dev("extra_hosts = [\"a.b:10.0.0.6\", \"c:::1\", \"d:[fe80::1]\", \"e:host-gateway\"]").extra_hosts;
    assert_eq!(hosts, ["a.b:10.0.0.6", "c:::1", "d:fe80::1", "e:host-gateway"]);
    assert_eq!(dev("health = { http = \"/up?a=1\" }").health.probe, Probe::Http("/up?a=1".into()));
    assert_eq!(dev("health = { none = true, start_deadline = \"1s\" }").health.probe, Probe::None);
}

#[test]
fn an_empty_front_section_has_defaults_for_all_keys() {
    let front = |lines: &str| {
        let text = format!("{DEV}hostname = \"dev.example\"\n[front]\n{lines}");
        parse(&[file("m.toml", text)]).unwrap().front.unwrap()
    };
    let plain = FrontSpec {
        image: "nginx".into(),
        http: 80,
        https: None,
        certificates: vec![],
        acme: None,
        drain: Duration::from_secs(30),
        trusted_proxies: vec![],
        proxy_protocol: false,
        spare: true,
    };
    assert_eq!(front(""), plain);
    let files = |name: &str| CertificateFiles {
        certificate: format!("/{name}c").into(),
        key: format!("/{name}k").into(),
    };
    let https = Some(HttpsSpec { port: 443, default: Some(files("")) });
    let names = ["a.example", "*.b.example"].map(|name| name.parse().unwrap()).into();
    let acme = AcmeSpec {
        email: Some("a@b.example".into()),
        directory: "https://acme-v02.api.letsencrypt.org/directory".into(),
        staging: Some("https://acme-staging-v02.api.letsencrypt.org/directory".into()),
        ca_file: None,
        profile: Some("shortlived".into()),
        dns: Some(DnsSpec {
            command: vec!["/bin/hook".into(), "zone".into()],
            env: BTreeMap::from([("T".into(), EnvValue::Secret(SecretRef::SecretEnv("TOKEN".into())))]),
            timeout: Duration::from_secs(120),
            propagation: Duration::from_secs(5),
        }),
        resolver: Some(([1, 1, 1, 1], 53).into()),
    };
    let trusted_proxies =
        ["10.0.0.7/32", "192.168.0.0/16", "fd00::/8"].map(|network| network.parse().unwrap()).into();
    let full = FrontSpec {
        image: "r:5000/nginx:1".into(),
        http: 81,
        https,
        certificates: vec![NamedCertificate { names, files: files("1") }],
        acme: Some(acme),
        drain: Duration::from_secs(1),
        trusted_proxies,
        proxy_protocol: true,
        spare: false,
    };
    let lines = "image = \"r:5000/nginx:1\"\nhttp = 81\nhttps = 443\ncertificate = \"/c\"\nkey = \"/k\"\ndrain = \"1s\"\n\
                 trusted_proxies = [\"10.0.0.7\", \"192.168.3.4/16\", \"fd00::/8\"]\nproxy_protocol = true\nspare = false\n\
                 certificates = [{ names = [\"a.example\", \"*.b.example\"], cert = \"/1c\", key = \"/1k\" }]\n\
                 [front.acme]\nemail = \"a@b.example\"\nprofile = \"shortlived\"\nresolver = \"1.1.1.1\"\n\
                 dns = { command = [\"/bin/hook\", \"zone\"], env = { T = { secret_env = \"TOKEN\" } }, propagation = \"5s\" }";
    assert_eq!(front(lines), full);
}

#[test]
fn only_known_authorities_have_short_names_and_a_staging_directory() {
    let acme = |lines: &str| {
        let front =
            parse(&[file("m.toml", format!("{DEV}[front]\nacme = {{ {lines} }}"))]).unwrap().front.unwrap();
        (front.https.unwrap(), front.acme.unwrap())
    };
    let (https, plain) = acme("");
    assert_eq!((https.port, https.default), (443, None));
    assert!(plain.directory.contains("acme-v02") && plain.staging.unwrap().contains("staging"));
    let (_, trial) = acme("directory = \"staging\"");
    assert!(trial.directory.contains("acme-staging") && trial.staging.is_none());
    let (_, private) = acme("directory = \"https://ca.example:9000/dir\", ca_file = \"/etc/root.pem\"");
    assert_eq!((private.directory.as_str(), private.staging), ("https://ca.example:9000/dir", None));
    assert_eq!(private.ca_file, Some("/etc/root.pem".into()));
}

#[test]
fn volumes_are_distinguished_from_host_paths() {
    let volumes = dev("volumes = [\"data:/d/\", \"/srv/x/:/x:ro\", \"logs:/var//log:rw\"]").volumes;
    let shown: Vec<_> = volumes.iter().map(|mount| (mount.volume().is_some(), mount.to_string())).collect();
    let expected = [(true, "data:/d"), (false, "/srv/x:/x:ro"), (true, "logs:/var/log")];
    assert_eq!(shown, expected.map(|(is_volume, text)| (is_volume, text.to_owned())));
}

#[test]
fn a_mount_can_be_a_table_or_a_string() {
    let volumes = dev("volumes = [{ source = \"/srv//x\", target = \"/x/\", read_only = true }, \
                       { source = \"/srv/y\", target = \"/y\", create = true }, \"data:/d\", \
                       { source = \"logs\", target = \"/l\", create = false }]")
    .volumes;
    let texts: Vec<_> = volumes.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["/srv/x:/x:ro", "/srv/y:/y", "data:/d", "logs:/l"]);
    assert_eq!(volumes.iter().map(Mount::creates).collect::<Vec<_>>(), [false, true, false, false]);
}

#[test]
fn variables_become_strings_and_secrets_stay_references() {
    let env = dev("env = { A = \"x\", B = 0x10, C = true, D = 1.50, E = { secret_env = \"TOKEN\" }, \
                   F = { secret_file = \"/etc/f\" }, http_proxy = \"\" }")
    .env;
    let plain = |text: &str| EnvValue::Plain(text.to_owned());
    let expected = BTreeMap::from([
        ("A".to_owned(), plain("x")),
        ("B".to_owned(), plain("16")),
        ("C".to_owned(), plain("true")),
        ("D".to_owned(), plain("1.50")),
        ("E".to_owned(), EnvValue::Secret(SecretRef::SecretEnv("TOKEN".into()))),
        ("F".to_owned(), EnvValue::Secret(SecretRef::SecretFile(PathBuf::from("/etc/f")))),
        ("http_proxy".to_owned(), plain("")),
    ]);
    assert_eq!(env, expected);
}

#[test]
fn an_empty_build_uses_the_dockerfile_in_the_root() {
    let spec = build("");
    assert!(matches!(spec.recipe, Recipe::Dockerfile { context, dockerfile, .. }
        if context == "." && dockerfile == "Dockerfile"));
    assert_eq!(spec.timeout, Duration::from_secs(7200));
    assert_eq!(spec.idle_timeout, Duration::from_secs(1800));
}

#[test]
fn a_source_without_a_build_uses_the_dockerfile_in_the_root() {
    let text = format!(
        "{DEV}source = {{ repository = \"r\", branch = \"b\" }}\n[repository.r]\nurl = \"/srv/r.git\"\n"
    );
    let manifest = parse(&[file("m.toml", text)]).unwrap();
    assert_eq!(environment(&manifest, "dev").build, Some(build("")));
    assert_eq!(dev("").build, None);
}

#[test]
fn target_fetch_options_and_paths_are_parsed() {
    let spec = build(
        "target = \"runtime\"\ngit = true\nsubmodules = true\nlfs = true\npaths = [\"apps/a/**\", \"!**/*.md\"]\n\
         idle_timeout = \"1m\"\nstep = [{ dockerfile = \"D\", output = \"o\", target = \"2\" }]",
    );
    assert!(spec.git && spec.submodules && spec.lfs);
    assert_eq!(spec.paths, ["apps/a/**", "!**/*.md"]);
    assert_eq!(spec.idle_timeout, Duration::from_secs(60));
    let Recipe::Dockerfile { target, steps, .. } = spec.recipe else { panic!("a script") };
    assert_eq!(target.as_deref(), Some("runtime"));
    assert!(matches!(&steps[0], BuildStep::Dockerfile { target: Some(target), .. } if target == "2"));
}

#[test]
fn build_paths_are_normalized() {
    let spec = build(
        "context = \"./ci//\"\nargs = { N = 1 }\nremove = [\"a/./b\"]\n\
         overlay = [{ from = \"/etc//x\", to = \"./y\" }]\n\
         checkout = [{ url = \"https://example.com/m\", revision = \"master\", to = \"m\" }]\n\
         secrets = { npm = { secret_env = \"NPM\" } }\nstep = [{ dockerfile = \"D\", output = \"o\" }]",
    );
    assert_eq!(spec.remove, ["a/b"]);
    assert_eq!(spec.overlay, [Overlay { from: "/etc/x".into(), to: "y".into() }]);
    assert_eq!(spec.checkout[0].revision, "master");
    let Recipe::Dockerfile { context, args, steps, secrets, .. } = spec.recipe else { panic!("a script") };
    assert_eq!((context.as_str(), args["N"].as_str(), secrets.len()), ("ci", "1", 1));
    assert!(matches!(&steps[0], BuildStep::Dockerfile { context, .. } if context == "."));
}

#[test]
fn build_limits_are_declared_or_default() {
    let default = Bounds { memory: None, pids: 4096, max_output: 8 << 30, isolation: true };
    assert_eq!(build("").bounds, default);
    let declared = Bounds { memory: Some(2 << 30), pids: 64, max_output: 1 << 30, isolation: true };
    assert_eq!(build("memory = \"2GiB\"\npids = 64\nmax_output = \"1g\"").bounds, declared);
    let script = build("script = [\"x\"]\nimage = \"x\"\nisolation = false");
    assert_eq!(script.bounds, Bounds { isolation: false, ..default });
}

#[test]
fn a_build_script_replaces_the_dockerfile() {
    let spec = build("script = [\"./b.sh\", \"dev\"]\nimage = \"k/dev:b{build_number}\"\nenv = { A = 1 }");
    let Recipe::Script { command, image, env } = spec.recipe else { panic!("no script") };
    assert_eq!((command.len(), image.as_str(), env.len()), (2, "k/dev:b{build_number}", 1));
}

#[test]
fn custom_x_keys_are_ignored_at_every_level() {
    let text = format!(
        "x-top = 1\n{DEV}x-note = {{ any = [1] }}\nhealth = {{ x-a = 1 }}\nenv = {{ x-b = [] }}\n\
         [environment.x-template]\n[x-other]\ny = 1\n"
    );
    let manifest = parse(&[file("m.toml", text)]).unwrap();
    assert_eq!(manifest.environments.len(), 1);
    assert!(environment(&manifest, "dev").env.is_empty());
}

#[test]
fn header_names_may_begin_with_x() {
    let text = format!(
        "{DEV}health = {{ http = \"/up\", headers = {{ x-api-key = \"k\" }} }}\nhostname = \"a.example\"\n\
         site = {{ headers = {{ x-frame-options = \"DENY\" }} }}\n[front]\n"
    );
    let manifest = parse(&[file("m.toml", text)]).unwrap();
    let dev = environment(&manifest, "dev");
    assert_eq!(dev.health.headers["x-api-key"], EnvValue::Plain("k".into()));
    let names: Vec<&str> = dev.site.headers.keys().map(crate::model::site::ResponseHeader::as_str).collect();
    assert_eq!(names, ["x-frame-options"]);
}

#[test]
fn secrets_and_overlays_are_listed_with_their_lines() {
    let text = format!(
        "{DEV}source = {{ repository = \"r\", branch = \"b\" }}\n\
         env = {{ A = \"1\",\n T = {{ secret_env = \"T\" }} }}\n\
         [environment.dev.build]\nsecrets = {{ npm = {{ secret_env = \"NPM\" }} }}\n\
         overlay = [\n{{ from = \"/a\", to = \"a\" }},\n{{ from = \"/b\", to = \"b\" }}]\n\
         [repository.r]\nurl = \"https://h/r.git\"\nusername = \"u\"\nsecret_env = \"G\"\nwebhook = {{ provider = \"gitea\", secret_file = \"/s\" }}\n"
    );
    let parsed = parse_with_places(&[file("m.toml", text)], None).unwrap();
    let line = |path: &str| parsed.places.find(path).map(|place| place.line);
    let secrets: Vec<_> =
        parsed.manifest.secrets().into_iter().map(|(path, _)| (line(&path), path)).collect();
    let expected = [
        (16, "repository.r.webhook"),
        (6, "environment.dev.env.T"),
        (8, "environment.dev.build.secrets.npm"),
        (12, "repository.r"),
    ];
    assert_eq!(secrets, expected.map(|(line, path)| (Some(line), path.to_owned())));
    let overlays: Vec<_> =
        parsed.manifest.overlays().into_iter().map(|(path, overlay)| (line(&path), overlay.to)).collect();
    assert_eq!(overlays, [(Some(10), "a".to_owned()), (Some(11), "b".to_owned())]);
}

#[test]
fn crlf_line_ends_and_a_byte_order_mark_are_accepted() {
    let text = format!("\u{feff}{DEV}prot = 1\n").replace('\n', "\r\n");
    let problems = parse(&[file("m.toml", text)]).unwrap_err();
    assert_eq!(problems.to_string(), "m.toml:4: unknown key `prot`; did you mean `port`?");
}

proptest! {
    #[test]
    fn no_manifest_text_causes_a_panic(text in any::<String>(), lines in "([a-z_.\\[\\]{}=\", 0-9\n]{0,200})") {
        let _ = parse(&[file("a.toml", text), file("b.toml", lines)]);
    }

    #[test]
    fn no_corruption_of_the_shipped_manifest_causes_a_panic(
        at in 0..SHIPPED.len(), length in 0..40_usize, put in "[\\PC\n]{0,12}",
    ) {
        let mut text: Vec<char> = SHIPPED.chars().collect();
        let at = at.min(text.len());
        let end = (at + length).min(text.len());
        text.splice(at..end, put.chars());
        if let Err(problems) = parse(&[file("k.toml", text.into_iter().collect::<String>())]) {
            let lines = SHIPPED.lines().count() + 13;
            prop_assert!(problems.iter().all(|problem| problem.line.is_none_or(|line| line <= lines)));
        }
    }

    #[test]
    fn arbitrary_values_are_accepted_or_reported_within_the_file(
        key in prop::sample::select(SECTIONS.iter().flat_map(|s| s.names()).collect::<Vec<_>>()),
        value in prop::sample::select(vec![
            "1", "-1", "0.5", "nan", "true", "\"\"", "\"x\"", "\"/\"", "[]", "[1]", "[\"\"]", "{}",
            "{ a = 1 }", "[[]]", "[{}]", "1979-05-27", "99999999999999999999", "\"\\u0000\"", "\"é:é\"",
        ]),
    ) {
        for head in ["", "build.", "health.", "source."] {
            let text = format!("[environment.dev]\n{head}{key} = {value}\n");
            if let Err(problems) = parse(&[file("m.toml", text)]) {
                prop_assert!(problems.iter().all(|problem| problem.line.is_none_or(|line| line <= 3)));
            }
        }
    }
}

#[test]
fn a_file_of_a_mebibyte_is_read_quickly() {
    let text =
        format!("{DEV}env = {{ {} }}\n", (0..60_000).map(|n| format!("V{n} = {n},")).collect::<String>());
    assert_eq!(parse(&[file("m.toml", text)]).map(|m| environment(&m, "dev").env.len()), Ok(60_000));
    let deep = format!("x-deep = {}", "[".repeat(100_000));
    assert!(parse(&[file("m.toml", deep)]).is_err());
}

#[test]
fn problems_of_all_files_are_reported_together() {
    let files = [
        file("a.toml", format!("{DEV}comand = [\"dev\"]\n[environment.dev\n")),
        file("b.toml", "[environment.test]\nport = \"8099\"\nsource = { repository = \"keepwork\" }\n"),
    ];
    let found: BTreeSet<_> =
        parse(&files).unwrap_err().into_iter().map(|problem| (problem.file, problem.line)).collect();
    let lines = |file: &str| found.iter().filter(|(name, _)| name == file).count();
    assert!(lines("a.toml") >= 1 && lines("b.toml") == 3, "{found:?}");
}

#[test]
fn every_gate_except_auto_changes_the_gates_mark() {
    let prod = |lines: &str| {
        let source = "verify = { command = [\"/smoke\", \"{url}\"] }\n";
        let text = format!(
            "{DEV}{source}[environment.prod]\ncontainer = \"prod\"\nport = 8088\npromote = {lines}\n"
        );
        let manifest = parse(&[file("m.toml", text)]).unwrap();
        environment(&manifest, "prod")
    };
    let plain = prod("{ from = \"dev\" }");
    assert_eq!(plain.supply, prod("{ from = \"dev\", approvals = 1 }").supply);
    assert!(!plain.gates.is_gated() && !prod("{ from = \"dev\", auto = true }").gates.is_gated());
    assert_eq!(plain.gates.mark(), prod("{ from = \"dev\", auto = true }").gates.mark());
    let window = |days: &str, hours: &str| {
        format!(
            "{{ from = \"dev\", windows = [{{ days = \"{days}\", hours = \"{hours}\", zone = \"Europe/Berlin\" }}] }}"
        )
    };
    let different = [
        "{ from = \"dev\", approvals = 1 }".to_owned(),
        "{ from = \"dev\", approvals = 2 }".to_owned(),
        "{ from = \"dev\", approvals = 1, by = [\"qa\"] }".to_owned(),
        "{ from = \"dev\", approvals = 1, others_only = true }".to_owned(),
        "{ from = \"dev\", soak = \"30m\" }".to_owned(),
        "{ from = \"dev\", verified = true }".to_owned(),
        "{ from = \"dev\", freezes = [{ from = \"2026-12-20\", to = \"2027-01-04\" }] }".to_owned(),
        window("mon-thu", "09:00-16:00"),
        window("mon-fri", "09:00-16:00"),
        window("mon-thu", "09:00-17:00"),
    ];
    let marks: BTreeSet<_> = different
        .iter()
        .map(|lines| prod(lines))
        .inspect(|spec| assert!(spec.gates.is_gated()))
        .map(|spec| spec.gates.mark())
        .collect();
    assert_eq!(marks.len(), different.len());
    let week_end = prod(&window("fri-mon", "22:00-06:00")).gates.windows;
    assert_eq!(week_end[0].days.len(), 4);
}
