//! An image with nginx, made of this host's nginx, because tests cannot pull images.
//!
//! The tests in the front module include this file too, so it uses nothing of this folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The path from Debian's `nginx-light`.
const PROGRAM: &str = "/usr/sbin/nginx";
/// Folders that nginx needs.
const FOLDERS: [&str; 6] = ["etc/nginx", "var/lib/nginx", "var/log/nginx", "usr/share/nginx", "run", "tmp"];

/// Builds an image `name` with a `label` (`NAME=VALUE`) and with `nginx` in the path.
///
/// # Panics
/// This host has no nginx, because a test that did not run must not look like one that passed.
pub(crate) fn nginx_image(name: &str, label: &str) {
    let what = "(Debian and Ubuntu: nginx-light; `.ci/run` installs it)";
    assert!(Path::new(PROGRAM).exists(), "there is no {PROGRAM} to make an image of {what}");
    let mut import = Command::new("docker");
    import.args(["import", "--change", "ENV PATH=/usr/sbin:/usr/bin", "--change", &format!("LABEL {label}")]);
    let mut child = import.args(["-", name]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    pack(child.stdin.take().unwrap());
    assert!(child.wait().unwrap().success(), "docker import {name}");
}

fn pack(out: impl std::io::Write) {
    let mut tar = tar::Builder::new(out);
    let header = |kind, mode, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size.try_into().unwrap());
        header
    };
    for folder in FOLDERS {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        tar.append_data(&mut header, format!("{folder}/"), std::io::empty()).unwrap();
    }
    // The user of the workers.
    let users: &[(&str, &str)] = &[
        ("etc/passwd", "root:x:0:0::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\nnobody:x:65533:\n"),
    ];
    for (path, text) in users {
        let mut header = header(tar::EntryType::Regular, 0o644, text.len());
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    for path in libraries().into_iter().chain([PathBuf::from(PROGRAM)]) {
        let content = std::fs::read(&path).unwrap();
        let mut header = header(tar::EntryType::Regular, 0o755, content.len());
        tar.append_data(&mut header, path.strip_prefix("/").unwrap(), content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().flush().unwrap();
}

/// The loader and the libraries that it needs.
fn libraries() -> BTreeSet<PathBuf> {
    let output = Command::new("ldd").arg(PROGRAM).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.lines().flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}
