//! Lines of a streamed body, each complete or not returned.

use std::io;

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Body;

/// The longest line, in bytes: the assignment of a thousand environments is far below.
const LONGEST: usize = 16 << 20;

/// Reads lines. Data after the last line break of the body is not a line.
pub(super) struct LineReader<B> {
    body: B,
    read: BytesMut,
}

impl<B> LineReader<B>
where
    B: Body + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) fn new(body: B) -> Self {
        Self { body, read: BytesMut::new() }
    }

    /// The next line without its break; `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<BytesMut>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.read[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(searched + end);
                self.read.advance(1);
                return Ok(Some(line));
            }
            searched = self.read.len();
            if searched > LONGEST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line exceeds the maximum length"));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(mut data) = frame.map_err(io::Error::other)?.into_data() {
                while data.has_remaining() {
                    let piece = data.chunk();
                    self.read.extend_from_slice(piece);
                    let length = piece.len();
                    data.advance(length);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    async fn lines(pieces: &[&'static str]) -> Vec<String> {
        let pieces: Vec<_> = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
        let pieces = stream::iter(pieces.into_iter().map(|piece| Ok::<_, io::Error>(Frame::data(piece))));
        let mut lines = LineReader::new(StreamBody::new(pieces));
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            found.push(String::from_utf8(line.to_vec()).unwrap());
        }
        found
    }

    #[tokio::test]
    async fn lines_are_reassembled_from_chunks_and_a_truncated_one_is_dropped() {
        assert_eq!(lines(&["a\nb", "c\n", "\nd\ne"]).await, ["a", "bc", "", "d"]);
        assert_eq!(lines(&["", "a", "b"]).await, Vec::<String>::new());
    }
}
