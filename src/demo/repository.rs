//! The example repository: a real git repository of `examples/site`, and the manifest that tracks
//! it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The example application, compiled for Linux by the build script; empty if the build script could
/// not compile it.
const SITE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/site"));

/// The path of the program in the repository.
const PROGRAM: &str = "bin/site";

/// The other files of the repository.
const FILES: [(&str, &str); 7] = [
    ("README.md", include_str!("../../examples/site/README.md")),
    ("Dockerfile", include_str!("../../examples/site/Dockerfile")),
    ("Dockerfile.dist", include_str!("../../examples/site/Dockerfile.dist")),
    (".dockerignore", include_str!("../../examples/site/.dockerignore")),
    ("site.env", include_str!("../../examples/site/site.env")),
    ("www/index.html", include_str!("../../examples/site/www/index.html")),
    ("www/style.css", include_str!("../../examples/site/www/style.css")),
];

/// The manifest template.
const MANIFEST: &str = include_str!("../../examples/site/desired-state.toml");

/// Why the example cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The build script could not compile the example application.
    #[error(
        "this abide was built without the example application, which needs a static C library (Debian \
        and Ubuntu: libc6-dev, Fedora: glibc-static) or a musl target of Rust (`rustup target add \
        {}-unknown-linux-musl`): install one, run `cargo clean --package abide`, and build again",
        std::env::consts::ARCH
    )]
    NoSite,
    /// A file or folder of the example could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// git is not installed.
    #[error("cannot start git: is it installed?")]
    NoGit(#[source] io::Error),
    /// A git command failed.
    #[error("git {step} failed: {message}")]
    Git {
        /// The first words of the command.
        step: String,
        /// Its output.
        message: String,
    },
}

/// The example repository on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExampleRepository {
    /// The bare repository that users push to and environments track.
    pub bare: PathBuf,
    /// A working copy of it, on the branch `dev`, to edit and push from.
    pub work: PathBuf,
}

/// Returns the example application of this build.
///
/// # Errors
/// [`DemoError::NoSite`] if the build had no compiler for it.
pub fn site() -> Result<&'static [u8], DemoError> {
    // The comparison is constant within one build, but differs between builds.
    #[allow(clippy::const_is_empty)]
    if SITE.is_empty() { Err(DemoError::NoSite) } else { Ok(SITE) }
}

/// Creates the example repository in `dir`, which may exist but must not contain `keepwork.git` or
/// `work` yet. It has one commit; both `dev` and `master` point to it.
///
/// The git configuration of the user and the host has no effect. The working copy has its own
/// identity, so that a commit works even if git was never configured.
///
/// # Errors
/// [`DemoError`], which names the step. Everything created until then stays.
pub fn create(dir: &Path, site_binary: &[u8]) -> Result<ExampleRepository, DemoError> {
    if site_binary.is_empty() {
        return Err(DemoError::NoSite);
    }
    let made = ExampleRepository { bare: dir.join("keepwork.git"), work: dir.join("work") };
    for folder in [&made.bare, &made.work] {
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::create_dir(folder))
            .map_err(|source| DemoError::Write { path: folder.clone(), source })?;
    }
    // Without a template, because the user's template may contain hooks.
    git(&made.bare, ["init", "--quiet", "--bare", "--template=", "."])?;
    git(&made.work, ["init", "--quiet", "--template=", "."])?;
    for repository in [&made.bare, &made.work] {
        git(repository, ["symbolic-ref", "HEAD", "refs/heads/master"])?;
    }
    write_files(&made.work, site_binary)?;
    commit_and_push(&made)?;
    Ok(made)
}

fn write_files(work: &Path, site_binary: &[u8]) -> Result<(), DemoError> {
    for (name, text) in FILES {
        write(&work.join(name), text.as_bytes())?;
    }
    let program = work.join(PROGRAM);
    write(&program, site_binary)?;
    make_executable(&program).map_err(|source| DemoError::Write { path: program, source })
}

fn write(path: &Path, content: &[u8]) -> Result<(), DemoError> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::write(path, content))
        .map_err(|source| DemoError::Write { path: path.to_owned(), source })
}

fn make_executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

fn commit_and_push(made: &ExampleRepository) -> Result<(), DemoError> {
    let ExampleRepository { bare, work } = made;
    for (key, value) in [
        ("user.name", "abide demo"),
        ("user.email", "demo@abide.invalid"),
        ("commit.gpgsign", "false"),
        ("push.default", "simple"),
    ] {
        git(work, ["config", key, value])?;
    }
    let add_remote = ["remote", "add", "origin"].map(OsStr::new);
    git(work, add_remote.into_iter().chain([bare.as_os_str()]))?;
    // Forced, because a global ignore file must not exclude parts of the example.
    git(work, ["add", "--all", "--force", "."])?;
    // Set explicitly, because a file system may not store the executable bit.
    git(work, ["update-index", "--chmod=+x", "--", PROGRAM])?;
    git(work, ["commit", "--quiet", "--message", "The example site"])?;
    git(work, ["checkout", "--quiet", "-b", "dev"])?;
    git(work, ["push", "--quiet", "--set-upstream", "origin", "master", "dev"])
}

/// Runs git in `folder`, with only `PATH` of this process's environment.
fn git<I, S>(folder: &Path, arguments: I) -> Result<(), DemoError>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new("git");
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env_clear();
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1"), ("LC_ALL", "C")]);
    let output = command.output().map_err(DemoError::NoGit)?;
    if output.status.success() {
        return Ok(());
    }
    let step = command.get_args().take(1).map(OsStr::to_string_lossy).collect();
    Err(DemoError::Git { step, message: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

/// The values for the manifest template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestWords<'a> {
    /// The prefix of the name of every container, volume and network; may be empty.
    pub prefix: &'a str,
    /// The path of the bare repository.
    pub repository: &'a str,
    /// The polling interval of the branches, in humantime format; `0s` disables polling.
    pub poll: &'a str,
    /// The ports of dev, test and prod on the loopback address.
    pub ports: [u16; 3],
}

/// Returns the example's manifest, ready to write to a desired-state folder.
pub fn manifest(words: &ManifestWords<'_>) -> String {
    let [dev, test, prod] = words.ports.map(|port| port.to_string());
    let quoted = words.repository.replace('\\', r"\\").replace('"', "\\\"");
    // The path is replaced last, so that nothing in it counts as a placeholder.
    [
        ("@PREFIX@", words.prefix),
        ("@POLL@", words.poll),
        ("@DEV_PORT@", &dev),
        ("@TEST_PORT@", &test),
        ("@PROD_PORT@", &prod),
        ("@REPOSITORY@", &quoted),
    ]
    .iter()
    .fold(MANIFEST.to_owned(), |text, (word, value)| text.replace(word, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns git's output for a query about `folder`, without any configuration.
    fn ask(folder: &Path, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(folder);
        command.envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn dev_and_master_begin_at_the_same_commit_and_the_working_copy_is_on_dev() {
        let dir = tempfile::tempdir().unwrap();
        let made = create(dir.path(), b"program").unwrap();
        let head = ask(&made.work, &["rev-parse", "HEAD"]);
        for branch in ["refs/heads/dev", "refs/heads/master"] {
            assert_eq!(ask(&made.bare, &["rev-parse", branch]), head);
        }
        assert_eq!(ask(&made.work, &["symbolic-ref", "--short", "HEAD"]), "dev");
        assert_eq!(ask(&made.bare, &["symbolic-ref", "HEAD"]), "refs/heads/master");
        assert_eq!(ask(&made.work, &["status", "--porcelain"]), "");
    }

    #[test]
    fn the_repository_contains_the_program_as_an_executable() {
        let dir = tempfile::tempdir().unwrap();
        let made = create(dir.path(), b"program").unwrap();
        let tree = ask(&made.bare, &["ls-tree", "-r", "dev"]);
        assert!(tree.lines().any(|line| line.starts_with("100755") && line.ends_with("bin/site")), "{tree}");
        assert_eq!(tree.lines().count(), FILES.len() + 1);
        assert_eq!(ask(&made.bare, &["show", "dev:bin/site"]), "program");
    }

    #[test]
    fn the_demo_repository_works_without_any_git_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let made = create(dir.path(), b"program").unwrap();
        std::fs::write(made.work.join("www/index.html"), "changed").unwrap();
        ask(&made.work, &["commit", "--quiet", "--all", "--message", "A change"]);
        ask(&made.work, &["push", "--quiet"]);
        assert_eq!(ask(&made.bare, &["show", "dev:www/index.html"]), "changed");
        assert_ne!(ask(&made.bare, &["show", "master:www/index.html"]), "changed");
    }

    #[test]
    fn an_existing_demo_repository_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let made = create(dir.path(), b"program").unwrap();
        let head = ask(&made.bare, &["rev-parse", "dev"]);
        assert!(matches!(create(dir.path(), b"other"), Err(DemoError::Write { .. })));
        assert_eq!(ask(&made.bare, &["rev-parse", "dev"]), head);
    }

    #[test]
    fn a_build_without_the_example_application_names_the_missing_target() {
        let dir = tempfile::tempdir().unwrap();
        let error = create(dir.path(), b"").unwrap_err();
        assert!(error.to_string().contains("rustup target add"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_failed_git_step_is_reported_with_gits_message() {
        let dir = tempfile::tempdir().unwrap();
        let error = git(dir.path(), ["push", "--quiet"]).unwrap_err();
        assert!(error.to_string().starts_with("git push failed: "), "{error}");
    }

    #[test]
    fn the_demo_manifest_is_valid_toml_without_placeholders() {
        let repository = r#"/tmp/a "b" \ @PREFIX@/keepwork.git"#;
        let words = ManifestWords { prefix: "t-", repository, poll: "5s", ports: [1, 2, 3] };
        let text = manifest(&words);
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table["repository"]["keepwork"]["url"].as_str(), Some(repository));
        let environment = |name: &str| table["environment"][name].clone();
        assert_eq!(environment("dev")["publish"].as_str(), Some("127.0.0.1:1"));
        assert_eq!(environment("test")["container"].as_str(), Some("t-test-server"));
        assert_eq!(environment("prod")["promote_from"].as_str(), Some("test"));
        let without_url = text.replace("@PREFIX@/keepwork.git", "");
        assert!(!without_url.lines().any(|line| !line.starts_with('#') && line.contains('@')), "{text}");
    }
}
