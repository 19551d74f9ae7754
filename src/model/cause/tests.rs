//! Causes of failures: exits, errors of the engine and of registries, one by one.

use super::*;
use crate::model::time::Timestamp;

#[test]
fn start_failures_are_classified_by_cause() {
    for (words, cause) in [
        (
            "OCI runtime create failed: container_linux.go:380: starting container process caused: exec: \"/nothing\": stat /nothing: no such file or directory: unknown",
            Cause::Version,
        ),
        (
            "failed to create task: exec: \"serve\": executable file not found in $PATH: unknown",
            Cause::Version,
        ),
        ("exec: \"/srv\": permission denied: unknown", Cause::Version),
        ("exec /site: exec format error", Cause::Version),
        ("No command specified", Cause::Version),
        ("unable to find user nobody1: no matching entries in passwd file", Cause::Version),
        ("No such container: 0123", Cause::Hand),
        ("container is marked for removal and cannot be started", Cause::Hand),
        ("cannot join network of a non running container: 0123", Cause::Hand),
        ("network 5f2a not found", Cause::Hand),
        ("network abide not found", Cause::Hand),
        (
            "driver failed programming external connectivity on endpoint x (y): Bind for 127.0.0.1:8080 failed: port is already allocated",
            Cause::Port,
        ),
        ("error starting userland proxy: listen tcp4 0.0.0.0:80: bind: address already in use", Cause::Port),
        ("error creating overlay mount to /var/lib/docker: no space left on device", Cause::Host),
        ("fork/exec /usr/bin/containerd-shim-runc-v2: resource temporarily unavailable", Cause::Host),
        (
            "error mounting \"/a\" to rootfs at \"/b\": mount through procfd: not a directory: unknown",
            Cause::Host,
        ),
        ("ttrpc: closed: transport is closing: unavailable", Cause::Engine),
        ("something that no engine said before", Cause::Unknown),
        (
            "error gathering device information while adding custom device \"/dev/x\": no such file or directory",
            Cause::Option,
        ),
        ("could not select device driver \"\" with capabilities: [[gpu]]", Cause::Option),
        ("wrong rlimit value: RLIMIT_ZZ", Cause::Option),
        ("error during container init: open /proc/sys/net/x: no such file or directory", Cause::Option),
        ("sysctl \"kernel.sem\" is not in a separate kernel namespace", Cause::Option),
        ("Unknown runtime specified kata", Cause::Option),
        (
            "failed to initialize logging driver: dial tcp 127.0.0.1:1: connect: connection refused",
            Cause::Option,
        ),
        ("source /var/lib/docker/overlay2/1f/merged/etc/hosts is not directory", Cause::Option),
        ("Cannot mkdir: /bin/site is not a directory", Cause::Option),
        (
            "error mounting \"/tmp\" to rootfs at \"/bin/site\": mount /tmp:/bin/site, flags: 0x5000: not a directory: \
             unknown: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host \
             path exists and is the expected type",
            Cause::Option,
        ),
        ("Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", Cause::Option),
    ] {
        assert_eq!(of_start(words), cause, "{words}");
    }
}

#[test]
fn registry_errors_are_classified_alike_for_pulls_and_builds() {
    for (words, cause) in [
        ("unauthorized: authentication required", Cause::Denied),
        ("Get http://localhost:5000/v2/: no basic auth credentials", Cause::Denied),
        ("denied: requested access to the resource is denied", Cause::Denied),
        (
            "pull access denied for nowhere, repository does not exist or may require 'docker login'",
            Cause::Denied,
        ),
        ("failed to resolve: unexpected status: 403 Forbidden", Cause::Denied),
        ("pulling from host x failed with status code [manifests latest]: 401 Unauthorized", Cause::Denied),
        ("dial tcp 127.0.0.1:5000: connect: connection refused", Cause::Network),
        ("dial tcp: lookup registry-1.docker.io: no such host", Cause::Network),
        ("received unexpected HTTP status: 503 Service Unavailable", Cause::Network),
        ("x509: certificate signed by unknown authority", Cause::Network),
        ("toomanyrequests: You have reached your pull rate limit", Cause::RateLimit),
        ("unexpected status code 429 Too Many Requests", Cause::RateLimit),
        ("error parsing HTTP 429 response body: unexpected end of JSON input: \"\"", Cause::RateLimit),
        ("manifest for a:1 not found: manifest unknown: manifest unknown", Cause::NoImage),
        ("no matching manifest for linux/amd64 in the manifest list entries", Cause::NoPlatform),
        ("write /var/lib/docker/tmp/x: no space left on device", Cause::Host),
    ] {
        assert_eq!(of_transfer(words), cause, "pulled: {words}");
        assert_eq!(of_build(words), cause, "built: {words}");
    }
    assert_eq!(of_transfer("what nobody said before"), Cause::Network, "it is tried again");
}

#[test]
fn a_failed_command_is_the_builds_own_fault_regardless_of_output() {
    for words in [
        "executor failed running [/bin/sh -c curl x || echo dial tcp]: exit code: 1",
        "process \"/bin/sh -c docker pull x: unauthorized\" did not complete successfully: exit code: 1",
        "The command '/bin/sh -c wget i/o timeout' returned a non-zero code: 1",
        "COPY failed: file not found in build context or excluded by .dockerignore: stat absent",
        "COPY failed: forbidden path outside the build context: ../x ()",
        "failed to read dockerfile: open Dockerfile: permission denied",
    ] {
        assert_eq!(of_build(words), Cause::Version, "{words}");
    }
}

#[test]
fn a_killed_build_command_is_not_the_builds_own_fault() {
    for words in [
        "The command '/bin/sh -c make' returned a non-zero code: 137",
        "process \"/bin/sh -c make\" did not complete successfully: exit code: 143",
    ] {
        assert_eq!(of_build(words), Cause::Hand, "{words}");
    }
}

#[test]
fn an_occupied_port_is_reported_with_the_command_that_shows_its_user() {
    for (words, expected) in [
        (
            "driver failed programming external connectivity on endpoint x (y): Bind for 0.0.0.0:8080 failed: port is already allocated",
            "another container uses 0.0.0.0:8080: `docker ps --filter publish=8080` shows it (port is \
            already allocated)",
        ),
        (
            "Error starting userland proxy: listen tcp4 127.0.0.1:8080: bind: address already in use",
            "another process uses 127.0.0.1:8080: `ss -ltnp` shows it (address already in use)",
        ),
        (
            "failed to bind host port for 0.0.0.0:80:172.18.0.2:8080/tcp: address already in use",
            "another process uses 0.0.0.0:80: `ss -ltnp` shows it (address already in use)",
        ),
        (
            "Error starting userland proxy: listen tcp6 [::1]:80: bind: cannot assign requested address",
            "this host does not have the address [::1]:80: `ip address` lists its addresses (cannot \
            assign requested address)",
        ),
    ] {
        assert_eq!(advice(words).as_deref(), Some(expected));
    }
    assert_eq!(advice("address already in use"), None);
    assert_eq!(advice("no space left on device"), None);
}

#[test]
fn the_missing_platform_is_extracted() {
    let words = "no matching manifest for linux/arm64/v8 in the manifest list entries";
    assert_eq!(missing_platform(words), Some("linux/arm64/v8"));
    assert_eq!(missing_platform("manifest unknown"), None);
}

#[test]
fn only_an_exit_without_external_cause_counts_against_the_program() {
    use EndedBy::{Absence, Hand, Host, Signal, Untold};
    let exit = |code, out_of_memory| Exit { code, out_of_memory, at: Timestamp::default() };
    for (code, out_of_memory, limit, witness, by) in [
        (3, false, false, Witness::ByItself, None),
        (0, false, true, Witness::ByItself, None),
        (139, false, false, Witness::ByItself, None),
        (137, false, false, Witness::ByItself, Some(Signal)),
        (143, false, true, Witness::ByItself, Some(Signal)),
        (137, true, true, Witness::ByItself, None),
        (137, true, false, Witness::ByItself, Some(Host)),
        (143, false, false, Witness::AfterSignal, Some(Hand)),
        (0, false, false, Witness::AfterSignal, Some(Hand)),
        (143, false, false, Witness::Unwatched, Some(Absence)),
        (1, false, false, Witness::Unwatched, Some(Absence)),
        (1, false, false, Witness::NotYet, Some(Untold)),
    ] {
        assert_eq!(of_exit(&exit(code, out_of_memory), limit, witness), by, "{code} {witness:?}");
    }
    assert!(EndedBy::counts(None) && EndedBy::counts(Some(Signal)));
    assert!(!EndedBy::counts(Some(Hand)) && !EndedBy::counts(Some(Absence)) && !EndedBy::counts(Some(Host)));
}

#[test]
fn an_occupied_fixed_address_is_not_taken_for_a_port() {
    for words in ["Address already in use", "failed to set up container networking: Address already in use"] {
        assert_eq!(of_start(words), Cause::Port);
        assert!(advice(words).unwrap().contains("`docker network inspect NETWORK`"), "{:?}", advice(words));
    }
}

#[test]
fn a_path_that_is_a_file_in_the_image_is_reported_without_the_engines_folders() {
    for (words, expected) in [
        (
            "source /var/lib/docker/overlay2/1f/merged/etc/hosts is not directory",
            "the image has a file at /etc/hosts, and a volume can only be mounted at a folder: declare another target \
             in `volumes`",
        ),
        (
            "Cannot mkdir: /bin/site is not a directory",
            "the image has a file at /bin/site: declare a folder as `working_dir`",
        ),
        (
            "runc create failed: error mounting \"/tmp\" to rootfs at \"/bin/site\": mount /tmp:/bin/site (via \
             /proc/self/fd/6), flags: 0x5000: not a directory: unknown: Are you trying to mount a directory onto a \
             file (or vice-versa)?",
            "/tmp cannot be mounted at /bin/site: one is a file, the other one a folder, and the image decides about \
             the target",
        ),
    ] {
        assert_eq!(advice(words).as_deref(), Some(expected));
    }
}
