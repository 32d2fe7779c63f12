//! A socket during its TLS handshake.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::{connection::Connection, socket::Socket};

/// TCP whose bytes count as unfinished, until the handshake is done.
pub struct HandshakeSocket {
    tcp: TcpStream,
    connection: Arc<Connection>,
}

impl HandshakeSocket {
    /// Counts what arrives at `tcp` for `connection`.
    pub fn new(tcp: TcpStream, connection: Arc<Connection>) -> Self {
        Self { tcp, connection }
    }
}

impl AsyncRead for HandshakeSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.register_owner(cx.waker());
        if self.connection.ended().is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.connection.read(buf.filled().len() - before, 0, 0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HandshakeSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl From<TlsStream<HandshakeSocket>> for Socket {
    fn from(stream: TlsStream<HandshakeSocket>) -> Self {
        let (HandshakeSocket { tcp, .. }, session) = stream.into_inner();
        Self::over_tls(tcp, session)
    }
}
