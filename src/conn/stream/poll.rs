//! A connection as hyper and the engine poll it.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy, sink},
    runtime::Handle,
    time::timeout,
};

use super::{Control, Entry, Io, Line, Wire};

/// For a peer to take our last bytes and to end its side.
const LINGER: Duration = Duration::from_secs(2);

/// A byte stream. Its bytes are with its [`Control`], so that others can write too.
pub struct Stream {
    control: Arc<Control>,
    /// `None` only while it is dropped: then it may have to linger.
    entry: Option<Entry>,
}

impl Stream {
    /// The bytes of a registered connection.
    pub fn new(io: impl Io + 'static, entry: Entry, slow_after: Duration) -> Self {
        let control = entry.control().clone();
        let waker = Waker::from(control.tasks.clone());
        *control.line() =
            Some(Line { wire: Wire::new(io), fences: 0, waker, slow_after, behind: None });
        Self { control, entry: Some(entry) }
    }

    /// What others may ask of this stream.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }
}

/// A stream that was asked to finish lingers: the peer may still be sending, and bytes that arrive
/// at a closed socket make the kernel reset it, which takes back what was sent last.
impl Drop for Stream {
    fn drop(&mut self) {
        let finished = self.control.finishing.is_cancelled() && !self.control.is_over();
        let line = self.control.line().take();
        if let (Some(line), Some(entry), Ok(runtime)) =
            (line, self.entry.take(), Handle::try_current())
            && finished
        {
            let mut io = line.wire.into_io();
            runtime.spawn(async move {
                let last_bytes = async {
                    io.shutdown().await?;
                    copy(&mut io, &mut sink()).await
                };
                let _ = timeout(LINGER, last_bytes).await;
                drop(entry);
            });
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "ended by the server")
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let control = &self.control;
        control.tasks.reader.register(cx.waker());
        let mut line = control.line();
        // Who pushes does so under this lock too: what it could not write is seen here, or else a
        // wake comes after this.
        if let Some(line) = line.as_mut().filter(|line| line.wire.is_framed()) {
            control.write_waiting(line);
        }
        let Some(Line { wire, waker, .. }) = line.as_mut().filter(|_| !control.is_over()) else {
            return Poll::Ready(Err(ended()));
        };
        // What the peer has sent is read first: it may be an answer to what we sent.
        match wire.poll_read(&mut Context::from_waker(waker), buf) {
            Poll::Pending if control.reads_the_end() => Poll::Ready(Err(ended())),
            poll => poll,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.control.tasks.writer.register(cx.waker());
        self.control.write(buf.len(), |wire, cx| {
            let poll = wire.poll_write(cx, buf);
            // The first frame is out, or on its way: it has nothing to do with the upgrade any more.
            self.control.framed.store(wire.is_framed(), Ordering::Release);
            poll
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let control = &self.control;
        control.tasks.writer.register(cx.waker());
        let all = bufs.iter().map(|buf| buf.len()).sum();
        control.write(all, |wire, cx| wire.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.control.line().as_ref().is_some_and(|line| line.wire.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.tasks.writer.register(cx.waker());
        ready!(self.control.write((), Wire::poll_flush))?;
        // What has come meanwhile is nobody's to wait for here.
        if let Some(line) = &mut *self.control.line() {
            self.control.write_waiting(line);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.tasks.writer.register(cx.waker());
        self.control.write((), Wire::poll_shutdown)
    }
}
