//! Images of the example site, built without a repository.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::docker::{Space, docker_build};

/// The port of the site in its container.
pub(crate) const SITE_PORT: u16 = 8080;

/// Builds an image that serves `page` at `/`, with additional `lines` in its Dockerfile, such as an
/// `ENV` that makes it misbehave; returns its ID.
pub(crate) fn made_image(space: &Space, page: &str, lines: &str) -> String {
    let dir = folder(space);
    build(space, dir, page, lines)
}

/// The same with additional incompressible layers of the given sizes in bytes.
pub(crate) fn bulky_image(space: &Space, page: &str, layers: &[u64]) -> String {
    let dir = folder(space);
    let mut lines = String::new();
    for (number, bytes) in layers.iter().enumerate() {
        let name = format!("bulk-{number}");
        let mut noise = File::open("/dev/urandom").unwrap().take(*bytes);
        std::io::copy(&mut noise, &mut File::create(dir.join(&name)).unwrap()).unwrap();
        lines.push_str(&format!("COPY {name} /{name}\n"));
    }
    build(space, dir, page, &lines)
}

fn folder(space: &Space) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let dir = space.dir().join(format!("image-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(dir.join("www")).unwrap();
    dir
}

fn build(space: &Space, dir: PathBuf, page: &str, lines: &str) -> String {
    fs::write(dir.join("site"), super::site()).unwrap();
    fs::write(dir.join("www/index.html"), page).unwrap();
    fs::set_permissions(dir.join("site"), Permissions::from_mode(0o755)).unwrap();
    let recipe = format!(
        "FROM scratch\nLABEL {}\nCOPY site /site\nCOPY www /www\n{lines}\n\
         ENTRYPOINT [\"/site\", \"serve\", \"--root\", \"/www\", \"--port\", \"{SITE_PORT}\"]\n",
        space.label()
    );
    fs::write(dir.join("Dockerfile"), recipe).unwrap();
    let id = docker_build(&dir);
    // The large files need not stay until the space ends.
    fs::remove_dir_all(dir).unwrap();
    id
}
