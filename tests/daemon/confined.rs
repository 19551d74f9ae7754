//! Programs that see nothing of who starts them, as the scripts of builds: as this user, and as one
//! without any rights.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use abide::confined::{ARGUMENTS, Limit, ScriptOrder, ScriptReport};

use crate::common::{eventually, eventually_some};

/// A user that owns nothing.
const NOBODY: u32 = 65_534;
/// What nobody else may see.
const CANARY: &str = "canary-77f1-of-the-starter";
const PATIENCE: Duration = Duration::from_secs(60);

/// The users as which this process can start programs; `None`: as itself.
fn users() -> Vec<Option<u32>> {
    let is_root = rustix::process::getuid().is_root();
    // By default, Ubuntu lets only root make namespaces.
    let restricted = std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    let others_may = !restricted.is_ok_and(|value| value.trim() == "1");
    let nobody = (is_root && others_may).then_some(Some(NOBODY));
    [None].into_iter().filter(|_| is_root || others_may).chain(nobody).collect()
}

fn order(script: &str, directory: &Path) -> ScriptOrder {
    ScriptOrder {
        program: "sh".into(),
        arguments: vec!["-c".into(), script.into()],
        env: vec![("PATH".into(), "/usr/bin:/bin:/usr/sbin:/sbin".into())],
        directory: directory.into(),
        hidden: Vec::new(),
        memory: 1 << 30,
        pids: 500,
    }
}

/// Starts the first stage as `user`, with the canary in its environment.
fn start(order: &ScriptOrder, user: Option<u32>) -> (Child, UnixStream) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(program());
    command.args(ARGUMENTS).env_clear().env("CANARY", CANARY).stdin(Stdio::from(OwnedFd::from(theirs)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/");
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    // A process that another test forks may hold the copy open for writing for a moment.
    let child = eventually_some("the copy can be executed", PATIENCE, || match command.spawn() {
        Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => None,
        spawned => Some(spawned.unwrap()),
    });
    drop(command);
    ours.write_all(&serde_json::to_vec(order).unwrap()).unwrap();
    ours.write_all(b"\n").unwrap();
    (child, ours)
}

/// A copy in a folder that everyone may enter: the path to the build may be closed to others.
fn program() -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    static COPY: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let dir = COPY.get_or_init(|| {
        let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_abide"), dir.path().join("abide")).unwrap();
        dir
    });
    dir.path().join("abide")
}

/// What came of it, and what the program wrote.
fn run(order: &ScriptOrder, user: Option<u32>) -> (ScriptReport, String) {
    let (child, mut socket) = start(order, user);
    let output = child.wait_with_output().unwrap();
    let mut report = Vec::new();
    socket.read_to_end(&mut report).unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (serde_json::from_slice(&report).unwrap_or_else(|_| panic!("no report: {text}")), text)
}

/// A directory that everyone may write to.
fn place() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o777)).tempdir().unwrap()
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn is_running(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| line.windows(marker.len()).any(|window| window == marker.as_bytes()))
}

#[test]
fn a_confined_program_is_isolated_and_leaves_no_processes() {
    for (index, user) in users().into_iter().enumerate() {
        let place = place();
        let [tree, secret] = ["record/work/tree", "secret"].map(|name| place.path().join(name));
        write(&tree.join("file"), "in the tree\n");
        write(&place.path().join("record/db"), CANARY);
        write(&secret, CANARY);
        let marker = format!("confined-{}-{index}", std::process::id());
        let script = format!(
            "grep -sc CANARY /proc/[0-9]*/environ; ls ../..; cat ../../db {secret} file; umount /proc; \
             umount ../..; ls /proc | grep -c '^[0-9]'; setsid sh -c 'sleep 4247; : {marker}' & exit 3",
            secret = secret.display()
        );
        let mut order = order(&script, &tree);
        order.hidden = ["record", "secret", "not-there"].map(|name| place.path().join(name).into()).to_vec();
        let (report, text) = run(&order, user);
        assert_eq!(report, ScriptReport::Ended(3), "{user:?}: {text}");
        assert!(text.contains("in the tree") && !text.contains(CANARY), "{user:?}: {text}");
        assert!(!text.contains("db\n") && text.contains("work"), "{user:?}: {text}");
        assert!(!text.lines().any(|line| line.ends_with(":1")), "an environment is seen: {text}");
        // Process 1, the shell, and what it runs to count.
        let seen = text.lines().filter_map(|line| line.parse::<u32>().ok()).next_back().unwrap();
        assert!((3..=6).contains(&seen), "{user:?}: {text}");
        eventually("what it left is gone", PATIENCE, || !is_running(&marker));
    }
}

/// Replaces a file as editors and configuration tools do, by a rename.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    write(&new, text);
    std::fs::rename(new, path).unwrap();
}

#[test]
fn a_hidden_file_created_or_replaced_at_run_time_stays_hidden() {
    for user in users() {
        let place = place();
        let [tree, secrets] = ["tree", "secrets"].map(|name| place.path().join(name));
        let [plain, late, linked] = ["plain", "late", "linked"].map(|name| secrets.join(name));
        write(&tree.join("file"), "in the tree\n");
        write(&secrets.join("beside"), "what is beside\n");
        write(&plain, CANARY);
        // As Kubernetes mounts secrets: a link to a link that changes.
        write(&secrets.join("version1/linked"), CANARY);
        std::os::unix::fs::symlink("version1", secrets.join("current")).unwrap();
        std::os::unix::fs::symlink("current/linked", &linked).unwrap();
        let script = format!(
            "touch {tree}/ready; while ! test -e {tree}/go; do sleep 0.05; done; cd {secrets}; \
             cat plain late linked version*/linked current/linked later/token beside {tree}/file; ls; exit 3",
            tree = tree.display(),
            secrets = secrets.display()
        );
        std::fs::set_permissions(&tree, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let mut order = order(&script, &tree);
        order.hidden = [&plain, &late, &linked, &secrets.join("later/token")].map(Into::into).to_vec();
        let (child, mut socket) = start(&order, user);
        eventually("the script runs", PATIENCE, || tree.join("ready").exists());
        replace(&plain, CANARY);
        write(&late, CANARY);
        write(&secrets.join("later/token"), CANARY);
        write(&secrets.join("version2/linked"), CANARY);
        std::os::unix::fs::symlink("version2", secrets.join("next")).unwrap();
        std::fs::rename(secrets.join("next"), secrets.join("current")).unwrap();
        write(&tree.join("go"), "");
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let mut report = Vec::new();
        socket.read_to_end(&mut report).unwrap();
        assert_eq!(
            serde_json::from_slice::<ScriptReport>(&report).unwrap(),
            ScriptReport::Ended(3),
            "{user:?}: {text}"
        );
        assert!(!text.contains(CANARY), "{user:?}: {text}");
        assert!(text.contains("what is beside") && text.contains("in the tree"), "{user:?}: {text}");
    }
}

#[test]
fn a_confined_program_ends_at_its_limits_and_with_its_parent() {
    for (index, user) in users().into_iter().enumerate() {
        let place = place();
        let mut of_memory = order("head -c 300000000 /dev/zero | tail -c 300000000 | sleep 60", place.path());
        of_memory.memory = 100 << 20;
        assert_eq!(run(&of_memory, user).0, ScriptReport::Exceeded(Limit::Memory), "{user:?}");
        let mut of_pids = order("while :; do sleep 60 & done", place.path());
        of_pids.pids = 50;
        assert_eq!(run(&of_pids, user).0, ScriptReport::Exceeded(Limit::Pids), "{user:?}");
        let nothing = ScriptOrder { program: "./not-there".into(), ..order("", place.path()) };
        assert!(matches!(run(&nothing, user).0, ScriptReport::NotStarted(_)), "{user:?}");

        let marker = format!("orphan-{}-{index}", std::process::id());
        let endless = order(&format!("setsid sh -c 'sleep 4248; : {marker}'"), place.path());
        let (mut child, socket) = start(&endless, user);
        eventually("it runs", PATIENCE, || is_running(&marker));
        drop(socket);
        child.wait().unwrap();
        eventually("it ended with its starter", PATIENCE, || !is_running(&marker));
    }
}
