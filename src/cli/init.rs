//! `abide init`: writes a manifest from a compose file or for a Dockerfile. It never overwrites a file.

mod git;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::exit::{CliError, CliExit};
use super::output::text::{counted, one_line};
use super::session::CliSession;
use crate::compose::{self, ComposeInput, Converted, RunningService};

const EXAMPLES: &str = "\
Examples:
  abide init
  abide init --from compose.yaml
  abide init --from compose.yaml --from compose.prod.yaml --env-file prod.env --out /etc/abide

Without --from, writes the smallest manifest for the Dockerfile in this folder's repository. With \
--from, reads the compose files as compose does, and writes one environment for each service. Refers \
to secrets, and never copies them. Lists services that a manifest cannot express, with the reason, \
and leaves them out. Never overwrites a file.";

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 1 << 20;
/// The files that compose reads by default, in its order.
const COMPOSE_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// The arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InitArgs {
    /// Read this compose file; repeat for files that override it
    #[arg(short, long, value_name = "FILE")]
    from: Vec<PathBuf>,
    /// Read variables from FILE instead of `.env`; repeat for more
    #[arg(long, value_name = "FILE", requires = "from")]
    env_file: Vec<PathBuf>,
    /// Include the services of a profile; repeat for more, `*` for all
    #[arg(long, value_name = "NAME", requires = "from")]
    profile: Vec<String>,
    /// Name of the compose project, if it was started with another name
    #[arg(short, long, value_name = "NAME", requires = "from")]
    project_name: Option<String>,
    /// Folder of the manifest [default: that of --desired-state]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Exit with 1 if anything is lost or has no value
    #[arg(long, requires = "from")]
    strict: bool,
}

/// The output of `-o json`.
#[derive(Serialize)]
struct InitOutput<'a> {
    manifest: &'a Path,
    #[serde(flatten)]
    converted: Option<&'a Converted>,
}

pub(crate) async fn run(args: &InitArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let out = absolute(args.out.as_deref().unwrap_or(&session.desired_state))?;
    if args.from.is_empty() {
        return smallest(&out, session);
    }
    let converted = read_compose(args, &out, &running(session).await)?;
    if converted.manifest.is_empty() || converted.services.iter().all(|service| service.environment.is_none())
    {
        report(session, &converted);
        return Err(CliError::No(
            "no service of the project can be expressed, so nothing was written".to_owned(),
        ));
    }
    let path = out.join(format!("{}.toml", converted.project));
    let files = converted.files.iter().map(|(name, text)| (out.join(name), text.as_str()));
    write_new(files.chain([(path.clone(), converted.manifest.as_str())]).collect())?;
    if session.console.is_json() {
        session.console.json(&InitOutput { manifest: &path, converted: Some(&converted) })?;
    } else {
        session.console.data(&format!("wrote {}", path.display()))?;
        report(session, &converted);
        next_commands(session, &out, "adopt")?;
    }
    let has_values = converted.missing.is_empty() && converted.empty.is_empty();
    let is_complete = has_values && converted.services.iter().all(|it| it.lost.is_empty());
    match args.strict && !is_complete {
        true => Err(CliError::No("some services cannot be expressed, or a variable has no value".to_owned())),
        false => Ok(CliExit::Done),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|source| CliError::Input { path: path.display().to_string(), source })
}

/// The containers of compose on this host. Without an engine, abide uses compose's rule for their names.
async fn running(session: &CliSession) -> Vec<RunningService> {
    let found = (session.entry.compose_containers)().await.unwrap_or_default();
    let running = found.into_iter().map(|it| RunningService {
        project: it.project,
        service: it.service,
        name: it.name,
    });
    running.collect()
}

/// Converts the named compose files.
fn read_compose(args: &InitArgs, out: &Path, running: &[RunningService]) -> Result<Converted, CliError> {
    let all = |paths: &[PathBuf]| paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>();
    convert_files(
        &all(&args.from)?,
        &all(&args.env_file)?,
        &args.profile,
        args.project_name.as_deref(),
        out,
        running,
    )
}

/// Converts compose files with the variables of this process.
fn convert_files(
    files: &[PathBuf],
    env_files: &[PathBuf],
    profiles: &[String],
    project: Option<&str>,
    out: &Path,
    running: &[RunningService],
) -> Result<Converted, CliError> {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let dir = files.first().and_then(|file| file.parent()).map(Path::to_owned).unwrap_or_default();
    let platform = platform();
    let input = ComposeInput {
        files,
        env_files,
        environment: &environment,
        profiles,
        project,
        out,
        checkout: git::checkout(&dir),
        running,
        platform: &platform,
        read: &read_file,
        exists: &|path| path.exists(),
    };
    compose::convert(&input).map_err(|error| CliError::Usage(one_line(&error.to_string())))
}

/// This host's platform in the engine's words.
fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

/// Reads a regular file of limited size.
fn read_file(path: &Path) -> io::Result<String> {
    let file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    file.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

/// Writes files that do not exist yet: all of them or none.
fn write_new(files: Vec<(PathBuf, &str)>) -> Result<(), CliError> {
    if let Some((path, _)) = files.iter().find(|(path, _)| path.symlink_metadata().is_ok()) {
        let words = format!(
            "{} exists already: remove it first, or choose another folder with --out",
            path.display()
        );
        return Err(CliError::Usage(words));
    }
    for (path, text) in files {
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
            file.write_all(text.as_bytes())
        });
        written.map_err(|error| CliError::No(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(())
}

/// Reports what changed, what is lost and what is left to do.
fn report(session: &mut CliSession, converted: &Converted) {
    let mut print = |line: String| session.console.talk(&one_line(&line));
    let written = converted.services.iter().filter(|service| service.environment.is_some()).count();
    print(format!("{written} of {}", counted(converted.services.len(), "service", "services")));
    for service in &converted.services {
        let lost = service.lost.iter().map(|why| format!("lost    {}: {why}", service.service));
        let first = service.first.iter().map(|what| format!("first   {}: {what}", service.service));
        let notes = service.notes.iter().map(|what| format!("note    {}: {what}", service.service));
        lost.chain(first).chain(notes).for_each(&mut print);
    }
    for (service, profiles) in &converted.off {
        print(format!("off     {service}: select one of its profiles with --profile ({profiles})"));
    }
    for (variable, message) in &converted.missing {
        print(format!(
            "unset   {variable}: {}",
            if message.is_empty() { "the file requires it" } else { message }
        ));
    }
    for (variable, place) in &converted.secrets {
        print(format!("secret  {variable}: set it in the daemon's environment (its value is in {place})"));
    }
}

/// Prints the next commands.
fn next_commands(session: &mut CliSession, out: &Path, third: &str) -> Result<(), CliError> {
    let folder = out.display();
    session.console.data("next:")?;
    session.console.data(&format!("  abide check --desired-state {folder}"))?;
    session.console.data(&format!("  abide daemon --desired-state {folder}"))?;
    session.console.data(&format!("  abide {third} --desired-state {folder}"))?;
    Ok(())
}

/// Writes the smallest manifest for the Dockerfile of a repository.
fn smallest(out: &Path, session: &mut CliSession) -> Result<CliExit, CliError> {
    let here = absolute(Path::new("."))?;
    if !here.join("Dockerfile").is_file() {
        let found = COMPOSE_FILES.iter().find(|file| here.join(file).is_file());
        return Err(CliError::Usage(match found {
            Some(file) => {
                format!("there is no Dockerfile here, but a {file}: run `abide init --from {file}`")
            }
            None => {
                "there is no Dockerfile here: run it in a repository with one, or name a compose file with \
                     --from"
                    .to_owned()
            }
        }));
    }
    let checkout = git::checkout(&here);
    if !checkout.is_known {
        let words = "this folder is not in a git repository, and abide builds from commits: run `git init` and commit";
        return Err(CliError::Usage(words.to_owned()));
    }
    let folder =
        checkout.root.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String =
        folder.chars().map(plain).collect::<String>().trim_matches('-').chars().take(40).collect();
    let name = if name.len() < 2 { "app".to_owned() } else { name };
    let port = read_file(&here.join("Dockerfile")).ok().and_then(|text| exposed(&text));
    let context = here.strip_prefix(&checkout.root).ok().filter(|inside| !inside.as_os_str().is_empty());
    let text = compose::smallest(&name, &checkout, port, context);
    let path = out.join(format!("{name}.toml"));
    write_new(vec![(path.clone(), &text)])?;
    if session.console.is_json() {
        session.console.json(&InitOutput { manifest: &path, converted: None })?;
        return Ok(CliExit::Done);
    }
    session.console.data(&format!("wrote {}", path.display()))?;
    next_commands(session, out, &format!("wait {name}"))?;
    Ok(CliExit::Done)
}

/// The first TCP port that a Dockerfile exposes.
fn exposed(dockerfile: &str) -> Option<u16> {
    dockerfile.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_expose = words.next()?.eq_ignore_ascii_case("expose");
        words.filter(|_| is_expose).find_map(|word| word.trim_end_matches("/tcp").parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_dockerfile_is_found() {
        assert_eq!(exposed("FROM x\n# EXPOSE 1\nexpose 8080/tcp 9090\n"), Some(8080));
        assert_eq!(exposed("EXPOSE 53/udp 80"), Some(80));
        assert_eq!(exposed("FROM x\nEXPOSE $PORT\n"), None);
    }

    #[test]
    fn an_existing_file_prevents_writing_any_file() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("new/one"), folder.path().join("two"));
        fs::write(&two, "mine").unwrap();
        let error = write_new(vec![(one.clone(), "a"), (two.clone(), "b")]).unwrap_err().to_string();
        assert!(error.contains("exists already"), "{error}");
        assert_eq!((one.exists(), fs::read_to_string(&two).unwrap().as_str()), (false, "mine"));
        write_new(vec![(one.clone(), "a")]).unwrap();
        assert_eq!(fs::read_to_string(one).unwrap(), "a");
    }
}
