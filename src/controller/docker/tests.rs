//! For any manifest, a reconcile after Ready plans nothing: what abide asks the engine for, and what the engine shows
//! of it, are the same.
//!
//! The engine of these tests echoes requests with the additions that a real one was seen to make.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{containers, convert, holder};
use crate::controller::environment::intent;
use crate::model::desired::{Desired, Entry, Image};
use crate::model::manifest::{SourceFile, parse};
use crate::model::memory::Memory;
use crate::model::name::{Digest, EnvironmentName, Generation};
use crate::model::network::Attachments;
use crate::model::observed::{Observed, ObservedContainer, Readiness};
use crate::model::options::SETTINGS;
use crate::model::spec::Manifest;
use crate::model::status::Condition;
use crate::model::time::Timestamp;
use crate::plan::{self, Step};

/// Lines of `[environment.dev]`: all settings, and everything else that becomes part of a container. Of one key, a
/// manifest has one line.
const LINES: &[&str] = &[
    "port = 8080",
    "port = 8080\npublish = 18080",
    "port = 8080\npublish = \"127.0.0.1:18080\"",
    "port = 8080\npublish = false",
    "ports = [\"8443:443\", \"127.0.0.1:5353:53/udp\", \"9000-9002:9000-9002\"]",
    "ports = [\"[::1]:8444:444\", \"80\", \"9100-9109:90\"]",
    "command = [\"run\", \"--now\"]",
    "command = []",
    "env = { A = \"1\", B = \"two words\", PATH = \"/own\", EMPTY = \"\" }",
    "volumes = [\"data:/data\", \"/srv/conf:/etc/conf:ro\", { source = \"up\", target = \"/up\", shared = true, nocopy = true }]",
    "volumes = [{ source = \"/srv/x\", target = \"/x\", selinux = \"z\" }, { source = \"/srv/y\", target = \"/y\", propagation = \"rslave\" }]",
    "extra_hosts = [\"a.example:10.0.0.1\", \"gate:host-gateway\", \"six:2001:db8::1\"]",
    "memory = \"64MiB\"",
    "memory = \"512m\"\nmemswap_limit = \"1g\"",
    "memory = \"512m\"\nmemswap_limit = -1",
    "cpus = 0.5",
    "pids = 100",
    "init = false",
    "stop_timeout = \"30s\"",
    "aliases = [\"db\", \"cache\"]",
    "networks = [\"backend\"]",
    "networks = { backend = { aliases = [\"x\", \"y\"], ipv4_address = \"172.28.0.10\" }, front = {} }",
    "platform = \"linux/arm64\"",
    "entrypoint = [\"/app\", \"run\"]",
    "entrypoint = []\ncommand = [\"x\"]",
    "user = \"1000:1000\"",
    "user = \"node\"",
    "working_dir = \"/a/../b//c/\"",
    "container_hostname = \"db-1\"",
    "domainname = \"example.com\"",
    "labels = { a = 1, \"com.example/b\" = true }",
    "stop_signal = \"quit\"",
    "stop_signal = 3",
    "tty = true",
    "stdin_open = true",
    "read_only = true",
    "read_only = false",
    "tmpfs = [\"/tmp/\", \"/run:size=64m,mode=1777\"]",
    "shm_size = \"128m\"",
    "logging = { driver = \"json-file\", options = { max-size = \"10m\", max-file = 3 } }",
    "logging = { driver = \"local\" }",
    "ulimits = { nofile = 1024, nproc = { soft = 1, hard = 2 } }",
    "sysctls = [\"net.core.somaxconn=1024\", \"kernel.msgmax=65536\"]",
    "oom_score_adj = -500",
    "cpu_shares = 512",
    "cpuset = \"0-1\"",
    "mem_reservation = \"32m\"",
    "cpu_quota = 50000\ncpu_period = 100000",
    "cap_add = [\"cap_net_admin\", \"SYS_TIME\", \"SYS_TIME\"]",
    "cap_add = [\"all\"]",
    "cap_drop = [\"mknod\"]",
    "security_opt = [\"no-new-privileges:true\", \"seccomp:unconfined\"]",
    "security_opt = [\"label=user:USER\"]",
    "privileged = true",
    "group_add = [\"video\", \"44\"]",
    "devices = [\"/dev/fuse\", \"/dev/a:/dev/b:wr\"]",
    "device_cgroup_rules = [\"c  188:* rwm\"]",
    "gpus = \"all\"",
    "gpus = 2",
    "gpus = [\"GPU-b\", \"GPU-a\"]",
    "runtime = \"runc\"",
    "pid = \"host\"",
    "ipc = \"shareable\"",
    "ipc = \"host\"",
    "cgroup = \"private\"",
    "userns_mode = \"host\"",
    "network_mode = \"host\"",
    "network_mode = \"none\"",
    "dns = [\"1.1.1.1\", \"::1\"]",
    "dns_search = [\"example.com\"]",
    "dns_opt = [\"ndots:2\"]",
    // What the engine shows like an option that nobody declared.
    "tty = false",
    "stdin_open = false",
    "privileged = false",
    "oom_score_adj = 0",
    "labels = {}",
    "tmpfs = []",
    "ulimits = {}",
    "sysctls = {}",
    "cap_add = []",
    "cap_drop = []",
    "security_opt = []",
    "group_add = []",
    "devices = []",
    "device_cgroup_rules = []",
    "dns = []",
    "dns_search = []",
    "env = {}",
    "volumes = []",
    "networks = []",
];

/// A manifest with these lines; `None`: they do not go together.
fn manifest(lines: &[&str], has_holder: bool) -> Option<Manifest> {
    let holder = if has_holder { "" } else { "holder = false\n" };
    let text = format!(
        "[docker]\nnetwork = \"abide\"\n{holder}[environment.dev]\ncontainer = \"dev\"\n{}\n",
        lines.join("\n")
    );
    parse(&[SourceFile { name: "m.toml".to_owned(), text }]).ok()
}

fn key(line: &str) -> &str {
    line.split(" = ").next().unwrap_or_default()
}

fn id() -> Digest {
    Digest::of_sha256(&[1; 32])
}

/// What the engine shows of a container that was created by this request, started, and connected to all its networks.
fn echoed(
    name: &str,
    body: &ContainerCreateBody,
    attachments: &Attachments,
    image: &Value,
) -> ObservedContainer {
    let mut config = serde_json::to_value(body).unwrap();
    let mut host = config["HostConfig"].take();
    for key in ["HostConfig", "NetworkingConfig"] {
        config.as_object_mut().unwrap().remove(key);
    }
    if let Some(image) = image.as_object() {
        of_image(&mut config, image);
    }
    let or = |value: &mut Value, default: Value| {
        let is_unset = value.is_null() || *value == json!(0) || *value == json!("");
        if is_unset {
            *value = default;
        }
    };
    let is_host = |value: &Value| *value == json!("host");
    let opens = host["Privileged"] == json!(true) || is_host(&host["PidMode"]) || is_host(&host["IpcMode"]);
    if opens {
        let options = host["SecurityOpt"].as_array().cloned().unwrap_or_default();
        host["SecurityOpt"] = options.into_iter().chain([json!("label=disable")]).collect();
    }
    or(&mut host["ShmSize"], json!(67_108_864));
    or(&mut host["IpcMode"], json!("private"));
    or(&mut host["Runtime"], json!("runc"));
    or(&mut host["CgroupnsMode"], json!("host"));
    or(&mut host["LogConfig"]["Type"], json!("json-file"));
    let (memory, swap) = (host["Memory"].as_i64().unwrap_or(0), host["MemorySwap"].as_i64().unwrap_or(0));
    if memory > 0 && swap == 0 {
        host["MemorySwap"] = json!(memory * 2);
    }
    // Lists that nobody set are null or empty; both were seen.
    for key in ["CapAdd", "CapDrop", "GroupAdd", "Dns", "DnsSearch", "DnsOptions", "Devices", "Ulimits"] {
        or(&mut host[key], if key.len() % 2 == 0 { json!([]) } else { Value::Null });
    }
    or(&mut config["Hostname"], json!("c0ffee123456"));
    let endpoint = |attachment: &crate::model::network::Attachment| {
        let aliases: Vec<String> =
            attachment.aliases.iter().map(ToString::to_string).chain(["c0ffee123456".to_owned()]).collect();
        json!({
            "Aliases": aliases,
            "IPAddress": "172.18.0.4",
            "IPAMConfig": { "IPv4Address": attachment.ipv4_address, "IPv6Address": attachment.ipv6_address },
        })
    };
    let networks: BTreeMap<String, Value> =
        attachments.iter().map(|(name, attachment)| (name.to_string(), endpoint(attachment))).collect();
    let inspected: ContainerInspectResponse = serde_json::from_value(json!({
        "Id": format!("id-of-{name}"),
        "Name": format!("/{name}"),
        "Image": id(),
        "Created": "2026-11-30T00:00:00Z",
        "State": { "Status": "running", "StartedAt": "2026-11-30T00:00:01Z" },
        "Config": config,
        "HostConfig": host,
        "NetworkSettings": { "Networks": networks },
        "Mounts": mounts(&host),
    }))
    .unwrap();
    convert::seen(inspected)
}

/// Adds what the image has, and the request does not set.
fn of_image(config: &mut Value, image: &serde_json::Map<String, Value>) {
    let named = |variable: &Value| {
        variable.as_str().unwrap_or_default().split('=').next().unwrap_or_default().to_owned()
    };
    let own: BTreeSet<String> = config["Env"].as_array().into_iter().flatten().map(named).collect();
    let more = image["Env"].as_array().unwrap().iter().filter(|variable| !own.contains(&named(variable)));
    let env: Vec<Value> =
        config["Env"].as_array().cloned().unwrap_or_default().into_iter().chain(more.cloned()).collect();
    config["Env"] = json!(env);
    for (name, value) in image["Labels"].as_object().unwrap() {
        if config["Labels"][name].is_null() {
            config["Labels"][name] = value.clone();
        }
    }
    let is_replaced = !config["Entrypoint"].is_null();
    if !is_replaced {
        config["Entrypoint"] = image["Entrypoint"].clone();
    }
    let has_words = config["Cmd"].as_array().is_some_and(|words| !words.is_empty());
    if !has_words && !is_replaced {
        config["Cmd"] = image["Cmd"].clone();
    }
    for key in ["User", "WorkingDir", "StopSignal"] {
        if config[key].is_null() {
            config[key] = image[key].clone();
        }
    }
}

/// The mounts of a container as the engine lists them beside the request.
fn mounts(host: &Value) -> Value {
    let asked = host["Mounts"].as_array().cloned().unwrap_or_default().into_iter().map(|mount| {
        let is_bind = mount["Type"] == json!("bind");
        let name = if is_bind { Value::Null } else { mount["Source"].clone() };
        json!({
            "Type": mount["Type"],
            "Name": name,
            "Source": if is_bind { mount["Source"].clone() } else { json!("/var/lib/docker/volumes/x/_data") },
            "Destination": mount["Target"],
            "RW": mount["ReadOnly"] != json!(true),
            "Propagation": if is_bind { "rprivate" } else { "" },
        })
    });
    asked.collect()
}

/// Reconciles on the echoing engine until nothing is left to do, and returns the last plan.
fn at_rest(manifest: &Manifest, image: &Value) -> Result<plan::Plan, String> {
    let dev = EnvironmentName::new("dev").unwrap();
    let mut desired = Desired::empty(dev.clone());
    let named = Image { reference: None, digest: None, id: Some(id()) };
    desired.entry = Entry { generation: Generation(1), image: Some(named), ..Entry::default() };
    let mut memory = Memory::default();
    let declared = intent::declared(manifest, &desired, &desired.entry, &memory).unwrap();
    let intent = intent::of(&declared, &desired, desired.entry.clone(), "record", manifest, None);
    let mut observed = Observed { images: [id()].into(), holder_image: true, ..Observed::default() };
    let volumes = declared.spec.volumes.iter().filter(|mount| mount.host_path().is_none());
    observed.volumes = volumes.map(|mount| mount.source().as_str().to_owned()).collect();
    let mut now = Timestamp::parse("2026-11-30T00:10:00Z").unwrap();
    for _ in 0..8 {
        let plan = plan::plan(&intent, &observed, &memory, now);
        memory.clone_from(&plan.memory);
        now = now.after(Duration::from_secs(60));
        if plan.steps.is_empty() && plan.verdict.condition == Condition::Ready {
            return Ok(plan);
        }
        for planned in &plan.steps {
            match &planned.step {
                Step::Create { name, spec, joins } => {
                    let joined = joins.is_some();
                    let body = containers::create_body(spec, joined.then_some("id-of-dev.net"))
                        .map_err(|error| error.to_string())?;
                    let attachments = if joined { Attachments::new() } else { spec.options.attachments() };
                    observed.containers.push(
                        echoed(name.as_str(), &body, &attachments, image).with_holder(&observed.holders),
                    );
                }
                Step::CreateHolder { name, spec, .. } => {
                    let attachments = spec.attachments();
                    let body = holder::create_body(spec, &attachments, "abide/holder")
                        .map_err(|error| error.to_string())?;
                    observed.holders.push(echoed(name.as_str(), &body, &attachments, &Value::Null));
                }
                Step::Start { .. }
                | Step::StartHolder { .. }
                | Step::Announce { .. }
                | Step::Record(_)
                | Step::CreateNetwork => {}
                other => return Err(format!("{other:?}: {}", planned.reason)),
            }
        }
        let answers = Readiness {
            answering_since: Some(Timestamp::parse("2026-11-30T00:00:02Z").unwrap()),
            answered_once: true,
            ..Readiness::default()
        };
        observed.probes = observed.containers.iter().map(|seen| (seen.id.clone(), answers.clone())).collect();
    }
    let plan = plan::plan(&intent, &observed, &memory, now);
    Err(format!("{:?}\n{:#?}\n{observed:#?}", plan.verdict, plan.steps))
}

fn images() -> [Value; 2] {
    let empty = json!({ "Env": [], "Labels": {}, "Entrypoint": null, "Cmd": null, "User": null, "WorkingDir": null, "StopSignal": null });
    let full = json!({
        "Env": ["PATH=/bin", "LANG=C", "A=of the image"],
        "Labels": { "a": "of the image", "maintainer": "x" },
        "Entrypoint": ["/entry"],
        "Cmd": ["serve"],
        "User": "app",
        "WorkingDir": "/srv",
        "StopSignal": "SIGINT",
    });
    [empty, full]
}

#[test]
fn every_option_alone_is_at_rest_after_ready() {
    let covered: BTreeSet<&str> = LINES.iter().flat_map(|lines| lines.lines()).map(key).collect();
    for setting in SETTINGS {
        assert!(covered.contains(setting.key), "{} has no line here", setting.key);
    }
    for line in LINES {
        for has_holder in [true, false] {
            // Its program has to listen somewhere, or the environment is a worker.
            let manifest =
                manifest(&[line], has_holder).unwrap_or_else(|| panic!("{line} is not valid alone"));
            for image in images() {
                let plan = at_rest(&manifest, &image).unwrap_or_else(|why| panic!("{line}: {why}"));
                assert!(plan.differences.is_empty(), "{line}: {:?}", plan.differences);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn for_any_manifest_a_reconcile_after_ready_plans_nothing(
        picked in prop::collection::btree_set(0..LINES.len(), 1..25),
        has_holder in any::<bool>(),
        image in 0..2_usize,
    ) {
        // Lines that do not go with those before them are left out.
        let mut lines: Vec<&str> = Vec::new();
        for line in picked.into_iter().map(|index| LINES[index]) {
            let keys: BTreeSet<&str> = lines.iter().flat_map(|line| line.lines()).map(key).collect();
            let more: Vec<&str> = lines.iter().copied().chain([line]).collect();
            if line.lines().all(|line| !keys.contains(key(line))) && manifest(&more, has_holder).is_some() {
                lines = more;
            }
        }
        let manifest = manifest(&lines, has_holder).unwrap();
        let plan = at_rest(&manifest, &images()[image]);
        prop_assert!(plan.as_ref().is_ok_and(|plan| plan.differences.is_empty()), "{lines:#?}: {plan:#?}");
    }
}
