//! A forge with GitHub's or GitLab's API for the checks and statuses of commits, and for deployments.

mod gitlab;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use super::service::{ServedAnswer, ServedRequest, serve};

/// The forge.
pub(crate) struct Forge {
    kind: &'static str,
    port: u16,
    state: Arc<Mutex<ForgeState>>,
}

/// What a forge stores and answers.
#[derive(Default)]
struct ForgeState {
    /// Check runs by commit and name: status and conclusion.
    runs: BTreeMap<(String, String), (String, Value)>,
    /// Every status of a commit by its context, the newest last.
    statuses: BTreeMap<(String, String), Vec<Value>>,
    /// Deployments: the id is the place, and 1 more.
    deployments: Vec<FakeDeployment>,
    /// The URL of the environment, which GitLab stores.
    external_url: Value,
    /// The contexts that the protection of every branch requires.
    required: Vec<String>,
    /// The answer to everything, if it is broken.
    broken: Option<(u16, &'static str)>,
    /// Answers 304 to conditional requests.
    unchanged: usize,
}

struct FakeDeployment {
    commit: String,
    environment: String,
    payload: Value,
    /// The states and descriptions of it, the newest last.
    states: Vec<(String, String)>,
}

impl Forge {
    /// Starts a forge with GitHub's API on the loopback address.
    pub(crate) fn start() -> Self {
        Self::of("github", ForgeState::github)
    }

    /// Starts a forge with GitLab's API on the loopback address.
    pub(crate) fn gitlab() -> Self {
        Self::of("gitlab", ForgeState::gitlab)
    }

    fn of(kind: &'static str, answer: fn(&mut ForgeState, &ServedRequest) -> (u16, Value)) -> Self {
        let state: Arc<Mutex<ForgeState>> = Arc::default();
        let shared = Arc::clone(&state);
        let port = serve(move |request| answered(&mut shared.lock().unwrap(), request, answer));
        Self { kind, port, state }
    }

    fn state(&self) -> MutexGuard<'_, ForgeState> {
        self.state.lock().unwrap()
    }

    /// Its declaration in a manifest, with the token in this file.
    pub(crate) fn declared(&self, token: &std::path::Path) -> String {
        std::fs::write(token, "sesame-token\n").unwrap();
        format!(
            "forge = {{ kind = \"{}\", api = \"http://127.0.0.1:{}\", repository = \"team/app\", \
             token = {{ secret_file = {token:?} }}, deployments = false, allow_private = true }}\n",
            self.kind, self.port
        )
    }

    /// Reports a check run that ended with `conclusion`; `None`: it runs.
    pub(crate) fn report(&self, commit: &str, name: &str, conclusion: Option<&str>) {
        let status = if conclusion.is_some() { "completed" } else { "in_progress" };
        let run = (status.to_owned(), conclusion.map_or(Value::Null, Value::from));
        self.state().runs.insert((commit.to_owned(), name.to_owned()), run);
    }

    /// Requires these contexts for every branch.
    pub(crate) fn require(&self, contexts: &[&str]) {
        self.state().required = contexts.iter().map(|name| (*name).to_owned()).collect();
    }

    /// Answers everything with this status and body from now on.
    pub(crate) fn break_with(&self, answer: Option<(u16, &'static str)>) {
        self.state().broken = answer;
    }

    /// The state of a status that abide reported.
    pub(crate) fn status(&self, commit: &str, context: &str) -> Option<String> {
        self.described(commit, context).map(|(state, _)| state)
    }

    /// The state and the description of a status that abide reported.
    pub(crate) fn described(&self, commit: &str, context: &str) -> Option<(String, String)> {
        let state = self.state();
        let statuses = state.statuses.get(&(commit.to_owned(), context.to_owned()))?;
        Some(shown(statuses.last()?))
    }

    /// The states of the deployments of a commit.
    pub(crate) fn deployed(&self, commit: &str) -> Vec<String> {
        let state = self.state();
        let of_commit = state.deployments.iter().filter(|deployment| deployment.commit == commit);
        of_commit.map(|deployment| deployment.state().to_owned()).collect()
    }

    /// The reports that repeat the one before them.
    pub(crate) fn repetitions(&self) -> Vec<(String, String)> {
        let state = self.state();
        let statuses = state.statuses.values().map(|statuses| statuses.iter().map(shown).collect::<Vec<_>>());
        let deployments = state.deployments.iter().map(|deployment| deployment.states.clone());
        let repeated = |states: Vec<(String, String)>| {
            let pairs: Vec<_> =
                states.windows(2).filter(|pair| pair[0] == pair[1]).map(<[_]>::to_vec).collect();
            pairs.concat()
        };
        statuses.chain(deployments).flat_map(repeated).collect()
    }

    /// The number of answers without a body, because nothing had changed.
    pub(crate) fn unchanged(&self) -> usize {
        self.state().unchanged
    }
}

/// The state and the description of a status.
fn shown(status: &Value) -> (String, String) {
    (status["state"].as_str().unwrap().to_owned(), status["description"].as_str().unwrap().to_owned())
}

impl FakeDeployment {
    fn state(&self) -> &str {
        self.states.last().map_or("pending", |(state, _)| state)
    }
}

impl ForgeState {
    fn github(&mut self, request: &ServedRequest) -> (u16, Value) {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let ["repos", "team", "app", rest @ ..] = &parts[..] else { return not_found() };
        match (request.method.as_str(), rest) {
            ("GET", ["commits", commit, "check-runs"]) => {
                let of_commit = self.runs.iter().filter(|((of, _), _)| of == commit);
                let runs: Vec<Value> = of_commit
                    .map(|((_, name), (status, conclusion))| {
                        json!({ "name": name, "status": status, "conclusion": conclusion, "app": { "id": 7 } })
                    })
                    .collect();
                (200, json!({ "total_count": runs.len(), "check_runs": runs }))
            }
            ("GET", ["commits", commit, "status"]) => {
                let newest: Vec<Value> =
                    self.of(commit).filter_map(|statuses| statuses.last()).cloned().collect();
                (200, json!({ "state": "pending", "total_count": newest.len(), "statuses": newest }))
            }
            ("GET", ["commits", commit, "statuses"]) => {
                let mut all: Vec<Value> = self.of(commit).flatten().cloned().collect();
                all.sort_by_key(|status| std::cmp::Reverse(status["id"].as_u64()));
                (200, all.into())
            }
            ("GET", ["rules", "branches", _]) => (200, json!([])),
            ("GET", ["branches", name]) => {
                let required = json!({ "contexts": self.required, "checks": [] });
                (200, json!({ "name": name, "protection": { "required_status_checks": required } }))
            }
            ("POST", ["statuses", commit]) => {
                let mut status = request.json();
                assert!(status["description"].as_str().unwrap().chars().count() <= 140, "{status}");
                let context = status["context"].as_str().unwrap().to_owned();
                status["id"] = self.statuses.values().map(Vec::len).sum::<usize>().into();
                self.statuses.entry(((*commit).to_owned(), context)).or_default().push(status.clone());
                (201, status)
            }
            ("GET", ["deployments"]) => {
                let of = |deployment: &FakeDeployment| {
                    let FakeDeployment { commit, environment, .. } = deployment;
                    query.starts_with(&format!("sha={commit}&environment={environment}&"))
                };
                let places = (0..self.deployments.len()).rev().filter(|place| of(&self.deployments[*place]));
                (200, places.map(|place| self.deployment(place)).collect())
            }
            ("POST", ["deployments"]) => {
                let asked = request.json();
                if asked["auto_merge"] != false || asked["required_contexts"] != json!([]) {
                    return (409, json!({ "message": "Conflict: the checks of the commit are missing" }));
                }
                self.deployments.push(FakeDeployment {
                    commit: asked["ref"].as_str().unwrap().to_owned(),
                    environment: asked["environment"].as_str().unwrap().to_owned(),
                    payload: asked["payload"].clone(),
                    states: Vec::new(),
                });
                (201, self.deployment(self.deployments.len() - 1))
            }
            (method, ["deployments", id, "statuses"]) => self.deployment_statuses(method, id, request),
            _ => not_found(),
        }
    }

    fn deployment(&self, place: usize) -> Value {
        let FakeDeployment { commit, environment, payload, .. } = &self.deployments[place];
        json!({ "id": place + 1, "sha": commit, "environment": environment, "payload": payload })
    }

    fn deployment_statuses(&mut self, method: &str, id: &str, request: &ServedRequest) -> (u16, Value) {
        let place = id.parse::<usize>().unwrap() - 1;
        if method == "GET" {
            let states = self.deployments[place].states.iter().enumerate().rev();
            let row = |(id, (state, description)): (usize, &(String, String))| json!({ "id": id, "state": state, "description": description });
            return (200, states.map(row).collect());
        }
        let status = request.json();
        let environment = self.deployments[place].environment.clone();
        // GitHub closes former ones, but not those of production.
        if status["state"] == "success" && status["auto_inactive"] == true {
            let is_former = |(at, known): &(usize, &mut FakeDeployment)| {
                *at != place && known.environment == environment && known.state() == "success"
            };
            for (_, former) in self.deployments.iter_mut().enumerate().filter(is_former) {
                former.states.push(("inactive".to_owned(), String::new()));
            }
        }
        self.deployments[place].states.push(shown(&status));
        (201, status)
    }

    /// The statuses of a commit, by context.
    fn of(&self, commit: &str) -> impl Iterator<Item = &Vec<Value>> {
        self.statuses.iter().filter(move |((of, _), _)| of == commit).map(|(_, statuses)| statuses)
    }
}

fn not_found() -> (u16, Value) {
    (404, json!({ "message": "Not Found" }))
}

/// Answers a request with a validator, and without a body if the client has what is sent.
fn answered(
    state: &mut ForgeState,
    request: &ServedRequest,
    answer: fn(&mut ForgeState, &ServedRequest) -> (u16, Value),
) -> ServedAnswer {
    let (status, body) = match state.broken {
        Some((status, message)) => (status, json!({ "message": message })),
        None => answer(state, request),
    };
    let mut answer = ServedAnswer::json(status, &body);
    let etag = format!("\"{}\"", abide::model::name::Digest::of_sha256(&hashed(&answer.body)));
    if request.method == "GET" && status == 200 && request.header("if-none-match") == Some(&etag) {
        state.unchanged += 1;
        answer = ServedAnswer::empty(304);
    }
    answer.headers.push(("ETag", etag));
    answer
}

fn hashed(text: &str) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(text).into()
}
