//! Causes of failures. A failure is permanent only if the version itself caused it. abide retries after all
//! other failures and reports them.
//!
//! This is the only classification of exits, engine errors and registry errors. A table in
//! docs/ARCHITECTURE.md explains it.

mod remedy;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::container::Exit;
use super::mount::REFUSED_SOURCE;
pub use remedy::{build_words, transfer_words};

/// The cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The version: its program, its image or the inputs of its build. A permanent failure.
    Version,
    /// The requested image does not exist. A permanent failure.
    NoImage,
    /// The image does not exist for this host's platform. A permanent failure, because a digest never
    /// changes.
    NoPlatform,
    /// A registry denies access. Another password may change that.
    Denied,
    /// A registry, or the network on the way to it, does not answer at the moment.
    Network,
    /// A registry received too many requests.
    RateLimit,
    /// The engine does not answer, or was stopped during the call.
    Engine,
    /// The host lacks something, such as disk space or memory.
    Host,
    /// The engine or the host does not accept an option that the manifest declares.
    Option,
    /// Another program or container uses a host port.
    Port,
    /// Someone removed, stopped or killed the object.
    Hand,
    /// The cause is unknown.
    Unknown,
}

impl Cause {
    /// Whether the failure is a permanent failure of the version.
    pub fn is_verdict(self) -> bool {
        matches!(self, Self::Version | Self::NoImage | Self::NoPlatform)
    }
}

/// Error texts of the kernel and the engine if the host lacks resources.
const OF_HOST: [&str; 9] = [
    "no space left on device",
    "disk quota exceeded",
    "cannot allocate memory",
    "too many open files",
    "resource temporarily unavailable",
    "input/output error",
    "device or resource busy",
    "error mounting",
    REFUSED_SOURCE,
];
/// Error texts of the engine if it cannot publish a port.
const OF_PORT: [&str; 3] =
    ["port is already allocated", "address already in use", "cannot assign requested address"];
/// Error texts of the engine if it does not accept an option. It finds many of them only at the start.
const OF_OPTION: [&str; 31] = [
    "open /proc/sys/",
    "user configured subnets",
    "no configured subnet or ip range contain",
    "duplicate mount point",
    "error gathering device information",
    "device access at",
    "could not select device driver",
    "unknown or invalid runtime",
    "unknown runtime",
    "wrong rlimit value",
    "error setting rlimit",
    "separate kernel namespace",
    "not allowed in host",
    "write sysctl key",
    "invalid --security-opt",
    "seccomp profile",
    "apparmor profile",
    "unknown capability",
    "unable to apply caps",
    "initialize logging driver",
    "log opt",
    "conflicting options",
    "range of cpus is from",
    "requested cpus are not available",
    "less than memory reservation",
    "for cpuset",
    "plugin \"",
    "unable to set memory limit",
    // A volume, a folder or a working directory at a file of the image, or the reverse.
    "is not directory",
    "cannot mkdir: ",
    "trying to mount a directory onto a file",
];
/// Error texts of the engine if someone removed or changed the object meanwhile.
const OF_HAND: [&str; 9] = [
    "no such container",
    "no such image",
    "no such network",
    "no such volume",
    "marked for removal",
    "removal of container",
    "is being removed",
    "cannot join network",
    "is already in use by container",
];
/// Error texts of the engine while it stops, or of the containerd daemon below it.
const OF_ENGINE: [&str; 5] = [
    "context canceled",
    "context deadline exceeded",
    "transport is closing",
    "containerd.sock",
    "code = unavailable",
];
/// Error texts of the engine if an image cannot be started on any host.
const OF_VERSION: [&str; 8] = [
    "executable file not found",
    "exec format error",
    "no command specified",
    "no command was specified",
    "unable to find user",
    "unable to find group",
    "no matching entries in",
    "chdir to cwd",
];
/// Error texts of the kernel about an executable, if the engine's error names the file.
const OF_EXEC: [&str; 4] =
    ["no such file or directory", "permission denied", "is a directory", "not a directory"];

/// The cause of a failed create or start of a container, from the engine's error text.
pub fn of_start(words: &str) -> Cause {
    let words = words.to_lowercase();
    let mentions = |any: &[&str]| any.iter().any(|of| words.contains(of));
    let is_network_gone = words.contains("network ") && words.contains("not found");
    match () {
        () if mentions(&OF_PORT) => Cause::Port,
        () if mentions(&OF_OPTION) => Cause::Option,
        () if mentions(&OF_HOST) => Cause::Host,
        () if mentions(&OF_HAND) || is_network_gone => Cause::Hand,
        () if mentions(&OF_VERSION) || words.contains("exec: \"") && mentions(&OF_EXEC) => Cause::Version,
        () if mentions(&OF_ENGINE) => Cause::Engine,
        () => Cause::Unknown,
    }
}

/// Error texts of registries, or of the engine on their behalf, if access is denied. They include `pull
/// access denied`, although the image may not exist: without a password both look the same.
const OF_DENIAL: [&str; 11] = [
    "access denied",
    "unauthorized",
    "authentication required",
    "authorization failed",
    "no basic auth",
    "401 unauthorized",
    "status code 401",
    // The word `forbidden` alone is not enough: a path outside the build context is forbidden too.
    "403 forbidden",
    "status code 403",
    "access forbidden",
    // BuildKit's error for a password that it cannot read on this host.
    "code = failedprecondition",
];
/// Error texts for a missing image.
const OF_NO_IMAGE: [&str; 4] = ["manifest unknown", "name unknown", "blob unknown", "unknown blob"];
/// Error texts for an image that exists only for other platforms.
const OF_NO_PLATFORM: [&str; 4] = [
    "no matching manifest for",
    "no match for platform",
    "does not provide the specified platform",
    "image operating system",
];
/// Error texts for too many requests.
const OF_RATE_LIMIT: [&str; 5] =
    ["toomanyrequests", "too many requests", "rate limit", "http 429", "status code 429"];
/// Error texts for a service that does not answer at the moment.
const OF_NETWORK: [&str; 23] = [
    "dial tcp",
    "i/o timeout",
    "tls handshake timeout",
    "connection refused",
    "connection reset by peer",
    "broken pipe",
    "no such host",
    "server misbehaving",
    "network is unreachable",
    "no route to host",
    "unexpected eof",
    "x509: ",
    "tls: failed to verify",
    "remote error: tls",
    "first record does not look like a tls handshake",
    "server gave http response to https client",
    "connection timed out",
    "500 internal server error",
    "502 bad gateway",
    "503 service unavailable",
    "504 gateway",
    "client.timeout exceeded",
    "net/http: request canceled",
];

/// The cause of a registry's error, from the text that the engine passes on; `None` if the error concerns
/// something else.
fn of_registry(words: &str) -> Option<Cause> {
    let mentions = |any: &[&str]| any.iter().any(|of| words.contains(of));
    // A file of this host may deny access as well.
    let is_denied = words.replace("permission denied", "").contains("denied");
    Some(match () {
        () if mentions(&OF_HOST) => Cause::Host,
        () if mentions(&OF_RATE_LIMIT) => Cause::RateLimit,
        () if mentions(&OF_NO_PLATFORM) => Cause::NoPlatform,
        () if mentions(&OF_DENIAL) || is_denied => Cause::Denied,
        () if mentions(&OF_NO_IMAGE) => Cause::NoImage,
        () if mentions(&OF_NETWORK) => Cause::Network,
        () => return None,
    })
}

/// The cause of a failed pull or push, from the engine's error text.
pub fn of_transfer(words: &str) -> Cause {
    of_registry(&words.to_lowercase()).unwrap_or(Cause::Network)
}

/// The cause of a failed build, from the engine's error text. If a command of the Dockerfile failed, its
/// output is not searched for errors of registries.
pub fn of_build(words: &str) -> Cause {
    let words = words.to_lowercase();
    let is_of_a_command =
        ["executor failed running", "process \"", "the command '"].iter().any(|of| words.contains(of));
    let of_it = match () {
        () if is_of_a_command && OF_KILLED.iter().any(|of| words.contains(of)) => Some(Cause::Hand),
        () if is_of_a_command => None,
        () => of_registry(&words).or(OF_ENGINE.iter().any(|of| words.contains(of)).then_some(Cause::Engine)),
    };
    of_it.unwrap_or(Cause::Version)
}

/// Ends of a Dockerfile's command that someone killed, or that a host without memory killed.
const OF_KILLED: [&str; 4] = ["non-zero code: 137", "non-zero code: 143", "exit code: 137", "exit code: 143"];

/// The platform that an image lacks, from the engine's error text.
pub fn missing_platform(words: &str) -> Option<&str> {
    let rest = words.split_once("no matching manifest for ")?.1;
    Some(rest.split(' ').next().unwrap_or(rest).trim_end_matches([',', ':', '.', ';']))
}

/// A message with a remedy for an error of the engine; `None`: the engine's own text must do.
pub fn advice(words: &str) -> Option<String> {
    let lower = words.to_lowercase();
    if let Some(sentence) = remedy::of_file_kinds(words) {
        return Some(sentence);
    }
    let phrase = OF_PORT.iter().find(|of| lower.contains(*of))?;
    let Some(address) = address_in(words) else {
        // The kernel's error about a port begins with a small letter.
        let is_of_network = words.ends_with("Address already in use");
        return is_of_network.then(|| {
            format!(
                "another container, or the network itself, has the fixed address: `docker network inspect NETWORK` \
                 lists the addresses; declare another `ipv4_address` or `ipv6_address` ({phrase})"
            )
        });
    };
    let port = address.port();
    Some(match *phrase {
        "port is already allocated" => {
            format!(
                "another container uses {address}: `docker ps --filter publish={port}` shows it ({phrase})"
            )
        }
        "address already in use" => {
            format!("another process uses {address}: `ss -ltnp` shows it ({phrase})")
        }
        _ => format!(
            "this host does not have the address {address}: `ip address` lists its addresses \
            ({phrase})"
        ),
    })
}

/// The host address that the engine could not bind.
fn address_in(words: &str) -> Option<SocketAddr> {
    let begins = [
        "Bind for ",
        "bind host port for ",
        "bind host port ",
        "listen tcp4 ",
        "listen tcp6 ",
        "listen tcp ",
    ];
    let rest = begins.iter().find_map(|begin| Some(words.split_once(begin)?.1))?;
    let mut text = rest.split_whitespace().next()?.trim_end_matches(':');
    loop {
        // Newer engines append the target: `0.0.0.0:80:172.18.0.2:80/tcp`.
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        text = text.rsplit_once(':')?.0;
    }
}

/// The cause of a container's end, if it was not the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// Someone stopped, killed or restarted it through the engine.
    Hand,
    /// It ended while the engine or abide was down.
    Absence,
    /// The host ran out of memory, although the container has no limit.
    Host,
    /// A signal that was not sent through the engine: from a process of the host, or from the container
    /// itself.
    Signal,
    /// The engine has not reported yet.
    Untold,
    /// abide stopped it, so that another container could have its place.
    Abide,
}

/// The engine's report of the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// It ended without a preceding signal that ends processes.
    ByItself,
    /// It ended after such a signal.
    AfterSignal,
    /// It ended while nobody was watching.
    Unwatched,
    /// The engine has not reported yet.
    NotYet,
}

/// Exit codes of processes that were ended by SIGKILL or SIGTERM.
const SIGNALLED: [i64; 2] = [128 + 9, 128 + 15];

/// Whether this exit code means that the process was killed and did not end by itself.
pub fn is_killed(code: i64) -> bool {
    SIGNALLED.contains(&code)
}

/// The cause of a container's end, from its exit and the engine's report; `None`: its own program. Running
/// out of memory is the program's own fault if the container has a limit.
pub fn of_exit(exit: &Exit, has_memory_limit: bool, witness: Witness) -> Option<EndedBy> {
    match witness {
        _ if exit.out_of_memory && has_memory_limit => None,
        _ if exit.out_of_memory => Some(EndedBy::Host),
        Witness::AfterSignal => Some(EndedBy::Hand),
        Witness::Unwatched => Some(EndedBy::Absence),
        Witness::NotYet => Some(EndedBy::Untold),
        Witness::ByItself => is_killed(exit.code).then_some(EndedBy::Signal),
    }
}

impl EndedBy {
    /// Whether the exit counts against the version, because no other cause is known.
    pub fn counts(by: Option<Self>) -> bool {
        matches!(by, None | Some(Self::Signal | Self::Untold))
    }
}

#[cfg(test)]
mod tests;
