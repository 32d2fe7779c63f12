//! The task of a session's WebSocket, and of a WebSocket to which a session may upgrade.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::timeout;

use super::{
    frame::{self, Decoder, Item, Violation},
    payload::{self, Kind, Packet},
    session::{Outcome, PACKETS_PER_TURN, Session, close_code},
};
use crate::{
    conn::{
        caller::Caller,
        connection::{Connection, ConnectionGuard, Upgraded},
        socket::Socket,
        stream::linger,
    },
    metrics::Close,
};

/// Bytes read at once. Each thread has one buffer of this size for all connections.
const SCRATCH: usize = 16 << 10;
/// Packets of one read whose answers are written at once. Those of further ones are written together.
const WRITTEN_EACH: usize = 4;
/// Reads in one turn of a task.
const MAX_READS: usize = 8;
/// Time limit for an upgrade, from the WebSocket's handshake to the packet `upgrade`.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// A session whose 101 answer is under way. Dropped without a socket, it ends the session.
pub struct Opening(Option<Arc<Session>>);

impl Opening {
    pub fn new(session: Arc<Session>) -> Self {
        Self(Some(session))
    }

    /// The socket is there: the session's task begins.
    pub fn start(mut self, upgraded: Upgraded) {
        if let Some(session) = self.0.take() {
            let Upgraded { socket, rest, guard } = upgraded;
            session.writer().attach(socket);
            tokio::spawn(Task { session, guard: Some(guard), decoder: Decoder::new(), rest });
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.lost();
            session.dismantle();
        }
    }
}

/// The task of a WebSocket that carries a session: the only reader of its socket, and the writer of
/// what a push could not write at once. It ends with the session, also if it panics.
struct Task {
    session: Arc<Session>,
    guard: Option<ConnectionGuard>,
    decoder: Decoder,
    /// Bytes that have been read: behind the handshake, or more than belong to one turn.
    rest: Bytes,
}

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let task = self.get_mut();
        let Some(connection) = task.guard.as_ref().map(ConnectionGuard::connection).cloned() else {
            return Poll::Ready(());
        };
        let done = task.run(&connection, cx);
        let partial = task.decoder.pending() + task.session.writer().unfinished();
        connection.set_unfinished(partial + task.rest.len());
        done
    }
}

impl Task {
    /// Reads and writes until the socket is not ready, or it is the turn of others.
    fn run(&mut self, connection: &Arc<Connection>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { session, decoder, rest, .. } = self;
        session.writer().register(cx.waker());
        connection.register_owner(cx.waker());
        if !rest.is_empty() {
            // Copied, because frames are unmasked in place.
            let mut bytes = std::mem::take(rest).to_vec();
            *rest = receive(session, connection, decoder, &mut bytes);
        }
        for _ in 0..MAX_READS {
            if let Some(reason) = connection.ended() {
                session.connection_ended(reason);
            }
            if session.ended().is_some() {
                return Poll::Ready(());
            }
            match session.writer().poll_flush(cx) {
                Poll::Ready(Ok(())) if session.writer().is_closed() => {
                    session.finish(Close::Client);
                    return Poll::Ready(());
                }
                Poll::Ready(Err(_)) => {
                    session.lost();
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            if connection.may_finish() && !session.writer().is_closed() {
                session.close_for_stop();
                continue;
            }
            if !rest.is_empty() {
                break;
            }
            let read = BUFFER.with_borrow_mut(|buffer| {
                let read = ready!(session.writer().poll_read(cx, buffer));
                Poll::Ready(read.inspect(|&read| {
                    if let Some(bytes) = buffer.get_mut(..read) {
                        *rest = receive(session, connection, decoder, bytes);
                    }
                }))
            });
            match ready!(read) {
                Ok(0) | Err(_) => session.lost(),
                Ok(_) => {}
            }
        }
        // Others have their turn first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.session.lost();
        if let Some(guard) = self.guard.take()
            && let Some(socket) = self.session.writer().detach()
            && self.session.ended().is_some_and(reads_the_last_frame)
        {
            linger(socket, guard);
        }
        self.session.dismantle();
    }
}

/// Whether the client may still read the last frame. One that has stopped reading does not, and its
/// memory is needed.
fn reads_the_last_frame(reason: Close) -> bool {
    !matches!(
        reason,
        Close::Slow | Close::QueueFull | Close::Backlog | Close::TransportError | Close::Drain
    )
}

/// A WebSocket whose 101 answer is under way, beside the polls of its session. Dropped without a
/// socket, it leaves the session as it is.
pub struct Probing(Arc<Session>);

impl Probing {
    pub fn new(session: Arc<Session>) -> Self {
        Self(session)
    }

    /// The socket is there: it waits for the client's PING and for the packet `upgrade`.
    pub fn start(self, upgraded: Upgraded) {
        tokio::spawn(async move {
            let Upgraded { mut socket, rest, guard } = upgraded;
            let mut probe =
                Probe { session: &self.0, guard: &guard, decoder: Decoder::new(), rest };
            let upgrade = timeout(UPGRADE_TIMEOUT, probe.run(&mut socket)).await;
            let Probe { decoder, rest, .. } = probe;
            // A WebSocket that breaks or says anything else costs the session nothing.
            if matches!(upgrade, Ok(Ok(()))) && self.0.upgrade(socket).is_ok() {
                let session = self.0.clone();
                tokio::spawn(Task { session, guard: Some(guard), decoder, rest });
            }
        });
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.end_probe();
    }
}

/// The WebSocket of a session that is still polled.
struct Probe<'a> {
    session: &'a Session,
    guard: &'a ConnectionGuard,
    decoder: Decoder,
    /// Bytes that are not read yet; at the end, those that followed the packet `upgrade`.
    rest: Bytes,
}

impl Probe<'_> {
    /// Returns when the client upgrades.
    async fn run(&mut self, socket: &mut Socket) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.rest).to_vec();
        let (mut is_answered, connection) = (false, self.guard.connection());
        loop {
            let mut input = bytes.as_mut_slice();
            while let Some(item) =
                self.decoder.next(&mut input, self.session.max_packet()).map_err(violation)?
            {
                match answer(self.session, item, socket)? {
                    Kind::Ping => is_answered = true,
                    Kind::Upgrade if is_answered => {
                        self.rest = Bytes::copy_from_slice(input);
                        return Ok(());
                    }
                    Kind::Noop => {}
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
            self.read(socket, &mut bytes).await?;
            connection.set_unfinished(self.decoder.pending() + socket.unfinished());
        }
    }

    async fn read(&self, socket: &mut Socket, bytes: &mut Vec<u8>) -> io::Result<()> {
        let connection = self.guard.connection();
        bytes.resize(SCRATCH, 0);
        let read = poll_fn(|cx| {
            connection.register_owner(cx.waker());
            if connection.ended().is_some() || connection.is_asked() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            socket.poll_read(cx, bytes)
        });
        match read.await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes.truncate(read);
                Ok(())
            }
        }
    }
}

/// Answers what needs an answer, and says which packet it was; a control frame is none.
fn answer(session: &Session, item: Item<'_>, socket: &mut Socket) -> io::Result<Kind> {
    let answer = match item {
        Item::Message { is_text, payload } => {
            let packet = packet(session, is_text, payload);
            let packet = packet.map_err(|_| io::ErrorKind::InvalidData)?;
            let (Kind::Ping, payload::Data::Text(text)) = (packet.kind, &packet.data) else {
                return Ok(packet.kind);
            };
            write(socket, &frame::text(&[b"3", text.as_bytes()]))?;
            session.answer_probe();
            return Ok(Kind::Ping);
        }
        Item::Ping(payload) => frame::pong(payload),
        Item::Pong => return Ok(Kind::Noop),
        Item::Close { .. } => return Ok(Kind::Close),
    };
    write(socket, &answer)?;
    Ok(Kind::Noop)
}

/// Writes a short frame at once.
fn write(socket: &mut Socket, frame: &Bytes) -> io::Result<()> {
    let written = socket.try_write(&[IoSlice::new(frame)])?;
    if written == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn violation(violation: Violation) -> io::Error {
    io::Error::other(violation.reason)
}

/// Hands bytes of the client to its session: at most as many packets as belong to one turn. Returns
/// the bytes that are left for the next one.
fn receive(
    session: &Session,
    connection: &Arc<Connection>,
    decoder: &mut Decoder,
    mut bytes: &mut [u8],
) -> Bytes {
    session.seen();
    if session.writer().is_closed() {
        return Bytes::new();
    }
    let (max, caller) = (session.max_packet(), Caller::alone(connection));
    let mut held = None;
    for number in 0..PACKETS_PER_TURN {
        if number == WRITTEN_EACH {
            held = Some(session.writer().hold());
        }
        let outcome = match decoder.next(&mut bytes, max) {
            Ok(None) => break,
            Ok(Some(Item::Close { code })) => {
                // Nothing counts that comes after it.
                session.close(Close::Client, frame::close(code.unwrap_or(frame::NORMAL), ""));
                return Bytes::new();
            }
            Ok(Some(item)) => handle(session, &caller, item),
            Err(Violation { code, reason }) => {
                session.close(Close::BadPacket, frame::close(code, reason));
                return Bytes::new();
            }
        };
        if let Outcome::End(reason, text) = outcome {
            drop(held);
            session.close(reason, frame::close(close_code(reason), text));
            return Bytes::new();
        }
    }
    drop(held);
    session.set_unfinished(decoder.pending() > 0);
    connection.set_authenticated(!session.is_outside());
    Bytes::copy_from_slice(bytes)
}

fn handle(session: &Session, caller: &Caller, item: Item<'_>) -> Outcome {
    match item {
        Item::Message { is_text, payload } => match packet(session, is_text, payload) {
            Ok(packet) => session.receive(std::iter::once(packet), caller),
            Err(reason) => Outcome::End(Close::BadPacket, reason),
        },
        Item::Ping(payload) => {
            session.send(&frame::pong(payload));
            session.count_frame()
        }
        Item::Pong | Item::Close { .. } => session.count_frame(),
    }
}

fn packet(session: &Session, is_text: bool, payload: &[u8]) -> Result<Packet, &'static str> {
    payload::packet(payload, is_text, session.format().protocol)
}
