//! Sentences with a remedy for errors of registries, which the engine only passes on in its own words. The
//! engine's words stay at the end, for a search.

use super::{Cause, OF_NETWORK, of_build, of_transfer};

/// The message about a failed pull or push, from the engine's error text.
pub fn transfer_words(words: &str) -> String {
    sentence(of_transfer(words), words)
        .map_or_else(|| words.to_owned(), |remedy| format!("{remedy} ({words})"))
}

/// The message about a failed build, from the engine's error text: the registry is that of a base image.
pub fn build_words(words: &str) -> String {
    let cause = of_build(words);
    let Some(remedy) = sentence(cause, words) else { return words.to_owned() };
    match image(words).filter(|_| cause != Cause::Host) {
        Some(image) => format!("cannot get the base image {image}: {remedy} ({words})"),
        None => format!("{remedy} ({words})"),
    }
}

/// The message about a declared path that is a file in the image instead of a folder, or the reverse. The engine
/// names files of images by paths in its own folders.
pub(super) fn of_file_kinds(words: &str) -> Option<String> {
    let path = |words: &str| words.split_once("/merged/").map(|(_, path)| format!("/{path}"));
    if let Some(path) = words.strip_suffix(" is not directory").and_then(path) {
        return Some(format!(
            "the image has a file at {path}, and a volume can only be mounted at a folder: declare another target \
             in `volumes`"
        ));
    }
    let working_dir =
        words.split_once("Cannot mkdir: ").and_then(|(_, rest)| rest.strip_suffix(" is not a directory"));
    if let Some(path) = working_dir {
        return Some(format!("the image has a file at {path}: declare a folder as `working_dir`"));
    }
    let (_, mount) = words.split_once("error mounting \"")?;
    let (source, rest) = mount.split_once("\" to rootfs at \"")?;
    let (target, rest) = rest.split_once('"')?;
    rest.contains("mount a directory onto a file").then(|| {
        format!(
            "{source} cannot be mounted at {target}: one is a file, the other one a folder, and the image decides \
             about the target"
        )
    })
}

/// What happened and what to do; `None`: the engine's own text must do.
fn sentence(cause: Cause, words: &str) -> Option<String> {
    let lower = words.to_lowercase();
    let contains = |any: &[&str]| any.iter().any(|of| lower.contains(of));
    let host = host(words);
    let registry = host.map_or("the registry".to_owned(), |host| format!("the registry {host}"));
    Some(match cause {
        Cause::Network if contains(&["no such host", "server misbehaving"]) => format!(
            "cannot resolve the host name of {registry}: check its spelling, and the DNS servers of the \
            engine's host (/etc/resolv.conf)"
        ),
        Cause::Network if contains(&["connection refused"]) => {
            format!("nothing listens at the address of {registry}: check the address, and start the registry")
        }
        Cause::Network if contains(&["http response to https", "first record does not look like a tls"]) => {
            format!(
                "{registry} has no TLS: add it to `insecure-registries` in /etc/docker/daemon.json and restart \
            Docker, or give the registry a certificate"
            )
        }
        Cause::Network if contains(&["x509: ", "tls: failed to verify"]) => format!(
            "the engine does not trust the certificate of {registry}: store the certificate of its authority \
            as /etc/docker/certs.d/{}/ca.crt",
            host.unwrap_or("HOST")
        ),
        Cause::Network if contains(&["500 internal", "502 bad", "503 service", "504 gateway"]) => {
            format!("{registry} fails at the moment: abide tries again; look at the registry's own log")
        }
        Cause::Network if contains(&OF_NETWORK) => format!(
            "{registry} does not respond: check the network of the engine's host, and the proxy that \
            `docker info` shows"
        ),
        Cause::RateLimit => format!(
            "{registry} accepts no more requests for now: abide tries again later; `docker login` as the \
            daemon's user may raise the limit"
        ),
        Cause::Denied => format!(
            "{registry} denies access, or has no such image: check the image's name, run `docker login` as the \
            daemon's user, or declare `registry_access`"
        ),
        Cause::Host if contains(&["no space left on device", "disk quota exceeded"]) => {
            "the engine's disk is full: free some space; `docker system df` shows what Docker uses".to_owned()
        }
        _ => return None,
    })
}

/// The registry's host in a URL of its API, or in the error of a failed look-up or connection.
fn host(words: &str) -> Option<&str> {
    let before_path = words.split_once("/v2/").and_then(|(before, _)| before.rsplit_once("://"));
    let looked_up = || words.split_once("lookup ").map(|(_, rest)| rest);
    let dialled = || words.split_once("dial tcp ").map(|(_, rest)| rest);
    let found = before_path.map(|(_, host)| host).or_else(looked_up).or_else(dialled)?;
    let is_of_host = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    let host = found.split(|c| !is_of_host(c)).next()?.trim_end_matches(':');
    (!host.is_empty()).then_some(host)
}

/// The image in a URL of a registry's manifests, such as `docker.io/library/alpine:3`.
fn image(words: &str) -> Option<String> {
    let (before, rest) = words.split_once("/v2/")?;
    let (name, rest) =
        rest.split_once("/manifests/").filter(|(name, _)| !name.contains(char::is_whitespace))?;
    let reference = rest.split(['"', ' ']).next().filter(|text| !text.is_empty())?.trim_end_matches(':');
    let host = match before.rsplit_once("://")?.1 {
        "registry-1.docker.io" => "docker.io",
        host => host,
    };
    let mark = if reference.contains(':') { '@' } else { ':' };
    Some(format!("{host}/{name}{mark}{reference}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_registries_get_a_remedy_and_keep_the_engines_words() {
        let lookup = "Get \"https://nosuch.example/v2/\": dial tcp: lookup nosuch.example on 10.0.0.2:53: no \
                      such host";
        for (words, remedy) in [
            (lookup, "cannot resolve the host name of the registry nosuch.example: "),
            (
                "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                "nothing listens at the address of the registry 127.0.0.1:1: ",
            ),
            (
                "Get \"https://r.lan:5000/v2/\": x509: certificate signed by unknown authority",
                "certs.d/r.lan:5000/ca.crt",
            ),
            (
                "Get \"https://r.lan:5000/v2/\": http: server gave HTTP response to HTTPS client",
                "the registry r.lan:5000 has no TLS: add it to `insecure-registries`",
            ),
            ("dial tcp 10.1.1.1:443: i/o timeout", "the registry 10.1.1.1:443 does not respond: "),
            (
                "received unexpected HTTP status: 503 Service Unavailable",
                "the registry fails at the moment: ",
            ),
            ("toomanyrequests: pull rate limit", "the registry accepts no more requests for now: "),
            ("denied: requested access to the resource is denied", "run `docker login`"),
            ("write /var/lib/docker/x: no space left on device", "the engine's disk is full: "),
        ] {
            for message in [transfer_words(words), build_words(words)] {
                assert!(message.contains(remedy), "{message}");
                assert!(message.ends_with(&format!("({words})")), "{message}");
                assert_eq!(of_transfer(&message), of_transfer(words), "{message}");
                assert_eq!(of_build(&message), of_build(words), "{message}");
            }
        }
        for words in ["manifest unknown", "no matching manifest for linux/arm64 in the manifest list entries"]
        {
            assert_eq!(transfer_words(words), words);
        }
        let of_a_command = "The command '/bin/sh -c curl x: connection refused' returned a non-zero code: 1";
        assert_eq!(build_words(of_a_command), of_a_command);
    }

    #[test]
    fn a_missing_base_image_is_named() {
        let words = "failed to solve with frontend dockerfile.v0: failed to create LLB definition: failed to do \
                     request: Head \"https://registry-1.docker.io/v2/library/nosuchbase/manifests/1\": dial tcp: \
                     lookup registry-1.docker.io on 10.0.0.2:53: no such host";
        let message = build_words(words);
        assert!(
            message.starts_with(
                "cannot get the base image docker.io/library/nosuchbase:1: cannot resolve the host name of \
                 the registry registry-1.docker.io: "
            ),
            "{message}"
        );
    }
}
