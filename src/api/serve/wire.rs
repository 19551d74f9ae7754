//! How the bytes of an accepted connection become HTTP: with or without TLS, and in which version.
//!
//! With TLS, ALPN says it. Without, a client of HTTP/2 begins with a preface that is no request of
//! HTTP/1.1, so the first bytes are looked at, and then read again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What every client of HTTP/2 sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What every handshake begins with: the record type 22.
const HANDSHAKE: u8 = 0x16;
/// The answer to a request in the clear where TLS is spoken. It has said all that it should not have
/// by then, but its sender learns why it fails.
const IN_THE_CLEAR: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n\
    {\"error\":\"bad-request\",\"message\":\"this port speaks TLS: use an `https://` address\"}\n";
/// As much of such a request is read still: where something is left unread, the answer may be lost.
const LEFT_UNREAD: u64 = 64 * 1024;

/// Whether TLS is spoken.
#[derive(Clone)]
pub(super) enum Wire {
    /// It is not.
    Plain,
    /// It is, with this identity.
    Tls(TlsAcceptor),
}

/// A connection on which HTTP can be spoken.
pub(super) enum Opened<S> {
    Plain(Begun<S>),
    Tls(Box<TlsStream<Begun<S>>>),
}

impl Wire {
    /// Finds out what is spoken, in one handshake where there is TLS. The caller sets the deadline.
    pub(super) async fn open<S>(&self, stream: S) -> io::Result<(Opened<S>, Version)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self {
            Self::Plain => {
                let begun = Begun::read(stream, |start| !PREFACE.starts_with(start)).await?;
                let version = if begun.start() == PREFACE { Version::Http2 } else { Version::Http1 };
                Ok((Opened::Plain(begun), version))
            }
            Self::Tls(acceptor) => {
                let mut begun = Begun::read(stream, |start| !start.is_empty()).await?;
                if begun.start().first().is_some_and(|first| *first != HANDSHAKE) {
                    begun.write_all(IN_THE_CLEAR).await?;
                    begun.shutdown().await?;
                    tokio::io::copy(&mut begun.take(LEFT_UNREAD), &mut tokio::io::sink()).await?;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "no TLS"));
                }
                let stream = acceptor.accept(begun).await?;
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let version = if is_http2 { Version::Http2 } else { Version::Http1 };
                Ok((Opened::Tls(Box::new(stream)), version))
            }
        }
    }
}

/// Of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// A stream of which the first bytes were read, and are there to be read again.
pub(super) struct Begun<S> {
    stream: S,
    start: [u8; PREFACE.len()],
    length: usize,
    /// How many of them were read again.
    again: usize,
}

impl<S: AsyncRead + Unpin> Begun<S> {
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

impl<S> Begun<S> {
    fn start(&self) -> &[u8] {
        &self.start[..self.length]
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
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
