//! The policy of a host, with real files and links.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::model::link::Assignment;
use crate::model::name::Digest;

/// A host with a policy in its own folder.
struct Host {
    home: TempDir,
    policy: Policy,
}

impl Host {
    /// `HOME` stands for the host's folder.
    fn new(text: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        for folder in ["data", "data/app", "elsewhere", "agent"] {
            std::fs::create_dir(home.path().join(folder)).unwrap();
        }
        let path = home.path().join("policy.toml");
        std::fs::write(&path, text.replace("HOME", home.path().to_str().unwrap())).unwrap();
        let policy = Policy::read(&path, vec![home.path().join("agent")]).unwrap();
        Self { home, policy }
    }

    fn path(&self, rest: &str) -> String {
        self.home.path().join(rest).to_str().unwrap().to_owned()
    }

    fn about_mount(&self, source: &str) -> Option<String> {
        let mount = match Mount::new(source, "/data") {
            Ok(mount) => mount,
            Err(error) => return Some(error.to_string()),
        };
        self.about(|spec| spec.volumes = vec![mount])
    }

    fn about_secret(&self, secret: SecretRef) -> Option<String> {
        self.about(|spec| spec.env = BTreeMap::from([("TOKEN".to_owned(), EnvValue::Secret(secret))]))
    }

    fn about(&self, edit: impl FnOnce(&mut EnvironmentSpec)) -> Option<String> {
        let mut spec = spec();
        edit(&mut spec);
        self.policy.objection(&NetworkName::default(), &spec, &[])
    }
}

fn of_repository(repository: &str) -> Image {
    Image { reference: Some(repository.to_owned()), digest: Some(Digest::of_sha256(&[1; 32])), id: None }
}

fn spec() -> EnvironmentSpec {
    let text = r#"{"network": "abide", "environments": [{"spec": {"container": "prod-server", "port": 8088,
        "publish": {"port": 8088}, "supply": "manual", "init": true, "stop_timeout": {"secs": 10, "nanos": 0},
        "health": {"probe": "tcp", "interval": {"secs": 1, "nanos": 0}, "timeout": {"secs": 1, "nanos": 0},
        "start_deadline": {"secs": 30, "nanos": 0}, "healthy_for": {"secs": 1, "nanos": 0}},
        "of_a_newer_controller": true},
        "desired": {"environment": "prod", "generation": 0, "revision": null, "image": null, "origin": null,
        "at": "2026-01-01T00:00:00Z"}}]}"#;
    let assignment: Assignment = serde_json::from_str(text).unwrap();
    assignment.environments.into_iter().next().unwrap().spec
}

#[test]
fn without_a_policy_host_files_are_denied_and_the_rest_is_allowed() {
    let host = Host::new("");
    assert_eq!(host.about(|_| {}), None);
    assert_eq!(host.about_mount("prod-data"), None);
    assert_eq!(host.about_secret(SecretRef::SecretEnv("PROD_TOKEN".to_owned())), None);
    for source in ["/", "/etc", "/var/run/docker.sock", "/run", &host.path("data")] {
        assert!(host.about_mount(source).unwrap().contains(source), "{source}");
    }
    assert!(host.about_secret(SecretRef::SecretFile("/etc/shadow".into())).is_some());
    assert!(host.about_secret(SecretRef::SecretEnv("ABIDE_TOKEN".to_owned())).is_some());
}

#[test]
fn services_of_a_swarm_need_a_policy_that_allows_them() {
    let swarm = |ports: &str| -> SwarmSpec {
        serde_json::from_value(json!({ "replicas": 3, "parallel": 1, "ports": ports })).unwrap()
    };
    let about = |policy: &str, ports: &str| Host::new(policy).about(|spec| spec.swarm = Some(swarm(ports)));
    assert!(about("", "ingress").unwrap().contains("services of a swarm"));
    assert_eq!(about("swarm = true", "dynamic"), None);
    assert_eq!(about("swarm = true\nports = [\"8088\"]", "ingress"), None);
    assert!(about("swarm = true\nports = [\"8088\"]", "dynamic").unwrap().contains("any free host port"));
    let addresses = "swarm = true\naddresses = [\"127.0.0.1\"]";
    assert!(about(addresses, "dynamic").unwrap().contains("ports on the address 0.0.0.0"));
    let host = Host::new("swarm = true\nbinds = [\"HOME/data\"]");
    let mounted = host.path("data");
    let why = host.about(|spec| {
        spec.swarm = Some(swarm("ingress"));
        spec.volumes = vec![Mount::new(&mounted, "/data").unwrap()];
    });
    assert!(why.unwrap().contains(&format!("mounting {mounted} in a service")));
}

#[test]
fn dots_and_links_cannot_escape_an_allowed_folder() {
    let host = Host::new("binds = [\"HOME/data\"]");
    symlink(host.path("elsewhere"), host.path("data/link")).unwrap();
    symlink(host.path("not-there"), host.path("data/dangling")).unwrap();
    for good in ["data", "data/app", "data/app/new/deep"] {
        assert_eq!(host.about_mount(&host.path(good)), None, "{good}");
    }
    for bad in [
        "data/../elsewhere",
        "data/link",
        "data/link/x",
        "data/dangling",
        "data/new/../../elsewhere",
        "data2",
        "elsewhere",
    ] {
        assert!(host.about_mount(&host.path(bad)).is_some(), "{bad} was allowed");
    }
}

#[test]
fn even_a_permissive_policy_protects_engine_agent_and_kernel() {
    let host = Host::new("binds = [\"/\"]\nsecret_files = [\"/\"]");
    assert_eq!(host.about_mount(&host.path("elsewhere")), None);
    let bad = ["/", "/var/run", "/run", "/var", "/run/docker.sock", "/proc", "/sys/fs", "/dev/sda"];
    for bad in bad.map(str::to_owned).into_iter().chain([
        host.path("agent"),
        host.path("agent/record"),
        host.path(""),
    ]) {
        assert!(host.about_mount(&bad).is_some(), "{bad} was allowed");
    }
    assert!(host.about_secret(SecretRef::SecretFile(host.path("agent/token").into())).is_some());
    assert_eq!(host.about_secret(SecretRef::SecretFile("/etc/hostname".into())), None);
}

#[test]
fn images_volumes_ports_and_variables_are_checked_against_their_lists() {
    let host = Host::new(
        "images = [\"registry.example.com/keepwork/*\", \"localhost:5000/prod\"]\nvolumes = [\"prod-*\"]\n\
         ports = [\"8088\", \"9000-9010\"]\nsecret_env = [\"PROD_*\"]",
    );
    let about_image =
        |image: &str| host.policy.objection(&NetworkName::default(), &spec(), &[of_repository(image)]);
    assert_eq!(about_image("registry.example.com/keepwork/prod"), None);
    assert_eq!(about_image("localhost:5000/prod"), None);
    for other in ["registry.example.com/keepwork", "evil.example.com/keepwork/prod", "localhost:5000/prod2"] {
        assert!(about_image(other).unwrap().contains(other));
    }
    assert_eq!(host.about_mount("prod-data"), None);
    assert!(host.about_mount("test-data").is_some());
    assert_eq!(host.about(|spec| spec.publish.as_mut().unwrap().port = 9010), None);
    assert!(host.about(|spec| spec.publish.as_mut().unwrap().port = 9011).is_some());
    assert_eq!(host.about(|spec| spec.publish = None), None);
    assert_eq!(host.about_secret(SecretRef::SecretEnv("PROD_KEY".to_owned())), None);
    assert!(host.about_secret(SecretRef::SecretEnv("HOME".to_owned())).is_some());
}

#[test]
fn networks_and_addresses_are_checked_against_their_lists() {
    let host = Host::new("networks = [\"abide\", \"shop-*\"]\naddresses = [\"127.0.0.1\"]");
    let on = |network: &str| {
        let mut spec = spec();
        spec.publish = None;
        host.policy.objection(&NetworkName::new(network).unwrap(), &spec, &[])
    };
    assert_eq!((on("abide"), on("shop-1")), (None, None));
    assert!(on("other").unwrap().contains("`other`"));
    let at = |address: Option<&str>| {
        let address = address.map(|address| address.parse().unwrap());
        host.about(|spec| spec.publish.as_mut().unwrap().address = address)
    };
    assert_eq!(at(Some("127.0.0.1")), None);
    for other in [None, Some("0.0.0.0"), Some("10.0.0.1"), Some("::")] {
        assert!(at(other).unwrap().contains("on the address"), "{other:?}");
    }
}

#[test]
fn an_id_is_not_accepted_as_a_network_name() {
    let host = Host::new("");
    for id in ["0123456789ab", &"f".repeat(64)] {
        let network = NetworkName::new(id).unwrap();
        assert!(host.policy.objection(&network, &spec(), &[]).is_some(), "{id}");
    }
    assert_eq!(host.policy.objection(&NetworkName::new("decade").unwrap(), &spec(), &[]), None);
}

#[test]
fn a_path_the_agent_cannot_resolve_is_not_mounted() {
    // A part of a path that exceeds the maximum length neither exists nor is missing.
    let host = Host::new("binds = [\"HOME/data\"]");
    assert!(host.about_mount(&host.path(&format!("data/{}", "x".repeat(300)))).is_some());
}

#[test]
fn a_link_replacing_an_allowed_folder_is_rejected_at_mount_time() {
    let host = Host::new("binds = [\"HOME/data\"]");
    let path = AbsolutePath::parse("it", &host.path("data/app")).unwrap();
    assert_eq!(host.policy.bind(&path), None);
    std::fs::remove_dir(host.path("data/app")).unwrap();
    symlink("/etc", host.path("data/app")).unwrap();
    assert!(host.policy.bind(&path).unwrap().contains("not allow mounting"));
}

#[test]
fn with_an_image_list_an_image_needs_a_repository_and_a_digest() {
    let (listed, free) = (Host::new("images = [\"localhost:5000/*\"]"), Host::new(""));
    let id = Some(Digest::of_sha256(&[2; 32]));
    let complete = Image { id: id.clone(), ..of_repository("localhost:5000/prod") };
    for image in [
        Image { reference: None, digest: None, id: id.clone() },
        Image { digest: None, ..complete.clone() },
        Image { reference: None, ..complete.clone() },
    ] {
        let images = [image];
        let about = |host: &Host| host.policy.objection(&NetworkName::default(), &spec(), &images);
        assert!(about(&listed).unwrap().contains("without a repository and a digest"), "{images:?}");
        assert_eq!(about(&free), None);
    }
    assert_eq!(listed.policy.objection(&NetworkName::default(), &spec(), &[complete]), None);
}

#[test]
fn the_guides_policy_allows_only_the_guides_prod() {
    let guide = include_str!("../../../docs/install.md");
    let (_, rest) = guide.split_once("/etc/abide-agent/policy.toml <<'END'\n").unwrap();
    let host = Host::new(rest.split_once("\nEND\n").unwrap().0);
    let about = |image: &str, volume: &str| {
        let mut spec = spec();
        spec.volumes = vec![Mount::new(volume, "/data").unwrap()];
        host.policy.objection(&NetworkName::default(), &spec, &[of_repository(image)])
    };
    assert_eq!(about("localhost:5000/keepwork/prod", "prod-database"), None);
    assert!(about("localhost:5000/keepwork/other", "prod-database").is_some());
    assert!(about("localhost:5000/keepwork/prod", "test-database").is_some());
    assert!(host.about(|spec| spec.publish.as_mut().unwrap().port = 8089).is_some());
}

#[test]
fn the_engines_built_in_networks_cannot_be_managed() {
    let host = Host::new("");
    for network in NETWORKS {
        let network = NetworkName::new(network).unwrap();
        assert!(host.policy.objection(&network, &spec(), &[]).is_some(), "{network}");
    }
}

#[test]
fn an_invalid_policy_is_rejected_with_its_line() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("policy.toml");
    for (text, expected) in [
        ("binds = [\"data\"]", "not an absolute path"),
        ("\nimage = [\"x\"]", "line 2"),
        ("ports = [\"9-1\"]", "a port or a range"),
        ("ports = 8088", "line 1"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Policy::read(&path, Vec::new()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(matches!(
        Policy::read(&home.path().join("none"), Vec::new()),
        Err(PolicyError::Unreadable { .. })
    ));
}

proptest::proptest! {
    #[test]
    fn every_allowed_mount_lies_in_an_allowed_folder(
        rest in "(/(app|link|[.]{1,2}|[.]{2}:|data|x y|:)){0,4}(:/host)?",
        target in "(/[a.:]{1,2}){1,2}|rw|/",
    ) {
        let host = Host::new("binds = [\"HOME/data\"]");
        symlink(host.path("elsewhere"), host.path("data/link")).unwrap();
        let json = serde_json::json!({ "source": format!("{}{rest}", host.path("data")), "target": target });
        let Ok(mount) = serde_json::from_value::<Mount>(json) else { return Ok(()) };
        if host.about(|spec| spec.volumes = vec![mount.clone()]).is_some() {
            return Ok(());
        }
        // The engine mounts the exact path, with links followed.
        let path = mount.host_path().unwrap().as_path();
        let real = path.ancestors().find_map(|above| above.canonicalize().ok()).unwrap();
        let allowed = std::fs::canonicalize(host.path("data")).unwrap();
        proptest::prop_assert!(real.starts_with(&allowed), "{mount}");
        proptest::prop_assert!(path.starts_with(host.path("data")), "{mount}");
    }
}

#[test]
fn a_world_writable_policy_is_rejected() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("policy.toml");
    std::fs::write(&path, "").unwrap();
    for (mode, is_taken) in [(0o600, true), (0o644, true), (0o666, false), (0o602, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let read = Policy::read(&path, Vec::new());
        assert_eq!(read.is_ok(), is_taken, "{mode:o}");
        assert!(read.map_or_else(|error| error.to_string().contains("chmod o-w"), |_| true));
    }
}

#[test]
fn host_names_require_a_front_and_a_policy_entry() {
    let about =
        |host: &Host, name: &str| host.about(|spec| spec.hostnames = vec![SiteName::new(name).unwrap()]);
    let none = Host::new("");
    assert!(about(&none, "a.example").unwrap().contains("declares no `[front]`"));
    let any = Host::new("[front]\nhttp = 8080\nacme = { email = \"ops@a.example\" }");
    assert_eq!(about(&any, "a.example"), None);
    assert_eq!(any.policy.front().map(|front| front.http), Some(8080));
    let some = Host::new("hostnames = [\"a.example\", \"*.b.example\"]\n[front]");
    for (name, is_allowed) in [
        ("a.example", true),
        ("x.a.example", false),
        ("*.a.example", false),
        ("x.b.example", true),
        ("x.y.b.example", true),
        ("*.b.example", true),
        ("*.x.b.example", true),
        ("b.example", false),
        ("evilb.example", false),
    ] {
        assert_eq!(about(&some, name).is_none(), is_allowed, "{name}: {:?}", about(&some, name));
    }
}

#[test]
fn site_settings_are_limited_by_the_policy_for_what_they_reach() {
    let about = |host: &Host, json: serde_json::Value| {
        host.about(|spec| spec.site = serde_json::from_value(json).unwrap())
    };
    assert!(about(&Host::new(""), json!({"gzip": true})).unwrap().contains("declares no `[front]`"));
    let host = Host::new(
        "hostnames = [\"*.b.example\"]\nsecret_files = [\"HOME/data\"]\nsecret_env = [\"SHOP_*\"]\n[front]",
    );
    for name in ["inside", "data/inside"] {
        std::fs::write(host.path(name), "a:{SHA}x").unwrap();
    }
    let users = |users: serde_json::Value| json!({"basic_auth": {"realm": "x", "users": users}});
    for (settings, is_allowed) in [
        (json!({"gzip": true}), true),
        (json!({"redirect_from": ["www.b.example"]}), true),
        (json!({"redirect_from": ["www.a.example"]}), false),
        (json!({"error_pages": {"502": host.path("data/inside")}}), true),
        (json!({"error_pages": {"502": host.path("inside")}}), false),
        (json!({"error_pages": {"502": "/etc/shadow"}}), false),
        (users(json!({"secret_file": host.path("data/inside")})), true),
        (users(json!({"secret_file": host.path("inside")})), false),
        (users(json!({"secret_env": "SHOP_USERS"})), true),
        (users(json!({"secret_env": "HOME"})), false),
    ] {
        let objection = about(&host, settings.clone());
        assert_eq!(objection.is_none(), is_allowed, "{settings}: {objection:?}");
    }
}

#[test]
fn additional_ports_are_checked_against_the_same_lists() {
    let host = Host::new("ports = [\"8000-8099\"]\naddresses = [\"127.0.0.1\"]");
    let about = |port: &str| {
        host.about(|spec| {
            spec.publish = None;
            spec.run.ports = vec![port.parse().unwrap()];
        })
    };
    assert_eq!(about("127.0.0.1:8000:1/udp"), None);
    assert_eq!(about("127.0.0.1:8000-8099:1"), None);
    for bad in ["127.0.0.1:8090-8100:1", "127.0.0.1::1", "8000:1", "127.0.0.1:22:1"] {
        assert!(about(bad).is_some(), "{bad} was allowed");
    }
}

#[test]
fn an_invalid_front_section_prevents_the_agent_from_starting() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("policy.toml");
    std::fs::write(&path, "binds = []\n[front]\nhttps = 443").unwrap();
    let error = Policy::read(&path, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("policy.toml:2: `https` needs certificates"), "{error}");
}

#[test]
fn options_that_reach_beyond_the_container_are_allowed_by_name_alone() {
    let closed = Host::new("");
    let open = Host::new(
        "privileged = true\ncapabilities = [\"NET_*\"]\ndevices = [\"/dev/dri/*\"]\ngpus = true\n\
         host_namespaces = [\"pid\"]\nsecurity_opt = [\"seccomp=unconfined\"]\nsysctls = [\"net.*\"]\n\
         logging = [\"syslog\"]\nlabels = [\"traefik.*\"]\nruntimes = [\"nvidia\"]",
    );
    let about = |host: &Host, settings: &serde_json::Value| {
        host.about(|spec| spec.run.settings = serde_json::from_value(settings.clone()).unwrap())
    };
    for (good, bad) in [
        (json!({ "privileged": true }), json!({ "userns_mode": "host" })),
        (json!({ "cap_add": ["NET_ADMIN"] }), json!({ "cap_add": ["NET_ADMIN", "SYS_ADMIN"] })),
        (json!({ "devices": ["/dev/dri/card0"] }), json!({ "devices": ["/dev/sda"] })),
        (json!({ "gpus": "all" }), json!({ "device_cgroup_rules": ["c 1:3 rwm"] })),
        (json!({ "pid": "host" }), json!({ "ipc": "host" })),
        (json!({ "pid": "host" }), json!({ "network_mode": "host" })),
        (
            json!({ "security_opt": ["seccomp=unconfined"] }),
            json!({ "security_opt": ["apparmor=unconfined"] }),
        ),
        (json!({ "sysctls": { "net.core.somaxconn": 1 } }), json!({ "sysctls": { "kernel.sem": 1 } })),
        (json!({ "logging": { "driver": "syslog" } }), json!({ "logging": { "driver": "gelf" } })),
        (
            json!({ "labels": { "traefik.enable": "true" } }),
            json!({ "labels": { "ofelia.enabled": "true" } }),
        ),
        (json!({ "runtime": "nvidia" }), json!({ "runtime": "kata" })),
    ] {
        assert_eq!(about(&open, &good), None, "{good}");
        assert!(about(&closed, &good).unwrap().contains("does not allow"), "{good} was allowed");
        assert!(about(&open, &bad).is_some() && about(&closed, &bad).is_some(), "{bad} was allowed");
    }
    let harmless =
        json!({ "cap_drop": ["ALL"], "read_only": true, "security_opt": ["no-new-privileges"], "user": "1" });
    assert_eq!(about(&closed, &harmless), None);
}
