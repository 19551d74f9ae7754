//! The rights that values need: what an agent's policy must allow by name.

use serde_json::Value;

use super::form::{entries, texts};

pub(super) fn keys(value: &Value) -> Vec<String> {
    entries(value).map(|(name, _)| name.clone()).collect()
}

pub(super) fn items(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        value => texts(value).map(str::to_owned).collect(),
    }
}

pub(super) fn if_true(value: &Value) -> Vec<String> {
    if value == &Value::Bool(true) { vec!["true".to_owned()] } else { Vec::new() }
}

pub(super) fn any(_value: &Value) -> Vec<String> {
    vec!["gpus".to_owned()]
}

pub(super) fn of_host(value: &Value, namespace: &str) -> Vec<String> {
    if value == "host" { vec![namespace.to_owned()] } else { Vec::new() }
}

pub(super) fn device_paths(value: &Value) -> Vec<String> {
    texts(value).filter_map(|device| Some(device.split_once(':')?.0.to_owned())).collect()
}

/// The capabilities that every container has unless it drops them.
const GIVEN: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub(super) fn added_capabilities(value: &Value) -> Vec<String> {
    texts(value).filter(|capability| !GIVEN.contains(capability)).map(str::to_owned).collect()
}

pub(super) fn weakened(value: &Value) -> Vec<String> {
    texts(value).filter(|option| *option != "no-new-privileges").map(str::to_owned).collect()
}

/// The drivers that keep the output on the host.
const LOCAL_DRIVERS: [&str; 4] = ["json-file", "local", "journald", "none"];

pub(super) fn remote_driver(value: &Value) -> Vec<String> {
    let driver = value["driver"].as_str();
    driver.filter(|driver| !LOCAL_DRIVERS.contains(driver)).map(str::to_owned).into_iter().collect()
}
