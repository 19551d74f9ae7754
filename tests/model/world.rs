//! The world of one scenario: a manifest, a daemon, perhaps an agent, and what the model knows of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::arena::Arena;
use super::common::{Cable, FakeClock, Fault, Host, Proxy, SITE_PORT};
use super::process::{AgentStart, Process, Start, ask, verb};
use super::scenario::{Flaw, Key, Place, WorldParts};
use super::versions::settings;
use super::witness::{SiteAddress, Witness};

/// The daemon's port in its namespace.
const LISTEN: u16 = 18_000;
/// The proxy's port for host names.
const HTTP: u16 = 80;
/// The agent's name.
const AGENT: &str = "online";
/// The repository's name in the manifest.
pub(crate) const REPOSITORY: &str = "app";

/// What happens to requests to the engine: a fault, and how many requests it still strikes.
pub(crate) type Mischief = Arc<Mutex<Option<(Fault, u8)>>>;

/// A scenario's daemon, engine, environments and history.
pub(crate) struct World<'a> {
    pub(crate) arena: &'a mut Arena,
    /// The first part of every name.
    pub(crate) prefix: String,
    pub(crate) desired_state: PathBuf,
    pub(crate) branch: String,
    pub(crate) process: Option<Process>,
    pub(crate) parts: WorldParts,
    pub(crate) agent: Option<ModelAgent>,
    /// A client of the proxy, if there is one.
    pub(crate) witness: Option<Witness>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) mischief: Mischief,
    pub(crate) is_frozen: bool,
    pub(crate) is_manifest_bad: bool,
    /// Whether images were removed since the last rest.
    pub(crate) has_lost_images: bool,
    /// The id of a container that is not abide's, unless somebody pruned containers.
    pub(crate) foreign: Option<String>,
    proxy: Proxy,
    pub(crate) clock: FakeClock,
}

/// The agent on the second host.
pub(crate) struct ModelAgent {
    pub(crate) process: Option<Process>,
    folder: PathBuf,
    token: String,
    engine: Proxy,
}

/// A commit of the branch.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) id: String,
    pub(crate) page: String,
    pub(crate) flaw: Option<Flaw>,
}

/// What people declared last of an environment, beside its name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) env: u32,
    pub(crate) has_secret: bool,
    pub(crate) memory: u32,
    pub(crate) cpus: u32,
    pub(crate) pids: u32,
    pub(crate) is_without_init: bool,
    pub(crate) stop_timeout: u32,
    pub(crate) publish: u16,
    pub(crate) extra_hosts: u32,
    pub(crate) has_more_volumes: bool,
    pub(crate) command: u32,
    pub(crate) is_stop_first: bool,
    pub(crate) health: u32,
}

/// An acknowledged write.
#[derive(Clone, Debug)]
pub(crate) struct Acked {
    pub(crate) generation: u64,
    pub(crate) origin: &'static str,
    pub(crate) image: Option<String>,
    pub(crate) commit: Option<String>,
}

/// Whether an environment is held, as far as the model knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Free,
    /// What the first rest after it showed: the page, and the variable of the manifest.
    Held(Option<(Option<String>, String)>),
    /// A verb was not acknowledged.
    Unknown,
}

/// An environment.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) container: String,
    pub(crate) options: Options,
    pub(crate) is_declared: bool,
    pub(crate) acked: Vec<Acked>,
    pub(crate) attempts: u32,
    pub(crate) hold: Hold,
    /// The newest head that was pushed.
    pub(crate) head: Option<String>,
    /// The largest generation that was seen.
    pub(crate) newest: u64,
    /// Every generation that was seen.
    pub(crate) seen: BTreeMap<u64, Value>,
    /// The page at the last rest.
    pub(crate) last_page: Option<String>,
    /// Whether the agent's host runs it.
    pub(crate) is_away: bool,
    /// Whether it served on the host that it left, which has to go on.
    pub(crate) has_left_page: bool,
    /// All volumes that its containers ever had, on each host.
    pub(crate) volumes: [BTreeSet<String>; 2],
    /// The volume of the path that only the image declares, on each host.
    pub(crate) kept: [Option<String>; 2],
    renames: u32,
}

impl Slot {
    fn new(place: Place, prefix: &str) -> Self {
        let name = ["dev", "test", "prod"][place];
        Self {
            place,
            name: name.to_owned(),
            container: format!("{prefix}{name}"),
            options: Options::default(),
            is_declared: true,
            acked: Vec::new(),
            attempts: 0,
            hold: Hold::Free,
            head: None,
            newest: 0,
            seen: BTreeMap::new(),
            last_page: None,
            is_away: false,
            has_left_page: false,
            volumes: Default::default(),
            kept: Default::default(),
            renames: 0,
        }
    }

    /// The port on its host.
    pub(crate) fn port(&self) -> u16 {
        20_000 + u16::try_from(self.place).unwrap() * 10 + self.options.publish
    }

    /// A new record begins: under another name, or after the old one was forgotten.
    pub(crate) fn reset_record(&mut self) {
        self.acked.clear();
        self.attempts = 0;
        self.hold = Hold::Free;
        self.newest = 0;
        self.seen.clear();
    }

    /// The host name that the proxy serves it by.
    pub(crate) fn hostname(&self) -> String {
        format!("place-{}.example", self.place)
    }

    /// It moves to the other host: what runs here stays.
    pub(crate) fn moves(&mut self) {
        self.is_away = !self.is_away;
        self.has_left_page = self.last_page.take().is_some();
        if let Hold::Held(shown) = &mut self.hold {
            *shown = None;
        }
    }

    /// Somebody changed its containers by hand. Nobody heals those that left the manifest.
    pub(crate) fn is_touched(&mut self) {
        if !self.is_declared {
            self.last_page = None;
        }
    }

    /// Gives it another name.
    pub(crate) fn rename(&mut self) {
        self.renames += 1;
        self.name = format!("{}-{}", ["dev", "test", "prod"][self.place], self.renames);
        self.reset_record();
    }

    /// Changes one key.
    pub(crate) fn edit(&mut self, key: Key) {
        let options = &mut self.options;
        match key {
            Key::Env => options.env += 1,
            Key::Secret => options.has_secret ^= true,
            Key::Memory => options.memory = (options.memory + 1) % 3,
            Key::Cpus => options.cpus = (options.cpus + 1) % 3,
            Key::Pids => options.pids = (options.pids + 1) % 3,
            Key::Init => options.is_without_init ^= true,
            Key::StopTimeout => options.stop_timeout = (options.stop_timeout + 1) % 3,
            Key::Publish => options.publish = (options.publish + 1) % 3,
            Key::ExtraHosts => options.extra_hosts = (options.extra_hosts + 1) % 3,
            Key::Volumes => options.has_more_volumes ^= true,
            Key::Command => options.command = (options.command + 1) % 3,
            Key::Update => options.is_stop_first ^= true,
            Key::Health => options.health = (options.health + 1) % 3,
        }
    }

    fn declaration(&self, prefix: &str, has_front: bool) -> String {
        let Self { name, container, options, place, .. } = self;
        let (port, env) = (self.port(), options.env);
        let mut text = format!(
            "[environment.{name}]\ncontainer = \"{container}\"\nport = {SITE_PORT}\npublish = {port}\nenv = {{ MODEL = \"{env}\""
        );
        text.push_str(if options.has_secret {
            ", TOKEN = { secret_env = \"MODEL_SECRET\" } }\n"
        } else {
            " }\n"
        });
        let mut line = |is_there: bool, line: String| {
            if is_there {
                writeln!(text, "{line}").unwrap();
            }
        };
        line(options.memory > 0, format!("memory = \"{}MiB\"", 64 * options.memory));
        line(options.cpus > 0, format!("cpus = {}.5", options.cpus));
        line(options.pids > 0, format!("pids = {}", 64 * options.pids));
        line(options.is_without_init, "init = false".to_owned());
        // Without an init, the program gets no signal at a stop.
        line(true, format!("stop_timeout = \"{}s\"", 1 + options.stop_timeout));
        line(
            options.extra_hosts > 0,
            format!("extra_hosts = [\"a.example:10.9.8.{}\"]", options.extra_hosts),
        );
        line(options.command > 0, format!("command = [\"name-{}\"]", options.command));
        line(options.is_stop_first, "update = \"stop-first\"".to_owned());
        line(has_front && !options.is_stop_first, "update = \"start-first\"".to_owned());
        line(has_front, format!("hostname = \"{}\"", self.hostname()));
        line(self.is_away, format!("host = \"{AGENT}\""));
        let more = match options.has_more_volumes {
            true => format!(", \"{prefix}{place}-more:/more\""),
            false => String::new(),
        };
        line(true, format!("volumes = [\"{prefix}{place}-data:/data\"{more}]"));
        let (path, healthy_for) = [("/", 200), ("/index.html", 200), ("/", 500)][options.health as usize];
        line(
            true,
            format!(
                "health = {{ http = \"{path}\", interval = \"100ms\", timeout = \"1s\", start_deadline = \"4s\", \
                 healthy_for = \"{healthy_for}ms\" }}"
            ),
        );
        text
    }
}

impl<'a> World<'a> {
    /// A folder, a branch with one commit, and a daemon.
    pub(crate) fn new(arena: &'a mut Arena, parts: WorldParts) -> Result<Self, String> {
        arena.add(parts);
        arena.count += 1;
        let prefix = format!("m{}-", arena.count);
        let folder = arena.folder(&prefix);
        let desired_state = arena.disk.path.join(format!("{prefix}desired-state"));
        std::fs::create_dir(&desired_state).unwrap();
        let proxy = Proxy::before(&folder, arena.host.socket());
        let clock = FakeClock::new(&folder);
        let slots = (0..3).map(|place| Slot::new(place, &prefix)).collect();
        let branch = format!("{prefix}branch");
        let agent = parts.has_agent.then(|| ModelAgent::new(arena, &folder, parts));
        let mut world = Self {
            parts,
            agent,
            witness: parts.has_front.then(Witness::start),
            arena,
            prefix,
            desired_state,
            branch,
            process: None,
            slots,
            commits: Vec::new(),
            mischief: Mischief::default(),
            is_frozen: false,
            is_manifest_bad: false,
            has_lost_images: false,
            foreign: None,
            proxy,
            clock,
        };
        let mischief = Arc::clone(&world.mischief);
        world.proxy.rule(move |_| strike(&mischief));
        if let Some(agent) = &world.agent {
            let mischief = Arc::clone(&world.mischief);
            agent.engine.rule(move |_| strike(&mischief));
        }
        let stranger = format!("{}stranger", world.prefix);
        let image = &world.arena.versions[0].id;
        let run = ["run", "--detach", "--network", "none", "--name", &stranger, image];
        world.foreign = Some(world.arena.host.docker(&run));
        world.commit(None);
        world.declare();
        world.start(None)?;
        if let Some(agent) = &mut world.agent {
            let ran = verb(&world.desired_state, &["token", "create", "--agent", AGENT]);
            let made: Value =
                serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {ran:?}"))?;
            agent.token = made["token"].as_str().ok_or_else(|| format!("no token: {made}"))?.to_owned();
            world.start_agent(None);
        }
        Ok(world)
    }

    /// The address of the daemon. Only an agent connects from another host.
    fn listen(&self) -> String {
        let address = if self.parts.has_agent { Cable::FIRST } else { "127.0.0.1" };
        format!("{address}:{LISTEN}")
    }

    /// Starts the agent.
    pub(crate) fn start_agent(&mut self, failpoint: Option<String>) {
        let controller = self.listen();
        let (Some(agent), Some(other)) = (&mut self.agent, &self.arena.other) else { return };
        let start = AgentStart {
            folder: &agent.folder,
            engine: agent.engine.host(),
            controller,
            token: &agent.token,
            failpoint,
        };
        agent.process = Some(Process::start_agent(&other.host, &start));
    }

    /// Kills the agent, if one runs.
    pub(crate) fn kill_agent(&mut self) {
        if let Some(process) = self.agent.as_mut().and_then(|agent| agent.process.take()) {
            process.kill();
        }
    }

    /// The agent's host or the controller's.
    pub(crate) fn host(&self, is_away: bool) -> &Host {
        let other = self.arena.other.as_ref().filter(|_| is_away);
        other.map_or(&self.arena.host, |other| &other.host)
    }

    /// The host that an environment is declared on.
    pub(crate) fn host_of(&self, slot: &Slot) -> &Host {
        self.host(slot.is_away)
    }

    /// Whether each host has an environment's containers: the controller's, and the agent's.
    pub(crate) fn sides(&self) -> &'static [bool] {
        if self.parts.has_agent { &[false, true] } else { &[false] }
    }

    /// The place of an environment at the proxy.
    pub(crate) fn target(&self, slot: &Slot) -> SiteAddress {
        SiteAddress { address: self.host_of(slot).address().to_owned(), port: HTTP, name: slot.hostname() }
    }

    /// Commits a new page to the branch.
    pub(crate) fn commit(&mut self, flaw: Option<Flaw>) -> Commit {
        let page = format!("{}page {}", self.prefix, self.commits.len());
        let dockerfile = "FROM scratch\nCOPY bin/site /site\nCOPY www /www\nCOPY site.env /site.env\nVOLUME /kept\n\
                          ENTRYPOINT [\"/site\", \"serve\", \"--root\", \"/www\", \"--settings\", \"/site.env\"]\n";
        let files = [
            ("Dockerfile", dockerfile),
            ("www/index.html", &page),
            ("site.env", &settings(flaw).iter().map(|line| format!("{line}\n")).collect::<String>()),
        ];
        let id = self.arena.repo.commit_and_push(&self.branch, &files);
        let commit = Commit { id, page, flaw };
        self.commits.push(commit.clone());
        self.slots[0].head = Some(commit.id.clone());
        commit
    }

    /// Writes the manifest.
    pub(crate) fn declare(&mut self) {
        let (prefix, url, branch) = (&self.prefix, self.arena.repo.url(), &self.branch);
        let mut text = format!(
            "[docker]\nnetwork = \"{prefix}net\"\n[repository.{REPOSITORY}]\nurl = \"{url}\"\npoll = \"5s\"\n\
             webhook = {{ provider = \"github\", secret_env = \"ABIDE_TEST_WEBHOOK_SECRET\" }}\n"
        );
        if self.parts.has_front {
            text.push_str(&front(self.arena));
        }
        for slot in self.slots.iter().filter(|slot| slot.is_declared) {
            text.push_str(&slot.declaration(prefix, self.parts.has_front));
            match slot.place {
                0 => {
                    writeln!(text, "source = {{ repository = \"{REPOSITORY}\", branch = \"{branch}\" }}")
                        .unwrap();
                }
                2 => writeln!(text, "promote_from = \"{}\"", self.slots[1].name).unwrap(),
                _ => {}
            }
        }
        if self.write_manifest(&text) {
            self.is_manifest_bad = false;
        }
    }

    /// Writes the manifest's file in one step, as an editor does; `false` on a full disk.
    pub(crate) fn write_manifest(&self, text: &str) -> bool {
        let path = self.desired_state.join("model.toml");
        let fresh = path.with_extension("new");
        // A full disk is one of the faults; the next rest writes it again.
        let is_written = std::fs::write(&fresh, text).is_ok();
        if is_written {
            std::fs::rename(fresh, path).unwrap();
        }
        is_written
    }

    /// Starts a daemon.
    pub(crate) fn start(&mut self, failpoint: Option<String>) -> Result<(), String> {
        let start = Start {
            desired_state: &self.desired_state,
            engine: self.proxy.host(),
            listen: self.listen(),
            clock: &self.clock,
            failpoint,
        };
        self.process = Some(Process::start(&self.arena.host, &start)?);
        Ok(())
    }

    /// Kills the daemon, if one runs.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Announces a commit of the branch; gives the status of the answer.
    pub(crate) fn announce(&self, commit: &str) -> Option<u16> {
        let message = super::common::push_message(REPOSITORY, super::common::SECRET, &self.branch, commit);
        let mut command = self.arena.host.command("timeout");
        if self.parts.has_agent {
            command.args(["10", "openssl", "s_client", "-quiet", "-connect", &self.listen()]);
        } else {
            let script = "exec 3<>/dev/tcp/127.0.0.1/$0 && cat >&3 && cat <&3";
            command.args(["10", "bash", "-c", script, &LISTEN.to_string()]);
        }
        let piped = std::process::Stdio::piped;
        let mut child =
            command.stdin(piped()).stdout(piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), &message);
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).split(' ').nth(1)?.parse().ok()
    }

    /// The version that an entry of a history names: its page and its flaw.
    pub(crate) fn version(&self, entry: &Value) -> Option<(String, Option<Flaw>)> {
        let revision = entry["revision"].as_str();
        let of_commit = self.commits.iter().find(|commit| Some(commit.id.as_str()) == revision);
        let of_image = self.arena.versions.iter().find(|version| version.is_named_by(&entry["image"]));
        of_commit
            .map(|commit| (commit.page.clone(), commit.flaw))
            .or_else(|| of_image.map(|version| (version.page.clone(), version.flaw)))
    }

    /// The status of an environment.
    pub(crate) fn view(&self, slot: &Slot) -> Option<Value> {
        ask(&self.desired_state, &format!("/api/v1/environments/{}", slot.name))
    }

    /// The history of an environment, newest first.
    pub(crate) fn history(&self, slot: &Slot) -> Option<Vec<Value>> {
        let answer = ask(&self.desired_state, &format!("/api/v1/environments/{}/history", slot.name))?;
        answer.as_array().cloned()
    }

    /// The end of the daemon's log, and of the agent's.
    pub(crate) fn log(&self) -> String {
        let end = |log: String| {
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("\"DEBUG\"")).collect();
            lines[lines.len().saturating_sub(60)..].join("\n")
        };
        self.logs().map(end).collect::<Vec<_>>().join("\n--- the agent's log\n")
    }

    fn logs(&self) -> impl Iterator<Item = String> {
        let folders =
            std::iter::once(&self.desired_state).chain(self.agent.iter().map(|agent| &agent.folder));
        folders.map(|folder| std::fs::read_to_string(folder.with_extension("log")).unwrap_or_default())
    }

    /// Whether the daemon or the agent panicked.
    pub(crate) fn has_panicked(&self) -> bool {
        self.logs().any(|log| log.contains("panicked at"))
    }

    /// The folder of running builds is empty.
    pub(crate) fn has_no_work(&self) -> bool {
        is_empty(&self.desired_state.join("record/work"))
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        if self.is_frozen {
            self.arena.host.signal_engine(rustix::process::Signal::CONT);
        }
        *self.mischief.lock().unwrap() = None;
        self.witness = None;
        self.kill_agent();
        self.kill();
        self.arena.disk.free();
        super::play::bring_source_back(self);
        if let Some(other) = &self.arena.other {
            other.cable.repair();
        }
        self.arena.clear();
        self.arena.restore();
        let _ = std::fs::remove_dir_all(&self.desired_state);
    }
}

impl ModelAgent {
    fn new(arena: &Arena, folder: &Path, parts: WorldParts) -> Self {
        let (folder, sockets) = (folder.join("agent"), folder.join("sockets"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::create_dir(&sockets).unwrap();
        if parts.has_front {
            std::fs::write(folder.join("policy.toml"), front(arena)).unwrap();
        }
        let engine = Proxy::before(&sockets, arena.other.as_ref().unwrap().host.socket());
        Self { process: None, folder, token: String::new(), engine }
    }
}

/// The declaration of a proxy, in a manifest or a policy.
fn front(arena: &Arena) -> String {
    format!("[front]\nimage = \"{}\"\nhttp = {HTTP}\ndrain = \"1s\"\n", arena.nginx())
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

fn strike(mischief: &Mischief) -> Fault {
    let mut mischief = mischief.lock().unwrap();
    let Some((fault, left)) = *mischief else { return Fault::None };
    *mischief = (left > 1).then(|| (fault, left - 1));
    fault
}
