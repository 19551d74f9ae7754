//! Compiles five static Linux programs that abide carries with it, so that none needs a base
//! image, a registry or a network: the example application of `abide demo`
//! (`examples/site/site.rs`) at `OUT_DIR/site`, what runs in a network holder at `OUT_DIR/hold`,
//! the guard (`src/controller/guard/program.rs`) at `OUT_DIR/guard`, and the program that backs volumes up
//! (`src/controller/backup/program.rs`) at `OUT_DIR/backup`, and the probe of services
//! (`src/controller/docker/service_probe/program.rs`) at `OUT_DIR/probe`.
//!
//! If one cannot be compiled, its file is left empty and the build continues with a warning: `abide
//! demo` reports what is missing, containers get separate network namespaces, and without abide
//! nothing restarts after an engine restart.

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

const SITE: &str = "examples/site/site.rs";
const GUARD: &str = "src/controller/guard/program.rs";
const BACKUP: &str = "src/controller/backup/program.rs";
const PROBE: &str = "src/controller/docker/service_probe/program.rs";

/// Waits for ever: `pause` on x86-64, `ppoll` for nothing on aarch64. Freestanding, so that it is a
/// kilobyte, maps next to no memory and is the same wherever it was compiled.
const HOLD: &str = r#"#![no_std]
#![no_main]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    loop {
        #[cfg(target_arch = "x86_64")]
        unsafe {
            core::arch::asm!("syscall", inout("rax") 34_usize => _, out("rcx") _, out("r11") _);
        }
        #[cfg(target_arch = "aarch64")]
        unsafe {
            core::arch::asm!("svc 0", in("x8") 73, inout("x0") 0_usize => _, in("x1") 0, in("x2") 0, in("x3") 0);
        }
    }
}
"#;

/// Small rather than fast: the program is part of every abide binary.
const SMALL: [&str; 5] = ["opt-level=z", "lto", "panic=abort", "strip=symbols", "codegen-units=1"];

/// A way to come to a static Linux program.
struct Attempt {
    target: String,
    linker: Option<OsString>,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SITE}");
    println!("cargo::rerun-if-changed={GUARD}");
    println!("cargo::rerun-if-changed={BACKUP}");
    println!("cargo::rerun-if-changed={PROBE}");
    // The parts of that program.
    println!("cargo::rerun-if-changed={}", GUARD.trim_end_matches(".rs"));
    name_version()?;
    let out = required("OUT_DIR")?;
    let out = Path::new(&out);
    let rustc = required("RUSTC")?;
    let target = env::var("TARGET")?;
    for (name, source, lack) in [
        ("site", SITE, "`abide demo` will have no example application"),
        ("guard", GUARD, "while abide is stopped, nothing will restart after an engine restart"),
        ("backup", BACKUP, "volumes cannot be backed up or restored"),
    ] {
        let Err(reason) = compile_static(&rustc, &target, source, &out.join(name)) else { continue };
        fs::write(out.join(name), [])?;
        println!(
            "cargo::warning={lack}, all else is complete. It takes a static C library (libc6-dev, \
             glibc-static) or `rustup target add {}`. {reason}",
            musl_of(&target)
        );
    }
    let hold = out.join("hold.rs");
    fs::write(&hold, HOLD)?;
    for (name, source, lack) in [
        ("hold", hold.as_path(), "there will be no network holders"),
        ("probe", Path::new(PROBE), "services of Docker Swarm have no `http` and `tcp` health checks"),
    ] {
        let Err(reason) = compile_freestanding(&rustc, &target, name, source, out) else { continue };
        fs::write(out.join(name), [])?;
        println!("cargo::warning={lack}, all else is complete. {reason}");
    }
    Ok(())
}

/// What `abide --version` prints. `.ci/package` names the commit and its date; any other build leaves them
/// out, so that a commit alone recompiles nothing.
fn name_version() -> Result<(), Box<dyn Error>> {
    let parts = ["ABIDE_COMMIT", "ABIDE_DATE"].map(|name| {
        println!("cargo::rerun-if-env-changed={name}");
        env::var(name)
    });
    let version = required("CARGO_PKG_VERSION")?;
    let version = version.to_string_lossy();
    let [commit, date] = match parts {
        [Ok(commit), Ok(date)] => {
            println!("cargo::rustc-env=ABIDE_VERSION={version} ({commit} {date})");
            [commit, date]
        }
        _ => {
            println!("cargo::rustc-env=ABIDE_VERSION={version} (built from source)");
            Default::default()
        }
    };
    println!("cargo::rustc-env=ABIDE_BUILT_COMMIT={commit}");
    println!("cargo::rustc-env=ABIDE_BUILT_DATE={date}");
    Ok(())
}

fn compile_static(rustc: &OsString, target: &str, source: &str, program: &Path) -> Result<(), String> {
    let mut failures = Vec::new();
    for attempt in attempts(target) {
        match attempt.compile(rustc, source, program) {
            Ok(()) => return Ok(()),
            Err(reason) => failures.push(format!("{}: {reason}", attempt.target)),
        }
    }
    Err(failures.join("; "))
}

fn compile_freestanding(
    rustc: &OsString,
    target: &str,
    name: &str,
    source: &Path,
    out: &Path,
) -> Result<(), String> {
    // For Linux whatever abide runs on; the same kind of program comes of either target.
    let target = if target.contains("-linux-") { target.to_owned() } else { musl_of(target) };
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", name, "--target", &target]);
    let options = ["panic=abort", "opt-level=z", "strip=symbols", "relocation-model=static"];
    // The linker that comes with Rust, for a C compiler would add its start-up code.
    let linker = ["linker=rust-lld", "linker-flavor=ld.lld", "target-feature=+crt-static"];
    command.args(options.iter().chain(&linker).flat_map(|option| ["-C", option]));
    run(command.arg("-o").arg(out.join(name)).arg(source))
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
    fn compile(&self, rustc: &OsString, source: &str, program: &Path) -> Result<(), String> {
        let mut command = Command::new(rustc);
        command.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "program"]);
        command.args(["--target", &self.target, "-C", "target-feature=+crt-static"]);
        command.args(SMALL.iter().flat_map(|option| ["-C", option]));
        if let Some(linker) = &self.linker {
            let mut option = OsString::from("linker=");
            option.push(linker);
            command.arg("-C").arg(option);
        }
        run(command.arg("-o").arg(program).arg(source))
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(first_error(&output.stderr)) }
}

/// The line of a compiler's output with the error.
fn first_error(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().find(|line| line.starts_with("error")).or(text.lines().next());
    line.unwrap_or("rustc failed without a word").to_owned()
}
