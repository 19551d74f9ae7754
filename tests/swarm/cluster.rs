//! A daemon on the manager of a swarm, with images in a registry that all nodes reach.

use std::path::PathBuf;

use serde_json::Value;

use crate::common::{
    Daemon, PATIENCE, Registry, SITE_PORT, Space, Swarm, docker, eventually, eventually_some, json, list,
    made_image,
};

/// The parts. The daemon stops before the swarm is removed.
pub(crate) struct Cluster {
    pub(crate) daemon: Option<Daemon>,
    pub(crate) swarm: Swarm,
    pub(crate) registry: Registry,
    pub(crate) desired_state: PathBuf,
    pub(crate) space: Space,
}

impl Cluster {
    /// A swarm of this many nodes, and a daemon on its manager, which declares `prod` with three replicas. `None`, with
    /// a printed reason, if a requirement is missing.
    pub(crate) fn new(nodes: u8) -> Option<Self> {
        let space = Space::new()?;
        let registry = Registry::start_for_all(&space)?;
        let swarm = Swarm::new(&space, nodes);
        let desired_state = space.dir().join("desired-state");
        std::fs::create_dir(&desired_state).unwrap();
        let mut cluster = Self { daemon: None, swarm, registry, desired_state, space };
        cluster.declare("replicas = 3, ports = \"dynamic\"", "");
        cluster.start();
        Some(cluster)
    }

    /// Starts a daemon on the manager.
    pub(crate) fn start(&mut self) {
        let (manager, engine) = (self.swarm.manager(), self.swarm.manager().engine());
        let env = [("DOCKER_HOST", engine.as_str()), ("ABIDE_RESYNC", "1s")];
        self.daemon = Some(Daemon::start_in(manager.namespace(), &self.desired_state, &env));
    }

    /// Replaces the daemon with one that a failpoint kills, makes `change` with it, and waits until it is killed.
    pub(crate) fn cut_short(&mut self, failpoint: &str, change: impl FnOnce(&Daemon)) {
        self.kill();
        let (manager, engine) = (self.swarm.manager(), self.swarm.manager().engine());
        let env = [("DOCKER_HOST", engine.as_str()), ("ABIDE_RESYNC", "1s")];
        let daemon = Daemon::start_doomed_in(manager.namespace(), &self.desired_state, failpoint, &env);
        change(&daemon);
        daemon.await_doom(failpoint);
    }

    /// Kills the daemon.
    pub(crate) fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// The service's name.
    pub(crate) fn name(&self) -> String {
        self.space.name("prod").to_lowercase()
    }

    /// Declares `prod` with these keys of `swarm`, and `more` lines.
    pub(crate) fn declare(&self, swarm: &str, more: &str) {
        self.declare_all(&self.prod(swarm, more));
    }

    /// The declaration of `prod`.
    pub(crate) fn prod(&self, swarm: &str, more: &str) -> String {
        environment("prod", &self.name(), swarm, more)
    }

    /// Replaces the manifest with these environments.
    pub(crate) fn declare_all(&self, environments: &str) {
        let network = self.space.name("abide");
        let host = format!("{}:{}", self.swarm.gateway(), self.registry.port());
        let manifest = format!(
            "[docker]\nnetwork = \"{network}\"\n[registry_access.\"{host}\"]\nplain_http = true\n{environments}"
        );
        // Replaced atomically, as an editor does, so that a daemon never reads half a manifest.
        let fresh = self.desired_state.join("prod.new");
        std::fs::write(&fresh, manifest).unwrap();
        std::fs::rename(fresh, self.desired_state.join("prod.toml")).unwrap();
    }

    // --- actions --------------------------------------------------------------------------------

    /// Pushes an image that serves a page of these words, with more `lines` in its Dockerfile. Returns its name by
    /// digest, as the nodes pull it.
    pub(crate) fn push(&self, words: &str, lines: &str) -> String {
        let id = made_image(&self.space, words, lines);
        let path = format!("{}app", self.space.prefix());
        let tag = format!("{}/{path}:latest", self.registry.host());
        docker(&["tag", &id, &tag]);
        docker(&["push", "--quiet", &tag]);
        let digest = self.registry.digest(&path, "latest").unwrap();
        format!("{}:{}/{path}@{digest}", self.swarm.gateway(), self.registry.port())
    }

    /// Runs a command that must succeed.
    pub(crate) fn abide(&self, arguments: &[&str]) -> String {
        let ran = self.daemon.as_ref().unwrap().abide(arguments);
        assert_eq!(ran.code, 0, "abide {}: {ran:?}", arguments.join(" "));
        ran.stdout
    }

    /// Records an image of prod and waits until it is ready.
    pub(crate) fn deploy(&self, image: &str) {
        self.abide(&["set", "prod", image]);
        self.ready_with(image);
    }

    // --- observations ---------------------------------------------------------------------------

    /// The status of an environment.
    pub(crate) fn view(&self, environment: &str) -> Value {
        let ran = self.daemon.as_ref().unwrap().abide(&["status", environment, "-o", "json"]);
        list(json(&ran)).pop().unwrap()
    }

    /// Returns the first status of an environment that `is_it` accepts.
    pub(crate) fn until_in(&self, environment: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some(what, PATIENCE * 2, || {
                last = self.view(environment);
                is_it(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| {
            let tasks = self.swarm.manager().try_docker(&["service", "ps", "--no-trunc", &self.name()]);
            panic!("{what}: the last status: {last:#}\n{}", tasks.unwrap_or_default())
        })
    }

    pub(crate) fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.until_in("prod", what, is_it)
    }

    /// Waits until prod has this condition and reason at its newest generation.
    pub(crate) fn until_is(&self, condition: &str, reason: &str) -> Value {
        self.until(&format!("prod is {condition} ({reason})"), |view| {
            view["status"] == condition
                && view["reason"] == reason
                && view["observed_generation"] == view["generation"]
        })
    }

    /// Waits until prod is Ready with this image.
    pub(crate) fn ready_with(&self, image: &str) -> Value {
        let digest = image.rsplit_once('@').unwrap().1;
        self.until("prod is ready with the image", |view| {
            view["status"] == "Ready"
                && view["observed_generation"] == view["generation"]
                && view["image"]["digest"] == digest
        })
    }

    /// The running tasks of prod: id, image and node.
    pub(crate) fn tasks(&self) -> Vec<[String; 3]> {
        let format = "{{.ID}} {{.Image}} {{.Node}}";
        let filter = "desired-state=running";
        let arguments = ["service", "ps", "--no-trunc", "--filter", filter, "--format", format, &self.name()];
        let listed = self.swarm.manager().try_docker(&arguments).unwrap_or_default();
        let mut tasks: Vec<_> = listed
            .lines()
            .map(|line| {
                let mut words = line.split(' ').map(str::to_owned);
                [(); 3].map(|()| words.next().unwrap_or_default())
            })
            .collect();
        tasks.sort();
        tasks
    }

    /// The number of tasks that were ever made for an image, as far as the engine remembers them.
    pub(crate) fn tasks_ever(&self, image: &str) -> usize {
        let arguments = ["service", "ps", "--no-trunc", "--format", "{{.Image}}", &self.name()];
        self.swarm.manager().docker(&arguments).lines().filter(|of| *of == image).count()
    }

    /// The names of all services.
    pub(crate) fn services(&self) -> Vec<String> {
        let listed = self.swarm.manager().docker(&["service", "ls", "--format", "{{.Name}}"]);
        listed.lines().map(str::to_owned).collect()
    }

    /// The containers of prod on all nodes, as index of the node and id.
    pub(crate) fn containers(&self) -> Vec<(usize, String)> {
        self.containers_of(&self.name())
    }

    /// The containers of a service on all nodes, likewise.
    pub(crate) fn containers_of(&self, service: &str) -> Vec<(usize, String)> {
        let filter = format!("label=com.docker.swarm.service.name={service}");
        let of =
            |node: &crate::common::Node| node.docker(&["ps", "--quiet", "--no-trunc", "--filter", &filter]);
        let nodes = self.swarm.nodes().iter().enumerate();
        nodes
            .flat_map(|(index, node)| of(node).lines().map(|id| (index, id.to_owned())).collect::<Vec<_>>())
            .collect()
    }

    /// One value of `docker service inspect` of prod.
    pub(crate) fn inspect(&self, format: &str) -> String {
        self.swarm.manager().docker(&["service", "inspect", "--format", format, &self.name()])
    }

    /// The pages that the replicas serve, by the ports in the status.
    pub(crate) fn pages(&self) -> Vec<String> {
        let message = self.view("prod")["message"].as_str().unwrap().to_owned();
        let nodes = self.swarm.nodes().iter();
        let places = message.split([' ', ',', ')']).filter_map(|word| word.split_once(':'));
        let ports: Vec<(String, u16)> =
            places.filter_map(|(node, port)| Some((node.to_owned(), port.parse().ok()?))).collect();
        let address = |name: &str| nodes.clone().find(|node| node.name == name).unwrap().address().to_owned();
        ports.iter().map(|(node, port)| page(&address(node), *port).unwrap_or_default()).collect()
    }

    /// Waits until every replica serves these words.
    pub(crate) fn serve(&self, words: &str, replicas: usize) {
        eventually(&format!("{replicas} replicas serve {words:?}"), PATIENCE, || {
            let pages = self.pages();
            pages.len() == replicas && pages.iter().all(|page| page == words)
        });
    }
}

/// The declaration of an environment whose service has this name.
pub(crate) fn environment(environment: &str, service: &str, swarm: &str, more: &str) -> String {
    format!(
        "[environment.{environment}]\ncontainer = \"{service}\"\nport = {SITE_PORT}\nstop_timeout = \"1s\"\n\
         swarm = {{ {swarm} }}\nhealth = {{ http = \"/\", interval = \"500ms\", timeout = \"5s\", start_deadline = \
         \"20s\", healthy_for = \"1s\" }}\n{more}\n"
    )
}

/// The page of a node's port.
pub(crate) fn page(address: &str, port: u16) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect((address, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}
