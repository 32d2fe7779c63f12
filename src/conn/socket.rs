//! The bytes of one connection, over TCP or TLS.
//!
//! Writes never wait and register no waker, so any thread may write for the task that owns the
//! connection. That task waits for readiness and reads.

use std::{
    io::{self, IoSlice, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::ServerConnection;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};

/// A connected socket.
pub enum Socket {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP. Boxed, because its state is kilobytes large.
    Tls(Box<TlsSocket>),
}

/// TCP, and the TLS session over it.
pub struct TlsSocket {
    tcp: TcpStream,
    session: ServerConnection,
    /// Bytes that have arrived since a record was complete.
    unfinished: usize,
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(tcp)
    }
}

impl Socket {
    /// A socket whose TLS handshake is done.
    pub fn over_tls(tcp: TcpStream, session: ServerConnection) -> Self {
        Self::Tls(Box::new(TlsSocket { tcp, session, unfinished: 0 }))
    }

    /// Reads into `buf`; 0 bytes are the end of the stream.
    ///
    /// # Errors
    /// If the connection is broken, or the peer violates TLS.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => poll_tcp(tcp, cx, buf),
            Self::Tls(tls) => tls.poll_read(cx, buf),
        }
    }

    /// Bytes that TLS holds of a record that is not complete.
    pub fn unfinished(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Tls(tls) => tls.unfinished,
        }
    }

    /// Writes as much as possible at once; returns how many bytes were taken. Over TLS, the last of
    /// them may still have to be flushed.
    ///
    /// # Errors
    /// `WouldBlock` if nothing can be written now; else the connection is broken.
    pub fn try_write(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = match self {
            // One buffer is the usual case, and `send` costs less than `writev`.
            Self::Plain(tcp) => match bytes {
                [bytes] => tcp.try_write(bytes)?,
                bytes => tcp.try_write_vectored(bytes)?,
            },
            Self::Tls(tls) => {
                tls.flush()?;
                let written = tls.session.writer().write_vectored(bytes)?;
                would_block_is_fine(tls.flush())?;
                written
            }
        };
        let is_empty = bytes.iter().all(|part| part.is_empty());
        if written == 0 && !is_empty { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
    }

    /// Writes what TLS holds back.
    ///
    /// # Errors
    /// `WouldBlock` if not all of it can be written now; else the connection is broken.
    pub fn try_flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }

    /// Waits until the kernel takes bytes again.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_write_ready(cx)
    }

    /// Ends the writing side, after everything that was written. Over TLS, `close_notify` is sent if
    /// the kernel takes it at once.
    pub fn shutdown(&mut self) {
        if let Self::Tls(tls) = self {
            tls.session.send_close_notify();
            // If it cannot be written now, the peer sees the end of TCP instead.
            tls.flush().ok();
        }
        // An error means that the peer has gone already.
        SockRef::from(self.tcp()).shutdown(std::net::Shutdown::Write).ok();
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.tcp,
        }
    }
}

impl TlsSocket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.session.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    self.unfinished = 0;
                    return Poll::Ready(read);
                }
            }
            let read = self.session.read_tls(&mut Records { tcp: &mut self.tcp, cx });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
                Ok(read) => self.unfinished += read,
            }
            let processed = self.session.process_new_packets().map_err(io::Error::other);
            // Answers of the protocol itself: an alert, or a new key.
            would_block_is_fine(self.flush())?;
            processed?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut Kernel(&self.tcp))?;
        }
        Ok(())
    }
}

fn would_block_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}

fn poll_tcp(tcp: &mut TcpStream, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(buf);
    ready!(Pin::new(tcp).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}

/// Encrypted records as they arrive, for rustls.
struct Records<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Read for Records<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match poll_tcp(self.tcp, self.cx, buf) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Encrypted records on their way out, for rustls.
struct Kernel<'a>(&'a TcpStream);

impl Write for Kernel<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
