//! Credentials: their sources, their precedence, and that they are never displayed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::model::container::Secret;
use crate::model::reference::RegistryHost;
use crate::model::spec::{Login, RegistryAccess, SecretRef};
use crate::registry::{Credentials, Keyring};

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

fn password(username: &str, password: &str) -> Credentials {
    Credentials::Password { username: username.to_owned(), password: Secret::new(password) }
}

fn keyring(file: &Path, text: &str) -> Keyring {
    std::fs::write(file, text).unwrap();
    Keyring::new(None, Some(file.to_owned()))
}

async fn found(keyring: &Keyring, of: &str) -> Option<Credentials> {
    keyring.credentials(&host(of), &RegistryAccess::default()).await.unwrap()
}

async fn refused(keyring: &Keyring, of: &str) -> String {
    keyring.credentials(&host(of), &RegistryAccess::default()).await.unwrap_err().to_string()
}

#[tokio::test]
async fn credentials_written_by_docker_login_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    // alice:p:w, with and without padding, and from an old client that appended a NUL.
    let keyring = keyring(
        &file,
        r#"{ "HttpHeaders": {}, "auths": {
            "localhost:5000": { "auth": "YWxpY2U6cDp3" },
            "https://old.example.com/v1/": { "auth": "YWxpY2U6cDp3ZAA" },
            "https://index.docker.io/v1/": { "auth": "Ym9iOmh1YnB3" },
            "plain.example.com": { "username": "carol", "password": "pw" },
            "token.example.com": { "auth": "YWxpY2U6", "identitytoken": "tok" },
            "empty.example.com": {} } }"#,
    );
    assert_eq!(found(&keyring, "localhost:5000").await, Some(password("alice", "p:w")));
    assert_eq!(found(&keyring, "old.example.com").await, Some(password("alice", "p:wd")));
    assert_eq!(found(&keyring, "docker.io").await, Some(password("bob", "hubpw")));
    assert_eq!(found(&keyring, "plain.example.com").await, Some(password("carol", "pw")));
    let token = Credentials::IdentityToken(Secret::new("tok"));
    assert_eq!(found(&keyring, "token.example.com").await, Some(token));
    for unknown in ["empty.example.com", "localhost:5001", "localhost", "example.com"] {
        assert_eq!(found(&keyring, unknown).await, None, "{unknown}");
    }
    let nowhere = Keyring::new(None, Some(dir.path().join("absent.json")));
    assert_eq!(found(&nowhere, "localhost:5000").await, None);
}

#[tokio::test]
async fn the_manifest_overrides_the_variable_and_the_variable_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let by_file = keyring(
        &file,
        r#"{ "auths": { "a.b": { "auth": "YWxpY2U6cDp3" }, "c.d": { "auth": "YWxpY2U6cDp3" } } }"#,
    );
    let inline = Secret::new(r#"{ "auths": { "a.b": { "auth": "Ym9iOmh1YnB3" } } }"#);
    let both = Keyring::new(Some(inline), Some(file));
    assert_eq!(found(&by_file, "a.b").await, Some(password("alice", "p:w")));
    assert_eq!(found(&both, "a.b").await, Some(password("bob", "hubpw")));
    assert_eq!(found(&both, "c.d").await, Some(password("alice", "p:w")));
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "mine\n").unwrap();
    let login = |path: &Path| {
        Some(Login { username: "dave".to_owned(), password: SecretRef::SecretFile(path.into()) })
    };
    let access = RegistryAccess { login: login(&secret), ..RegistryAccess::default() };
    assert_eq!(both.credentials(&host("a.b"), &access).await.unwrap(), Some(password("dave", "mine")));
    let access = RegistryAccess { login: login(&dir.path().join("gone")), ..access };
    let error = both.credentials(&host("a.b"), &access).await.unwrap_err().to_string();
    assert!(error.contains("a.b") && error.contains("gone"), "{error}");
}

#[tokio::test]
async fn a_malformed_docker_config_is_reported_without_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    for text in [
        r#"{ "auths": { "a.b": { "auth": "canary" "#,
        r#"{ "auths": { "a.b": { "auth": "canary" } } }"#,
        r#"{ "auths": { "a.b": { "auth": 7 }, "canary": [] } }"#,
    ] {
        let error = refused(&keyring(&file, text), "a.b").await;
        assert!(error.contains("config.json") && !error.contains("canary"), "{error}");
    }
    assert!(
        refused(&Keyring::new(None, Some(dir.path().to_owned())), "a.b").await.contains("not a regular file")
    );
}

/// A folder with a helper. Its name is unique to the test, because helpers are found by `PATH`.
fn helper(dir: &Path, script: &str) -> String {
    let name = format!("abide-test-{}", uuid::Uuid::new_v4().simple());
    let path = dir.join(format!("docker-credential-{name}"));
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    name
}

#[tokio::test]
async fn a_credential_helper_with_an_invalid_name_is_never_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let named = helper(dir.path(), "touch ran");
    for name in [
        "../x",
        "a b",
        "A",
        "x;y",
        "$(id)",
        &format!("../../../..{}/docker-credential-{named}", dir.path().display()),
    ] {
        let text = serde_json::json!({ "credsStore": name }).to_string();
        assert!(refused(&keyring(&file, &text), "a.b").await.contains("an invalid name"), "{name}");
    }
    let absent = serde_json::json!({ "credHelpers": { "a.b": "abide-absent" } }).to_string();
    let error = refused(&keyring(&file, &absent), "a.b").await;
    assert!(
        error.contains("docker-credential-abide-absent") && error.contains("cannot be started"),
        "{error}"
    );
    assert_eq!(found(&keyring(&file, &absent), "c.d").await, None, "a helper is one registry's own");
}

#[test]
fn debug_output_redacts_passwords() {
    let secret = password("alice", "canary");
    assert_eq!(format!("{secret:?}"), "[redacted]");
    let keyring = Keyring::new(Some(Secret::new("canary")), None);
    assert!(!format!("{keyring:?}").contains("canary"));
    assert!(!format!("{:?}", secret.engine_header(&host("a.b"))).contains("ey"));
}

#[test]
fn passwords_are_encoded_for_the_engine() {
    use base64::Engine as _;
    // In the other alphabet, these have a `+` or `/` at some alignment.
    for text in ["abc>>>def", "p~ss", "a?b", ">>>", "~~~~", "???", "ÿÿÿ", "\u{1}\"\\"] {
        for user in ["a", "ab", "abc"] {
            let header = password(user, text).engine_header(&host("a.b"));
            let json = base64::engine::general_purpose::URL_SAFE.decode(header.expose()).unwrap();
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!((json["username"].as_str(), json["password"].as_str()), (Some(user), Some(text)));
            assert_eq!(json["serveraddress"], "a.b");
        }
    }
}
