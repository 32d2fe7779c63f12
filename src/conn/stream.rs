//! A connection as HTTP reads and writes it, with the time limit for a peer that stops reading.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    connection::{Connection, ConnectionGuard},
    socket::Socket,
    writer::PORTION,
};
use crate::metrics::Close;

/// How long the server reads on after its last byte. The peer may still be sending, and bytes that
/// arrive at a closed socket make the kernel reset it, which can destroy the answer on its way.
const LINGER: Duration = Duration::from_secs(2);
/// How many bytes it reads then: a request that was refused because of its size may be long.
const LINGER_BYTES: usize = 16 << 20;

/// The byte stream that hyper reads and writes.
pub struct Stream {
    /// `None` once the socket has been taken out.
    parts: Option<(Socket, ConnectionGuard)>,
    connection: Arc<Connection>,
    slow_after: Duration,
    /// Runs while the kernel takes nothing. It restarts each time a portion has been taken, and
    /// stops when nothing waits.
    stall: Option<Pin<Box<Sleep>>>,
    /// Bytes taken since the stall timer was started.
    taken: usize,
    /// Bytes that are held besides those that were read: HTTP's free buffer, and what TLS has of a
    /// record that is not complete.
    spare: usize,
    /// The peer has sent its last byte.
    is_at_end: bool,
}

impl Stream {
    /// A stream over the socket of a registered connection. It ends the connection when the kernel
    /// has taken nothing for `slow_after`.
    pub fn new(socket: Socket, guard: ConnectionGuard, slow_after: Duration) -> Self {
        let connection = guard.connection().clone();
        let parts = Some((socket, guard));
        let (stall, taken, spare, is_at_end) = Default::default();
        Self { parts, connection, slow_after, stall, taken, spare, is_at_end }
    }

    /// Takes the socket out, for a WebSocket.
    pub fn into_parts(mut self) -> Option<(Socket, ConnectionGuard)> {
        self.parts.take()
    }

    fn check(&self) -> io::Result<()> {
        match self.connection.ended() {
            Some(_) => Err(ended()),
            None => Ok(()),
        }
    }

    fn socket(&mut self) -> io::Result<&mut Socket> {
        self.parts.as_mut().map(|(socket, _)| socket).ok_or_else(ended)
    }

    /// Repeats `write` until it succeeds, the connection breaks or the peer is too slow.
    fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&mut Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        self.connection.register_owner(cx.waker());
        loop {
            self.check()?;
            let socket = self.socket()?;
            let error = match write(socket) {
                Ok(value) => return Poll::Ready(Ok(value)),
                Err(error) => error,
            };
            if error.kind() != io::ErrorKind::WouldBlock {
                self.connection.set_broken();
                return Poll::Ready(Err(error));
            }
            if socket.poll_write_ready(cx)?.is_pending() {
                return self.stalled(cx);
            }
        }
    }

    fn stalled<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.connection.set_lags(true);
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(self.slow_after)));
        ready!(stall.as_mut().poll(cx));
        self.connection.end(Close::Slow);
        Poll::Ready(Err(ended()))
    }

    fn wrote(&mut self, bytes: usize) {
        self.connection.taken(bytes);
        self.taken += bytes;
        if self.taken >= PORTION {
            self.taken = 0;
            if let Some(stall) = &mut self.stall {
                stall.as_mut().reset(Instant::now() + self.slow_after);
            }
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "ended by the server")
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.register_owner(cx.waker());
        self.check()?;
        let socket = self.socket()?;
        let read = socket.poll_read(cx, buf.initialize_unfilled());
        let bytes = if let Poll::Ready(Ok(bytes)) = read { bytes } else { 0 };
        let spare = socket.unfinished() + buf.remaining().saturating_sub(bytes);
        self.connection.read(bytes, spare, self.spare);
        self.spare = spare;
        let read = ready!(read)?;
        self.check()?;
        buf.advance(read);
        self.is_at_end |= read == 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.poll_with(cx, |socket| socket.try_write(bufs)))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_with(cx, Socket::try_flush))?;
        self.stall = None;
        self.taken = 0;
        self.connection.set_lags(false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.socket()?.shutdown();
        Poll::Ready(Ok(()))
    }
}

/// A socket whose peer may still be sending is not closed at once.
impl Drop for Stream {
    fn drop(&mut self) {
        let is_over = self.connection.ended().is_some() || self.connection.is_broken();
        if let Some((socket, guard)) = self.parts.take()
            && !is_over
            && !self.is_at_end
        {
            linger(socket, guard);
        }
    }
}

/// Ends the writing side of a socket, and closes it when the peer has ended its side too, has sent
/// too much, or after 2 s. The connection stays registered until then.
pub fn linger(mut socket: Socket, guard: ConnectionGuard) {
    let Ok(runtime) = Handle::try_current() else { return };
    socket.shutdown();
    runtime.spawn(async move {
        let mut left = LINGER_BYTES;
        let reads = std::future::poll_fn(|cx| {
            let mut scratch = [0; 4096];
            guard.connection().register_owner(cx.waker());
            while left > 0 && guard.connection().ended().is_none() {
                match ready!(socket.poll_read(cx, &mut scratch)) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => left = left.saturating_sub(read),
                }
            }
            Poll::Ready(())
        });
        timeout(LINGER, pin!(reads)).await.ok();
    });
}
