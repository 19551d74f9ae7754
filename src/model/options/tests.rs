//! The table of settings: every form, right and wrong, there and back.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

fn read(key: &str, raw: &Value) -> Result<Value, String> {
    let mut settings = Settings::default();
    settings.declare(find(key).unwrap(), raw)?;
    Ok(settings.0[key].clone())
}

fn declared(raw: &Value) -> Settings {
    serde_json::from_value(raw.clone()).unwrap()
}

/// Each key, what a user writes, and its canonical form.
fn good() -> Vec<(&'static str, Value, Value)> {
    vec![
        ("entrypoint", json!(["/app", "run"]), json!(["/app", "run"])),
        ("entrypoint", json!([]), json!([])),
        ("user", json!(1000), json!("1000")),
        ("user", json!("node:video"), json!("node:video")),
        ("working_dir", json!("/a/../b//c/"), json!("/b/c")),
        ("container_hostname", json!("db-1"), json!("db-1")),
        ("domainname", json!("example.com"), json!("example.com")),
        ("labels", json!({ "a": 1, "b": true }), json!({ "a": "1", "b": "true" })),
        ("labels", json!(["a=1=2", "b"]), json!({ "a": "1=2", "b": "" })),
        ("stop_signal", json!("quit"), json!("SIGQUIT")),
        ("stop_signal", json!(3), json!("SIGQUIT")),
        ("stop_signal", json!("SIGRTMIN+3"), json!("SIGRTMIN+3")),
        ("tty", json!(true), json!(true)),
        ("stdin_open", json!(true), json!(true)),
        ("read_only", json!(true), json!(true)),
        ("tmpfs", json!("/run"), json!({ "/run": "" })),
        (
            "tmpfs",
            json!(["/tmp/", "/run:size=64m,mode=1777"]),
            json!({ "/tmp": "", "/run": "size=64m,mode=1777" }),
        ),
        ("shm_size", json!("64MiB"), json!(67_108_864)),
        (
            "logging",
            json!({ "options": { "max-size": "10m", "max-file": 3 } }),
            json!({ "options": { "max-size": "10m", "max-file": "3" } }),
        ),
        ("logging", json!({ "driver": "local" }), json!({ "driver": "local" })),
        (
            "ulimits",
            json!({ "nofile": 1024, "memlock": -1 }),
            json!({ "nofile": { "soft": 1024, "hard": 1024 }, "memlock": { "soft": -1, "hard": -1 } }),
        ),
        (
            "ulimits",
            json!({ "nproc": { "soft": 1, "hard": -1 } }),
            json!({ "nproc": { "soft": 1, "hard": -1 } }),
        ),
        ("sysctls", json!(["net.core.somaxconn=1024"]), json!({ "net.core.somaxconn": "1024" })),
        ("oom_score_adj", json!(-500), json!(-500)),
        ("cpu_shares", json!(512), json!(512)),
        ("cpuset", json!("0-1,3"), json!("0-1,3")),
        ("mem_reservation", json!("32m"), json!(33_554_432)),
        ("cap_add", json!(["cap_net_admin", "SYS_TIME", "SYS_TIME"]), json!(["NET_ADMIN", "SYS_TIME"])),
        ("cap_drop", json!(["all"]), json!(["ALL"])),
        ("security_opt", json!(["no-new-privileges:true"]), json!(["no-new-privileges"])),
        (
            "security_opt",
            json!(["seccomp:unconfined", "apparmor=x"]),
            json!(["apparmor=x", "seccomp=unconfined"]),
        ),
        ("privileged", json!(true), json!(true)),
        ("group_add", json!(["video", 44]), json!(["44", "video"])),
        ("devices", json!(["/dev/fuse"]), json!(["/dev/fuse:/dev/fuse:rwm"])),
        ("devices", json!(["/dev/a:/dev/b:wr", "/dev/c:r"]), json!(["/dev/a:/dev/b:rw", "/dev/c:/dev/c:r"])),
        ("device_cgroup_rules", json!(["c  188:* rwm"]), json!(["c 188:* rwm"])),
        ("gpus", json!("all"), json!("all")),
        ("gpus", json!("2"), json!(2)),
        ("gpus", json!(["GPU-b", "GPU-a"]), json!(["GPU-a", "GPU-b"])),
        ("runtime", json!("runc"), json!("runc")),
        ("pid", json!("host"), json!("host")),
        ("ipc", json!("shareable"), json!("shareable")),
        ("cgroup", json!("private"), json!("private")),
        ("userns_mode", json!("host"), json!("host")),
        ("memswap_limit", json!("64m"), json!(67_108_864)),
        ("memswap_limit", json!(-1), json!(-1)),
        ("cpu_quota", json!(50_000), json!(50_000)),
        ("cpu_period", json!(100_000), json!(100_000)),
        ("network_mode", json!("host"), json!("host")),
        ("network_mode", json!("none"), json!("none")),
        ("dns", json!(["1.1.1.1", "::1"]), json!(["1.1.1.1", "::1"])),
        ("dns_search", json!(["example.com", "."]), json!(["example.com", "."])),
        ("dns_opt", json!(["ndots:2"]), json!(["ndots:2"])),
    ]
}

#[test]
fn every_setting_has_a_canonical_form_that_the_engine_returns() {
    let mut tried = BTreeSet::new();
    for (key, raw, canonical) in good() {
        let setting = find(key).unwrap();
        let found = read(key, &raw).unwrap_or_else(|error| panic!("{key} = {raw}: {error}"));
        assert_eq!(found, canonical, "{key} = {raw}");
        assert_eq!(read(key, &canonical).as_ref(), Ok(&canonical), "{key} is read as it is written");
        let engine = setting.form.to_engine(&canonical);
        let seen = setting.form.read_engine(&engine);
        assert!(setting.form.is_met(seen.as_ref(), &canonical), "{key}: {engine} is read as {seen:?}");
        tried.insert(key);
    }
    let all: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.key).collect();
    assert_eq!(tried, all);
}

#[test]
fn wrong_values_are_refused_with_the_rule() {
    for (key, raw, rule) in [
        ("entrypoint", json!("/app run"), "must be a list of texts in quotes"),
        ("user", json!("a b"), "must be a user such as"),
        ("user", json!("1:2:3"), "must be a user such as"),
        ("working_dir", json!("app"), "must be an absolute path"),
        ("container_hostname", json!("-x"), "must be a host name"),
        ("container_hostname", json!("a".repeat(64)), "must be a host name"),
        ("labels", json!({ "abide.record": "x" }), "labels that begin with `abide.` are abide's own"),
        ("labels", json!({ "": "x" }), "must name every label"),
        ("labels", json!("a=b"), "must be a table such as"),
        ("stop_signal", json!("SIGNOPE"), "must be a signal"),
        ("stop_signal", json!(0), "must be a signal"),
        ("tty", json!("yes"), "must be true or false"),
        ("tmpfs", json!(["tmp"]), "must be absolute"),
        ("tmpfs", json!("/"), "must not mount over the container's root"),
        ("shm_size", json!("much"), "must be a size"),
        ("shm_size", json!(0), "must be a size"),
        ("logging", json!({ "type": "x" }), "must not hold `type`"),
        ("logging", json!({}), "must be a table such as"),
        ("ulimits", json!({ "nofiles": 1 }), "must not hold `nofiles`"),
        ("ulimits", json!({ "nofile": { "soft": 2, "hard": 1 } }), "must not hold a `soft` above the `hard`"),
        ("ulimits", json!({ "nofile": { "soft": 2 } }), "must be a table such as"),
        ("sysctls", json!({ "vm.max_map_count": "1" }), "that a container has for itself"),
        ("oom_score_adj", json!(1001), "must be a whole number from -1000 to 1000"),
        ("cpuset", json!("a"), "must be processors"),
        ("cap_add", json!(["net admin"]), "must hold capabilities"),
        ("security_opt", json!(["seccomp=/a.json"]), "not a path"),
        ("security_opt", json!(["systempaths=unconfined"]), "must not hold `systempaths`"),
        ("devices", json!(["fuse"]), "must hold devices"),
        ("devices", json!(["/dev/a:/dev/b:x"]), "must hold devices"),
        ("device_cgroup_rules", json!(["c 188 rwm"]), "must hold rules"),
        ("gpus", json!(0), "must be \"all\""),
        ("pid", json!("container:x"), "must be \"host\""),
        ("ipc", json!("x"), "must be one of"),
        ("dns", json!(["dns.example"]), "must hold addresses"),
    ] {
        let error = read(key, &raw).expect_err(key);
        assert!(error.contains(rule), "{key} = {raw}: {error}");
    }
}

#[test]
fn a_label_option_added_by_the_engine_is_not_a_difference() {
    let spec = declared(&json!({ "pid": "host" }));
    let differences = |options: Value| {
        let seen = Settings::of_engine(|field| match field {
            EngineField::Host("PidMode") => Some(json!("host")),
            EngineField::Host("SecurityOpt") => Some(options.clone()),
            _ => None,
        });
        spec.differences(&seen)
    };
    assert_eq!(differences(json!(["label=disable"])), [""; 0]);
    assert_eq!(
        differences(json!(["label=disable", "seccomp=unconfined"])),
        ["`security_opt` is [\"label=disable\",\"seccomp=unconfined\"], should be unset"]
    );
}

#[test]
fn manual_changes_are_differences_and_engine_defaults_are_not() {
    let spec = declared(&json!({
        "labels": { "a": "1" }, "logging": { "driver": "json-file" }, "ulimits": { "nofile": 10 },
        "security_opt": ["no-new-privileges"], "cap_add": ["NET_ADMIN"], "entrypoint": [],
    }));
    let seen = |host: Value, labels: Value| {
        Settings::of_engine(|field| match field {
            EngineField::Config("Labels") => Some(labels.clone()),
            EngineField::Config(_) => None,
            EngineField::Host(name) => host.get(name).cloned(),
        })
    };
    let host = |change: &dyn Fn(&mut Value)| {
        let mut host = json!({
            "CapAdd": ["CAP_NET_ADMIN"], "SecurityOpt": ["no-new-privileges", "label=disable"], "ShmSize": 67_108_864,
            "LogConfig": { "Type": "json-file", "Config": { "max-size": "10m" } }, "IpcMode": "private",
            "Ulimits": [{ "Name": "nproc", "Soft": 1, "Hard": 1 }, { "Name": "nofile", "Hard": 10, "Soft": 10 }],
        });
        change(&mut host);
        host
    };
    let labels = json!({ "a": "1", "of.image": "x" });
    assert_eq!(spec.differences(&seen(host(&|_| {}), labels.clone())), [""; 0]);
    for (name, value, difference) in [
        ("CapAdd", Value::Null, "`cap_add` is unset, should be [\"NET_ADMIN\"]"),
        ("CapAdd", json!(["ALL"]), "`cap_add` is [\"ALL\"], should be [\"NET_ADMIN\"]"),
        ("Privileged", json!(true), "`privileged` is true, should be unset"),
        ("SecurityOpt", json!([]), "`security_opt` is unset, should be [\"no-new-privileges\"]"),
        (
            "SecurityOpt",
            json!(["no-new-privileges", "seccomp=unconfined"]),
            "`security_opt` is [\"no-new-privileges\",\"seccomp=unconfined\"], should be [\"no-new-privileges\"]",
        ),
        ("LogConfig", json!({ "Type": "local", "Config": {} }), "`logging` differs in driver"),
        ("Ulimits", json!([{ "Name": "nofile", "Hard": 11, "Soft": 10 }]), "`ulimits` differs in nofile"),
        ("PidMode", json!("container:x"), "`pid` is \"container:x\", should be unset"),
        (
            "Devices",
            json!([{ "PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "r" }]),
            "`devices` is [\"/dev/a:/dev/a:r\"], should be unset",
        ),
    ] {
        let drifted = seen(host(&|host| host[name] = value.clone()), labels.clone());
        assert_eq!(spec.differences(&drifted), [difference], "{name}");
    }
    assert_eq!(
        spec.differences(&seen(host(&|_| {}), json!({}))),
        ["`labels` is unset, should be a table of a"]
    );
}

#[test]
fn settings_are_split_between_sandbox_and_container_and_rejoined() {
    let spec = declared(&json!({
        "sysctls": { "net.core.somaxconn": "1", "kernel.msgmax": "2" }, "dns": ["1.1.1.1"],
        "container_hostname": "web", "user": "1",
    }));
    let (sandbox, container) = (spec.of_sandbox(), spec.of_container());
    assert_eq!(
        sandbox,
        declared(&json!({
            "sysctls": { "net.core.somaxconn": "1" }, "dns": ["1.1.1.1"], "container_hostname": "web",
        }))
    );
    assert_eq!(container, declared(&json!({ "sysctls": { "kernel.msgmax": "2" }, "user": "1" })));
    assert_eq!(container.beside(&sandbox), spec);
    let echoes = declared(&json!({ "container_hostname": "other", "user": "1" }));
    let rejoined = json!({
        "sysctls": { "net.core.somaxconn": "1" }, "dns": ["1.1.1.1"], "container_hostname": "web", "user": "1",
    });
    assert_eq!(echoes.beside(&sandbox), declared(&rejoined), "the sandbox decides what both name");
    assert_eq!(spec.differences(&echoes.beside(&sandbox)), ["`sysctls` differs in kernel.msgmax"]);
}

#[test]
fn only_privileged_values_require_a_right() {
    let needed = |raw: Value| declared(&raw).rights();
    let one = |right, name: &str| vec![(right, name.to_owned())];
    assert_eq!(needed(json!({ "privileged": true })), one(Right::Privileged, "true"));
    assert_eq!(needed(json!({ "cap_add": ["CHOWN", "sys_admin"] })), one(Right::Capability, "SYS_ADMIN"));
    assert_eq!(needed(json!({ "devices": ["/dev/sda:/dev/x"] })), one(Right::Device, "/dev/sda"));
    assert_eq!(needed(json!({ "pid": "host" })), one(Right::HostNamespace, "pid"));
    assert_eq!(
        needed(json!({ "security_opt": ["apparmor=unconfined"] })),
        one(Right::SecurityOption, "apparmor=unconfined")
    );
    assert_eq!(needed(json!({ "logging": { "driver": "syslog" } })), one(Right::Logging, "syslog"));
    assert_eq!(needed(json!({ "labels": { "traefik.enable": true } })), one(Right::Label, "traefik.enable"));
    assert_eq!(
        needed(json!({
            "privileged": false, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "ipc": "private",
            "logging": { "driver": "local" }, "user": "0", "read_only": true,
        })),
        []
    );
}

#[test]
fn settings_in_json_follow_the_manifests_grammar() {
    let read = |raw: Value| serde_json::from_value::<Settings>(raw).map_err(|error| error.to_string());
    assert!(read(json!({ "user": "a b" })).is_err());
    assert!(read(json!({ "of_a_newer_version": 1 })).unwrap_err().contains("no option `of_a_newer_version`"));
    assert!(
        read(json!({ "ipc": "host", "sysctls": { "kernel.sem": "1" } })).unwrap_err().contains("kernel.sem")
    );
    let on_host = json!({ "network_mode": "host", "sysctls": { "net.core.somaxconn": "1" } });
    assert!(read(on_host).unwrap_err().contains("net.core.somaxconn"));
    assert!(read(json!({ "network_mode": "container:abc" })).unwrap_err().contains("network_mode"));
    let all = json!({ "user": "1", "tmpfs": { "/a": "" } });
    assert_eq!(serde_json::to_value(read(all.clone()).unwrap()).unwrap(), all);
}
