//! Groups: two stacks that both have a `db`, on one engine.

use serde_json::Value;

use crate::common::{
    Daemon, PATIENCE, Ran, Space, abide, busybox, docker, eventually, eventually_some, try_docker,
};

/// `shop-test` and `shop-prod`, each a database and a site that asks it.
pub(crate) struct Shops {
    desired_state: std::path::PathBuf,
    pub(crate) space: Space,
}

impl Shops {
    pub(crate) fn new() -> Option<Self> {
        let space = Space::new()?;
        let desired_state = space.dir().join("desired-state");
        std::fs::create_dir(&desired_state).unwrap();
        let shops = Self { desired_state, space };
        shops.declare();
        Some(shops)
    }

    fn declare(&self) {
        let mut text = format!("[docker]\nnetwork = \"{}\"\n", self.space.name("abide"));
        for group in ["shop-test", "shop-prod"] {
            for member in ["db", "web"] {
                let supply = match group {
                    "shop-prod" => format!("promote_from = \"shop-test-{member}\"\n"),
                    _ => String::new(),
                };
                let needs = if member == "web" { "needs = { db = \"healthy\" }\n" } else { "" };
                text.push_str(&format!(
                    "[environment.{group}-{member}]\ncontainer = \"{}\"\nport = 8080\npublish = false\n\
                     group = \"{group}\"\nenv = {{ SHOP = \"{group}\" }}\n{supply}{needs}\
                     health = {{ http = \"/\", interval = \"50ms\", timeout = \"1s\", start_deadline = \"3s\", \
                     healthy_for = \"200ms\" }}\n",
                    self.container(group, member)
                ));
            }
        }
        let path = self.desired_state.join("shops.toml");
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    fn container(&self, group: &str, member: &str) -> String {
        self.space.name(&format!("{group}-{member}"))
    }

    pub(crate) fn daemon(&self) -> Daemon {
        Daemon::start(&self.desired_state, &[])
    }

    fn abide(&self, arguments: &[&str]) -> Ran {
        abide(&self.desired_state, arguments)
    }

    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let ran = self.abide(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran
    }

    pub(crate) fn view(&self, environment: &str) -> Option<Value> {
        let ran = self.abide(&["status", environment, "-o", "json"]);
        serde_json::from_str::<Vec<Value>>(&ran.stdout).ok()?.pop()
    }

    /// Waits for a status of an environment.
    #[track_caller]
    pub(crate) fn until(&self, environment: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some(what, PATIENCE, || {
                last = self.view(environment)?;
                is_it(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{environment}: {what}; the last status: {last}"))
    }

    /// Waits until a member is ready with this image.
    #[track_caller]
    fn await_ready(&self, environment: &str, image: &str) -> Value {
        self.until(environment, "it is ready", |view| {
            view["status"] == "Ready"
                && view["observed_generation"] == view["generation"]
                && view["image"]["id"] == image
        })
    }

    /// How often each member of `shop-test` has this kind of evidence.
    pub(crate) fn findings(&self, kind: &str) -> [usize; 2] {
        ["shop-test-db", "shop-test-web"].map(|member| {
            let ran = self.run(&["evidence", member, "-o", "json"]);
            let view: Value = serde_json::from_str(&ran.stdout).unwrap();
            let all = view["evidence"].as_array().unwrap();
            all.iter().filter(|found| found["kind"] == kind).count()
        })
    }

    /// What the site of a group gets from a name on its network.
    fn asked(&self, group: &str, name: &str) -> Option<String> {
        let web = self.container(group, "web");
        let inside = |command: &str| try_docker(&["exec", &web, "sh", "-c", command]);
        // A static program has no resolver.
        let answer = inside(&format!("busybox nslookup -type=a {name} || true"))?;
        let (_, answer) = answer.split_once(&format!("Name:\t{name}"))?;
        let address = answer.lines().find_map(|line| line.strip_prefix("Address: "))?;
        inside(&format!("busybox wget -q -O - http://{address}:8080/"))
    }
}

/// An image that serves the names of its group, member and version. With `BAD`, it fails in prod.
fn version(space: &Space, shell: &str, version: &str, lines: &str) -> String {
    let dir = tempfile::tempdir_in(space.dir()).unwrap();
    let serve = "mkdir -p /tmp/www; echo $SHOP $MEMBER $VERSION > /tmp/www/index.html; \
                 if [ -n \"$BAD\" ] && [ $SHOP = shop-prod ]; then exit 3; fi; sleep ${SLOW:-0}; exec httpd -f -p 8080 -h /tmp/www";
    let dockerfile = format!(
        "FROM {shell}\nLABEL {}\nENV VERSION={version}\n{lines}\nENTRYPOINT [\"/bin/sh\", \"-c\", {}]\n",
        space.label(),
        serde_json::to_string(serve).unwrap()
    );
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
    docker(&["build", "--quiet", dir.path().to_str().unwrap()])
}

fn started_at(container: &str) -> String {
    docker(&["container", "inspect", "--format", "{{.State.StartedAt}}", container])
}

#[test]
fn two_groups_have_a_db_each_and_start_in_the_order_of_their_needs() {
    let Some(shops) = Shops::new() else { return };
    let Some(shell) = busybox(&shops.space) else { return };
    let _daemon = shops.daemon();
    let (db, web) = (
        version(&shops.space, &shell, "one", "ENV MEMBER=db SLOW=1"),
        version(&shops.space, &shell, "one", "ENV MEMBER=web"),
    );
    for group in ["shop-test", "shop-prod"] {
        shops.run(&["set", &format!("{group}-web"), &web]);
        let waits = shops.until(&format!("{group}-web"), "it waits for the database", |view| {
            view["reason"] == "AwaitingNeeds"
        });
        assert!(
            waits["message"].to_string().contains(&format!("waits until {group}-db is ready")),
            "{waits}"
        );
        shops.run(&["set", &format!("{group}-db"), &db]);
    }
    for group in ["shop-test", "shop-prod"] {
        shops.await_ready(&format!("{group}-db"), &db);
        shops.await_ready(&format!("{group}-web"), &web);
        let ready = started_at(&shops.container(group, "db")) < started_at(&shops.container(group, "web"));
        assert!(ready, "{group}: the site started after its database");
        assert_eq!(shops.asked(group, "db"), Some(format!("{group} db one")), "{group}");
    }
    let other = shops.container("shop-prod", "db");
    assert_eq!(shops.asked("shop-test", &other), None, "the other group has a network of its own");
    assert_eq!(shops.run(&["diff", "shop-test-web"]).code, 0, "nothing is left to do");
    assert_eq!(
        shops.space.networks().len(),
        2,
        "no member joins the managed network: {:?}",
        shops.space.networks()
    );
}

impl Shops {
    /// Both groups run version one, prod by a promotion.
    pub(crate) fn both_run(&self, shell: &str) -> [String; 2] {
        let images = [self.version(shell, "one", "db", ""), self.version(shell, "one", "web", "")];
        self.set_test(&images);
        self.promote(&["--wait", "--timeout", "60s"]);
        self.await_group("shop-prod", &images);
        images
    }

    pub(crate) fn version(&self, shell: &str, number: &str, member: &str, more: &str) -> String {
        version(&self.space, shell, number, &format!("ENV MEMBER={member} {more}"))
    }

    pub(crate) fn set_test(&self, [db, web]: &[String; 2]) {
        self.run(&["set", "shop-test-db", db]);
        self.run(&["set", "shop-test-web", web]);
        self.await_group("shop-test", &[db.clone(), web.clone()]);
    }

    fn promote(&self, more: &[&str]) -> Ran {
        self.run(&[&["promote", "shop-test", "shop-prod", "--yes"], more].concat())
    }

    #[track_caller]
    pub(crate) fn await_group(&self, group: &str, [db, web]: &[String; 2]) {
        self.await_ready(&format!("{group}-db"), db);
        self.await_ready(&format!("{group}-web"), web);
    }

    /// Waits until a member is back at this image after a failure.
    #[track_caller]
    fn await_back(&self, environment: &str, image: &str) -> Value {
        self.until(environment, "it is rolled back", |view| {
            view["status"] == "RolledBack"
                && view["observed_generation"] == view["generation"]
                && view["image"]["id"] == image
        })
    }
}

/// A version with this variable fails in prod.
const FAILS_IN_PROD: &str = "BAD=1";

#[test]
fn a_group_is_promoted_held_and_rolled_back_as_one() {
    let Some(shops) = Shops::new() else { return };
    let Some(shell) = busybox(&shops.space) else { return };
    let _daemon = shops.daemon();
    let one = shops.both_run(&shell);
    let view = shops.view("shop-prod-db").unwrap();
    assert_eq!((&view["origin"], &view["group"]), (&"promotion".into(), &"shop-prod".into()), "{view}");
    let shown = shops.run(&["status", "shop-prod"]).stdout;
    assert!(shown.starts_with("group shop-prod: Ready: all members (2) are Ready\n"), "{shown}");

    let alone = shops.abide(&["promote", "shop-test-web", "shop-prod-web", "--yes"]);
    assert!(
        alone.code != 0 && alone.stderr.contains("the group `shop-prod`, which is promoted as one"),
        "{alone:?}"
    );
    let alone = shops.abide(&["hold", "shop-prod-web", "--reason", "why"]);
    assert!(alone.code != 0 && alone.stderr.contains("which is held as one"), "{alone:?}");
    let again = shops.promote(&[]).stdout;
    assert_eq!(again.matches("no change").count(), 2, "{again}");

    let events = shops.run(&["events", "shop-prod"]).stdout;
    assert!(events.contains("recorded together with shop-prod-web generation 1"), "{events}");

    // Held as one: a promotion is recorded for both, and waits.
    shops.run(&["hold", "shop-prod", "--reason", "stocktaking"]);
    let two = [shops.version(&shell, "two", "db", ""), shops.version(&shell, "two", "web", "")];
    shops.set_test(&two);
    assert_eq!(shops.promote(&[]).stdout.matches("is held").count(), 2);
    for (member, image) in [("db", &one[0]), ("web", &one[1])] {
        let running = docker(&[
            "container",
            "inspect",
            "--format",
            "{{.Image}}",
            &shops.container("shop-prod", member),
        ]);
        assert_eq!(running, *image, "{member}");
    }
    shops.run(&["resume", "shop-prod", "--wait", "--timeout", "60s"]);
    shops.await_group("shop-prod", &two);
    assert_eq!(shops.run(&["wait", "shop-prod", "--timeout", "60s"]).stdout.lines().count(), 1);

    shops.run(&["rollback", "shop-prod", "--yes", "--wait", "--timeout", "60s"]);
    for (member, image) in [("db", &one[0]), ("web", &one[1])] {
        let view = shops.view(&format!("shop-prod-{member}")).unwrap();
        assert_eq!(
            (&view["status"], &view["image"]["id"]),
            (&"Held".into(), &image.as_str().into()),
            "{view}"
        );
    }
}

#[test]
fn if_one_member_fails_every_member_goes_back() {
    let Some(shops) = Shops::new() else { return };
    let Some(shell) = busybox(&shops.space) else { return };
    let _daemon = shops.daemon();
    let one = shops.both_run(&shell);
    let two = [shops.version(&shell, "two", "db", ""), shops.version(&shell, "two", "web", FAILS_IN_PROD)];
    shops.set_test(&two);
    let promoted = shops.abide(&["promote", "shop-test", "shop-prod", "--yes", "--wait", "--timeout", "60s"]);
    assert_eq!(promoted.code, 1, "{promoted:?}");
    // The database was ready with its new version when the site, which waited for it, failed.
    let db = shops.await_back("shop-prod-db", &one[0]);
    assert!(
        db["message"].to_string().contains("shop-prod-web failed, so the group goes back together"),
        "{db}"
    );
    let web = shops.await_back("shop-prod-web", &one[1]);
    assert_eq!((&db["generation"], &web["generation"]), (&3.into(), &3.into()));
    assert_eq!(shops.asked("shop-prod", "db"), Some("shop-prod db one".to_owned()));
    let shown = shops.run(&["status", "shop-prod"]).stdout;
    assert!(shown.starts_with("group shop-prod: RolledBack: 0 of 2 members are Ready"), "{shown}");
    let why = shops.run(&["why", "shop-prod"]);
    assert!(why.stderr.contains("group shop-prod: RolledBack") && why.stdout.contains("roll"), "{why:?}");

    // The good database goes on with a site that works.
    let three = [two[0].clone(), shops.version(&shell, "three", "web", "")];
    shops.set_test(&three);
    shops.promote(&["--wait", "--timeout", "60s"]);
    shops.await_group("shop-prod", &three);
}

#[test]
#[cfg(debug_assertions)]
fn a_daemon_that_is_killed_around_the_rollback_takes_every_member_back() {
    for failpoint in ["before-roll-back", "after-roll-back"] {
        let Some(shops) = Shops::new() else { return };
        let Some(shell) = busybox(&shops.space) else { return };
        let daemon = shops.daemon();
        let one = shops.both_run(&shell);
        let two =
            [shops.version(&shell, "two", "db", ""), shops.version(&shell, "two", "web", FAILS_IN_PROD)];
        shops.set_test(&two);
        daemon.kill();
        let daemon = Daemon::start_doomed(&shops.desired_state, failpoint, &[]);
        shops.await_group("shop-test", &two);
        shops.await_group("shop-prod", &one);
        shops.promote(&[]);
        daemon.await_doom(failpoint);
        let _daemon = shops.daemon();
        shops.await_back("shop-prod-db", &one[0]);
        shops.await_back("shop-prod-web", &one[1]);
        assert_eq!(shops.view("shop-prod-db").unwrap()["generation"], 3, "{failpoint}");
    }
}

/// A group of programs with a shell, each by its short name, with its lines.
fn declare_group(space: &Space, folder: &std::path::Path, members: &[(&str, String)]) {
    let mut text = format!("[docker]\nnetwork = \"{}\"\n", space.name("abide"));
    for (member, lines) in members {
        text.push_str(&format!(
            "[environment.{member}]\ncontainer = \"{}\"\nport = 8080\npublish = false\n{lines}\n\
             health = {{ tcp = true, interval = \"50ms\", start_deadline = \"10s\", healthy_for = \"100ms\" }}\n",
            space.name(member)
        ));
    }
    let path = folder.join("shop.toml");
    std::fs::write(path.with_extension("new"), text).unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
}

fn until(folder: &std::path::Path, environment: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually_some(what, PATIENCE, || {
        let ran = abide(folder, &["status", environment, "-o", "json"]);
        let view = serde_json::from_str::<Vec<Value>>(&ran.stdout).ok()?.pop()?;
        is_it(&view).then_some(view)
    })
}

fn is_ready(view: &Value) -> bool {
    view["status"] == "Ready" && view["observed_generation"] == view["generation"]
}

#[test]
fn release_commands_of_a_group_never_run_at_the_same_time() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let folder = space.dir().join("desired-state");
    std::fs::create_dir(&folder).unwrap();
    let release = "test -e /data/busy && echo clash >> /data/log; echo x > /data/busy; sleep 1; rm /data/busy; \
                   echo ran >> /data/log";
    let lines = format!(
        "group = \"shop\"\nvolumes = [{{ source = \"{}\", target = \"/data\", shared = true }}]\n\
         release = {{ entrypoint = [\"/bin/sh\", \"-c\"], command = [\"{release}\"] }}",
        space.name("data")
    );
    let members = ["shop-a", "shop-b", "shop-c"];
    declare_group(&space, &folder, &members.map(|member| (member, lines.clone())));
    let _daemon = Daemon::start(&folder, &[]);
    let image = version(&space, &shell, "one", "ENV MEMBER=any SHOP=shop");
    for member in members {
        assert_eq!(abide(&folder, &["set", member, &image]).code, 0);
    }
    for member in members {
        until(&folder, member, "it is ready", is_ready);
    }
    let log = docker(&["exec", &space.name("shop-a"), "cat", "/data/log"]);
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        ["ran", "ran", "ran"],
        "each runs once, and none beside another"
    );
}

#[test]
fn a_member_waits_for_a_program_that_ends_and_the_network_goes_with_the_group() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let folder = space.dir().join("desired-state");
    std::fs::create_dir(&folder).unwrap();
    let volume = format!(
        "group = \"shop\"\nvolumes = [{{ source = \"{}\", target = \"/data\", shared = true }}]\n",
        space.name("data")
    );
    // It runs for longer than the time after which a worker counts as ready.
    let migrate = format!(
        "{volume}restart = \"on-failure\"\nentrypoint = [\"/bin/sh\", \"-c\"]\n\
         command = [\"(busybox nc -l -p 8080 &) ; sleep 3; echo done > /data/migrated\"]"
    );
    let web = format!(
        "{volume}needs = {{ migrate = \"completed\" }}\nentrypoint = [\"/bin/sh\", \"-c\"]\n\
         command = [\"cat /data/migrated > /data/seen; exec httpd -f -p 8080 -h /tmp\"]"
    );
    let alone = (String::from("alone"), String::new());
    let all = |members: &[(&str, &str)]| {
        let members: Vec<_> = members.iter().map(|(name, lines)| (*name, (*lines).to_owned())).collect();
        declare_group(&space, &folder, &members);
    };
    all(&[("shop-migrate", &migrate), ("shop-web", &web), (&alone.0, &alone.1)]);
    let _daemon = Daemon::start(&folder, &[]);
    let image = version(&space, &shell, "one", "ENV MEMBER=any SHOP=shop");
    for member in ["shop-web", "shop-migrate", "alone"] {
        assert_eq!(abide(&folder, &["set", member, &image]).code, 0);
    }
    let waits = until(&folder, "shop-web", "it waits", |view| view["reason"] == "AwaitingNeeds");
    assert!(waits["message"].to_string().contains("waits until shop-migrate is complete"), "{waits}");
    until(&folder, "shop-web", "it is ready", is_ready);
    until(&folder, "shop-migrate", "it is complete", |view| view["reason"] == "Completed");
    assert_eq!(docker(&["exec", &space.name("shop-web"), "cat", "/data/seen"]), "done");
    until(&folder, "alone", "it is ready", is_ready);

    let measured = abide(&folder, &["status", "--stats", "-o", "json"]);
    let measured: Vec<Value> = serde_json::from_str(&measured.stdout).unwrap();
    let of = |name: &str| measured.iter().find(|view| view["environment"] == name).unwrap()["stats"].clone();
    assert!(of("shop-web")["memory_bytes"].as_u64().unwrap() > 0, "{measured:#?}");
    assert!(of("shop-web")["cpu_percent"].is_number() && of("shop-migrate").is_null(), "{measured:#?}");
    let shown = abide(&folder, &["status", "--stats"]);
    assert!(shown.code == 0 && shown.stdout.contains("MEMORY") && shown.stdout.contains('%'), "{shown:?}");

    let network = format!("{}-shop", space.name("abide"));
    assert!(space.networks().contains(&network), "{:?}", space.networks());
    all(&[("alone", "")]);
    for member in ["shop-web", "shop-migrate"] {
        until(&folder, member, "it is no longer declared", |view| view["reason"] == "NotInManifest");
    }
    // The network stays as long as a container refers to it, even a stopped one.
    let two = version(&space, &shell, "two", "ENV MEMBER=any SHOP=shop");
    assert_eq!(abide(&folder, &["forget", "shop-web", "--stop", "--yes"]).code, 0);
    assert_eq!(abide(&folder, &["set", "alone", &two]).code, 0);
    until(&folder, "alone", "it is ready", is_ready);
    assert!(space.networks().contains(&network), "shop-migrate refers to it");
    assert_eq!(abide(&folder, &["forget", "shop-migrate", "--stop", "--yes"]).code, 0);
    assert_eq!(abide(&folder, &["set", "alone", &image]).code, 0);
    eventually("the network is removed", PATIENCE, || !space.networks().contains(&network));
}
