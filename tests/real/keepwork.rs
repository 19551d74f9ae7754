//! The procedure that abide replaces, in a repository shaped like the real one: dev is the
//! checkout, test is the output of `Dockerfile.dist`, prod is the image of test.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::common::{
    Daemon, GitRepo, SECRET, Space, busybox, docker, eventually, free_ports, http_get, signed_push, status,
};

const PATIENCE: Duration = Duration::from_secs(60);
const VARIABLE: &str = "ABIDE_TEST_WEBHOOK_SECRET";

/// Compresses the code in a `RUN` and writes the project to standard output, as a `tar.gz`.
const DIST: &str = "
COPY . /project/wikicraft
WORKDIR /project/wikicraft
RUN sed -e 's/ *# .*//' www/code.js > www/code.min.js && rm www/code.js
CMD [\"tar\", \"-czf\", \"-\", \".\"]
";
const FINAL: &str = "
ARG DIST_PKG
ADD ${DIST_PKG} /project/wikicraft/
COPY entrypoint.sh /entrypoint.sh
ENTRYPOINT [\"sh\", \"/entrypoint.sh\"]
";
/// The argument is the environment's name; the server counts its starts in the database.
const ENTRYPOINT: &str = "
cd /project/wikicraft
echo \"start of $1\" | tee -a database/starts log/$1.log >/dev/null
cp database/starts www/starts.txt
echo \"$1 $KEEPWORK_LOCALE\" > www/environment.txt
exec httpd -f -p $2 -h www
";

/// The hosts of the procedure as one: repositories, a secret, and the manifest.
struct Keepwork {
    repo: GitRepo,
    desired_state: PathBuf,
    ports: [u16; 3],
}

impl Keepwork {
    fn new(space: &Space, packages: &GitRepo, base: &str) -> Self {
        let repo = GitRepo::example(space);
        let dist = format!("FROM {base}{DIST}");
        let image = format!("FROM {base}{FINAL}");
        repo.commit_and_push(
            "dev",
            &[
                ("Dockerfile", &image),
                ("Dockerfile.dist", &dist),
                (".dockerignore", "www/wiki/helpers/*.example\n"),
                ("entrypoint.sh", ENTRYPOINT),
                ("www/code.js", "one # the first\ntwo # the second\n"),
                ("www/wiki/helpers/config.page", "of no use"),
                ("www/wiki/helpers/config.page.example", "an example"),
                ("npl_packages/old.npl", "to be removed"),
                ("database/.keep", ""),
                ("log/.keep", ""),
            ],
        );
        repo.merge("dev", "master");
        let desired_state = space.dir().join("desired-state");
        std::fs::create_dir(&desired_state).unwrap();
        let secret = space.dir().join("config.page");
        std::fs::write(&secret, "the real configuration").unwrap();
        packages.commit_and_push("main", &[("main.npl", "a package")]);
        let keepwork = Self { repo, desired_state, ports: free_ports() };
        keepwork.declare(space, packages, &secret.display().to_string());
        keepwork
    }

    fn declare(&self, space: &Space, packages: &GitRepo, secret: &str) {
        let environment = |name: &str, port: u16, publish: u16, supply: &str| {
            format!(
                "[environment.{name}]\ncontainer = \"{prefix}{name}-server\"\nport = {port}\n\
                 publish = \"127.0.0.1:{publish}\"\n{supply}\ncommand = [\"{name}\", \"{port}\"]\n\
                 env = {{ KEEPWORK_LOCALE = \"zh_CN\" }}\nextra_hosts = [\"git.keepwork.com:10.28.18.6\"]\n\
                 volumes = [\"{prefix}{name}-database:/project/wikicraft/database\", \"{prefix}{name}-log:/project/wikicraft/log\"]\n\
                 health = {{ http = \"/environment.txt\", interval = \"100ms\", start_deadline = \"20s\", healthy_for = \"300ms\" }}\n",
                prefix = space.prefix(),
            )
        };
        let build = |name: &str, step: &str| {
            format!(
                "[environment.{name}.build]\nargs = {{ DIST_PKG = \"build.tar.gz\" }}\nremove = [\"npl_packages\"]\n\
                 overlay = [{{ from = \"{secret}\", to = \"www/wiki/helpers/config.page\" }}]\n\
                 checkout = [{{ url = \"{}\", revision = \"main\", to = \"npl_packages/main\" }}]\n\
                 [[environment.{name}.build.step]]\n{step}\n",
                packages.url()
            )
        };
        let source =
            |branch: &str| format!("source = {{ repository = \"keepwork\", branch = \"{branch}\" }}");
        let [dev, test, prod] = self.ports;
        let manifest = [
            format!("[docker]\nnetwork = \"{}abide\"\n", space.prefix()),
            format!(
                "[repository.keepwork]\nurl = \"{}\"\npoll = \"0s\"\n\
                 webhook = {{ provider = \"github\", secret_env = \"{VARIABLE}\" }}\n",
                self.repo.url()
            ),
            environment("dev", 8900, dev, &source("dev")),
            build("dev", "archive = \"build.tar.gz\""),
            environment("test", 8099, test, &source("master")),
            build("test", "dockerfile = \"Dockerfile.dist\"\ncontext = \".\"\noutput = \"build.tar.gz\""),
            environment("prod", 8088, prod, "promote_from = \"test\""),
        ];
        std::fs::write(self.desired_state.join("keepwork.toml"), manifest.join("\n")).unwrap();
    }

    fn push(&self, daemon: &Daemon, branch: &str, commit: &str) {
        let (code, answer) = signed_push(daemon.port(), "keepwork", SECRET, branch, commit).unwrap();
        assert_eq!(code, 202, "{answer}");
    }

    /// A page of an environment, as a browser gets it.
    fn page(&self, environment: usize, path: &str) -> String {
        http_get(self.ports[environment], path).map(|(code, body)| format!("{code} {body}")).unwrap()
    }
}

fn await_ready(daemon: &Daemon, environment: &str, commit: &str) -> Value {
    eventually(&format!("{environment} serves {commit}"), PATIENCE, || {
        let status = status(daemon, environment);
        status["status"] == "Ready" && status["revision"] == commit
    });
    status(daemon, environment)
}

#[test]
fn keepwork_goes_from_dev_to_test_to_prod_with_its_data() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let beside = Space::new().unwrap();
    let keepwork = Keepwork::new(&space, &GitRepo::example(&beside), &base);
    let daemon = Daemon::start(&keepwork.desired_state, &[(VARIABLE, SECRET)]);

    // dev: the plain checkout, with the secret and the packages in it.
    await_ready(&daemon, "dev", &keepwork.repo.head("dev"));
    assert_eq!(keepwork.page(0, "/environment.txt"), "200 dev zh_CN\n");
    assert!(keepwork.page(0, "/code.js").contains("# the first"));
    assert_eq!(keepwork.page(0, "/wiki/helpers/config.page"), "200 the real configuration");
    let dev = space.name("dev-server");
    let in_dev = |path: &str| docker(&["exec", &dev, "cat", &format!("/project/wikicraft/{path}")]);
    assert_eq!(in_dev("npl_packages/main/main.npl"), "a package");
    assert!(docker(&["exec", &dev, "ls", "/project/wikicraft/npl_packages"]) == "main");

    // test: compressed first. The step's image and container leave only a cache behind.
    let test = await_ready(&daemon, "test", &keepwork.repo.head("master"));
    assert_eq!(keepwork.page(1, "/code.min.js"), "200 one\ntwo\n");
    assert!(keepwork.page(1, "/code.js").starts_with("404"));
    assert_eq!(keepwork.page(1, "/environment.txt"), "200 test zh_CN\n");

    // A push reaches only dev, whose data stays.
    let commit = keepwork.repo.commit_and_push("dev", &[("www/code.js", "three # the third\n")]);
    keepwork.push(&daemon, "dev", &commit);
    await_ready(&daemon, "dev", &commit);
    assert!(keepwork.page(0, "/code.js").contains("three"));
    assert_eq!(in_dev("database/starts"), "start of dev\nstart of dev");
    assert_eq!(status(&daemon, "test")["image"], test["image"]);

    // Merged and tested, then promoted: the exact image of test.
    let merged = keepwork.repo.merge("dev", "master");
    keepwork.push(&daemon, "master", &merged);
    let test = await_ready(&daemon, "test", &merged);
    assert_eq!(keepwork.page(1, "/code.min.js"), "200 three\n");
    let promoted = daemon.abide(&["promote", "test", "prod", "--yes", "--wait"]);
    assert_eq!(promoted.code, 0, "{promoted:?}");
    let prod = status(&daemon, "prod");
    assert_eq!(
        (&prod["status"], &prod["running"]["image_id"]),
        (&"Ready".into(), &test["running"]["image_id"])
    );
    assert_eq!(keepwork.page(2, "/environment.txt"), "200 prod zh_CN\n");
    assert_eq!(keepwork.page(2, "/starts.txt"), "200 start of prod\n");
    let container = space.name("prod-server");
    docker(&["rm", "--force", &container]);
    eventually("prod is there again", PATIENCE, || {
        http_get(keepwork.ports[2], "/starts.txt")
            .is_ok_and(|(_, page)| page.matches("start of prod").count() == 2)
    });
    let hosts = docker(&["exec", &container, "cat", "/etc/hosts"]);
    assert!(hosts.contains("10.28.18.6\tgit.keepwork.com"), "{hosts}");
    assert_eq!(space.containers().len(), 3);
}
