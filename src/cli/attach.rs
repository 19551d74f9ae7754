//! The terminal of a person and a command in a container: what `abide exec` and `abide run` share.

use std::io::{IsTerminal as _, Read as _, Write as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::client::AttachStream;
use super::exit::{CliError, CliExit};
use super::session::{CliSession, Requirement};
use crate::model::attach::{
    AttachInput, AttachMessage as _, AttachOutput, AttachReader, AttachRequest, AttachedCommand, TerminalSize,
};
use crate::model::name::EnvironmentName;

/// The bytes that are read at once.
const BUFFER: usize = 16 * 1024;
/// The exit code of a session that was cut off, as with ssh.
const CUT_OFF: u8 = 255;

/// Runs a command and passes its exit code through.
pub(super) async fn attach(
    session: &mut CliSession,
    verb: &'static str,
    environment: &EnvironmentName,
    command: AttachedCommand,
    no_terminal: bool,
) -> Result<CliExit, CliError> {
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let terminal = Some(()).filter(|()| is_terminal && !no_terminal).map(|()| size());
    let client = session.client(Requirement::Daemon(verb)).await?;
    let stream = client.attach(environment, &AttachRequest { command, terminal }).await?;
    let raw = terminal.map(|_| RawTerminal::enter()).transpose()?;
    let ended = converse(stream, terminal.is_some()).await;
    drop(raw);
    match ended? {
        AttachOutput::Ended(code) => Ok(CliExit::Command(u8::try_from(code).unwrap_or(CUT_OFF))),
        AttachOutput::Failed(why) => {
            session.console.talk(&format!("error: {why}"));
            Ok(CliExit::Command(CUT_OFF))
        }
        AttachOutput::Out(_) | AttachOutput::Error(_) => Ok(CliExit::Command(CUT_OFF)),
    }
}

/// The size of the terminal.
fn size() -> TerminalSize {
    let size = tcgetwinsize(std::io::stdout()).ok();
    size.map_or(TerminalSize { rows: 24, columns: 80 }, |size| TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// The terminal passes every key on, until this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self, CliError> {
        let before = tcgetattr(std::io::stdin()).map_err(|error| CliError::Output(error.into()))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)
            .map_err(|error| CliError::Output(error.into()))?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Passes messages in both directions, and returns the last one of the command.
async fn converse(stream: AttachStream, has_terminal: bool) -> Result<AttachOutput, CliError> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut typed = read_input();
    let mut resized = if has_terminal { signal(SignalKind::window_change()).ok() } else { None };
    let (mut reader, mut buffer) = (AttachReader::default(), vec![0; BUFFER]);
    loop {
        let message = tokio::select! {
            length = read.read(&mut buffer) => {
                let length = length.unwrap_or(0);
                if length == 0 {
                    return Ok(AttachOutput::Failed("the connection was interrupted".to_owned()));
                }
                let messages = reader.push(buffer.get(..length).unwrap_or_default());
                if let Some(last) = show(messages.map_err(|error| CliError::No(error.to_string()))?)? {
                    return Ok(last);
                }
                continue;
            }
            Some(message) = typed.recv() => message,
            () = next(&mut resized) => AttachInput::Resize(size()),
        };
        // If the command has ended, its result is still to be read.
        let _ = write.write_all(&message.encode()).await;
    }
}

async fn next(resized: &mut Option<Signal>) {
    match resized {
        Some(resized) => drop(resized.recv().await),
        None => std::future::pending().await,
    }
}

/// Writes what has arrived; returns the message that ends the session.
fn show(messages: Vec<AttachOutput>) -> Result<Option<AttachOutput>, CliError> {
    for message in messages {
        match message {
            AttachOutput::Out(data) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&data)?;
                out.flush()?;
            }
            AttachOutput::Error(data) => {
                let mut error = std::io::stderr().lock();
                error.write_all(&data)?;
                error.flush()?;
            }
            last => return Ok(Some(last)),
        }
    }
    Ok(None)
}

/// Reads standard input in a thread that the process does not wait for: a read that blocks cannot be
/// ended.
fn read_input() -> mpsc::Receiver<AttachInput> {
    let (typed, input) = mpsc::channel(4);
    std::thread::spawn(move || {
        let (mut stdin, mut buffer) = (std::io::stdin().lock(), vec![0; BUFFER]);
        loop {
            let length = stdin.read(&mut buffer).unwrap_or(0);
            let data = buffer.get(..length).unwrap_or_default().to_vec();
            let message = if length == 0 { AttachInput::End } else { AttachInput::Data(data) };
            if typed.blocking_send(message).is_err() || length == 0 {
                return;
            }
        }
    });
    input
}
