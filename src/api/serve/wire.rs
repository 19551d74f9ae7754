//! Detects the protocol of an accepted connection: TLS or not, and the HTTP version.
//!
//! With TLS, ALPN selects the version. Without TLS, an HTTP/2 client begins with a preface that is
//! not a valid HTTP/1.1 request, so the first bytes are inspected and then read again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The first bytes of every HTTP/2 client.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of every TLS handshake: record type 22.
const HANDSHAKE: u8 = 0x16;
/// The answer to a plain request on a TLS port. The request has already leaked its data by then,
/// but the sender learns why it fails.
const IN_THE_CLEAR: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n\
    {\"error\":\"bad-request\",\"message\":\"this port speaks TLS: use an `https://` address\"}\n";
/// The number of bytes of such a request to read and discard. Otherwise unread data could make the
/// answer get lost.
const LEFT_UNREAD: u64 = 64 * 1024;

/// Whether the connection uses TLS.
#[derive(Clone)]
pub(super) enum Wire {
    /// Without TLS.
    Plain,
    /// With TLS, using this identity.
    Tls(TlsAcceptor),
}

/// A connection that is ready for HTTP.
pub(super) enum OpenedStream<S> {
    Plain(StartedStream<S>),
    Tls(Box<TlsStream<StartedStream<S>>>),
}

impl Wire {
    /// Detects the protocol, and completes the handshake if the connection uses TLS. The caller
    /// sets the deadline.
    pub(super) async fn open<S>(&self, stream: S) -> io::Result<(OpenedStream<S>, HttpVersion)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self {
            Self::Plain => {
                let begun = StartedStream::read(stream, |start| !PREFACE.starts_with(start)).await?;
                let version = if begun.start() == PREFACE { HttpVersion::Http2 } else { HttpVersion::Http1 };
                Ok((OpenedStream::Plain(begun), version))
            }
            Self::Tls(acceptor) => {
                let mut begun = StartedStream::read(stream, |start| !start.is_empty()).await?;
                if begun.start().first().is_some_and(|first| *first != HANDSHAKE) {
                    begun.write_all(IN_THE_CLEAR).await?;
                    begun.shutdown().await?;
                    tokio::io::copy(&mut begun.take(LEFT_UNREAD), &mut tokio::io::sink()).await?;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "no TLS"));
                }
                let stream = acceptor.accept(begun).await?;
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let version = if is_http2 { HttpVersion::Http2 } else { HttpVersion::Http1 };
                Ok((OpenedStream::Tls(Box::new(stream)), version))
            }
        }
    }
}

/// The HTTP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HttpVersion {
    Http1,
    Http2,
}

/// A stream that replays its inspected first bytes.
pub(super) struct StartedStream<S> {
    stream: S,
    start: [u8; PREFACE.len()],
    length: usize,
    /// The number of bytes already replayed.
    again: usize,
}

impl<S: AsyncRead + Unpin> StartedStream<S> {
    /// Reads until `is_enough`, the length of a preface, or the end.
    async fn read(mut stream: S, is_enough: impl Fn(&[u8]) -> bool) -> io::Result<Self> {
        let (mut start, mut length) = ([0; PREFACE.len()], 0);
        while length < start.len() && !is_enough(&start[..length]) {
            match stream.read(&mut start[length..]).await? {
                0 => break,
                read => length += read,
            }
        }
        Ok(Self { stream, start, length, again: 0 })
    }
}

impl<S> StartedStream<S> {
    fn start(&self) -> &[u8] {
        &self.start[..self.length]
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StartedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.again < self.length {
            let end = self.length.min(self.again + buffer.remaining());
            buffer.put_slice(&self.start[self.again..end]);
            self.again = end;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StartedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
