//! Every kind of damage to a running container is repaired, and unmanaged objects are left alone.

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{
    Life, PATIENCE, Solo, Space, docker, eventually, eventually_some, inspected, try_docker,
};

/// Does `harm` to the container and waits until it serves again, in a life that `is_new` accepts.
fn heals(
    solo: &Solo,
    what: &str,
    harm: impl FnOnce(&Life),
    is_healed: impl Fn(&Life, &Life) -> bool,
) -> Life {
    let before = solo.life().unwrap();
    harm(&before);
    let after = eventually_some(&format!("it serves after {what}"), PATIENCE, || {
        solo.life().filter(|now| now.is_running() && is_healed(&before, now) && solo.serves())
    });
    assert_eq!(after.image, before.image, "another image after {what}");
    after
}

fn is_same_container(before: &Life, now: &Life) -> bool {
    now.id == before.id && now.started_at != before.started_at
}

#[test]
fn a_manually_changed_container_is_restored_with_its_data() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let _daemon = solo.daemon(&[]);
    solo.await_ready();
    solo.leave_in_volume("kept");
    let name = solo.name.as_str();

    let untouched = |before: &Life, now: &Life| now == before;
    heals(&solo, "a pause", |_| drop(docker(&["pause", name])), untouched);
    heals(&solo, "a rename", |_| drop(docker(&["rename", name, &space.name("other")])), untouched);
    let kill = |life: &Life| kill_process(Pid::from_raw(life.pid).unwrap(), Signal::KILL).unwrap();
    heals(&solo, "a kill of its process", kill, is_same_container);
    heals(&solo, "a stop", |_| drop(docker(&["stop", name])), is_same_container);
    heals(&solo, "a kill", |_| drop(docker(&["kill", name])), is_same_container);
    let is_another = |before: &Life, now: &Life| now.id != before.id;
    heals(&solo, "a removal", |_| drop(docker(&["rm", "--force", name])), is_another);
    assert!(solo.finds_in_volume("kept"));
    assert_eq!(space.containers().len(), 1);
    solo.await_ready();
}

#[test]
fn a_removed_image_is_restored_and_the_data_is_kept() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let daemon = solo.daemon(&[]);
    let first = solo.await_ready();
    solo.leave_in_volume("kept");

    // While the container runs, the engine removes only the name.
    let tag = docker(&["image", "inspect", "--format", "{{index .RepoTags 0}}", &first.image]);
    docker(&["rmi", "--force", &tag]);
    docker(&["rm", "--force", &solo.name]);
    let second = eventually_some("it serves after its image lost its name", PATIENCE, || {
        solo.life().filter(|now| now.id != first.id && now.is_running() && solo.serves())
    });
    assert_eq!(second.image, first.image);

    daemon.terminate();
    docker(&["rm", "--force", &solo.name]);
    docker(&["rmi", "--force", &first.image]);
    assert!(try_docker(&["image", "inspect", &first.image]).is_none());
    let _daemon = solo.daemon(&[]);
    eventually("it serves from an image that was built again", PATIENCE, || solo.serves());
    solo.await_ready();
    assert!(solo.finds_in_volume("kept"));
}

#[test]
fn an_out_of_memory_crash_loop_is_reported_until_the_limit_is_raised() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::undeclared(&space);
    solo.declare("memory = \"16MiB\"\nenv = { SITE_LEAK = \"1\" }");
    let daemon = solo.daemon(&[]);
    let status = solo.await_reason("CrashLoop");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("killed because it ran out of memory (exit code 137)"), "{message}");
    assert!(!status["next_retry"].is_null(), "{status}");
    let why = daemon.abide(&["why", "dev"]).stdout;
    assert!(why.contains("ran out of memory"), "{why}");

    solo.declare("memory = \"64MiB\"");
    solo.await_ready();
}

#[test]
fn changed_limits_and_restart_policies_are_restored_in_place() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::undeclared(&space);
    solo.declare("memory = \"64MiB\"\npids = 100");
    let _daemon = solo.daemon(&[("ABIDE_RESYNC", "2s")]);
    let before = solo.await_ready();
    const SET: &str = "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}";
    let declared = inspected(&solo.name, SET);
    assert_eq!(declared, "67108864 100 no");
    for change in [["--memory", "32m"], ["--pids-limit", "50"], ["--restart", "always"]] {
        docker(&["update", change[0], change[1], &solo.name]);
        eventually(&format!("{change:?} is put back"), PATIENCE, || inspected(&solo.name, SET) == declared);
    }
    assert_eq!(solo.await_ready(), before, "limits are no reason for a restart");
}

/// Returns the site's answer to another container of the network, by the alias that is the
/// container's name; `None` if the site is unreachable. It borrows this host's shell, because the
/// image has none.
fn asked_from_beside(solo: &Solo, image: &str) -> Option<String> {
    let ask = format!(
        "exec 3<>/dev/tcp/{}/8900 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && head -1 <&3",
        solo.name
    );
    let mut run = vec!["run", "--rm", "--network", &solo.network, "--env", "PATH=/usr/bin"];
    run.extend(["--volume=/usr:/usr:ro", "--volume=/lib:/lib:ro", "--volume=/lib64:/lib64:ro"]);
    run.extend(["--entrypoint", "/usr/bin/bash", image, "-c", &ask]);
    try_docker(&run)
}

#[test]
fn a_disconnected_container_is_reconnected_to_its_network() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let _daemon = solo.daemon(&[]);
    let before = solo.await_ready();
    assert_eq!(asked_from_beside(&solo, &before.image).as_deref(), Some("HTTP/1.1 200 OK"));

    docker(&["network", "disconnect", &solo.network, &solo.holder()]);
    eventually("another container reaches it by its alias", PATIENCE, || {
        asked_from_beside(&solo, &before.image).as_deref() == Some("HTTP/1.1 200 OK")
    });
    assert_eq!(solo.await_ready(), before);

    eventually("the network can be removed while its holder is stopped", PATIENCE, || {
        try_docker(&["kill", &solo.holder()]);
        try_docker(&["network", "rm", &solo.network]).is_some()
    });
    eventually("the network is made again and the container serves in it", PATIENCE, || {
        asked_from_beside(&solo, &before.image).as_deref() == Some("HTTP/1.1 200 OK") && solo.serves()
    });
    solo.await_ready();
}

#[test]
fn an_unmanaged_container_of_that_name_is_reported_but_not_removed() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let daemon = solo.daemon(&[]);
    let image = solo.await_ready().image;
    daemon.terminate();
    docker(&["rm", "--force", &solo.name]);
    // Started by hand from a managed image: the image's labels do not make the container managed.
    docker(&["run", "--detach", "--init", "--name", &solo.name, &image, "by-hand"]);
    let foreign = solo.life().unwrap();

    let daemon = solo.daemon(&[]);
    let status = solo.await_reason("NameConflict");
    assert_eq!(status["status"], "Blocked");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains(&foreign.id[..12]) && message.contains("not managed by abide"), "{message}");
    assert_eq!(daemon.abide(&["sync", "dev"]).code, 0);
    assert_eq!(solo.life().unwrap(), foreign);

    docker(&["rm", "--force", &solo.name]);
    let ours = solo.await_ready();
    assert_ne!(ours.id, foreign.id);
}

#[test]
fn an_unmanaged_container_on_the_port_is_waited_for() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let daemon = solo.daemon(&[]);
    let image = solo.await_ready().image;
    daemon.terminate();
    docker(&["rm", "--force", &solo.name, &solo.holder()]);
    let (neighbour, port) = (space.name("neighbour"), format!("127.0.0.1:{}:8080", solo.port));
    let keeps = [space.name("their-volume"), space.name("their-network")];
    docker(&["volume", "create", &keeps[0]]);
    docker(&["network", "create", &keeps[1]]);
    docker(&["run", "--detach", "--init", "--name", &neighbour, "--publish", &port, &image, "neighbour"]);
    let before = Life::of(&neighbour).unwrap();

    let _daemon = solo.daemon(&[]);
    let status = solo.await_status("the taken port is told and a retry is due", |status| {
        status["reason"] == "StartFailed" && !status["next_retry"].is_null()
    });
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("port is already allocated"), "{message}");
    assert_eq!(Life::of(&neighbour).unwrap(), before);

    docker(&["rm", "--force", &neighbour]);
    solo.await_ready();
    assert!(space.volumes().contains(&keeps[0]) && space.networks().contains(&keeps[1]));
    assert_eq!(space.containers().len(), 1);
}

#[test]
fn two_daemons_on_one_engine_never_touch_each_others_containers() {
    let (Some(space), Some(other_space), Some(third_space)) = (Space::new(), Space::new(), Space::new())
    else {
        return;
    };
    let (one, other) = (Solo::new(&space), Solo::new(&other_space));
    let daemon = one.daemon(&[("ABIDE_RESYNC", "1s")]);
    let _other_daemon = other.daemon(&[("ABIDE_RESYNC", "1s")]);
    let theirs = other.await_ready();
    one.await_ready();
    heals(&one, "a kill", |_| drop(docker(&["kill", &one.name])), is_same_container);
    one.push(&daemon, &[("www/index.html", "another page")]);
    one.await_ready();
    assert_eq!(other.await_ready(), theirs);

    // The same name in both manifests: the first one keeps it.
    let third = Solo { name: other.name.clone(), ..Solo::undeclared(&third_space) };
    third.declare("");
    let third_daemon = third.daemon(&[]);
    let status = third.await_reason("NameConflict");
    assert!(status["message"].as_str().unwrap().contains("another abide"), "{status}");
    drop(third_daemon);
    assert_eq!(other.await_ready(), theirs);
}

#[test]
fn a_missing_volume_with_data_is_never_recreated_empty() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let daemon = solo.daemon(&[]);
    solo.await_ready();
    daemon.terminate();
    docker(&["rm", "--force", &solo.name]);
    docker(&["volume", "rm", &solo.volume]);

    let daemon = solo.daemon(&[]);
    let status = solo.await_reason("VolumeMissing");
    assert_eq!(status["status"], "Blocked");
    assert!(status["message"].as_str().unwrap().contains(&solo.volume), "{status}");
    assert_eq!(daemon.abide(&["sync", "dev"]).code, 0);
    assert_eq!(solo.await_reason("VolumeMissing")["status"], "Blocked");
    assert!(space.volumes().is_empty() && space.containers().is_empty());

    docker(&["volume", "create", &solo.volume]);
    solo.await_ready();
}

/// A Dockerfile with every instruction about containers.
fn dockerfile_of_everything(space: &Space) -> String {
    format!(
        r#"FROM scratch
LABEL {} other.label="of the image"
ARG DIST_PKG=build.tar
ENV PATH=/bin OF_THE_IMAGE="with spaces = and signs"
COPY --chown=1000:1000 bin/site /bin/site
ADD ${{DIST_PKG}} /site/
EXPOSE 8900 9000/udp
VOLUME ["/site/cache", "/site/log"]
USER 0:0
WORKDIR /site/www
STOPSIGNAL SIGINT
HEALTHCHECK --interval=1s --timeout=5s --retries=2 CMD ["/bin/site", "version"]
ONBUILD LABEL never=seen
SHELL ["/bin/site"]
ENTRYPOINT ["/bin/site", "serve", "--root", "/site/www", "--settings", "/site/site.env"]
CMD ["local", "--port", "1"]
"#,
        space.label()
    )
}

#[test]
fn an_image_with_every_setting_is_deployed_once() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    solo.repo.commit_and_push("dev", &[("Dockerfile", &dockerfile_of_everything(&space))]);
    let daemon = solo.daemon(&[("ABIDE_RESYNC", "1s")]);
    let life = solo.await_ready();
    let steps = solo.steps();
    assert_eq!(steps.iter().filter(|step| step.contains("create container")).count(), 1, "{steps:#?}");
    for _ in 0..2 {
        assert_eq!(daemon.abide(&["sync", "dev"]).code, 0);
        solo.await_status("the sync was acted upon", |status| status["sync"] == status["observed_sync"]);
    }
    eventually("its own health check ran", PATIENCE, || {
        inspected(&solo.name, "{{.State.Health.Status}}") == "healthy"
    });
    daemon.terminate();
    let daemon = solo.daemon(&[("ABIDE_RESYNC", "1s")]);
    assert_eq!(daemon.abide(&["sync", "dev"]).code, 0);
    solo.await_status("the sync was acted upon", |status| status["sync"] == status["observed_sync"]);
    eventually("nothing differs", PATIENCE, || daemon.abide(&["diff", "dev"]).code == 0);
    assert_eq!(solo.await_ready(), life);
    // While no daemon ran, the engine was responsible for restarts.
    let is_handover = |step: &String| step.contains("turn off the restart policy of");
    let (_, others): (Vec<_>, Vec<_>) = solo.steps().into_iter().partition(is_handover);
    assert_eq!(others, steps);
}

#[test]
fn a_crash_loop_backs_off_until_a_new_commit() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    solo.repo.commit_and_push("dev", &[("site.env", "SITE_CRASH_AFTER=1s\nSITE_EXIT_CODE=7\n")]);
    let daemon = solo.daemon(&[]);
    let mut starts: Vec<u64> = Vec::new();
    eventually("it was started five times", PATIENCE, || {
        let started = solo.life().filter(|life| life.pid > 0);
        let started = started.map(|life| millis(&life.started_at));
        starts.extend(started.filter(|at| starts.last() != Some(at)));
        starts.len() == 5
    });
    let gaps: Vec<u64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.is_sorted(), "the gaps between starts do not grow: {gaps:?}");
    assert!(gaps[3] >= gaps[0] + 3000, "{gaps:?}");
    let status = solo.await_reason("CrashLoop");
    assert_eq!(status["status"], "Degraded");
    assert!(status["message"].as_str().unwrap().contains("code 7"), "{status}");
    assert!(!status["next_retry"].is_null());

    solo.push(&daemon, &[("site.env", "# well again\n")]);
    solo.await_ready();
}

/// Milliseconds of a time in the engine's format.
fn millis(moment: &str) -> u64 {
    abide::model::time::Timestamp::parse(moment).unwrap().as_millis()
}

#[test]
fn an_undeclared_environment_keeps_its_container_and_is_reported() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let _daemon = solo.daemon(&[("ABIDE_RESYNC", "1s")]);
    let life = solo.await_ready();
    // Another environment stays, because a manifest without any counts as a mistake.
    solo.declare_all(&format!(
        "[docker]\nnetwork = \"{}\"\n[environment.other]\ncontainer = \"{}\"\nport = 1\npublish = false\n",
        solo.network,
        space.name("other")
    ));
    let status = solo.await_status("it is named", |status| {
        // Before the controller has reported the containers, the status does not name them.
        status["reason"] == "NotInManifest" && status["message"].to_string().contains(&solo.name)
    });
    assert_eq!(status["status"], "Blocked", "{status}");
    assert_eq!(solo.life().unwrap(), life);
    eventually("it is probed no more", PATIENCE, || {
        let before = solo.access_log();
        std::thread::sleep(std::time::Duration::from_millis(500));
        before.is_some() && solo.access_log() == before
    });

    solo.declare("");
    assert_eq!(solo.await_ready(), life);
}

#[test]
fn an_undeclared_environment_whose_container_ended_is_not_reported_as_running() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let _daemon = solo.daemon(&[("ABIDE_RESYNC", "1s")]);
    solo.await_ready();
    solo.declare_all(&format!(
        "[docker]\nnetwork = \"{}\"\n[environment.other]\ncontainer = \"{}\"\nport = 1\npublish = false\n",
        solo.network,
        space.name("other")
    ));
    let message = |words: &'static str| {
        solo.await_status(words, |status| {
            status["message"]
                .as_str()
                .is_some_and(|message| message.contains(&format!("{} {words}", solo.name)))
        })
    };
    message("keeps running");
    docker(&["kill", &solo.name]);
    let status = message("does not run");
    assert_eq!((&status["status"], &status["running"]), (&"Blocked".into(), &serde_json::Value::Null));
}

#[test]
fn a_missing_secret_blocks_updates_but_keeps_the_container() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::undeclared(&space);
    let secret = space.dir().join("token");
    std::fs::write(&secret, "canary-4711").unwrap();
    solo.declare(&format!("env = {{ TOKEN = {{ secret_file = \"{}\" }} }}", secret.display()));
    let daemon = solo.daemon(&[]);
    let life = solo.await_ready();
    assert!(inspected(&solo.name, "{{json .Config.Env}}").contains("TOKEN=canary-4711"));

    std::fs::remove_file(&secret).unwrap();
    assert_eq!(daemon.abide(&["sync", "dev"]).code, 0);
    let status = solo.await_reason("SecretMissing");
    assert_eq!(status["status"], "Blocked");
    assert!(status["message"].as_str().unwrap().contains("TOKEN"), "{status}");
    assert_eq!(solo.life().unwrap(), life);

    std::fs::write(&secret, "canary-4711").unwrap();
    assert_eq!(daemon.abide(&["sync", "dev"]).code, 0);
    assert_eq!(solo.await_ready(), life);
    assert!(!daemon.log().contains("canary-4711"));
}
