//! The rules of texts: each checks a text and returns its canonical form.
//!
//! An error is the rest of a sentence that begins with the key: `must be ...`.

use std::net::IpAddr;

use crate::model::mount::AbsolutePath;

/// A text without control characters that is not empty.
pub(super) fn word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("must be a word without spaces".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

pub(super) fn name(text: &str) -> Result<String, String> {
    let known = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if known && !text.is_empty() {
        return Ok(text.to_owned());
    }
    Err("must be a name of letters, digits and - _ .".to_owned())
}

pub(super) fn user(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() <= 2 && parts.iter().all(|part| name(part).is_ok()) {
        return Ok(text.to_owned());
    }
    Err("must be a user such as \"1000\", \"1000:1000\" or \"node\"".to_owned())
}

pub(super) fn group(text: &str) -> Result<String, String> {
    name(text).map_err(|_| "must hold names or numbers of groups, such as \"video\"".to_owned())
}

/// The engine cleans the path in the same way.
pub(super) fn folder(text: &str) -> Result<String, String> {
    let wrong = || "must be an absolute path in the container, such as \"/app\"".to_owned();
    if text == "/" {
        return Ok(text.to_owned());
    }
    if !text.starts_with('/') {
        return Err(wrong());
    }
    AbsolutePath::cleaned(text).map(|path| path.to_string()).ok_or_else(wrong)
}

pub(super) fn hostname(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        let known = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (1..=63).contains(&label.len()) && known && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() <= 63 && text.split('.').all(is_label) {
        return Ok(text.to_owned());
    }
    Err("must be a host name of at most 63 letters, digits and -, such as \"db-1\"".to_owned())
}

pub(super) fn search_domain(text: &str) -> Result<String, String> {
    // A dot alone removes the host's own search domains.
    if text == "." {
        Ok(text.to_owned())
    } else {
        hostname(text.trim_end_matches('.')).map(|_| text.to_owned())
    }
}

pub(super) fn address(text: &str) -> Result<String, String> {
    let address: Result<IpAddr, _> = text.parse();
    address.map(|it| it.to_string()).map_err(|_| "must hold addresses such as \"1.1.1.1\"".to_owned())
}

pub(super) fn label(name: &str, _text: &str) -> Result<(), String> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err("must name every label".to_owned());
    }
    if name.starts_with("abide.") {
        return Err(format!("must not hold `{name}`: labels that begin with `abide.` are abide's own"));
    }
    Ok(())
}

/// The signals of Linux, in the order of their numbers.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

pub(super) fn signal(text: &str) -> Result<String, String> {
    let wrong = || "must be a signal such as \"SIGINT\" or its number".to_owned();
    let upper = text.trim().to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(number) = bare.parse::<usize>() {
        let name = number.checked_sub(1).and_then(|index| SIGNALS.get(index));
        return name.map(|name| format!("SIG{name}")).ok_or_else(wrong);
    }
    // The engine names real-time signals by their distance to the first or the last.
    let is_real_time = |begin: &str| {
        let rest = bare.strip_prefix(begin);
        rest.is_some_and(|rest| rest.parse().is_ok_and(|distance: u8| (1..=15).contains(&distance)))
    };
    let is_known = SIGNALS.contains(&bare)
        || ["RTMIN", "RTMAX"].contains(&bare)
        || is_real_time("RTMIN+")
        || is_real_time("RTMAX-");
    if is_known { Ok(format!("SIG{bare}")) } else { Err(wrong()) }
}

/// The kernel parameters outside `net.` that a container has for itself.
const OWN_PARAMETERS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The engine refuses the others only when it starts the container.
pub(super) fn sysctl(name: &str, text: &str) -> Result<(), String> {
    let is_own = name.starts_with("net.") || name.starts_with("fs.mqueue.") || OWN_PARAMETERS.contains(&name);
    let is_plain = !name.chars().any(|c| c.is_whitespace() || c.is_control());
    if is_own && is_plain && !text.is_empty() {
        return Ok(());
    }
    Err("must hold kernel parameters that a container has for itself: `net.*`, `fs.mqueue.*`, `kernel.shm*`, \
         `kernel.msg*` or `kernel.sem`"
        .to_owned())
}

/// The engine shows the name as it was written.
pub(super) fn capability(text: &str) -> Result<String, String> {
    let upper = text.trim().to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
        return Ok(bare.to_owned());
    }
    Err("must hold capabilities such as \"NET_ADMIN\", or \"ALL\"".to_owned())
}

pub(super) fn security_option(text: &str) -> Result<String, String> {
    let (name, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    match (name, value) {
        ("no-new-privileges", "" | "true") => Ok("no-new-privileges".to_owned()),
        ("no-new-privileges", "false") => Ok("no-new-privileges=false".to_owned()),
        ("seccomp", "unconfined") => Ok("seccomp=unconfined".to_owned()),
        ("seccomp", profile) if profile.trim_start().starts_with('{') => Ok(format!("seccomp={profile}")),
        ("seccomp", _) => {
            Err("must hold \"seccomp=unconfined\" or the JSON of a profile, not a path".to_owned())
        }
        ("systempaths", _) => {
            Err("must not hold `systempaths`, which only the docker client knows".to_owned())
        }
        ("apparmor" | "label", value) if !value.is_empty() => Ok(format!("{name}={value}")),
        _ => {
            Err("must hold \"no-new-privileges\", \"seccomp=...\", \"apparmor=...\" or \"label=...\""
                .to_owned())
        }
    }
}

pub(super) fn device_rule(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    let is_rule = match parts[..] {
        [kind, device, access] => {
            let device = device.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor));
            ["a", "b", "c"].contains(&kind) && device && is_access(access)
        }
        _ => false,
    };
    if is_rule { Ok(parts.join(" ")) } else { Err("must hold rules such as \"c 188:* rwm\"".to_owned()) }
}

pub(super) fn is_access(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.bytes().all(|b| b"rwm".contains(&b))
}

pub(super) fn cpuset(text: &str) -> Result<String, String> {
    let is_cpu = |text: &str| text.parse::<u16>().is_ok();
    let is_part = |part: &str| match part.split_once('-') {
        Some((first, last)) => is_cpu(first) && is_cpu(last),
        None => is_cpu(part),
    };
    if text.split(',').all(is_part) {
        return Ok(text.to_owned());
    }
    Err("must be processors such as \"0-3\" or \"0,2\"".to_owned())
}

pub(super) fn host(text: &str) -> Result<String, String> {
    if text == "host" { Ok(text.to_owned()) } else { Err("must be \"host\"".to_owned()) }
}

pub(super) fn pid_mode(text: &str) -> Result<String, String> {
    host(text)
}

pub(super) fn ipc_mode(mode: &str) -> Result<String, String> {
    one_of(mode, &["host", "private", "shareable", "none"])
}

pub(super) fn cgroup_mode(mode: &str) -> Result<String, String> {
    one_of(mode, &["host", "private"])
}

fn one_of(text: &str, known: &[&str]) -> Result<String, String> {
    if known.contains(&text) {
        return Ok(text.to_owned());
    }
    let quoted: Vec<String> = known.iter().map(|word| format!("\"{word}\"")).collect();
    Err(format!("must be one of {}", quoted.join(", ")))
}
