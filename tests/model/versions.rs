//! Versions that people can set: images that are ready on the private engine, and how to bring them back.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::common::{Host, SITE_PORT, site};
use super::scenario::Flaw;

/// An image whose behaviour is known.
pub(crate) struct Version {
    /// The image ID.
    pub(crate) id: String,
    /// Its name by digest in the registry, once it was pushed.
    pub(crate) pushed: Option<String>,
    /// The page that it serves.
    pub(crate) page: String,
    /// `None`: it is good.
    pub(crate) flaw: Option<Flaw>,
    tag: String,
    saved: PathBuf,
}

/// Good versions come first.
const FLAWS: [Option<Flaw>; 6] =
    [None, None, None, Some(Flaw::Crashes), Some(Flaw::Fails), Some(Flaw::Silent)];

/// Lines of the site's environment that make it bad.
pub(crate) fn settings(flaw: Option<Flaw>) -> &'static [&'static str] {
    match flaw {
        None => &[],
        Some(Flaw::Crashes) => &["SITE_CRASH_AFTER=0s", "SITE_EXIT_CODE=7"],
        Some(Flaw::Fails) => &["SITE_HTTP_STATUS=500"],
        Some(Flaw::Silent) => &["SITE_NEVER_LISTEN=1"],
    }
}

/// Makes all of them on the engine of `host`; `dir` keeps their copies.
pub(crate) fn make(host: &Host, dir: &std::path::Path) -> Vec<Version> {
    let make = |(number, flaw): (usize, &Option<Flaw>)| {
        let (page, tag) = (format!("set {number}"), format!("model:{number}"));
        let mut import = Command::new("docker");
        import.args(["--host", &host.engine(), "import", "--change"]);
        import.arg(format!(
            "ENTRYPOINT [\"/site\", \"serve\", \"--root\", \"/www\", \"--port\", \"{SITE_PORT}\"]"
        ));
        for line in settings(*flaw) {
            import.args(["--change", &format!("ENV {line}")]);
        }
        import.args(["--change", "VOLUME /kept", "-", &tag]);
        let mut child = import.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        pack(&page, child.stdin.take().unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let saved = dir.join(format!("version-{number}.tar"));
        host.docker(&["save", "--output", saved.to_str().unwrap(), &tag]);
        Version { id, pushed: None, page, flaw: *flaw, tag, saved }
    };
    FLAWS.iter().enumerate().map(make).collect()
}

impl Version {
    /// Pushes it from `host` to a registry there.
    pub(crate) fn push(&mut self, host: &Host, registry: &str) {
        let name = self.tag.replace("model", &format!("{registry}/model"));
        host.docker(&["tag", &self.tag, &name]);
        host.docker(&["push", "--quiet", &name]);
        let digests =
            host.docker(&["image", "inspect", "--format", "{{join .RepoDigests \"\\n\"}}", &self.id]);
        self.pushed = digests.lines().next().map(str::to_owned);
    }

    /// Whether an entry of a history names it.
    pub(crate) fn is_named_by(&self, image: &serde_json::Value) -> bool {
        let digest = self.pushed.as_deref().and_then(|name| name.split_once('@')).map(|(_, digest)| digest);
        image["id"] == self.id.as_str() || digest.is_some() && image["digest"].as_str() == digest
    }

    /// Loads it again if it is gone.
    pub(crate) fn restore(&self, host: &Host) {
        if host.try_docker(&["image", "inspect", &self.tag]).is_none() {
            host.try_docker(&["load", "--quiet", "--input", self.saved.to_str().unwrap()]);
        }
    }
}

fn pack(page: &str, out: impl std::io::Write) {
    let mut tar = tar::Builder::new(out);
    let mut add = |name: &str, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len().try_into().unwrap());
        tar.append_data(&mut header, name, content).unwrap();
    };
    add("site", 0o755, site());
    add("www/index.html", 0o644, page.as_bytes());
    tar.into_inner().unwrap().flush().unwrap();
}
