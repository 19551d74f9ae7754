//! Promotions of signed images only. The signatures are made with openssl, in both forms of cosign.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{PATIENCE, Shop};
use crate::common::{Daemon, SECRET, abide_with, eventually_some};

/// A pair of keys as `cosign generate-key-pair` makes it.
struct KeyPair {
    private: PathBuf,
    public: PathBuf,
}

impl KeyPair {
    fn new(dir: &Path, name: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let (private, public) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pub")));
        let of = |arguments: &[&str]| {
            let made = Command::new("openssl").args(arguments).output().unwrap();
            assert!(made.status.success(), "{made:?}");
            made.stdout
        };
        std::fs::write(&private, of(&["ecparam", "-name", "prime256v1", "-genkey", "-noout"])).unwrap();
        std::fs::write(&public, of(&["ec", "-in", private.to_str().unwrap(), "-pubout"])).unwrap();
        Self { private, public }
    }

    /// The signature over `message`, in base64.
    fn sign(&self, message: &[u8]) -> String {
        let file = self.private.with_extension("message");
        std::fs::write(&file, message).unwrap();
        let mut sign = Command::new("openssl");
        let signed = sign.args(["dgst", "-sha256", "-sign"]).args([&self.private, &file]).output().unwrap();
        assert!(signed.status.success(), "{signed:?}");
        STANDARD.encode(signed.stdout)
    }
}

/// What cosign signed before version 3.
fn payload(digest: &str) -> String {
    let image = json!({ "docker-manifest-digest": digest });
    let identity = json!({ "docker-reference": "" });
    let kind = "cosign container image signature";
    json!({ "critical": { "identity": identity, "image": image, "type": kind }, "optional": null })
        .to_string()
}

impl Shop {
    /// Places signatures of `digest` in the tag that cosign used before version 3.
    fn place_signatures(&self, digest: &str, signatures: &[(String, String)]) {
        let config = self.registry.place_blob(&self.path, "{}");
        let layers: Vec<Value> = signatures
            .iter()
            .map(|(payload, signature)| {
                json!({
                    "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                    "size": payload.len(),
                    "digest": self.registry.place_blob(&self.path, payload),
                    "annotations": { "dev.cosignproject.cosign/signature": signature },
                })
            })
            .collect();
        let manifest = manifest(&config, layers, json!({}));
        self.registry.place_manifest(&self.path, &format!("{}.sig", digest.replace(':', "-")), &manifest);
    }

    /// Places a bundle for `digest` as cosign does since version 3, in a registry without an API for referrers.
    fn place_bundle(&self, digest: &str, key: &KeyPair) {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "predicate": {},
            "subject": [{ "digest": { "sha256": digest.trim_start_matches("sha256:") } }],
        });
        let (kind, statement) = ("application/vnd.in-toto+json", statement.to_string());
        let covered = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "dsseEnvelope": {
                "payloadType": kind,
                "payload": STANDARD.encode(&statement),
                "signatures": [{ "sig": key.sign(covered.as_bytes()) }],
            },
        });
        let bundle = bundle.to_string();
        let layer = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "size": bundle.len(),
            "digest": self.registry.place_blob(&self.path, &bundle),
        });
        let config = self.registry.place_blob(&self.path, "{}");
        let text = manifest(&config, vec![layer], json!({}));
        let of_bundle = self.registry.place_manifest(&self.path, "bundle", &text);
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "artifactType": "application/vnd.oci.empty.v1+json",
                "size": text.to_string().len(),
                "digest": of_bundle,
            }],
        });
        self.registry.place_manifest(&self.path, &digest.replace(':', "-"), &index);
    }

    /// Waits until the state of the promotion has these words.
    fn await_promotion(&self, daemon: &Daemon, words: &str) {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some(words, PATIENCE, || {
                // Evidence is looked for again after each change.
                daemon.abide(&["sync", "dev"]);
                let ran = daemon.abide(&["evidence", "dev", "-o", "json"]);
                let evidence: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
                last = evidence["onward"][0]["message"].to_string();
                last.contains(words).then_some(())
            });
        }));
        assert!(found.is_ok(), "{words:?} is not in {last}");
    }
}

fn manifest(config: &str, layers: Vec<Value>, annotations: Value) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "size": 2, "digest": config },
        "layers": layers,
        "annotations": annotations,
    })
}

#[test]
fn only_a_signed_image_is_promoted() {
    let Some(shop) = Shop::open() else { return };
    let keys = shop.shop.desired_state.join("keys");
    let (release, other) = (KeyPair::new(&keys, "release"), KeyPair::new(&keys, "other"));
    assert!(release.public.exists());
    shop.declare_with("", "promote = { from = \"dev\", signed_by = \"keys/release.pub\" }");
    let daemon = shop.daemon();
    let digest = shop.ready(&daemon);
    shop.await_promotion(&daemon, "no signature found; sign it: cosign sign");
    let promote = |more: &[&str]| daemon.abide(&[&["promote", "dev", "prod", "--yes"], more].concat());
    let refused = promote(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("no signature found"), "{refused:?}");

    // By another key, changed after it was signed, or about another image.
    let text = payload(&digest);
    let foreign = (text.clone(), other.sign(text.as_bytes()));
    let changed = (text.replace("null", "{}"), release.sign(text.as_bytes()));
    shop.place_signatures(&digest, &[foreign.clone(), changed]);
    shop.await_promotion(&daemon, "2 signatures found, and none verifies with keys/release.pub");
    let elsewhere = payload(&format!("sha256:{}", "0".repeat(64)));
    let signed_elsewhere = (elsewhere.clone(), release.sign(elsewhere.as_bytes()));
    shop.place_signatures(&digest, &[foreign.clone(), signed_elsewhere]);
    shop.await_promotion(&daemon, "1 signature by keys/release.pub names another image");
    assert_eq!(promote(&[]).code, 1);

    // One good signature among others is enough.
    shop.place_signatures(&digest, &[foreign, (text.clone(), release.sign(text.as_bytes()))]);
    shop.await_promotion(&daemon, "prod can be promoted");
    let promoted = promote(&["--wait", "--timeout", "60s"]);
    assert_eq!(promoted.code, 0, "{promoted:?}");

    // A signature counts for its image only, and the form of later versions counts as well.
    shop.shop.push(&daemon, &[("site.env", "VERSION=2\n")]);
    let second = shop.ready(&daemon);
    shop.await_promotion(&daemon, "no signature found");
    shop.place_bundle(&second, &other);
    shop.await_promotion(&daemon, "1 signature found, and none verifies");
    shop.place_bundle(&second, &release);
    shop.await_promotion(&daemon, "prod can be promoted");
}

#[test]
fn a_key_that_cannot_be_used_is_reported_by_check() {
    let Some(shop) = Shop::open() else { return };
    let keys = shop.shop.desired_state.join("keys");
    let pair = KeyPair::new(&keys, "release");
    shop.declare_with("", "promote = { from = \"dev\", signed_by = \"keys/release.pub\" }");
    let variable = [("ABIDE_TEST_WEBHOOK_SECRET", SECRET)];
    let check = || abide_with(&shop.shop.desired_state, &["check"], &variable);
    assert_eq!(check().code, 0, "{:?}", check());
    for (content, words) in [
        (Some(std::fs::read_to_string(&pair.private).unwrap()), "BEGIN PUBLIC KEY"),
        (Some("no key".to_owned()), "BEGIN PUBLIC KEY"),
        (None, "cannot be read"),
    ] {
        match content {
            Some(content) => std::fs::write(&pair.public, content).unwrap(),
            None => std::fs::remove_file(&pair.public).unwrap(),
        }
        let found = check();
        let output = format!("{}{}", found.stdout, found.stderr);
        assert!(found.code != 0 && output.contains("signed_by") && output.contains(words), "{found:?}");
    }
}
