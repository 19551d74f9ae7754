//! Concurrent inspections of changed containers: a slow answer affects one container, and delays no other.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use super::watch::EngineWatcher;
use crate::controller::docker::EngineError;

/// How long after a timeout a container is inspected again, and how often. The next resync inspects it too.
const AGAIN_AFTER: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 5;

/// The result of an inspection.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::controller) enum Inspected {
    /// The result is known now, or is known to be unknown.
    Known,
    /// An unmanaged container came, left or changed a relevant name.
    Foreign,
    /// The engine itself does not answer.
    Lost(EngineError),
}

/// The running inspections, one for each container.
#[derive(Default)]
pub(in crate::controller) struct Inspections {
    running: FuturesUnordered<BoxFuture<'static, (String, Inspected)>>,
    /// The inspected containers, with the names of those that changed again since.
    changed: HashMap<String, Option<Vec<String>>>,
}

impl Inspections {
    /// Starts an inspection of a container, after the running one if there is one.
    pub(in crate::controller) fn begin(&mut self, watch: &EngineWatcher, id: String, names: Vec<String>) {
        match self.changed.get_mut(&id) {
            Some(again) => again.get_or_insert_default().extend(names),
            None => {
                self.changed.insert(id.clone(), None);
                let watch = watch.clone();
                self.running.push(Box::pin(async move {
                    let looked = look(&watch, &id, &names).await;
                    (id, looked)
                }));
            }
        }
    }

    /// Returns the next finished inspection; `None` if none is running.
    pub(in crate::controller) async fn next(&mut self, watch: &EngineWatcher) -> Option<Inspected> {
        let (id, looked) = self.running.next().await?;
        if let Some(names) = self.changed.remove(&id).flatten() {
            self.begin(watch, id, names);
        }
        Some(looked)
    }
}

async fn look(watch: &EngineWatcher, id: &str, names: &[String]) -> Inspected {
    let (cache, engine) = (&watch.cache, &watch.engine);
    for _ in 0..ATTEMPTS {
        match cache.look(engine, id).await {
            Ok(Some(environment)) => {
                watch.wake.wake(&environment);
                return Inspected::Known;
            }
            Ok(None) if !cache.knows(id) && names.iter().any(|name| watch.is_declared(name)) => {
                return Inspected::Foreign;
            }
            Ok(None) => return Inspected::Known,
            Err(error) => {
                let is_slow = error.is_slow();
                if let Err(lost) = cache.keep(id, None, error) {
                    return Inspected::Lost(lost);
                }
                if !is_slow {
                    return Inspected::Known;
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
    Inspected::Known
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::sync::watch as channel;

    use super::*;
    use crate::controller::{Controller, ControllerInput, ShutdownHandle, StateDirs, spawn};
    use crate::model::spec::Manifest;
    use crate::record;

    /// Long enough for a busy machine, and shorter than the deadline of one call.
    const PATIENCE: Duration = Duration::from_secs(25);

    /// A scripted engine: containers are called `c0` to `c39`, and inspects of `c0` never get an answer.
    #[derive(Clone)]
    struct ScriptedEngine {
        record: String,
        inspected: Arc<Mutex<Vec<String>>>,
        /// Sent as events.
        changed: channel::Sender<Vec<usize>>,
    }

    impl ScriptedEngine {
        fn start(path: &std::path::Path, record: String) -> Self {
            let listener = UnixListener::bind(path).unwrap();
            let engine = Self { record, inspected: Arc::default(), changed: channel::channel(Vec::new()).0 };
            let serving = engine.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serving.clone().serve(stream));
                }
            });
            engine
        }

        async fn serve(self, mut stream: UnixStream) {
            while let Some(path) = read_head(&mut stream).await {
                let (path, query) = path.split_once('?').unwrap_or((&path, ""));
                let answer = match path.trim_start_matches("/v1.44") {
                    // Containers of a role, or left by a build.
                    "/containers/json" if query.contains("filters") => json!([]),
                    "/version" => json!({"Version": "28.0.0", "ApiVersion": "1.44"}),
                    "/containers/json" => (0..40).map(|number| self.listed(number)).collect(),
                    "/_ping" => json!("OK"),
                    "/events" => return self.send_events(stream).await,
                    path if path.starts_with("/containers/") => {
                        let id = path.split('/').nth(2).unwrap().to_owned();
                        self.inspected.lock().unwrap().push(id.clone());
                        if id == "c0" {
                            return std::future::pending().await;
                        }
                        self.inspect(&id)
                    }
                    _ => json!([]),
                };
                answer_with(&mut stream, &answer).await;
            }
        }

        async fn send_events(&self, mut stream: UnixStream) {
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut changed = self.changed.subscribe();
            let mut sent = 0;
            loop {
                let all = changed.borrow_and_update().clone();
                for number in &all[sent..] {
                    let event = json!({"Type": "container", "Action": "die", "Actor": {"ID": format!("c{number}"),
                        "Attributes": {"name": format!("abide-t-{number}")}}});
                    let line = format!("{event}\n");
                    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
                    stream.write_all(chunk.as_bytes()).await.unwrap();
                }
                sent = all.len();
                if changed.changed().await.is_err() {
                    return;
                }
            }
        }

        fn listed(&self, number: usize) -> Value {
            json!({"Id": format!("c{number}"), "Names": [format!("/abide-t-{number}")], "State": "running",
                "Labels": self.labels(number)})
        }

        fn labels(&self, number: usize) -> Value {
            json!({"abide.record": self.record, "abide.environment": format!("e{number}")})
        }

        fn inspect(&self, id: &str) -> Value {
            let number = id.trim_start_matches('c').parse().unwrap();
            json!({"Id": id, "Name": format!("/abide-t-{number}"), "Created": "2026-11-28T00:00:00Z",
                "State": {"Status": "running", "Running": true, "StartedAt": "2026-11-28T00:00:00Z"},
                "Config": {"Labels": self.labels(number)}})
        }

        fn count(&self, id: &str) -> usize {
            self.inspected.lock().unwrap().iter().filter(|inspected| *inspected == id).count()
        }
    }

    /// Reads the head of a request that has no body, and returns its path.
    async fn read_head(stream: &mut UnixStream) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        String::from_utf8(head).ok()?.split(' ').nth(1).map(str::to_owned)
    }

    async fn answer_with(stream: &mut UnixStream, answer: &Value) {
        let body = answer.to_string();
        let head =
            "HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Type: application/json\r\nContent-Length:";
        let _ = stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await;
    }

    async fn eventually(what: &str, is_so: impl Fn() -> bool) {
        let waiting = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}: never"));
    }

    fn controller(
        home: &std::path::Path,
        engine: String,
        handles: &record::Handles,
    ) -> (Controller, ShutdownHandle) {
        let (_, manifest) = channel::channel(Arc::new(Manifest::default()));
        spawn(ControllerInput {
            authority: crate::controller::Grant::given(),
            record: handles.id.clone(),
            desired: handles.desired.clone(),
            resolver: handles.resolver.clone(),
            status: handles.status.clone(),
            writer: handles.status_writer.clone(),
            wakeups: handles.wakeups.clone(),
            manifest,
            dirs: StateDirs::of(home),
            engine: Some(engine),
            registry: None,
            resync: Duration::from_secs(3_600),
            mount_policy: crate::controller::MountPolicy::default(),
            metrics: crate::metrics::Metrics::default(),
            checks: None,
            listener: None,
        })
    }

    #[tokio::test]
    async fn an_unresponsive_inspect_does_not_delay_other_containers() {
        let home = tempfile::tempdir().unwrap();
        let handles = record::open(&home.path().join("record")).unwrap();
        let socket = home.path().join("docker.sock");
        let engine = ScriptedEngine::start(&socket, handles.id.clone());
        let host = format!("unix://{}", socket.display());
        let (controller, running) = controller(home.path(), host, &handles);
        eventually("the others are known", || controller.last_resync().is_some()).await;
        assert_eq!(controller.reconciler.cache.count(), 39);
        for number in [0, 1, 0, 2, 1] {
            engine.changed.send_modify(|changed| changed.push(number));
        }
        eventually("events of others are acted upon", || engine.count("c2") > 1 && engine.count("c1") > 1)
            .await;
        assert!(controller.warnings().is_empty(), "{:?}", controller.warnings());
        assert!(controller.last_resync().is_some(), "the engine counts as lost");
        running.stop().await;
    }
}
