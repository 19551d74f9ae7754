//! GitLab's API. A status that has not ended is changed in place, by transitions of which GitLab rejects some.

use serde_json::{Value, json};

use super::super::service::ServedRequest;
use super::{FakeDeployment, ForgeState, not_found};

impl ForgeState {
    pub(super) fn gitlab(&mut self, request: &ServedRequest) -> (u16, Value) {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let ["projects", "team%2Fapp", rest @ ..] = &parts[..] else { return not_found() };
        assert_eq!(request.header("private-token"), Some("sesame-token"));
        match (request.method.as_str(), rest) {
            ("GET", ["repository", "commits", commit, "statuses"]) => {
                let named = |status: &&Value| {
                    let name = status["name"].as_str().unwrap().replace('/', "%2F");
                    query.starts_with(&format!("name={name}&"))
                };
                let as_shown = |status: &Value| {
                    let mut row = status.clone();
                    row["status"] = row["state"].take();
                    row
                };
                (200, self.of(commit).flatten().filter(named).map(as_shown).collect())
            }
            ("POST", ["statuses", commit]) => self.set_status(commit, request.json()),
            ("GET", ["deployments"]) => {
                let of = |deployment: &FakeDeployment| {
                    query
                        .starts_with(&format!("environment={}&order_by=id&sort=desc", deployment.environment))
                };
                let places = (0..self.deployments.len()).rev().filter(|place| of(&self.deployments[*place]));
                (200, places.map(|place| self.gitlab_deployment(place)).collect())
            }
            ("POST", ["deployments"]) => {
                let asked = request.json();
                let text = |key: &str| asked[key].as_str().unwrap().to_owned();
                assert!(asked["tag"] == false && !text("ref").is_empty(), "{asked}");
                self.deployments.push(FakeDeployment {
                    commit: text("sha"),
                    environment: text("environment"),
                    payload: Value::Null,
                    states: vec![(text("status"), String::new())],
                });
                (201, self.gitlab_deployment(self.deployments.len() - 1))
            }
            ("GET", ["deployments", id]) => (200, self.gitlab_deployment(id.parse::<usize>().unwrap() - 1)),
            ("PUT", ["deployments", id]) => {
                let (place, status) = (id.parse::<usize>().unwrap() - 1, request.json());
                let status = status["status"].as_str().unwrap().to_owned();
                let deployment = &mut self.deployments[place];
                if status == deployment.state() || status == "running" {
                    let why = format!("cannot transition via \"{status}\"");
                    return (400, json!({ "message": { "status": [why] } }));
                }
                deployment.states.push((status, String::new()));
                (200, self.gitlab_deployment(place))
            }
            ("PUT", ["environments", "9"]) => {
                self.external_url = request.json()["external_url"].clone();
                (200, json!({ "id": 9, "external_url": self.external_url }))
            }
            _ => not_found(),
        }
    }

    fn gitlab_deployment(&self, place: usize) -> Value {
        let deployment = &self.deployments[place];
        let FakeDeployment { commit, environment, .. } = deployment;
        let environment = json!({ "id": 9, "name": environment, "external_url": self.external_url });
        json!({ "id": place + 1, "sha": commit, "status": deployment.state(), "environment": environment })
    }

    fn set_status(&mut self, commit: &str, mut status: Value) -> (u16, Value) {
        let name = status["name"].as_str().unwrap().to_owned();
        assert!(status["description"].as_str().unwrap().chars().count() <= 255, "{status}");
        let id = self.statuses.values().map(Vec::len).sum::<usize>();
        let rows = self.statuses.entry((commit.to_owned(), name)).or_default();
        let open = rows.last().and_then(|row| row["state"].as_str());
        let open = open.filter(|state| matches!(*state, "pending" | "running"));
        if let (Some(before), "pending") = (open, status["state"].as_str().unwrap()) {
            let why = "Status cannot transition via \"enqueue\"";
            let message = format!("Cannot transition status via :enqueue from :{before} (Reason(s): {why})");
            return (400, json!({ "message": message }));
        }
        status["id"] = id.into();
        // The row is kept, so that a test sees each report.
        rows.push(status.clone());
        (201, status)
    }
}
