//! A repository for experiments, and common helpers of the tests.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::model::name::{BranchName, CommitId};
use crate::source::{GitMirror, Remote};

/// The time of every commit that the fixture makes, in seconds.
pub(super) const COMMIT_TIME: u64 = 1_700_000_000;

/// A repository with a working tree, like a developer's.
pub(super) struct Origin {
    pub(super) dir: TempDir,
}

impl Origin {
    pub(super) fn new() -> Self {
        let origin = Self { dir: tempfile::tempdir().unwrap() };
        origin.git(&["init", "-q", "-b", "master", "."]);
        origin
    }

    pub(super) fn with_one_commit() -> (Self, CommitId) {
        let origin = Self::new();
        let commit = origin.commit_file("hello", "world\n");
        (origin, commit)
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn url(&self) -> &str {
        self.path().to_str().unwrap()
    }

    pub(super) fn remote(&self) -> Remote {
        Remote::new(self.url()).unwrap()
    }

    pub(super) fn git(&self, args: &[&str]) -> String {
        self.git_with_input(args, b"")
    }

    pub(super) fn git_with_input(&self, args: &[&str], input: &[u8]) -> String {
        let date = format!("{COMMIT_TIME} +0000");
        let mut child = Command::new("git")
            .args([
                "-c",
                "user.name=Ann",
                "-c",
                "user.email=ann@example.com",
                "-c",
                "protocol.file.allow=always",
            ])
            .args(args)
            .current_dir(self.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_DATE", &date)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {args:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(super) fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(super) fn commit(&self, message: &str) -> CommitId {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.id("HEAD")
    }

    pub(super) fn commit_file(&self, path: &str, content: &str) -> CommitId {
        self.write(path, content);
        self.commit(path)
    }

    pub(super) fn id(&self, revision: &str) -> CommitId {
        CommitId::new(self.git(&["rev-parse", "--verify", revision])).unwrap()
    }

    /// Commits a tree, written byte for byte, to `master`. No normal tool would write such trees.
    pub(super) fn commit_raw_tree(&self, entries: &[(&str, &[u8], &str)]) -> CommitId {
        let tree = self.raw_tree(entries);
        self.commit_tree(&tree)
    }

    pub(super) fn commit_tree(&self, tree: &str) -> CommitId {
        let commit = self.git(&["commit-tree", "-m", "raw", tree]);
        self.git(&["update-ref", "refs/heads/master", &commit]);
        CommitId::new(commit).unwrap()
    }

    /// Writes a tree from entries of `mode`, name and object.
    pub(super) fn raw_tree(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let mut tree = Vec::new();
        for (mode, name, object) in entries {
            tree.extend_from_slice(mode.as_bytes());
            tree.push(b' ');
            tree.extend_from_slice(name);
            tree.push(0);
            tree.extend_from_slice(&hex::decode(object).unwrap());
        }
        self.git_with_input(&["hash-object", "-t", "tree", "-w", "--literally", "--stdin"], &tree)
    }

    pub(super) fn blob(&self, content: &[u8]) -> String {
        self.git_with_input(&["hash-object", "-w", "--stdin"], content)
    }
}

/// A mirror in a temporary directory.
pub(super) struct Kept {
    pub(super) mirror: GitMirror,
    pub(super) room: TempDir,
}

impl Kept {
    pub(super) fn of(remote: Remote) -> Self {
        let room = tempfile::tempdir().unwrap();
        Self { mirror: GitMirror::open(room.path().join("mirrors/one"), remote), room }
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.room.path().join("mirrors/one")
    }

    /// A directory that does not exist yet.
    pub(super) fn tree(&self) -> PathBuf {
        self.room.path().join("tree")
    }
}

pub(super) fn branch(name: &str) -> BranchName {
    BranchName::new(name).unwrap()
}

/// The command lines that contain `text`. Processes that have ended have none.
pub(super) fn command_lines_with(text: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(text)).collect()
}

/// Waits until the kernel has removed the killed processes.
pub(super) async fn assert_no_process_with(text: &str) {
    for _ in 0..500 {
        if command_lines_with(text).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still running: {:?}", command_lines_with(text));
}
