//! The grammar of texts in a manifest: pure functions from a text to a value.
//!
//! An error is the rest of a sentence that begins with the key: `must be ...`. It shows a valid example, and
//! repeats the input only if that cannot be a secret.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::model::mount::{InvalidMount, Mount, VolumeName, plain_path};
use crate::model::reference::{ImageRepository, TaggedImage};
use crate::model::spec::{HealthSpec, Probe, Publish};

/// The longest accepted duration: a year. Longer ones are typing errors.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The Docker Engine's minimum memory of a container, in bytes.
const LEAST_MEMORY: u64 = 6 * 1024 * 1024;

/// The longest text that Linux passes to a program, in bytes: one argument, or one variable with its name
/// (`MAX_ARG_STRLEN`, without the zero byte at its end).
const LONGEST_ARGUMENT: usize = 32 * 4096 - 1;

/// The kernel's maximum number of processes.
pub(super) const MOST_PIDS: u32 = 1 << 22;

/// The smallest and largest valid CPU limit of the Docker Engine, in CPUs.
const CPUS: std::ops::RangeInclusive<f64> = 0.01..=4096.0;

/// Checks the length in bytes of an argument, or of `NAME=value`.
pub(super) fn argument(bytes: usize) -> Result<(), String> {
    if bytes <= LONGEST_ARGUMENT {
        return Ok(());
    }
    Err(format!(
        "is too long: Linux passes at most {LONGEST_ARGUMENT} bytes to a program in one argument or variable; put \
         the text into a file and mount it"
    ))
}

/// Parses a duration in humantime's format, such as `30s` or `1h 30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a duration such as \"30s\" or \"5m\"".to_owned();
    let duration = humantime::parse_duration(text.trim()).map_err(|_| wrong())?;
    short_enough(duration)
}

/// Rejects durations that can only be typing errors.
pub(in crate::model) fn short_enough(duration: Duration) -> Result<Duration, String> {
    if duration > LONGEST { Err("must be at most a year".to_owned()) } else { Ok(duration) }
}

/// Checks the duration of a wait.
pub(in crate::model) fn patience(duration: Duration) -> Result<Duration, String> {
    if duration.is_zero() { Err("must be more than zero".to_owned()) } else { short_enough(duration) }
}

/// Checks the stop timeout of a container.
pub(in crate::model) fn stop_timeout(duration: Duration) -> Result<Duration, String> {
    if duration.subsec_nanos() != 0 {
        return Err("must be whole seconds, which is the engine's resolution".to_owned());
    }
    short_enough(duration)
}

/// Checks that a container can become ready at all.
pub(in crate::model) fn health(health: &HealthSpec) -> Result<(), String> {
    let is_awaited = !matches!(health.probe, Probe::None | Probe::Running);
    if !is_awaited || health.healthy_for < health.start_deadline {
        return Ok(());
    }
    Err(format!(
        "could never succeed: `healthy_for` ({}) must be shorter than `start_deadline` ({})",
        humantime::format_duration(health.healthy_for),
        humantime::format_duration(health.start_deadline),
    ))
}

/// Checks a port.
pub(in crate::model) fn port(port: u16) -> Result<u16, String> {
    if port == 0 { Err("must be a port from 1 to 65535".to_owned()) } else { Ok(port) }
}

/// Checks a text that is passed to a program.
pub(in crate::model) fn text(text: String) -> Result<String, String> {
    if text.contains('\0') { Err("must not contain a NUL character".to_owned()) } else { Ok(text) }
}

/// Parses a size in bytes: `512MiB`, `1g`, `1073741824`. As in Docker, every unit is a power of 1024.
pub(super) fn memory(text: &str) -> Result<u64, String> {
    let wrong = || "must be a size such as \"512MiB\", \"1g\" or a number of bytes".to_owned();
    memory_bytes(bytes(text).ok_or_else(wrong)?)
}

/// Parses a size of any number of bytes.
pub(in crate::model) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = power_of_1024(unit.trim())?;
    match number.parse::<u64>() {
        Ok(integer) => integer.checked_mul(unit),
        Err(_) => number.parse::<f64>().ok().and_then(|part| fraction(part, unit)),
    }
}

/// Checks a memory limit against the engine's limits.
pub(in crate::model) fn memory_bytes(bytes: u64) -> Result<u64, String> {
    // The Docker API uses signed numbers.
    if i64::try_from(bytes).is_err() {
        return Err("must be less than 8 EiB".to_owned());
    }
    if bytes < LEAST_MEMORY { Err("must be at least 6MiB".to_owned()) } else { Ok(bytes) }
}

fn power_of_1024(unit: &str) -> Option<u64> {
    let power = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return None,
    };
    Some(1024_u64.pow(power))
}

fn fraction(part: f64, unit: u64) -> Option<u64> {
    let bytes = part * unit as f64;
    (0.0..9e18).contains(&bytes).then_some(bytes as u64)
}

/// Parses a number of CPUs such as `1.5` into billionths.
pub(super) fn nano_cpus(text: &str) -> Result<u64, String> {
    let cpus = text.trim().parse::<f64>().ok().filter(|cpus| CPUS.contains(cpus));
    let cpus = cpus.ok_or("must be a number of CPUs such as 1.5, at least 0.01")?;
    billionths_of_a_cpu((cpus * 1e9).round() as u64)
}

/// Checks a number of CPUs, in billionths, against the Docker Engine's limits.
pub(in crate::model) fn billionths_of_a_cpu(cpus: u64) -> Result<u64, String> {
    if CPUS.contains(&(cpus as f64 / 1e9)) {
        return Ok(cpus);
    }
    Err("must be a number of CPUs such as 1.5, at least 0.01".to_owned())
}

/// Checks a limit of processes and threads. The kernel's own maximum is 2^22.
pub(in crate::model) fn pids(pids: u32) -> Result<u32, String> {
    if (1..=MOST_PIDS).contains(&pids) {
        return Ok(pids);
    }
    Err(format!("must be a whole number from 1 to {MOST_PIDS}"))
}

/// Checks the name of a container's environment variable.
pub(in crate::model) fn variable(name: &str) -> Result<(), String> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest {
        return Ok(());
    }
    Err("cannot be the name of an environment variable: use letters, digits, _ . and -, not beginning with a \
        digit".to_owned())
}

/// Checks the name of the daemon's environment variable that holds a secret.
pub(in crate::model) fn secret_variable(name: &str) -> Result<String, String> {
    if name.is_empty() || name.contains('.') || name.contains('-') || variable(name).is_err() {
        // The error must not repeat the name: writing the secret itself here is a common mistake.
        return Err("must be the name of an environment variable of the daemon, such as \
            \"KEEPWORK_WEBHOOK_SECRET\""
            .to_owned());
    }
    Ok(name.to_owned())
}

/// Checks a BuildKit secret's id, or a build argument's name.
pub(super) fn build_id(name: &str) -> Result<(), String> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if plain && !name.is_empty() && !name.starts_with('-') {
        return Ok(());
    }
    Err("cannot be a name in a build: use letters, digits, _ . and -".to_owned())
}

/// Checks the name or the number of a stage of a Dockerfile.
pub(super) fn stage(name: &str) -> Result<String, String> {
    if build_id(name).is_ok() {
        return Ok(name.to_owned());
    }
    Err("must be the name of a stage, as after `AS` in the Dockerfile".to_owned())
}

/// Checks a pattern of paths in a checkout, as in a `.dockerignore`.
pub(super) fn path_pattern(text: &str) -> Result<String, String> {
    let pattern = text.strip_prefix('!').unwrap_or(text);
    let is_inside = !pattern.starts_with('/') && pattern.split('/').all(|part| part != "..");
    let is_balanced =
        pattern.matches('[').count() == pattern.matches(']').count() && !pattern.ends_with('\\');
    let is_line =
        !pattern.trim().is_empty() && !pattern.starts_with('#') && !pattern.contains(char::is_control);
    if is_inside && is_balanced && is_line {
        return Ok(text.to_owned());
    }
    Err("must be a pattern of paths in the repository, such as \"apps/a/**\"".to_owned())
}

/// Whether a text can be the name of an image.
pub(super) fn is_image(name: &str) -> bool {
    let known = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:@".contains(&b));
    known && !name.is_empty() && !name.starts_with(['-', '/', ':', '@'])
}

/// Parses `"127.0.0.1:8900"` or `"[::1]:8900"`.
pub(super) fn publish(text: &str) -> Result<Publish, String> {
    let found: Option<SocketAddr> = text.trim().parse().ok().filter(|found: &SocketAddr| found.port() != 0);
    let found = found.ok_or_else(|| format!("must be {PUBLISH}"))?;
    Ok(Publish { address: Some(found.ip().to_canonical()), port: found.port() })
}

/// The accepted values of `publish`.
pub(super) const PUBLISH: &str =
    "a host port such as 8900, an address and port such as \"127.0.0.1:8900\", or false";

/// Checks `host:address`; the address may be `host-gateway`.
pub(in crate::model) fn extra_host(text: &str) -> Result<String, String> {
    let wrong = || "must be \"host:address\", such as \"git.example.com:10.0.0.6\"".to_owned();
    let (host, address) = text.trim().split_once(':').ok_or_else(wrong)?;
    let known = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if host.is_empty() || !known {
        return Err(wrong());
    }
    if address == "host-gateway" {
        return Ok(format!("{host}:{address}"));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address: IpAddr = bare.parse().map_err(|_| wrong())?;
    Ok(format!("{host}:{address}"))
}

/// Parses `source:target[:ro|rw]`.
pub(super) fn mount(text: &str) -> Result<Mount, String> {
    text.parse().map_err(|error: InvalidMount| error.to_string())
}

/// Parses the name of a volume.
pub(super) fn volume(name: &str) -> Result<VolumeName, String> {
    name.parse().map_err(|error: InvalidMount| error.to_string())
}

/// Parses an absolute path of this host.
pub(in crate::model) fn host_path(text: &str) -> Result<PathBuf, String> {
    let path = plain_path("the path", text)?;
    if path == "/" || text.ends_with('/') {
        return Err("must be the path of a file".to_owned());
    }
    Ok(PathBuf::from(path))
}

/// Parses a path inside a checkout and removes its `.` parts; `.` alone is the checkout itself.
pub(super) fn inside_or_all(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("must not be empty; \".\" is the whole checkout".to_owned());
    }
    if text.starts_with('/') || text.contains('\\') {
        return Err("must be a path relative to the checkout, with / between its parts".to_owned());
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err("must not leave the checkout with ..".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    Ok(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

/// Parses a path inside a checkout that is not the checkout itself.
pub(super) fn inside(text: &str) -> Result<String, String> {
    let path = inside_or_all(text)?;
    if path == "." { Err("must be a path inside the checkout, not all of it".to_owned()) } else { Ok(path) }
}

/// Parses the name of an archive of a checkout.
pub(super) fn archive(text: &str) -> Result<String, String> {
    let path = inside(text)?;
    let known = [".tar.gz", ".tgz", ".tar"].iter().any(|ending| path.ends_with(ending));
    if known { Ok(path) } else { Err("must end in .tar.gz, .tgz or .tar".to_owned()) }
}

/// Parses a repository with its registry, without tag and digest: abide chooses the tag.
pub(super) fn push_target(text: &str) -> Result<ImageRepository, String> {
    let wrong = "must be host/path in lower case without a tag, such as \"localhost:5000/keepwork/prod\"";
    let repository: ImageRepository = text.trim().parse().map_err(|_| wrong.to_owned())?;
    if text.trim() == repository.to_string() { Ok(repository) } else { Err(wrong.to_owned()) }
}

/// Checks that an image name has a tag: without a tag the engine would pull all of them.
pub(super) fn tagged_name(text: &str) -> Result<String, String> {
    followed_tag(text).map(|_| text.trim().to_owned())
}

/// Parses a tag in a registry.
pub(super) fn followed_tag(text: &str) -> Result<TaggedImage, String> {
    let wrong = "must be an image with a tag, such as \"localhost:5000/shop/app:stable\"";
    text.trim().parse().map_err(|_| wrong.to_owned())
}

/// Checks the `Host` header of a health probe: a host with an optional port.
pub(in crate::model) fn probe_host(text: &str) -> Result<String, String> {
    let is_host = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if !text.is_empty() && text.len() <= 255 && text.bytes().all(is_host) {
        return Ok(text.to_owned());
    }
    Err("must be a host name such as \"example.com\" or \"example.com:8080\"".to_owned())
}

/// Headers that the probe itself sets: another value would break the request or its answer.
const OWN_HEADERS: [&str; 5] = ["host", "connection", "content-length", "transfer-encoding", "upgrade"];

/// Checks the name of an additional header of a health probe.
pub(in crate::model) fn header_name(name: &str) -> Result<(), String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err("cannot be the name of a header: use letters, digits and -".to_owned());
    }
    let own = OWN_HEADERS.iter().find(|own| name.eq_ignore_ascii_case(own));
    match own {
        Some(&"host") => Err("cannot be set here: use `host` in `health`".to_owned()),
        Some(_) => Err("cannot be set here: the probe sets it".to_owned()),
        None => Ok(()),
    }
}

/// Checks the value of a header. A line break in it would start a second header.
pub(in crate::model) fn header_value(value: &str) -> Result<(), String> {
    if value.bytes().all(|b| b == b' ' || b == b'\t' || b.is_ascii_graphic()) {
        return Ok(());
    }
    Err("must be one line of ASCII text".to_owned())
}

/// Checks the command of a health probe.
pub(in crate::model) fn probe_command(command: Vec<String>) -> Result<Vec<String>, String> {
    if command.first().is_none_or(String::is_empty) {
        return Err("must begin with a program, such as [\"pg_isready\", \"-q\"]".to_owned());
    }
    command.into_iter().map(text).collect()
}

/// Checks the path of a health probe.
pub(in crate::model) fn probe_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err("must be the path of a URL, such as \"/\" or \"/healthz?full=1\"".to_owned())
}
