//! Proof that a sender knows a secret. Every comparison takes constant time.

use axum::http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Rejection;
use super::proof::SenderProof;
use crate::model::container::Secret;

/// The shortest accepted secret of a hook, in bytes; a shorter one can be guessed.
const SHORTEST_SECRET: usize = 16;

/// The length of an HMAC-SHA256, in bytes.
const LENGTH: usize = 32;

/// Long enough, but published in documentation and example files.
const PUBLISHED: &[&str] = &[
    "It's a Secret to Everybody",
    "a_random_webhook_secret",
    "your-webhook-secret",
    "your_webhook_secret",
    "your-secret-token",
    "my-webhook-secret",
    "mywebhooksecret1",
    "supersecretvalue",
    "changemechangeme",
    "change-me-please",
    "replace-with-a-secret",
    "0123456789abcdef",
    "1234567890123456",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
];

/// Checks whether `secret` can prove anything.
///
/// # Errors
/// [`Rejection::Unconfigured`] if it is shorter than 16 bytes without surrounding whitespace, one
/// repeated byte, or a published sample.
pub fn check_secret(secret: &Secret) -> Result<(), Rejection> {
    let text = secret.expose().trim();
    if text.len() < SHORTEST_SECRET {
        return Err(Rejection::Unconfigured("its secret is shorter than 16 bytes"));
    }
    let is_published = PUBLISHED.iter().any(|sample| sample.eq_ignore_ascii_case(text));
    let is_monotone = text.bytes().all(|b| Some(&b) == text.as_bytes().first());
    if is_published || is_monotone {
        return Err(Rejection::Unconfigured("its secret is a published example"));
    }
    Ok(())
}

/// Returns the header `name`, which may be sent at most once.
///
/// # Errors
/// [`Rejection::Unauthorized`] if it was sent twice, because a proxy might use the other one.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a HeaderValue>, Rejection> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        _ => Err(Rejection::Unauthorized("it has a signature header twice")),
    }
}

/// Returns the proof in `given`: `prefix` and hexadecimal digits of either case, an HMAC-SHA256 of
/// the whole message.
///
/// # Errors
/// [`Rejection::Unauthorized`] if it is missing or malformed.
pub(super) fn hex_mac(
    secret: &Secret,
    given: Option<&HeaderValue>,
    prefix: &str,
) -> Result<SenderProof, Rejection> {
    let given = given.ok_or(Rejection::Unauthorized("it is not signed"))?;
    let digits = given.as_bytes().strip_prefix(prefix.as_bytes());
    let mac = digits.and_then(|digits| hex::decode(digits).ok()).filter(|mac| mac.len() == LENGTH);
    let mac = mac.ok_or(Rejection::Unauthorized("its signature is malformed"))?;
    SenderProof::mac(secret.expose().as_bytes(), &[], vec![mac])
}

/// Whether two tokens are equal. Compares their hashes, so that not even their lengths leak.
pub(super) fn is_same_token(expected: &[u8], given: &[u8]) -> bool {
    Sha256::digest(expected).ct_eq(&Sha256::digest(given)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_bytes(text.as_bytes()).unwrap()
    }

    fn demand(secret: &str, message: &str, given: &str) -> Result<(), Rejection> {
        let mut proof = hex_mac(&Secret::new(secret), Some(&header(given)), "sha256=")?;
        proof.push(message.as_bytes(), b"");
        proof.check()
    }

    #[test]
    fn the_published_hub_signature_vectors_verify() {
        let official = "It's a Secret to Everybody";
        for (secret, message, mac) in [
            (official, "Hello, World!", "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
            (official, "Hello World!", "a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9"),
            (
                "mysecret",
                r#"{"foo":"bar"}"#,
                "4864d2759938a15468b5df9ade20bf161da9b4f737ea61794142f3484236bda3",
            ),
        ] {
            assert_eq!(demand(secret, message, &format!("sha256={mac}")), Ok(()), "{message}");
            assert_eq!(demand(secret, message, &format!("sha256={}", mac.to_uppercase())), Ok(()));
            assert!(demand(secret, &format!("{message}\n"), &format!("sha256={mac}")).is_err());
        }
    }

    #[test]
    fn signature_vectors_from_other_receivers_verify() {
        use hmac::{Hmac, KeyInit as _, Mac as _};
        for (message, begin) in [(r#"{"a": "z"}"#, "f417af3a"), ("", "f9e66e17")] {
            let mut mac = Hmac::<Sha256>::new_from_slice(b"secret").unwrap();
            mac.update(message.as_bytes());
            let digits = hex::encode(mac.finalize().into_bytes());
            assert!(digits.starts_with(begin), "{message:?}: {digits}");
            assert_eq!(demand("secret", message, &format!("sha256={digits}")), Ok(()));
        }
    }

    #[test]
    fn the_published_standard_webhooks_vector_verifies() {
        use base64::Engine as _;
        let decode = |text| base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        let key = decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let mac = decode("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let parts: [&[u8]; 3] =
            [b"msg_p5jXN8AQM9LWM0D4loKWxJek", b".1614265330.", br#"{"test": 2432232314}"#];
        let check = |parts: &[&[u8]]| SenderProof::mac(&key, parts, vec![mac.clone()]).unwrap().check();
        assert_eq!(check(&parts), Ok(()));
        assert!(check(&parts[..2]).is_err());
    }

    #[test]
    fn a_malformed_signature_is_refused() {
        let mac = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let message = "Hello, World!";
        for given in [
            "".to_owned(),
            "sha256=".to_owned(),
            "sha256=00".to_owned(),
            format!("sha256={}", &mac[1..]),
            format!("sha256={}", &mac[2..]),
            format!("sha256={mac}0"),
            format!("sha256={mac}00"),
            format!("SHA256={mac}"),
            format!("sha1={mac}"),
            mac.to_owned(),
            format!(" sha256={mac}"),
            format!("sha256={mac},sha256={mac}"),
            format!("sha256={}zz", &mac[2..]),
            "sha256=é\u{ff}".to_owned(),
            "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59".to_owned(),
        ] {
            assert!(demand("It's a Secret to Everybody", message, &given).is_err(), "{given}");
        }
        assert!(hex_mac(&Secret::new("x"), None, "sha256=").is_err());
    }

    #[test]
    fn a_weak_webhook_secret_is_rejected() {
        for weak in
            ["", " ", "short", "fifteen-bytes-x", "                    ", "It's a Secret to Everybody"]
        {
            assert!(matches!(check_secret(&Secret::new(weak)), Err(Rejection::Unconfigured(_))), "{weak}");
        }
        assert!(check_secret(&Secret::new("x".repeat(40))).is_err());
        assert_eq!(check_secret(&Secret::new("sixteen-bytes-ok")), Ok(()));
    }

    #[test]
    fn tokens_of_different_length_or_content_differ() {
        assert!(is_same_token(b"abc", b"abc"));
        assert!(!is_same_token(b"abc", b"ab"));
        assert!(!is_same_token(b"abc", b"abd"));
        assert!(!is_same_token(b"abc", b""));
    }
}
