//! Compiles the example application of `abide demo` (`examples/site/site.rs`) to a static Linux
//! program at `OUT_DIR/site`, so that the demo needs no base image, no registry and no network.
//!
//! Where that cannot be done, the file is left empty and the build goes on with a warning: abide
//! itself is complete, and `abide demo` says what is missing.

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

const SOURCE: &str = "examples/site/site.rs";

/// Small rather than fast: the program is part of every abide binary.
const SMALL: [&str; 5] = ["opt-level=z", "lto", "panic=abort", "strip=symbols", "codegen-units=1"];

/// A way to come to a static Linux program.
struct Attempt {
    target: String,
    linker: Option<OsString>,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCE}");
    let program = Path::new(&required("OUT_DIR")?).join("site");
    let rustc = required("RUSTC")?;
    let mut failures = Vec::new();
    for attempt in attempts(&env::var("TARGET")?) {
        match attempt.compile(&rustc, &program) {
            Ok(()) => return Ok(()),
            Err(reason) => failures.push(format!("{}: {reason}", attempt.target)),
        }
    }
    fs::write(&program, [])?;
    println!(
        "cargo::warning=`abide demo` will have no example application, all else is complete. It takes a static \
         C library (libc6-dev, glibc-static) or `rustup target add {}`. {}",
        musl_of(&env::var("TARGET")?),
        failures.join("; ")
    );
    Ok(())
}

fn required(variable: &str) -> Result<OsString, String> {
    env::var_os(variable).ok_or_else(|| format!("cargo did not set {variable}"))
}

/// First what abide itself is built for, with its linker. Then musl, which Rust links on its own:
/// on a machine without a static C library, and for the Linux that runs Docker on a Mac.
fn attempts(target: &str) -> Vec<Attempt> {
    let musl = musl_of(target);
    let own = Attempt { target: target.to_owned(), linker: env::var_os("RUSTC_LINKER") };
    let fallback = Attempt { target: musl.clone(), linker: Some("rust-lld".into()) };
    match (target.contains("-linux-"), target == musl) {
        (true, true) => vec![own],
        (true, false) => vec![own, fallback],
        (false, _) => vec![fallback],
    }
}

fn musl_of(target: &str) -> String {
    let architecture = target.split('-').next().unwrap_or(target);
    format!("{architecture}-unknown-linux-musl")
}

impl Attempt {
    fn compile(&self, rustc: &OsString, program: &Path) -> Result<(), String> {
        let mut command = Command::new(rustc);
        command.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "site"]);
        command.args(["--target", &self.target, "-C", "target-feature=+crt-static"]);
        command.args(SMALL.iter().flat_map(|option| ["-C", option]));
        if let Some(linker) = &self.linker {
            let mut option = OsString::from("linker=");
            option.push(linker);
            command.arg("-C").arg(option);
        }
        let output = command.arg("-o").arg(program).arg(SOURCE).output().map_err(|e| e.to_string())?;
        if output.status.success() { Ok(()) } else { Err(first_error(&output.stderr)) }
    }
}

/// The line of a compiler's output that says what went wrong.
fn first_error(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().find(|line| line.starts_with("error")).or(text.lines().next());
    line.unwrap_or("rustc failed without a word").to_owned()
}
