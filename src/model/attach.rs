//! Commands that people run in containers: the request, and the messages between a person's terminal and the
//! command.

use serde::{Deserialize, Serialize};

use super::backup::ArchiveName;
use super::name::JobName;

/// The protocol of the connection, for the header `Upgrade`.
pub const PROTOCOL: &str = "abide-attach";
/// The longest payload of a message, in bytes; output is cut into messages of this length.
pub const LONGEST_PAYLOAD: usize = 32 * 1024;
/// A message's kind and the length of its payload.
const HEAD: usize = 5;

/// A command that a person runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The command.
    #[serde(flatten)]
    pub command: AttachedCommand,
    /// The size of the person's terminal; `None`: no terminal.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
}

/// The command, and its container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AttachedCommand {
    /// A command in the running container.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// A new container of the recorded image.
    Run {
        /// The program; `None`: that of the environment.
        #[serde(default)]
        entrypoint: Option<String>,
        /// Arguments after the entrypoint; none: those of the environment, unless there is an entrypoint.
        #[serde(default)]
        arguments: Vec<String>,
    },
    /// A job of the environment, now. It continues without the person.
    Job {
        /// Its name.
        job: JobName,
        /// The archive to restore in place of a run of the job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restore: Option<ArchiveName>,
    },
}

impl AttachedCommand {
    /// The words that a person typed.
    pub fn words(&self) -> impl Iterator<Item = &String> {
        let (entrypoint, rest) = match self {
            Self::Exec { command } => (None, command.as_slice()),
            Self::Run { entrypoint, arguments } => (entrypoint.as_ref(), arguments.as_slice()),
            Self::Job { .. } => (None, &[][..]),
        };
        entrypoint.into_iter().chain(rest)
    }
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// A message of the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachInput {
    /// Standard input.
    Data(Vec<u8>),
    /// The end of standard input.
    End,
    /// The terminal has another size.
    Resize(TerminalSize),
}

/// A message of the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachOutput {
    /// Standard output, or everything in a terminal.
    Out(Vec<u8>),
    /// Standard error.
    Error(Vec<u8>),
    /// The command has ended with this exit code.
    Ended(i64),
    /// The session has ended for another reason, which is a sentence.
    Failed(String),
}

/// A message that no version of abide sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other side sent a message that this version of abide does not know")]
pub struct InvalidMessage;

/// A kind of message, as bytes.
pub trait AttachMessage: Sized {
    /// The kind and the payload.
    fn parts(&self) -> (u8, Vec<u8>);

    /// Reads a message.
    ///
    /// # Errors
    /// Returns [`InvalidMessage`] for an unknown kind or a wrong payload.
    fn read(kind: u8, payload: &[u8]) -> Result<Self, InvalidMessage>;

    /// The message as it is sent.
    fn encode(&self) -> Vec<u8> {
        let (kind, payload) = self.parts();
        let mut bytes = vec![kind];
        bytes.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(payload);
        bytes
    }
}

impl AttachMessage for AttachInput {
    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Data(data) => (0, data.clone()),
            Self::End => (1, Vec::new()),
            Self::Resize(TerminalSize { rows, columns }) => {
                (2, [rows.to_be_bytes(), columns.to_be_bytes()].concat())
            }
        }
    }

    fn read(kind: u8, payload: &[u8]) -> Result<Self, InvalidMessage> {
        match (kind, payload) {
            (0, data) => Ok(Self::Data(data.to_vec())),
            (1, []) => Ok(Self::End),
            (2, &[a, b, c, d]) => {
                let (rows, columns) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Ok(Self::Resize(TerminalSize { rows, columns }))
            }
            _ => Err(InvalidMessage),
        }
    }
}

impl AttachMessage for AttachOutput {
    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Out(data) => (0, data.clone()),
            Self::Error(data) => (1, data.clone()),
            Self::Ended(code) => (2, code.to_be_bytes().to_vec()),
            Self::Failed(why) => (3, why.as_bytes().iter().take(LONGEST_PAYLOAD).copied().collect()),
        }
    }

    fn read(kind: u8, payload: &[u8]) -> Result<Self, InvalidMessage> {
        match kind {
            0 => Ok(Self::Out(payload.to_vec())),
            1 => Ok(Self::Error(payload.to_vec())),
            2 => payload
                .try_into()
                .map(|code| Self::Ended(i64::from_be_bytes(code)))
                .map_err(|_| InvalidMessage),
            3 => Ok(Self::Failed(String::from_utf8_lossy(payload).into_owned())),
            _ => Err(InvalidMessage),
        }
    }
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct AttachReader {
    waiting: Vec<u8>,
}

impl AttachReader {
    /// Adds bytes in the order of their arrival, and returns the messages that are complete now.
    ///
    /// # Errors
    /// Returns [`InvalidMessage`] if the bytes are not a message; the stream cannot be read further then.
    pub fn push<M: AttachMessage>(&mut self, bytes: &[u8]) -> Result<Vec<M>, InvalidMessage> {
        self.waiting.extend_from_slice(bytes);
        let mut complete = Vec::new();
        while let Some(message) = self.message()? {
            complete.push(message);
        }
        Ok(complete)
    }

    fn message<M: AttachMessage>(&mut self) -> Result<Option<M>, InvalidMessage> {
        let [kind, a, b, c, d, rest @ ..] = self.waiting.as_slice() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).map_err(|_| InvalidMessage)?;
        if length > LONGEST_PAYLOAD {
            return Err(InvalidMessage);
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let message = M::read(*kind, payload)?;
        self.waiting.drain(..HEAD + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survive<M: AttachMessage + PartialEq + std::fmt::Debug>(messages: &[M]) {
        let bytes: Vec<u8> = messages.iter().flat_map(M::encode).collect();
        for piece in [1, 3, bytes.len()] {
            let mut reader = AttachReader::default();
            let mut found = Vec::new();
            for bytes in bytes.chunks(piece) {
                found.extend(reader.push::<M>(bytes).unwrap());
            }
            assert_eq!(found, messages, "in pieces of {piece}");
        }
    }

    #[test]
    fn messages_are_reassembled_from_any_chunks() {
        let size = TerminalSize { rows: 24, columns: 300 };
        survive(&[AttachInput::Data(b"ls\n".to_vec()), AttachInput::Resize(size), AttachInput::End]);
        let out = AttachOutput::Out(vec![0, 255, 10]);
        survive(&[
            out,
            AttachOutput::Error(Vec::new()),
            AttachOutput::Ended(-1),
            AttachOutput::Failed("é".into()),
        ]);
    }

    #[test]
    fn an_overlong_or_unknown_message_is_invalid() {
        for bytes in [[0, 0, 0, 128, 1].as_slice(), &[9, 0, 0, 0, 0], &[2, 0, 0, 0, 1, 7]] {
            let read = AttachReader::default().push::<AttachInput>(bytes);
            assert_eq!(read, Err(InvalidMessage), "{bytes:?}");
        }
    }
}
