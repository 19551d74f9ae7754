//! Manual changes to the front, and their repair.

use std::io::Write as _;

use super::backend::Backend;
use super::load::Load;
use super::*;

const FILE: &str = "/etc/abide-front/nginx.conf";

/// Starts a front that serves dev.
async fn serving_dev(dev: &Backend) -> Option<Rig> {
    let rig = Rig::start().await?;
    rig.no_route("test");
    rig.route("dev", "c-dev", dev.address);
    rig.serves("dev", "c-dev").await;
    Some(rig)
}

/// Waits until dev is answered through a front that satisfies `is_it`.
async fn await_repair(rig: &Rig, what: &str, is_it: impl Fn(&Rig) -> bool) {
    let found = eventually(what, || async {
        let is_served = rig.by_name("dev.example").await.status == 200;
        let is_seen = rig.seen("dev").serves.is_some() && rig.seen("dev").trouble.is_none();
        (is_served && is_seen && is_it(rig)).then_some(())
    });
    found.await.unwrap_or_else(|why| panic!("{why}: {:?} {:?}", rig.seen("dev"), rig.front.warnings()));
}

/// Returns whether nginx reads the file like `good`, except for the hash, which changes with the repair.
fn is_as(rig: &Rig, good: &str) -> bool {
    let is_relevant = |line: &&str| !line.trim_start().starts_with('#') && !line.contains("return 200 '");
    read(rig, FILE).is_some_and(|text| text.lines().filter(is_relevant).eq(good.lines().filter(is_relevant)))
}

fn life(rig: &Rig) -> String {
    rig.inspect("{{.Id}} {{.State.StartedAt}} {{.Name}} {{.State.Status}}")
}

/// Writes a file into the container, as a user would.
fn write_by_hand(rig: &Rig, path: &str, text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::File::create(&file).unwrap().write_all(text.as_bytes()).unwrap();
    docker(&["cp", file.to_str().unwrap(), &format!("{}:{path}", rig.container())]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_stopped_paused_renamed_or_removed_proxy_is_restored() {
    let dev = Backend::start("dev").await;
    let Some(rig) = serving_dev(&dev).await else { return };
    let other = format!("{}-other", rig.container());
    for command in [
        &["kill", rig.container()][..],
        &["rm", "--force", rig.container()],
        &["pause", rig.container()],
        &["stop", rig.container()],
        &["rename", rig.container(), &other],
        &["update", "--restart", "always", rig.container()],
    ] {
        let before = life(&rig);
        docker(command).unwrap();
        let policy = "{{.HostConfig.RestartPolicy.Name}}";
        await_repair(&rig, command[0], |rig| {
            life(rig).ends_with(" running") && rig.inspect(policy) == "no" && {
                let is_same = life(rig) == before;
                is_same == matches!(command[0], "pause" | "rename" | "update")
            }
        })
        .await;
    }
    let mine = format!("label=abide.record={}", rig.record);
    let all = docker(&["ps", "--all", "--quiet", "--filter", &mine]).unwrap();
    assert_eq!(all.lines().count(), 1, "one front, not several");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manually_changed_configuration_is_restored() {
    let dev = Backend::start("dev").await;
    let Some(rig) = serving_dev(&dev).await else { return };
    let good = read(&rig, FILE).unwrap();
    let edited = good.replace("dev.example", "hacked.example");
    write_by_hand(&rig, FILE, &edited);
    docker(&["kill", "--signal", "HUP", rig.container()]).unwrap();
    await_repair(&rig, "the edit is undone", |rig| is_as(rig, &good)).await;
    assert_eq!(rig.by_name("hacked.example").await.status, 404);

    write_by_hand(&rig, FILE, "no nginx syntax");
    docker(&["kill", rig.container()]).unwrap();
    await_repair(&rig, "a broken file is no reason not to start", |rig| is_as(rig, &good)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_restart_does_not_change_what_the_proxy_serves() {
    let dev = Backend::start("dev").await;
    let Some(mut rig) = serving_dev(&dev).await else { return };
    let (before, served) = (life(&rig), read(&rig, FILE).unwrap());
    let since = rig.seen("dev").since;
    let load = Load::start(rig.ports[0]);
    rig.crash();
    rig.begin();
    // No environment has requested a route yet, which does not change what is served.
    rig.serves("dev", "c-dev").await;
    rig.no_route("test");
    rig.route("dev", "c-dev", dev.address);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((life(&rig), read(&rig, FILE).unwrap()), (before, served));
    assert!(
        rig.seen("dev").since.as_millis() / 1000 <= since.as_millis() / 1000 + 1,
        "since when it was switched"
    );
    let new = Backend::start("new").await;
    rig.route("dev", "c-new", new.address);
    rig.serves("dev", "c-new").await;
    let counts = load.end().await;
    assert_eq!(counts.failed.load(Ordering::Relaxed), 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_rejected_by_nginx_does_not_stop_the_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [https] = free_ports();
    self_signed(&path("crt"), &path("key"));
    let lines = format!("https = {https}\ncertificate = \"{}\"\nkey = \"{}\"", path("crt"), path("key"));
    let Some(rig) = Rig::start_with(&lines).await else { return };
    let (dev, new) = (Backend::start("dev").await, Backend::start("new").await);
    rig.no_route("test");
    rig.route("dev", "c-dev", dev.address);
    rig.serves("dev", "c-dev").await;
    let first = presented(https, "dev.example").expect("TLS is served");

    let secret = "-----BEGIN PRIVATE KEY-----\nhunter2hunter2\n-----END PRIVATE KEY-----\n";
    std::fs::write(path("key"), secret).unwrap();
    rig.route("dev", "c-new", new.address);
    rig.serves("dev", "c-new").await;
    assert_eq!(presented(https, "dev.example"), Some(first.clone()), "the old certificate goes on");
    let warned = eventually("it is told", || async {
        rig.front.warnings().into_iter().find(|words| words.contains("are not a certificate and its key"))
    });
    let warned = warned.await.unwrap();
    assert!(!warned.contains("hunter2"), "{warned}");

    self_signed(&path("crt"), &path("key"));
    eventually("the new certificate is served", || async {
        presented(https, "dev.example").filter(|presented| *presented != first)
    })
    .await
    .unwrap();
    eventually("the warning is taken back", || async { rig.front.warnings().is_empty().then_some(()) })
        .await
        .unwrap();
    let keys = docker(&["exec", rig.container(), "nginx", "-V"]);
    assert!(keys.is_some(), "it runs");
    let log = Command::new("docker").args(["logs", rig.container()]).output().unwrap();
    let log = [log.stdout, log.stderr].concat();
    assert!(!String::from_utf8_lossy(&log).contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_rejected_by_nginx_never_replaces_a_working_one() {
    let dev = Backend::start("dev").await;
    let Some(rig) = serving_dev(&dev).await else { return };
    let good = read(&rig, FILE).unwrap();
    // nginx's checks fail from now on, whatever the configuration. The running nginx is unaffected.
    docker(&["cp", "/bin/false", &format!("{}:/usr/sbin/nginx", rig.container())]).unwrap();
    let new = Backend::start("new").await;
    rig.route("dev", "c-new", new.address);
    let trouble = eventually("it is told", || async { rig.seen("dev").trouble }).await.unwrap();
    assert!(trouble.contains("nginx rejected"), "{trouble}");
    assert_eq!(rig.seen("dev").serves.as_deref(), Some("c-dev"));
    assert_eq!(read(&rig, FILE).unwrap(), good);
    assert_eq!(rig.by_name("dev.example").await.body.lines().next(), Some("dev"));
    docker(&["cp", "/usr/sbin/nginx", &format!("{}:/usr/sbin/nginx", rig.container())]).unwrap();
    rig.serves("dev", "c-new").await;
    assert_eq!(rig.seen("dev").trouble, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_configuration_is_detected_until_it_is_repaired() {
    let dev = Backend::start("dev").await;
    let Some(rig) = serving_dev(&dev).await else { return };
    assert_eq!(rig.seen("dev").reach, ProxyTargets::Only(["c-dev".to_owned()].into()));
    // While nginx's checks fail, nothing can be repaired.
    let program = format!("{}:/usr/sbin/nginx", rig.container());
    docker(&["cp", "/bin/false", &program]).unwrap();
    let edited = read(&rig, FILE).unwrap().replace("dev.example", "hacked.example");
    write_by_hand(&rig, FILE, &edited);
    docker(&["kill", "--signal", "HUP", rig.container()]).unwrap();
    let seen = eventually("it is seen", || async { Some(rig.seen("dev")).filter(|seen| seen.has_drifted) });
    assert_eq!(seen.await.unwrap().reach, ProxyTargets::Any, "requests may be anywhere");
    docker(&["cp", "/usr/sbin/nginx", &program]).unwrap();
    let repaired = eventually("it is put right", || async {
        Some(rig.seen("dev")).filter(|seen| !seen.has_drifted && seen.trouble.is_none())
    });
    repaired.await.unwrap();
    assert_eq!(rig.by_name("dev.example").await.body.lines().next(), Some("dev"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_stopped_by_a_signal_continues_without_failed_requests() {
    let dev = Backend::start("dev").await;
    let Some(rig) = serving_dev(&dev).await else { return };
    let (before, new) = (life(&rig), Backend::start("new").await);
    docker(&["kill", "--signal", "STOP", rig.container()]).unwrap();
    let load = Load::start(rig.ports[0]);
    rig.route("dev", "c-new", new.address);
    let both = || ["c-dev", "c-new"].map(str::to_owned).into();
    let reach = || async { (rig.seen("dev").reach == ProxyTargets::Only(both())).then_some(()) };
    eventually("nobody knows which of both nginx will serve", reach).await.unwrap();
    rig.serves("dev", "c-new").await;
    let counts = load.end().await;
    assert_eq!(counts.failed.load(Ordering::Relaxed), 0, "{counts:?}");
    assert_eq!(life(&rig), before, "the container was made anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_nginx_master_gets_a_new_container() {
    let dev = Backend::start("dev").await;
    let Some(rig) = serving_dev(&dev).await else { return };
    let (frozen, new) = (rig.inspect("{{.Id}}"), Backend::start("new").await);
    let freeze = tokio::spawn({
        let frozen = frozen.clone();
        async move { while docker(&["kill", "--signal", "STOP", &frozen]).is_some() {} }
    });
    rig.route("dev", "c-new", new.address);
    rig.serves("dev", "c-new").await;
    freeze.await.unwrap();
    assert_ne!(rig.inspect("{{.Id}}"), frozen);
    assert_eq!(rig.by_name("dev.example").await.body.lines().next(), Some("new"));
}

fn self_signed(certificate: &str, key: &str) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=dev.example", "-keyout", key, "-out", certificate])
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success(), "openssl makes a certificate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_occupied_port_is_reported_and_does_not_affect_others() {
    let (dev, test) = (Backend::start("dev").await, Backend::start("test").await);
    let Some(rig) = serving_dev(&dev).await else { return };
    // The front frees the port, someone else binds it, and then the front needs it again.
    let [spare] = free_ports();
    rig.declare(declared(&rig.image, rig.http, [rig.ports[0], spare], ""));
    let taken = eventually("the port is free", || async {
        TcpListener::bind((Ipv4Addr::LOCALHOST, rig.ports[1])).await.ok()
    });
    let taken = taken.await.unwrap();
    rig.declare(rig.redeclare());
    let trouble = eventually("the port is named", || async {
        rig.seen("test").trouble.filter(|trouble| trouble.contains(&rig.ports[1].to_string()))
    });
    let trouble = trouble.await.unwrap();
    assert!(trouble.contains("Address already in use"), "{trouble}");
    assert_eq!(rig.seen("dev").trouble, None);
    assert_eq!(rig.by_name("dev.example").await.status, 200);
    let other = Backend::start("other").await;
    rig.route("dev", "c-other", other.address);
    rig.serves("dev", "c-other").await;

    docker(&["kill", rig.container()]).unwrap();
    await_repair(&rig, "it starts without the port, too", |rig| life(rig).ends_with(" running")).await;
    drop(taken);
    rig.route("test", "c-test", test.address);
    eventually("the port is served once it is free", || async {
        let answer = get(rig.ports[1], "any", "/").await;
        (answer.status == 200 && rig.seen("test").trouble.is_none()).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmanaged_container_with_the_proxys_name_is_reported() {
    let dev = Backend::start("dev").await;
    let Some(mut rig) = serving_dev(&dev).await else { return };
    rig.crash();
    docker(&["rm", "--force", rig.container()]).unwrap();
    let foreign = docker(&["create", "--name", rig.container(), &rig.image, "nginx"]).unwrap();
    rig.begin();
    rig.route("dev", "c-dev", dev.address);
    let trouble = eventually("it is named", || async { rig.seen("dev").trouble }).await.unwrap();
    assert!(trouble.contains(&format!("docker rename {}", rig.container())), "{trouble}");
    assert_eq!(rig.inspect("{{.Id}}"), foreign, "it is still there");
    docker(&["rm", "--force", &foreign]).unwrap();
    rig.no_route("test");
    await_repair(&rig, "the front takes its name", |rig| life(rig).ends_with(" running")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_proxy_image_is_reported_and_the_proxy_keeps_running() {
    let dev = Backend::start("dev").await;
    let Some(rig) = serving_dev(&dev).await else { return };
    let before = life(&rig);
    let nowhere = format!("127.0.0.1:1/{}", rig.image);
    rig.declare(declared(&nowhere, rig.http, rig.ports, ""));
    let warned = eventually("it is named", || async {
        rig.front.warnings().into_iter().find(|words| words.contains("cannot be pulled"))
    });
    let warned = warned.await.unwrap();
    assert!(warned.contains(&nowhere) && warned.contains("docker load"), "{warned}");
    assert_eq!(life(&rig), before);
    let new = Backend::start("new").await;
    rig.route("dev", "c-new", new.address);
    rig.serves("dev", "c-new").await;

    let second = format!("{}:second", rig.image);
    docker(&["tag", &rig.image, &second]).unwrap();
    rig.declare(declared(&second, rig.http, rig.ports, ""));
    await_repair(&rig, "another image makes another container", |rig| {
        rig.inspect("{{.Config.Image}}") == second
    })
    .await;
    docker(&["rmi", &second]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_the_front_section_removes_the_proxy() {
    let dev = Backend::start("dev").await;
    let Some(rig) = serving_dev(&dev).await else { return };
    let mut without = (*rig.redeclare()).clone();
    without.front = None;
    rig.declare(Arc::new(without));
    eventually("it is removed", || async { rig.inspect("{{.Id}}").is_empty().then_some(()) }).await.unwrap();
    assert_eq!(rig.front.seen(&name("dev")), None);
    rig.declare(rig.redeclare());
    await_repair(&rig, "it is made again", |rig| life(rig).ends_with(" running")).await;
}
