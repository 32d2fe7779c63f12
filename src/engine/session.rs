//! A session: one client from its handshake to its end.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{
        AtomicBool,
        Ordering::{Acquire, Relaxed},
    },
};

use bytes::Bytes;
use http::request::Parts;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::runtime::Handle;
use tracing::info;

use super::{
    Client, Engine, Sid, frame,
    packet::{self, Format},
    polled::PolledPlace,
};
use crate::{
    conn::{backlog::Peer, connection::log_end, writer::Writer},
    metrics::{Close, Transport},
};

mod clock;
mod farewell;
mod inbound;
mod route;

use clock::Clock;
pub(super) use farewell::close_code;
use farewell::{close_frame, is_server_decision};
use inbound::Inbound;
pub(super) use inbound::PACKETS_PER_TURN;
pub use inbound::{ClientEvent, Outcome, Unacceptable};
use route::Route;
pub use route::{Probe, RouteError};

/// A client, over polls or over a WebSocket.
///
/// The session belongs to the registry of its [`Engine`] until it ends. Any thread may push frames to
/// it or end it. An end has two steps, since it may be decided while a room is locked: [`end`]
/// records the reason and stops the output at once; the task that owns the connection, or a new one,
/// then tells the application.
///
/// Lock order: `inbound`, then the application's, then `route`, then the writer's.
///
/// [`end`]: Self::end
pub struct Session {
    sid: Sid,
    format: Format,
    engine: Arc<Engine>,
    writer: Writer,
    route: Mutex<Route>,
    inbound: Mutex<Inbound>,
    /// Taken out at the end. The client may hold the session, so they would keep each other alive.
    client: Mutex<Option<Arc<dyn Client>>>,
    /// Why the session ends once its last frames are sent.
    closes: OnceLock<Close>,
    ended: OnceLock<Close>,
    /// The client has been in the namespace.
    has_entered: AtomicBool,
    clock: Clock,
}

impl Session {
    /// Opens a session and enters it into the registry: a polled one in its place, or else one whose
    /// first frame waits for its WebSocket.
    pub(super) fn open(
        engine: &Arc<Engine>,
        format: Format,
        place: Option<PolledPlace>,
        request: &Parts,
    ) -> Arc<Self> {
        let transport = if place.is_some() { Transport::Polling } else { Transport::WebSocket };
        engine.metrics.sessions(transport).inc();
        let session = Arc::new_cyclic(|me: &Weak<Self>| {
            let writer = Writer::new(me.clone(), engine.backlog.clone());
            let route = Mutex::new(Route::new(transport, place));
            let inbound = Mutex::new(Inbound::new(engine.settings.rate));
            let (client, closes, ended, has_entered, clock) = Default::default();
            let (sid, engine) = (Sid::new(), engine.clone());
            Self {
                sid,
                format,
                engine,
                writer,
                route,
                inbound,
                client,
                closes,
                ended,
                has_entered,
                clock,
            }
        });
        session.seen();
        session.clock.opened.store(engine.now(), Relaxed);
        session.set_connect_timeout();
        session.clock.next_ping.store(session.after(engine.settings.ping_interval), Relaxed);
        *session.client.lock() = Some(engine.application.open(&session, request));
        engine.enter(&session);
        session
    }

    /// The id, which only this client knows.
    pub fn sid(&self) -> Sid {
        self.sid
    }

    /// How frames for this client are written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The engine to which the session belongs.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Sends frames after all that were sent before, or lets them wait. Returns `false` if the
    /// client gets no more.
    ///
    /// # Errors
    /// Why the session has to be ended: its queue is full. The caller ends it.
    pub fn push(&self, frames: &Bytes) -> Result<bool, Close> {
        self.writer.push(frames)
    }

    /// Sends a piece of a replay, which comes beside what may wait.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn push_piece(&self, frames: Bytes) -> Result<bool, Close> {
        self.writer.push_if(frames, |_, _| true)
    }

    /// Whether nothing that is sent gets to the client any more.
    pub fn is_closed(&self) -> bool {
        self.writer.is_closed()
    }

    /// Whether nothing waits for the client.
    pub fn is_drained(&self) -> bool {
        self.writer.is_drained()
    }

    /// Waits until nothing waits for the client, or the session has ended.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn drained(&self) {
        self.until(|| self.writer.is_drained()).await;
    }

    /// Sends an answer or another packet that counts as all messages do. Ends the session if its
    /// queue is full.
    pub fn send(&self, frames: &Bytes) {
        if let Err(reason) = self.writer.push(frames) {
            self.end(reason);
        }
    }

    /// Sends an event with one argument, or with none.
    pub fn emit(&self, name: &str, argument: Option<&impl Serialize>) {
        self.send(&packet::event(name, argument));
    }

    /// Answers an event.
    pub fn acknowledge(&self, id: i64, answer: &impl Serialize) {
        self.send(&packet::acknowledgement(id, answer));
    }

    /// Whether what is sent now would wait: the client is behind, or no poll is there.
    pub fn lags(&self) -> bool {
        self.writer.lags()
    }

    /// Waits until nothing that is sent would wait.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn caught_up(&self) {
        self.until(|| !self.writer.lags()).await;
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        loop {
            let changed = self.writer.changed().notified();
            if condition() || self.ended().is_some() {
                return;
            }
            changed.await;
        }
    }

    /// After how long without progress a client is disconnected.
    pub fn slow_after(&self) -> std::time::Duration {
        self.engine.settings.slow_after
    }

    /// Why the session was ended, if it was.
    pub fn ended(&self) -> Option<Close> {
        self.ended.get().copied()
    }

    /// Ends the session now. What waits is not sent. The client takes it for a lost connection and
    /// comes back with a new session. May be called while a room is locked.
    pub fn end(&self, reason: Close) {
        self.end_with(reason, Some(&close_frame(reason)));
    }

    /// Ends the session after what waits and a last word: `last` for a WebSocket, the packet `close`
    /// for polls.
    pub(super) fn close(&self, reason: Close, last: Bytes) {
        if self.closes.set(reason).is_ok() {
            let last = match self.transport() {
                Transport::WebSocket => last,
                Transport::Polling => frame::text(&[b"1"]),
            };
            self.writer.close(last);
        }
    }

    /// Disconnects the client from the namespace, then ends the session in order.
    pub fn disconnect(&self, reason: Close) {
        self.send(&packet::disconnect());
        self.close(reason, close_frame(reason));
    }

    /// The server stops: ends the session in order.
    pub(super) fn close_for_stop(&self) {
        self.close(Close::Stop, close_frame(Close::Stop));
    }

    /// Whether the client is outside the namespace.
    pub(super) fn is_outside(&self) -> bool {
        self.clock.connect_by.load(Acquire) != 0
    }

    /// Whether the client has ever been in the namespace.
    pub(super) fn has_entered(&self) -> bool {
        self.has_entered.load(Acquire)
    }

    /// The last frames are sent, or the client is gone.
    pub(super) fn finish(&self, reason: Close) {
        self.end_with(self.closes.get().copied().unwrap_or(reason), None);
    }

    /// The connection is gone, without a goodbye.
    pub(super) fn lost(&self) {
        // A client that has left the namespace has said goodbye.
        self.finish(if self.is_outside() { Close::Client } else { Close::TransportError });
    }

    /// The connection was ended, and that was counted.
    pub(super) fn connection_ended(&self, reason: Close) {
        if self.ended.set(reason).is_ok() {
            self.stop(None);
        }
    }

    fn end_with(&self, reason: Close, last: Option<&Bytes>) {
        let reason = match reason {
            Close::Client if !self.has_entered() => Close::NotConnected,
            reason => reason,
        };
        if self.ended.set(reason).is_err() {
            return;
        }
        self.engine.metrics.closed(reason).inc();
        if is_server_decision(reason) {
            let sid = self.sid;
            log_end(reason, move |left_out, reason| {
                info!(left_out, %sid, reason, "ended a session");
            });
        }
        self.stop(last);
    }

    fn stop(&self, last: Option<&Bytes>) {
        let transport = self.transport();
        self.writer.abort(last.filter(|_| transport == Transport::WebSocket));
        // A WebSocket's task is awake now. Nobody else sees to a session that is polled.
        if transport == Transport::Polling
            && let Some(me) = self.engine.find(self.sid.as_str())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { me.dismantle() });
        }
    }

    /// Tells the application about the end, and removes the session. Not under a lock of the
    /// application's.
    pub(super) fn dismantle(&self) {
        self.engine.remove(self.sid);
        let client = self.client.lock().take();
        if let Some(client) = client {
            self.engine.metrics.sessions(self.transport()).dec();
            self.leave_polls();
            client.disconnected();
        }
    }

    fn client(&self) -> Option<Arc<dyn Client>> {
        self.client.lock().clone()
    }
}

impl Peer for Session {
    fn waiting(&self) -> usize {
        self.writer.waiting()
    }

    fn end(&self, reason: Close) {
        Self::end(self, reason);
    }
}

#[cfg(test)]
mod tests;
