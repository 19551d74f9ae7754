//! Typical folders of users, and broken ones.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::model::name::EnvironmentName;

const STRONG: &str = "0123456789abcdef0123456789abcdef";

const ENVIRONMENT: &str = "[environment.dev]\ncontainer = \"dev-server\"\nport = 8900\n";

const WEBHOOK: &str = "[repository.keepwork]\nurl = \"/srv/keepwork.git\"\n\
                       webhook = { provider = \"github\", secret_env = \"HOOK\" }\n";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn always(secret: &'static str) -> impl Fn(&SecretRef) -> Result<Secret, SecretError> {
    move |_| Ok(Secret::new(secret))
}

fn problems(dir: &TempDir, secret: &'static str) -> String {
    match load_with(dir.path(), &always(secret)) {
        Err(LoadError::Invalid(problems)) => problems.to_string(),
        other => panic!("no problems but {other:?}"),
    }
}

#[test]
fn the_shipped_manifest_is_valid_once_its_secret_exists() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("desired-state");
    let loaded = load_with(&shipped, &always(STRONG)).unwrap();
    let names: Vec<_> = loaded.manifest.environments.keys().map(EnvironmentName::as_str).collect();
    assert_eq!(names, ["dev", "prod", "test"]);
}

#[test]
fn all_files_of_a_folder_form_one_manifest() {
    let dir = folder(&[("a.toml", WEBHOOK), ("b.toml", ENVIRONMENT)]);
    let manifest = load_with(dir.path(), &always(STRONG)).unwrap().manifest;
    assert_eq!((manifest.repositories.len(), manifest.environments.len()), (1, 1));
}

#[test]
fn hidden_files_backups_and_folders_are_passed_over() {
    let dir = folder(&[
        ("a.toml", ENVIRONMENT),
        (".#a.toml", "not toml"),
        (".hidden.toml", "not toml"),
        ("#a.toml#", "not toml"),
        ("a.toml~", "not toml"),
        ("a.toml.bak", "not toml"),
    ]);
    fs::create_dir(dir.path().join("folder.toml")).unwrap();
    assert!(load(dir.path()).is_ok());
}

#[test]
fn a_folder_without_a_manifest_is_reported_with_a_remedy() {
    let dir = folder(&[("README.md", "hello")]);
    let error = load(dir.path()).unwrap_err();
    assert!(matches!(error, LoadError::NoManifest { .. }));
    assert!(error.to_string().contains("write one"), "{error}");
    let error = load(&dir.path().join("absent")).unwrap_err();
    assert!(matches!(error, LoadError::NoFolder { .. }));
    assert!(error.to_string().contains("--desired-state"), "{error}");
}

#[test]
fn a_missing_secret_is_reported_with_its_line() {
    let text = format!("{WEBHOOK}{ENVIRONMENT}env = {{ TOKEN = {{ secret_file = \"/no/such/file\" }} }}\n");
    let dir = folder(&[("a.toml", &text)]);
    let error = load_with(dir.path(), &|named| Err(SecretError::NoVariable(place_of(named)))).unwrap_err();
    let LoadError::Invalid(problems) = error else { panic!("{error:?}") };
    let found: Vec<_> = problems.iter().map(|problem| (problem.line, problem.message.clone())).collect();
    assert_eq!(found.len(), 2, "{problems}");
    assert_eq!(found[0].0, Some(3));
    assert!(found[0].1.contains("HOOK"), "{problems}");
    assert_eq!(found[1].0, Some(7));
    assert!(found[1].1.contains("/no/such/file"), "{problems}");
}

#[test]
fn weak_webhook_secrets_are_rejected_without_being_shown() {
    let dir = folder(&[("a.toml", &format!("{WEBHOOK}{ENVIRONMENT}"))]);
    let expected = "a.toml:3: the webhook's secret in HOOK is";
    for (secret, why) in [
        ("hunter2-hunter2", "shorter than 16 bytes"),
        ("It's a Secret to Everybody", "a published example"),
        ("A_Random_Webhook_Secret", "a published example"),
        ("changeme", "a published example"),
        ("your-webhook-secret", "a published example"),
    ] {
        let found = problems(&dir, secret);
        assert!(found.starts_with(&format!("{expected} {why}")), "{secret}: {found}");
        assert!(!found.contains(secret), "{found}");
    }
    assert!(load_with(dir.path(), &always("sixteen-bytes-ok")).is_ok());
}

#[test]
fn a_channels_secret_must_be_valid_for_its_service() {
    let channel = "[notify.team]\nkind = \"slack\"\nsecret_env = \"HOOK\"\n";
    let dir = folder(&[("a.toml", &format!("{channel}{ENVIRONMENT}"))]);
    let found = problems(&dir, "https://192.168.1.5/services/sesame");
    assert!(found.contains("the secret in HOOK is a private address: add `allow_private = true`"), "{found}");
    assert!(!found.contains("sesame"), "{found}");
    assert!(load_with(dir.path(), &always("https://hooks.slack.com/services/sesame")).is_ok());
}

#[test]
fn a_missing_or_non_regular_overlay_is_reported_with_its_line() {
    let overlay = tempfile::tempdir().unwrap();
    let there = overlay.path().join("config.page");
    let text = |from: &Path| {
        format!(
            "{WEBHOOK}{ENVIRONMENT}source = {{ repository = \"keepwork\", branch = \"dev\" }}\n\
             [environment.dev.build]\noverlay = [{{ from = \"{}\", to = \"config.page\" }}]\n",
            from.display()
        )
    };
    let dir = folder(&[("a.toml", &text(&there))]);
    assert!(
        problems(&dir, STRONG).starts_with("a.toml:9: cannot read the overlay "),
        "{}",
        problems(&dir, STRONG)
    );
    fs::write(&there, "x").unwrap();
    assert!(load_with(dir.path(), &always(STRONG)).is_ok());
    fs::write(dir.path().join("a.toml"), text(overlay.path())).unwrap();
    assert!(problems(&dir, STRONG).contains("not a regular file"));
}

#[test]
fn a_missing_or_non_regular_certificate_is_reported_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("crt"), dir.path().join("key"));
    fs::write(&certificate, "x").unwrap();
    let text = |key: &Path| {
        let (certificate, key) = (certificate.display(), key.display());
        format!("{ENVIRONMENT}[front]\nhttps = 443\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n")
    };
    let manifest = folder(&[("a.toml", &text(&key))]);
    let line = 4 + ENVIRONMENT.lines().count();
    let found = problems(&manifest, STRONG);
    assert!(found.starts_with(&format!("a.toml:{line}: cannot read the key ")), "{found}");
    fs::write(&key, "x").unwrap();
    assert!(load_with(manifest.path(), &always(STRONG)).is_ok());
    fs::write(manifest.path().join("a.toml"), text(dir.path())).unwrap();
    assert!(problems(&manifest, STRONG).contains("not a regular file"));
}

#[test]
fn a_manifest_can_be_read_without_its_secrets() {
    let text = WEBHOOK.replace("HOOK", "A_VARIABLE_THAT_NOBODY_SETS");
    let dir = folder(&[("a.toml", &format!("{text}{ENVIRONMENT}"))]);
    assert!(load(dir.path()).is_err());
    assert_eq!(load_text(dir.path()).unwrap().repositories.len(), 1);
    fs::write(dir.path().join("b.toml"), "nonsense = 1\n").unwrap();
    assert!(load_text(dir.path()).is_err());
}

#[test]
fn every_unreadable_manifest_file_is_reported() {
    let dir = folder(&[("a.toml", ENVIRONMENT)]);
    fs::write(dir.path().join("b.toml"), b"x = 1\ny = \"\xff\"\n").unwrap();
    fs::write(dir.path().join("c.toml"), vec![b'#'; 1024 * 1024 + 1]).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("d.toml")).unwrap();
    let found = problems(&dir, STRONG);
    assert!(found.contains("b.toml:2: is not UTF-8 text"), "{found}");
    assert!(found.contains("c.toml: is larger than 1 MiB"), "{found}");
    assert!(found.contains("d.toml: cannot be read"), "{found}");
}

#[test]
fn a_linked_manifest_is_read() {
    let elsewhere = folder(&[("real", ENVIRONMENT)]);
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("real"), dir.path().join("a.toml")).unwrap();
    assert!(load(dir.path()).is_ok());
}

#[test]
fn a_manifest_stamp_changes_only_with_an_edit() {
    let dir = folder(&[("a.toml", "x-note = 1\n"), ("notes.txt", "1")]);
    let before = stamp(dir.path());
    assert_eq!(before, stamp(dir.path()));
    fs::write(dir.path().join("notes.txt"), "22").unwrap();
    assert_eq!(before, stamp(dir.path()), "a file that is no manifest counted");

    let path = dir.path().join("a.toml");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(dir.path().join("new"), "x-note = 2\n").unwrap();
    fs::File::open(dir.path().join("new")).unwrap().set_modified(modified).unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    let replaced = stamp(dir.path());
    assert_ne!(before, replaced, "the same size and time hid an edit");
    fs::write(dir.path().join("b.toml"), "").unwrap();
    let added = stamp(dir.path());
    assert_ne!(replaced, added);
    fs::remove_file(path).unwrap();
    assert_ne!(added, stamp(dir.path()));
    assert_eq!(stamp(&dir.path().join("absent")), FolderStamp::default());
}
