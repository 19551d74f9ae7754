//! `[environment.NAME.build]` and its tables.

use super::environment::SECRET;
use super::{Key, Section, ValueShape};

pub(in crate::model::manifest) static BUILD: Section = Section {
    title: "environment.NAME.build",
    keys: &[
        Key::new("context", ValueShape::Path("in the checkout"))
            .default(r#"`"."`"#)
            .example(r#""ci""#)
            .meaning("the context of the final image. Its `.dockerignore` applies"),
        Key::new("dockerfile", ValueShape::Path("in the context"))
            .default(r#"`"Dockerfile"`"#)
            .example(r#""docker/Dockerfile""#)
            .meaning("the final Dockerfile"),
        Key::new("target", ValueShape::Text)
            .default("the last stage")
            .example(r#""runtime""#)
            .meaning("the stage of the Dockerfile to build"),
        Key::new("args", ValueShape::Values).example(r#"{ REV = "{commit}" }"#).meaning(
            "build arguments. They stay in the image, so do not put secrets there. abide fills in \
                `{commit}`, `{short_commit}` (twelve digits), `{branch}` and `{date}` (of the commit, in \
                UTC, such as `2026-11-28T23:30:00Z`). With any of them except `{branch}`, every commit \
                needs its own build",
        ),
        Key::new("step", ValueShape::Tables(&STEP)).meaning(
            "steps to run before the build, in order; each adds one file to the final context: \
                [`environment.NAME.build.step`](#environmentnamebuildstep)",
        ),
        Key::new("secrets", ValueShape::TablesBy("id", &SECRET))
            .example(r#"{ npm = { secret_env = "NPM_TOKEN" } }"#)
            .meaning(
                "BuildKit secrets by id, for `RUN --mount=type=secret,id=...`; each with `secret_env` or \
                `secret_file`",
            ),
        Key::new("cache_from", ValueShape::List("images")).example(r#"["localhost:5000/shop/app:cache"]"#).meaning(
            "images whose layers the builder may reuse",
        ),
        Key::new("network", ValueShape::Text).default("the engine's").example(r#""host""#).meaning(
            "the network of `RUN` commands: `\"host\"`, `\"none\"`, or a Docker network with the classic builder",
        ),
        Key::new("labels", ValueShape::Values).example(r#"{ "org.opencontainers.image.title" = "shop" }"#).meaning(
            "labels of the image",
        ),
        Key::new("shm_size", ValueShape::Size).default("64 MiB").example(r#""256m""#).meaning(
            "the size of `/dev/shm` for `RUN` commands",
        ),
        Key::new("extra_hosts", ValueShape::List("texts")).example(r#"["packages.example.com:10.28.18.6"]"#).meaning(
            "additional lines of `/etc/hosts` for `RUN` commands",
        ),
        Key::new("no_cache", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether the builder runs every command again. Equal inputs are still built only once",
        ),
        Key::new("pull", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether the builder asks the registries for newer base images, when it builds",
        ),
        Key::new("script", ValueShape::List("texts")).example(r#"["./build-image.sh", "dev"]"#).meaning(
            "program and arguments, run in the checkout instead of `docker build`. abide sets \
                `BUILD_NUMBER`, `WORKSPACE`, `GIT_COMMIT` and `GIT_BRANCH`, so every commit needs its \
                own build. Cannot be combined with the keys above",
        ),
        Key::new("image", ValueShape::Text)
            .default("*required* with `script`")
            .example(r#""keepwork/dev:b{build_number}""#)
            .meaning(
                "the name of the image that the script builds. `{build_number}` stands for the build \
                number, which is higher than that of any such image on this host. An earlier image of \
                this name does not count: abide takes the name from it while the script runs, and gives \
                it back if the script builds none",
            ),
        Key::new("env", ValueShape::Values)
            .example(r#"{ LOCALE = "zh_CN" }"#)
            .meaning("environment variables of the script, as in an environment's `env`"),
        Key::new("isolation", ValueShape::Flag)
            .default("`true`")
            .example("false")
            .meaning("whether the script runs isolated from abide: see [below](#what-a-script-may-do)"),
        Key::new("remove", ValueShape::List("paths in the checkout"))
            .example(r#"["npl_packages"]"#)
            .meaning("paths to remove from the checkout first; missing paths are ignored"),
        Key::new("overlay", ValueShape::Tables(&OVERLAY)).meaning(
            "files of this host to copy into the checkout: \
                [`environment.NAME.build.overlay`](#environmentnamebuildoverlay)",
        ),
        Key::new("checkout", ValueShape::Tables(&CHECKOUT)).meaning(
            "other repositories to check out inside the checkout: \
                [`environment.NAME.build.checkout`](#environmentnamebuildcheckout)",
        ),
        Key::new("git", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether the checkout gets a `.git` with the history of the commit and its tags, for \
                example for `git describe`; it has no remote. Every commit then needs its own build",
        ),
        Key::new("submodules", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether abide fetches submodules, including nested ones. It fetches them only from the \
                hosts of this and other declared repositories and checkouts, and from paths of this host \
                only if they are declared themselves or lie in the same folder. If `false`, abide warns \
                about a commit with submodules",
        ),
        Key::new("lfs", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether abide fetches files in Git LFS, only from the repository's own host. Needs the \
                program `git-lfs` on this host. If `false`, abide warns about a commit with such files",
        ),
        Key::new("paths", ValueShape::List("patterns")).default("all paths").example(r#"["apps/a/**"]"#).meaning(
            "the paths that concern this environment, in the syntax of a `.dockerignore`, including \
                `!`; with only `!` patterns, all paths except those. If the branch head differs from the \
                recorded commit in none of these paths, abide skips it and creates no generation. The \
                build's Dockerfiles, their ignore files and its script always count. `abide set \
                --commit` builds any commit. After an edit of `paths`, abide checks the head again",
        ),
        Key::new("timeout", ValueShape::Duration)
            .default(r#"`"2h"`"#)
            .example(r#""1h""#)
            .meaning("how long the whole build may take; `status` shows how long it has run"),
        Key::new("idle_timeout", ValueShape::Duration)
            .default(r#"`"30m"`"#)
            .example(r#""10m""#)
            .meaning("how long a build may run without any output, once its checkout is complete"),
        Key::new("memory", ValueShape::Size).default("three quarters of the host's").example(r#""6GiB""#).meaning(
            "the memory limit of a step's container, or of the script and all its processes. Beyond \
                the limit the build fails, and the message names the limit",
        ),
        Key::new("pids", ValueShape::Integer(1, 4_194_304))
            .default("`4096`")
            .example("500")
            .meaning("the limit of processes and threads of a step's container or of the script"),
        Key::new("max_output", ValueShape::Size)
            .default(r#"`"8GiB"`"#)
            .example(r#""500MiB""#)
            .meaning("the size limit of a step's output. Cannot be combined with `script`"),
    ],
};

pub(in crate::model::manifest) static STEP: Section = Section {
    title: "environment.NAME.build.step",
    keys: &[
        Key::new("archive", ValueShape::Path("in the final context"))
            .without_default()
            .example(r#""build.tar.gz""#)
            .meaning("the file name for an archive of the checkout; must end in `.tar.gz`, `.tgz` or `.tar`"),
        Key::new("dockerfile", ValueShape::Path("in the step's context"))
            .without_default()
            .example(r#""Dockerfile.dist""#)
            .meaning(
                "the Dockerfile of an image that abide builds and runs once; its standard output becomes \
                the file. It runs again only if its inputs change. Empty output or a broken archive \
                fails the build",
            ),
        Key::new("context", ValueShape::Path("in the checkout"))
            .default(r#"`"."`"#)
            .example(r#""web""#)
            .meaning("that image's context"),
        Key::new("target", ValueShape::Text)
            .default("the last stage")
            .example(r#""dist""#)
            .meaning("the stage to build and run"),
        Key::new("args", ValueShape::Values)
            .example(r#"{ MODE = "production" }"#)
            .meaning("that image's build arguments"),
        Key::new("output", ValueShape::Path("in the final context"))
            .default("*required* with `dockerfile`")
            .example(r#""build.tar.gz""#)
            .meaning("the file's name"),
    ],
};

pub(in crate::model::manifest) static OVERLAY: Section = Section {
    title: "environment.NAME.build.overlay",
    keys: &[
        Key::new("from", ValueShape::Path("of this host"))
            .required()
            .example(r#""/etc/abide/config.page""#)
            .meaning("a file, which must exist"),
        Key::new("to", ValueShape::Path("in the checkout"))
            .required()
            .example(r#""www/wiki/helpers/config.page""#)
            .meaning("the destination; replaces an existing file"),
    ],
};

pub(in crate::model::manifest) static CHECKOUT: Section = Section {
    title: "environment.NAME.build.checkout",
    keys: &[
        Key::new("url", ValueShape::Text)
            .required()
            .example(r#""https://github.com/NPLPackages/main""#)
            .meaning("the URL, as in a repository"),
        Key::new("revision", ValueShape::Text).required().example(r#""master""#).meaning(
            "a branch or a full commit id. abide looks up a branch when a build begins; only a commit \
                id always gives the same build",
        ),
        Key::new("to", ValueShape::Path("in the checkout"))
            .required()
            .example(r#""npl_packages/main""#)
            .meaning("the destination"),
    ],
};
