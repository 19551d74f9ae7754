//! The states of commits on Bitbucket Cloud and Data Center, by services that follow their documentation.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::child::{PATIENCE, Place};
use crate::common::{ServedAnswer, ServedRequest, eventually, eventually_some, serve};

/// The longest key of the cloud.
const LONGEST_KEY: usize = 40;

/// What the service does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It limits the rate.
    Limits,
    /// It stores the state, and answers 500.
    FailsAfterStoring,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edition {
    Cloud,
    DataCenter,
    /// A server that knows only the old path of builds.
    OldServer,
}

impl Edition {
    fn declared(self, port: u16, token: &std::path::Path) -> String {
        let (kind, api) = match self {
            Self::Cloud => ("bitbucket", format!("http://127.0.0.1:{port}/2.0")),
            Self::DataCenter | Self::OldServer => {
                ("bitbucket-server", format!("http://127.0.0.1:{port}/git"))
            }
        };
        format!(
            "forge = {{ kind = \"{kind}\", api = \"{api}\", repository = \"TEAM/app\", \
             token = {{ secret_file = {token:?} }}, allow_private = true }}\n"
        )
    }

    fn token(self) -> &'static str {
        match self {
            Self::Cloud => "anna@example.com:sesame",
            Self::DataCenter | Self::OldServer => "sesame",
        }
    }

    fn authorization(self) -> &'static str {
        match self {
            // The Base64 of the token.
            Self::Cloud => "Basic YW5uYUBleGFtcGxlLmNvbTpzZXNhbWU=",
            Self::DataCenter | Self::OldServer => "Bearer sesame",
        }
    }

    fn states(self) -> &'static [&'static str] {
        match self {
            Self::Cloud => &["SUCCESSFUL", "FAILED", "INPROGRESS", "STOPPED"],
            Self::DataCenter => &["SUCCESSFUL", "FAILED", "INPROGRESS", "CANCELLED", "UNKNOWN"],
            Self::OldServer => &["SUCCESSFUL", "FAILED", "INPROGRESS"],
        }
    }
}

/// What the service stores and answers.
#[derive(Default)]
struct BitbucketState {
    fates: VecDeque<Fate>,
    /// The token may not see the repository.
    is_hidden: bool,
    /// The newest build of each key.
    builds: BTreeMap<String, Value>,
    /// Every accepted or stored build.
    written: Vec<Value>,
    wrong: Vec<String>,
}

impl BitbucketState {
    fn answer(&mut self, edition: Edition, request: &ServedRequest) -> ServedAnswer {
        let error = |message: &str| json!({ "type": "error", "error": { "message": message } });
        if request.header("authorization") != Some(edition.authorization()) {
            return ServedAnswer::json(401, &error("Token is invalid, expired, or not supported"));
        }
        if self.fates.front() == Some(&Fate::Limits) {
            self.fates.pop_front();
            let mut limited =
                ServedAnswer::json(429, &error("Rate limit for this resource has been exceeded"));
            limited.headers.push(("Retry-After", "1".to_owned()));
            return limited;
        }
        let missing = || ServedAnswer::json(404, &error("Repository TEAM/app not found"));
        if self.is_hidden {
            return missing();
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (edition, request.method.as_str(), &parts[..]) {
            (
                Edition::Cloud,
                "GET",
                ["2.0", "repositories", "TEAM", "app", "commit", _, "statuses", "build", key],
            ) => self.shown(key),
            (
                Edition::Cloud,
                "POST",
                ["2.0", "repositories", "TEAM", "app", "commit", _, "statuses", "build"],
            ) => self.store(edition, request, 201),
            (
                Edition::DataCenter,
                method,
                ["git", "rest", "api", "latest", "projects", "TEAM", "repos", "app", "commits", _, "builds"],
            ) => match method {
                "GET" => self.shown(query.strip_prefix("key=").unwrap_or_default()),
                _ => self.store(edition, request, 204),
            },
            (Edition::OldServer, "POST", ["git", "rest", "build-status", "1.0", "commits", _]) => {
                self.store(edition, request, 204)
            }
            _ => missing(),
        }
    }

    fn shown(&self, key: &str) -> ServedAnswer {
        match self.builds.get(key) {
            Some(build) => ServedAnswer::json(200, build),
            None => ServedAnswer::json(404, &json!({ "errors": [{ "message": "no build with this key" }] })),
        }
    }

    /// Stores a build, which replaces the one with its key.
    fn store(&mut self, edition: Edition, request: &ServedRequest, accepted: u16) -> ServedAnswer {
        let build = request.json();
        let has = |key: &str| build[key].as_str().is_some_and(|text| !text.is_empty());
        let key = build["key"].as_str().unwrap_or_default().to_owned();
        let state = build["state"].as_str().unwrap_or_default();
        let claims = [
            ("a key", !key.is_empty() && key.len() <= LONGEST_KEY),
            ("a state of this edition", edition.states().contains(&state)),
            ("a URL", build["url"].as_str().is_some_and(|url| url.starts_with("http"))),
            ("a name and a description", has("name") && has("description")),
            (
                "no request that looks forged",
                edition == Edition::Cloud || request.header("x-atlassian-token") == Some("no-check"),
            ),
        ];
        for (claim, holds) in claims {
            if !holds {
                self.wrong.push(format!("{claim}: {build}"));
                return ServedAnswer::json(400, &json!({ "error": { "message": "Bad request" } }));
            }
        }
        self.builds.insert(key, build.clone());
        self.written.push(build);
        if self.fates.front() == Some(&Fate::FailsAfterStoring) {
            self.fates.pop_front();
            return ServedAnswer::empty(500);
        }
        ServedAnswer::empty(accepted)
    }
}

fn reports_the_state_of_a_commit(edition: Edition) {
    let place = Place::new();
    let state: Arc<Mutex<BitbucketState>> = Arc::default();
    let shared = Arc::clone(&state);
    let port = serve(move |request| shared.lock().unwrap().answer(edition, request));
    let state = || -> MutexGuard<'_, BitbucketState> { state.lock().unwrap() };
    let token = place.path("forge-token");
    std::fs::write(&token, edition.token()).unwrap();
    let file = place.desired_state().join("shop.toml");
    let manifest = std::fs::read_to_string(&file).unwrap();
    let forge = edition.declared(port, &token);
    std::fs::write(&file, manifest.replace("poll = \"0s\"\n", &format!("poll = \"0s\"\n{forge}"))).unwrap();
    // The daemon finds the commit as soon as it runs.
    state().fates = [Fate::Limits, Fate::FailsAfterStoring].into();
    let daemon = place.serve(&[]);
    let run = |arguments: &[&str]| {
        let ran = place.abide(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran
    };
    let outbox = || -> Vec<Value> { serde_json::from_str(&run(&["outbox", "-o", "json"]).stdout).unwrap() };
    let await_delivered = || eventually("every state is shown", PATIENCE, || outbox().is_empty());
    let build = |what: &str, is_it: &dyn Fn(&Value) -> bool| {
        eventually_some(what, PATIENCE, || {
            state().builds.get("abide-dev").filter(|build| is_it(build)).cloned()
        })
    };

    run(&["sync", "dev"]);
    build("the commit has a state", &|_| true);
    await_delivered();
    {
        let state = state();
        assert!(state.fates.is_empty(), "{:?} is left", state.fates);
        // The old path cannot be read, so a write that may have been stored is repeated.
        let repeated = state.written.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert_eq!(repeated, usize::from(edition == Edition::OldServer), "{:?}", state.written);
    }

    state().is_hidden = true;
    run(&["hold", "dev", "--reason", "a demo"]);
    let dead = eventually_some("the state is rejected", PATIENCE, || {
        outbox().into_iter().find(|item| !item["dead"].is_null())
    });
    assert_eq!(dead["target"], "repository.shop", "{dead}");
    let error = dead["error"].as_str().unwrap();
    assert!(error.contains("does not exist, or the token may not see it"), "{error}");
    let status = run(&["status"]);
    let shown = format!("{}{}", status.stdout, status.stderr);
    assert!(shown.contains("repository.shop: one item could not be delivered"), "{shown}");

    state().is_hidden = false;
    run(&["outbox", "retry", "repository.shop"]);
    let held = build("the hold is shown", &|build| build["description"].to_string().contains("held"));
    assert_eq!(held["state"], "INPROGRESS", "{held}");
    await_delivered();
    assert_eq!(state().wrong, [""; 0]);
    assert!(!format!("{shown}{}", daemon.log()).contains("sesame"), "the token is in the log");
}

#[test]
fn bitbucket_cloud_shows_the_state_of_a_commit() {
    reports_the_state_of_a_commit(Edition::Cloud);
}

#[test]
fn bitbucket_data_center_shows_the_state_of_a_commit() {
    reports_the_state_of_a_commit(Edition::DataCenter);
}

#[test]
fn an_old_bitbucket_server_shows_the_state_of_a_commit() {
    reports_the_state_of_a_commit(Edition::OldServer);
}
