//! Files of this host that sites need: users with their passwords, and pages. abide copies them into the front's
//! container.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::render::FOLDER;
use super::site::{FrontFile, Site, SiteFileNames};
use crate::controller::docker::PlacedFile;
use crate::controller::host_file;
use crate::model::name::EnvironmentName;
use crate::model::site::{self, BasicAuth, ErrorStatus, PageFile};
use crate::model::spec::{EnvironmentSpec, Manifest};
use crate::secret;

/// The files of all sites. None can be printed: the type has no `Debug`.
#[derive(Default)]
pub(super) struct SiteFiles {
    by_environment: BTreeMap<EnvironmentName, OneSite>,
}

#[derive(Default)]
struct OneSite {
    users: Option<NamedFile>,
    pages: BTreeMap<ErrorStatus, NamedFile>,
    /// What cannot be read or used, in sentences.
    words: Vec<String>,
}

#[derive(Clone)]
struct NamedFile {
    name: FrontFile,
    content: Vec<u8>,
}

impl NamedFile {
    /// The name depends on the content, so a configuration keeps referring to the file that it was checked with.
    fn new(kind: &str, content: Vec<u8>) -> Option<Self> {
        let hash = &hex::encode(Sha256::digest(&content))[..16];
        Some(Self { name: FrontFile::new(format!("{kind}-{hash}")).ok()?, content })
    }

    /// Workers read it at each request, and they are not root.
    fn placed(&self) -> PlacedFile {
        PlacedFile { path: format!("{FOLDER}/{}", self.name), content: self.content.clone(), mode: 0o644 }
    }
}

impl SiteFiles {
    /// Reads the files. If one is unusable, the previous one stays in use.
    pub(super) async fn read(&mut self, manifest: &Manifest) {
        let mut read = BTreeMap::new();
        for (name, spec) in manifest.environments.iter().filter(|(_, spec)| spec.host.is_none()) {
            let before = self.by_environment.remove(name).unwrap_or_default();
            read.insert(name.clone(), OneSite::read(spec, before).await);
        }
        self.by_environment = read;
    }

    /// The names of an environment's files.
    pub(super) fn names(&self, environment: &EnvironmentName) -> SiteFileNames {
        let Some(site) = self.by_environment.get(environment) else { return SiteFileNames::default() };
        SiteFileNames {
            users: site.users.as_ref().map(|file| file.name.clone()),
            pages: site.pages.iter().map(|(status, file)| (*status, file.name.clone())).collect(),
        }
    }

    /// All files.
    pub(super) fn all(&self) -> Vec<PlacedFile> {
        let sites = self.by_environment.values();
        sites.flat_map(|site| site.users.iter().chain(site.pages.values())).map(NamedFile::placed).collect()
    }

    /// Files that cannot be used, in sentences that name the environment.
    pub(super) fn words(&self) -> impl Iterator<Item = String> {
        let sites = self.by_environment.iter();
        sites.flat_map(|(name, site)| site.words.iter().map(move |words| format!("{name}: {words}")))
    }

    /// Why a site serves nobody, in a sentence; `None`: it does.
    pub(super) fn trouble(&self, environment: &EnvironmentName, site: &Site) -> Option<String> {
        let read = self.by_environment.get(environment)?;
        (site.settings.basic_auth.is_some() && read.users.is_none()).then(|| read.words.join("; "))
    }
}

impl OneSite {
    async fn read(spec: &EnvironmentSpec, before: Self) -> Self {
        let mut now = Self::default();
        if let Some(auth) = &spec.site.basic_auth {
            let read = read_users(auth).map_err(|why| now.words.push(why)).ok();
            now.users = read.and_then(|users| NamedFile::new("users", users)).or(before.users);
        }
        for (status, page) in &spec.site.error_pages {
            let read = read_page(page).await.map_err(|why| now.words.push(why)).ok();
            let file = read.and_then(|page| NamedFile::new("page", page));
            let file = file.or_else(|| before.pages.get(status).cloned());
            now.pages.extend(file.map(|file| (*status, file)));
        }
        now
    }
}

fn read_users(auth: &BasicAuth) -> Result<Vec<u8>, String> {
    let users = secret::read(&auth.users).map_err(|error| format!("the users of a site: {error}"))?;
    site::check_users(users.expose())
        .map_err(|why| format!("the users of a site in {}: {why}", auth.place()))?;
    Ok(format!("{}\n", users.expose()).into_bytes())
}

async fn read_page(page: &PageFile) -> Result<Vec<u8>, String> {
    host_file::read("the page of a site", &page.0).await
}
