//! A base image with a shell, made of this host's busybox, because tests cannot pull images.

use std::path::Path;
use std::process::{Command, Stdio};

use super::docker::Space;

/// The path from Debian's `busybox-static`.
const PROGRAM: &str = "/bin/busybox";
/// The names of busybox in the base image.
const APPLETS: [&str; 22] = [
    "cat", "chmod", "cp", "dd", "echo", "env", "false", "grep", "gzip", "head", "httpd", "ls", "mkdir", "rm",
    "sed", "sh", "sleep", "tar", "tee", "test", "true", "yes",
];

/// Returns the name of a base image with a shell, in `space`; `None`, with a printed reason, if
/// this host has no static busybox.
pub(crate) fn busybox(space: &Space) -> Option<String> {
    let Some(program) = static_program(Path::new(PROGRAM)) else {
        eprintln!("left out: no static {PROGRAM} (Debian and Ubuntu: busybox-static)");
        return None;
    };
    let name = space.name("busybox");
    let mut import = Command::new("docker");
    import.args(["import", "--change", "ENV PATH=/bin", "--change"]).arg(format!("LABEL {}", space.label()));
    let mut child = import.args(["-", &name]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    pack(&program, child.stdin.take().unwrap());
    assert!(child.wait().unwrap().success());
    Some(name)
}

/// A program that needs a loader would not find it in its image.
fn static_program(path: &Path) -> Option<Vec<u8>> {
    let program = std::fs::read(path).ok()?;
    let names_loader = |name: &[u8]| program.windows(name.len()).any(|window| window == name);
    (!names_loader(b"/ld-linux") && !names_loader(b"/ld-musl")).then_some(program)
}

fn pack(program: &[u8], out: impl std::io::Write) {
    let mut tar = tar::Builder::new(out);
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len().try_into().unwrap());
    tar.append_data(&mut header, "bin/busybox", program).unwrap();
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    tar.append_data(&mut header, "tmp/", std::io::empty()).unwrap();
    tar.into_inner().unwrap().flush().unwrap();
}
