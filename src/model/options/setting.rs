//! One table of the settings that abide passes to the engine: the manifest key of each, its place in the
//! engine's API, its accepted and canonical forms, how it is compared, and what it may take from the host.

use serde_json::Value;

use super::form::ValueForm;
use super::{right, rule};

/// A setting of a container.
#[derive(Debug)]
pub struct Setting {
    /// Its manifest key.
    pub key: &'static str,
    /// Its place in the engine's API.
    pub field: EngineField,
    /// Its values.
    pub(super) form: ValueForm,
    /// The container that gets it.
    pub(super) owner: SettingOwner,
    /// When it is compared.
    pub(super) compared: ComparedWhen,
    /// The right that it needs on a host of an agent.
    pub(super) needs: Option<Needs>,
}

/// A place in the engine's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineField {
    /// A field of `Config`, which the request to create a container has at its top.
    Config(&'static str),
    /// A field of `HostConfig`.
    Host(&'static str),
}

/// The container that gets a setting, if there is a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SettingOwner {
    /// The container that runs the program.
    Container,
    /// The sandbox: the engine refuses the setting for the container, or ignores it there.
    Sandbox,
    /// The sandbox for names that begin with `net.`, which belong to its namespace, and the container for all
    /// others.
    ByNamespace,
}

/// When a setting is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ComparedWhen {
    /// Always: neither an image nor the engine sets it.
    Always,
    /// If it is declared. In a table, only the declared entries are compared.
    IfDeclared,
}

/// A right that a host may deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// All rights of root on the host.
    Privileged,
    /// A capability.
    Capability,
    /// A device of the host.
    Device,
    /// GPUs.
    Gpu,
    /// A namespace of the host.
    HostNamespace,
    /// A security option that takes a protection away.
    SecurityOption,
    /// A kernel parameter.
    Sysctl,
    /// A logging driver that sends output elsewhere.
    Logging,
    /// A label, which other programs on the host may obey.
    Label,
    /// An OCI runtime.
    Runtime,
}

/// A right, and the names in a value that need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    pub(super) right: Right,
    pub(super) names: fn(&Value) -> Vec<String>,
}

use self::ComparedWhen::{Always, IfDeclared};
use self::EngineField::{Config, Host};
use self::SettingOwner::{ByNamespace, Container, Sandbox};

const fn setting(
    key: &'static str,
    field: EngineField,
    form: ValueForm,
    owner: SettingOwner,
    compared: ComparedWhen,
) -> Setting {
    Setting { key, field, form, owner, compared, needs: None }
}

impl Setting {
    const fn needs(self, right: Right, names: fn(&Value) -> Vec<String>) -> Self {
        Self { needs: Some(Needs { right, names }), ..self }
    }
}

/// All settings, in the order of the manual.
pub static SETTINGS: &[Setting] = &[
    setting("entrypoint", Config("Entrypoint"), ValueForm::Words(rule::text), Container, IfDeclared),
    setting("user", Config("User"), ValueForm::Text(rule::user), Container, IfDeclared),
    setting("working_dir", Config("WorkingDir"), ValueForm::Text(rule::folder), Container, IfDeclared),
    setting("container_hostname", Config("Hostname"), ValueForm::Text(rule::hostname), Sandbox, IfDeclared),
    setting("domainname", Config("Domainname"), ValueForm::Text(rule::hostname), Sandbox, Always),
    setting("labels", Config("Labels"), ValueForm::Map(rule::label), Container, IfDeclared)
        .needs(Right::Label, right::keys),
    setting("stop_signal", Config("StopSignal"), ValueForm::Text(rule::signal), Container, IfDeclared),
    setting("tty", Config("Tty"), ValueForm::Flag, Container, Always),
    setting("stdin_open", Config("OpenStdin"), ValueForm::Flag, Container, Always),
    setting("read_only", Host("ReadonlyRootfs"), ValueForm::Flag, Container, Always),
    setting("tmpfs", Host("Tmpfs"), ValueForm::Tmpfs, Container, Always),
    setting("shm_size", Host("ShmSize"), ValueForm::Size, Container, IfDeclared),
    setting("logging", Host("LogConfig"), ValueForm::Logging, Container, IfDeclared)
        .needs(Right::Logging, right::remote_driver),
    setting("ulimits", Host("Ulimits"), ValueForm::Ulimits, Container, IfDeclared),
    setting("sysctls", Host("Sysctls"), ValueForm::Map(rule::sysctl), ByNamespace, Always)
        .needs(Right::Sysctl, right::keys),
    setting("oom_score_adj", Host("OomScoreAdj"), ValueForm::Number(-1000, 1000), Container, IfDeclared),
    setting("cpu_shares", Host("CpuShares"), ValueForm::Number(2, 262_144), Container, IfDeclared),
    setting("cpuset", Host("CpusetCpus"), ValueForm::Text(rule::cpuset), Container, IfDeclared),
    setting("mem_reservation", Host("MemoryReservation"), ValueForm::Size, Container, IfDeclared),
    setting("memswap_limit", Host("MemorySwap"), ValueForm::Swap, Container, IfDeclared),
    setting("cpu_quota", Host("CpuQuota"), ValueForm::Number(1000, i64::MAX), Container, IfDeclared),
    setting("cpu_period", Host("CpuPeriod"), ValueForm::Number(1000, 1_000_000), Container, IfDeclared),
    setting("cap_add", Host("CapAdd"), ValueForm::Set(rule::capability), Container, Always)
        .needs(Right::Capability, right::added_capabilities),
    setting("cap_drop", Host("CapDrop"), ValueForm::Set(rule::capability), Container, Always),
    setting("security_opt", Host("SecurityOpt"), ValueForm::Security, Container, Always)
        .needs(Right::SecurityOption, right::weakened),
    setting("privileged", Host("Privileged"), ValueForm::Flag, Container, Always)
        .needs(Right::Privileged, right::if_true),
    setting("group_add", Host("GroupAdd"), ValueForm::Set(rule::group), Container, Always),
    setting("devices", Host("Devices"), ValueForm::Devices, Container, Always)
        .needs(Right::Device, right::device_paths),
    setting(
        "device_cgroup_rules",
        Host("DeviceCgroupRules"),
        ValueForm::Set(rule::device_rule),
        Container,
        Always,
    )
    .needs(Right::Device, right::items),
    setting("gpus", Host("DeviceRequests"), ValueForm::Gpus, Container, Always).needs(Right::Gpu, right::any),
    setting("runtime", Host("Runtime"), ValueForm::Text(rule::name), Container, IfDeclared)
        .needs(Right::Runtime, right::items),
    setting("pid", Host("PidMode"), ValueForm::Text(rule::pid_mode), Container, Always)
        .needs(Right::HostNamespace, |value| right::of_host(value, "pid")),
    setting("ipc", Host("IpcMode"), ValueForm::Text(rule::ipc_mode), Container, IfDeclared)
        .needs(Right::HostNamespace, |value| right::of_host(value, "ipc")),
    setting("cgroup", Host("CgroupnsMode"), ValueForm::Text(rule::cgroup_mode), Container, IfDeclared)
        .needs(Right::HostNamespace, |value| right::of_host(value, "cgroup")),
    setting("userns_mode", Host("UsernsMode"), ValueForm::Text(rule::host), Container, Always)
        .needs(Right::HostNamespace, |value| right::of_host(value, "user")),
    setting("network_mode", Host("NetworkMode"), ValueForm::NetworkMode, Container, Always)
        .needs(Right::HostNamespace, |value| right::of_host(value, "network")),
    setting("dns", Host("Dns"), ValueForm::Words(rule::address), Sandbox, Always),
    setting("dns_search", Host("DnsSearch"), ValueForm::Words(rule::search_domain), Sandbox, Always),
    setting("dns_opt", Host("DnsOptions"), ValueForm::Words(rule::word), Sandbox, Always),
];
