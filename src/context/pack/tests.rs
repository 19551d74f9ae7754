//! The content of an archive, the entries that it must never contain, and its reproducibility.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn context(files: &[(&str, &str)]) -> TempDir {
    let context = tempfile::tempdir().unwrap();
    for (path, content) in files.iter().chain([&("Dockerfile", "FROM scratch")]) {
        write_file(context.path(), path, content);
    }
    context
}

fn write_file(root: &Path, path: impl AsRef<Path>, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn packed(context: &Path, extra: &[ExtraFile]) -> Vec<u8> {
    let mut tar = Vec::new();
    pack(context, "Dockerfile", extra, PackLimits::default(), &mut tar).unwrap();
    tar
}

fn refusal(context: &Path, dockerfile: &str) -> String {
    pack(context, dockerfile, &[], PackLimits::default(), io::sink()).unwrap_err().to_string()
}

/// Each name with a short description of its entry.
fn entries(tar: impl Read) -> BTreeMap<Vec<u8>, String> {
    let mut archive = tar::Archive::new(tar);
    let short = |entry: io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let mut text = format!("{:o} ", entry.header().mode().unwrap());
        if let Some(link) = entry.link_name_bytes() {
            text += &format!("-> {}", String::from_utf8_lossy(&link));
        }
        entry.read_to_string(&mut text).unwrap();
        (entry.path_bytes().into_owned(), text)
    };
    archive.entries().unwrap().map(short).collect()
}

fn names(tar: &[u8]) -> Vec<String> {
    entries(tar).into_keys().map(|name| String::from_utf8(name).unwrap()).collect()
}

#[test]
fn a_context_is_packed_with_links_as_links_and_plain_modes() {
    let context = context(&[("src/run", "run"), ("src/data", "data")]);
    fs::set_permissions(context.path().join("src/run"), Permissions::from_mode(0o4700)).unwrap();
    fs::set_permissions(context.path().join("src/data"), Permissions::from_mode(0o600)).unwrap();
    symlink("/etc/passwd", context.path().join("leak")).unwrap();
    symlink("./src/../src/", context.path().join("near")).unwrap();
    symlink("loop", context.path().join("loop")).unwrap();
    let found: Vec<(String, String)> = entries(packed(context.path(), &[]).as_slice())
        .into_iter()
        .map(|(name, text)| (String::from_utf8(name).unwrap(), text))
        .collect();
    let expected = [
        ("Dockerfile", "644 FROM scratch"),
        ("leak", "777 -> /etc/passwd"),
        ("loop", "777 -> loop"),
        ("near", "777 -> ./src/../src/"),
        ("src/", "755 "),
        ("src/data", "644 data"),
        ("src/run", "755 run"),
    ];
    assert_eq!(found, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
}

#[test]
fn ignored_files_are_left_out_and_exceptions_are_packed() {
    let files = [("a/keep", ""), ("a/drop", ""), ("b/x.md", ""), ("b/x", ""), ("top", "")];
    let context = context(&files);
    write_file(context.path(), ".dockerignore", "*\n!a/keep\n!**/*.md");
    assert_eq!(names(&packed(context.path(), &[])), [".dockerignore", "Dockerfile", "a/keep", "b/x.md"]);
}

#[test]
fn the_ignore_file_beside_the_dockerfile_takes_precedence() {
    let context = context(&[("ci/Dockerfile.dist", "FROM scratch"), ("a", ""), ("b", "")]);
    write_file(context.path(), ".dockerignore", "a");
    write_file(context.path(), "ci/Dockerfile.dist.dockerignore", "b\nci\n.dockerignore");
    let mut tar = Vec::new();
    pack(context.path(), "ci/Dockerfile.dist", &[], PackLimits::default(), &mut tar).unwrap();
    assert_eq!(names(&tar), [".dockerignore", "Dockerfile", "a", "ci/Dockerfile.dist"]);
    assert_eq!(
        names(&packed(context.path(), &[])),
        [".dockerignore", "Dockerfile", "b", "ci/", "ci/Dockerfile.dist", "ci/Dockerfile.dist.dockerignore"]
    );
}

#[test]
fn an_invalid_ignore_file_is_reported_with_its_line() {
    let context = context(&[(".dockerignore", "a\n[b")]);
    let error = pack(context.path(), "Dockerfile", &[], PackLimits::default(), io::sink()).unwrap_err();
    assert_eq!(error.to_string(), r#"cannot use the ignore file ".dockerignore""#);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("line 2, "), "{source}");
    fs::remove_file(context.path().join(".dockerignore")).unwrap();
    symlink("/etc/passwd", context.path().join(".dockerignore")).unwrap();
    assert!(refusal(context.path(), "Dockerfile").starts_with("cannot use the ignore file"));
}

#[test]
fn a_dockerfile_outside_the_context_is_rejected() {
    let context = context(&[("dir/x", "")]);
    symlink("/etc/passwd", context.path().join("leak")).unwrap();
    symlink("/etc", context.path().join("etc")).unwrap();
    write_file(context.path(), "long", &"#".repeat((1 << 20) + 1));
    let cases = [
        ("leak", "outside the context"),
        ("etc/passwd", "outside the context"),
        ("../Dockerfile", "outside the context"),
        ("/etc/passwd", "outside the context"),
        ("dir", "is not a regular file"),
        ("none", "is not in the context"),
        ("", "is not in the context"),
        ("long", "is larger than 1 MiB"),
    ];
    for (dockerfile, rule) in cases {
        let message = refusal(context.path(), dockerfile);
        assert!(message.contains(rule), "{dockerfile:?}: {message}");
        if !dockerfile.is_empty() {
            let message = resolve_dockerfile(context.path(), dockerfile).unwrap_err().to_string();
            assert!(message.contains(rule), "{dockerfile:?}: {message}");
        }
    }
}

#[test]
fn a_dockerfile_may_be_a_link_within_the_context() {
    let context = context(&[("docker/prod", "FROM scratch"), (".dockerignore", "docker")]);
    symlink("docker/prod", context.path().join("Dockerfile.prod")).unwrap();
    assert_eq!(resolve_dockerfile(context.path(), "Dockerfile.prod").unwrap(), "docker/prod");
    let mut tar = Vec::new();
    pack(context.path(), "Dockerfile.prod", &[], PackLimits::default(), &mut tar).unwrap();
    assert_eq!(names(&tar), [".dockerignore", "Dockerfile", "Dockerfile.prod", "docker/prod"]);
}

#[test]
fn an_extra_file_overrides_and_is_never_ignored() {
    let context = context(&[("build.tar.gz", "old"), (".dockerignore", "*")]);
    let made = tempfile::tempdir().unwrap();
    write_file(made.path(), "made", "new");
    let extra = |path: &str| ExtraFile { path: path.into(), source: made.path().join("made") };
    let tar = packed(context.path(), &[extra("build.tar.gz"), extra("./new/dir/file")]);
    let found = entries(tar.as_slice());
    assert_eq!(found.get(b"build.tar.gz".as_slice()).unwrap(), "644 new");
    assert_eq!(found.get(b"new/dir/file".as_slice()).unwrap(), "644 new");

    symlink("/etc", context.path().join("etc")).unwrap();
    fs::create_dir(context.path().join("dir")).unwrap();
    for path in ["../x", "/x", "etc/x", "dir", "."] {
        let refused = pack(context.path(), "Dockerfile", &[extra(path)], PackLimits::default(), io::sink());
        assert!(refused.is_err(), "{path}");
    }
}

#[test]
fn a_dockerfile_may_be_generated_by_a_step() {
    let context = tempfile::tempdir().unwrap();
    let made = tempfile::tempdir().unwrap();
    write_file(made.path(), "made", "FROM scratch");
    let extra = ExtraFile { path: "Dockerfile".into(), source: made.path().join("made") };
    assert_eq!(names(&packed(context.path(), &[extra])), ["Dockerfile"]);
}

#[test]
fn the_time_of_the_build_is_not_in_the_archive() {
    let made = tempfile::tempdir().unwrap();
    write_file(made.path(), "made", "x");
    let extra = [ExtraFile { path: "made".into(), source: made.path().join("made") }];
    let at = |seconds: u64| {
        let context = context(&[("a/b", ""), ("c", "")]);
        for (file, seconds) in [("a/b", 1000), ("c", 2000), ("Dockerfile", 500), ("a", seconds)] {
            let file = File::open(context.path().join(file)).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        }
        packed(context.path(), &extra)
    };
    assert_eq!(at(1), at(1_700_000_000));
    let mut archive = tar::Archive::new(io::Cursor::new(at(1)));
    let times = archive.entries().unwrap().map(|entry| entry.unwrap().header().mtime().unwrap());
    assert_eq!(times.collect::<Vec<_>>(), [500, 2000, 1000, 2000, 2000]);
}

#[test]
fn strange_and_long_names_are_packed_byte_for_byte() {
    let context = context(&[]);
    let long = [vec![0xff; 120], b"/".to_vec(), vec![b'n'; 255]].concat();
    let wanted = [b"a\nb".as_slice(), b"\xff\xfe", b"back\\slash", b".git/hooks/x", &[b'x'; 100], &long];
    for name in wanted {
        write_file(context.path(), OsStr::from_bytes(name), "content");
    }
    symlink("t/".repeat(150), context.path().join("link")).unwrap();
    let found = entries(packed(context.path(), &[]).as_slice());
    for name in wanted {
        assert_eq!(found.get(name).unwrap(), "644 content", "{}", String::from_utf8_lossy(name));
    }
    assert_eq!(found.get(b"link".as_slice()).unwrap(), &format!("777 -> {}", "t/".repeat(150)));
}

#[test]
fn a_socket_is_skipped_and_a_fifo_is_rejected_unless_ignored() {
    let context = context(&[]);
    let _listening = UnixListener::bind(context.path().join("socket")).unwrap();
    assert_eq!(names(&packed(context.path(), &[])), ["Dockerfile"]);
    let fifo = rustix::fs::FileType::Fifo;
    let path = context.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, path, fifo, rustix::fs::Mode::from(0o600), 0).unwrap();
    assert!(refusal(context.path(), "Dockerfile").starts_with(r#""pipe" is a FIFO"#));
    write_file(context.path(), ".dockerignore", "pipe");
    assert_eq!(names(&packed(context.path(), &[])), [".dockerignore", "Dockerfile"]);
}

#[test]
fn an_exceeded_limit_lists_the_largest_files() {
    let context = context(&[("big/one", "12345678"), ("big/two", "1"), ("a/b/c/d", "")]);
    let sparse = File::create(context.path().join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let with = |limits: PackLimits| {
        let refused = pack(context.path(), "Dockerfile", &[], limits, io::sink()).unwrap_err();
        assert!(matches!(refused, ContextError::TooLarge { .. }), "{refused}");
        refused.to_string()
    };
    let message = with(PackLimits::default());
    assert!(message.contains(r#""sparse" (1099511627776 bytes)"#), "{message}");
    let message = with(PackLimits { files: 3, bytes: u64::MAX, ..PackLimits::default() });
    assert!(message.contains("more than 3 files; most are in "), "{message}");
    let message = with(PackLimits { depth: 2, bytes: u64::MAX, ..PackLimits::default() });
    assert!(message.contains(r#"more than 2 deep, below "a/b/c""#), "{message}");
    write_file(context.path(), ".dockerignore", "sparse\na");
    let exact = PackLimits { files: 6, bytes: 12 + 9 + 8, depth: 1 };
    pack(context.path(), "Dockerfile", &[], exact, io::sink()).unwrap();
}

#[test]
fn the_digest_covers_the_packed_stream() {
    use sha2::{Digest as _, Sha256};
    let context = context(&[("a", "b")]);
    let mut tar = Vec::new();
    let summary = pack(context.path(), "Dockerfile", &[], PackLimits::default(), &mut tar).unwrap();
    let digest = hex::encode(Sha256::digest(&tar));
    assert_eq!(summary, Packed { files: 2, bytes: tar.len().try_into().unwrap(), digest });
}

#[test]
fn a_failing_output_is_reported() {
    let context = context(&[]);
    let mut room = [0_u8; 700];
    let refused = pack(context.path(), "Dockerfile", &[], PackLimits::default(), room.as_mut_slice());
    assert!(matches!(refused, Err(ContextError::Output { .. })), "{refused:?}");
}

#[test]
fn a_checkout_is_archived_without_the_archive_itself() {
    for name in ["build.tar.gz", "build.tgz", "build.tar"] {
        let tree = context(&[("a/b", "c"), (".dockerignore", "*")]);
        let output = tree.path().join(name);
        let first = archive(tree.path(), &output, PackLimits::default()).unwrap();
        let bytes = fs::read(&output).unwrap();
        let second = archive(tree.path(), &output, PackLimits::default()).unwrap();
        assert_eq!(first, second, "{name}");
        assert_eq!(bytes, fs::read(&output).unwrap(), "{name}");
        check_archive(&output).unwrap();
        let tar = if name.ends_with("gz") { gunzip(&bytes) } else { bytes };
        assert_eq!(names(&tar), [".dockerignore", "Dockerfile", "a/", "a/b"]);
        assert_eq!(fs::read_dir(tree.path()).unwrap().count(), 4, "nothing is left beside it");
    }
}

#[test]
fn an_unsupported_archive_extension_is_rejected() {
    let tree = context(&[]);
    for name in ["build.zip", "tar", "build.tar.xz", ".."] {
        let refused = archive(tree.path(), &tree.path().join(name), PackLimits::default());
        assert!(matches!(refused, Err(ContextError::ArchiveName { .. })), "{name}");
    }
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// Few distinct names, so that rules, files and directories often match.
fn path() -> impl Strategy<Value = String> {
    "[ab.]{0,1}[abc](/[abc]){0,3}"
}

fn rules() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(r"!?(\*\*/|\*/)?([abc]|\*|\[ab\]|\?)(/([abc]|\*|\*\*))?", 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn exactly_the_files_kept_by_the_rules_are_packed(
        files in prop::collection::vec(path(), 0..12), lines in rules(), links in prop::collection::vec(path(), 0..3),
    ) {
        let context = context(&[(".dockerignore", &lines.join("\n"))]);
        for file in &files {
            let path = context.path().join(file);
            let _ = fs::create_dir_all(path.parent().unwrap()).and_then(|()| fs::write(path, file));
        }
        for link in &links {
            let _ = symlink("../..", context.path().join(link));
        }
        let tar = packed(context.path(), &[]);
        prop_assert_eq!(&tar, &packed(context.path(), &[]));
        let names = names(&tar);
        let rules = IgnoreRules::parse(&lines.join("\n")).unwrap();
        for name in &names {
            let path = name.trim_end_matches('/');
            prop_assert!(!path.split('/').any(|part| part.is_empty() || part == ".."), "{}", name);
            prop_assert!(fs::symlink_metadata(context.path().join(path)).is_ok());
            let always = path == "Dockerfile" || path == ".dockerignore";
            prop_assert!(always || !rules.is_ignored(path), "{} is ignored", name);
        }
        for file in files.iter().filter(|file| context.path().join(file).is_file()) {
            prop_assert_eq!(names.contains(file), !rules.is_ignored(file), "{}", file);
        }
    }
}

#[test]
fn a_fingerprint_depends_only_on_content() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let write = |path: &str, content: &str| {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), content).unwrap();
    };
    write("Dockerfile", "FROM scratch\n");
    write(".dockerignore", "*.md\n");
    write("a", "1");
    write("notes.md", "1");
    write(".git/index", "1");
    let of = || fingerprint(root, "Dockerfile", PackLimits::default()).unwrap();
    let of_archive = || fingerprint_tree(root, PackLimits::default()).unwrap();
    let (first, all) = (of(), of_archive());
    File::open(root.join("a")).unwrap().set_modified(UNIX_EPOCH).unwrap();
    write("notes.md", "2");
    write(".git/index", "2");
    assert_eq!(of(), first, "times, ignored files and git's own are no content");
    assert_ne!(of_archive(), all, "no rule ignores anything of an archive");
    let mut seen = BTreeSet::from([first]);
    write("a", "2");
    assert!(seen.insert(of()));
    fs::set_permissions(root.join("a"), Permissions::from_mode(0o755)).unwrap();
    assert!(seen.insert(of()), "whether it is executable");
    fs::rename(root.join("a"), root.join("b")).unwrap();
    assert!(seen.insert(of()), "its name");
    symlink("b", root.join("c")).unwrap();
    assert!(seen.insert(of()), "a link");
    fs::create_dir(root.join("d")).unwrap();
    assert!(seen.insert(of()), "a directory");
    write("Dockerfile", "FROM scratch\n\n");
    assert!(seen.insert(of()), "the Dockerfile");
}
