//! Logs and builds on the pages.

use super::*;
use crate::api::tests::{commit, image};
use crate::model::build::{BuildKey, BuildRecord, BuildResult, heading_of_log, heading_of_step};

async fn built(site: &Site, environment: &str, number: u64, result: BuildResult) {
    let record = BuildRecord {
        key: BuildKey(format!("key-{number}")),
        content: None,
        reused: None,
        warnings: vec!["a submodule was not fetched".into()],
        number,
        environment: name(environment),
        revision: commit(number),
        checkouts: vec![],
        started: at(100),
        finished: at(180),
        result,
        pushed: Default::default(),
    };
    site.api.handles.status_writer.build(&record).await.unwrap();
}

fn write_log(site: &Site, number: u64, text: &str) {
    std::fs::write(site.api.state.logs_dir.join(format!("{number}.log")), text).unwrap();
}

#[tokio::test]
async fn the_log_page_shows_a_bounded_tail_of_the_engines_log() {
    let site = local();
    let (_, cookie) = site.visitor("viewer", Role::Viewer).await;
    let page =
        async |query: &str| site.get(&format!("/environments/dev/logs{query}")).cookie(&cookie).send().await;
    let text = page("").await.text;
    assert!(text.contains("tail: Some(2000)") && text.contains("timestamps: true"), "{text}");
    assert!(text.contains("data-follow=\"/environments/dev/logs/follow?\""), "{text}");
    assert!(text.contains("All 1 line."), "{text}");
    assert!(page("?tail=99999999").await.text.contains("tail: Some(10000)"));
    let found = page("?q=LogOptions&wrap=1").await.text;
    assert!(
        found.contains("<mark>LogOptions</mark>") && found.contains("1 match in the last 1 line."),
        "{found}"
    );
    assert!(found.contains("/logs/follow?q=LogOptions") && found.contains("log tall end wrap"), "{found}");
    assert!(page("?q=%3Cscript%3E").await.text.contains("value=\"&lt;script&gt;\""));
    let earlier = page("?before=2026-11-29T03:00:11.241234567Z").await.text;
    assert!(earlier.contains("until: Some(") && !earlier.contains("data-follow"), "{earlier}");
    let previous = page("?previous=1").await.text;
    assert!(previous.contains("previous: true") && previous.contains("timestamps: false"), "{previous}");
}

#[tokio::test]
async fn a_log_download_is_served_as_a_plain_text_attachment() {
    let site = local();
    let (_, cookie) = site.visitor("viewer", Role::Viewer).await;
    let answer = site.get("/environments/dev/logs.txt").cookie(&cookie).send().await;
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"dev.log\"");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert!(
        answer.text.contains("tail: None") && answer.text.contains("timestamps: false"),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn followed_lines_start_after_the_pages_position() {
    let site = local();
    let (_, cookie) = site.visitor("viewer", Role::Viewer).await;
    let path = "/environments/dev/logs/follow?after=2026-11-29T03:00:11.241234567Z&q=SINCE";
    let answer = site.get(path).cookie(&cookie).send().await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    assert!(answer.text.contains("<li><span></span><span>dev LogOptions"), "{}", answer.text);
    assert!(answer.text.contains("<mark>since</mark>: Some("), "{}", answer.text);
    assert!(answer.text.contains("id: 2026-11-29T03:00:11.241234567Z"), "{}", answer.text);
    let resumed =
        site.get("/environments/dev/logs/follow").with("last-event-id", "2026-11-30T03:00:11.241234567Z");
    assert!(resumed.cookie(&cookie).send().await.text.contains("since: Some("));
}

#[tokio::test]
async fn builds_are_listed_and_each_has_its_steps_and_its_log() {
    let site = local();
    let (_, cookie) = site.visitor("viewer", Role::Viewer).await;
    built(&site, "dev", 7, BuildResult::Built(image(7))).await;
    built(&site, "dev", 8, BuildResult::Failed("no <rule> to make target".into())).await;
    let log = format!(
        "build 7\n{}\ncloning\n{}\n\u{1b}[31m<b>bad</b>\u{1b}[0m\n",
        heading_of_step(at(101), "fetch the commit"),
        heading_of_step(at(113), "build the image")
    );
    write_log(&site, 7, &log);
    let list = site.get("/environments/dev/builds").cookie(&cookie).send().await.text;
    assert!(list.find("/builds/8").unwrap() < list.find("/builds/7").unwrap(), "the newest is first: {list}");
    assert!(list.contains("no &lt;rule&gt; to make target") && list.contains("took 80 s"), "{list}");
    let page = site.get("/environments/dev/builds/7").cookie(&cookie).send().await.text;
    assert!(
        page.contains("<td dir=\"auto\">fetch the commit</td><td class=\"end nowrap\">12 s</td>"),
        "{page}"
    );
    assert!(
        page.contains("<td dir=\"auto\">build the image</td><td class=\"end nowrap\">67 s</td>"),
        "{page}"
    );
    assert!(page.contains("<span class=\"f1\">&lt;b&gt;bad&lt;/b&gt;</span>"), "{page}");
    assert!(page.contains("a submodule was not fetched") && !page.contains("data-follow"), "{page}");
    let found = site.get("/environments/dev/builds/7?q=CLON").cookie(&cookie).send().await.text;
    assert!(
        found.contains("<mark>clon</mark>ing") && found.contains("1 match in the last 5 lines."),
        "{found}"
    );
    let part = site.get("/environments/dev/builds/7?to=3&tail=2").cookie(&cookie).send().await.text;
    assert!(
        part.contains("The lines 2 to 3.") && part.contains("id=\"L3\"") && !part.contains("id=\"L4\""),
        "{part}"
    );
    assert!(part.contains("href=\"?tail=2&amp;to=1\">Earlier lines"), "{part}");
    assert!(part.contains("href=\"?tail=2\">Newest lines"), "{part}");
    let file = site.get("/environments/dev/builds/7/log.txt").cookie(&cookie).send().await;
    assert_eq!(
        (file.text, file.headers["content-disposition"].to_str().unwrap()),
        (log, "attachment; filename=\"dev-build-7.log\"")
    );
    for missing in ["/environments/dev/builds/9", "/environments/test/builds/7", "/environments/dev/builds/x"]
    {
        assert_eq!(site.get(missing).cookie(&cookie).send().await.status, 404, "{missing}");
    }
    let missing = site.get("/environments/dev/builds/9").cookie(&cookie).send().await.text;
    assert!(
        missing.contains("dev has no build 9") && missing.contains("/environments/dev/builds/8\">8</a>"),
        "{missing}"
    );
    let gone = site.get("/environments/dev/builds/8").cookie(&cookie).send().await.text;
    assert!(gone.contains("no log to show: the log of build 8 is no longer stored."), "{gone}");
    let prod = site.get("/environments/prod/builds").cookie(&cookie).send().await.text;
    assert!(prod.contains("it takes the images of <a href=\"/environments/test/builds\">test</a>"), "{prod}");
}

#[tokio::test]
async fn a_stopped_build_shows_its_log_under_its_own_environment() {
    let site = local();
    let (_, cookie) = site.visitor("viewer", Role::Viewer).await;
    let get = async |path: &str| site.get(path).cookie(&cookie).send().await;
    let heading = heading_of_log(6, &commit(6), &name("dev"));
    write_log(
        &site,
        6,
        &format!("{heading}\n{}\nhalf of it\n", heading_of_step(at(101), "fetch the commit")),
    );
    built(&site, "dev", 7, BuildResult::Built(image(7))).await;
    let list = get("/environments/dev/builds").await.text;
    assert!(list.find("/builds/7").unwrap() < list.find("/builds/6").unwrap(), "{list}");
    assert!(list.contains("Stopped") && list.contains("replaced by a newer one"), "{list}");
    let page = get("/environments/dev/builds/6").await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("half of it") && page.text.contains("fetch the commit"), "{}", page.text);
    assert!(page.text.contains("id=\"L3\"") && !page.text.contains("data-follow"), "{}", page.text);
    assert!(get("/environments/dev/builds/6/log.txt").await.text.ends_with("half of it\n"));
    let other = get("/environments/test/builds/6").await;
    assert_eq!(other.status, 404);
    assert!(other.text.contains("<a href=\"/environments/dev/builds/6\">dev</a>"), "{}", other.text);
    assert_eq!(get("/environments/test/builds/6/log.txt").await.status, 404);
}

#[tokio::test]
async fn an_empty_log_is_followed_from_its_start() {
    let site = local();
    let (_, cookie) = site.visitor("viewer", Role::Viewer).await;
    let follow = site.get("/environments/dev/logs/follow?after=start").cookie(&cookie).send().await.text;
    assert!(follow.contains("tail: Some(10000), since: None"), "{follow}");
    let page = site.get("/environments/dev/logs?q=nothing-has-this").cookie(&cookie).send().await.text;
    assert!(page.contains("data-at=\"start\""), "{page}");
}

#[tokio::test]
async fn a_running_build_is_followed_from_the_byte_at_which_its_page_ends() {
    let mut site = local();
    site.api.state.controller =
        Some(Arc::new(FakeController { building: Some(7), ..FakeController::default() }));
    let gate = Gate::new(&site.api.state);
    let listener = DaemonListener { address: "127.0.0.1:8080".parse().unwrap(), is_tls: false };
    site.router = site.api.router().layer(from_fn_with_state(gate, authenticate)).layer(Extension(listener));
    let (_, cookie) = site.visitor("viewer", Role::Viewer).await;
    write_log(&site, 7, &format!("{}\nhalf a li", heading_of_step(at(1_000), "build the image")));
    let list = site.get("/environments/dev/builds").cookie(&cookie).send().await.text;
    assert!(list.contains("Running"), "{list}");
    let page = site.get("/environments/dev/builds/7").cookie(&cookie).send().await.text;
    assert!(
        page.contains("data-at=\"45-1\"") && !page.contains("half a li"),
        "it comes when it has ended: {page}"
    );
    assert!(page.contains("data-follow=\"/environments/dev/builds/7/follow?\""), "{page}");
    let stream = site.get("/environments/dev/builds/7/follow?after=45-1").cookie(&cookie).raw().await;
    assert_eq!(stream.status(), 200);
    let mut log =
        std::fs::OpenOptions::new().append(true).open(site.api.state.logs_dir.join("7.log")).unwrap();
    std::io::Write::write_all(&mut log, b"ne\n").unwrap();
    let mut body = stream.into_body();
    assert_eq!(sent(&mut body).await, ": \n\n", "it begins at once");
    let text = sent(&mut body).await;
    assert!(
        text.contains("half a line</span>") && text.contains("id: 57-2\n") && text.contains("id=\"L2\""),
        "{text}"
    );
}
