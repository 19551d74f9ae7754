//! Images of the example site, made without a repository.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU32, Ordering};

use super::docker::{Space, docker};

/// Where the site listens in its container.
pub(crate) const SITE_PORT: u16 = 8080;

/// Makes an image that serves `page` at `/`, with `lines` in its Dockerfile, such as an `ENV` that
/// makes it misbehave; gives its ID.
pub(crate) fn made_image(space: &Space, page: &str, lines: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let dir = space.dir().join(format!("image-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(dir.join("www")).unwrap();
    fs::write(dir.join("site"), super::site()).unwrap();
    fs::write(dir.join("www/index.html"), page).unwrap();
    fs::set_permissions(dir.join("site"), Permissions::from_mode(0o755)).unwrap();
    let recipe = format!(
        "FROM scratch\nLABEL {}\nCOPY site /site\nCOPY www /www\n{lines}\n\
         ENTRYPOINT [\"/site\", \"serve\", \"--root\", \"/www\", \"--port\", \"{SITE_PORT}\"]\n",
        space.label()
    );
    fs::write(dir.join("Dockerfile"), recipe).unwrap();
    docker(&["build", "--quiet", dir.to_str().unwrap()])
}
