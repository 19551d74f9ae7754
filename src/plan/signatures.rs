//! Signatures of images by key, in the two forms of cosign: which image a signed payload names.
//!
//! Everything here came from a registry that anyone may write to, so what cannot be read is not a signature.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use crate::model::name::Digest;

/// The most signatures of an image that are checked.
pub const MOST_SIGNATURES: usize = 20;
/// The media type of a payload of cosign before version 3.
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation of a layer with its signature.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The beginning of the media types of bundles, since version 3.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// The type of the signed text in a bundle.
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The claim that an image is signed. Bundles with other claims, such as a list of parts, are not signatures.
const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

/// A payload in the registry, with its signature if that is stored beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBlob {
    /// The digest of the payload or bundle.
    pub blob: Digest,
    /// The signature; `None`: it is in the bundle.
    pub signature: Option<Vec<u8>>,
}

/// Signed bytes and their signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedText {
    /// The bytes that the key signed.
    pub message: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
    /// The image that the payload names; `None`: it names none.
    pub image: Option<Digest>,
}

/// The payloads that a manifest of signatures names.
pub fn blobs_of(manifest: &[u8]) -> Vec<SignedBlob> {
    let manifest: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let layers = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let blob = |layer: &Value| {
        let kind = layer["mediaType"].as_str()?;
        let blob = Digest::new(layer["digest"].as_str()?).ok()?;
        if kind.starts_with(BUNDLE) {
            return Some(SignedBlob { blob, signature: None });
        }
        let signature = decoded(layer["annotations"][SIGNATURE].as_str()?)?;
        (kind == SIMPLE_SIGNING).then_some(SignedBlob { blob, signature: Some(signature) })
    };
    layers.iter().filter_map(blob).take(MOST_SIGNATURES).collect()
}

/// The manifests that an index of referrers names. Their descriptors do not show which are signatures.
pub fn manifests_of(index: &[u8]) -> Vec<Digest> {
    let index: Value = serde_json::from_slice(index).unwrap_or_default();
    let manifests = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let digest = |manifest: &Value| Digest::new(manifest["digest"].as_str()?).ok();
    manifests.iter().filter_map(digest).take(MOST_SIGNATURES).collect()
}

/// The signed text of a payload or bundle.
pub fn text_of(blob: &SignedBlob, content: &[u8]) -> Option<SignedText> {
    match &blob.signature {
        Some(signature) => {
            let image = image_of_payload(content);
            Some(SignedText { message: content.to_vec(), signature: signature.clone(), image })
        }
        None => of_bundle(content),
    }
}

/// The image that a payload of simple signing names.
fn image_of_payload(payload: &[u8]) -> Option<Digest> {
    let payload: Value = serde_json::from_slice(payload).ok()?;
    let critical = &payload["critical"];
    let is_signature = critical["type"].as_str() == Some("cosign container image signature");
    let digest = critical["image"]["docker-manifest-digest"].as_str().filter(|_| is_signature)?;
    Digest::new(digest).ok()
}

/// The signed text of a bundle: an envelope with exactly one signature.
fn of_bundle(bundle: &[u8]) -> Option<SignedText> {
    let bundle: Value = serde_json::from_slice(bundle).ok()?;
    let envelope = &bundle["dsseEnvelope"];
    let [signature] = envelope["signatures"].as_array()?.as_slice() else { return None };
    let kind = envelope["payloadType"].as_str()?;
    let payload = decoded(envelope["payload"].as_str()?)?;
    let signature = decoded(signature["sig"].as_str()?)?;
    let image = image_of_statement(&payload).filter(|_| kind == IN_TOTO);
    Some(SignedText { message: pre_authenticated(kind, &payload), signature, image })
}

/// The image that an in-toto statement claims to be signed.
fn image_of_statement(statement: &[u8]) -> Option<Digest> {
    let statement: Value = serde_json::from_slice(statement).ok()?;
    let is_statement = statement["_type"].as_str() == Some("https://in-toto.io/Statement/v1");
    let is_signature = statement["predicateType"].as_str() == Some(SIGN);
    let [subject] = statement["subject"].as_array()?.as_slice() else { return None };
    let digest = subject["digest"]["sha256"].as_str().filter(|_| is_statement && is_signature)?;
    Digest::new(format!("sha256:{digest}")).ok()
}

/// The bytes that an envelope's signature covers. Lengths count bytes.
fn pre_authenticated(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Decodes base64 in the standard alphabet or that of URLs, with or without padding.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_covers_type_and_payload() {
        // The vector of the DSSE protocol.
        let covered = pre_authenticated("http://example.com/HelloWorld", b"hello world");
        assert_eq!(covered, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn only_a_signature_claim_about_a_single_image_is_accepted() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let payload = |kind: &str| {
            format!(r#"{{"critical":{{"type":"{kind}","image":{{"docker-manifest-digest":"{digest}"}}}}}}"#)
        };
        let named = image_of_payload(payload("cosign container image signature").as_bytes());
        assert_eq!(named.unwrap().as_str(), digest);
        assert_eq!(image_of_payload(payload("atomic container signature").as_bytes()), None);
        let subject = format!(r#"{{"digest":{{"sha256":"{}"}}}}"#, "a".repeat(64));
        let statement = |predicate: &str, subjects: &str| {
            let kind = "https://in-toto.io/Statement/v1";
            format!(r#"{{"_type":"{kind}","predicateType":"{predicate}","subject":[{subjects}]}}"#)
        };
        assert!(image_of_statement(statement(SIGN, &subject).as_bytes()).is_some());
        let both = format!("{subject},{subject}");
        for other in [statement("https://spdx.dev/Document", &subject), statement(SIGN, &both), String::new()]
        {
            assert_eq!(image_of_statement(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn hostile_manifests_have_no_signatures() {
        for text in ["", "[]", "{\"layers\":5}", "{\"layers\":[{\"mediaType\":\"x\"}]}", "\u{0}"] {
            assert_eq!(blobs_of(text.as_bytes()), []);
            assert_eq!(manifests_of(text.as_bytes()), Vec::<Digest>::new());
        }
        let digest = format!("sha256:{}", "b".repeat(64));
        let layer = format!(r#"{{"mediaType":"{BUNDLE}.v0.3+json","digest":"{digest}"}}"#);
        let many = format!(r#"{{"layers":[{}]}}"#, vec![layer; 100].join(","));
        assert_eq!(blobs_of(many.as_bytes()).len(), MOST_SIGNATURES);
        let two = r#"{"dsseEnvelope":{"payloadType":"x","payload":"","signatures":[{"sig":""},{"sig":""}]}}"#;
        assert_eq!(of_bundle(two.as_bytes()), None);
    }

    #[test]
    fn base64_is_accepted_in_every_form() {
        for text in ["+/8=", "+/8", "-_8=", "-_8"] {
            assert_eq!(decoded(text), Some(vec![0xfb, 0xff]), "{text}");
        }
        assert_eq!(decoded("***"), None);
    }
}
