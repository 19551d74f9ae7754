//! Certificates and their keys: from files of this host and from an ACME authority. abide copies them into the
//! front's container.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::render::{FOLDER, NamedPair, TlsLayout};
use crate::acme::{self, CertificateOwner};
use crate::controller::docker::PlacedFile;
use crate::controller::host_file;
use crate::model::name::SiteName;
use crate::model::spec::{CertificateFiles, EnvironmentSpec, FrontSpec, Manifest};
use crate::tls::certificate::{check_files, facts};

/// A certificate and its key. The name depends on their content, so a configuration keeps referring to the
/// pair that it was checked with. Neither can be printed: the type has no `Debug`.
#[derive(Clone)]
pub(super) struct CertificatePair {
    /// The files' name, without its ending.
    pub(super) name: String,
    /// Both files.
    pub(super) files: Vec<PlacedFile>,
    /// The host names that the certificate is for.
    names: Vec<SiteName>,
}

impl CertificatePair {
    fn new(certificate: Vec<u8>, key: Vec<u8>) -> Self {
        // A hash of both, because either may be renewed alone. The key cannot be derived from the hash.
        let hash =
            Sha256::new().chain_update(Sha256::digest(&certificate)).chain_update(Sha256::digest(&key));
        let name = format!("tls-{}", &hex::encode(hash.finalize())[..16]);
        let file = |ending: &str, mode, content| {
            let path = format!("{FOLDER}/{name}.{ending}");
            PlacedFile { path, content, mode }
        };
        let names = facts(&certificate).map(|facts| facts.names).unwrap_or_default();
        let names = names.into_iter().filter_map(|name| SiteName::new(name).ok()).collect();
        Self { files: vec![file("crt", 0o644, certificate), file("key", 0o600, key)], name, names }
    }

    /// Whether browsers accept it for a host name.
    fn is_for(&self, name: &SiteName) -> bool {
        self.names.iter().any(|own| own.covers(name))
    }
}

/// Reads a certificate and its key.
///
/// # Errors
/// A sentence that names the file and contains nothing of its content.
async fn read(spec: &CertificateFiles) -> Result<CertificatePair, String> {
    let certificate = host_file::read("the proxy's certificate", &spec.certificate).await?;
    let key = host_file::read("the proxy's key", &spec.key).await?;
    // nginx accepts a key of another type than the certificate's, and then every handshake fails.
    check_files(spec, &certificate, &key)?;
    Ok(CertificatePair::new(certificate, key))
}

/// The certificates of the front.
#[derive(Default)]
pub(super) struct Certificates {
    port: Option<u16>,
    /// The certificate of all other names.
    default: Option<CertificatePair>,
    /// The last one that nginx accepted.
    good_default: Option<CertificatePair>,
    /// The certificates that users named, by their files.
    own: BTreeMap<CertificateKey, CertificatePair>,
    /// The certificates for names: own ones before those of an authority.
    by_name: BTreeMap<SiteName, (CertificatePair, bool)>,
    /// The last ones that nginx accepted.
    good_by_name: BTreeMap<SiteName, (CertificatePair, bool)>,
    /// The certificates that nginx rejected, by name, with the reasons in sentences.
    bad: BTreeMap<String, String>,
    /// Files that cannot be read, in sentences.
    unreadable: Vec<String>,
}

type CertificateKey = (std::path::PathBuf, std::path::PathBuf);

impl Certificates {
    /// Reads the files, and takes the certificates of the authority.
    pub(super) async fn read(&mut self, front: &FrontSpec, manifest: &Manifest, issued: &[Arc<acme::Pair>]) {
        self.unreadable.clear();
        self.port = front.https.as_ref().map(|https| https.port);
        match front.https.as_ref().and_then(|https| https.default.as_ref()) {
            None => (self.default, self.good_default) = (None, None),
            Some(files) => match read(files).await {
                Ok(pair) => self.default = Some(pair),
                // The pair that was read before stays in use.
                Err(why) => self.unreadable.push(why),
            },
        }
        let mut own = BTreeMap::new();
        for certificate in &front.certificates {
            let files = &certificate.files;
            let key = (files.certificate.clone(), files.key.clone());
            match read(files).await {
                Ok(pair) => _ = own.insert(key, pair),
                Err(why) => {
                    self.unreadable.push(why);
                    own.extend(self.own.remove(&key).map(|before| (key, before)));
                }
            }
        }
        self.own = own;
        let of_page = page_name(manifest);
        let names = manifest.environments.values().flat_map(EnvironmentSpec::site_names).chain(&of_page);
        self.by_name =
            names.filter_map(|name| Some((name.clone(), self.choose(name, front, issued)?))).collect();
        self.good_by_name.retain(|name, _| self.by_name.contains_key(name));
        let used: BTreeSet<String> = self.all().map(|pair| pair.name.clone()).collect();
        self.bad.retain(|name, _| used.contains(name));
    }

    /// The certificate for a name, and whether clients trust it.
    fn choose(
        &self,
        name: &SiteName,
        front: &FrontSpec,
        issued: &[Arc<acme::Pair>],
    ) -> Option<(CertificatePair, bool)> {
        if let Some(own) = own_certificate(front, name) {
            let pair = self.own.get(&(own.certificate.clone(), own.key.clone()))?;
            // Clients are redirected only to certificates that they accept.
            return Some((pair.clone(), pair.is_for(name)));
        }
        front.acme.as_ref()?;
        let covering = issued.iter().filter(|pair| pair.names.iter().any(|own| own.covers(name)));
        let best = covering.max_by_key(|pair| (pair.is_issued, pair.until))?;
        let pair =
            CertificatePair::new(best.chain.clone().into_bytes(), best.key.expose().as_bytes().to_vec());
        Some((pair, best.is_issued))
    }

    fn all(&self) -> impl Iterator<Item = &CertificatePair> {
        let named = self.by_name.values().chain(self.good_by_name.values()).map(|(pair, _)| pair);
        self.default.iter().chain(&self.good_default).chain(named)
    }

    /// The certificate of names without their own: the old one if nginx rejected the new one.
    fn usable_default(&self) -> Option<&CertificatePair> {
        self.default.as_ref().filter(|pair| !self.bad.contains_key(&pair.name)).or(self.good_default.as_ref())
    }

    /// The certificates of names: an old one if nginx rejected the new one.
    fn usable_named(&self) -> impl Iterator<Item = (&SiteName, &CertificatePair, bool)> {
        let is_good = |(pair, _): &&(CertificatePair, bool)| !self.bad.contains_key(&pair.name);
        self.by_name.iter().filter_map(move |(name, now)| {
            let (pair, is_trusted) = Some(now).filter(is_good).or(self.good_by_name.get(name))?;
            Some((name, pair, *is_trusted))
        })
    }

    /// The certificates as a configuration refers to them; `None`: no TLS.
    pub(super) fn layout(&self) -> Option<TlsLayout> {
        let port = self.port?;
        let default = self.usable_default().map(|pair| pair.name.clone());
        let by_name: BTreeMap<SiteName, NamedPair> = self
            .usable_named()
            .map(|(name, pair, is_trusted)| (name.clone(), NamedPair { pair: pair.name.clone(), is_trusted }))
            .collect();
        (default.is_some() || !by_name.is_empty()).then_some(TlsLayout { port, default, by_name })
    }

    /// The files of the usable certificates, each once.
    pub(super) fn files(&self) -> Vec<PlacedFile> {
        let named = self.usable_named().map(|(_, pair, _)| pair);
        let pairs: BTreeMap<&str, &CertificatePair> =
            self.usable_default().into_iter().chain(named).map(|pair| (pair.name.as_str(), pair)).collect();
        pairs.values().flat_map(|pair| pair.files.clone()).collect()
    }

    /// The files that a configuration refers to; `None` if one of them is unknown.
    pub(super) fn files_of(&self, text: &str) -> Option<Vec<PlacedFile>> {
        let known: BTreeMap<&str, &CertificatePair> =
            self.all().map(|pair| (pair.name.as_str(), pair)).collect();
        let names: BTreeSet<&str> = text.lines().filter_map(certificate_in).collect();
        let found: Option<Vec<&CertificatePair>> =
            names.iter().map(|name| known.get(name).copied()).collect();
        Some(found?.into_iter().flat_map(|pair| pair.files.clone()).collect())
    }

    /// Notes which certificates nginx rejects, by its message. Returns whether there is a new one: it is left
    /// out then, and everything else is served.
    pub(super) fn blame(&mut self, front: &str, why: &str) -> bool {
        let named: Vec<String> = self
            .files()
            .iter()
            .filter_map(|file| stem(&file.path))
            .filter(|name| why.contains(name))
            .collect();
        let guilty = match named.as_slice() {
            // A problem of TLS without a name: the newest certificate for all names is the likeliest.
            [] if why.contains("SSL") => {
                self.usable_default().map(|pair| pair.name.clone()).into_iter().collect()
            }
            named => named.to_vec(),
        };
        let good = self.good_default.iter().chain(self.good_by_name.values().map(|(pair, _)| pair));
        let good: BTreeSet<&str> = good.map(|pair| pair.name.as_str()).collect();
        let is_good = |name: &String| good.contains(name.as_str());
        let guilty: BTreeSet<String> = guilty.into_iter().filter(|name| !is_good(name)).collect();
        for name in &guilty {
            warn!(front, why, certificate = name, "nginx rejected the certificate");
            let whose = self.owner(name);
            self.bad.insert(name.clone(), format!("nginx rejected {whose}: {why}"));
        }
        !guilty.is_empty()
    }

    fn owner(&self, pair: &str) -> String {
        if self.default.as_ref().is_some_and(|default| default.name == pair) {
            return "the proxy's certificate and key".to_owned();
        }
        let names = self.by_name.iter().filter(|(_, (own, _))| own.name == pair);
        let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
        format!("the certificate and key of {}", names.join(", "))
    }

    /// Notes that nginx serves the usable certificates.
    pub(super) fn accepted(&mut self) {
        let default = self.default.as_ref().filter(|pair| !self.bad.contains_key(&pair.name));
        if let Some(default) = default {
            self.good_default = Some(default.clone());
        }
        self.good_by_name = self
            .usable_named()
            .map(|(name, pair, is_trusted)| (name.clone(), (pair.clone(), is_trusted)))
            .collect();
    }

    /// The problems, in sentences.
    pub(super) fn words(&self) -> Vec<String> {
        let used = |name: &&String| {
            let named = self.by_name.values().map(|(pair, _)| pair);
            self.default.iter().chain(named).any(|pair| pair.name == **name)
        };
        let bad = self.bad.keys().filter(used).filter_map(|name| self.bad.get(name));
        let own: BTreeSet<&str> = self.own.values().map(|pair| pair.name.as_str()).collect();
        let foreign = self
            .by_name
            .iter()
            .filter(|(name, (pair, _))| own.contains(pair.name.as_str()) && !pair.is_for(name));
        let foreign = foreign.map(|(name, (pair, _))| {
            let names: Vec<&str> = pair.names.iter().map(SiteName::as_str).collect();
            format!(
                "the certificate of {name} is for other names ({}), so its clients are not redirected to HTTPS: set one \
                 that is for {name}",
                names.join(", ")
            )
        });
        self.unreadable.iter().chain(bad).cloned().chain(foreign).collect()
    }
}

/// The name of the certificate in a line of a configuration.
fn certificate_in(line: &str) -> Option<&str> {
    let path = line.trim_start().strip_prefix("ssl_certificate ")?.strip_suffix(".crt;")?;
    path.rsplit('/').next()
}

fn stem(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    Some(file.split_once('.').map_or(file, |(stem, _)| stem).to_owned())
}

/// The files that a user named for a host name.
fn own_certificate<'f>(front: &'f FrontSpec, name: &SiteName) -> Option<&'f CertificateFiles> {
    let exact = front.certificates.iter().find(|one| one.names.contains(name));
    let covering = || front.certificates.iter().find(|one| one.names.iter().any(|own| own.covers(name)));
    exact.or_else(covering).map(|one| &one.files)
}

/// The host name of the web page, if the front serves it.
fn page_name(manifest: &Manifest) -> Option<SiteName> {
    SiteName::new(manifest.page_on_front()?.host()).ok()
}

/// The names of each environment, and of the web page, that an authority has to certify.
pub(super) fn to_certify(
    front: &FrontSpec,
    manifest: &Manifest,
) -> BTreeMap<CertificateOwner, BTreeSet<SiteName>> {
    let has_default = front.https.as_ref().is_some_and(|https| https.default.is_some());
    let names = |spec: &EnvironmentSpec| {
        let names = spec.site_names().filter(|name| own_certificate(front, name).is_none());
        // A wildcard that nothing can prove has the certificate of all names.
        let can_be_proven = |name: &&SiteName| {
            name.wildcard_base().is_none()
                || front.acme.as_ref().is_some_and(|acme| acme.dns.is_some())
                || !has_default
        };
        names.filter(can_be_proven).cloned().collect::<BTreeSet<SiteName>>()
    };
    let here = manifest.environments.iter().filter(|(_, spec)| spec.host.is_none());
    // Environments that share a name by paths share its certificate.
    let mut certified = BTreeSet::new();
    let of_page = page_name(manifest).filter(|name| own_certificate(front, name).is_none());
    let all = here.map(|(name, spec)| (CertificateOwner::Environment(name.clone()), names(spec)));
    let all = all.chain(of_page.map(|name| (CertificateOwner::Page, BTreeSet::from([name]))));
    let all = all.map(|(owner, names)| {
        let names: BTreeSet<SiteName> = names.difference(&certified).cloned().collect();
        certified.extend(names.iter().cloned());
        (owner, names)
    });
    all.filter(|(_, names)| !names.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;
    use crate::tls::certificate::{new_key, self_signed};

    #[tokio::test]
    async fn a_key_of_another_certificate_is_reported_by_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let name = SiteName::new("a.example").unwrap();
        let now = Timestamp::from_millis(1_800_000_000_000);
        let (chain, key) = self_signed(std::slice::from_ref(&name), now).unwrap();
        let [certificate, own, other] = ["c.pem", "own.key", "other.key"].map(|file| dir.path().join(file));
        std::fs::write(&certificate, chain).unwrap();
        std::fs::write(&own, key).unwrap();
        std::fs::write(&other, new_key().unwrap()).unwrap();

        let files = |key: &std::path::PathBuf| CertificateFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        let Ok(pair) = read(&files(&own)).await else { panic!("they belong together") };
        assert!(pair.is_for(&name) && !pair.is_for(&SiteName::new("b.example").unwrap()));
        let Err(why) = read(&files(&other)).await else { panic!("another key") };
        assert!(why.contains("c.pem") && why.contains("other.key"), "{why}");
    }
}
