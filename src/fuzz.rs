//! What strangers can send, as functions of bytes: coverage-guided fuzzing (`fuzz/`) and the library's own
//! tests run the same functions.
//!
//! Each function reads its input as the daemon would and panics if a property does not hold. Builds
//! without the feature `fuzz` do not contain this module.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write as _;
use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;

use crate::api::webhook::{self, VerifiedDelivery, WebhookEvent};
use crate::cli::client::sse::{Parser, ServerEvent};
use crate::context::ignore::IgnoreRules;
use crate::context::pack::check_archive;
use crate::model::container::Secret;
use crate::model::link::{AgentReport, Ask, Hello, Receipt, ToAgent};
use crate::model::manifest::{self, SourceFile};
use crate::model::mount::Mount;
use crate::model::name::{BranchName, CommitId, ContainerName, Digest, EnvironmentName, RepositoryName};
use crate::model::reference::{ImageRepository, RegistryHost, TaggedImage, check_reference};
use crate::model::spec::{EnvironmentSpec, Manifest, Provider};
use crate::model::time::Timestamp;
use crate::registry::{challenge, client, platforms, retry_after};

/// A target by its name, as `fuzz/` and its corpus name it.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [FuzzTarget; 8] = [
    ("webhook", webhook),
    ("manifest", manifest),
    ("link", link),
    ("tar", tar),
    ("dockerignore", dockerignore),
    ("reference", reference),
    ("sse", sse),
    ("registry", registry),
];

/// A secret that no corpus contains.
const SECRET: &str = "6f1d2a7c-not-in-any-corpus-90b3e4";
const NOW: Timestamp = Timestamp::from_millis(1_795_449_600_000);
/// The longest registry name of a platform, in characters.
const LONGEST_PLATFORM: usize = 60;
/// The longest pause that a registry may ask for, in seconds.
const LONGEST_PAUSE: u64 = 60 * 60;

/// The first byte, and the rest; zero and nothing if there is none.
fn first(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// Splits `data` at the first `separator`.
fn halves<'a>(data: &'a [u8], separator: &[u8]) -> (&'a [u8], &'a [u8]) {
    let at = data.windows(separator.len()).position(|window| window == separator);
    at.map_or((data, &[]), |at| (&data[..at], &data[at + separator.len()..]))
}

/// Lines `name: value` as headers. Other lines are left out, as in the HTTP parser.
fn headers(text: &[u8]) -> HeaderMap {
    let mut found = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let (name, value) = halves(line, b": ");
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            found.append(name, value);
        }
    }
    found
}

fn is_safe_to_show(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

// --- webhooks ---------------------------------------------------------------------------------------

/// Headers and a body of a webhook: the first byte chooses the provider and whether the sender knows the
/// secret; an empty line ends the headers.
pub fn webhook(data: &[u8]) {
    let (choice, rest) = first(data);
    let (head, body) = halves(rest, b"\n\n");
    let provider =
        [Provider::Github, Provider::Gitlab, Provider::Gitea, Provider::Bitbucket][usize::from(choice % 4)];
    let mut headers = headers(head);
    let is_signed = choice & 4 != 0;
    if is_signed {
        prove(provider, &mut headers, body);
    }
    let secret = Secret::new(SECRET);
    let read = webhook::read(provider, &secret, &headers, body, NOW);
    let in_pieces =
        webhook::read_in_pieces(provider, &secret, &headers, body, NOW, usize::from(choice >> 3) + 1);
    assert_eq!(read, in_pieces, "a delivery is read the same however its body arrives");
    match read {
        Ok(delivery) => {
            assert!(is_signed, "a sender without the secret was believed: {delivery:?}");
            is_tame(&delivery);
        }
        Err(rejection) => assert!(rejection.to_string().len() < 4096),
    }
}

/// Adds the provider's proof of the secret.
fn prove(provider: Provider, headers: &mut HeaderMap, body: &[u8]) {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()) else { return };
    mac.update(body);
    let code = hex::encode(mac.finalize().into_bytes());
    let (name, value) = match provider {
        Provider::Github => ("x-hub-signature-256", format!("sha256={code}")),
        Provider::Gitlab => ("x-gitlab-token", SECRET.to_owned()),
        Provider::Gitea => ("x-gitea-signature", code),
        Provider::Bitbucket => ("x-hub-signature", format!("sha256={code}")),
    };
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(name, value);
    }
}

fn is_tame(delivery: &VerifiedDelivery) {
    let VerifiedDelivery { id, repository, by, event } = delivery;
    assert!(id.as_ref().is_none_or(|id| id.len() <= 128 && id.bytes().all(|byte| byte.is_ascii_graphic())));
    assert!(repository.as_deref().is_none_or(is_safe_to_show) && is_safe_to_show(by));
    match event {
        WebhookEvent::Ping | WebhookEvent::Checks => {}
        WebhookEvent::Ignored(reason) => assert!(is_safe_to_show(reason), "{reason:?}"),
        WebhookEvent::Push(changes) => {
            assert!(!changes.is_empty());
            for change in changes {
                assert!(is_safe_to_show(&change.raw_ref), "{change:?}");
                let branch = change.branch.as_ref().map(BranchName::as_str);
                assert!(branch.is_none_or(|name| BranchName::new(name).is_ok()), "{change:?}");
            }
        }
    }
}

// --- what people declare ----------------------------------------------------------------------------

/// A manifest: problems have a line in the file, and an environment survives its way to an agent.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = SourceFile { name: "fuzz.toml".to_owned(), text: text.to_owned() };
    match manifest::parse(&[file]) {
        Ok(Manifest { environments, .. }) => {
            for spec in environments.into_values() {
                // Agents build, verify and promote nothing, so those parts stay here.
                let gates = crate::model::gates::Gates::default();
                survives(&EnvironmentSpec { build: None, verify: None, checks: None, gates, ..spec });
            }
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
}

/// Names, references of images and mounts: what is read is written as something that is read the same.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    is_read_back::<RegistryHost>(text);
    is_read_back::<ImageRepository>(text);
    is_read_back::<TaggedImage>(text);
    is_read_back::<Digest>(text);
    is_read_back::<CommitId>(text);
    is_read_back::<BranchName>(text);
    is_read_back::<ContainerName>(text);
    is_read_back::<EnvironmentName>(text);
    is_read_back::<RepositoryName>(text);
    is_read_back::<Mount>(text);
    if check_reference(text).is_ok() {
        assert!(is_safe_to_show(text) && !text.contains(char::is_whitespace), "{text:?}");
    }
}

fn is_read_back<T: FromStr + Display + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        let written = read.to_string();
        assert!(written.parse::<T>().is_ok_and(|again| again == read), "{text:?} was written as {written:?}");
        assert!(is_safe_to_show(&written), "{written:?}");
    }
}

/// Writes `value` as JSON, as it is stored and sent, and reads it again.
fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
    let written = serde_json::to_value(value).map_err(|error| error.to_string());
    let again = written.and_then(|json| T::deserialize(json).map_err(|error| error.to_string()));
    assert_eq!(again.as_ref(), Ok(value));
}

// --- answers of other processes ---------------------------------------------------------------------

/// One line of the link between a controller and an agent, in both directions.
pub fn link(data: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<ToAgent>(data) {
        let is_complete = !matches!(&message, ToAgent::Assignment(all) if !all.misread.is_empty());
        if is_complete {
            survives(&message);
        }
    }
    again::<Hello>(data);
    again::<Ask>(data);
    again::<AgentReport>(data);
    again::<Receipt>(data);
}

fn again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        survives(&value);
    }
}

/// The archive that a build step made.
pub fn tar(data: &[u8]) {
    let (choice, rest) = first(data);
    let suffix = [".tar", ".tar.gz", ".bin"][usize::from(choice % 3)];
    let file = tempfile::Builder::new().suffix(suffix).tempfile();
    let Ok(mut file) = file else { return };
    if file.write_all(rest).is_ok() && check_archive(file.path()).is_ok() {
        assert!(!rest.is_empty(), "an empty file was taken for an archive");
    }
}

/// An ignore file, and a path after a NUL.
pub fn dockerignore(data: &[u8]) {
    let (rules, path) = halves(data, b"\0");
    let Ok(path) = std::str::from_utf8(path) else { return };
    let path = path.trim_matches('/');
    if let Ok(rules) = IgnoreRules::parse_bytes(rules) {
        let is_ignored = rules.is_ignored(path);
        let parent = path.rsplit_once('/').map(|(parent, _)| parent);
        // A walk does not enter a directory that is ignored and has no exceptions below it.
        if let Some(parent) = parent.filter(|parent| rules.is_ignored(parent)) {
            assert!(is_ignored || rules.may_contain_exceptions(parent), "{path:?} would never be reached");
        }
    }
}

/// A stream of server-sent events: pieces of any size give the same events.
pub fn sse(data: &[u8]) {
    let (size, stream) = first(data);
    let at_once = events([stream].into_iter());
    let pieces = events(stream.chunks(usize::from(size) + 1));
    assert_eq!(at_once, pieces);
}

fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<ServerEvent> {
    let (mut parser, mut found) = (Parser::default(), Vec::new());
    for piece in pieces {
        if parser.push(piece).is_err() {
            break;
        }
        found.extend(std::iter::from_fn(|| parser.next()));
    }
    found
}

/// The status, headers and body of a registry's answer.
pub fn registry(data: &[u8]) {
    let (status, rest) = first(data);
    let (head, body) = halves(rest, b"\n\n");
    let headers = headers(head);
    let _ = challenge::read(&headers);
    let pause = retry_after::read(&headers);
    assert!(pause.is_none_or(|pause| pause.as_secs() <= LONGEST_PAUSE), "{pause:?}");
    if let Ok(status) = StatusCode::from_u16(300 + u16::from(status % 20)) {
        let target = client::redirect(status, &headers);
        assert!(target.is_none_or(|target| target.host().is_some()));
    }
    let platforms = platforms::of_index(body);
    let different: BTreeSet<&String> = platforms.iter().collect();
    assert_eq!(different.len(), platforms.len(), "a platform is named twice: {platforms:?}");
    for platform in &platforms {
        assert!(platform.len() <= LONGEST_PLATFORM && platform.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Words that reach deeper than random bytes.
    const WORDS: [&str; 44] = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        ":",
        ",",
        "=",
        "\n",
        "\r\n",
        "\n\n",
        "\0",
        "/",
        "..",
        "!",
        "**",
        "*",
        "?",
        "\\",
        "-",
        "@sha256:",
        "content-type: application/json\n",
        "x-github-event: push\n",
        "x-gitea-event: push\n",
        "www-authenticate: Bearer realm=\"https://a/b\"\n",
        "retry-after: 99\n",
        "location: https://a/b\n",
        "{\"ref\":\"refs/heads/main\",\"after\":\"6113728f27ae82c7b1a177c8d03f9e96e0adf246\"}",
        "[environment.dev]\ncontainer = \"a\"\n",
        "port = 80\n",
        "volumes = [\"a:/b\"]\n",
        "[repository.a]\n",
        "url = \"https://a/b\"\n",
        "\"assignment\"",
        "\"environments\"",
        "\"network\"",
        "data: a\n",
        "event: b\n",
        "registry:5000/",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "{\"manifests\":[{\"platform\":{\"os\":\"linux\",\"architecture\":\"arm\"}}]}",
        "é",
        "\u{feff}",
        "ustar",
    ];

    fn inputs() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            3 => prop::sample::select(WORDS.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
            1 => vec(any::<u8>(), 0..8),
        ];
        (any::<u8>(), vec(word, 0..24)).prop_map(|(first, words)| [vec![first], words.concat()].concat())
    }

    /// The committed inputs of a target.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn every_fuzz_target_accepts_any_input(input in inputs()) {
            for (_, target) in TARGETS {
                target(&input);
            }
        }

        #[test]
        fn every_fuzz_target_accepts_spliced_corpus_inputs(
            target in 0..TARGETS.len(),
            (one, other, from, to) in any::<(prop::sample::Index, prop::sample::Index, prop::sample::Index, prop::sample::Index)>(),
            noise in inputs(),
        ) {
            let (name, target) = TARGETS[target];
            let corpus = corpus(name);
            let (one, other) = (one.get(&corpus), other.get(&corpus));
            let (from, to) = (from.index(one.len() + 1), to.index(other.len() + 1));
            target(&[&one[..from], &noise[..noise.len() / 2], &other[to..]].concat());
        }
    }

    #[test]
    fn every_fuzz_target_accepts_its_corpus() {
        for (name, target) in TARGETS {
            let corpus = corpus(name);
            assert!(corpus.len() > 1, "{name} has no corpus");
            corpus.iter().for_each(|input| target(input));
        }
    }
}
