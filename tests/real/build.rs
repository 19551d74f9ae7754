//! Builds: steps, overlays, secrets, scripts, and what becomes of those that fail or are cut off.

use crate::common::{Space, Workshop, build_log, busybox, docker, site_image};

#[test]
fn a_step_without_output_fails_the_build_and_leaves_the_container_alone() {
    let Some(space) = Space::new() else { return };
    let good = site_image(&space, "COPY built.txt /built.txt");
    let step = |command: &str| {
        let label = space.label();
        format!(
            "FROM scratch\nLABEL {label}\nCOPY bin/site /bin/site\nENTRYPOINT [\"/bin/site\"]\nCMD {command}\n"
        )
    };
    let files = [("Dockerfile", good.as_str()), ("Dockerfile.dist", &step("[\"version\"]"))];
    let build = "[[environment.dev.build.step]]\ndockerfile = \"Dockerfile.dist\"\noutput = \"built.txt\"";
    let shop = Workshop::new(&space, &files, build);
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    let log = build_log(&daemon);
    assert!(log.contains("step 1: running Dockerfile.dist for built.txt"), "{log}");
    // `pack` of an empty folder writes nothing and fails; `serve` of nothing ends with a code.
    shop.push(&daemon, &[("Dockerfile.dist", &step("[\"pack\", \"/none\"]"))]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("step 1 ended with exit code 1"), "{message}");
    assert!(message.contains("/none"), "{message}");
    assert_eq!(
        docker(&["inspect", "--format", "{{.Image}} {{.State.Running}}", &shop.container]),
        format!("{image} true")
    );
}

#[test]
fn probe_buildkit() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let dockerfile = format!(
        "FROM {base} AS maker\nRUN --mount=type=secret,id=token --mount=type=cache,target=/cache grep -c . /run/secrets/token && echo RAN >/made.txt && sleep 1\n{}",
        site_image(&space, "COPY --from=maker /made.txt /made.txt")
    );
    let shop = Workshop::new(
        &space,
        &[("Dockerfile", &dockerfile)],
        "[environment.dev.build]\nsecrets = { token = { secret_env = \"TOKEN\" } }",
    );
    let daemon = shop.daemon_with(&[("TOKEN", "canary-canary")]);
    shop.await_ready(&daemon);
    eprintln!("{}", build_log(&daemon));
}
