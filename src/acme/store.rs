//! The files on disk: the account's key, a document for each set of names, certificates and their keys.
//!
//! Keys are written before they are used. A document appears whole or not at all, and it alone names the
//! current certificate, so that a certificate and a key that do not match are never used together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::Pair;
use crate::durable;
use crate::model::container::Secret;
use crate::model::name::SiteName;
use crate::model::time::Timestamp;
use crate::tls::certificate;

const ACCOUNT_KEY: &str = "account.key";
const NAMES: &str = "names.json";
/// How long a certificate is kept after it expired. Back in the manifest, its names need no new order.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The folder.
#[derive(Debug)]
pub(super) struct CertificateStore {
    folder: PathBuf,
}

/// The memory of one set of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SetDocument {
    pub(super) names: BTreeSet<SiteName>,
    /// The current certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<CurrentCertificate>,
    /// The order in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) order: Option<PendingOrder>,
    /// Failures since the last success, and the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<FailureStreak>,
    /// When to renew, by the authority's advice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<Advice>,
    /// The times of the last certificates for exactly this set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) issued: Vec<Timestamp>,
}

/// The current certificate of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CurrentCertificate {
    /// The name of its files, without ending.
    pub(super) file: String,
    /// The directory of the authority that issued it.
    pub(super) directory: String,
}

/// An order in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingOrder {
    /// Its URL.
    pub(super) url: String,
    /// The directory of its authority.
    pub(super) directory: String,
    /// The name of its key's file, without ending.
    pub(super) file: String,
}

/// Failures in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FailureStreak {
    pub(super) count: u32,
    pub(super) at: Timestamp,
    pub(super) retry_at: Timestamp,
    /// A sentence.
    pub(super) message: String,
}

/// The authority's advice when to renew (RFC 9773).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Advice {
    /// The file of the certificate that it is about.
    pub(super) file: String,
    /// The window.
    pub(super) window: Option<(Timestamp, Timestamp)>,
    /// The moment in the window, which is chosen once.
    pub(super) renew_at: Option<Timestamp>,
    /// When to ask again.
    pub(super) ask_at: Timestamp,
}

/// Failures of single names.
pub(super) type FailedNames = BTreeMap<SiteName, FailureStreak>;

impl CertificateStore {
    /// Opens the folder, and creates it if it is missing.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        for dir in [folder.to_owned(), folder.join("sets"), folder.join("pairs")] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// The account's key (PKCS #8, DER); generated at the first call.
    pub(super) fn account_key(&self) -> io::Result<Vec<u8>> {
        let path = self.folder.join(ACCOUNT_KEY);
        match fs::read(&path) {
            Ok(key) => return Ok(key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (_, key) = instant_acme::Key::generate_pkcs8().map_err(io::Error::other)?;
        write(&path, key.secret_pkcs8_der())?;
        Ok(key.secret_pkcs8_der().to_vec())
    }

    /// The documents of all sets. An unreadable one is kept and counts as missing.
    pub(super) fn sets(&self) -> io::Result<BTreeMap<String, SetDocument>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.folder.join("sets"))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(id) = name.strip_suffix(".json") else { continue };
            if let Some(document) = read_json::<SetDocument>(&path).filter(|set| id_of(&set.names) == id) {
                found.insert(id.to_owned(), document);
            }
        }
        Ok(found)
    }

    pub(super) fn save(&self, document: &SetDocument) -> io::Result<()> {
        let path = self.folder.join("sets").join(format!("{}.json", id_of(&document.names)));
        write(&path, &serde_json::to_vec_pretty(document)?)
    }

    pub(super) fn failed_names(&self) -> FailedNames {
        read_json(&self.folder.join(NAMES)).unwrap_or_default()
    }

    pub(super) fn save_failed_names(&self, failed: &FailedNames) -> io::Result<()> {
        write(&self.folder.join(NAMES), &serde_json::to_vec_pretty(failed)?)
    }

    /// Writes a key, and returns the name of its file without ending.
    pub(super) fn new_key(&self, set: &BTreeSet<SiteName>, key: &str) -> io::Result<String> {
        let hash = hex::encode(Sha256::digest(key));
        let file = format!("{}-{}", id_of(set), &hash[..12]);
        write(&self.pair(&file, "key"), key.as_bytes())?;
        Ok(file)
    }

    pub(super) fn key(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.pair(file, "key"))
    }

    pub(super) fn save_chain(&self, file: &str, chain: &str) -> io::Result<()> {
        write(&self.pair(file, "crt"), chain.as_bytes())
    }

    /// Reads a pair. The error is a sentence.
    pub(super) fn read_pair(&self, file: &str, is_issued: bool) -> Result<Pair, String> {
        let wrong = |why: String| format!("the certificate {}: {why}", self.pair(file, "crt").display());
        let chain = fs::read_to_string(self.pair(file, "crt")).map_err(|error| wrong(error.to_string()))?;
        let key = self.key(file).map_err(|error| wrong(format!("its key: {error}")))?;
        certificate::check_pair(chain.as_bytes(), key.as_bytes())
            .map_err(|error| wrong(error.to_string()))?;
        let facts = certificate::facts(chain.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let names = facts.names.iter().filter_map(|name| SiteName::new(name.as_str()).ok()).collect();
        Ok(Pair { names, chain, key: Secret::new(key), until: facts.until, is_issued })
    }

    /// The self-signed certificate of a set; made at the first call, and again before it expires.
    pub(super) fn stand_in(&self, names: &BTreeSet<SiteName>, now: Timestamp) -> Result<Pair, String> {
        let file = format!("{}-self", id_of(names));
        if let Ok(pair) = self.read_pair(&file, false)
            && pair.until > now.after(KEPT)
        {
            return Ok(pair);
        }
        let list: Vec<SiteName> = names.iter().cloned().collect();
        let (chain, key) = certificate::self_signed(&list, now).map_err(|error| error.to_string())?;
        // A pair of an old key and a new certificate is made again at the next start.
        let written = write(&self.pair(&file, "key"), key.as_bytes());
        let written = written.and_then(|()| self.save_chain(&file, &chain));
        written.map_err(|error| format!("the folder {}: {error}", self.folder.display()))?;
        self.read_pair(&file, false)
    }

    fn pair(&self, file: &str, ending: &str) -> PathBuf {
        self.folder.join("pairs").join(format!("{file}.{ending}"))
    }

    /// Removes the files that no document names, and documents whose certificate expired long ago.
    pub(super) fn prune(
        &self,
        sets: &mut BTreeMap<String, SetDocument>,
        wanted: &BTreeSet<String>,
        now: Timestamp,
    ) {
        let is_over = |set: &SetDocument| {
            let current = set.current.as_ref();
            let until =
                current.and_then(|current| self.read_pair(&current.file, true).ok()).map(|pair| pair.until);
            let last = set.failure.as_ref().map(|failure| failure.retry_at);
            set.order.is_none() && until.or(last).is_some_and(|until| until.after(KEPT) < now)
        };
        let over: Vec<String> = sets
            .iter()
            .filter(|(id, set)| !wanted.contains(*id) && is_over(set))
            .map(|(id, _)| id.clone())
            .collect();
        for id in over {
            sets.remove(&id);
            let _ = fs::remove_file(self.folder.join("sets").join(format!("{id}.json")));
        }
        let used: BTreeSet<&str> = sets
            .values()
            .flat_map(|set| {
                let current = set.current.as_ref().map(|current| current.file.as_str());
                current.into_iter().chain(set.order.as_ref().map(|order| order.file.as_str()))
            })
            .collect();
        let files = fs::read_dir(self.folder.join("pairs")).into_iter().flatten().flatten();
        for path in files.map(|entry| entry.path()) {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let is_stand_in = stem.strip_suffix("-self").is_some_and(|id| wanted.contains(id));
            if !used.contains(stem) && !is_stand_in {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The name of a set's document.
pub(super) fn id_of(names: &BTreeSet<SiteName>) -> String {
    let list: Vec<&str> = names.iter().map(SiteName::as_str).collect();
    hex::encode(Sha256::digest(list.join(",")))[..16].to_owned()
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = fs::read(path).ok()?;
    let read = serde_json::from_slice(&text);
    read.inspect_err(|error| warn!(path = %path.display(), %error, "an unreadable document of certificates"))
        .ok()
}

/// Writes a file that only its owner can read. It appears whole or not at all.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    durable::replace(path, durable::PRIVATE, content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(texts: &[&str]) -> BTreeSet<SiteName> {
        texts.iter().map(|text| SiteName::new(*text).unwrap()).collect()
    }

    #[test]
    fn keys_are_kept_and_only_their_owner_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("certificates");
        let store = CertificateStore::open(&folder).unwrap();
        let key = store.account_key().unwrap();
        assert_eq!(CertificateStore::open(&folder).unwrap().account_key().unwrap(), key, "it is made once");
        let file = store.new_key(&names(&["a.example"]), "a key").unwrap();
        assert_eq!(store.key(&file).unwrap(), "a key");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join(ACCOUNT_KEY)), 0o600);
        assert_eq!(mode(&store.pair(&file, "key")), 0o600);
    }

    #[test]
    fn a_damaged_document_does_not_affect_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = CertificateStore::open(dir.path()).unwrap();
        let set = SetDocument { names: names(&["a.example", "*.b.example"]), ..SetDocument::default() };
        store.save(&set).unwrap();
        let other = SetDocument { names: names(&["c.example"]), ..SetDocument::default() };
        store.save(&other).unwrap();
        fs::write(dir.path().join(format!("sets/{}.json", id_of(&other.names))), "{").unwrap();
        let found = store.sets().unwrap();
        assert_eq!(found.into_values().collect::<Vec<_>>(), [set]);
    }

    #[test]
    fn a_stand_in_is_created_once_and_unused_keys_are_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let (store, now) = (CertificateStore::open(dir.path()).unwrap(), super::super::now());
        let set = names(&["a.example"]);
        let pair = store.stand_in(&set, now).unwrap();
        assert_eq!(store.stand_in(&set, now).unwrap().chain, pair.chain);
        assert!(!pair.is_issued && pair.names == set);
        let late = now.after(Duration::from_secs(380 * 24 * 60 * 60));
        assert_ne!(store.stand_in(&set, late).unwrap().chain, pair.chain, "it expires soon");
        let lost = store.new_key(&set, "lost").unwrap();
        store.prune(&mut BTreeMap::new(), &[id_of(&set)].into(), now);
        assert!(store.key(&lost).is_err() && store.key(&format!("{}-self", id_of(&set))).is_ok());
        store.prune(&mut BTreeMap::new(), &BTreeSet::new(), now);
        assert!(store.key(&format!("{}-self", id_of(&set))).is_err());
    }
}
