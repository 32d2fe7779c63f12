//! A session: one client from its handshake to its end.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
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
    packet::{self, Format, Protocol},
};
use crate::{
    conn::{
        backlog::Peer,
        connection::log_end,
        socket::Socket,
        writer::{Writer, within_limit},
    },
    metrics::{Close, Transport},
};

mod inbound;

use inbound::Inbound;
pub use inbound::{Event, Outcome};

/// How long a frame or a message may be incomplete, in ms: as long as the body of a POST.
const UNFINISHED: u64 = 30_000;

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

/// Times in ms since the engine was made; 0 = not set.
#[derive(Default)]
struct Clock {
    /// The client's last byte.
    seen: AtomicU64,
    /// When the next PING is due.
    next_ping: AtomicU64,
    /// The PING that the client has not answered.
    pinged: AtomicU64,
    /// The client has to be in the namespace at this time.
    connect_by: AtomicU64,
    /// Since when a frame or a message is incomplete.
    unfinished: AtomicU64,
}

/// How the session's frames get to the client.
struct Route {
    transport: Transport,
    has_poll: bool,
    probe: Probe,
}

/// A WebSocket beside the polls of its session.
#[derive(Clone, Copy, PartialEq)]
pub enum Probe {
    /// There is none.
    None,
    /// It is open.
    Open,
    /// Its PING was answered. The client is about to upgrade, and waits for the end of its poll.
    Answered,
}

/// Why a poll, a POST or a WebSocket is refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refused {
    /// The session has ended.
    Ended,
    /// The session is carried by a WebSocket, or another WebSocket is about to do so.
    Upgraded,
    /// Another poll waits already; the session ends.
    Overlap,
}

impl Session {
    /// Opens a session and enters it into the registry. Over a WebSocket, its first frame waits for
    /// the socket.
    pub(super) fn open(
        engine: &Arc<Engine>,
        format: Format,
        transport: Transport,
        request: &Parts,
    ) -> Arc<Self> {
        engine.count(transport, 1);
        let session = Arc::new_cyclic(|me: &Weak<Self>| {
            let writer = Writer::new(me.clone(), engine.backlog.clone());
            let route = Mutex::new(Route { transport, has_poll: false, probe: Probe::None });
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

    /// Sends a replay: as much as may be in one comes beside what may wait.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn push_replay(&self, frames: Bytes) -> Result<bool, Close> {
        self.writer.push_if(frames, |waiting, _| within_limit(waiting, 0))
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
        loop {
            let changed = self.writer.changed().notified();
            if !self.writer.lags() || self.ended().is_some() {
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
        let last = frame::close(close_code(reason), close_text(reason));
        self.end_with(reason, Some(&last));
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
        self.close(reason, frame::close(close_code(reason), close_text(reason)));
    }

    /// The server stops: ends the session in order.
    pub(super) fn close_for_stop(&self) {
        self.close(Close::Stop, frame::close(close_code(Close::Stop), close_text(Close::Stop)));
    }

    /// The last frames are sent, or the client is gone.
    pub(super) fn finish(&self, reason: Close) {
        self.end_with(self.closes.get().copied().unwrap_or(reason), None);
    }

    /// The connection is gone, without a goodbye.
    pub(super) fn lost(&self) {
        let is_outside = self.clock.connect_by.load(Acquire) != 0;
        // A client that has left the namespace has said goodbye.
        self.finish(if is_outside { Close::Client } else { Close::TransportError });
    }

    /// The connection was ended, and that was counted.
    pub(super) fn connection_ended(&self, reason: Close) {
        if self.ended.set(reason).is_ok() {
            self.stop(None);
        }
    }

    fn end_with(&self, reason: Close, last: Option<&Bytes>) {
        let reason = match reason {
            Close::Client if !self.has_entered.load(Acquire) => Close::NotConnected,
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
            self.engine.count(self.transport(), -1);
            client.disconnected();
        }
    }

    fn client(&self) -> Option<Arc<dyn Client>> {
        self.client.lock().clone()
    }

    pub(super) fn transport(&self) -> Transport {
        self.route.lock().transport
    }

    /// A poll begins. It ends when the guard is dropped.
    ///
    /// # Errors
    /// If the session cannot be polled.
    pub(super) fn begin_poll(self: &Arc<Self>) -> Result<Poll, Refused> {
        let mut route = self.route.lock();
        if self.ended().is_some() {
            return Err(Refused::Ended);
        }
        if route.transport == Transport::WebSocket {
            return Err(Refused::Upgraded);
        }
        if route.has_poll {
            return Err(Refused::Overlap);
        }
        route.has_poll = true;
        drop(route);
        self.writer.set_polled(true);
        Ok(Poll(self.clone()))
    }

    pub(super) fn probe(&self) -> Probe {
        self.route.lock().probe
    }

    /// A WebSocket opens beside the polls.
    ///
    /// # Errors
    /// If the session has ended, or a WebSocket is there already.
    pub(super) fn begin_probe(&self) -> Result<(), Refused> {
        let mut route = self.route.lock();
        if self.ended().is_some() {
            return Err(Refused::Ended);
        }
        if route.transport == Transport::WebSocket || route.probe != Probe::None {
            return Err(Refused::Upgraded);
        }
        route.probe = Probe::Open;
        Ok(())
    }

    /// The PING of the probe was answered: a poll that waits ends, so that the client can upgrade.
    pub(super) fn answer_probe(&self) {
        self.route.lock().probe = Probe::Answered;
        self.writer.changed().notify_waiters();
    }

    /// The WebSocket beside the polls is gone. The session goes on by polling.
    pub(super) fn end_probe(&self) {
        self.route.lock().probe = Probe::None;
    }

    /// The client upgrades: what waits, and all that comes later, goes over the WebSocket.
    ///
    /// # Errors
    /// If the session has ended; the socket is closed.
    pub(super) fn upgrade(&self, socket: Socket) -> Result<(), Refused> {
        let mut route = self.route.lock();
        if self.ended().is_some() {
            return Err(Refused::Ended);
        }
        self.engine.count(Transport::Polling, -1);
        self.engine.count(Transport::WebSocket, 1);
        *route = Route { transport: Transport::WebSocket, has_poll: false, probe: Probe::None };
        drop(route);
        self.writer.attach(socket);
        Ok(())
    }

    /// Bytes have come from the client.
    pub(super) fn seen(&self) {
        self.clock.seen.store(self.engine.now(), Release);
    }

    /// The most bytes of one packet from this client.
    pub(super) fn max_packet(&self) -> usize {
        self.engine.settings.max_packet
    }

    /// Whether a frame or a message of the client is incomplete. It may be for 30 s.
    pub(super) fn set_unfinished(&self, is_unfinished: bool) {
        let is_unfinished = is_unfinished || self.inbound.lock().has_partial();
        let since = self.clock.unfinished.load(Acquire);
        match (is_unfinished, since) {
            (true, 0) => self.clock.unfinished.store(self.engine.now(), Release),
            (false, 1..) => self.clock.unfinished.store(0, Release),
            _ => {}
        }
    }

    fn after(&self, time: std::time::Duration) -> u64 {
        self.engine.now().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    fn set_connect_timeout(&self) {
        self.clock.connect_by.store(self.after(self.engine.settings.connect_timeout), Release);
    }

    /// What is due at `now`: time limits and the heartbeat.
    pub(super) fn tick(&self, now: u64) {
        let settings = &self.engine.settings;
        if self.ended().is_some() {
            return;
        }
        if self.writer.is_stalled(tokio::time::Instant::now(), settings.slow_after) {
            return self.end(Close::Slow);
        }
        let connect_by = self.clock.connect_by.load(Acquire);
        if connect_by != 0 && now > connect_by {
            return self.end(Close::NotConnected);
        }
        let unfinished = self.clock.unfinished.load(Acquire);
        if unfinished != 0 && now.saturating_sub(unfinished) > UNFINISHED {
            return self.end(Close::BadPacket);
        }
        match self.format.protocol {
            Protocol::V3 => self.check_pings(now),
            Protocol::V4 => self.ping(now),
        }
    }

    /// In version 3 the client sends the heartbeat's PING.
    fn check_pings(&self, now: u64) {
        let settings = &self.engine.settings;
        let patience = (settings.ping_interval + settings.ping_timeout).as_millis();
        if u128::from(now.saturating_sub(self.clock.seen.load(Acquire))) > patience {
            self.end(Close::PingTimeout);
        }
    }

    /// In version 4 the server does. Any byte of the client counts as an answer.
    fn ping(&self, now: u64) {
        let settings = &self.engine.settings;
        let pinged = self.clock.pinged.load(Acquire);
        let is_answered = self.clock.seen.load(Acquire) >= pinged;
        let silent = u128::from(now.saturating_sub(pinged));
        if pinged != 0 && !is_answered && silent > settings.ping_timeout.as_millis() {
            return self.end(Close::PingTimeout);
        }
        if (pinged == 0 || is_answered) && now >= self.clock.next_ping.load(Relaxed) {
            self.clock.pinged.store(now, Release);
            self.clock.next_ping.store(self.after(settings.ping_interval), Relaxed);
            if let Err(reason) = self.writer.push_heartbeat(&frame::text(&[b"2"])) {
                self.end(reason);
            }
        }
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

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The id is as good as a password.
        f.debug_struct("Session").field("format", &self.format).finish_non_exhaustive()
    }
}

/// A poll under way.
pub(super) struct Poll(Arc<Session>);

impl Drop for Poll {
    fn drop(&mut self) {
        let mut route = self.0.route.lock();
        if route.transport == Transport::Polling {
            route.has_poll = false;
            drop(route);
            self.0.writer.set_polled(false);
        }
    }
}

/// The WebSocket close code for an end that the server decides.
fn close_code(reason: Close) -> u16 {
    match reason {
        Close::Stop | Close::Drain => frame::GOING_AWAY,
        Close::TooFast | Close::NotConnected => frame::POLICY,
        Close::Slow | Close::QueueFull | Close::Backlog => frame::TRY_AGAIN_LATER,
        Close::BadPacket => frame::PROTOCOL_ERROR,
        Close::Expired | Close::Client | Close::PingTimeout | Close::TransportError => {
            frame::NORMAL
        }
    }
}

/// The reason in the close frame, for the client's developer.
fn close_text(reason: Close) -> &'static str {
    match reason {
        Close::Stop | Close::Drain => "the server is stopping",
        Close::TooFast => "too many packets a second",
        Close::NotConnected => "no CONNECT in time",
        Close::Slow => "the client read too slowly",
        Close::QueueFull => "too much was waiting for the client",
        Close::Backlog => "too much was waiting for all clients",
        Close::BadPacket => "an invalid packet",
        Close::Expired => "the token has expired",
        Close::PingTimeout => "no answer to the heartbeat",
        Close::Client | Close::TransportError => "",
    }
}

fn is_server_decision(reason: Close) -> bool {
    !matches!(reason, Close::Client | Close::TransportError | Close::Stop | Close::NotConnected)
}

#[cfg(test)]
mod tests;
