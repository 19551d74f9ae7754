//! Whose doing a failure is. Only what a version itself does is a verdict on it; everything else is tried
//! again, and said.
//!
//! This is the one classification of exits, engine answers and registry answers. The table in
//! docs/ARCHITECTURE.md says it for people.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::container::Exit;
use super::mount::REFUSED_SOURCE;

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The version: its program, its image or the inputs of its build. A verdict.
    Version,
    /// There is no such image. A verdict on what was asked for.
    NoImage,
    /// There is no such image for this host's platform. A verdict, as a digest never changes.
    NoPlatform,
    /// A registry does not let us in, which another password may change.
    Denied,
    /// A registry, or the network on the way to it, does not answer, or not now.
    Network,
    /// A registry has been asked too often.
    RateLimit,
    /// The engine does not answer, or was stopped in the middle.
    Engine,
    /// The host lacks something, such as disk space or memory.
    Host,
    /// Another program or container has a host port.
    Port,
    /// Somebody removed, stopped or killed what it was about.
    Hand,
    /// Nothing tells.
    Unknown,
}

impl Cause {
    /// Whether the failure says something of the version.
    pub fn is_verdict(self) -> bool {
        matches!(self, Self::Version | Self::NoImage | Self::NoPlatform)
    }
}

/// What the kernel and the engine say of a host that cannot.
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
/// What the engine says of a port that it cannot publish.
const OF_PORT: [&str; 3] =
    ["port is already allocated", "address already in use", "cannot assign requested address"];
/// What the engine says of a thing that somebody takes away, or changed meanwhile.
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
/// What the engine says while it stops, or of the daemon below it.
const OF_ENGINE: [&str; 5] = [
    "context canceled",
    "context deadline exceeded",
    "transport is closing",
    "containerd.sock",
    "code = unavailable",
];
/// What the engine says of an image that cannot be started anywhere.
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
/// What the kernel says of a file that is to be executed, where the engine says which.
const OF_EXEC: [&str; 4] =
    ["no such file or directory", "permission denied", "is a directory", "not a directory"];

/// Whose doing it is that the engine could not make or start a container, by its words.
pub fn of_start(words: &str) -> Cause {
    let words = words.to_lowercase();
    let says = |any: &[&str]| any.iter().any(|of| words.contains(of));
    let is_network_gone = words.contains("network ") && words.contains("not found");
    match () {
        () if says(&OF_PORT) => Cause::Port,
        () if says(&OF_HOST) => Cause::Host,
        () if says(&OF_HAND) || is_network_gone => Cause::Hand,
        () if says(&OF_VERSION) || words.contains("exec: \"") && says(&OF_EXEC) => Cause::Version,
        () if says(&OF_ENGINE) => Cause::Engine,
        () => Cause::Unknown,
    }
}

/// What registries, and the engine on the way to them, say of one who may not come in. That there is
/// perhaps no such image (`pull access denied`) is that as well: it looks the same without a password.
const OF_DENIAL: [&str; 11] = [
    "access denied",
    "unauthorized",
    "authentication required",
    "authorization failed",
    "no basic auth",
    "401 unauthorized",
    "status code 401",
    // Not the bare word: a path outside the build context is forbidden too.
    "403 forbidden",
    "status code 403",
    "access forbidden",
    // What BuildKit makes of a password that cannot be read here.
    "code = failedprecondition",
];
/// What they say of an image that is not there.
const OF_NO_IMAGE: [&str; 4] = ["manifest unknown", "name unknown", "blob unknown", "unknown blob"];
/// What they say of an image that is there for other platforms alone.
const OF_NO_PLATFORM: [&str; 4] = [
    "no matching manifest for",
    "no match for platform",
    "does not provide the specified platform",
    "image operating system",
];
/// What they say of one who asks too often.
const OF_RATE_LIMIT: [&str; 5] =
    ["toomanyrequests", "too many requests", "rate limit", "http 429", "status code 429"];
/// What is said of a service that does not answer, or not now.
const OF_NETWORK: [&str; 18] = [
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
    "500 internal server error",
    "502 bad gateway",
    "503 service unavailable",
    "504 gateway",
    "client.timeout exceeded",
    "net/http: request canceled",
];

/// What a registry said, by the words that the engine passes on; `None`: it is about something else.
fn of_registry(words: &str) -> Option<Cause> {
    let says = |any: &[&str]| any.iter().any(|of| words.contains(of));
    // A file of this host may be denied as well.
    let is_denied = words.replace("permission denied", "").contains("denied");
    Some(match () {
        () if says(&OF_HOST) => Cause::Host,
        () if says(&OF_RATE_LIMIT) => Cause::RateLimit,
        () if says(&OF_NO_PLATFORM) => Cause::NoPlatform,
        () if says(&OF_DENIAL) || is_denied => Cause::Denied,
        () if says(&OF_NO_IMAGE) => Cause::NoImage,
        () if says(&OF_NETWORK) => Cause::Network,
        () => return None,
    })
}

/// Whose doing it is that the engine could not pull or push an image, by its words.
pub fn of_transfer(words: &str) -> Cause {
    of_registry(&words.to_lowercase()).unwrap_or(Cause::Network)
}

/// Whose doing it is that an image could not be built, by the engine's words. What a command of the
/// Dockerfile wrote says nothing of anybody else.
pub fn of_build(words: &str) -> Cause {
    let words = words.to_lowercase();
    let is_of_a_command =
        ["executor failed running", "process \"", "the command '"].iter().any(|of| words.contains(of));
    let of_it = match () {
        () if is_of_a_command && OF_KILLED.iter().any(|of| words.contains(of)) => Some(Cause::Hand),
        () if is_of_a_command => None,
        () => of_registry(&words),
    };
    of_it.unwrap_or(Cause::Version)
}

/// How a command of a Dockerfile ended that somebody, or a host without memory, killed.
const OF_KILLED: [&str; 4] = ["non-zero code: 137", "non-zero code: 143", "exit code: 137", "exit code: 143"];

/// The platform that an image has not, in the engine's words.
pub fn missing_platform(words: &str) -> Option<&str> {
    let rest = words.split_once("no matching manifest for ")?.1;
    Some(rest.split(' ').next().unwrap_or(rest).trim_end_matches([',', ':', '.', ';']))
}

/// A refusal of the engine in words that say what to do about it; `None`: its own have to do.
pub fn advice(words: &str) -> Option<String> {
    let lower = words.to_lowercase();
    let said = OF_PORT.iter().find(|of| lower.contains(*of))?;
    let address = address_in(words)?;
    let port = address.port();
    Some(match *said {
        "port is already allocated" => format!(
            "{address} is taken by another container; `docker ps --filter publish={port}` shows it ({said})"
        ),
        "address already in use" => {
            format!("{address} is taken by another process; `ss -ltnp` shows it ({said})")
        }
        _ => format!("{address} is no address of this host; `ip address` lists those there are ({said})"),
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
        // Newer engines add where it would lead to: `0.0.0.0:80:172.18.0.2:80/tcp`.
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        text = text.rsplit_once(':')?.0;
    }
}

/// What ended a container's process, where it was not the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// Somebody stopped, killed or restarted it through the engine.
    Hand,
    /// It ended while the engine, or abide, did not run.
    Absence,
    /// The host had no memory left, although the container has no limit of its own.
    Host,
    /// A signal that nobody sent through the engine: a process of the host, or its own.
    Signal,
    /// The engine has not told yet.
    Untold,
}

/// What the engine told of the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// It ended, and nobody had sent it a signal that ends processes.
    ByItself,
    /// It ended after somebody had.
    AfterSignal,
    /// It ended when nobody was watching.
    Nobody,
    /// The engine has not told yet.
    NotYet,
}

/// Exit codes of processes that SIGKILL and SIGTERM end.
const SIGNALLED: [i64; 2] = [128 + 9, 128 + 15];

/// Whether a process that ended with this code was killed, rather than ended by itself.
pub fn is_killed(code: i64) -> bool {
    SIGNALLED.contains(&code)
}

/// What ended a container, from how it ended and what was told of that; `None`: its own program.
/// Lack of memory is the program's own doing where the container has a limit.
pub fn of_exit(exit: &Exit, has_memory_limit: bool, witness: Witness) -> Option<EndedBy> {
    match witness {
        _ if exit.out_of_memory && has_memory_limit => None,
        _ if exit.out_of_memory => Some(EndedBy::Host),
        Witness::AfterSignal => Some(EndedBy::Hand),
        Witness::Nobody => Some(EndedBy::Absence),
        Witness::NotYet => Some(EndedBy::Untold),
        Witness::ByItself => is_killed(exit.code).then_some(EndedBy::Signal),
    }
}

impl EndedBy {
    /// Whether the exit counts against the version: nobody else is known to have caused it.
    pub fn counts(by: Option<Self>) -> bool {
        matches!(by, None | Some(Self::Signal | Self::Untold))
    }
}

#[cfg(test)]
mod tests;
