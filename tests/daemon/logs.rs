//! Logs: for programs in a file, for users on a terminal.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::child::{PATIENCE, Place};
use crate::common::{SECRET, eventually};

#[test]
fn a_log_file_has_one_json_object_per_line() {
    let place = Place::new();
    let mut daemon = place.serve(&[]);
    assert_eq!(place.push(SECRET, "dev", "a").0, 202);
    daemon.signal(Signal::TERM);
    daemon.end();
    let log = daemon.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() >= 4, "{log}");
    for line in &lines {
        for field in ["timestamp", "level", "message", "target"] {
            assert!(line[field].is_string(), "{field}: {line}");
        }
    }
    let push = lines.iter().find(|line| line["message"] == "webhook recorded").unwrap();
    assert_eq!((&push["webhook"], &push["status"]), (&Value::from("shop"), &Value::from(202)));
}

#[test]
fn a_log_on_a_terminal_is_readable_and_control_c_stops_the_daemon() {
    let place = Place::new();
    let mut plain = place.command(&["daemon", "--listen", &place.listen()]);
    let program = plain.get_program().to_str().unwrap().to_owned();
    // The daemon that `script` starts has the same environment.
    plain.env("ABIDE", program).env("LISTEN", place.listen());
    let mut script = std::process::Command::new("script");
    script.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.args([
        "--quiet",
        "--return",
        "--command",
        "exec \"$ABIDE\" daemon --listen \"$LISTEN\"",
        "/dev/null",
    ]);
    let Ok(mut child) = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        eprintln!("left out, because there is no `script` that makes a terminal");
        return;
    };
    eventually("the daemon serves", PATIENCE, || UnixStream::connect(place.socket()).is_ok());
    child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    let mut shown = String::new();
    child.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    assert!(child.wait().unwrap().success(), "{shown}");
    for words in [" INFO abide started", "SIGINT", " INFO stopped"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(
        !shown.contains("{\"") && !shown.contains('\u{1b}'),
        "no JSON, and no colour as NO_COLOR says: {shown}"
    );
}
